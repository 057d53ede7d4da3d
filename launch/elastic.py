"""torchrun for people: the same arguments, but when the job fails, its cause is the last thing on the terminal.

It runs torch.distributed.run in this process. What it adds:

* The ranks hand their errors over (``dlrm/command/failure.py`` writes them into torchelastic's error files), and when
  all ranks have ended, those of the rank that failed first are printed: a traceback unless the user can mend it, and a
  line that names the rank. torchrun's own report is left out; ``LOGLEVEL=INFO`` brings its log back.
* The exit code is that of the rank that failed first (2: the user can mend it), 128 + n after signal n, 130 after
  Ctrl-C.
* Where ranks are started again (``--max-restarts``), a line says why; what the user has to mend ends the job at once.
* SIGTERM, SIGHUP and Ctrl-C end the ranks by SIGTERM, so that they can save; what is ignored (SIGHUP under nohup) stays
  so. SIGUSR1, by which schedulers announce the end of a job's time, is passed on to each rank as soon as it listens,
  which saves then. Where Slurm can start the job again, the ranks save and stop, and it is asked to.
* No process is left behind: workers follow this process (``follow_launcher`` in ``dlrm/command/failure.py``), and
  this process follows the torchx client that started it, where components/dlrm.py names one.
* The cores of the host are divided among its ranks (``OMP_NUM_THREADS``), unless the user has set a number.

It needs torch and the standard library only, so that any script can be started with it. In a job over several hosts the
launchers tell each other the cause (launch/causes.py): all of them print it and end with its exit code.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there under python -P

import elastic_agent
import scheduler
from elastic_signals import SaveRequests, StopRequests
from failures import STOP, USER_ERROR_EXIT_CODE, Failure, NoOthers, Others, cause
from launch_output import can_write_temporary_files, open_closed_streams, write
from times import LOST_HOST_SHUTDOWN_S

LAUNCHER_VARIABLE = "DLRM_LAUNCHER"  # read by the ranks: this process reports their errors and must not be outlived
CLIENT_VARIABLE = "DLRM_CLIENT"  # set by components/dlrm.py: process id of the torchx client
CTRL_C = "interrupted"
RESTART_CAUSE_VARIABLE = "DLRM_RESTART_CAUSE"  # read by ranks that are started again: why they are
UNTRAINED_ATTEMPTS = 3  # after so many that came to no step before their time was up, another would not either
OUTPUT_SETTLES_S = 0.3  # torchx copies stdout and stderr separately, every 0.1 s; the cause shall come last
_FOLDER_PREFIX = "dlrm_launch_"
_TIME_UP = 128 + signal.SIGUSR1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: Sequence[str]) -> int:
    """Run ``arguments`` as torchrun would and return the exit code."""
    open_closed_streams()
    follow_client()
    job: scheduler.SlurmJob | None = None
    saves, stops = SaveRequests(lambda: _stops_in_s(job)), StopRequests(leave=_leave_at_once)
    watch = _Watch(saves, stops)
    signal.signal(signal.SIGUSR1, saves.note)
    stops.take_over()
    job = scheduler.SlurmJob.ask()
    if not can_write_temporary_files():
        return _tell_scheduler(USER_ERROR_EXIT_CODE, job, watch)
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    try:
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(scheduler.shutdown_s()))
    except ValueError as error:
        return _tell_scheduler(_failed(f"launch failed: {error}", USER_ERROR_EXIT_CODE), job, watch)
    if scheduler.nobody_watches():
        os.environ.update(TTY_COMPATIBLE="0", TTY_INTERACTIVE="0")  # read by rich, in the ranks
    # Ranks wait for each other in init_process_group: one with nothing else to do would leave while another connects to it.
    os.environ.setdefault("TORCH_DIST_INIT_BARRIER", "1")
    if "LOGLEVEL" not in os.environ:
        logging.disable(logging.CRITICAL)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a stack of C++ frames for each closed connection
    gc.disable()  # until all is imported: it makes no garbage, and looking for some takes a sixth of the time
    from torch.distributed.elastic.multiprocessing import SignalException  # takes seconds

    try:
        stops.raise_from_now_on()
        if "PET_LOG_DIR" in os.environ:  # torchx has set it
            return _tell_scheduler(run(arguments, watch, stops), job, watch)
        with tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX) as folder:
            os.environ["PET_LOG_DIR"] = folder  # torchelastic would leave its own folder behind
            return _tell_scheduler(run(arguments, watch, stops), job, watch)
    except SystemExit as mistake:  # torchrun's parser has printed what is wrong with the arguments
        return _tell_scheduler(int(mistake.code or 0), job, watch)
    except SignalException as caught:
        return _tell_scheduler(_after_signal(stops.first or caught.sigval), job, watch)


def _stops_in_s(job: scheduler.SlurmJob | None) -> float | None:
    seconds = job.stops_in_s() if job else None
    if job and seconds is None:
        line = "SIGUSR1: saving and going on; Slurm is not to start this job again, or cannot be asked here (scontrol)"
        write(sys.stderr, f"{_fresh_line()}{line}\n")
    return seconds


def _tell_scheduler(code: int, job: scheduler.SlurmJob | None, watch: _Watch) -> int:
    """Have Slurm start the job again, or see that it does not; the exit code."""
    if job is None or code == 0:
        return code
    problem = ""
    if code == USER_ERROR_EXIT_CODE:
        problem = job.never_again()
    elif job.requeues and _gets_more_time(code, job, watch):
        write(sys.stderr, f"{_fresh_line()}the job's time is up, or SIGUSR1 said so: Slurm starts it again\n")
        problem = job.requeue()
    if problem:
        write(sys.stderr, f"{_fresh_line()}{problem}\n")
    return code


def _gets_more_time(code: int, job: scheduler.SlurmJob, watch: _Watch) -> bool:
    time_is_up = watch.time_is_up or (code == 128 + signal.SIGTERM and job.is_over_time())
    return time_is_up and (watch.has_trained or scheduler.attempts_before() < UNTRAINED_ATTEMPTS)


def run(arguments: Sequence[str], watch: _Watch, stops: StopRequests) -> int:
    """Start the ranks, wait for them, and report the first failure."""
    import rendezvous  # takes seconds, as torch does; signals are handled by now
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    gc.freeze()
    gc.enable()
    options = torchrun.parse_args(list(arguments))  # type: ignore[no-untyped-call]
    options.signals_to_handle = stops.left_to_torchelastic(options.signals_to_handle)
    elastic_agent.watch(watch, shutdown_s=LOST_HOST_SHUTDOWN_S)
    try:
        rendezvous.prepare(options)
        _divide_cores(torchrun.determine_local_world_size(options.nproc_per_node))
        torchrun.run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as job:
        watch.failures = watch.failures or _failures(job.failures)
    except SignalException:
        watch.others.wait_until_told()
        if not watch.ended_by_others():
            raise
    except rendezvous.JobEnded as ended:
        return watch.report(ended.failures)
    except rendezvous.LaunchError as error:
        if not watch.ended_by_others():
            return _failed(str(error) if watch.has_looked else f"launch failed: {error}", error.exit_code)
    except Exception as error:  # no rank failed: the arguments are wrong, or torch is
        return _failed(f"launch failed: {type(error).__name__}: {error}", 1)
    return watch.report()


def report(failures: Collection[Failure]) -> int:
    """Print why the job failed, last of all, and return the exit code of the rank that failed first."""
    failure, text = min(failures, key=Failure.order), cause(failures)
    write(sys.stdout, "")
    time.sleep(OUTPUT_SETTLES_S)
    write(sys.stderr, _fresh_line() + text)
    _tell_client(text.removeprefix(failure.details).strip(), failure.details, failure.code)
    return failure.code


def _failed(line: str, code: int) -> int:
    write(sys.stderr, f"{_fresh_line()}{line}\n")
    _tell_client(line, "", code)
    return code


def follow_client() -> None:
    """Be ended by the kernel when the torchx client on this host ends, even by SIGKILL, and even if it just has.

    Only where the client started this very process: under a cluster's scheduler the client may go.
    """
    client = os.environ.get(CLIENT_VARIABLE, "")
    if not client.isdecimal() or not sys.platform.startswith("linux"):
        return
    was_parent = os.getppid() == int(client)
    if was_parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # Two of the things that torchx's local schedulers set, and no other.
    by_client = "PET_LOG_DIR" in os.environ and os.environ.get("TORCHX_RANK0_HOST") == "localhost"
    if os.getppid() != int(client) and (was_parent or (by_client and _is_gone(int(client)))):
        os._exit(1)  # nobody is there to be told


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class _Watch:
    """Told of what the agent does: tells of restarts, prevents those that cannot help, passes signals on.

    Attributes:
        failures: of the last ranks of this host that failed, as they become known.
        others: what the launchers of other hosts say.
        has_looked: whether ranks have been started.
    """

    def __init__(self, saves: SaveRequests, stops: StopRequests) -> None:
        self._saves, self._stops = saves, stops
        self._ended: set[int] = set()  # process ids of ranks that this launcher had to end
        self._restarts_left = 0
        self.failures: list[Failure] = []
        self.others: Others = NoOthers()
        self.has_looked = False

    @property
    def time_is_up(self) -> bool:
        """Whether the ranks were to save and stop, so that the scheduler starts the job again; on this host or another."""
        told = any(failure.kind == STOP and failure.exit_code == _TIME_UP for failure in self.others.failures)
        return told or self._saves.stopping

    @property
    def has_trained(self) -> bool:
        """Whether ranks of this host have trained."""
        return self._saves.trained

    def looking(self, pids: Collection[int], rendezvous: Any, restarts_left: int) -> None:
        self.others = getattr(rendezvous, "others", self.others)
        self._restarts_left, self.has_looked = restarts_left, True
        self._stops.check()
        self._stops.ranks = pids
        self._saves.pass_on(pids)

    def seen(self, failures: Mapping[int, Any]) -> bool:
        self.failures = _failures(failures, self._ended)
        if not self.failures:
            self.others.look()
            self._stops.job_ends = self.others.job_ended
            self.others.end_with_job()
            return True
        self._tell_others(self.failures)
        if not any(failure.is_cause for failure in self.failures):
            self.others.wait_for_cause()
        return not self.others.job_ended and self._may_be_tried_again(self.failures)

    def ending(self, pids: Collection[int], failures: Mapping[int, Any]) -> None:
        self._ended.update(pids)
        if self._stops.first is not None:
            self.others.say([_stopped_by(self._stops.first)], final=True)
        elif failures:  # some ranks may take half a minute to end
            self._tell_others(_failures(failures, self._ended))

    def restarting(self, rendezvous: Any, restarts_left: int) -> bool:
        lost_host = getattr(rendezvous, "cause", "")
        if not self.failures and not lost_host and "left" in getattr(rendezvous, "news", ""):
            self.others.wait_for_cause()
        why = self._why_again(rendezvous)
        os.environ[RESTART_CAUSE_VARIABLE] = self._why_again(rendezvous, host=self.others.host)
        restarts_left -= not self.failures and bool(self.others.failures)  # which the others have counted already
        left = f"({restarts_left} more time(s) at most)"
        write(sys.stderr, f"{_fresh_line()}{why}; starting all ranks again {left}\n")
        self._ended.clear()
        # Those that still run wait for ranks of another host, and would be waited for for 30 s.
        return bool(lost_host or self.others.failures)

    def report(self, more: Sequence[Failure] = ()) -> int:
        """Have all hosts know why the job has failed, if it has, and say it; return the exit code."""
        self._stops.job_ends = True
        self.others.wait_until_told()
        told = self.others.failures or more
        if self._saves.stopping:  # as this host was: the others have been told the same
            told = [failure for failure in told if failure.kind != STOP]
        found = [*self.failures, *told]
        return report(found) if self.failures or more or self.ended_by_others() else 0

    def ended_by_others(self) -> bool:
        """Whether this job has ended because of another host.

        Where this one was told to stop, that has ended it, unless ranks of another one had failed before.
        """
        if self._stops.first is None:
            return self.others.job_ended and bool(self.others.failures)
        return any(failure.is_cause and failure.kind != STOP for failure in self.others.failures)

    def _tell_others(self, failures: list[Failure]) -> None:
        stopping = [_stopped_by(signal.SIGUSR1)] if self._saves.stopping else []
        final = not self._restarts_left or not self._may_be_tried_again(failures)
        self.others.say([*failures, *stopping], final=final)
        self._stops.job_ends = self.others.job_ended

    def _may_be_tried_again(self, failures: Collection[Failure]) -> bool:
        may_help = all(failure.exit_code != USER_ERROR_EXIT_CODE for failure in failures)
        return may_help and not self._saves.stopping

    def _why_again(self, rendezvous: Any, *, host: str = "") -> str:
        """In a line, in which this host is called ``host``."""
        found = [*(replace(failure, host=host) for failure in self.failures), *self.others.failures]
        if not any(failure.is_cause for failure in found) and (lost := _lost(rendezvous)):
            return lost
        if found:
            return cause(found).strip().rpartition("\n")[2] or "a rank failed"
        return getattr(rendezvous, "news", "") or "hosts have joined or left"


def _stopped_by(number: signal.Signals) -> Failure:
    how = "Ctrl-C" if number == signal.SIGINT else number.name
    line = f"was told to stop ({how}), and all ranks have stopped"
    return Failure(-1, 128 + number, time.time(), STOP, line)


def _lost(rendezvous: Any) -> str:
    """Which hosts are lost, in words, where the rendezvous knows."""
    return rendezvous.lost() if hasattr(rendezvous, "lost") else ""


def _failures(found: Mapping[int, Any], ended: Collection[int] = ()) -> list[Failure]:
    """From torchelastic's, by global rank."""
    return [
        Failure.of(rank, failure.exitcode, float(failure.timestamp), failure.error_file_data, failure.pid in ended)
        for rank, failure in found.items()
    ]


def _divide_cores(ranks: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, scheduler.cores() // ranks)))


def _leave_at_once(number: signal.Signals) -> int:
    folder = Path(os.environ.get("PET_LOG_DIR", ""))
    if folder.name.startswith(_FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
    return _after_signal(number)


def _after_signal(number: signal.Signals) -> int:
    line = CTRL_C if number == signal.SIGINT else f"stopped by {number.name}"
    _tell_client(line, "", 128 + number)
    write(sys.stderr, f"{_fresh_line()}{line}\n")
    return 128 + number


def _fresh_line() -> str:
    """Where a rank may have left a progress bar unfinished: go to the next line and show the cursor again."""
    terminal = (sys.stderr.isatty() and not scheduler.nobody_watches()) or os.environ.get(
        "TTY_INTERACTIVE"
    ) == "1"  # the latter from launch/local.py
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
    exit_code = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        write(stream, "")
    os._exit(exit_code)  # torch's tear-down has nothing left to do, and takes more than ten seconds on a busy machine
