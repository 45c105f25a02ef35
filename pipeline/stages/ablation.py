"""Runs that differ in one thing each, and a table of what the differences do.

    STORAGE/NAME/
        sample/, vocab.txt          of all runs
        corpora/VARIANT/            shards and held-out samples; variants with the same corpus share
        VARIANT-SEED/               a run like any other
        ablation.json, ablation.md  the table, also before all runs have ended

All runs are scored on the held-out samples of the first variant, whose masks are always
`preparing.HELDOUT_MASKS`: so losses of runs with different training masks can be compared.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import sample
from pipeline.corpus.run.inputs import list_inputs
from pipeline.errors import CheckpointError, ConfigError, TrainingError, raise_all
from pipeline.feed.opening import training_folders
from pipeline.files.storage import write_json, write_whole
from pipeline.paths import RunPaths
from pipeline.progress import Progress
from pipeline.settings.config import Config, flatten
from pipeline.settings.reading.config_file import with_changes
from pipeline.settings.run import TrackingSettings
from pipeline.stages import preparing, scoring, sequence
from pipeline.stages.ablation_table import Row, as_table, summarize
from pipeline.stages.before import given, preflight
from pipeline.tables import markdown_table
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import is_reachable, tracking_uri
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.faults import lock
from pipeline.training.start import resume

TEXTS = ("inputs", "heldout", "output", "vocab", "vocab_size")
"""Settings of `corpus` that belong to all variants: they are read once, and scored alike."""
SHOWN = ("mlm_loss", "mlm_accuracy", "word_accuracy", "nsp_accuracy")
"""Held-out scores in the table; those of heads follow."""


class Cell(NamedTuple):
    """One run of an ablation."""

    variant: str
    seed: int
    config: Config


def cells(config: Config, parent: str = "") -> list[Cell]:
    """The runs, seed by seed, so that an unfinished ablation compares all variants too.

    Args:
        parent: the MLflow run that they are nested in.

    Raises:
        ConfigError: there are no variants or no held-out text, or a variant has wrong settings.
    """
    if not config.ablate.variants:
        raise ConfigError("ablate.variants: name what to compare, as in jobs/configs/ablations")
    folder, own = RunPaths.of(config).run, preparing.with_sample(config)
    variants = _variants(own)
    _refuse_other_texts(own, variants)
    if not (own.corpus.heldout or own.train.eval_shards):
        raise ConfigError(
            "an ablation compares held-out losses: set corpus.heldout, or train.eval_shards to a "
            "folder of prepared shards"
        )
    made = _made_corpora(own, variants) if own.corpus.inputs else {}
    common = {
        "demo": {},
        "run.storage": str(folder),
        "tracking.uri": tracking_uri(config),
        "tracking.parent": parent,
        "tracking.registered_model": "",
        "tracking.alias": TrackingSettings().alias,
        "ablate.variants": {},
    }
    return [
        Cell(
            name,
            seed,
            with_changes(
                variant,
                common | made.get(name, {}) | {"run.name": f"{name}-{seed}", "run.seed": seed},
                f" in ablate.variants.{name}",
            ),
        )
        for seed in config.ablate.seeds
        for name, variant in variants.items()
    ]


def _made_corpora(config: Config, variants: Mapping[str, Config]) -> dict[str, dict[str, Any]]:
    """For each variant the settings that name the corpora which are made for it."""
    paths, first = RunPaths.of(config), _corpora(variants)
    places = {of: RunPaths.of(_making(variants[of], of, paths.run)) for of in first.values()}
    reference = next(iter(variants))
    made = {}
    for name, of in first.items():
        phases = zip(variants[name].train.phases, places[of].later, strict=True)
        made[name] = {
            "corpus.inputs": (),
            "corpus.heldout": (),
            "corpus.vocab": paths.vocab,
            "train.shards": places[of].training,
            "train.phases": [
                phase.model_dump() | {"shards": phase.shards or shards} for phase, shards in phases
            ],
            "train.eval_shards": str(places[reference].heldout),
        }
    return made


def check(config: Config) -> None:
    """Refuse a variant that cannot be trained, before a corpus is prepared for any.

    Raises:
        ConfigError: a run was begun with other settings.
        NezhaError: as `cells`, `preflight.check` and `given.check`.
    """
    _refuse_mixed_settings(cells(config))
    for variant in _variants(config).values():
        preflight.check(variant)
        given.check(variant)


def run(config: Config, progress: Progress) -> list[Row]:
    """Prepare what the runs share, train those that are not finished, and write the table.

    A run that diverges, or whose workers fail too often, is counted as failed; the others go on.

    Raises:
        ConfigError: settings that cannot work, or a finished run was made with other ones.
        NezhaError: what a stage raised.
    """
    check(config)
    with lock.hold(RunPaths.of(config).run, progress.say):
        _prepare(config, progress)
        parent = _start(config)
        with tracking.end_on_error(config, parent):
            return _train_and_compare(config, parent, progress)


def _train_and_compare(config: Config, parent: str | None, progress: Progress) -> list[Row]:
    """Train the runs that are not finished, nested in an MLflow run, and write the table."""
    planned = cells(config, parent or "")
    for cell in planned:
        preflight.check(cell.config)
    rows = {name: Row(name, [], [], []) for name in config.ablate.variants}
    for number, cell in enumerate(planned, 1):
        progress.say(f"run {number} of {len(planned)}: {cell.config.run.name}")
        row = rows[cell.variant]
        try:
            # Of a finished run it checks that the settings, the data and the scores are its own.
            summary = sequence.run_all(cell.config, progress)
        except TrainingError as error:
            progress.say(str(error))
            row.failed.append(f"seed {cell.seed}: {error}")
        else:
            row.runs.append({"seed": cell.seed, **_scores(cell.config, summary, progress)})
            row.exports.append(str(RunPaths.of(cell.config).export))
        files = _write(config, list(rows.values()), len(planned) - number)
    if parent:
        tracking.finish_run(config, parent, artifacts=files)
    return list(rows.values())


def _refuse_mixed_settings(planned: Iterable[Cell]) -> None:
    """Raise ConfigError for runs that would go on with other settings than they were begun with.

    `jobs.pretrain` lets them; here their row would stand for settings that no run has had from its
    first step on. Only how a batch is split may change, as where memory ran out.
    """
    lines = []
    for cell in planned:
        newest = checkpoints.newest(RunPaths.of(cell.config).checkpoints)
        with suppress(CheckpointError):  # a damaged one, which training sets aside
            changed = resume.differing(cell.config, newest) if newest else {}
            lines += [
                f"  {cell.config.run.name}: {line}"
                for key, line in changed.items()
                if key.startswith(resume.SHAPING) and key != "train.micro_batch"
            ]
    if lines:
        raise ConfigError(
            "runs of this ablation were trained with other settings:\n"
            + "\n".join(lines)
            + "\nset them back, give the variant (or the ablation, by run.name) another name, or "
            "delete the folders of these runs"
        )


def _refuse_other_texts(own: Config, variants: Mapping[str, Config]) -> None:
    """Raise ConfigError for a variant with other texts: it would be trained on those of all."""
    keys = [f"corpus.{name}" for name in TEXTS] + ["train.eval_shards"]
    keys += ["train.shards"] if own.corpus.inputs else []
    given = dict(flatten(own))
    mistakes = [
        f"ablate.variants.{name}: all variants have the same {key}; set it outside ablate"
        for name, variant in variants.items()
        for key, value in flatten(variant)
        if key in keys and value != given[key]
    ]
    raise_all(ConfigError, mistakes)


def _corpora(variants: Mapping[str, Config]) -> dict[str, str]:
    """For each variant the first one whose shards are the same, those of later phases too."""
    first: dict[tuple[str, ...], str] = {}
    found = {}
    for name, config in variants.items():
        phases = [str(phase.shards or phase.sequence_length) for phase in config.train.phases]
        found[name] = first.setdefault((config.corpus.of_shards().model_dump_json(), *phases), name)
    return found


def _making(variant: Config, name: str, folder: Path) -> Config:
    """The settings with which the corpora of a variant are made, in the ablation's folder."""
    place = {"run.storage": str(folder / "corpora"), "run.name": name, "corpus.output": ""}
    return with_changes(variant, place, "")


def _prepare(config: Config, progress: Progress) -> None:
    """The sample, the vocabulary and all corpora; each is kept if it is there and valid."""
    paths = RunPaths.of(config)
    if config.demo.enabled:
        progress.stage("sample")
        sample.make(paths.sample, config.demo.heldout_share)
    own = preparing.with_sample(config)
    if not own.corpus.inputs:
        return
    inputs = list_inputs(own.corpus, *preflight.written_by(own))
    progress.stage("vocabulary")
    vocab = preparing.make_vocabulary(own, inputs.sources, progress)
    variants = _variants(own)
    for name in dict.fromkeys(_corpora(variants).values()):
        progress.stage(f"prepare {name}")
        corpus = _making(variants[name], name, paths.run)
        corpus = with_changes(corpus, {"corpus.vocab": vocab}, "")
        preparing.check_preparation(corpus)
        preparing.make_shards(corpus, inputs, progress, training_folders(corpus))


def _variants(config: Config) -> dict[str, Config]:
    return {
        name: with_changes(config, changes, f" in ablate.variants.{name}")
        for name, changes in config.ablate.variants.items()
    }


def _start(config: Config) -> str | None:
    """The MLflow run that holds the others; None where MLflow does not answer."""
    if not is_reachable(config):
        return None
    folder = RunPaths.of(config).run
    noted = tracking.noted_run(folder)
    run_id = tracking.start_run(config, config.run.name, {"stage": "ablation"}, noted)
    tracking.note_run(folder, run_id)
    return run_id


def _scores(config: Config, summary: Mapping[str, Any], progress: Progress) -> dict[str, float]:
    """Held-out scores of the last checkpoint of a finished run, and test scores of its heads."""
    last = checkpoints.newest(RunPaths.of(config).checkpoints)
    found = scoring.held_out_scores(config, last, progress)  # type: ignore[arg-type]
    heads = {
        name: scores["pretrained"]
        for name, scores in summary.items()
        if isinstance(scores, dict) and scores.get("pretrained") is not None
    }
    return {name: found[name] for name in SHOWN if name in found} | heads


def _write(config: Config, rows: list[Row], waiting: int) -> list[Path]:
    """Write the table, which tells what it lacks, as `.json` and `.md`; returns their paths."""
    folder, name = RunPaths.of(config).run, config.run.name
    lacking = [f"{row.variant}, {failure}" for row in rows for failure in row.failed]
    if waiting:
        lacking.append(f"Runs still to end: {waiting}. The same command goes on with them.")
    parts = [f"# {name}", markdown_table(as_table(summarize(rows))), *lacking]
    records, text = folder / "ablation.json", folder / "ablation.md"
    write_json(records, [row._asdict() for row in rows])
    write_whole(text, ("\n\n".join(parts) + "\n").encode())
    return [records, text]
