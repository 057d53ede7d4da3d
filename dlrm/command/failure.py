"""How a process leaves after an error, so that the terminal ends with the cause and no rank stays behind.

A failure is of one of five kinds:

* *user*: what the user can mend: a :class:`~dlrm.errors.DlrmError`, a missing package, or memory and files that the
  machine refuses (``command/refusals.py``). One line, exit code 2, no traceback but in the log. Most are found by every
  rank alike, so ranks other than 0 give rank 0 a moment to be the one who says it.
* *interrupt*: Ctrl-C. One line, exit code 130.
* *peer*: an operation that failed because another rank left: the consequence of a failure, not its cause. The rank
  stays silent and waits for the launcher to end it; only if nobody does, it speaks after all.
* *timeout*: a *peer*'s, of a rank that waited in vain for one that is still there: stuck, or too slow.
* *bug*: everything else. The traceback and a last line that names the rank; exit code 1.

Who speaks: under ``launch/elastic.py`` (it sets ``DLRM_LAUNCHER``) a rank prints nothing, but writes traceback and
last line to torchelastic's error file (``TORCHELASTIC_ERROR_FILE``), and the launcher prints those of the rank that
failed first after all ranks have ended. Under plain torchrun or python the rank prints them itself.

Nothing here calls a collective or waits for a peer, and :func:`leave` ends with ``os._exit``: an orderly shutdown could
hang in a process group whose other ranks are gone.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, TypeGuard

from dlrm.command.refusals import causes, may_pass, refusal
from dlrm.distributed import called, faults
from dlrm.errors import USER_ERROR_EXIT_CODE, DlrmError, StoppedBySignal
from dlrm.files import written_beside
from dlrm.format import printable
from dlrm.run import heartbeat
from dlrm.signals import stop_was_asked

BUG_EXIT_CODE = 1
INTERRUPT_EXIT_CODE = 130
LAUNCHER_VARIABLE = "DLRM_LAUNCHER"  # process id of launch/elastic.py, which sets it for its workers
PEER_PATIENCE_S = 20.0  # a job must be down 30 s after the first failure
USER_PATIENCE_S = 6.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LONGEST_SUMMARY = 500

_STDOUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE, errno.EIO)
# Subclasses of torch.distributed.DistError, which need no text to be a peer's; gloo raises plain RuntimeErrors.
_PEER_TYPES = ("DistBackendError", "DistNetworkError", "DistStoreError")

Kind = Literal["user", "interrupt", "peer", "timeout", "bug"]


@dataclass(frozen=True)
class Verdict:
    """What a failure means to the person at the terminal.

    Attributes:
        kind: as the module says.
        line: the last line to print (only a ConfigError with several mistakes has more).
        details: what to print before it, usually a traceback; may be empty.
        exit_code: of this process.
    """

    kind: Kind
    line: str
    details: str
    exit_code: int


def follow_launcher() -> None:
    """Have the kernel kill this process when its launcher dies, even by SIGKILL; call it before anything slow.

    Without a launcher (torchelastic sets ``TORCHELASTIC_RUN_ID``) that is all. Linux only. It does not reach
    processes that this one starts, nor other hosts: there the next collective fails and the rank leaves as a *peer*.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        os.kill(int(os.environ.get(LAUNCHER_VARIABLE, parent)), 0)
    except ProcessLookupError:  # the launcher died before the call above
        os._exit(BUG_EXIT_CODE)
    if os.getppid() != parent:
        os._exit(BUG_EXIT_CODE)


def leave(error: BaseException) -> NoReturn:
    """End this process after ``error``: say what has to be said, exactly once per job, and exit.

    Call it in the ``except BaseException`` around everything a command does. The rank is read from the launcher's
    environment variables, because the process group may not exist yet or no longer answer.
    """
    try:
        _leave(error)
    except KeyboardInterrupt as interrupt:  # it came while the rank was in C++, and the error is what ended that
        _leave(interrupt)


def _leave(error: BaseException) -> NoReturn:
    if _is_of_reader(error):
        _exit(0)
    if isinstance(error, SystemExit):  # --help, or a parser that has spoken already
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        lost = _last_words()
        _exit(code or lost)
    rank, world_size = _place()
    verdict = judge(error, rank=rank, world_size=world_size)
    _write_to_log_files(error, verdict)
    heartbeat.end(verdict.kind, verdict.line or summary(error), signal=_signal(error))
    told = False
    if verdict.kind in ("peer", "timeout") and LAUNCHER_VARIABLE in os.environ:
        told = _hand_to_launcher(error, verdict)  # at once: who has not said anything is the one all wait for
    if world_size > 1:
        _wait_to_be_ended(_patience_s(verdict.kind, rank))
    if not told and not (_hand_to_launcher(error, verdict) and LAUNCHER_VARIABLE in os.environ):
        _say(verdict, rank)
    _exit(verdict.exit_code)


def _signal(error: BaseException) -> str | None:
    """The name of the signal that asked for this end."""
    if isinstance(error, StoppedBySignal):
        return signal.Signals(error.number).name
    return signal.SIGINT.name if isinstance(error, KeyboardInterrupt) else None


def _last_words() -> int:
    """Print what was not printed yet, and return the exit code: that of an error where it is lost."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # who has read enough, ``head`` say, misses nothing
        return 0
    except OSError as error:
        with suppress(OSError):
            sys.stderr.write(f"{_cannot_print(error)}\n")
        return USER_ERROR_EXIT_CODE
    return 0


def judge(error: BaseException, *, rank: int, world_size: int) -> Verdict:
    """Which kind of failure ``error`` is, and what to say about it.

    Any error may quote names and values of the user's data, so nothing that a terminal would obey is left in what is said.
    """
    verdict = _judge(error, rank=rank, world_size=world_size)
    line, details = (printable(text, keep="\n\t") for text in (verdict.line, verdict.details))
    return replace(verdict, line=line, details=details)


def _judge(error: BaseException, *, rank: int, world_size: int) -> Verdict:
    who = f"rank {rank}" if world_size > 1 else ""
    details = "".join(traceback.format_exception(error))
    if isinstance(error, KeyboardInterrupt):
        return Verdict(kind="interrupt", line="interrupted", details="", exit_code=INTERRUPT_EXIT_CODE)
    if isinstance(error, StoppedBySignal):
        return Verdict(kind="interrupt", line=str(error), details="", exit_code=128 + error.number)
    if isinstance(error, DlrmError):
        line = f"{who}: {error}" if rank else str(error)
        kind: Kind = "peer" if world_size > 1 and is_peer_failure(error) else "user"
        code = BUG_EXIT_CODE if error.may_pass else USER_ERROR_EXIT_CODE
        return Verdict(kind=kind, line=line, details="", exit_code=code)
    if isinstance(error, ModuleNotFoundError) and (error.name or "dlrm").partition(".")[0] != "dlrm":
        line = (
            f"the package {error.name} is not installed for {sys.executable}; run `make install`, use .venv/bin/python"
        )
        return Verdict(kind="user", line=line, details="", exit_code=USER_ERROR_EXIT_CODE)
    if _is_of_stdout(error):
        return Verdict(kind="user", line=_cannot_print(error), details="", exit_code=USER_ERROR_EXIT_CODE)
    if refused := refusal(error):  # before what may be a peer's: NCCL's own errors can be those of memory
        line = f"{who}: {refused}" if who else refused
        code = BUG_EXIT_CODE if may_pass(error) else USER_ERROR_EXIT_CODE
        return Verdict(kind="user", line=line, details="", exit_code=code)
    if world_size > 1 and _is_timeout(error):
        line = f"{who} got no answer from another rank within distributed.timeout_s: {summary(error)}{_waited(error)}"
        return Verdict(kind="timeout", line=line, details="", exit_code=BUG_EXIT_CODE)
    if world_size > 1 and is_peer_failure(error):
        line = f"{who} lost another rank, and none on this host has said why: {summary(error)}{_waited(error)}"
        return Verdict(kind="peer", line=line, details="", exit_code=BUG_EXIT_CODE)
    line = f"{who} failed: {summary(error)}" if who else ""  # alone, the traceback's last line says it
    return Verdict(kind="bug", line=line, details=details, exit_code=BUG_EXIT_CODE)


def _is_of_reader(error: BaseException) -> bool:
    """Whether a command that prints has ended because who read it, ``head`` say, has enough and misses nothing."""
    if isinstance(error, SystemExit):  # what rich makes of it
        return isinstance(error.__context__, BrokenPipeError)
    return isinstance(error, BrokenPipeError) and _is_of_stdout(error)


def _is_of_stdout(error: BaseException) -> TypeGuard[OSError]:
    """Whether ``error`` is that of printing: the disk behind standard output is full, or nobody reads the pipe any more.

    The error does not say so itself, but then another line cannot be printed either.
    """
    if not isinstance(error, OSError) or error.filename is not None or error.errno not in _STDOUT_ERRORS:
        return False
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _cannot_print(error: OSError) -> str:
    return f"standard output cannot be written to ({error.strerror}); send it somewhere else"


def is_peer_failure(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, is a failed connection to another rank and no cause of its own.

    A cause taken for a consequence costs :data:`PEER_PATIENCE_S` of waiting, not the message: it is printed then.
    """
    return any(
        (type(link).__name__ in _PEER_TYPES and not faults.is_own(str(link)))
        or (isinstance(link, RuntimeError) and faults.is_of_peer(str(link)))
        for link in causes(error)
    )


def summary(error: BaseException) -> str:
    """Type of an error, and the line that says most."""
    told = faults.told(error)
    line = f"{type(error).__name__}: {told}" if told else type(error).__name__
    return line if len(line) <= _LONGEST_SUMMARY else line[: _LONGEST_SUMMARY - 3] + "..."


def _waited(error: BaseException) -> str:
    """In which collective a rank waited, and where, in words; nothing where neither is known."""
    last = called.last_called()
    words = [last[-1].name] if last else []
    words += [place] if (place := called.caller(error)) else []
    return f" (in {', '.join(words)})" if words else ""


def _is_timeout(error: BaseException) -> bool:
    return any(faults.is_timeout(str(link)) for link in causes(error) if isinstance(link, RuntimeError))


def _place() -> tuple[int, int]:
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:  # the error being reported may be just this
        return 0, 1


def _patience_s(kind: Kind, rank: int) -> float:
    """Seconds to wait for the launcher to end this rank because another one has said, or says better, what happened."""
    if kind in ("peer", "timeout"):
        return PEER_PATIENCE_S
    if kind == "user" and rank:
        return USER_PATIENCE_S + 0.25 * min(rank, 16)  # staggered: of several ranks the lowest speaks
    return 0.0


def _wait_to_be_ended(seconds: float) -> None:
    if stop_was_asked():  # the launcher has asked already, while training still hoped to save
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever a trainer did on SIGTERM is of no use any more
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    time.sleep(seconds)


def _write_to_log_files(error: BaseException, verdict: Verdict) -> None:
    """Every rank's own log keeps its error, whoever speaks to the terminal."""
    logger: logging.Logger | None = logging.getLogger("dlrm")
    record = logging.getLogger("dlrm").makeRecord(
        "dlrm", logging.ERROR, __file__, 0, "%s failure: %s", (verdict.kind, summary(error)),
        exc_info=None if verdict.kind == "interrupt" else (type(error), error, error.__traceback__),
    )  # fmt: skip
    while logger is not None:
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
        logger = logger.parent if logger.propagate else None


def _hand_to_launcher(error: BaseException, verdict: Verdict) -> bool:
    """Write torchelastic's error file, whole or not at all: the agent reads it when this process has ended.

    The first part is torchelastic's own format, from which torchrun and torchx name the root cause; ``dlrm`` is for
    launch/elastic.py.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return False
    now_s = time.time()
    content: dict[str, dict[str, object]] = {
        "message": {
            "message": verdict.line or summary(error),
            "errorCode": verdict.exit_code,
            "extraInfo": {"py_callstack": verdict.details or verdict.line, "timestamp": str(int(now_s))},
        },
        "dlrm": {"kind": verdict.kind, "line": verdict.line, "details": verdict.details, "time_s": now_s},
    }
    if verdict.kind in ("peer", "timeout"):
        content["dlrm"] |= {"called": called.last_called(), "caller": called.caller(error)}
    try:
        with written_beside(Path(path), durable=False) as file:
            file.write(json.dumps(content).encode())
    except OSError:  # a full disk, say: then the rank speaks for itself
        return False
    return True


def _say(verdict: Verdict, rank: int) -> None:
    if verdict.kind == "interrupt" and rank:
        return
    text = verdict.details + (f"{verdict.line}\n" if verdict.line else "")
    for speak in (sys.stdout.flush, partial(sys.stderr.write, text)):
        with suppress(OSError):  # nobody reads any more, of one of the two perhaps
            speak()


def _exit(code: int) -> NoReturn:
    with suppress(Exception):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
