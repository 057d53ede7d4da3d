"""The cost model against steps that others measured on GPUs and published."""

from dataclasses import replace

import pytest

from benchmarks.mlperf_points import CORRECTED_BY, FIRST, MOST_OFF, Part, predicted, shared_out, speed_of
from dlrm.hardware.catalogue import reference_points
from dlrm.scaling.cost.step import step_cost


def test_two_points_of_eight_gpus_correct_the_model_for_the_other_eleven():
    known = {point.name: point for point in reference_points()}
    assert len(CORRECTED_BY) + len(FIRST) == len({*CORRECTED_BY, *FIRST}) == 13
    assert [known[name].gpus for name in CORRECTED_BY] == [8, 8]
    described, factors = predicted()
    off = {}
    for name, (work, machine) in described.items():
        speed = speed_of(known[name], step_cost(work, replace(machine, factors=factors)))
        off[name] = speed / known[name].samples_s_per_gpu - 1
    assert max(abs(off[name]) for name in CORRECTED_BY) < 0.02
    assert max(abs(off[name]) for name in FIRST) < 0.25
    beyond = {name for name in FIRST if abs(off[name]) > MOST_OFF}
    assert beyond <= {"v5.0_nvidia_8xb200", "v5.0_nvidia_8xgb200"}  # the first submissions on their kind
    assert all(0.4 < factor < 1.2 for factor in factors.values())  # no term makes up for another


def test_parts_are_shared_out_whole_and_evenly():
    parts = [Part(0, 100.0, 4e7), Part(1, 27.0, 4e7), *(Part(i, 1.0, 1e4) for i in range(2, 12))]
    plan = shared_out(parts, 4, a_table=0.5)
    assert len(plan) == 4
    for table in range(12):
        of_table = [part for bucket in plan for part in bucket if part.table == table]
        assert sum(part.ids for part in of_table) == pytest.approx(parts[table].ids)
        assert sum(part.rows for part in of_table) == pytest.approx(parts[table].rows)
    fullest = max(sum(part.ids + 0.5 for part in bucket) for bucket in plan)
    assert fullest < 1.25 * (sum(part.ids for part in parts) / 4 + 0.5 * len(parts) / 4)
