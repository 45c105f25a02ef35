"""Work units on Ray: byte ranges as plain tasks, streams through Ray Data in two stages.

Byte ranges pass no data between tasks, so Ray Data has nothing to manage, and its scheduling costs
the driver 17 ms of CPU for each block against 0.9 ms for a plain task (1,500 units that do nothing,
two cores). At 1 TB that would be 18 minutes, in which 1,600 cores wait. For the same reason there
is no Datasource. A Datasink would commit when all blocks are written; `prepare` does so itself,
because its records also let it go on after a crash. A stream passes its chunks from the task that
decompresses it to others; there Ray Data bounds what piles up between the two.
"""

import contextlib
import functools
import itertools
import logging
import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data

from pipeline.cluster import remote_disk, remote_files
from pipeline.cluster.ray_cluster import connect, warn_if_empty
from pipeline.corpus.run.names import WORK
from pipeline.corpus.run.tally import Result
from pipeline.corpus.run.work import Job, or_failure, results_of, unfinished_chunks
from pipeline.corpus.text.units import Unit, shard_bytes
from pipeline.errors import CorpusError
from pipeline.files.disk import fetch_named
from pipeline.files.urls import is_url

QUEUED, QUEUED_A_CPU = 64, 2
"""Tasks of byte ranges that are submitted at a time, so that no CPU waits for the driver."""
RETRIES = 10
"""How often a task is started again whose worker died. Ray counts lack of memory apart."""
AT_A_TIME, AT_A_TIME_AND_CPU = 10_000, 64
"""Streams of one dataset: Ray Data holds an object in the driver for each. CPUs wait at the end of
a dataset for the last streams, which is a small part of the time of 64 streams on each CPU."""


def run_on_cluster(job: Job, units: Sequence[Unit], workers: int) -> Iterator[Result]:
    """Yield the results of all units as they are finished."""
    if not units:
        return
    connect()
    warn_if_empty()
    # Errors are shown as one line; Ray Data would log the traceback too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # `workers` may exceed the number of units: the setting is meant for corpora of any size.
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")
    cpus = math.ceil(ray.cluster_resources().get("CPU", 1))
    ranges = [unit for unit in units if not unit.stream]
    streams = [unit for unit in units if unit.stream]
    size = max(AT_A_TIME, AT_A_TIME_AND_CPU * cpus)
    with _offered(job.folder) as offer, _one_line():
        yield from _ranges(job, offer, ranges, workers, cpus)
        for first in range(0, len(streams), size):
            rows = _streams(job, offer, streams[first : first + size], workers, cpus).iter_rows()
            for row in rows:
                yield Result.model_validate_json(row["result"])


@contextlib.contextmanager
def _offered(folder: str) -> Iterator[remote_disk.Offer]:
    """Offer this node's disk to workers that do not see the output folder."""
    if is_url(folder):  # but the vocabulary, for one, may be on the disk
        offer = remote_disk.offered_reading()
    else:
        offer = remote_disk.offered(Path(folder), place=WORK)
    with offer as made:
        yield made


@contextlib.contextmanager
def _here(job: Job, offer: remote_disk.Offer) -> Iterator[Job]:
    """A job on a node that may not have the files that it names."""
    with remote_files.files_of(offer) as disk:
        if disk.remote:
            settings, dictionary = job.settings, job.settings.user_dictionary
            if dictionary:
                copy = fetch_named(disk, dictionary)
                settings = settings.model_copy(update={"user_dictionary": copy})
            job = job._replace(vocab=fetch_named(disk, job.vocab), settings=settings)
        yield job


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn an error of Ray, or of a function in a worker, into one that is shown as one line."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        text = next((line for line in reversed(str(cause).splitlines()) if line.strip()), "")
        raise CorpusError(
            f"a Ray worker failed: {type(cause).__name__}: {text.strip()}; remove the cause and "
            "run again (finished shards are kept)"
        ) from None


def _ranges(
    job: Job, offer: remote_disk.Offer, units: Sequence[Unit], workers: int, cpus: int
) -> Iterator[Result]:
    """Results of units that the same task reads and works on."""
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(unit_to_results)
    shared = ray.put(job)
    left = iter(units)
    size = workers if 0 < workers < cpus else max(QUEUED, QUEUED_A_CPU * cpus)
    waiting = [remote.remote(shared, offer, unit) for unit in itertools.islice(left, size)]
    try:
        while waiting:
            ray.wait(waiting, num_returns=1)
            ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0)
            more = itertools.islice(left, len(ready))
            waiting += [remote.remote(shared, offer, unit) for unit in more]
            for results in ray.get(ready):
                yield from map(Result.model_validate_json, results)
    finally:
        for task in waiting:
            ray.cancel(task)


def _streams(
    job: Job, offer: remote_disk.Offer, units: Sequence[Unit], workers: int, cpus: int
) -> ray.data.Dataset:
    """Results of streams: the first stage reads chunks, the second one works on them.

    Readers wait when chunks pile up. They reserve no CPU: otherwise they could hold the last one
    while the second stage needs it. Different needs also keep Ray Data from fusing the stages.
    """
    chunks = _items(units, shard_bytes(job.settings)).flat_map(
        functools.partial(to_chunks, job, offer), num_cpus=0, concurrency=workers or cpus
    )
    return chunks.flat_map(
        functools.partial(to_results, job, offer), num_cpus=1, concurrency=workers or None
    )


def _items(units: Sequence[Unit], block_bytes: int) -> ray.data.Dataset:
    """Units as rows of a dataset with settings of its own; those of the process stay."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False  # `Progress` shows one line that also knows the megabytes
    # One chunk in each of Ray's blocks: by default Ray Data gathers 128 MB for one worker.
    context.target_max_block_size = block_bytes
    context.op_resource_reservation_enabled = True
    # Ray Data would read each worker's memory map every second, which costs some of its CPU time.
    context.memory_usage_poll_interval_s = None
    rows = [{"item": pickle.dumps(unit)} for unit in units]
    with ray.data.DataContext.current(context):
        items = ray.data.from_items(rows, override_num_blocks=len(rows))
    items.set_name("prepare")  # on the dashboard, beside the statistics of its operators
    return items


def run_tasks_on_cluster(
    folder: str, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """Call a function with each of the argument tuples, as Ray tasks that work in a folder."""
    connect()
    warn_if_empty()
    remote = ray.remote(num_cpus=1, name=function.__name__)(_call)
    with _offered(folder) as offer, _one_line():
        return ray.get([remote.remote(offer, function, *each) for each in arguments])


def _call(offer: remote_disk.Offer, function: Callable[..., Any], *arguments: Any) -> Any:
    with remote_files.files_of(offer):
        return function(*arguments)


def unit_to_results(job: Job, offer: remote_disk.Offer, unit: Unit) -> list[str]:
    """A unit to its results as JSON."""
    with _here(job, offer) as own:
        return [result.model_dump_json() for result in or_failure(own, unit, results_of)]


def to_chunks(
    job: Job, offer: remote_disk.Offer, row: dict[str, Any]
) -> Iterator[dict[str, bytes]]:
    """A pickled unit to its pickled chunks, those that are not finished yet, and its end."""
    with _here(job, offer) as own:
        for item in or_failure(own, pickle.loads(row["item"]), unfinished_chunks):
            yield {"item": pickle.dumps(item)}


def to_results(job: Job, offer: remote_disk.Offer, row: dict[str, Any]) -> Iterator[dict[str, str]]:
    """A pickled unit, chunk or end to its results as JSON."""
    with _here(job, offer) as own:
        for result in or_failure(own, pickle.loads(row["item"]), results_of):
            yield {"result": result.model_dump_json()}
