"""Starting launchers from tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.elastic_job import NOT_PASSED

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "tests/launch/rank_program.py"
ELASTIC = ("launch/elastic.py", "--standalone", "--local-addr", "localhost", "--nproc-per-node", "2", PROGRAM)
LOCAL = ("launch/local.py", "-j", "2", "--script", PROGRAM, "--config", "none.yaml")
HANG_S = 90  # a guard against hanging tests; nothing is said about speed


@contextmanager
def two_hosts(*arguments: str, configuration: str = "", **environment: str) -> Iterator[list[subprocess.Popen[str]]]:
    """The launchers of two hosts, 127.0.0.1 and 127.0.0.2, with one rank each; the first has the store where they meet."""
    meeting = ["--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "two"]
    meeting += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    network = {"DLRM_JOB_SECRET": "s" * 32, "GLOO_SOCKET_IFNAME": "lo"}

    def host(number: int) -> list[str]:
        conf = f"is_host={number == 1},last_call_timeout=5,{configuration}".rstrip(",")
        return ["launch/elastic.py", *meeting, "--rdzv-conf", conf, "--local-addr", f"127.0.0.{number}", *arguments]

    with (
        started(*host(1), **network, **environment) as first,
        started(*host(2), **network, **environment) as second,
    ):
        yield [first, second]


@contextmanager
def started(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A python command in the checkout, in a session of its own; everything it started is gone afterwards."""
    passed = {name: value for name, value in os.environ.items() if name not in NOT_PASSED}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**passed, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for child in _descendants(process.pid):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.communicate()


def finished(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with started(*command, **environment) as process:
        out, err = process.communicate(timeout=HANG_S)
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def ranks_up(process: subprocess.Popen[str], count: int, word: str = "up") -> list[int]:
    """Wait until ``count`` ranks have said that they have joined; their process ids."""
    pids: list[int] = []
    assert process.stdout is not None
    while len(pids) < count:
        line = process.stdout.readline()
        assert line, "the job ended before its ranks were up"
        if line.startswith(f"{word} "):
            pids.append(int(line.split()[2]))
    return pids


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def interrupt(process: subprocess.Popen[str]) -> None:
    """What a terminal does on Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)


def all_end(pids: list[int]) -> bool:
    """Whether all processes end before the guard against hanging."""
    deadline = time.monotonic() + HANG_S
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # nobody may be there to collect an orphan
    return False


def _descendants(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []
