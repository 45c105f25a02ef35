"""The tokenizer of a converted folder: its vocabulary, added tokens and settings."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from transformers import AutoTokenizer, BertTokenizer, pipeline

from jobs.convert import main
from pipeline.corpus.samples.vocabulary import build_tokenizer
from tests.model.weights.test_convert import folder_with_config, saved, small


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"do_lower_case": "false"}'),
    ],
)
def test_files_of_a_tokenizer_that_cannot_be_used_are_named(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path / "in", small().state_dict())
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY), "utf-8")
    (folder / name).write_text(text, "utf-8")
    assert main(["--input", str(folder), "--output", str(tmp_path / "out")]) == 2
    assert str(folder / name) in capsys.readouterr().err


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"北京abc", "##b"]


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("place", ["beside", "named", "tokenizer.json"])
def test_the_folder_works_whole(place: str, lower: bool, tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", small().state_dict())
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    vocab = (tmp_path if place == "named" else folder) / "vocab.txt"
    vocab.write_text("".join(f"{token}\n" for token in VOCABULARY), "utf-8")
    if place == "tokenizer.json":
        build_tokenizer(vocab, lower).save(str(folder / "tokenizer.json"))
        vocab.unlink()
    named = ["--vocab", str(vocab)] if place == "named" else []
    out = tmp_path / "out"
    assert main(["--input", str(folder), "--output", str(out), *named]) == 0
    assert (out / "vocab.txt").read_text("utf-8").split("\n") == [*VOCABULARY, ""]
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("AB北", "京")["input_ids"])
    word = ["a", "##b"] if lower else ["[UNK]"]
    assert tokens == ["[CLS]", *word, "北", "[SEP]", "京", "[SEP]"]
    fill = pipeline("fill-mask", str(out), tokenizer=str(out), trust_remote_code=True)
    assert fill("北[MASK]")[0]["token_str"] in VOCABULARY


@pytest.mark.parametrize("form", ["transformers 4", "transformers 4.34 and newer"])
def test_tokens_that_were_added_beside_a_vocabulary_stay(form: str, tmp_path: Path) -> None:
    """As the tokenizers of transformers 4 that are not fast write them."""
    folder, words = folder_with_config(tmp_path / "in"), VOCABULARY[:-2]
    torch.save(small().state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in words), "utf-8")
    added = {"<e>": len(words), "京a": len(words) + 1}
    flags: dict[str, Any] = dict.fromkeys(["lstrip", "rstrip", "single_word", "normalized"], False)
    decoder = {
        str(number): {"content": token, "special": token == "<e>", **flags}
        for token, number in added.items()
    }
    if form == "transformers 4":
        (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    else:
        text = json.dumps({"added_tokens_decoder": decoder})
        (folder / "tokenizer_config.json").write_text(text, "utf-8")
    assert main(["--input", str(folder), "--output", str(tmp_path / "out")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("北<e>京a京", add_special_tokens=False)["input_ids"]
    assert ids == [5, added["<e>"], added["京a"], 6]
    assert (tmp_path / "out" / "vocab.txt").read_text("utf-8").split() == [*words, *added]


@pytest.mark.parametrize("place", ["beside", "named", "tokenizer.json"])
def test_the_settings_of_a_tokenizer_stay(place: str, tmp_path: Path) -> None:
    folder = folder_with_config(tmp_path / "in")
    torch.save(small().state_dict(), folder / "pytorch_model.bin")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"北京ab", "é", "##京"]
    vocab = (tmp_path if place == "named" else folder) / "vocab.txt"
    vocab.write_text("".join(f"{token}\n" for token in words), "utf-8")
    settings = {"strip_accents": False, "tokenize_chinese_chars": False}
    if place == "tokenizer.json":
        BertTokenizer(str(vocab), **settings).save_pretrained(folder)
    sides = {"model_max_length": 32, "padding_side": "left", "truncation_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | sides))
    named = ["--vocab", str(vocab)] if place == "named" else []
    assert main(["--input", str(folder), "--output", str(tmp_path / "out"), *named]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("É 北京") == ["é", "北", "##京"]
    assert {name: getattr(tokenizer, name) for name in sides} == sides


def test_a_vocabulary_of_another_network_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path / "in", small().state_dict())
    vocab = folder / "vocab.txt"
    vocab.write_text("".join(f"{token}\n" for token in [*VOCABULARY, "d"]), "utf-8")
    assert main(["--input", str(folder), "--output", str(tmp_path / "out")]) == 2
    assert "has 12 entries, but vocab_size" in capsys.readouterr().err
    vocab.write_text("a\nb\n")
    assert main(["--input", str(folder), "--output", str(tmp_path / "out")]) == 2
    assert "a BERT vocabulary has all of" in capsys.readouterr().err
    for tokens, told in ((["a", "b"], "no [PAD]"), ([*VOCABULARY, "z"], "its ids have gaps")):
        ids = {token: 2 * number for number, token in enumerate(tokens)}
        Tokenizer(WordPiece(ids, unk_token=tokens[0])).save(str(folder / "tokenizer.json"))
        assert main(["--input", str(folder), "--output", str(tmp_path / "out")]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
