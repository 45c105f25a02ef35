"""Predictions for a large input: Ray Data streams its blocks through workers that hold the head."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import ray

from pipeline.cluster import ray_cluster, remote_disk, remote_files
from pipeline.cluster.calls import threads_of_a_task
from pipeline.cpu import use_threads
from pipeline.errors import NezhaError, TaskError
from pipeline.files.disk import fetch_named
from pipeline.files.urls import is_url
from pipeline.finetuning.examples.input_lines import read_input
from pipeline.finetuning.prediction.predict import LINES, Head, answered
from pipeline.finetuning.tasks import TASKS
from pipeline.progress import Say
from pipeline.settings.training import ScalingSettings

BLOCK_BYTES = 1 << 17
"""Lines that one worker takes, unless they are fewer than `LINES`. Ray's own 128 MB would be all of
most files, and one worker would answer them. Smaller objects would stay in the driver's memory."""


def predict_on_cluster(
    folder: str,
    task: str,
    path: str,
    columns: Mapping[str, str | int],
    batch: int,
    workers: int,
    scaling: ScalingSettings,
    say: Say,
) -> Iterator[dict[str, Any]]:
    """As `predict`, for a file here or at a URL; rows keep their order.

    Args:
        workers: processes that hold the head; each takes a GPU where the cluster has any, otherwise
            its share of the CPUs, at most those of a node.
        scaling: what nodes are waited for.
        say: takes what it waits for.

    Raises:
        TaskError: a line is malformed.
        ConfigError: no node for a worker has come after `scaling.wait_seconds`.
    """
    ray_cluster.connect()
    ray_cluster.bring(workers, 1.0, scaling, say)
    gpus = ray_cluster.gpus_of_a_task(1.0)
    # One share is left to the task that reads the file.
    cpus = 1 if gpus else threads_of_a_task(workers + 1, ray_cluster.cpus_by_node())
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES

    with remote_disk.offered_reading() as offer:

        def lines(row: dict[str, Any]) -> Iterator[dict[str, str]]:
            try:
                with remote_files.files_of(offer):
                    for place, line in read_input(row["path"], TASKS[task], columns):
                        yield {"place": place, "line": json.dumps(line), "error": ""}
            except NezhaError as error:
                yield {"place": "", "line": "", "error": str(error)}

        found = (
            ray.data.from_items([{"path": path if is_url(path) else os.path.abspath(path)}])
            # Workers may have all CPUs of a small machine: they wait for lines, and would for ever.
            .flat_map(lines, num_cpus=0)
            .map_batches(
                _Worker,
                fn_constructor_args=(folder, batch, cpus, offer),
                batch_size=LINES,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=cpus,
                num_gpus=gpus,
            )
        )
        for row in found.iter_rows():
            if row["error"]:
                raise TaskError(row["error"])
            yield json.loads(row["answer"])


class _Worker:
    """Holds the head and answers blocks of lines; a block with a malformed line is one `error`."""

    def __init__(self, folder: str, batch: int, threads: int, offer: remote_disk.Offer) -> None:
        own = fetch_named(remote_disk.disk_of(offer), folder)
        self._head, self._batch = Head.load(own), batch
        use_threads(threads)

    def __call__(self, block: dict[str, Any]) -> dict[str, list[str]]:
        if wrong := [each for each in block["error"] if each]:
            return {"answer": [""], "error": wrong[:1]}
        lines = [
            (str(place), json.loads(line))
            for place, line in zip(block["place"], block["line"], strict=True)
        ]
        try:
            rows = answered(self._head, lines, self._batch)
        except TaskError as error:
            return {"answer": [""], "error": [str(error)]}
        answers = [json.dumps(row) for row in rows]
        return {"answer": answers, "error": [""] * len(answers)}
