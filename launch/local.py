"""Run a job on this host through torchx, with a terminal fit for a person.

    python launch/local.py --nproc 2 --config configs/quickstart.yaml -- --train.epochs 2

The arguments are those of the component components/dlrm.py:train, which torchx's local_cwd scheduler starts as
``torchx run -s local_cwd components/dlrm.py:train ...`` does; ``--nproc auto`` is a rank for each CUDA device that torch
sees, or two where it sees none. Against that command:

* what the job prints appears as it is (no prefix before each line), a progress bar included;
* the exit code is the job's own (2: the user can mend it), where the command always gives 1;
* Ctrl-C ends the job with one line and exit code 130, where the command prints a traceback.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from torchx.runner import Runner, get_runner
from torchx.schedulers.api import Stream
from torchx.schedulers.local_scheduler import SignalException
from torchx.specs import AppState
from torchx.specs.api import NONE
from torchx.specs.finder import ComponentNotFoundException, ComponentValidationException

ROOT = Path(__file__).resolve().parent.parent
COMPONENT = "components/dlrm.py:train"
SCHEDULER = "local_cwd"
ROLE = "train"
POLL_S = 0.1
RANKS_ON_CPU = 2


def main(arguments: Sequence[str]) -> int:
    """Run the job to its end and return its exit code."""
    os.chdir(ROOT)  # the scheduler starts the job in the current directory
    logging.disable(logging.CRITICAL)  # torchx's report of a failure would follow the job's own
    _show_terminal_to_job()
    with get_runner() as runner:
        try:
            job = runner.run_component(COMPONENT, with_number_of_ranks(arguments), SCHEDULER)
            return _follow(runner, job)
        except (KeyboardInterrupt, SignalException) as caught:  # torchx's scheduler makes the first into the second
            number = getattr(caught, "sigval", signal.SIGINT)
            if number == signal.SIGINT:
                _say(f"{_fresh_line()}interrupted")
            return 128 + int(number)
        except (ComponentNotFoundException, ComponentValidationException, ValueError) as error:
            _say(f"{COMPONENT}: {error}")
            return 2


def with_number_of_ranks(arguments: Sequence[str]) -> list[str]:
    """The arguments, in which a number has taken the place of ``--nproc auto``."""
    words = list(arguments)
    own = words[: words.index("--")] if "--" in words else words
    for place, pair in enumerate(pairwise(own)):
        if pair == ("--nproc", "auto"):
            words[place + 1] = str(_cuda_devices() or RANKS_ON_CPU)
    return words


def _cuda_devices() -> int:
    """As the ranks will count them; without the driver's own tool there are none, and torch need not be imported."""
    if shutil.which("nvidia-smi") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def _follow(runner: Runner, job: str) -> int:
    """Print what the job prints until it has ended."""
    app = runner.describe(job)
    copies = [
        threading.Thread(target=_copy, args=(runner, job, host, *stream), daemon=True)
        for host in range(app.roles[0].num_replicas if app else 0)
        for stream in ((Stream.STDOUT, sys.stdout), (Stream.STDERR, sys.stderr))
    ]
    for copy in copies:
        copy.start()
    status = runner.wait(job, wait_interval=POLL_S)
    for copy in copies:
        copy.join()
    if status is None or status.state == AppState.SUCCEEDED:
        return 0
    if status.structured_error_msg == NONE:
        _say(f"{_fresh_line()}the job ended without saying why: its launcher (launch/elastic.py) was killed")
    return _exit_code(status.structured_error_msg)


def _copy(runner: Runner, job: str, host: int, stream: Stream, out: TextIO) -> None:
    with suppress(OSError, ValueError):  # the terminal is gone, or the job was cancelled and its files with it
        for text in runner.log_lines(job, ROLE, host, should_tail=True, streams=stream):
            out.write(text)
            out.flush()


def _exit_code(report: str) -> int:
    """The exit code in the report that launch/elastic.py leaves for torchx; 1 if there is none."""
    with suppress(ValueError, KeyError, TypeError):
        content: dict[str, Any] = json.loads(report)
        return int(content["message"]["errorCode"])
    return 1


def _show_terminal_to_job() -> None:
    """The job writes to files that are copied here; tell rich, in the job, that a terminal is at the end of the copy."""
    if _on_terminal():
        columns, lines = shutil.get_terminal_size()
        for name, value in (("TTY_COMPATIBLE", 1), ("TTY_INTERACTIVE", 1), ("COLUMNS", columns), ("LINES", lines)):
            os.environ.setdefault(name, str(value))


def _on_terminal() -> bool:
    return sys.stdout.isatty() and sys.stderr.isatty()


def _fresh_line() -> str:
    """The job may have left a progress bar unfinished: go to the next line and show the cursor again."""
    return "\n\033[?25h" if _on_terminal() else ""


def _say(line: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
