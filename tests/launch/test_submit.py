"""The client that submits a job and waits for it, with a stand-in for torchx; scripts/scale_on_slurm.py has the real."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torchx.runner
from torchx.specs.api import AppState

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "launch"))
import submit  # noqa: E402

HANDLE = "slurm://torchx/17"
PENDING, RUNNING, DONE, FAILED, CANCELLED = (
    AppState.PENDING, AppState.RUNNING, AppState.SUCCEEDED, AppState.FAILED, AppState.CANCELLED,
)  # fmt: skip


class Runner:
    """torchx's: a job that has these states, one for each look; None where nothing is known. ``obeys``: when cancelled."""

    def __init__(self, states, *, obeys=True, at_look=None):
        self.states, self.obeys, self.cancelled = list(states), obeys, 0
        self.looks, self.at_look = 0, at_look or {}

    def status(self, handle):
        assert handle == HANDLE
        self.looks += 1
        if self.looks in self.at_look:
            self.at_look[self.looks]()
        if self.cancelled and self.obeys:
            return SimpleNamespace(state=CANCELLED)
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state is ConnectionError:
            raise ConnectionError("no route to the scheduler")
        return None if state is None else SimpleNamespace(state=state)

    def cancel(self, handle):
        assert handle == HANDLE
        self.cancelled += 1


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the client with a runner; its exit code."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "torchx"
    program.write_text(f"#!{sys.executable}\nimport os, sys\nopen('asked', 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
                       f"print('{HANDLE}') if 'refuse' not in sys.argv else sys.exit('no such partition')\n")  # fmt: skip
    program.chmod(0o755)
    monkeypatch.setattr(submit, "_torchx", lambda: [str(program)])
    for name, seconds in (("POLL_S", 0.01), ("UNREACHABLE_S", 0.3), ("UNKNOWN_S", 0.1), ("CANCEL_S", 0.2)):
        monkeypatch.setattr(submit, name, seconds)
    monkeypatch.setattr(submit.logging, "disable", lambda _: None)
    before = signal.getsignal(signal.SIGTERM)
    (tmp_path / "job").mkdir()

    def go(runner, *words, timeout_s=60.0):
        monkeypatch.setattr(torchx.runner, "get_runner", lambda: runner)
        handle = str(tmp_path / "job" / "handle")
        return submit.main(["--handle", handle, "--timeout-s", str(timeout_s), *words])

    yield go
    signal.signal(signal.SIGTERM, before)


WORDS = ("--", "-s", "slurm", "c.py:benchmark", "-j", "2x1", "--", "--output=out")


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([PENDING, None, RUNNING, ConnectionError, RUNNING, DONE], 0),
        ([RUNNING, FAILED], 1),
        ([RUNNING, CANCELLED], submit.CANCELLED),
        ([None], submit.UNREACHABLE),
        ([RUNNING, ConnectionError], submit.UNREACHABLE),
    ],
)
def test_the_exit_code_says_how_the_job_has_ended(run, tmp_path, states, code):
    runner = Runner(states)
    assert run(runner, *WORDS) == code
    assert (tmp_path / "job" / "handle").read_text() == f"{HANDLE}\n"
    assert (tmp_path / "asked").read_text() == "run -s slurm c.py:benchmark -j 2x1 -- --output=out\n"
    assert runner.cancelled == 0


def test_a_job_that_was_submitted_before_is_waited_for_and_none_is_submitted(run, tmp_path):
    (tmp_path / "job" / "handle").write_text(f"{HANDLE}\n")
    assert run(Runner([RUNNING, DONE]), "--attach") == 0
    assert not (tmp_path / "asked").exists()


def test_a_job_that_is_refused_leaves_no_handle_and_says_why(run, tmp_path, capsys):
    assert run(Runner([DONE]), "--", "refuse") == 1
    assert capsys.readouterr().out == "no such partition\n"
    assert not (tmp_path / "job" / "handle").exists()


def test_a_job_is_cancelled_when_it_has_run_too_long_and_waiting_does_not_count(run):
    runner = Runner([PENDING] * 30 + [RUNNING])
    assert run(runner, *WORDS, timeout_s=0.1) == submit.TIMED_OUT
    assert runner.looks > 30
    assert runner.cancelled == 1


@pytest.mark.parametrize(("obeys", "code"), [(True, submit.CANCELLED), (False, submit.UNREACHABLE)])
def test_a_signal_cancels_the_job_and_what_does_not_end_is_told(run, capsys, obeys, code):
    runner = Runner([RUNNING], obeys=obeys, at_look={3: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert run(runner, *WORDS) == code
    assert runner.cancelled >= 1
    assert ("has not said that it has ended" in capsys.readouterr().out) == (not obeys)


def test_a_signal_while_it_is_submitted_cancels_it_as_well(run, tmp_path):
    program = tmp_path / "torchx"
    program.write_text(program.read_text() + "import signal; os.kill(os.getppid(), signal.SIGTERM)\n")
    runner = Runner([RUNNING])
    assert run(runner, *WORDS) == submit.CANCELLED
    assert runner.cancelled == 1


def test_what_slurm_has_written_goes_to_the_results(run, tmp_path):
    for name in ("slurm-17.out", "slurm-17-benchmark-0.err", "slurm-171.out"):
        (tmp_path / name).write_text(name)
    assert run(Runner([DONE]), *WORDS) == 0
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == [
        "handle", "slurm-17-benchmark-0.err", "slurm-17.out",
    ]  # fmt: skip
    assert (tmp_path / "slurm-171.out").exists()
