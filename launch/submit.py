"""Submit a job through torchx, wait for its end, and end with 0 if it has succeeded.

    python launch/submit.py --handle FILE --timeout-s 600 -- -s slurm components/dlrm.py:benchmark -j 2x8 --config C -- ...

The words after the first ``--`` are those of ``torchx run``. ``FILE`` gets torchx's handle of the job (slurm://torchx/17)
as soon as it is submitted; with ``--attach`` nothing is submitted, and the job that FILE names is waited for.

* SIGTERM cancels the job. When the process that has started this one is killed, the job goes on, and this process ends.
* After ``--timeout-s``, counted from when the job runs, it is cancelled; the exit code is 124.
* Where the scheduler does not answer for ten minutes, or a minute where it never has, or does not end what it is to
  cancel, the exit code is 69 (EX_UNAVAILABLE), and the job is left to it.
* Files that torchx's Slurm writes into the current folder go to that of FILE when the job has ended.

``dlrm_main.py scale`` starts one for each job (dlrm/jobs/processes.py).
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there under python -P

import torchx_gaps
from launch_output import write

TIMED_OUT, UNREACHABLE, CANCELLED = 124, 69, 143
POLL_S = 2.0
UNREACHABLE_S = 600.0
UNKNOWN_S = 60.0  # of a job of which the scheduler has said nothing yet: it may have forgotten it
CANCEL_S = 60.0
_HANDLE = re.compile(r"^\w+://\S*/\S+$", re.MULTILINE)


class Stopped(BaseException):
    """A signal has asked for the end; not to be taken for what a scheduler's client raises."""


def main(arguments: Sequence[str]) -> int:
    """Do it, and return the exit code."""
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handle", type=Path, required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    parser.add_argument("--attach", action="store_true")
    given = parser.parse_args(words[:cut])
    parent = os.getppid()
    logging.disable(logging.CRITICAL)  # torchx tells of each question that it asks the scheduler
    try:
        signal.signal(signal.SIGTERM, _stop)
        code = 0 if given.attach else _submit(words[cut + 1 :], given.handle)
        if code:
            return code
        code = _Watch(_read(given.handle), given.timeout_s).follow(parent)
    except Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not given.handle.exists():
            return CANCELLED
        code = _Watch(_read(given.handle), given.timeout_s).cancel(CANCELLED)
    if code != UNREACHABLE:
        _collect(_read(given.handle), given.handle.parent)
    return code


def _read(handle: Path) -> str:
    return handle.read_text().strip()


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


def _submit(words: Sequence[str], handle: Path) -> int:
    """Submit, and keep the handle; the exit code of torchx where it has none."""
    # What torchx itself says in a session that ends is not for the job's own error file.
    environment = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_ERROR_FILE"}
    come: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: come.append(number))  # the handle must not get lost
    done = subprocess.run([*_torchx(), "run", *words], capture_output=True, text=True, check=False, env=environment)
    found = _HANDLE.findall(done.stdout)
    if found:
        part = handle.with_name(f"{handle.name}.part")
        part.write_text(f"{found[-1]}\n")
        part.replace(handle)
    signal.signal(signal.SIGTERM, _stop)
    if come:
        raise Stopped
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("torchx ")]
    write(sys.stdout, "".join(f"{line}\n" for line in said))
    if found:
        write(sys.stdout, f"submitted {found[-1]}\n")
        return 0
    return done.returncode or 1


def _torchx() -> list[str]:
    """The command, of the environment that runs this."""
    command = Path(sys.executable).with_name("torchx")
    return [str(command)] if command.exists() else [sys.executable, "-m", "torchx.cli.main"]


class _Watch:
    """Waits for the end of a job."""

    def __init__(self, handle: str, timeout_s: float) -> None:
        from torchx.runner import get_runner  # takes a second

        self._handle, self._timeout_s = handle, timeout_s
        torchx_gaps.fill(handle.partition("://")[0])
        self._runner = get_runner()
        self._state: Any = None

    def follow(self, parent: int) -> int:
        """Until it has ended, or the process that has started this one; the exit code."""
        from torchx.specs.api import AppState, is_terminal

        began_s, heard_s = None, time.monotonic()
        while True:
            state = self._look()
            now_s = time.monotonic()
            if state is not None:
                heard_s = now_s
                if is_terminal(state):
                    return 0 if state == AppState.SUCCEEDED else CANCELLED if state == AppState.CANCELLED else 1
            elif now_s - heard_s > (UNKNOWN_S if self._state is None else UNREACHABLE_S):
                write(sys.stdout, f"{self._handle}: the scheduler knows nothing of it, or does not answer\n")
                return UNREACHABLE
            if state == AppState.RUNNING:
                began_s = now_s if began_s is None else began_s
                if now_s - began_s > self._timeout_s:
                    return self.cancel(TIMED_OUT)
            if os.getppid() != parent:
                return UNREACHABLE
            time.sleep(POLL_S)

    def _look(self) -> Any:
        """The job's state; None if nothing can be learned."""
        state = None
        with suppress(Exception):  # whatever a scheduler's client raises while it cannot be reached
            status = self._runner.status(self._handle)
            state = status.state if status is not None else None
        if state is not None and state != self._state:
            self._state = state
            write(sys.stdout, f"{self._handle}: {state.name}\n")
        return state

    def cancel(self, code: int) -> int:
        """Cancel, and wait until the scheduler says so, as the next job may need the hosts; ``code``, if that is so."""
        from torchx.specs.api import is_terminal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        until_s = time.monotonic() + CANCEL_S
        while time.monotonic() < until_s:
            with suppress(Exception):  # as in _look
                self._runner.cancel(self._handle)
            state = self._look()
            if state is not None and is_terminal(state):
                return code
            time.sleep(POLL_S / 2)
        write(sys.stdout, f"{self._handle}: the scheduler was told to cancel it, and has not said that it has ended\n")
        return UNREACHABLE


def _collect(handle: str, folder: Path) -> None:
    """What Slurm has written here goes to where the job's results are."""
    scheduler, job = handle.partition("://")[0], handle.rpartition("/")[2]
    if scheduler == "slurm" and job.isdecimal():
        for path in Path.cwd().glob(f"slurm-{job}[-.]*"):
            with suppress(OSError):
                shutil.move(path, folder / path.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
