"""Runs a function as the ranks of a gloo process group, one thread each, and returns its results.

A fork server imports torch and DeepSpeed once, so that a rank starts in a fraction of a second.
"""

import gc
import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

SECONDS = 300

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "pipeline.training.loop",
        "torch._dynamo",  # the first optimizer imports it
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "deepspeed.runtime.zero.stage3",
    ]
)


def run(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(*arguments)` on every rank; returns the results by rank.

    Raises:
        RuntimeError: a rank failed.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    processes, readers = [], []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(world_size):
            reader, writer = _context.Pipe(duplex=False)
            payload = pickle.dumps((function, arguments))
            process = _context.Process(
                target=_be_rank,
                args=(rank, world_size, f"{folder}/store", payload, writer),
                daemon=True,
            )
            process.start()
            writer.close()
            processes.append(process)
            readers.append(reader)
        try:
            return _collect(readers)
        finally:
            for process in processes:
                process.join(5)
                process.kill()


def _collect(readers: list[Connection]) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(readers):
        pending = [reader for rank, reader in enumerate(readers) if rank not in results]
        ready = wait(pending, SECONDS)
        if not ready:
            raise TimeoutError(f"no rank answered within {SECONDS} s")
        for reader in ready:
            rank = readers.index(reader)
            try:
                failed, results[rank] = pickle.loads(reader.recv_bytes())
            except EOFError:
                raise RuntimeError(f"rank {rank} died") from None
            if failed:
                raise RuntimeError(f"rank {rank} failed:\n{results[rank]}")
    return [results[rank] for rank in range(len(readers))]


def _be_rank(rank: int, size: int, store: str, payload: bytes, writer: Connection) -> None:
    import torch

    gc.freeze()  # ZeRO-3 collects garbage, and need not look at the imported modules
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size
    )
    try:
        function, arguments = pickle.loads(payload)
        answer = (False, function(*arguments))
    except BaseException:
        answer = (True, traceback.format_exc())
    writer.send_bytes(pickle.dumps(answer))
    writer.close()
    os._exit(0)
