"""Library chatter goes to a file of the run, not to the terminal.

torch, torchrec and fbgemm warn about things that the user of this program can do nothing about. From
:func:`capture_logs` on, Python warnings and log records are kept in memory, and so are tracebacks of threads, which whoever
waits for the thread tells of; :func:`open_log` moves them, and all later ones, into the run's folder, and the stacks of a
process that crashes.
"""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import os
import sys
import threading
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from dlrm.format import printable
from dlrm.run.secondary import Warn, reason

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_early = logging.handlers.MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1)


class _LogFile(logging.FileHandler):
    """A rank's log, which is given up, and told of once, where it cannot be written."""

    def __init__(self, path: Path, warn: Warn) -> None:
        self._warn: Warn | None = warn
        try:
            super().__init__(path, encoding="utf-8")
        except OSError:  # told of with the first record
            super().__init__(path, encoding="utf-8", delay=True)

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)  # hosts need not share the folder
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; where the file is opened only now, logging would let that fail."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Tell once; logging would print a traceback for every record."""
        warn, self._warn = self._warn, None
        error = sys.exc_info()[1]
        if warn is not None and isinstance(error, Exception):
            warn(f"warning: {self.baseFilename}: {reason(error)}; the log is not complete, the run goes on")


def capture_logs() -> None:
    """Keep warnings and log records from the terminal; call before the libraries are imported."""
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_error
    leave_terminal()
    logging.root.addHandler(_early)
    logging.root.setLevel(logging.INFO)


def open_log(folder: Path, rank: int, warn: Warn) -> None:
    """Write what was captured and what follows to ``<folder>/log/rank<rank>.log``; ``warn`` is told if that fails."""
    handler = _LogFile(folder / "log" / f"rank{rank}.log", warn)
    handler.setFormatter(_Printable(_FORMAT))
    logging.root.addHandler(handler)
    _early.setTarget(handler)
    _early.flush()
    logging.root.removeHandler(_early)
    leave_terminal()
    _log_crashes(Path(handler.baseFilename))


def _log_crashes(path: Path) -> None:
    """Have a crash outside of Python (SIGSEGV, SIGABRT, SIGBUS, ...) leave the stacks of all threads in the log."""
    with suppress(OSError), path.open("a") as file:
        faulthandler.enable(os.dup(file.fileno()))  # for good: it has to be open when it is too late to open it


class _Printable(logging.Formatter):
    """Records may quote names of the user's data, and people print files."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


def _log_thread_error(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None and hook.exc_type is not SystemExit:
        traced = (hook.exc_type, hook.exc_value, hook.exc_traceback)
        logging.getLogger(__name__).error("thread %s failed", hook.thread and hook.thread.name, exc_info=traced)


def leave_terminal() -> None:
    """Take the handlers that libraries gave loggers off the terminal; the records reach the root's file all the same."""
    for logger in (logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))):
        for handler in list(logger.handlers):
            if _writes_to_terminal(handler):
                logger.removeHandler(handler)
                logger.propagate = True


def _writes_to_terminal(handler: logging.Handler) -> bool:
    """By the stream it has, which need not make it a StreamHandler: torch's, from 2.14 on, asks for sys.stderr anew."""
    if isinstance(handler, logging.FileHandler):
        return False
    try:
        return getattr(handler, "stream").fileno() in (1, 2)  # noqa: B009
    except (AttributeError, OSError, ValueError):  # no stream, not a real file, or closed
        return False
