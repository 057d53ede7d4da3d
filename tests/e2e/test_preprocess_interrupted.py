"""Preprocessing that is interrupted, killed, or fails for want of room: the same command goes on and loses nothing."""

import _thread
import itertools
import os
import random
import signal

import pytest

from dlrm.data.packed.write import PartWriter
from dlrm.errors import DataError
from dlrm.testing.ranks import FORK_SERVER
from tests.e2e.faulty_disk import FaultyDisk, fail_at
from tests.unit.preprocess.tiny_criteo import contents, make, write_raw


def test_a_disk_that_is_full_at_any_moment_loses_nothing(reference, raw, tmp_path):
    shuffle, folder = reference
    for at in itertools.count(step=7):
        output = tmp_path / str(at)
        if fail_at(raw, output, at, shuffle):
            break
        make(raw, output, shuffle=shuffle)
        assert contents(output) == contents(folder), at
    assert at > 100


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def make_and_die(raw, output, shuffle, at):
    with FaultyDisk(at, die):
        make(raw, output, shuffle=shuffle)


def run_killed(target, *arguments, after_s=None):
    """The exit code of a process that ends by itself, or is killed."""
    process = FORK_SERVER.Process(target=target, args=arguments)
    process.start()
    process.join(after_s)
    process.kill()
    process.join()
    return process.exitcode


def test_a_job_that_is_killed_again_and_again_ends_with_the_same_bytes(reference, raw, tmp_path):
    shuffle, folder = reference
    draw = random.Random(1)
    kills = 0
    while run_killed(make_and_die, raw, tmp_path / "out", shuffle, draw.randrange(5, 60)) == -signal.SIGKILL:
        kills += 1
        assert kills < 100
    assert kills > 2
    assert contents(tmp_path / "out") == contents(folder)


def test_a_job_that_is_killed_from_outside_ends_with_the_same_bytes(reference, raw, tmp_path):
    shuffle, folder = reference
    draw = random.Random(2)
    for _ in range(8):
        run_killed(make_quietly, raw, tmp_path / "out", shuffle, after_s=draw.uniform(0.02, 0.4))
    make(raw, tmp_path / "out", shuffle=shuffle)
    assert contents(tmp_path / "out") == contents(folder)


def test_an_interrupted_job_is_gone_on_with(reference, raw, tmp_path):
    shuffle, folder = reference
    for at in (15, 60, 90):
        with pytest.raises(KeyboardInterrupt), FaultyDisk(at, _thread.interrupt_main, once=True):
            make(raw, tmp_path / "out", shuffle=shuffle)
    make(raw, tmp_path / "out", shuffle=shuffle)
    assert contents(tmp_path / "out") == contents(folder)


def make_quietly(raw, output, shuffle):
    make(raw, output, shuffle=shuffle)


def test_a_finished_part_is_not_written_again(raw, tmp_path):
    output = interrupted_before_the_last_part(raw, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.npy")}
    assert before
    make(raw, output)
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("*.npy")}
    assert before.items() <= after.items()


def interrupted_before_the_last_part(raw, folder):
    """The output of a job whose disk filled up when two parts of three were finished."""
    at, output = 20, folder / "20"
    while len(list((output / "preprocess.work" / "parts").glob("*.json"))) != 2:
        at, output = at + 1, folder / str(at + 1)
        assert not fail_at(raw, output, at), "the job ended without having two parts finished at any call"
    return output


def test_a_shuffle_gives_its_parsed_rows_back_while_parts_are_written(raw, tmp_path, monkeypatch):
    sizes, finish = {}, PartWriter.finish

    def watched(writer, **counts):
        chunks = (writer._folder / "preprocess.work" / "raw").glob("[0-9]/*[0-9]")
        sizes.setdefault(writer._folder, []).append(sum(path.stat().st_size for path in chunks))
        return finish(writer, **counts)

    monkeypatch.setattr(PartWriter, "finish", watched)
    whole_split = {"train": ["day_0", "day_1", "day_2"], "validation": [], "test": []}
    for name, keep in (("given back", False), ("kept", True)):
        make(raw, tmp_path / name, workers=1, shuffle=True, keep_work=keep, split=whole_split)
    first, second, last = sizes[tmp_path / "given back"]
    record_bytes = 4 * (1 + 1 + 2 + 3)
    assert first - second > 30 * record_bytes
    assert second - last > 30 * record_bytes
    assert len(set(sizes[tmp_path / "kept"])) == 1


def test_damaged_intermediate_rows_are_named_and_made_anew(raw, tmp_path):
    output = tmp_path / "out"
    fail_at(raw, output, 60)
    chunk = next(iter(sorted((output / "preprocess.work" / "raw" / "1").glob("[0-9]"))))
    chunk.write_bytes(chunk.read_bytes()[:-3] + b"xxx")
    with pytest.raises(DataError, match=r"damaged.*delete it and run the command again"):
        make(raw, output)
    chunk.unlink()
    make(raw, output)
    assert contents(output) == contents(make(raw, tmp_path / "other"))


def test_a_source_that_changes_between_two_runs_of_a_job_is_refused(tmp_path):
    raw = write_raw(tmp_path / "raw")
    fail_at(raw, tmp_path / "out", 20)
    os.utime(raw / "day_2", ns=(1, 1))
    with pytest.raises(DataError, match="day_2 was modified"):
        make(raw, tmp_path / "out")
