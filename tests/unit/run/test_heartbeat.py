import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest

from dlrm import activity
from dlrm.data.loader import THREAD_NAME
from dlrm.run import heartbeat
from dlrm.run.files import find_foreign
from dlrm.run.status.files import read
from tests.support.elastic_job import NOT_PASSED, await_true

ROOT = Path(__file__).resolve().parents[3]
HANG_S = 60.0
RANK = """
import sys, time
from pathlib import Path
from dlrm import activity, signals
from dlrm.run import heartbeat
signals.take_early()
heartbeat.begin(heartbeat.Beating(Path(sys.argv[1]), 5.0, 1, 2, 100, 0.05), print)
signals.tell_before_end(lambda name: heartbeat.end(heartbeat.ENDED, f"stopped by {name}", signal=name))
activity.begin(activity.TRAINING, 7)
print("up", flush=True)
"""
SLEEPS = "time.sleep(600)"
IN_CPP = """
import ctypes
mutex = ctypes.create_string_buffer(128)
for _ in range(2):  # the second time it waits for ever
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


@pytest.fixture
def begin(tmp_path):
    """Begins to beat as rank 1 of 2."""
    warnings = []

    def begin(folder=tmp_path, every_s=0.02, rank=1):
        heartbeat.begin(heartbeat.Beating(folder, 5.0, rank, 2, 100, every_s), warnings.append)
        return warnings

    yield begin
    heartbeat.end("", "")
    activity.begin(activity.STARTING, 0)


def beat_of(folder, rank=1):
    return read(folder).beats.get(rank)


def await_beat(folder, condition, rank=1):
    await_true(lambda: (beat := beat_of(folder, rank)) is not None and condition(beat), HANG_S, "a beat")
    return beat_of(folder, rank)


def started(script, folder, **environment):
    passed = {name: value for name, value in os.environ.items() if name not in NOT_PASSED}
    words = [sys.executable, "-c", RANK + script, str(folder)]
    return subprocess.Popen(
        words, cwd=ROOT, env={**passed, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_rank_beats_with_what_it_is_doing_and_how_far_it_has_come(begin, tmp_path):
    begin()
    activity.begin(activity.TRAINING, 3)
    activity.advance(4)
    beat = await_beat(tmp_path, lambda beat: beat.step == 4)
    assert (beat.rank, beat.start_s, beat.pid, beat.doing, beat.total_steps) == (1, 5.0, os.getpid(), "training", 100)
    assert await_beat(tmp_path, lambda later: later.number > beat.number).step == 4
    assert find_foreign(tmp_path) is None


def test_a_rank_that_does_not_get_on_says_for_how_long_and_where_it_is(begin, tmp_path):
    activity.begin(activity.SAVING)
    begin()
    beat = await_beat(tmp_path, lambda beat: beat.still_s > 0.2)
    assert beat.doing == "saving"
    assert any("await_true" in place for place in beat.where)
    activity.advance()
    assert await_beat(tmp_path, lambda beat: beat.still_s < 0.2).where == ()


def test_where_a_rank_is_leaves_the_standard_library_out(begin, tmp_path):
    begin()
    with suppress(TimeoutError):
        Future().result(timeout=0.5)  # waits in threading
    assert beat_of(tmp_path).where[0].split(":")[0] == "unit/run/test_heartbeat.py"


def test_looking_where_a_rank_is_keeps_nothing_of_what_its_functions_hold():
    class Activations:
        pass

    def step():
        held, found = Activations(), []
        looking = threading.Thread(target=lambda: found.append(heartbeat._where()))
        looking.start()
        looking.join()
        assert any("test_heartbeat.py" in place for place in found[0])
        return weakref.ref(held)

    gc.disable()
    try:
        assert step()() is None
    finally:
        gc.enable()


def test_a_rank_that_waits_for_data_says_where_they_are_read(begin, tmp_path):
    read = threading.Event()

    def read_a_file():
        read.wait(HANG_S)

    activity.begin(activity.READING)
    reader = threading.Thread(target=read_a_file, name=f"{THREAD_NAME}_0")
    reader.start()
    begin()
    try:
        assert await_beat(tmp_path, lambda beat: beat.where).where[0].endswith(" read_a_file")
    finally:
        read.set()
        reader.join()


def test_a_rank_that_gets_on_says_how_many_steps_it_trains_a_second(begin, tmp_path):
    begin()
    for step in range(1, 30):
        activity.begin(activity.TRAINING, step)
        time.sleep(0.01)
    assert 1 < await_beat(tmp_path, lambda beat: beat.step == 29).steps_per_s < 200


def test_a_rank_that_fails_says_how_and_beats_no_more(begin, tmp_path):
    begin()
    activity.begin(activity.TRAINING, 9)
    heartbeat.end("bug", "rank 1 failed: ValueError: boom")
    (end,) = read(tmp_path).ends
    assert (end.kind, end.line, end.rank, end.step) == ("bug", "rank 1 failed: ValueError: boom", 1, 9)
    assert beat_of(tmp_path).ended == "bug"
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(("rank", "ends"), [(0, 1), (1, 0)])
def test_of_success_rank_0_alone_leaves_a_line(begin, tmp_path, rank, ends):
    begin(rank=rank)
    heartbeat.end(heartbeat.FINISHED, "all epochs trained")
    assert len(read(tmp_path).ends) == ends
    assert beat_of(tmp_path, rank).ended == "finished"


def test_ends_of_several_starts_are_kept(begin, tmp_path):
    for line in ("first", "second"):
        begin()
        heartbeat.end("bug", line)
    assert [end.line for end in read(tmp_path).ends] == ["first", "second"]


def test_a_folder_that_cannot_be_written_is_told_of_once_and_stops_nothing(begin, tmp_path):
    (tmp_path / "heartbeat").write_text("no folder")
    warnings = begin()
    await_true(lambda: bool(warnings), HANG_S, "a warning")
    time.sleep(0.1)
    heartbeat.end("bug", "boom")
    assert len(warnings) == 1
    assert "heartbeat: File exists; `status` may not know of rank 1, the run goes on" in warnings[0]


def test_who_has_not_begun_to_beat_has_nothing_to_end():
    heartbeat.end("bug", "boom")


@pytest.mark.parametrize("where", [SLEEPS, IN_CPP])
@pytest.mark.parametrize(("agent", "code"), [({}, 143), ({"TORCHELASTIC_RUN_ID": "1"}, -signal.SIGTERM)])
def test_a_signal_that_ends_a_rank_at_once_is_written_down_first(tmp_path, where, agent, code):
    with started(where, tmp_path, **agent) as process:
        process.stdout.readline()
        time.sleep(0.1)
        process.terminate()
        assert process.wait(HANG_S) == code
    (end,) = read(tmp_path).ends
    assert (end.kind, end.line, end.signal, end.step) == ("ended", "stopped by SIGTERM", "SIGTERM", 7)


def test_a_rank_that_leaves_after_an_error_says_so(tmp_path):
    script = "from dlrm.command.failure import leave; leave(ValueError('boom'))"
    with started(script, tmp_path, RANK="1", WORLD_SIZE="2") as process:
        assert process.wait(HANG_S) == 1
    (end,) = read(tmp_path).ends
    assert (end.kind, end.line) == ("bug", "rank 1 failed: ValueError: boom")
