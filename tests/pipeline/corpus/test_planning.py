"""The fingerprint of a preparation covers everything that shapes its shards."""

from importlib import metadata

import pytest

from pipeline.corpus import planning
from pipeline.corpus.run.inputs import list_inputs
from pipeline.errors import ConfigError
from pipeline.settings.corpus import CorpusSettings


@pytest.mark.parametrize(
    ("library", "settings"),
    [
        ("opencc", {"cleaning": {"simplify": True}}),
        ("ftfy", {"cleaning": {"mojibake": True}}),
        ("py3langid", {"cleaning": {"languages": ["zh"]}}),
    ],
)
def test_the_fingerprint_covers_the_libraries_that_shape_the_text(
    source, vocab, monkeypatch, library, settings
):
    def fingerprint(**changes):
        corpus = CorpusSettings(inputs=(str(source),), **changes)
        return planning.plan(corpus, vocab, 42, list_inputs(corpus)).fingerprint

    before, unused = fingerprint(**settings), fingerprint()
    (package,) = metadata.packages_distributions()[library]
    version = metadata.version
    newer = lambda name: "99.9" if name == package else version(name)  # noqa: E731
    monkeypatch.setattr(metadata, "version", newer)
    assert fingerprint(**settings) != before
    assert fingerprint() == unused
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr("unicodedata.unidata_version", "99.0")
    assert fingerprint() != unused
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    with pytest.raises(ConfigError, match=rf"needs the package {package}.*pip install.* {package}"):
        fingerprint(**settings)
