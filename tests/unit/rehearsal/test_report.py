"""What a rehearsal says of the steps it has counted: scripts/rehearse_cuda/report.py, without any CUDA."""

from collections import Counter

import pytest

from scripts.rehearse_cuda.counting import Event, Step
from scripts.rehearse_cuda.report import (
    Known,
    counts_line,
    function_of,
    grouped_violations,
    launch_lines,
    rank_lines,
    rank_report,
    read_known,
    seen,
    violations,
)

MEMORY = {kind: {"now": 512.0, "peak": 1536.0} for kind in ("device", "pinned", "managed")}
COUNTERS = (
    *("launches", "blas", "waits", "h2d_pinned", "h2d_pageable", "d2h_pinned", "d2h_pageable", "d2d"),
    *("device_allocations", "pinned_allocations", "all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce"),
    *("all_to_all", "exchange"),
)
WAIT = Event("waits", "cudaStreamSynchronize", ("a.py:7 inner", "b.py:30 Outer.call"), "main")
COPY = Event("h2d_pageable", "copy", ("c.py:1 make",), "autograd")


def step(number, quiet=True, launches=100, events=()):
    counts = dict.fromkeys(COUNTERS, (0, 0)) | {"launches": (launches, 0), "all_reduce": (2, 3_000_000)}
    return Step(number, quiet, counts, Counter(events))


def report(*steps, warmup=0, rank=0):
    return {"rank": rank, "not_computed": {}, **rank_report(steps, warmup, MEMORY)}


def test_only_quiet_steps_after_the_warmup_count():
    found = report(step(1, launches=7), step(2), step(3, quiet=False, launches=9), step(4, launches=200), warmup=1)
    assert (found["steps"], found["quiet_steps"]) == (4, 2)
    assert found["per_step"]["launches"]["calls"] == 150
    assert found["per_step"]["all_reduce"] == {"calls": 2, "bytes": 3_000_000}


def test_events_are_means_over_the_quiet_steps():
    found = report(step(1, events=[WAIT, WAIT]), step(2, events=[WAIT, COPY]), step(3, quiet=False, events=[COPY]))
    assert {event["counter"]: event["per_step"] for event in found["events"]} == {"waits": 1.5, "h2d_pageable": 0.5}


def test_what_is_not_known_is_told_with_its_whole_stack():
    (text,) = violations(report(step(1, events=[WAIT])), [])
    assert text.splitlines() == [
        "1.00 waits a step: cudaStreamSynchronize (thread main)",
        "    a.py:7 inner",
        "    b.py:30 Outer.call",
    ]


def test_what_is_not_judged_is_no_violation():
    assert violations(report(step(1, events=[Event("launches", "", ("a.py:1 f",), "main")])), []) == []


@pytest.mark.parametrize("function", ["a.py inner", "b.py Outer.call"])
def test_any_frame_of_a_stack_can_be_known_whatever_its_line(function):
    assert violations(report(step(1, events=[WAIT])), [Known(function, ("waits",), 1, "because")]) == []


@pytest.mark.parametrize(
    "known", [Known("a.py other", ("waits",), 9, "r"), Known("a.py inner", ("d2h_pageable",), 9, "r")]
)
def test_another_function_or_counter_is_not_meant(known):
    assert len(violations(report(step(1, events=[WAIT])), [known])) == 1


def test_more_than_is_known_is_a_violation():
    (text,) = violations(report(step(1, events=[WAIT, WAIT])), [Known("a.py inner", ("waits",), 1, "because")])
    assert text.startswith("2.00 waits a step in a.py inner, at most 1 are known\n")


def test_counters_of_an_entry_are_counted_apart():
    copy = Event("d2h_pageable", "copy", WAIT.stack, "main")
    assert (
        violations(report(step(1, events=[WAIT, copy])), [Known("a.py inner", ("waits", "d2h_pageable"), 1, "r")]) == []
    )


def test_a_rehearsal_without_a_quiet_step_shows_nothing():
    assert "no quiet step among 2" in violations(report(step(1), step(2), warmup=2), [])[0]
    assert counts_line(report()) == "no quiet step among 0"


def test_what_several_ranks_do_is_said_once():
    (text,) = grouped_violations([report(step(1, events=[WAIT]), rank=rank) for rank in (0, 1)], [])
    assert text.startswith("(rank 0, 1) 1.00 waits")


def test_what_no_rank_does_is_not_seen():
    happens, other = (Known(name, ("waits",), 1, "r") for name in ("a.py inner", "a.py other"))
    assert seen([report(step(1, events=[WAIT]))], [happens, other]) == {happens}


def test_people_read_figures_with_their_units():
    lines = rank_lines(report(step(1)))
    assert lines[0] == "rank 0: 1 quiet steps of 1; in each of them"
    assert "  collectives  all_reduce 2 (3 MB)" in lines
    assert "  copies       none" in lines
    assert lines[-1] == "  peak GiB     device 1.5, pinned 1.5, managed 1.5"


def test_launches_are_listed_by_place_where_they_were_asked_for():
    launch = [
        Event("launches", "launch", stack, "main") for stack in (("a.py:1 f", "b.py:2 g", "c.py:3 h"), ("d.py:4 k",))
    ]
    found = report(step(1, events=[launch[0], launch[0], launch[1], WAIT]))
    assert launch_lines(found) == ["     2.0 launches a.py:1 f < b.py:2 g", "     1.0 launches d.py:4 k"]
    assert launch_lines(report(step(1, events=[WAIT]))) == []


def test_a_function_is_named_without_its_line():
    assert function_of("torch/a.py:12 Outer.call.<locals>.<listcomp>") == "torch/a.py Outer.call.<locals>.<listcomp>"


def test_every_known_place_has_a_reason():
    assert all(len(entry.reason) > 20 and entry.at_most > 0 for entry in read_known())


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('function = "f"\ncounters = ["waits"]\nat_most = 1\nreason = " "', "an entry has function"),
        ('function = "f"\ncounters = ["waits"]\nat_most = 1', "an entry has function"),
        ('function = "f"\ncounters = ["launches"]\nat_most = 1\nreason = "r"', "launches is none of waits"),
    ],
)
def test_an_entry_that_says_too_little_is_refused(tmp_path, entry, said):
    file = tmp_path / "known.toml"
    file.write_text(f"[[known]]\n{entry}\n")
    with pytest.raises(ValueError, match=said):
        read_known(file)
