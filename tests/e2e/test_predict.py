"""Predict as a person meets it: killed, interrupted, out of disk; the same command goes on and the bytes are the same."""

import contextlib
import itertools
import os
import random
import signal
import time

import numpy as np
import pytest

from dlrm.errors import DataError
from tests.e2e.faulty_disk import FaultyDisk, full_disk
from tests.support import command
from tests.support.command import run_command
from tests.support.predicting import predict_alone
from tests.support.ranks import FORK_SERVER


@pytest.fixture(scope="module")
def whole(forms, tmp_path_factory):
    """The bytes of an output that nothing has interrupted."""
    return predict_alone(forms, tmp_path_factory.mktemp("whole") / "a.parquet", "parquet", carry="id").read_bytes()


def predict(forms, output):
    predict_alone(forms, output, "parquet", carry="id")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def predict_and_die(forms, output, at):
    with FaultyDisk(at, die):
        predict(forms, output)


def run_killed(target, *arguments):
    """The exit code of a process that ends by itself, or is killed."""
    process = FORK_SERVER.Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.slow
def test_a_job_that_is_killed_again_and_again_ends_with_the_same_bytes(forms, whole, tmp_path):
    """Killed right before calls by which something is written or removed: in blocks, in the assembly, behind it."""
    draw = random.Random(3)
    kills = 0
    while run_killed(predict_and_die, forms, tmp_path / "a.parquet", draw.randrange(8, 40)) == -signal.SIGKILL:
        kills += 1
        assert kills < 40
    assert kills > 2
    assert (tmp_path / "a.parquet").read_bytes() == whole
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "a.parquet.metrics.json"]


class KilledAt:
    """Dies before a call of os on a path with this ending, the ``nth`` one."""

    def __init__(self, call, ending, nth=1):
        self._call, self._ending, self._left = call, ending, nth

    def __enter__(self):
        real = getattr(os, self._call)

        def instead(*arguments, **keywords):
            if os.fspath(arguments[-1]).endswith(self._ending):
                self._left -= 1
                if not self._left:
                    die()
            return real(*arguments, **keywords)

        setattr(os, self._call, instead)

    def __exit__(self, *_):
        raise AssertionError("it was not killed")


def predict_and_die_at(forms, output, moment):
    with KilledAt(*moment):
        predict(forms, output)


MOMENTS = {
    "in the middle": ("replace", ".arrow", 5),
    "when the last part is written": ("replace", "00001-00000008.arrow"),
    "in the assembly": ("replace", "finished.json"),
    "before the output has its name": ("replace", "a.parquet"),
    "before parts are removed": ("unlink", ".arrow"),
    "in removing parts": ("unlink", ".arrow", 9),
    "before the state is removed": ("unlink", "state.json"),
    "after it": ("unlink", "finished.json"),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_a_job_that_is_killed_goes_on_and_ends_with_the_same_bytes(forms, whole, tmp_path, name):
    output = tmp_path / "a.parquet"
    assert run_killed(predict_and_die_at, forms, output, MOMENTS[name]) == -signal.SIGKILL
    assert (tmp_path / "a.parquet.parts").exists()
    predict(forms, output)
    assert output.read_bytes() == whole
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "a.parquet.metrics.json"]


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_moment_loses_nothing(forms, whole, tmp_path):
    for at in itertools.count(1, 11):
        output = tmp_path / str(at) / "a.parquet"
        output.parent.mkdir()
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                pytest.raises(DataError, match=r"\A.*No space left on device.*what is finished is kept\Z")
            )
            with FaultyDisk(at, full_disk):
                predict(forms, output)
            stack.pop_all()
            break  # only what was left over could not be removed
        predict(forms, output)
        assert output.read_bytes() == whole, at
    assert at > 60
    assert output.read_bytes() == whole


def words(forms, output, *options):
    given = [f"--output={output}", "--chunk_rows=20", "--threads=1"]
    return ["predict", str(forms.export), str(forms.parquet), *given, *options]


def command_on_a_slow_disk(forms, output, folder):
    real = os.fsync

    def slow(descriptor):
        time.sleep(0.2)
        real(descriptor)

    os.fsync = slow
    command._rank_main(words(forms, output), 0, 1, 0, str(folder), str(folder))


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(forms, tmp_path):
    """The process is in the middle: it has finished a part, and a slow disk keeps it from being done at once."""
    output = tmp_path / "a.npy"
    process = FORK_SERVER.Process(target=command_on_a_slow_disk, args=(forms, output, tmp_path))
    process.start()
    give_up_at = time.monotonic() + 200
    while not list(tmp_path.glob("*.parts/*.arrow")) and process.is_alive() and time.monotonic() < give_up_at:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert (process.exitcode, (tmp_path / "stderr0").read_text()) == (130, "interrupted\n")
    assert not output.exists()
    (outcome,) = run_command(words(forms, output))
    assert outcome.exit_code == 0, outcome.stderr
    assert "of them scored earlier) in " in outcome.stdout
    assert output.read_bytes() == predict_alone(forms, tmp_path / "b.npy", "parquet").read_bytes()


def test_the_command_tells_rows_seconds_and_figures(forms, tmp_path):
    (outcome,) = run_command(words(forms, tmp_path / "a.npy"))
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stderr == ""
    *_, rows, figures = outcome.stdout.splitlines()
    assert rows.startswith("400 rows in ")
    assert rows.endswith(f" rows/s: {tmp_path}/a.npy")
    assert figures.startswith("AUC 0.")
    assert np.load(tmp_path / "a.npy").shape == (400, 1)


@pytest.mark.parametrize("world_size", [1, 2])
def test_mistakes_are_one_line_and_exit_code_2(forms, tmp_path, world_size):
    (tmp_path / "bad").write_bytes(b"\n".join([*forms.lines[:50], b"1\t2\t3\ta\tb\tc\td"]))
    outcomes = run_command(
        ["predict", str(forms.export), str(tmp_path / "bad"), f"--output={tmp_path / 'a.npy'}"], world_size
    )
    assert outcomes[0].exit_code == 2
    said = [outcome.stderr for outcome in outcomes if outcome.stderr]
    assert len(said) == 1
    assert said[0].startswith(f"{tmp_path}/bad, row 51: row has 7 columns, expected 6")
    assert said[0].count("\n") == 1
