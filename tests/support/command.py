"""Run dlrm_main.py as ranks of a job would, and see what each printed and how it left.

Like :mod:`tests.support.ranks` it forks from a server that has the trainer imported, so a command costs its own work only.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import runpy
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from dlrm.command import failure
from dlrm.distributed import world
from tests.support.ranks import FORK_SERVER

PROGRAM = Path(__file__).resolve().parents[2] / "dlrm_main.py"
_GRACE_S = 1.0  # of the others once one rank has failed; then they are ended, as a launcher would


@dataclass(frozen=True)
class Outcome:
    """How one rank left: exit code (negative: ended by that signal), standard output and standard error."""

    exit_code: int | None
    stdout: str
    stderr: str


def run_command(words: list[str], world_size: int = 1, timeout_s: float = 120.0) -> list[Outcome]:
    """Run ``dlrm_main.py <words>`` on ``world_size`` ranks of this machine.

    Args:
        words: command line; paths are relative to the caller's working directory.
        world_size: number of ranks, found through a port of the loopback address.
        timeout_s: after this all ranks are killed and :class:`TimeoutError` is raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        processes: list[BaseProcess] = []
        for rank in range(world_size):
            arguments = (words, rank, world_size, port, folder, os.getcwd())
            process: BaseProcess = FORK_SERVER.Process(target=_rank_main, args=arguments, daemon=True)
            process.start()
            processes.append(process)
        _wait(processes, timeout_s)
        return [
            Outcome(
                process.exitcode,
                Path(folder, f"stdout{rank}").read_text(),
                Path(folder, f"stderr{rank}").read_text(),
            )
            for rank, process in enumerate(processes)
        ]


def _wait(processes: list[BaseProcess], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    failed = False
    try:
        while alive := [process.sentinel for process in processes if process.is_alive()]:
            if not multiprocessing.connection.wait(alive, timeout=max(0.0, deadline - time.monotonic())):
                if failed:
                    return
                raise TimeoutError(f"{len(alive)} rank(s) still run after {timeout_s} s")
            if not failed and any(process.exitcode for process in processes if not process.is_alive()):
                failed, deadline = True, time.monotonic() + _GRACE_S
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _rank_main(words: list[str], rank: int, world_size: int, port: int, folder: str, cwd: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(folder, f"{name}{rank}"), os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.chdir(cwd)
    if world_size > 1:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
    # Other tests have the other cores: threads of a rank would wait for each other at every operator.
    world._share_of_cores = lambda rank_info: 1
    failure.USER_PATIENCE_S = 60.0  # a busy machine may start the ranks seconds apart; the parent ends those that wait
    sys.argv = [str(PROGRAM), *words]
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    try:
        runpy.run_path(str(PROGRAM), run_name="__main__")
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os._exit(0)
