"""The tasks of a comparison."""

from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, raise_all
from pipeline.finetuning.checks import check
from pipeline.settings.config import Config
from pipeline.settings.finetuning import FinetuneSettings
from pipeline.settings.reading.config_file import load_config


def suite_of(config: Config) -> dict[str, FinetuneSettings]:
    """The tasks by name, as they will be fine-tuned.

    Raises ConfigError, with all mistakes, for tasks that can't be compared on.
    """
    compare = config.compare
    chosen = [name for name in compare.tasks if name in config.heads]
    tasks = {name: config.heads[name] for name in chosen or config.heads}
    for path in compare.tasks:
        if path in chosen:
            continue
        if config.heads and not Path(path).exists():
            raise ConfigError(
                f"compare.tasks: {path} is no recipe file, and no task of the suite, which has "
                f"{', '.join(config.heads)}"
            )
        recipe = load_config(path)
        found = dict(recipe.heads)
        if recipe.finetune.task:
            found[recipe.finetune.name or recipe.run.name] = recipe.finetune
        if not found:
            raise ConfigError(f"{path}: this recipe has no task, neither in finetune nor in heads")
        if twice := sorted(set(found) & set(tasks)):
            raise ConfigError(f"{path}: there is already a task {twice[0]}")
        tasks |= found
    mistakes = []
    if not tasks:
        mistakes.append(
            "compare.tasks: name recipe files, or give a suite (--config jobs/configs/suites/…)"
        )
    for name, settings in tasks.items():
        try:
            tasks[name] = settings = _resolved(name, settings, config)
            check(settings.model_copy(update={"name": ""}), f"heads.{name}")
        except ConfigError as error:
            mistakes.append(str(error))
            continue
        if not settings.data.dev:
            mistakes.append(f"heads.{name}.data.dev: needed to choose the best epoch of each trial")
        if settings.search.halving:
            mistakes.append(
                f"heads.{name}.search.halving: leave it out; a comparison has all seeds"
            )
        if settings.checkpoint or settings.from_scratch:
            mistakes.append(
                f"heads.{name}.checkpoint, from_scratch: leave them out; compare.checkpoints says "
                "what to start from"
            )
    raise_all(ConfigError, mistakes)
    return tasks


def _resolved(name: str, settings: FinetuneSettings, config: Config) -> FinetuneSettings:
    """A task with the seeds, limits and data folder of the comparison."""
    compare, data = config.compare, settings.data
    changes: dict[str, Any] = {}
    if compare.data:
        changes = {
            split: _file(Path(compare.data, name), split) for split in ("train", "dev", "test")
        }
        if not changes["train"]:
            raise ConfigError(f"compare.data: there is no file train.* in {compare.data}/{name}")
    if compare.train_limit:
        changes["examples"] = compare.train_limit
    if compare.eval_limit:
        changes["eval_examples"] = compare.eval_limit
    seeds = tuple(range(config.run.seed, config.run.seed + compare.seeds))
    return settings.model_copy(
        update={
            "data": data.model_copy(update=changes),
            "search": settings.search.model_copy(update={"seeds": seeds}),
        }
    )


def _file(folder: Path, split: str) -> str:
    """The file of a split in a task's folder; empty if there is none.

    Raises ConfigError where there are several.
    """
    found = sorted(path for path in folder.glob(f"{split}.*") if path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConfigError(
            f"compare.data: {folder} has several files for {split}: {names}; keep one"
        )
    return str(found[0]) if found else ""
