"""Public builders of whole-word-mask samples of Chinese, for `tests.benchmarks.prepare`.

Neither writes its samples here, so both seem faster than they are.
"""

import functools
import importlib
import random
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jieba

from pipeline.corpus.samples.sentences import sentence_ends

LENGTH = 128


def collator(texts: list[str], vocab: Path) -> float:
    """Samples a CPU second of jieba, BertTokenizer and transformers' collator, without pairs."""
    import transformers

    words = {line: row for row, line in enumerate(vocab.read_text("utf-8").splitlines())}
    tokenizer = transformers.BertTokenizer(vocab=words)
    collate = transformers.DataCollatorForLanguageModeling(
        tokenizer, whole_word_mask=True, mlm_probability=0.15, return_tensors="np"
    )
    jieba.initialize()
    begun, made = time.process_time(), 0
    for text in texts:
        # The collator takes what is between spaces as a word.
        spaced = "\n".join(" ".join(jieba.lcut(line)) for line in text.split("\n"))
        rows = tokenizer(
            spaced,
            truncation=True,
            padding="max_length",
            max_length=LENGTH,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_token_type_ids=False,
        )
        rows.pop("overflow_to_sample_mapping", None)
        collate([dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)])
        made += len(rows["input_ids"])
    return made / (time.process_time() - begun)


def checkout(texts: list[str], vocab: Path, folder: Path, peer: Path) -> float:
    """Samples a CPU second of `create_pretraining_data.py` in a clone of roberta_zh or BERT.

    It uses TensorFlow only to read files and flags, so a stand-in replaces it.
    """
    source = folder / "peer.txt"
    with source.open("w", encoding="utf-8") as file:
        for text in texts:
            for line in text.split("\n"):
                ends = sentence_ends(line + "\n", LENGTH)
                file.writelines(line[begin:end] + "\n" for begin, end in pairwise([0, *ends]))
            file.write("\n")
    tensorflow = ModuleType("tensorflow")
    flags = SimpleNamespace(FLAGS=SimpleNamespace(do_whole_word_mask=True))

    def define(name: str, default: object, _: str) -> None:
        flags.FLAGS.__dict__.setdefault(name, default)

    flags.DEFINE_string = flags.DEFINE_bool = flags.DEFINE_integer = flags.DEFINE_float = define
    tensorflow.flags = flags
    tensorflow.gfile = SimpleNamespace(GFile=functools.partial(open, encoding="utf-8"))
    tensorflow.logging = SimpleNamespace(info=lambda *_: None)
    sys.modules["tensorflow"] = tensorflow
    sys.path.insert(0, str(peer))
    try:
        builder = importlib.import_module("create_pretraining_data")
        tokenizer = importlib.import_module("tokenization").FullTokenizer(str(vocab))
        jieba.initialize()
        begun = time.process_time()
        made = builder.create_training_instances(
            [str(source)], tokenizer, LENGTH, 1, 0.1, 0.15, 20, random.Random(0)
        )
        return len(made) / (time.process_time() - begun)
    finally:
        sys.path.remove(str(peer))
        del sys.modules["tensorflow"]
