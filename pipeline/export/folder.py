"""A checkpoint becomes a Hugging Face folder that needs only torch and transformers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model import NezhaForPreTraining
from model.weights.remote_code import write_remote_code
from pipeline.corpus.samples.vocabulary import read_vocabulary, vocabulary_sha256
from pipeline.corpus.shards.format import MANIFEST, Manifest, read_manifest
from pipeline.errors import ExportError, ShardError, VocabularyError
from pipeline.export.lineage import LINEAGE
from pipeline.export.model_card import model_card
from pipeline.export.scale import rescale_embeddings
from pipeline.export.tokenizer import export_tokenizer, recorded_cleaning
from pipeline.feed.weights import split_weights
from pipeline.files.storage import read_whole
from pipeline.files.whole_folder import whole_folder
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.corpus import STEPS
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.checkpoints.state import load_weights
from pipeline.training.faults import workers
from pipeline.training.start.network import network_config

FORM = 2
"""To be raised when the same checkpoint gives another export: then it is made again."""


def export_checkpoint(source: Path, vocab: str | Path, output: Path) -> Path:
    """Write `config.json`, weights, tokenizer, modelling code, lineage and model card.

    The network answers as that of the checkpoint does; its embeddings have another scale
    (`rescale_embeddings`). The folder appears whole or not at all.

    Args:
        source: a complete checkpoint.
        vocab: the `vocab.txt` that its shards were made with.
        output: the folder to make; an earlier export there is replaced.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another network.
        VocabularyError: the checkpoint was trained with another vocabulary.
        ExportError: the manifest of a corpus that the checkpoint was trained on is missing.
    """
    with checkpoints.in_use(source):
        state = checkpoints.read_state(source)
        config = checkpoints.read_config(source)
        if vocabulary_sha256(vocab) != state["vocab_sha256"]:
            raise VocabularyError(
                f"{vocab} is not the vocabulary that {source} was trained with; set corpus.vocab "
                "to the one that was used"
            )
        shape = network_config(config.model, len(read_vocabulary(vocab)))
        network = NezhaForPreTraining(shape)
        load_weights(network, source)
    rescale_embeddings(network)
    manifests = _manifests(source, state, config)
    lowercase, cleaning = recorded_cleaning([each.settings for each in manifests])

    with whole_folder(output) as temporary:
        network.save_pretrained(temporary)
        write_remote_code(temporary, shape)
        export_tokenizer(vocab, lowercase, cleaning).save_pretrained(temporary)
        (temporary / "vocab.txt").write_bytes(read_whole(str(vocab)))
        lineage = _lineage(state, config, source)
        steps = [step for step in STEPS if getattr(cleaning, step)]
        lineage |= {"cleaning": steps, "lowercase": lowercase, **_objective(manifests, config)}
        (temporary / LINEAGE).write_text(json.dumps(lineage, indent=2, ensure_ascii=False), "utf-8")
        card = model_card(lineage, network.num_parameters())
        (temporary / "README.md").write_text(card, "utf-8")
    return output


def _manifests(source: Path, state: dict[str, Any], config: Config) -> list[Manifest]:
    """The manifests of the corpora of a checkpoint, which say how their text was cleaned.

    Raises:
        ExportError: one is missing, or belongs to another corpus.
    """
    folders, _ = split_weights(RunPaths.of(config).training)
    places = [moved(folder, source, config) for folder in folders]
    try:
        manifests = [read_manifest(place) for place in places]
    except (ShardError, OSError) as error:
        raise ExportError(
            f"{error}; the export's tokenizer must fold text as the corpus of {source.name} was "
            f"cleaned, and its {MANIFEST} says how: put this file back (the shards are not needed)"
        ) from None
    if [each.content_sha256 for each in manifests] != state["fingerprint_fields"]["corpora"]:
        raise ExportError(
            f"{', '.join(places)}: this is not the corpus that {source} was trained on; put its "
            f"{MANIFEST} back, which says how text was cleaned (the shards are not needed)"
        )
    return manifests


def moved(folder: str | Path, source: Path, config: Config) -> str:
    """Where a folder, or a file, of the run of a checkpoint is now.

    The run may have been moved since: what belongs to it lies beside its checkpoints.
    """
    own, now = RunPaths.of(config).run, source.absolute().parents[1]
    return str(now / Path(folder).relative_to(own) if Path(folder).is_relative_to(own) else folder)


def _lineage(state: dict[str, Any], config: Config, source: Path) -> dict[str, Any]:
    kept = ("step", "samples_seen", "fingerprint", "vocab_sha256", "heldout", "heldout_set")
    lineage = {key: state.get(key) for key in (*kept, "mlflow_run", "precision")}
    return lineage | {
        "workers": len(workers.read_workers(source.absolute().parents[1])) or None,
        "run": config.run.name,
        "checkpoint": source.name,
        "settings": config.model_dump(mode="json"),
    }


def _objective(manifests: Sequence[Manifest], config: Config) -> dict[str, Any]:
    """What the network was trained to predict. Masks are the corpora's unless training draws them.

    Returns:
        `whole_words`: whether words are masked whole; `pairs`: of `nsp` and `sop`, what was learnt.
    """
    own, made = config.corpus, [each.settings for each in manifests]
    drawn = own.masking.mode == "dynamic"
    masks = [own.masking.model_dump()] if drawn else [each.get("masking", {}) for each in made]
    tasks = {each.get("pairs", {}).get("task", own.pairs.task) for each in made}
    return {
        "whole_words": all(each.get("whole_words", True) for each in masks),
        "pairs": sorted(tasks - {"none"}) if config.train.nsp_weight else [],
    }
