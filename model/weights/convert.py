"""Published weights: files of transformers, and of Huawei's PyTorch and TensorFlow releases.

No code of a file is executed. Every tensor that is missing, unknown or of the wrong shape is listed
in one WeightsError.
"""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .. import AUTO_CLASSES
from ..configuration_nezha import NezhaConfig
from ..heads_nezha import NezhaForPreTraining
from ..modeling_nezha import NezhaPreTrainedModel
from .remote_code import write_remote_code
from .tensorflow_reader import read_checkpoint

HEADS = {head.__name__: head for head in AUTO_CLASSES.values()}

RENAMES = (
    # TensorFlow's variable names
    (r"/", r"."),
    (r"\blayer_(\d+)\b", r"layer.\1"),
    (r"_embeddings$", r"_embeddings.weight"),
    (r"\.kernel$", r".weight"),
    (r"^cls\.predictions\.output_bias$", r"cls.predictions.bias"),
    (r"^cls\.seq_relationship\.output_(weight|bias)s?$", r"cls.seq_relationship.\1"),
    # Heads that TensorFlow's scripts fine-tune
    (r"^cls\.squad\.output_(weight|bias)s?$", r"qa_outputs.\1"),
    (r"^output_(weight|bias)s?$", r"classifier.\1"),
    # Networks that DataParallel, torch.compile or the module of a training program has wrapped
    (r"^((module|_orig_mod|model)\.)+", r""),
    # Huawei's PyTorch release, and TensorFlow's
    (r"^bert\.", r"nezha."),
    # An encoder that was saved alone
    (r"^(embeddings|encoder|pooler)\.", r"nezha.\1."),
    (r"\.gamma$", r".weight"),
    (r"\.beta$", r".bias"),
)
"""Pattern and replacement, applied in this order to every name of a file."""

IGNORED = (
    r"positions_encoding$",  # the table that is computed here
    r"embeddings\.(position|token_type)_ids$",  # numbers that old files of transformers hold
    r"(^|/)global_step$",
    r"/(adam|lamb)_[mv]$",  # optimizer state
    r"/\w*(Adam|LAMB)\w*$",
    r"(^|/)beta[12]_power$",
)
"""Patterns of the names in a file that are not weights."""

TRANSPOSED = r"/kernel$"
"""TensorFlow stores these as [in, out]."""

CHECKPOINT_FILE = r"\.(index|meta|data-\d+-of-\d+)$"
"""The end of the name of a file of a TensorFlow checkpoint."""

LFS_POINTER = b"version https://git-lfs"
"""The beginning of a file that `git clone` leaves where Git LFS is not installed."""

ABSOLUTE = "nezha.embeddings.position_embeddings.weight"
"""The absolute positions of a BERT, which has no relative ones."""

TIED = NezhaForPreTraining._tied_weights_keys
"""Names that a file may leave out, and the weights that they equal then."""


class WeightsError(ValueError):
    """A weight file that cannot be read, or does not fit its configuration."""


def convert(
    source: Path,
    target: Path,
    config_file: Path | None = None,
    head: str = "",
    say: Callable[[str], object] = lambda line: None,
) -> str:
    """Write the weights of `source` as a folder for transformers, with the code of the network.

    source: a folder, a .safetensors, .bin, .pt or .pth file, or a TensorFlow checkpoint prefix.
    config_file: by default config.json or bert_config.json beside the weights.
    head: a class name; weights that this class does not have are left out, which `say` is told. By
        default the architecture that the configuration names, or the class that the names in the
        file show; then every weight must fit.
    Returns the class name. Raises WeightsError.
    """
    chosen = bool(head)
    weights = renamed(read_weights(source))
    config = read_config(config_file or config_beside(source))
    named = (config.architectures or [""])[0]
    if ABSOLUTE in weights and not config.absolute_positions:
        raise WeightsError(
            f"{source} has vectors of absolute positions: it is a BERT (MacBERT and RoBERTa-wwm "
            "are too), and its weights would answer at random in a NEZHA. jobs.finetune and "
            "jobs.compare take its folder as it is; train.init_adapt starts a pretraining from it"
        )
    prefix = f"{NezhaPreTrainedModel.base_model_prefix}."
    if not any(name.startswith(prefix) for name in weights):
        parts = ", ".join(sorted({name.partition(".")[0] for name in weights}))
        raise WeightsError(f"{source} has no encoder of a NEZHA; its weights are those of: {parts}")
    head = head or (named if named in HEADS else head_of(weights))
    if head not in HEADS:
        raise WeightsError(f"{head} is not one of {', '.join(HEADS)}")
    options = {}
    if head == "NezhaModel":
        weights = {name.removeprefix(prefix): weights[name] for name in weights}
        # Saved without its pooler, which an encoder of tokens does not need.
        options = {"add_pooling_layer": any(name.startswith("pooler.") for name in weights)}
    model = HEADS[head](config, **options)
    if chosen:
        known = model.state_dict()
        others = sorted(name for name in weights if name not in known)
        weights = {name: value for name, value in weights.items() if name in known}
        if others:
            say(f"{head} does not have these weights, which are left out: {', '.join(others)}")
    load_exactly(model, weights)
    model.save_pretrained(target)
    write_remote_code(target, model.config)
    return head


def load_exactly(model: NezhaPreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Copy `weights` (our names) into the model; every name and shape must fit.

    Two weights of a file that the network ties must be equal: one would replace the other.
    """
    expected = model.state_dict()
    weights = completed(weights)
    tied = {name: weights[of] for name, of in TIED.items() if of in weights and name in expected}
    wrong = [
        f"type of {name}: {value.dtype} is not a floating-point type"
        for name, value in weights.items()
        if not value.is_floating_point()
    ]
    wrong += [
        f"values of {name} are not finite (NaN or infinite)"
        for name, value in weights.items()
        if not value.isfinite().all()
    ]
    weights = tied | weights
    if model.config.tie_word_embeddings:
        wrong += [
            f"{name} differs from {of}, but the network ties them: set tie_word_embeddings to "
            "false in the config.json to keep both"
            for name, of in TIED.items()
            if name in expected and of in weights and not torch.equal(weights[name], weights[of])
        ]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        wrong.append(str(error))
    if wrong:
        advice = "a class that is named (--head) leaves out the weights that it does not have"
        raise WeightsError("\n".join(["the weights do not fit the configuration:", *wrong, advice]))


def completed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with those that a file holds under the name of their tied copy alone."""
    return {of: weights[name] for name, of in TIED.items() if name in weights} | weights


def head_of(weights: dict[str, Tensor]) -> str:
    """The class of the weights, derived from the heads among their names (ours)."""
    if "cls.predictions.bias" not in weights:
        return "NezhaModel"
    pair = "cls.seq_relationship.weight" in weights
    return "NezhaForPreTraining" if pair else "NezhaForMaskedLM"


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of any known release → ours, without the entries that are not weights."""
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        if any(re.search(pattern, name) for pattern in IGNORED):
            continue
        new = name
        for pattern, replacement in RENAMES:
            new = re.sub(pattern, replacement, new)
        if new in result:
            raise WeightsError(f"two tensors of the file are both called {new} here")
        result[new] = value.T.contiguous() if re.search(TRANSPOSED, name) else value
    return result


def read_config(path: Path) -> NezhaConfig:
    """A config.json of transformers or of Huawei; only fields of NezhaConfig are kept."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        # num_labels is no field: labels without names are known by their number alone.
        known = {field.name for field in fields(NezhaConfig)} | {"num_labels"}
        return NezhaConfig(**{key: value for key, value in settings.items() if key in known})
    except Exception as error:
        # `strict` raises classes of its own; the message gives file and reason of any error.
        raise WeightsError(f"{path}: not a configuration of Nezha: {error}") from error


def read_weights(source: Path) -> dict[str, Tensor]:
    """The tensors of a file, folder or TensorFlow prefix under their own names, on the CPU."""
    if source.is_dir():
        source = _weights_in(source)
    try:
        if _starts_with(source, LFS_POINTER):
            raise WeightsError(
                f"{source} is a pointer of Git LFS and not the weights: `git lfs pull` in its "
                "folder fetches them"
            )
        if source.name.endswith(".index.json"):
            shards = set(json.loads(source.read_text(encoding="utf-8"))["weight_map"].values())
            parts = [read_weights(source.with_name(Path(shard).name)) for shard in sorted(shards)]
            return {name: value for part in parts for name, value in part.items()}
        if source.suffix == ".safetensors":
            return load_file(source)
        if source.suffix in (".bin", ".pt", ".pth"):
            found = torch.load(source, map_location="cpu", weights_only=True)
            return _named_tensors(found)
        return read_checkpoint(source.with_name(re.sub(CHECKPOINT_FILE, "", source.name)))
    except WeightsError:
        raise
    except FileNotFoundError as error:
        missing = error.filename or source
        if not source.exists() and str(missing) == f"{source}.index":
            missing = f"{source}: no such file or folder, and {missing}"
        raise WeightsError(f"{missing}: no such file") from error
    except Exception as error:
        # torch.load alone fails in a dozen ways. One of them is a pickle with code in it, which
        # weights_only refuses before anything runs.
        raise WeightsError(f"{source}: not a weight file, or damaged: {error}") from error


def _named_tensors(found: object) -> dict[str, Tensor]:
    """The names and tensors of a file, which may keep them beside what a training needs.

    `{"model": …, "optimizer": …, "epoch": 3}` and the like are checkpoints of training programs.
    Raises ValueError unless there is one mapping of names to tensors.
    """

    def fits(value: object) -> bool:
        return (
            isinstance(value, dict)
            and bool(value)
            and all(isinstance(name, str) for name in value)
            and all(isinstance(tensor, Tensor) for tensor in value.values())
        )

    inner = list(found.values()) if isinstance(found, dict) else []
    mappings = [value for value in (found, *inner) if fits(value)]
    if len(mappings) != 1:
        raise ValueError(
            "it holds no mapping of names to tensors, or several: save the network's state_dict() "
            "in a file of its own"
        )
    return dict(mappings[0])


def _starts_with(path: Path, beginning: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(beginning)) == beginning


def _weights_in(folder: Path) -> Path:
    single = ["model.safetensors", "pytorch_model.bin"]
    names = [*single, *(f"{name}.index.json" for name in single)]
    checkpoints = [path.name for path in folder.glob("*.index")]
    return _first_of(
        folder,
        [*names, *(checkpoints if len(checkpoints) == 1 else [])],
        "no weight file, or several TensorFlow checkpoints: name one of them",
    )


def _first_of(folder: Path, names: list[str], otherwise: str) -> Path:
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise WeightsError(f"{folder}: {otherwise}")


def config_beside(source: Path) -> Path:
    """The configuration in the folder of the weights. Raises WeightsError if there is none."""
    return _first_of(
        source if source.is_dir() else source.parent,
        ["config.json", "bert_config.json"],
        "no config.json and no bert_config.json: name the file with --model-config",
    )
