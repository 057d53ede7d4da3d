"""``dlrm_main.py status``."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dlrm.config.status import StatusConfig
from dlrm.errors import SetupError
from dlrm.run.files import is_run
from dlrm.run.status.ages import Ages
from dlrm.run.status.files import read
from dlrm.run.status.judge import OVER, Status, doubtful, judge
from dlrm.run.status.text import as_json, as_lines

_POLL_S = 0.5


def run_status(config: StatusConfig) -> None:
    """Print what becomes of a run; with ``watch`` again and again until it has ended or Ctrl-C comes.

    Raises:
        SetupError: there is no run.
    """
    folder = Path(config.path)
    if not config.watch:
        _require_run(folder)
        _print(look(folder, Ages()), config.json)
        return
    ages = Ages()
    try:
        _await_run(folder, config.every_s)
        while True:
            status = look(folder, ages)
            _show(status, config.json)
            if status.state in OVER:
                return
            time.sleep(config.every_s)
    except KeyboardInterrupt:
        return


def look(folder: Path, ages: Ages, sleep: Callable[[float], None] = time.sleep) -> Status:
    """The status now; it takes some seconds where clocks do not tell whether a rank is silent, or differ."""
    while True:
        contents = read(folder)
        ages.look(contents.beats.values())
        if not doubtful(contents, ages):
            return judge(contents, ages)
        sleep(_POLL_S)


def _await_run(folder: Path, every_s: float) -> None:
    """Return when the folder is there: a job makes it when its ranks have started."""
    if not folder.exists():
        print(f"{folder}: is not there yet; waiting for it", file=sys.stderr, flush=True)  # noqa: T201
    while not folder.exists():
        time.sleep(every_s)
    _require_run(folder)


def _require_run(folder: Path) -> None:
    try:
        if is_run(folder):
            return
        found = folder.exists()
    except OSError as error:
        raise SetupError(f"{error.filename or folder}: {error.strerror}; name the folder of a run") from error
    if found:
        raise SetupError(f"{folder}: is not the folder of a run (it has no run.json); name one, as runs/quickstart")
    raise SetupError(
        f"{folder}: is not there; a job makes its folder when its ranks have started (--watch waits for it)"
    )


def _print(status: Status, as_json_text: bool, *, indent: int | None = 2) -> None:
    if as_json_text:
        print(json.dumps(as_json(status), indent=indent))  # noqa: T201
    else:
        print("\n".join(as_lines(status)))  # noqa: T201
    sys.stdout.flush()


def _show(status: Status, as_json_text: bool) -> None:
    """Draw it anew on a terminal; elsewhere one after the other."""
    if as_json_text:
        _print(status, True, indent=None)
        return
    if sys.stdout.isatty():
        width, height = shutil.get_terminal_size()
        lines = [line[: width - 1] for line in as_lines(status)][: max(1, height - 1)]
        print("\033[H\033[2J" + "\n".join(lines))  # noqa: T201
    else:
        print("\n".join(as_lines(status)) + "\n")  # noqa: T201
    sys.stdout.flush()
