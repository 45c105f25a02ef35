"""Convert weights: `python -m jobs.convert --input FILE_OR_FOLDER --output FOLDER`."""

import argparse
import sys
from pathlib import Path

from jobs.output.console import plain_console, print_error
from model.weights.convert import (
    WeightsError,
    config_beside,
    convert,
    read_config,
    read_weights,
    renamed,
)
from model.weights.remote_code import flat_code
from pipeline.errors import VocabularyError
from pipeline.export.tokenizer import tokenizer_beside
from pipeline.files.whole_folder import whole_folder

WRITTEN = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
}
"""Files of a folder that this verb makes, beside its code."""


def check_output(source: Path, output: Path) -> None:
    """Raise WeightsError unless the output is new, empty, or a folder that this verb made."""
    if output.exists() and not output.is_dir():
        raise WeightsError(f"{output}: not a folder; name a new one with --output")
    if output.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise WeightsError(f"{output}: --output is the folder of the input; name another one")
    names = {path.name for path in output.iterdir()} if output.exists() else set()
    if others := sorted(names - WRITTEN - set(flat_code())):
        raise WeightsError(
            f"{output} holds other files ({', '.join(others[:5])}), and would be a mixture; name a "
            "new folder with --output"
        )


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
    console = plain_console()
    try:
        if chosen.dry_run:
            for name, value in sorted(renamed(read_weights(chosen.input)).items()):
                console.print(f"{name} {tuple(value.shape)} {value.dtype}")
            return 0
        check_output(chosen.input, chosen.output)
        if chosen.vocab and not chosen.vocab.is_file():
            raise WeightsError(f"--vocab {chosen.vocab}: no such file")
        tokens = tokenizer_beside(chosen.input, chosen.vocab)
        if tokens:
            config_file = chosen.model_config or config_beside(chosen.input)
            size = read_config(config_file).vocab_size
            if len(tokens[0]) > size:
                raise WeightsError(
                    f"the vocabulary has {len(tokens[0])} entries, but vocab_size in {config_file} "
                    f"is {size}; name the right vocab.txt with --vocab"
                )
        named = chosen.model_config, chosen.head
        with whole_folder(chosen.output.absolute()) as folder:
            head = convert(chosen.input, folder, *named, say=console.print)
            if tokens:
                tokens[0].save_pretrained(folder)
                (folder / "vocab.txt").write_text(tokens[1], "utf-8")
        console.print(f"{head} is in {chosen.output}")
        if not tokens:
            console.print(
                f"There is no vocab.txt beside {chosen.input}, so {chosen.output} has no tokenizer "
                "and cannot be used yet: run this again with --vocab FILE"
            )
    except (WeightsError, VocabularyError, OSError) as error:
        print_error(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
