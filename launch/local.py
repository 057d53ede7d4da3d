"""Run a job on this host through torchx, with a terminal fit for a person.

    python launch/local.py -j 2 --config configs/quickstart.yaml -- --train.epochs 2

The arguments are those of the component components/dlrm.py:train, which torchx's local_cwd scheduler starts as
``torchx run -s local_cwd components/dlrm.py:train ...`` does; ``-j auto`` is a rank for each CUDA device that torch
sees, or two where it sees none. Against that command:

* what the job prints appears as it is (no prefix before each line), a progress bar included; the job goes on when nobody
  reads it any more;
* the exit code is the job's own (2: the user can mend it), where the command always gives 1;
* signals are passed on: Ctrl-C, SIGTERM and SIGHUP let the job save and end with one line, a second Ctrl-C kills it;
  SIGUSR1 lets it save. The command prints a traceback;
* where ``DLRM_MAKE`` names the parent process (make), the job ends with it, even when it is killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # not there under python -P, nor where another imports this

import local_signals

if __name__ == "__main__":
    local_signals.take_early()  # torchx takes a second to import

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, TextIO

from launch_output import can_write_temporary_files, open_closed_streams, write
from torchx.runner import Runner, get_runner
from torchx.schedulers.api import Stream
from torchx.specs import AppState
from torchx.specs.api import NONE, AppStatus, is_terminal
from torchx.specs.finder import ComponentNotFoundException, ComponentValidationException

ROOT = Path(__file__).resolve().parent.parent
COMPONENT = "components/dlrm.py:train"
SCHEDULER = "local_cwd"
ROLE = "train"
CLIENT_VARIABLE = (
    "DLRM_CLIENT"  # tells components/dlrm.py that the job runs on this machine, and ends with this process
)
POLL_S = 0.1
RANKS_ON_CPU = 2


def main(arguments: Sequence[str]) -> int:
    """Run the job to its end and return its exit code."""
    open_closed_streams()
    if not can_write_temporary_files():
        return 2
    local_signals.follow_make()
    os.chdir(ROOT)  # the scheduler starts the job in the current directory
    logging.disable(logging.CRITICAL)  # torchx's report of a failure would follow the job's own
    os.environ[CLIENT_VARIABLE] = str(os.getpid())
    _show_terminal_to_job()
    with get_runner() as runner:
        signals = local_signals.Signals()
        try:
            with signals.held():
                runner.scheduler_run_opts(SCHEDULER)  # makes the scheduler
                signals.take_over()
                job = runner.run_component(COMPONENT, with_number_of_ranks(arguments), SCHEDULER)
        except (ComponentNotFoundException, ComponentValidationException, ValueError) as error:
            _say(f"{COMPONENT}: {error}")
            return 2
        return _follow(runner, job, signals)


def with_number_of_ranks(arguments: Sequence[str]) -> list[str]:
    """The arguments, in which a number has taken the place of ``-j auto``."""
    argv = list(arguments)
    own = argv[: argv.index("--")] if "--" in argv else argv
    for place, pair in enumerate(pairwise(own)):
        if pair == ("-j", "auto"):
            argv[place + 1] = str(_cuda_devices() or RANKS_ON_CPU)
    return argv


def _cuda_devices() -> int:
    """As the ranks will count them; without the driver's own tool there are none, and torch need not be imported."""
    if shutil.which("nvidia-smi") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def _follow(runner: Runner, job: str, signals: local_signals.Signals) -> int:
    """Print what the job prints until it has ended."""
    app = runner.describe(job)
    copies = [
        threading.Thread(target=_copy, args=(runner, job, host, *stream), daemon=True)
        for host in range(app.roles[0].num_replicas if app else 0)
        for stream in ((Stream.STDOUT, sys.stdout), (Stream.STDERR, sys.stderr))
    ]
    for copy in copies:
        copy.start()
    while (status := runner.status(job)) is not None and not is_terminal(status.state):
        signals.pass_on()
        time.sleep(POLL_S)
    for copy in copies:
        copy.join()
    return _exit_code(status, signals.stopped_by)


def _exit_code(status: AppStatus | None, stopped_by: int) -> int:
    """The exit code in the report that launch/elastic.py leaves for torchx; without one, that of what is known."""
    if status is None or status.state == AppState.SUCCEEDED:
        return 0
    if status.structured_error_msg != NONE:
        with suppress(ValueError, KeyError, TypeError):
            content: dict[str, Any] = json.loads(status.structured_error_msg)
            return int(content["message"]["errorCode"])
    elif stopped_by:
        _say(f"{_fresh_line()}{local_signals.ended_by(stopped_by)}")
    else:
        _say(f"{_fresh_line()}the job ended without saying why: its launcher (launch/elastic.py) was killed")
    return 128 + stopped_by if stopped_by else 1


def _copy(runner: Runner, job: str, host: int, stream: Stream, out: TextIO) -> None:
    for text in runner.log_lines(job, ROLE, host, should_tail=True, streams=stream):
        write(out, text)


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
    write(sys.stdout, "")
    write(sys.stderr, f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
