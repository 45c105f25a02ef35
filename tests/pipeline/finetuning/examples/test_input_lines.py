import json

import pytest

from pipeline.errors import TaskError
from pipeline.finetuning.examples.input_lines import one_a_line, read_input
from pipeline.finetuning.tasks import TASKS


@pytest.mark.parametrize(
    "value", [{"text": "好"}, [{"text": "好"}], [{"text": "好"}, {"text": "差"}]]
)
@pytest.mark.parametrize("indent", [0, 2, "\t"])
def test_lines_of_indented_json_are_no_texts(tmp_path, value, indent):
    """Each of them was answered, as `[` and `{`."""
    path = tmp_path / "a.txt"
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent), "utf-8")
    with pytest.raises(TaskError, match=r"line 1: .* opens JSON .* called \.json"):
        list(read_input(str(path), TASKS["classification"], {}))


def test_lines_of_json_and_texts_in_brackets_are_examples():
    for first in ('{"text": "好"}', "[图]好", "{好", "", "[]"):
        lines = [("x, line 1", first), ("x, line 2", "{")]
        assert list(one_a_line(iter(lines))) == lines
    assert list(one_a_line(iter(()))) == []
