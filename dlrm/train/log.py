"""Library chatter goes to a file of the run, not to the terminal.

torch, torchrec and fbgemm warn about things that the user of this program can do nothing about. From
:func:`capture_logs` on, Python warnings and log records are kept in memory; :func:`open_log` moves them, and all later
ones, into the run's folder.
"""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_early = logging.handlers.MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1)


def capture_logs() -> None:
    """Keep warnings and log records from the terminal; call before the libraries are imported."""
    logging.captureWarnings(True)
    _leave_terminal()
    logging.root.addHandler(_early)
    logging.root.setLevel(logging.INFO)


def open_log(folder: Path, rank: int) -> None:
    """Write what was captured and what follows to ``<folder>/log/rank<rank>.log``."""
    (folder / "log").mkdir(parents=True, exist_ok=True)  # hosts need not share the folder
    handler = logging.FileHandler(folder / "log" / f"rank{rank}.log")
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.root.addHandler(handler)
    _early.setTarget(handler)
    _early.flush()
    logging.root.removeHandler(_early)
    _leave_terminal()


def _leave_terminal() -> None:
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
