"""Convert weights: `python -m jobs.convert --input FILE_OR_FOLDER --output FOLDER`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from model.weights.convert import (
    WeightsError,
    config_beside,
    convert,
    read_config,
    read_weights,
    renamed,
)
from pipeline.errors import VocabularyError
from pipeline.export.tokenizer import tokenizer_beside


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 for files that do not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.convert",
        description="Turn NEZHA weights (transformers' .bin or .safetensors, Huawei's PyTorch or "
        "TensorFlow release) into a transformers folder with tokenizer, vocab.txt and code.",
    )
    parser.add_argument("--input", type=Path, required=True, help="folder, file or .ckpt prefix")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--model-config", type=Path, help="config.json, if not beside the input")
    parser.add_argument("--vocab", type=Path, help="vocab.txt, if not beside the input")
    parser.add_argument("--head", default="", help="class name, e.g. NezhaForMaskedLM")
    parser.add_argument("--dry-run", action="store_true", help="list the tensors, write nothing")
    chosen = parser.parse_args(arguments)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    try:
        if chosen.dry_run:
            for name, value in sorted(renamed(read_weights(chosen.input)).items()):
                console.print(f"{name} {tuple(value.shape)} {value.dtype}")
            return 0
        tokens = tokenizer_beside(chosen.input, chosen.vocab)
        if tokens:
            config_file = chosen.model_config or config_beside(chosen.input)
            size = read_config(config_file).vocab_size
            if len(tokens[0]) > size:
                raise WeightsError(
                    f"the vocabulary has {len(tokens[0])} entries, but vocab_size in {config_file} "
                    f"is {size}; name the right vocab.txt with --vocab"
                )
        head = convert(chosen.input, chosen.output, chosen.model_config, chosen.head)
        console.print(f"{head} is in {chosen.output}")
        if tokens:
            tokens[0].save_pretrained(chosen.output)
            (chosen.output / "vocab.txt").write_text(tokens[1], "utf-8")
        else:
            console.print(
                f"There is no vocab.txt beside {chosen.input}, so {chosen.output} has no tokenizer "
                "and cannot be used yet: run this again with --vocab FILE"
            )
    except (WeightsError, VocabularyError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
