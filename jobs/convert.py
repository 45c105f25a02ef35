"""Convert weights: `python -m jobs.convert --input FILE_OR_FOLDER --output FOLDER`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from model.weights.convert import WeightsError, convert, read_weights, renamed


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 for files that do not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.convert",
        description="Turn NEZHA weights (transformers' .bin or .safetensors, Huawei's PyTorch or "
        "TensorFlow release) into a transformers folder that carries its own code.",
    )
    parser.add_argument("--input", type=Path, required=True, help="folder, file or .ckpt prefix")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--model-config", type=Path, help="config.json, if not beside the input")
    parser.add_argument("--head", default="", help="class name, e.g. NezhaForMaskedLM")
    parser.add_argument("--dry-run", action="store_true", help="list the tensors, write nothing")
    chosen = parser.parse_args(arguments)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    try:
        if chosen.dry_run:
            for name, value in sorted(renamed(read_weights(chosen.input)).items()):
                console.print(f"{name} {tuple(value.shape)} {value.dtype}")
        else:
            head = convert(chosen.input, chosen.output, chosen.model_config, chosen.head)
            console.print(f"{head} is in {chosen.output}")
    except WeightsError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
