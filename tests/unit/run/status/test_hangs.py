"""Who is named where training stands."""

import pytest

from tests.unit.run.status.folders import Clocks, beat, start, status

STANDS = 45.0
IN_BACKWARD = ["torch/autograd/graph.py:979 _engine_run_backward"]


@pytest.fixture
def folder(tmp_path):
    start(tmp_path, ranks=3)
    return tmp_path


def named(folder):
    found = status(folder)
    return found.state, [problem.rank for problem in found.problems if problem.hangs]


def test_a_rank_that_is_not_heard_is_named_when_the_others_stand(folder):
    for rank in (0, 2):
        beat(folder, rank, still_s=STANDS)
    beat(folder, 1, age_s=STANDS)
    assert named(folder) == ("hanging", [1])
    assert status(folder).text.startswith("rank 1 (host b, pid 101) was last heard 5")


def test_a_rank_that_is_not_heard_is_a_note_while_the_others_get_on(folder):
    for rank in (0, 2):
        beat(folder, rank, still_s=0.3)
    beat(folder, 1, age_s=STANDS)
    found = status(folder)
    assert found.state == "running"
    assert [(problem.rank, problem.hangs) for problem in found.problems] == [(1, False)]


def test_a_rank_that_waits_for_its_reader_is_named_and_not_those_that_wait_for_it(folder):
    for rank in (0, 1):
        beat(folder, rank, still_s=STANDS, where=IN_BACKWARD)
    beat(folder, 2, still_s=STANDS + 1, doing="waiting for data", where=["dlrm/data/loader.py:97 read_ahead"])
    assert named(folder) == ("hanging", [2])
    assert "waiting for data after step 40 (in dlrm/data/loader.py:97 read_ahead)" in status(folder).text


def test_a_rank_that_is_behind_is_named(folder):
    beat(folder, 0, still_s=STANDS, step=40)
    for rank in (1, 2):
        beat(folder, rank, still_s=STANDS, step=41)
    assert named(folder) == ("hanging", [0])


def test_a_rank_that_does_something_else_is_named(folder):
    beat(folder, 0, still_s=STANDS, doing="saving")
    for rank in (1, 2):
        beat(folder, rank, still_s=STANDS)
    assert named(folder) == ("hanging", [0])


def test_a_rank_that_is_in_its_own_code_is_named_beside_those_that_wait_for_others(folder):
    beat(folder, 0, still_s=STANDS, where=["dlrm/layers/mine.py:3 forward"])
    for rank in (1, 2):
        beat(folder, rank, still_s=STANDS, where=IN_BACKWARD)
    assert named(folder) == ("hanging", [0])


def test_nobody_is_named_where_all_do_the_same(folder):
    for rank in (0, 1, 2):
        beat(folder, rank, still_s=100.0, where=IN_BACKWARD)
    found = status(folder)
    assert (found.state, [problem.rank for problem in found.problems]) == ("running", [None])
    assert found.problems[0].text.startswith("no rank has got on for 10")


def test_ranks_that_get_ready_at_different_speeds_do_not_hang(folder):
    beat(folder, 0, still_s=STANDS, doing="starting", step=0)
    for rank in (1, 2):
        beat(folder, rank, still_s=STANDS)
    assert named(folder) == ("starting", [])


def test_a_slow_step_is_no_hang(folder):
    beat(folder, 0, still_s=9.0, step=41)
    for rank in (1, 2):
        beat(folder, rank, still_s=9.0, doing="waiting for data")
    assert named(folder) == ("running", [])


def test_ranks_whose_steps_take_long_do_not_hang(folder):
    beat(folder, 0, still_s=STANDS, steps_per_s=0.02)
    for rank in (1, 2):
        beat(folder, rank, still_s=STANDS, steps_per_s=0.02, doing="waiting for data")
    assert named(folder) == ("running", [])


def test_a_rank_that_was_never_heard_is_named_when_the_others_stand(folder):
    for rank in (0, 2):
        beat(folder, rank, still_s=0.5)
    assert named(folder) == ("running", [])
    for rank in (0, 2):
        beat(folder, rank, still_s=100.0)
    assert named(folder) == ("hanging", [1])


@pytest.mark.parametrize("ahead_s", [-300.0, 300.0])
def test_ranks_that_beat_are_heard_whatever_the_clock_of_this_host_says(folder, ahead_s):
    clocks = Clocks(ahead_s)
    number = 7

    def beats():
        nonlocal number
        number += 1
        for rank in (0, 1, 2):
            beat(folder, rank, age_s=-clocks.at, number=number)

    beats()
    clocks.meanwhile = beats
    found = status(folder, clocks)
    assert found.state == "running"
    assert max(one.age_s for one in found.ranks) <= 1.0


@pytest.mark.parametrize("ahead_s", [-300.0, 0.0, 300.0])
def test_ranks_that_do_not_beat_are_dead_whatever_the_clock_of_this_host_says(folder, ahead_s):
    for rank in (0, 1, 2):
        beat(folder, rank, age_s=200.0)
    assert status(folder, Clocks(ahead_s)).state == "dead"


def test_a_run_that_is_long_dead_is_told_at_once(folder):
    clocks = Clocks()
    for rank in (0, 1, 2):
        beat(folder, rank, age_s=86_400.0)
    assert (status(folder, clocks).state, clocks.at) == ("dead", 0.0)
