"""Jobs as processes of this host: the launcher itself for one that runs here, a client of torchx for others.

What is started here is ended with this process, even by SIGKILL: a launcher follows who has started it (``DLRM_CLIENT``),
and its ranks follow the launcher. A scheduler's job is left to the scheduler then, and found again by its handle.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

import dlrm
from dlrm.config.experiment import LOCAL, ScaleConfig
from dlrm.errors import USER_ERROR_EXIT_CODE, SetupError
from dlrm.scaling.experiments.repeats import Repeat

ROOT = Path(dlrm.__file__).resolve().parents[1]
COMPONENT = "components/dlrm.py:benchmark"
TIMED_OUT, UNREACHABLE = 124, 69  # exit codes of launch/submit.py
_OF_LAUNCHERS = ("TORCHELASTIC_", "PET_", "DLRM_LAUNCHER", "DLRM_MAKE", "DLRM_RESTART_CAUSE", "GROUP_", "ROLE_")
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOGLEVEL")
_PATIENCE_S = 20.0  # of a launcher, after it was told to stop; its ranks get 8 s of it
_CANCEL_S = 120.0  # of a scheduler's client; it submits to the end first, and tries to cancel for a minute
_SHARED_FILE_S = 10.0  # until what another host has written is seen here


@dataclass(frozen=True)
class Ended:
    """How a job has ended.

    Attributes:
        reason: of its failure, in a line; empty if it has succeeded.
        final: whether another try would fail as well.
    """

    reason: str = ""
    final: bool = False


class Job:
    """A job of a repeat, while it runs.

    Args:
        repeat: what it measures; its folder is there.
        words: the command here that is the job, or looks after it.
        timeout_s: after which it is ended, by this process; None: the command does so itself.
    """

    def __init__(self, repeat: Repeat, words: Sequence[str], timeout_s: float | None) -> None:
        self.repeat = repeat
        self._timeout_s, self._began_s, self._timed_out = timeout_s, time.monotonic(), False
        with repeat.output.open("ab") as output:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(repeat),
                start_new_session=True,  # a Ctrl-C in the terminal is this process's to pass on
            )

    @property
    def process(self) -> int:
        """Its id."""
        return self._process.pid

    @property
    def duration_s(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._began_s

    def poll(self) -> Ended | None:
        """How it has ended; None while it runs."""
        if self._timeout_s is not None and self.duration_s > self._timeout_s and self._process.poll() is None:
            self._timed_out = True
            self.stop()
        code = self._process.poll()
        return None if code is None else self._ended(code)

    def ask_to_stop(self) -> None:
        """Tell it to end."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def stop(self) -> bool:
        """End it, and wait until it is gone; whether it is: a scheduler may not answer."""
        self.ask_to_stop()
        try:
            code = self._process.wait(_PATIENCE_S if self._timeout_s is not None else _CANCEL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its ranks are killed by the kernel
            code = self._process.wait()
        return self._timeout_s is not None or code not in (UNREACHABLE, -signal.SIGKILL)

    def _ended(self, code: int) -> Ended:
        if self._timed_out or code == TIMED_OUT:
            return Ended("took longer than timeout_s")
        if code == 0:
            return self._succeeded()
        if code == UNREACHABLE:
            return Ended(self.repeat.last_printed())
        if told := self.repeat.told():
            line, code = told
            return Ended(line or f"exit code {code}", final=code == USER_ERROR_EXIT_CODE)
        if code < 0:
            return Ended(f"its launcher was killed by {signal.Signals(-code).name}")
        line = self.repeat.last_printed()
        return Ended(line or f"exit code {code}", final=code == USER_ERROR_EXIT_CODE)

    def _succeeded(self) -> Ended:
        until_s = time.monotonic() + (_SHARED_FILE_S if self._timeout_s is None else 0.0)
        while self.repeat.result() is None:
            if time.monotonic() >= until_s:
                return Ended(f"ended well and left no benchmark.json of {self.repeat.point.ranks} rank(s)")
            time.sleep(_SHARED_FILE_S / 20)
        return Ended()


class Starter:
    """Starts jobs where the command says.

    Args:
        config: of the command.
        timeout_s: of each job.

    Raises:
        SetupError: this is no checkout, or the command does not run in it.
    """

    def __init__(self, config: ScaleConfig, timeout_s: float) -> None:
        self._config, self._timeout_s = config, timeout_s
        if not (ROOT / "launch" / "elastic.py").is_file():
            raise SetupError(
                f"{ROOT}/launch is not there: run scale from a checkout of the project, not from a package"
            )
        if config.scheduler != LOCAL and Path.cwd() != ROOT:
            raise SetupError(f"jobs of a scheduler begin in the checkout: run scale in {ROOT}")

    def start(self, repeat: Repeat) -> Job:
        """Start a job.

        Raises:
            OSError: its folder cannot be written, or no process be started.
        """
        if self._config.scheduler == LOCAL:
            return Job(repeat, _launcher(repeat), self._timeout_s)
        return Job(repeat, [*self._client(repeat), *self._submission(repeat)], None)

    def find(self, repeat: Repeat) -> Job | None:
        """A scheduler's job that an earlier start has left; None if there is none to be waited for."""
        if self._config.scheduler == LOCAL or not repeat.handle.exists():
            return None
        return Job(repeat, [*self._client(repeat), "--attach"], None)

    def _client(self, repeat: Repeat) -> list[str]:
        limits = ["--handle", str(repeat.handle), "--timeout-s", str(self._timeout_s)]
        return [sys.executable, str(ROOT / "launch" / "submit.py"), *limits]

    def _submission(self, repeat: Repeat) -> list[str]:
        """Words of ``torchx run``."""
        config, point = self._config, repeat.point
        settings = ["-cfg", config.scheduler_args] if config.scheduler_args else []
        component = ["-j", f"{point.hosts}x{point.ranks_per_host}", "--config", str(repeat.config)]
        component += ["--error_file", str(repeat.error), *shlex.split(config.component_args)]
        return ["--", "-s", config.scheduler, *settings, COMPONENT, *component, "--", f"--output={repeat.folder}"]


def _launcher(repeat: Repeat) -> list[str]:
    ranks = ["--standalone", "--local-addr", "localhost", "--nproc-per-node", str(repeat.point.ranks_per_host)]
    program = [str(ROOT / "dlrm_main.py"), "benchmark", "--config", str(repeat.config), f"--output={repeat.folder}"]
    return [sys.executable, str(ROOT / "launch" / "elastic.py"), *ranks, "--max-restarts", "0", *program]


def _environment(repeat: Repeat) -> dict[str, str]:
    """Of a job: this process's, without what launchers above it have set."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_RANKS}
    kept = {name: value for name, value in kept.items() if not name.startswith(_OF_LAUNCHERS)}
    return {**kept, "DLRM_CLIENT": str(os.getpid()), "TORCHELASTIC_ERROR_FILE": str(repeat.error)}


def await_gone(process: int, folder: Path) -> None:
    """Wait until a process that an earlier start has left is gone, and end it if it does not go by itself.

    A launcher whose client was killed needs some seconds for its ranks.

    Args:
        process: its id, which may be another process's by now.
        folder: of its repeat, which its command line names.
    """
    with suppress(psutil.Error):
        left = psutil.Process(process)
        if not any(str(folder) in word for word in left.cmdline()):
            return
        try:
            left.wait(_PATIENCE_S)
        except psutil.TimeoutExpired:
            left.kill()
            left.wait(_PATIENCE_S)
