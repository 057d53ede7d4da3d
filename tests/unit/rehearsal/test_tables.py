"""The tables of docs/rehearsal.md: scripts/rehearse_cuda/tables.py."""

import pytest

from scripts.rehearse_cuda.counting import Event
from scripts.rehearse_cuda.report import read_known
from scripts.rehearse_cuda.tables import tables
from tests.unit.rehearsal.test_report import report, step

KNOWN = read_known()[0]
PLACE = Event("waits", "cudaStreamSynchronize", (f"{KNOWN.function.replace(' ', ':7 ')}", "b.py:3 outer"), "main")


def case(name, launches, events=()):
    return {"case": name, "ranks": [report(step(1, launches=launches, events=events))]}


CASES = [
    case("quickstart, 1 rank", 100, [PLACE, PLACE]),
    case("quickstart, 1 rank, every kind, sgd", 120, [PLACE]),
    case("quickstart, 1 rank, every kind, adam", 1140),
    case("row_wise adam", 90),
    case("losses: quickstart, 1 rank(s)", 70),
    {"case": "column_wise sgd", "ranks": []},
]


@pytest.mark.parametrize(
    ("row", "launches"),
    [
        ("quickstart, 1 rank", "100"),
        ("quickstart, 1 rank, every kind: sgd, adam", "120 to 1140"),
        ("row_wise adam", "90"),
    ],
)
def test_a_case_is_a_row_and_the_table_optimizers_share_one(row, launches):
    (line,) = [line for line in tables(CASES) if line.startswith(f"| {row} |")]
    assert line == f"| {row} | {launches} + 0 | 0 |  | all_reduce 2 (3 MB) | 1.5 |"


def test_what_is_not_counted_has_no_row():
    lines = list(tables(CASES))
    assert sum(line.startswith("| quickstart") for line in lines) == 2
    assert not any("losses" in line or "column_wise sgd" in line for line in lines)


def test_each_place_of_known_toml_tells_how_often_and_from_where():
    told = "\n".join(tables(CASES))
    assert f"{KNOWN.function}: 1 to 2 waits a step in 2 cases; {KNOWN.reason}" in told
    assert f"    {PLACE.stack[0]}\n    b.py:3 outer" in told
