"""Which of the ranks' failures the launcher takes for the cause, and what it says of it."""

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WAITED = "rank 0 got no answer from another rank within distributed.timeout_s: RuntimeError: Timed out"


@pytest.fixture
def elastic(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    import elastic

    return elastic


def report(kind, line, time_s):
    return {"dlrm": {"kind": kind, "line": line, "details": "", "time_s": time_s}}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_was_stuck_until_the_time_out_is_named_with_it(elastic, number):
    failures = [
        elastic.Failure.of(0, 1, 0.0, report("timeout", WAITED, 10.0)),
        elastic.Failure.of(1, -number, 40.0, {}, ended=True),
        elastic.Failure.of(2, -signal.SIGTERM, 11.0, report("timeout", WAITED, 10.5), ended=True),
    ]
    assert elastic.cause(failures) == f"rank 1 did not answer, stuck or too slow: {WAITED}\n"


def test_a_rank_that_woke_up_after_the_time_out_is_not_accused(elastic):
    failures = [
        elastic.Failure.of(0, 1, 0.0, report("timeout", WAITED, 10.0)),
        elastic.Failure.of(1, -signal.SIGTERM, 11.0, report("peer", "rank 1 lost another rank", 10.5), ended=True),
    ]
    assert elastic.cause(failures) == f"{WAITED}\n"


@pytest.mark.parametrize(
    ("number", "hint"), [(signal.SIGKILL, " (out of memory?)"), (signal.SIGTERM, ""), (signal.SIGHUP, "")]
)
def test_a_rank_that_somebody_else_has_killed_is_the_cause(elastic, number, hint):
    failures = [
        elastic.Failure.of(0, -signal.SIGTERM, 11.0, report("peer", "rank 0 lost another rank", 10.0), ended=True),
        elastic.Failure.of(1, -number, 11.0, {}),
        elastic.Failure.of(2, -signal.SIGKILL, 41.0, {}, ended=True),
    ]
    assert elastic.cause(failures) == f"rank 1 was killed by {number.name}{hint}\n"


@pytest.mark.parametrize(
    ("number", "found", "said"),
    [
        (signal.SIGKILL, {}, "rank 1 was killed by SIGKILL (out of memory?)\n"),
        (
            -2,
            report("user", "rank 1: /data/x.npy: Stale file handle", 700.0),
            "rank 1: /data/x.npy: Stale file handle\n",
        ),
        (-1, report("bug", "rank 1 failed: ValueError: boom", 700.0), "rank 1 failed: ValueError: boom\n"),
    ],
)
def test_that_nccl_s_watchdog_has_ended_a_rank_is_no_cause_if_there_is_one(elastic, number, found, said):
    aborted = elastic.Failure.of(0, -signal.SIGABRT, 610.0, {})
    host = elastic.Failure.of(1, -number, 10.0, found)  # an error may come later than the aborts of those that wait
    assert elastic.cause([aborted, host]) == said
    assert elastic.cause([aborted]) == "rank 0 was killed by SIGABRT\n"
    assert aborted.is_cause  # as far as anybody knows


def test_an_error_comes_before_what_follows_from_it(elastic):
    failures = [
        elastic.Failure.of(0, 1, 0.0, report("timeout", WAITED, 9.0)),
        elastic.Failure.of(1, 1, 0.0, report("bug", "rank 1 failed: ValueError: boom", 10.0)),
    ]
    assert elastic.cause(failures) == "rank 1 failed: ValueError: boom\n"


def test_ranks_that_called_different_collectives_are_named_with_them(elastic):
    told = report("timeout", WAITED, 10.0)
    called = {
        0: [["0", 6, "barrier"], ["0", 7, "all_reduce"], ["0", 8, "all_reduce"]],
        1: [["0", 6, "barrier"], ["0", 7, "broadcast"], ["0", 8, "all_reduce"], ["3", 1, "barrier"]],
    }
    failures = [
        elastic.Failure.of(rank, 1, 0.0, {"dlrm": told["dlrm"] | {"called": own, "caller": f"dlrm/a.py:{rank} (f)"}})
        for rank, own in called.items()
    ]
    apart = (
        "ranks called different collectives: rank 0 all_reduce at dlrm/a.py:0 (f), rank 1 broadcast at dlrm/a.py:1 (f)"
    )
    assert elastic.cause(failures) == f"{apart}; {WAITED}\n"
    assert elastic.cause(failures[:1]) == f"{WAITED}\n"


def test_ranks_that_are_started_again_are_told_the_cause_with_host_and_rank(elastic, monkeypatch, capsys):
    monkeypatch.setenv("DLRM_RESTART_CAUSE", "")
    watch = elastic._Watch(elastic.SaveRequests(), elastic.StopRequests(leave=lambda number: 0))
    watch.failures = [elastic.Failure(1, -signal.SIGKILL, 5.0)]
    watch.others.host = "n1"
    watch.restarting(object(), 1)
    killed = "rank 1 was killed by SIGKILL (out of memory?)"
    assert os.environ["DLRM_RESTART_CAUSE"] == f"host n1: {killed}"
    assert capsys.readouterr().err == f"{killed}; starting all ranks again (1 more time(s) at most)\n"
