"""What a run leaves beside its checkpoints helps people and never ends training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlrm import files
from dlrm.errors import ConfigError
from dlrm.files import written_beside

_LOG = logging.getLogger(__name__)

Warn = Callable[[str], None]


@contextmanager
def secondary(path: Path, warn: Warn) -> Iterator[None]:
    """Write a secondary file inside; an error becomes a line for the user, and keeps its traceback in the log."""
    try:
        yield
    except Exception as error:  # whatever drawing or rendering came upon: the training it tells of is not to be lost
        _LOG.warning("%s could not be written", path, exc_info=True)
        warn(f"warning: {path}: {reason(error)}; not written, the run goes on")


def reason(error: Exception) -> str:
    """The error in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"


def write_text(path: Path, text: str) -> None:
    """Write beside the file and rename it, so that a reader never sees a half.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    with written_beside(path, beside=_beside(path), durable=False) as file:
        file.write(text.encode())


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON beside the file and rename it, so that a reader never sees a half."""
    files.write_json(path, value, indent=2, beside=_beside(path), durable=False)


def _beside(path: Path) -> Path:
    return path.with_suffix(path.suffix + ".part")


def require_writable(output: str) -> None:
    """See before the work begins that the file can be written; its folder is made if need be.

    Raises:
        ConfigError: it cannot.
    """
    if not output:
        return
    path = Path(output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_suffix(f"{path.suffix}.part")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError.at("output", f"{output} cannot be written: {error.strerror}") from None
    if path.is_dir():
        raise ConfigError.at("output", f"{output} is a folder; name a file in it")
