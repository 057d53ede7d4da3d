"""What is written of a benchmark: format, tables, shares of models, and the comparison."""

import csv
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.inference.benchmark.colocation import shared
from dlrm.inference.benchmark.comparison import Comparison
from dlrm.inference.benchmark.measure import Measured
from dlrm.inference.benchmark.observed import Latencies, Observed, OfModel
from dlrm.inference.benchmark.picture import draw
from dlrm.inference.benchmark.points import Point
from dlrm.inference.benchmark.result import Result, table_rows, write_files
from dlrm.inference.benchmark.text import best_line, comparison_line, texts

LATENCY = Latencies(1.0, 5.0, 20.0, 30.0)


def observed(rate, kind="open", models=()):
    return Observed(
        kind, 4 if kind == "closed" else 0, rate if kind == "open" else 0.0, 100, 100, 0, 0, 1.0, rate, rate, LATENCY, 1.0,
        models=tuple(OfModel(of_one, 3.0) for of_one in models),
    )  # fmt: skip


def measured(members, rate, *, batch=32, closed=(), **point):
    bounded = observed(rate) if rate else None
    curve = [observed(rate / 2)] if rate else []
    total = observed(sum(closed) or 2 * rate, "closed", closed if len(closed) > 1 else ())
    return Measured(Point(members, batch, 2, **point), observed(10.0, "closed"), total, bounded, curve)


def config(**options):
    return BenchInferenceConfig(**{"exports": ("/secret/folder/ctr",), "output": "/secret/out", **options})


RESULT = Result(
    config(),
    [
        measured((0,), 100.0, closed=(400.0,)),
        measured((0, 0), 80.0, closed=(100.0, 200.0)),
        measured((0,), 0.0, batch=1),
    ],
)


def test_models_are_compared_with_one_alone():
    alone, two = shared(RESULT.measured)
    assert (alone.models, alone.relative, alone.total, alone.added) == (1, 1.0, 1.0, None)
    # Both together answer 80 a second, 40 each, where one alone answers 100.
    assert (two.models, two.rate_per_model, two.relative, two.total) == (2, 40.0, 0.4, 0.8)
    assert two.closed_relative == (0.25, 0.5)
    assert two.added == pytest.approx(-0.6)


def test_each_export_is_compared_with_itself_alone():
    found = shared([measured((0,), 100.0), measured((1,), 300.0), measured((0, 1), 100.0, closed=(20.0, 60.0))])
    assert [one.models for one in found] == [1, 2]
    assert found[1].relative == 50 / 200
    assert found[1].closed_relative == (20 / 200, 60 / 600)


def test_the_best_point_answers_most_rows():
    many = measured((0,), 20.0, request_rows=10)
    result = replace(RESULT, measured=[*RESULT.measured, many])
    assert result.best is many
    assert result.best_alone is RESULT.measured[0]
    assert "requests of 10 rows: 20 requests/s" in best_line(result)
    assert "best within a p99 of 25 ms: batches of 32 rows, 2 threads: 100 requests/s" in best_line(RESULT)


def test_where_nothing_keeps_the_bound_the_line_says_what_one_request_takes():
    nothing = [measured((0,), 0.0)]
    assert "one request alone takes 1.00 ms" in best_line(Result(config(), nothing))
    assert best_line(Result(config(bound_ms=0.5), nothing)) == (
        "nothing keeps a p99 of 0.5 ms: one request alone takes 1.00 ms"
    )


def test_ratios_are_of_rounds_in_which_both_kept_the_bound():
    found = Comparison(
        RESULT.measured[0].point,
        2,
        [observed(10.0), None, observed(20.0)],
        [observed(60.0), observed(50.0), observed(80.0)],
    )
    assert found.ratios == [6.0, 4.0]
    assert found.to_dict()["ratio"] == {"median": 5.0, "least": 4.0, "most": 6.0}
    assert "60, 5.0 times as many (4.0 to 6.0 in 2 rounds)" in comparison_line(found, 25.0)
    assert "in none of 1 round" in comparison_line(Comparison(RESULT.measured[0].point, 2, [None], [None]), 25.0)


def test_the_files_hold_what_was_found_and_no_path(tmp_path):
    write_files(RESULT, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["format"], found["version"], found["complete"]) == ("dlrm-inference-benchmark", 1, False)
    assert found["exports"] == ["ctr"]
    assert "secret" not in (tmp_path / "results.json").read_text()
    assert found["best"]["rate_per_s"] == 100.0
    assert [point["bounded"] and point["bounded"]["rate_per_s"] for point in found["points"]] == [100.0, 80.0, None]
    assert found["points"][1]["closed"]["models"][1] == {"requests_per_s": 200.0, "p99_ms": 3.0}
    rows = pq.read_table(tmp_path / "points.parquet").to_pylist()
    assert rows == table_rows(RESULT.measured)
    assert [row["run"] for row in rows] == ["alone", "closed", "curve", "bounded"] * 2 + ["alone", "closed"]
    assert [row["models"] for row in rows] == [1] * 4 + [2] * 4 + [1] * 2
    assert rows[3]["p99_ms"] == 20.0
    with (tmp_path / "points.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == [row["run"] for row in rows]


def test_tables_and_lines_are_shown_and_the_picture_is_drawn(tmp_path):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for shown in texts(RESULT):
        console.print(shown)
    said = console.export_text()
    for part in ("within/s", "none", "all, of alone", "0.40", "-60%"):
        assert part in said
    draw(RESULT, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    draw(Result(config(), [measured((0,), 0.0)]), tmp_path / "empty.png")
