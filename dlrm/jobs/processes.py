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
from dlrm.config.jobs import LOCAL, JobsConfig
from dlrm.errors import USER_ERROR_EXIT_CODE, SetupError
from dlrm.jobs.spec import JobSpec

ROOT = Path(dlrm.__file__).resolve().parents[1]
COMPONENTS = "components/dlrm.py"
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
    """A job, while it runs.

    Args:
        spec: what it is to do; its folder is there.
        words: the command here that is the job, or looks after it.
        timeout_s: after which it is ended, by this process; None: the command does so itself.
    """

    def __init__(self, spec: JobSpec, words: Sequence[str], timeout_s: float | None) -> None:
        self.spec = spec
        self._timeout_s, self._began_s, self._timed_out = timeout_s, time.monotonic(), False
        with spec.output.open("ab") as output:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(spec),
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
            return Ended(self.spec.last_printed())
        if told := self.spec.told():
            line, code = told
            return Ended(line or f"exit code {code}", final=code == USER_ERROR_EXIT_CODE)
        if code < 0:
            return Ended(f"its launcher was killed by {signal.Signals(-code).name}")
        line = self.spec.last_printed()
        return Ended(line or f"exit code {code}", final=code == USER_ERROR_EXIT_CODE)

    def _succeeded(self) -> Ended:
        until_s = time.monotonic() + (_SHARED_FILE_S if self._timeout_s is None else 0.0)
        while self.spec.result() is None:
            if time.monotonic() >= until_s:
                return Ended(f"ended well and left no {self.spec.lacking}")
            time.sleep(_SHARED_FILE_S / 20)
        return Ended()


class Starter:
    """Starts jobs where the command says.

    Args:
        config: of the command, ``scale`` or ``study``, which messages call ``command``.
        timeout_s: of each job.

    Raises:
        SetupError: this is no checkout, or the command does not run in it.
    """

    def __init__(self, config: JobsConfig, timeout_s: float, command: str = "scale") -> None:
        self._config, self._timeout_s = config, timeout_s
        if not (ROOT / "launch" / "elastic.py").is_file():
            raise SetupError(
                f"{ROOT}/launch is not there: run {command} from a checkout of the project, not from a package"
            )
        if config.scheduler != LOCAL and Path.cwd() != ROOT:
            raise SetupError(f"jobs of a scheduler begin in the checkout: run {command} in {ROOT}")

    def start(self, spec: JobSpec) -> Job:
        """Start a job.

        Raises:
            OSError: its folder cannot be written, or no process be started.
        """
        if self._config.scheduler == LOCAL:
            return Job(spec, _launcher(spec), self._timeout_s)
        return Job(spec, [*self._client(spec), *self._submission(spec)], None)

    def find(self, spec: JobSpec) -> Job | None:
        """A scheduler's job that an earlier start has left; None if there is none to be waited for."""
        if self._config.scheduler == LOCAL or not spec.handle.exists():
            return None
        return Job(spec, [*self._client(spec), "--attach"], None)

    def _client(self, spec: JobSpec) -> list[str]:
        limits = ["--handle", str(spec.handle), "--timeout-s", str(self._timeout_s)]
        return [sys.executable, str(ROOT / "launch" / "submit.py"), *limits]

    def _submission(self, spec: JobSpec) -> list[str]:
        """Words of ``torchx run``."""
        config, (hosts, ranks) = self._config, spec.shape
        settings = ["-cfg", config.scheduler_args] if config.scheduler_args else []
        component = ["-j", f"{hosts}x{ranks}", "--config", str(spec.config)]
        component += ["--error_file", str(spec.error), *shlex.split(config.component_args)]
        return [
            "--",
            "-s",
            config.scheduler,
            *settings,
            f"{COMPONENTS}:{spec.component}",
            *component,
            "--",
            *spec.words,
        ]


def _launcher(spec: JobSpec) -> list[str]:
    ranks = ["--standalone", "--local-addr", "localhost", "--nproc-per-node", str(spec.shape[1])]
    program = [str(ROOT / "dlrm_main.py"), spec.component, "--config", str(spec.config), *spec.words]
    return [sys.executable, str(ROOT / "launch" / "elastic.py"), *ranks, "--max-restarts", "0", *program]


def _environment(spec: JobSpec) -> dict[str, str]:
    """Of a job: this process's, without what launchers above it have set."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_RANKS}
    kept = {name: value for name, value in kept.items() if not name.startswith(_OF_LAUNCHERS)}
    return {**kept, "DLRM_CLIENT": str(os.getpid()), "TORCHELASTIC_ERROR_FILE": str(spec.error)}


def await_gone(process: int, folder: Path) -> None:
    """Wait until a process that an earlier start has left is gone, and end it if it does not go by itself.

    A launcher whose client was killed needs some seconds for its ranks.

    Args:
        process: its id, which may be another process's by now.
        folder: of its job, which its command line names.
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
