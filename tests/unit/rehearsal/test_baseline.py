"""The counts that are written down: scripts/rehearse_cuda/baseline.py."""

import pytest

from scripts.rehearse_cuda import matrix
from scripts.rehearse_cuda.baseline import counts_of, grown, read_counts, write_counts

VERSIONS = {"torch": "2.13.0"}


def rank(waits=2.0, pageable=1.0, launches=100.0, quiet=5, versions=VERSIONS):
    calls = {"launches": launches, "blas": 10.0, "waits": waits, "h2d_pageable": pageable, "d2h_pageable": 0.5}
    per_step = {name: {"calls": value, "bytes": 0.0} for name, value in calls.items()}
    return {"quiet_steps": quiet, "versions": versions, "per_step": per_step}


@pytest.fixture
def written(tmp_path):
    file = tmp_path / "counts.json"
    write_counts({"a": [rank(), rank(waits=3.0)], "b": [rank(quiet=0)], "c": []}, file)
    return file


def test_the_rank_with_most_counts(written):
    expected = {"launches": 110.0, "waits": 3.0, "pageable": 1.5}
    assert counts_of([rank(), rank(waits=3.0)]) == expected
    assert read_counts(written) == {"versions": VERSIONS, "cases": {"a": expected}}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (rank(waits=3.0, launches=500.0), []),
        (rank(waits=1.0), []),
        (rank(waits=4.0), ["4 waits a step, 3 are written down in counts.json"]),
        (rank(pageable=2.0), ["2.5 pageable a step, 1.5 are written down in counts.json"]),
        (rank(waits=4.0, versions={"torch": "2.11.0"}), []),
        (rank(waits=4.0, quiet=0), []),
    ],
)
def test_what_has_grown_is_told(written, now, said):
    assert grown("a", [now], read_counts(written)) == said


def test_a_case_that_was_not_written_down_has_not_grown(written):
    assert grown("new", [rank(waits=9.0)], read_counts(written)) == []


def test_counts_of_the_same_versions_stay(written):
    write_counts({"d": [rank()]}, written)
    assert set(read_counts(written)["cases"]) == {"a", "d"}
    write_counts({"e": [rank(versions={"torch": "2.14.0"})]}, written)
    assert set(read_counts(written)["cases"]) == {"e"}


def test_what_is_written_down_are_cases_of_the_matrix():
    names = {case.name for case in matrix.cases()}
    assert set(read_counts()["cases"]) <= names
