"""Several mistakes are one error."""

import pytest

from pipeline.errors import ConfigError, ShardError, raise_all


def test_all_mistakes_are_one_error():
    raise_all(ConfigError, [])
    with pytest.raises(ConfigError, match=r"^a\nb$"):
        raise_all(ConfigError, ["a", "b"])
    with pytest.raises(ShardError, match=r"^3 problem\(s\):\n  a\n  … and 2 more\nmend them$"):
        raise_all(ShardError, ["a", "b", "c"], "problem(s)", "mend them", most=1)
