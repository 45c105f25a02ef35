"""Training without Ray: one process, or the processes that torchrun starts."""

import os
import socket
from contextlib import ExitStack, nullcontext
from typing import Any

import torch

from pipeline.errors import ConfigError, Interrupted, raise_all
from pipeline.feed import opening
from pipeline.paths import RunPaths
from pipeline.progress import Progress, Say
from pipeline.settings.config import Config
from pipeline.settings.faults import FaultSettings
from pipeline.training.checkpoints import files
from pipeline.training.faults import events, hang, lock, stop
from pipeline.training.faults.divergence import Diverged
from pipeline.training.faults.failures import FailurePolicy, describe
from pipeline.training.faults.memory import OutOfMemory
from pipeline.training.launch.watcher import Watcher
from pipeline.training.loop import train
from pipeline.training.measure import step_log
from pipeline.training.start.context import Context
from pipeline.training.start.resume import changed_settings, recover


def rank() -> int:
    """This process's rank."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def restarts() -> int:
    """How often torchrun has started all workers of this command again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def with_workers(config: Config) -> Config:
    """The settings with as many workers as there are processes.

    Raises:
        ConfigError: the settings ask for another number, or for what needs Ray.
    """
    _refuse_settings_of_ray(config)
    scaling, processes = config.scaling, world_size()
    if scaling.workers not in (0, processes) or scaling.max_workers:
        raise ConfigError(
            f"scaling asks for {scaling.workers or 'a changing number of'} worker(s), and there "
            f"are {processes} process(es) for the whole run; start as many with torchrun "
            "--nproc-per-node, or leave the number of workers out"
        )
    scaling = scaling.model_copy(update={"workers": processes})
    return config.model_copy(update={"scaling": scaling})


def fit(config: Config, progress: Progress) -> dict[str, Any]:
    """Train as the rank that RANK, WORLD_SIZE and LOCAL_RANK name; without them, alone.

    Args:
        progress: takes the lines of rank 0.

    Returns:
        the state of the last checkpoint.

    Raises:
        Interrupted: SIGINT, SIGTERM or a rewind; the same command goes on.
        Diverged: the loss or gradients say that the run must not go on.
    """
    config = with_workers(config)
    run = RunPaths.of(config).run
    say = progress.say if rank() == 0 else lambda line: None
    device = torch.device("cpu")
    if config.scaling.gpus_per_worker == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    context = Context(
        rank=rank(),
        world_size=world_size(),
        host=socket.gethostname(),
        device=device,
        threads=max(1, int(config.scaling.cpus_per_worker)),
        report=lambda *_: None,
        stop=lambda: stop.requested(run),
    )
    with ExitStack() as held:
        if rank() == 0:
            held.enter_context(lock.hold(run, say))
            stop.clear(run)
            _tell_restart(config, say)
            hang.clear(run)
            opening.check(config, say)
            if not restarts():
                step_log.begin(run)
        asked = held.enter_context(stop.on_signals(run, say))
        if rank() == 0 and (found := recover(config, say)):
            for change in changed_settings(config, found):
                say(f"changed since {found.name}: {change}")
        watched = Watcher(run, config, progress).running() if rank() == 0 else nullcontext()
        try:
            with watched:
                state = train(config, context)
        except (Diverged, OutOfMemory) as error:
            # The loss is the same on all ranks; memory may run out on one of them alone.
            decides = rank() == 0 or isinstance(error, OutOfMemory)
            if decides and FailurePolicy(config).decide({rank(): error}) is None:
                then = "goes back, past that data"
                if isinstance(error, OutOfMemory):
                    then = "goes on with half the micro-batch"
                raise Interrupted(f"{error}; the same command {then}") from error
            raise
    if rank() == 0:
        stop.raise_if_stopped(run, state, config.train.steps, asked.is_set())
    return state


def _refuse_settings_of_ray(config: Config) -> None:
    """Raise ConfigError for settings of the cluster and of its restarts, which have no effect."""
    mistakes = []
    if config.scaling.wait_seconds:
        mistakes.append(
            "scaling.wait_seconds waits for nodes of a Ray cluster, and torchrun has none; leave "
            "it out"
        )
    if config.faults.max_failures != FaultSettings().max_failures:
        mistakes.append(
            "faults.max_failures limits the restarts by Ray Train; leave it out, and give torchrun "
            "--max-restarts"
        )
    raise_all(ConfigError, mistakes)


def _tell_restart(config: Config, say: Say) -> None:
    """Record that torchrun has started all workers again because one of them failed."""
    if not restarts():
        return
    paths = RunPaths.of(config)
    newest = files.newest(paths.checkpoints)
    what = "a worker died or failed"
    if hang.waiting_ranks(paths.run):
        what = describe({}, paths.run, config.faults.hang_seconds)
    limit = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "?")
    place = f"from {newest.name}" if newest else "from the start"
    text = f"{what}; restart {restarts()} of {limit} by torchrun, {place}"
    events.record(paths.run, "restart", text)
    say(text)
