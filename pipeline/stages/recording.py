"""A fine-tuned head in MLflow: its run with scores and pictures, and its registered version."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.files.storage import read_note, write_json
from pipeline.finetuning.checks import SETS
from pipeline.finetuning.examples.jsonl import to_json
from pipeline.finetuning.judging import judge as judging
from pipeline.finetuning.judging.metrics import calibration_bins
from pipeline.finetuning.prediction.head_folder import RESULTS, read_results
from pipeline.finetuning.result import FinetuneResult
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials.trial import read_predictions
from pipeline.progress import Say
from pipeline.settings.config import Config
from pipeline.stages.registering import head_is_registered, place_of, register_head
from pipeline.tracking import runs as tracking
from pipeline.tracking.finetuning import record_finetuning
from pipeline.tracking.judged_pictures import draw_calibration, draw_confusion
from pipeline.tracking.store import is_reachable

RECORDED = "recorded.json"
"""File in the folder of a head: in which store, and under which name and alias, it was recorded."""


def start_run(config: Config, name: str, export: str) -> str:
    """Begin the MLflow run of the fine-tuning that `config.finetune` describes; returns its id.

    Args:
        name: the head's.
        export: what it starts from.

    Raises:
        TrackingError: the store cannot be reached.
    """
    tags = {"stage": "finetune", "task": config.finetune.task, "export": export}
    return tracking.start_run(config, f"{config.run.name}-{name}", tags)


def record_head(config: Config, result: FinetuneResult, run_id: str, say: Say) -> None:
    """Send a finished fine-tuning to its run, end the run, and register the head.

    If the store refuses to register the head, the reason is shown and nothing fails: the head is
    saved in its folder.
    """
    folder = Path(result.folder)
    calibration, files = _judge(folder)
    scores = {"score": _given({"mean": result.score, "deviation": result.deviation})}
    scores |= {"test": result.test} | {f"trivial_{name}": v for name, v in result.trivial.items()}
    for name, error in calibration.items():
        scores[name] = {**scores.get(name, {}), "calibration_error": error}
    record_finetuning(config, run_id, result.epochs, scores, result.trials, files)
    try:
        made = register_head(config, folder, run_id)
    except TrackingError as error:
        say(str(error))
    else:
        for line in filter(None, made):
            say(line)
        write_json(folder / RECORDED, place_of(config))


def is_recorded(config: Config, folder: Path) -> bool:
    """Whether the head in a folder is recorded where the settings say, as it is.

    It is not if its version was deleted there; a server that does not answer tells nothing of that.

    Raises:
        TrackingError: the store fails, so that it is not known.
    """
    if read_note(folder / RECORDED) != place_of(config):
        return False
    return not is_reachable(config) or head_is_registered(config, folder)


def _judge(output: Path) -> tuple[dict[str, float], list[Path]]:
    """Calibration error by set, and the files that show how the head answers.

    They are the predictions by example, `worst_….json`, and pictures, in the folder `judged`.
    """
    results = read_results(output)
    task, trial, folder = TASKS[results["task"]], Path(results["trial_folder"]), output / "judged"
    folder.mkdir(exist_ok=True)
    errors = {}
    for name in SETS:
        examples, found = read_predictions(trial / f"{name}.jsonl")
        if not examples or task.target not in examples[0]:
            continue
        shutil.copyfile(trial / f"{name}.jsonl", folder / f"{name}.jsonl")
        judged = judging.judge(task, examples, found)
        (folder / f"worst_{name}.json").write_text(to_json(judged.worst, indent=1), "utf-8")
        if judged.confusion:
            path = folder / f"confusion_{name}.png"
            draw_confusion(judged.labels, judged.confusion, path, f"{output.name}, {name}")
        if judged.calibration_error is not None:
            errors[name] = judged.calibration_error
            path = folder / f"calibration_{name}.png"
            bins = [(each.number, each.accuracy) for each in calibration_bins(judged.confidences)]
            draw_calibration(bins, errors[name], path, f"{output.name}, {name}")
    return errors, [output / RESULTS, *sorted(folder.iterdir())]


def _given(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
