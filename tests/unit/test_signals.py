"""Signals that come before training, sent to processes that are at a known place."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from dlrm.signals import SignalWatch
from tests.support.elastic_job import NOT_PASSED

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 60  # a guard against hanging tests; nothing is said about speed
# Stands in the place of a package that is imported slowly: says so, and waits.
SLOW = "import sys, time; sys.stdout.write('importing\\n'); sys.stdout.flush(); time.sleep(600)"
IN_CPP = """
import ctypes
from dlrm import signals
signals.take_early()
print("waiting", flush=True)
mutex = ctypes.create_string_buffer(128)
for _ in range(2):  # the second time it waits for ever, and no signal calls it back to Python
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
HELD = """
import os, signal
from dlrm import signals
signals.take_early()
os.kill(os.getpid(), signal.SIGUSR1)
with signals.SignalWatch(announce=False) as watch:
    print(watch.take_save(), watch.take_save())
os.kill(os.getpid(), signal.SIGUSR1)
print("done")
"""


@contextmanager
def started(*words, **environment):
    """A python process that has printed its first line."""
    passed = {name: value for name, value in os.environ.items() if name not in NOT_PASSED}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, env={**passed, **environment}, **streams) as process:
        try:
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def ended_by(number, process):
    process.send_signal(number)
    out, err = process.communicate(timeout=HANG_S)
    return process.returncode, out, err


@pytest.fixture
def slow_import(tmp_path):
    """An environment in which torch is imported for minutes."""
    (tmp_path / "torch.py").write_text(SLOW)
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM\n"),
        (signal.SIGHUP, 129, "stopped by SIGHUP\n"),
        (signal.SIGINT, 130, "interrupted\n"),
    ],
)
def test_a_signal_while_packages_are_imported_ends_the_process_at_once_with_a_line(slow_import, number, code, line):
    with started("dlrm_main.py", "train", "--data.kind", "random", **slow_import) as process:
        assert ended_by(number, process) == (code, "", line)


@pytest.mark.parametrize("environment", [{"RANK": "1", "WORLD_SIZE": "2"}, {"TORCHELASTIC_RUN_ID": "1"}])
def test_a_rank_that_is_ended_while_it_imports_says_nothing_where_another_or_its_agent_does(slow_import, environment):
    with started("dlrm_main.py", "train", "--data.kind", "random", **slow_import, **environment) as process:
        assert ended_by(signal.SIGTERM, process)[1:] == ("", "")


def test_sigusr1_while_packages_are_imported_does_not_end_the_process(slow_import):
    with started("dlrm_main.py", "train", "--data.kind", "random", **slow_import) as process:
        process.send_signal(signal.SIGUSR1)
        assert ended_by(signal.SIGTERM, process)[0] == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_ends_a_process_that_waits_outside_of_python(number):
    with started("-c", IN_CPP) as process:
        assert ended_by(number, process) == (128 + number, "", f"stopped by {number.name}\n")


def test_a_terminal_that_closes_asks_to_save_and_stop():
    with SignalWatch(announce=False) as watch:
        signal.raise_signal(signal.SIGHUP)
        assert (watch.stop, watch.take_save()) == (signal.SIGHUP, False)


def test_what_is_ignored_stays_ignored_while_somebody_watches():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalWatch(announce=False) as watch:
            signal.raise_signal(signal.SIGHUP)
            assert watch.stop == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigusr1_is_held_until_somebody_watches_and_again_after_that():
    done = subprocess.run([sys.executable, "-c", HELD], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True False\ndone\n", "")


def test_once_all_is_imported_ctrl_c_is_an_exception_again():
    words = "from dlrm import signals; signals.take_early(); signals.raise_on_ctrl_c()\n"
    words += "import time\ntry:\n    print(1, flush=True)\n    time.sleep(600)\n"
    words += "except KeyboardInterrupt:\n    print('caught')"
    with started("-c", words) as process:
        assert ended_by(signal.SIGINT, process) == (0, "caught\n", "")


def test_what_is_ignored_stays_ignored():
    words = "import signal\nfor one in (1, 2, 15): signal.signal(one, signal.SIG_IGN)\n"
    words += (
        "from dlrm import signals\nsignals.take_early()\nfor one in (1, 2, 15): signal.raise_signal(one)\nprint('here')"
    )
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "here\n", "")
