"""Run a function on several gloo ranks of this machine and collect what each returns.

Processes come from a fork server that has imported the trainer once (:mod:`tests.support.preloaded`), so that a test pays
for its ranks in fractions of a second. Production code never imports this.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    ["pytest", "tests.support.preloaded"]
)  # counts for the first process, which starts it


class RankError(AssertionError):
    """A rank raised; the message is its traceback."""


def run_ranks(fn: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 120.0) -> list[Any]:
    """Call ``fn(rank, world_size, *args)`` on ``world_size`` gloo ranks.

    Args:
        fn: a function of a module (it is pickled by name); the process group is initialised when it is called.
        world_size: number of ranks.
        args: further arguments, pickled.
        timeout_s: after this the ranks are killed and :class:`TimeoutError` is raised.

    Returns:
        What ``fn`` returned, by rank.

    Raises:
        RankError: the first failure of any rank, with its traceback; the others are killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes: list[BaseProcess] = []
        pipes: list[multiprocessing.connection.Connection] = []
        for rank in range(world_size):
            receiver, sender = FORK_SERVER.Pipe(duplex=False)
            process: BaseProcess = FORK_SERVER.Process(
                target=_rank_main, args=(sender, fn, rank, world_size, folder, args), daemon=True
            )
            process.start()
            sender.close()
            processes.append(process)
            pipes.append(receiver)
        try:
            return _collect(pipes, time.monotonic() + timeout_s)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(pipes: list[multiprocessing.connection.Connection], deadline: float) -> list[Any]:
    results: list[Any] = [None] * len(pipes)
    waiting = dict(enumerate(pipes))
    while waiting:
        ready = multiprocessing.connection.wait(list(waiting.values()), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"ranks {sorted(waiting)} did not finish in time")
        for rank in [rank for rank, pipe in waiting.items() if pipe in ready]:
            try:
                failed, results[rank] = pickle.loads(waiting.pop(rank).recv_bytes())
            except EOFError:
                raise RankError(f"rank {rank} died without a word") from None
            if failed:
                raise RankError(f"rank {rank}:\n{results[rank]}")
    return results


def _rank_main(
    sender: multiprocessing.connection.Connection,
    fn: Callable[..., Any],
    rank: int,
    world_size: int,
    folder: str,
    args: tuple[Any, ...],
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="nowhere", MASTER_PORT="0",  # the ranks meet in a file
    )  # fmt: skip
    try:
        store = dist.FileStore(  # type: ignore[attr-defined]
            os.path.join(folder, "store"), world_size
        )
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=60))
        # Plain pickle: multiprocessing's own would pass tensors by shared memory, which ends with this process.
        sender.send_bytes(pickle.dumps((False, fn(rank, world_size, *args))))
    except BaseException:  # whatever it was, the parent reports it
        sender.send_bytes(pickle.dumps((True, traceback.format_exc())))
        os._exit(1)
    os._exit(0)
