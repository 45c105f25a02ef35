"""Calls on the cluster: each is a Ray task, none runs in the driver."""

import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup

from pipeline.cluster import groups, ray_cluster, remote_disk, remote_files
from pipeline.cluster.groups import GroupPlace, Rendezvous, joined
from pipeline.cluster.peers import PeerFailed
from pipeline.cpu import use_threads
from pipeline.errors import NezhaError, TrainingError
from pipeline.progress import Progress
from pipeline.settings.training import ScalingSettings

RESTARTS = 3
"""Of a call whose worker process died."""
ANY = ScalingSettings()
"""The nodes that are there."""
logger = logging.getLogger(__name__)


class Work(NamedTuple):
    """A call that a runner makes, here or in a worker."""

    name: str
    """Is put before its progress lines."""
    kind: str
    """What such calls are, in the plural, for the line that counts those that are done."""
    function: Callable[..., Any]
    """Takes the arguments and, by their names, `say`, which takes progress lines, and `disk`, the
    disk that holds the files of the command."""
    arguments: tuple[Any, ...]
    gpus: float = 0.0
    """GPUs that it uses where the cluster has any; if it has several workers, each of them."""
    workers: int = 1
    """Processes that make the call together, as a process group of torch."""


Runner = Callable[[Sequence[Work]], list[Any]]
"""Makes all calls; returns, in order, what each returned, or the NezhaError that it raised."""


class Member(NamedTuple):
    """A Ray task: the number of its work, and its rank among the workers of that."""

    work: int
    rank: int


def cluster_runner(progress: Progress, folder: Path, scaling: ScalingSettings = ANY) -> Runner:
    """What makes calls as Ray tasks, as many at a time as there is room for.

    `folder` holds what the calls make; nodes that do not see it send it to this one.

    A task takes its GPUs where the cluster has any, or starts some (`scaling`). Without GPUs it
    takes its share of the CPUs, and torch uses as many threads. A call whose worker process died,
    with its node or because memory ran out, starts again; after RESTARTS, and for a group of
    workers, that is a TrainingError of the call.

    Trials are plain Ray tasks rather than trials of Ray Tune, which starts an actor for each one
    (about 8 s here) and cannot give it environment variables.
    """

    def run(works: Sequence[Work]) -> list[Any]:
        if not works:
            return []
        ray_cluster.connect()
        most = max(work.workers for work in works)
        ray_cluster.bring(most, max(work.gpus for work in works), scaling, progress.say)
        ray_cluster.warn_if_empty()
        with remote_disk.offered(folder) as offer:
            return _run_all(works, offer, progress)

    return run


def _run_all(works: Sequence[Work], offer: remote_disk.Offer, progress: Progress) -> list[Any]:
    most = max(work.workers for work in works)
    tasks = sum(work.workers for work in works)
    threads = threads_of_a_task(tasks, ray_cluster.cpus_by_node(), most)
    rendezvous = Rendezvous() if most > 1 else None
    members: dict[Any, Member] = {}
    starts: dict[int, Callable[[], Any]] = {}
    held: dict[int, PlacementGroup] = {}
    try:
        for number, work in enumerate(works):
            gpus = ray_cluster.gpus_of_a_task(work.gpus)
            options = {"num_cpus": 1 if gpus else threads, "num_gpus": gpus}
            start = partial(_start, work, offer)
            if rendezvous is None or work.workers == 1:
                starts[number] = partial(start, None, options)
                members[starts[number]()] = Member(number, 0)
                continue
            places = rendezvous.places(str(number), work.workers)
            streams, held[number] = groups.start(start, places, options)
            members |= {each: Member(number, rank) for rank, each in enumerate(streams)}
        return _collect(works, members, starts, held, progress)
    finally:
        for group in held.values():
            groups.end(group)


def threads_of_a_task(tasks: int, cpus_by_node: Sequence[int], together: int = 1) -> int:
    """CPUs of each of several tasks, so that they share the cluster and fit on a node.

    `together`: so many of them must fit at one time.
    """
    threads = max(1, min(sum(cpus_by_node) // tasks, max(cpus_by_node, default=1)))
    while threads > 1 and sum(cpus // threads for cpus in cpus_by_node) < together:
        threads -= 1
    return threads


def _start(
    work: Work, offer: remote_disk.Offer, place: GroupPlace | None, options: dict[str, Any]
) -> Any:
    """A Ray task of a work: the stream of its progress lines and its result."""
    environment = ray_cluster.runtime_env(options["num_gpus"])
    # Ray would begin the stream of a task that it tries again where the dead one has stopped; this
    # one may have fewer lines of progress.
    options = {**options, "max_retries": 0, "num_returns": "streaming"}
    task = ray.remote(runtime_env=environment, **options)(_run)
    return task.remote(work.function, work.arguments, options["num_cpus"], offer, place)


class WorkerDied(TrainingError):
    """The process of a call has ended without a result."""


def _collect(
    works: Sequence[Work],
    members: dict[Any, Member],
    starts: Mapping[int, Callable[[], Any]],
    held: dict[int, PlacementGroup],
    progress: Progress,
) -> list[Any]:
    """Pass progress lines on until each call has a result or an error.

    A call of a single worker that died starts again, by `starts`. A group has the result of its
    first worker, or the first error that says what happened. Then its other workers are ended, and
    it leaves `held`.
    """
    results: dict[int, Any] = {}
    restarts: Counter[int] = Counter()
    start_time, waiting = time.monotonic(), list(members)
    try:
        while waiting:
            (stream,), waiting = ray.wait(waiting, num_returns=1, fetch_local=False)
            number, rank = members[stream]
            work = works[number]
            name = f"worker {rank} of {work.workers}" if work.workers > 1 else "the worker process"
            item = _next_item(stream, name)
            if isinstance(item, str):
                waiting.append(stream)
                if number not in results:
                    progress.update(item, work.name)
                continue
            if isinstance(item, WorkerDied) and number in starts and restarts[number] < RESTARTS:
                restarts[number] += 1
                again = f"it starts again ({restarts[number]} of {RESTARTS})"
                progress.say(f"{work.name}: {item}; {again}")
                stream = starts[number]()
                members[stream] = Member(number, rank)
                waiting.append(stream)
                continue
            others = [each for each in waiting if members[each].work == number]
            if number in results or (isinstance(item, PeerFailed) and others):
                continue
            results[number] = item
            if number in held:
                groups.end(held.pop(number))
            # One alone is its caller's to tell, and so are mistakes, all in one error.
            if isinstance(item, TrainingError) and len(works) > 1:
                progress.say(f"{work.name}: failed: {item}")
            if len(works) > 2:
                share = len(results) / len(works)
                left = math.ceil((time.monotonic() - start_time) * (1 - share) / share / 60)
                end = f", about {left} minute(s) left" if share < 1 else ""
                progress.update(f"{len(results)} of {len(works)} {work.kind} done{end}")
    except BaseException:
        for stream in waiting:
            ray.cancel(stream, force=True)
        raise
    return [results[number] for number in range(len(works))]


def _next_item(stream: Any, name: str) -> Any:
    """The next progress line of a task, its result, or a NezhaError, which may name the task."""
    try:
        return ray.get(next(stream))
    except RayTaskError as error:
        if isinstance(error.cause, NezhaError):
            return type(error.cause)(str(error.cause))
        if isinstance(error.cause, OSError):  # such as a full disk
            return TrainingError(str(error.cause))
        # Out of GPU memory, or a fault of ours: the other calls go on.
        logger.error("%s", error)
        return TrainingError(f"{type(error.cause).__name__}: {error.cause}")
    except RayError as error:
        return WorkerDied(
            f"{name} died ({type(error).__name__}); if memory ran out, lower its "
            "batch, micro_batch or data.length"
        )


def _run(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    threads: int,
    offer: remote_disk.Offer,
    place: GroupPlace | None,
) -> Iterator[Any]:
    """Runs in a Ray worker: yields progress lines and, last, the result, which is no string.

    Of a group, the first worker does so, and the others raise PeerFailed at their end.
    """
    use_threads(threads)
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def call() -> None:
        first = place is None or place.rank == 0
        try:
            with joined(place), remote_files.files_of(offer) as disk:
                result = function(*arguments, say=items.put if first else _ignore, disk=disk)
            items.put(result if first else PeerFailed("the first worker gave no result"))
        except BaseException as error:
            items.put(error)

    threading.Thread(target=call, daemon=True).start()
    while isinstance(item := items.get(), str):
        yield item
    if isinstance(item, BaseException):
        raise item
    yield item


def _ignore(line: str) -> None:
    """Progress that another worker shows."""
