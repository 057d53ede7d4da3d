"""The folder of a command's results: its own, one command at a time, and found again when it is started again."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from dlrm.config.layers import file_layer
from dlrm.errors import ConfigError, SetupError
from dlrm.files import alone
from dlrm.run.files import is_run

_LOCK = ".lock"


def output_folder(output: str, resolved: str, name: str, what: str) -> Path:
    """The folder of the results, made where it is not there.

    Args:
        output: where it is.
        resolved: name of the file in it by which it is known again, which says whose ``name`` it is.
        name: of what is run.
        what: a word for that, as in "the experiment".

    Raises:
        ConfigError: it cannot be written, or is another's.
    """
    folder = Path(output).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = [path.name for path in folder.iterdir() if path.name != _LOCK]
    except OSError as error:
        raise ConfigError.at("output", f"{folder} cannot be written ({error.strerror}): name another folder") from None
    if entries and resolved not in entries:
        holds = "is the folder of a run" if is_run(folder) else "holds other things"
        raise ConfigError.at("output", f"{folder} {holds}: name another folder")
    if entries and (other := file_layer(folder / resolved).values.get("name")) != name:
        raise ConfigError.at("output", f"{folder} holds the {what} {other}: name another folder")
    return folder


def alone_in(folder: Path, command: str) -> AbstractContextManager[None]:
    """Keep other commands from a folder.

    Raises:
        ConfigError: on entering, another works in it.
    """
    message = f"another {command} works in {folder}: wait for it, or name another folder"
    return alone(folder / _LOCK, patience_s=0.0, taken=ConfigError.at("output", message))


def require_no_launcher(command: str) -> None:
    """See that this process is no rank of a job.

    Raises:
        SetupError: it is one.
    """
    if "RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        message = f"{command} starts the ranks of its jobs itself: run it as a plain command, not under a launcher"
        raise SetupError(message)
