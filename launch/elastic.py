"""torchrun for people: the same arguments, but when the job fails, its cause is the last thing on the terminal.

It runs torch.distributed.run in this process. What it adds:

* The ranks hand their errors over (``dlrm/command/failure.py`` writes them into torchelastic's error files), and when
  all ranks have ended, those of the rank that failed first are printed: a traceback unless the user can mend it, and a
  line that names the rank. torchrun's own report is left out; ``LOGLEVEL=INFO`` brings its log back.
* The exit code is that of the rank that failed first (2: the user can mend it), 128 + n after signal n, 130 after
  Ctrl-C.
* Where ranks are started again (``--max-restarts``), a line says why; what the user has to mend ends the job at once.
* SIGUSR1, by which schedulers announce the end of a job's time, is passed on to each rank as soon as it listens, which
  saves then.
* No process is left behind: workers follow this process (``follow_launcher`` in ``dlrm/command/failure.py``), and
  this process follows the torchx client that started it, where components/dlrm.py names one.
* The cores of the host are divided among its ranks (``OMP_NUM_THREADS``), unless the user has set a number.

It needs torch and the standard library only, so that any script can be started with it. The cause is that of this
host: in a job over several hosts, the host of the rank that failed first prints it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAUNCHER_VARIABLE = "DLRM_LAUNCHER"  # read by the ranks: this process reports their errors and must not be outlived
CLIENT_VARIABLE = "DLRM_CLIENT"  # set by components/dlrm.py: process id of the torchx client
CTRL_C = "interrupted"
USER_ERROR_EXIT_CODE = 2  # as in dlrm/errors.py
SHUTDOWN_S = 8  # what ranks get to end after a signal; torchx's local scheduler kills the launcher after 10 s
OUTPUT_SETTLES_S = 0.3  # torchx copies stdout and stderr separately, every 0.1 s; the cause shall come last
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


@dataclass(frozen=True)
class Failure:
    """How one rank of this host ended.

    Attributes:
        rank: global rank.
        exit_code: of its process; negative: the signal that ended it.
        time_s: when, seconds since the epoch; whole seconds where the rank could not say.
        kind: user, interrupt, peer or bug as in dlrm/command/failure.py; empty if the rank wrote no report.
        line, details: what to print.
    """

    rank: int
    exit_code: int
    time_s: float
    kind: str = ""
    line: str = ""
    details: str = ""

    @classmethod
    def of(cls, rank: int, exit_code: int, time_s: float, report: Mapping[str, Any]) -> Failure:
        """From what torchelastic knows; ``report`` is the content of the rank's error file."""
        told = report.get("dlrm")
        if isinstance(told, dict):
            return cls(rank, exit_code, **{name: told[name] for name in ("time_s", "kind", "line", "details")})
        message = report.get("message")
        if isinstance(message, dict):  # a script that uses torchelastic's own @record
            callstack = str(message.get("extraInfo", {}).get("py_callstack", ""))
            return cls(rank, exit_code, time_s, "bug", f"rank {rank} failed: {message.get('message')}", callstack)
        return cls(rank, exit_code, time_s)

    def order(self) -> tuple[int, float]:
        """Sorts the failure that began it all first: causes, then what may be one, then what the launcher did."""
        if self.kind in ("user", "bug") or -self.exit_code in _FAULTS or (self.exit_code > 0 and not self.kind):
            return 0, self.time_s
        if self.exit_code == -signal.SIGKILL:
            return 1, self.time_s
        return (2 if self.kind == "peer" else 3), self.time_s

    def text(self) -> str:
        """What to print, ending with one line that says what happened; empty if the rank has said it."""
        if self.kind:
            return self.details + (f"{self.line}\n" if self.line else "")
        if self.exit_code > 0:
            return f"rank {self.rank} failed: exit code {self.exit_code}\n"
        name = signal.Signals(-self.exit_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"rank {self.rank} was killed by {name}{hint}\n"


def main(arguments: Sequence[str]) -> int:
    """Run ``arguments`` as torchrun would and return the exit code."""
    try:
        follow_client()
        requests = SaveRequests()
        signal.signal(signal.SIGUSR1, requests.note)
        os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_S))
        if "LOGLEVEL" not in os.environ:
            logging.disable(logging.CRITICAL)
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a stack of C++ frames for each closed connection
        if "PET_LOG_DIR" in os.environ:  # torchx has set it
            return run(arguments, requests)
        with tempfile.TemporaryDirectory(prefix="dlrm_launch_") as folder:
            os.environ["PET_LOG_DIR"] = folder  # torchelastic would leave its own folder behind
            return run(arguments, requests)
    except KeyboardInterrupt:
        return _after_signal(signal.SIGINT)


def run(arguments: Sequence[str], requests: SaveRequests) -> int:
    """Start the ranks, wait for them, and report the first failure."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there under python -P
    import rendezvous  # takes seconds, as torch does; Ctrl-C is handled by now
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = torchrun.parse_args(list(arguments))  # type: ignore[no-untyped-call]
    _take_over_ctrl_c(options)
    _watch_agent(requests)
    try:
        rendezvous.prepare(options)
        _divide_cores(torchrun.determine_local_world_size(options.nproc_per_node))
        torchrun.run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as job:
        failures = [
            Failure.of(rank, ended.exitcode, float(ended.timestamp), ended.error_file_data)
            for rank, ended in job.failures.items()
        ]
        return report(min(failures, key=Failure.order))
    except SignalException as caught:
        return _after_signal(signal.SIGINT if caught.args == (CTRL_C,) else caught.sigval)
    except rendezvous.LaunchError as error:
        return _launch_failed(str(error), error.exit_code)
    except Exception as error:  # no rank failed: the arguments are wrong, or torch is
        return _launch_failed(f"{type(error).__name__}: {error}", 1)
    return 0


def report(failure: Failure) -> int:
    """Print why the job failed, last of all, and return its exit code."""
    text = failure.text()
    code = failure.exit_code if failure.exit_code > 0 else 128 - failure.exit_code
    sys.stdout.flush()
    time.sleep(OUTPUT_SETTLES_S)
    sys.stderr.write(_fresh_line() + text)
    sys.stderr.flush()
    _tell_client(failure.line or text.strip(), failure.details, code)
    return code


def _launch_failed(cause: str, code: int) -> int:
    line = f"launch failed: {cause}"
    sys.stderr.write(f"{_fresh_line()}{line}\n")
    _tell_client(line, "", code)
    return code


def follow_client() -> None:
    """Be ended by the kernel when the torchx client on this host ends, even by SIGKILL.

    Only where the client started this very process: under a cluster's scheduler the client may go.
    """
    if os.environ.get(CLIENT_VARIABLE) == str(os.getppid()) and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _take_over_ctrl_c(options: argparse.Namespace) -> None:
    """End the ranks by SIGTERM on Ctrl-C.

    torchelastic would pass SIGINT on, which a rank that waits in C++ sees late or never.
    """
    signals = [name for name in options.signals_to_handle.split(",") if name != "SIGINT"]
    options.signals_to_handle = ",".join(signals)
    signal.signal(signal.SIGINT, _end_ranks)


def _end_ranks(number: int, frame: object) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException

    raise SignalException(CTRL_C, sigval=signal.SIGTERM)


class SaveRequests:
    """SIGUSR1, passed on to every rank once; one that does not listen yet, and would be ended by it, is waited for."""

    def __init__(self) -> None:
        self._asked = self._pending = False
        self._passed_on: set[int] = set()

    def note(self, number: int, frame: object) -> None:
        """Handle the signal."""
        self._asked = True

    def pass_on(self, pids: Collection[int]) -> None:
        """Tell those of these ranks that listen and were not told yet; call it now and then."""
        if self._asked:
            self._asked, self._pending = False, True
            self._passed_on.clear()
        if not self._pending:
            return
        for pid in pids:
            if pid not in self._passed_on and _listens(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)
                self._passed_on.add(pid)
        self._pending = not self._passed_on.issuperset(pids)


def _listens(pid: int) -> bool:
    """Whether a process catches SIGUSR1 or holds it for later (sigwait in its main thread alone is not seen).

    Where the system does not say, yes.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return not sys.platform.startswith("linux")
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt:", "SigBlk:"))]
    return any(mask >> (signal.SIGUSR1 - 1) & 1 for mask in masks)


def _watch_agent(requests: SaveRequests) -> None:
    """Look over torchelastic's shoulder: tell of restarts, prevent those that cannot help, pass SIGUSR1 on.

    Its agent has no place to hook in, so two of its methods are wrapped; where a later version has others, restarts are
    silent.
    """
    from torch.distributed.elastic.agent.server import local_elastic_agent

    agent_class: Any = local_elastic_agent.LocalElasticAgent
    monitor, restart = agent_class._monitor_workers, agent_class._restart_workers
    failures: list[Failure] = []

    def monitored(agent: Any, group: Any) -> Any:  # about ten times a second
        requests.pass_on(agent._pcontext.pids().values())
        result = monitor(agent, group)
        failures[:] = [
            Failure.of(rank, ended.exitcode, float(ended.timestamp), ended.error_file_data)
            for rank, ended in result.failures.items()
        ]
        if any(failure.exit_code == USER_ERROR_EXIT_CODE for failure in failures):
            agent._remaining_restarts = 0
        return result

    def restarted(agent: Any, group: Any) -> None:
        lost_host = getattr(group.spec.rdzv_handler, "cause", "")
        cause = lost_host or "hosts have joined or left"
        if failures:
            cause = min(failures, key=Failure.order).text().strip().rpartition("\n")[2] or "a rank failed"
        left = agent._remaining_restarts
        sys.stderr.write(f"{_fresh_line()}{cause}; starting all ranks again ({left} more time(s) at most)\n")
        sys.stderr.flush()
        if lost_host:  # the ranks wait for those of that host, and would be waited for for 30 s
            agent._shutdown(timeout=SHUTDOWN_S)
        restart(agent, group)

    agent_class._monitor_workers, agent_class._restart_workers = monitored, restarted


def _divide_cores(ranks: int) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))


def _after_signal(number: signal.Signals) -> int:
    if number == signal.SIGINT:  # who sent another signal knows why
        sys.stderr.write(_fresh_line() + f"{CTRL_C}\n")
    return 128 + number


def _fresh_line() -> str:
    """Where a rank may have left a progress bar unfinished: go to the next line and show the cursor again."""
    terminal = sys.stderr.isatty() or os.environ.get("TTY_INTERACTIVE") == "1"  # the latter from launch/local.py
    return "\n\033[?25h" if terminal else ""


def _tell_client(line: str, details: str, code: int) -> None:
    """Leave the cause where torchx looks for it (the error file it named for this process)."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    extra = {"py_callstack": details or line, "timestamp": str(int(time.time()))}
    with suppress(OSError):
        Path(path).write_text(json.dumps({"message": {"message": line, "errorCode": code, "extraInfo": extra}}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
