"""A checkpoint becomes a Hugging Face folder that needs only torch and transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import transformers

from model import NezhaForPreTraining
from model.weights.remote_code import write_remote_code
from pipeline.corpus.samples.vocabulary import read_vocabulary, vocabulary_sha256
from pipeline.corpus.shards.format import MANIFEST, Manifest, read_manifest
from pipeline.errors import ExportError, ShardError, VocabularyError
from pipeline.export.lineage import LINEAGE
from pipeline.export.scale import rescale_embeddings
from pipeline.export.tokenizer import NOT_FOLDED, export_tokenizer, recorded_cleaning
from pipeline.feed.batches import split_weights
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.corpus import CleaningSettings, CorpusSettings
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.checkpoints.state import load_weights
from pipeline.training.faults import workers
from pipeline.training.network import network_config
from pipeline.whole_folder import whole_folder

FORM = 2
"""To be raised when the same checkpoint gives another export: then it is made again."""


def export_checkpoint(source: Path, vocab: Path, output: Path) -> Path:
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
        checkpoints.verify(source)
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
        shutil.copyfile(vocab, temporary / "vocab.txt")
        lineage = _lineage(state, config, source)
        steps = [name for name, value in cleaning.model_dump().items() if value is True]
        lineage |= {"cleaning": steps, "lowercase": lowercase}
        (temporary / LINEAGE).write_text(json.dumps(lineage, indent=2, ensure_ascii=False), "utf-8")
        card = _model_card(lineage, network.num_parameters())
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


def _heldout_set(source: Path, config: Config) -> str | None:
    """What names the held-out samples of the scores: equal names, comparable losses."""
    try:
        manifest = read_manifest(moved(RunPaths.of(config).heldout, source, config))
    except (ShardError, OSError):
        return None
    return f"{manifest.content_sha256} {config.train.eval_samples}"


def _lineage(state: dict[str, Any], config: Config, source: Path) -> dict[str, Any]:
    kept = ("step", "samples_seen", "fingerprint", "vocab_sha256", "heldout", "mlflow_run")
    lineage = {key: state.get(key) for key in (*kept, "precision")}
    return lineage | {
        "heldout_set": _heldout_set(source, config),
        "workers": len(workers.workers(source.absolute().parents[1])) or None,
        "run": config.run.name,
        "checkpoint": source.name,
        "settings": config.model_dump(mode="json"),
    }


def _model_card(lineage: dict[str, Any], parameters: int) -> str:
    settings, scores = lineage["settings"], lineage["heldout"] or {}
    version = transformers.__version__
    steps = f"{lineage['step']} steps of {settings['train']['global_batch']} samples of "
    steps += f"{settings['corpus']['sequence_length']} tokens"
    for phase in settings["train"]["phases"]:
        if phase["after"] < lineage["step"]:
            steps += f"; after step {phase['after']}, {phase['global_batch']} samples of "
            steps += f"{phase['sequence_length']} tokens"
    rows = "\n".join(f"| held-out {name} | {value:.4g} |" for name, value in scores.items())
    return f"""---
language: zh
library_name: transformers
pipeline_tag: fill-mask
tags: [nezha, whole-word-masking]
---
# {lineage["run"]}: a NEZHA of {parameters / 1e6:.1f} M parameters

Chinese BERT with functional relative positions (arXiv 1909.00204), pretrained with whole-word
masks and {settings["corpus"]["pairs"]["task"].upper()} for
{steps}.

```python
from transformers import pipeline
fill = pipeline("fill-mask", model="PATH_OF_THIS_FOLDER", trust_remote_code=True)
print(fill("北京是中国的首[MASK]。")[0]["sequence"])
```

Heads load in the same way: `AutoModelForTokenClassification.from_pretrained(…,
trust_remote_code=True)`, and so on. The code needs transformers 5 (written by {version}).

{_text_section(lineage)}

| measured | value |
|---|---|
{rows}

Corpus fingerprint `{lineage["fingerprint"]}`, MLflow run `{lineage["mlflow_run"]}`. `{LINEAGE}`
holds all settings. The model has seen only its corpus: test it for your use before you rely on it.
"""


def _text_section(lineage: dict[str, Any]) -> str:
    """What the tokenizer does to text, and which steps of the cleaning it leaves to the user."""
    described = {
        name: f"- `{name}`: {CleaningSettings.model_fields[name].description}"
        for name in lineage["cleaning"]
    }
    folded = [line for name, line in described.items() if name not in NOT_FOLDED]
    if lineage["lowercase"]:
        folded.append(f"- `lowercase`: {CorpusSettings.model_fields['lowercase'].description}")
    left = [line for name, line in described.items() if name in NOT_FOLDED]
    lines = ["The corpus was cleaned in these steps, and the tokenizer does the same:", *folded]
    if "simplify" in described:
        lines.append("  (OpenCC's phrases too; where two of them overlap, it may choose the other)")
    if left:
        lines += ["", "A tokenizer cannot do these steps, so your text may need them:", *left]
        lines.append(
            "  (jobs.finetune and jobs.predict do them for tasks without character places)"
        )
    lines += [
        "",
        "Load it with `AutoTokenizer`: `BertTokenizer` folds case but no other characters, and",
        "gives other ids where a text has them.",
    ]
    return "\n".join(lines) if described else "The corpus was not cleaned."
