from dataclasses import replace

import pytest

from dlrm.errors import DataError
from dlrm.scaling.report.points import PARTLY, points_of
from dlrm.scaling.report.read import of_rows
from dlrm.scaling.table import (
    DONE,
    EXCHANGED,
    FAILED,
    LOAD,
    MEASURED,
    MEMORY,
    MISSING,
    PREDICTED,
    PUBLISHED,
    SAMPLES_PER_S,
    STAGE,
    STEP,
    Row,
    Spread,
)


def row(quantity, value, *, source=MEASURED, repeat=0, part="", rank=None, status=DONE, reason="", low=None, high=None):
    return Row("e", "p", repeat, status, reason, 1, 4, 1000, source, quantity, part, rank, value, low, high)


def point(*rows):
    (found,) = points_of(of_rows(rows))
    return found


def test_a_measurement_is_the_median_of_the_repeats_and_spreads_from_the_lowest_to_the_highest():
    found = point(*(row(SAMPLES_PER_S, value, repeat=number) for number, value in enumerate((90, 130, 100))))
    assert found.throughput == {MEASURED: Spread(100, 90, 130)}


def test_a_prediction_spreads_over_its_band():
    found = point(row(SAMPLES_PER_S, 100.0, source=PREDICTED, low=80.0, high=150.0))
    assert found.throughput == {PREDICTED: Spread(100, 80, 150)}
    assert found.status == PREDICTED


def test_throughput_follows_from_the_step_and_the_step_from_throughput():
    slow_and_fast = [row(STEP, value, repeat=number) for number, value in enumerate((10.0, 20.0, 40.0))]
    noise = [row(STEP, 5.0, part="p5"), row(STEP, 99.0, part="p95"), row(STEP, 1.0, rank=3)]
    assert point(*slow_and_fast, *noise).throughput[MEASURED] == Spread(50_000, 25_000, 100_000)
    assert point(row(SAMPLES_PER_S, 50_000.0)).step_ms[MEASURED] == Spread(20, 20, 20)


def test_stages_and_bytes_are_means_of_repeats_and_of_ranks_where_the_table_has_no_mean():
    of_ranks = [row(STAGE, value, part="lookup", rank=rank) for rank, value in enumerate((1.0, 3.0))]
    of_job = [row(STAGE, value, part="other", repeat=number) for number, value in enumerate((2.0, 4.0))]
    of_job.append(row(STAGE, 100.0, part="other", rank=0))
    found = point(*of_ranks, *of_job, row(EXCHANGED, 8.0, part="all_to_all"))
    assert found.stages == {MEASURED: {"lookup": 2.0, "other": 3.0}}
    assert found.exchanged == {MEASURED: {"all_to_all": 8.0}}


def test_memory_is_the_peak_of_the_repeats_by_rank():
    found = point(
        *(row(MEMORY, value, part="device", rank=1, repeat=number) for number, value in enumerate((5.0, 3.0)))
    )
    assert found.memory == {MEASURED: {"device": {1: 5.0}}}


def test_imbalance_is_the_slowest_rank_over_the_mean():
    found = point(*(row(LOAD, value, rank=rank) for rank, value in enumerate((1.0, 1.0, 1.0, 2.0))))
    assert found.imbalance(MEASURED) == pytest.approx(2.0 / 1.25)
    assert found.imbalance(PREDICTED) is None


def test_a_point_is_what_its_repeats_are():
    done, failed = row(SAMPLES_PER_S, 1.0), row("", None, repeat=1, status=FAILED, reason="rank 3 died")
    missing = row("", None, repeat=2, status=MISSING)
    assert point(done).status == DONE
    assert point(failed).status == FAILED
    assert point(missing).status == MISSING
    assert point(failed, missing).status == FAILED
    partly = point(done, failed, missing)
    assert (partly.status, partly.reasons) == (PARTLY, ["rank 3 died"])
    assert partly.repeats == {DONE: 1, FAILED: 1, MISSING: 1}
    published = point(row(SAMPLES_PER_S, 5.0, source=PUBLISHED), row(SAMPLES_PER_S, 6.0, source=PREDICTED))
    assert published.is_published
    assert published.error(PUBLISHED) == pytest.approx(0.2)
    assert published.error() is None


def test_what_a_point_is_stands_in_one_row_at_least():
    measured, predicted = row(SAMPLES_PER_S, 1.0), row(SAMPLES_PER_S, 2.0, source=PREDICTED)
    sized = {"hosts": 2, "ranks": 16, "global_batch_size": 64}
    without = replace(predicted, hosts=0, global_batch_size=0)
    found = point(without, replace(measured, **sized))
    assert (found.hosts, found.ranks, found.batch) == (2, 16, 64)
    with pytest.raises(DataError, match="rows: no row of point p has hosts, ranks and global_batch_size of 1 or more"):
        point(without)


def test_figures_that_are_no_numbers_are_left_out():
    found = point(
        row(SAMPLES_PER_S, float("nan")), row(SAMPLES_PER_S, 7.0, repeat=1), row(STAGE, float("inf"), part="a")
    )
    assert found.throughput == {MEASURED: Spread(7, 7, 7)}
    assert found.stages == {}
    assert found.status == DONE
