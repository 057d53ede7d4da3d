"""Step times, the breakdown over ranks, floors, and what is shown and written of them."""

import json

import numpy as np
import pytest

from dlrm.memory import PROCESS, TABLES, Bytes, MemoryAccount
from dlrm.metrics.memory import PeakMemory
from dlrm.scaling.benchmark.ceilings import Ceilings
from dlrm.scaling.benchmark.floors import floors
from dlrm.scaling.benchmark.picture import draw
from dlrm.scaling.benchmark.result import Memory, ProfiledRank, Result, breakdown, slowest, step_time
from dlrm.scaling.benchmark.text import texts
from dlrm.scaling.work import Work


def rank(data_us, work_us, device_us=None):
    stages = [{"data wait": data, "top_mlp": work} for data, work in zip(data_us, work_us, strict=True)]
    device = [{"top_mlp": device_us}] * len(stages) if device_us else [{}] * len(stages)
    lengths = [sum(step.values()) / 1e6 for step in stages]
    return ProfiledRank(lengths, stages, device, [device_us or 0.0] * len(stages), work_us)


def a_result(ranks, **changes):
    found = breakdown(ranks, ["data wait", "top_mlp", "other"], plain_median_s=0.004)
    work = Work(flops=2e6, row_bytes=3000.0, streamed_bytes=1000.0, exchanged_bytes=512.0)
    ceilings = tuple(Ceilings(1e9, 2e9, 4e9) for _ in ranks)
    fields = {
        "name": "small", "hosts": 1, "ranks": len(ranks), "device": "cpu", "backend": "gloo", "threads_per_rank": 1,
        "global_batch_size": 8, "without": (), "steps": 3, "samples_per_s": 2000.0,
        "step": step_time([0.004, 0.005, 0.003]), "breakdown": found, "work": work, "ceilings": ceilings,
        "floors": floors(work, ceilings, samples=8, step_ms=4.0), "notices": (), "environment": {},
        "memory": None, "bytes_sent": {"all_to_all": (10.0,) * len(ranks)},
    }  # fmt: skip
    return Result(**{**fields, **changes})


def test_step_times_are_percentiles():
    times = np.random.default_rng(0).uniform(0.01, 0.02, 1001)
    ordered = sorted(times * 1e3)
    found = step_time(times)
    assert (found.p5_ms, found.median_ms, found.p95_ms) == pytest.approx((ordered[50], ordered[500], ordered[950]))
    assert found.mean_ms == pytest.approx(sum(ordered) / 1001)


def test_the_slowest_rank_is_the_one_that_took_longest_for_all_steps():
    assert slowest([[1.0, 5.0], [3.0, 2.0]]) == [1.0, 5.0]


def test_stages_are_means_over_the_middle_half_of_the_steps_of_all_ranks():
    ranks = [rank([1000, 2000, 1000, 9000], [3000] * 4), rank([2000, 1000, 2000, 9000], [5000, 3000, 6000, 5000])]
    found = breakdown(ranks, ["data wait", "top_mlp", "other"], plain_median_s=0.008)
    # Lengths of the steps over both ranks: 5500, 4500, 6000, 13000: the first and the third count.
    shown = [(stage.stage, stage.mean_ms, stage.slowest_ms, stage.slowest_rank) for stage in found.stages]
    assert shown == [("data wait", 1.5, 2.0, 1), ("top_mlp", 4.25, 5.5, 1), ("other", 0.0, 0.0, 0)]
    assert found.step_ms == pytest.approx(sum(stage.mean_ms for stage in found.stages)) == 5.75
    assert [stage.by_rank_ms for stage in found.stages] == [(1.0, 2.0), (3.0, 5.5), (0.0, 0.0)]
    assert found.busy_ms == (3.0, 5.5)
    assert found.steps == 2
    assert found.overhead == pytest.approx(0.0075 / 0.008 - 1)  # 7, 4, 8 and 14 ms on the slower rank
    assert (found.device_busy_ms, found.stages[0].device_ms) == (None, None)


def test_on_a_device_kernels_are_shown_beside_the_host():
    result = a_result([rank([1000] * 4, [3000] * 4, device_us=2500.0)] * 2, device="cuda")
    assert result.breakdown.device_busy_ms == 2.5
    assert [stage.device_ms for stage in result.breakdown.stages] == [0.0, 2.5, 0.0]
    (table,) = (shown for shown in texts(result) if not isinstance(shown, str))
    assert "device ms" in [column.header for column in table.columns]


def test_the_higher_floor_binds():
    work = Work(flops=2e6, row_bytes=3000.0, streamed_bytes=1000.0, exchanged_bytes=0.0)
    ceilings = [Ceilings(1e9, 2e9, 4e9), Ceilings(1e9, 1e9, 8e9)]
    found = floors(work, ceilings, samples=200, step_ms=100.0)
    assert found.memory_ms == pytest.approx(100 * (3000 / 1e9 + 1000 / 1e9) * 1e3)
    assert found.arithmetic_ms == pytest.approx(100 * 2e6 / 4e9 * 1e3)
    assert (found.higher, found.share) == ("arithmetic", pytest.approx(0.5))
    memory_bound = floors(Work(0.0, 1e6, 0.0, 0.0), ceilings, samples=2, step_ms=2.0)
    assert (memory_bound.higher, memory_bound.share) == ("memory", pytest.approx(0.5))


def test_the_json_holds_everything():
    written = json.loads(json.dumps(a_result([rank([1000] * 4, [3000] * 4)]).to_dict(), allow_nan=False))
    assert (written["format"], written["version"]) == ("dlrm-benchmark", 2)
    assert written["step"].keys() == {"median_ms", "p5_ms", "p95_ms", "mean_ms"}
    assert written["breakdown"].keys() == {"step_ms", "steps", "overhead", "stages", "busy_ms", "device_busy_ms"}
    assert written["breakdown"]["stages"][1] == {
        "stage": "top_mlp", "mean_ms": 3.0, "slowest_ms": 3.0, "slowest_rank": 0, "by_rank_ms": [3.0], "device_ms": None,
    }  # fmt: skip
    assert written["work"].keys() == {"flops", "row_bytes", "streamed_bytes", "exchanged_bytes"}
    assert written["floors"].keys() == {"memory_ms", "arithmetic_ms", "higher", "share"}


def test_a_person_reads_speed_work_ceilings_floors_and_stages():
    lines = [text for text in texts(a_result([rank([1000] * 4, [3000] * 4)] * 2)) if isinstance(text, str)]
    assert "2,000 samples/s on 2 rank(s)" in lines[0]
    assert "median of 3; p5 3.10, p95 4.90" in lines[0]
    assert [line.split(":")[0] for line in lines[1:4]] == ["work of a sample", "ceilings of a rank", "floors of a step"]


GIB = 2**30


def accounts(*device_gib):
    return [MemoryAccount({PROCESS: Bytes(host=GIB), TABLES: Bytes(GIB // 4, int(gib * GIB))}) for gib in device_gib]


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (
            Memory.of(accounts(0.0, 0.0), [PeakMemory(1.0), PeakMemory(1.2)]),
            "memory of the rank that takes most: host 1.20 GiB (1.25 expected, +4%)",
        ),
        (
            Memory.of(accounts(3.0, 4.5), [PeakMemory(2.5, 5.0, 6.0), PeakMemory(2.0, 4.0, 7.0)]),
            "memory of the rank that takes most: host 2.50 GiB (1.25 expected, -50%); "
            "device 5.00 GiB (4.50 expected, -10%), for which 7.00 GiB are reserved",
        ),
    ],
)
def test_what_a_rank_took_stands_beside_what_was_expected(memory, said):
    result = a_result([rank([1000] * 4, [3000] * 4)] * 2, memory=memory)
    assert list(texts(result))[1] == said
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))["memory"]
    assert written["host_gib"] == memory.host_gib
    assert written["expected_bytes"]["parts"][PROCESS] == {"host": GIB, "device": 0}
    host, device = written["host_bytes_by_rank"], written["device_bytes_by_rank"]
    assert max(host) == round(memory.host_gib * GIB)
    assert (device is None) == (memory.device_gib is None)
    assert device is None or max(device) == round(memory.device_gib * GIB)


@pytest.mark.parametrize(("step_ms", "impossible"), [(5.0, False), (3.0, True)])
def test_a_step_shorter_than_its_floor_is_not_passed_off_as_a_fast_one(step_ms, impossible):
    result = a_result([rank([1000], [3000])])
    reached = floors(result.work, result.ceilings, samples=8, step_ms=step_ms)
    lines = [text for text in texts(a_result([rank([1000], [3000])], floors=reached)) if isinstance(text, str)]
    assert any(line.startswith("more than all") for line in lines) == impossible


def test_without_a_part_of_the_model_no_floor_is_shown():
    result = a_result([rank([1000], [3000])], without=("mlps",), work=None, ceilings=None, floors=None)
    lines = [text for text in texts(result) if isinstance(text, str)]
    assert lines[0].startswith("small without mlps: ")
    assert not any("floor" in line for line in lines)


def test_what_could_not_be_done_is_said_at_the_end():
    result = a_result([rank([1000], [3000])], ceilings=None, floors=None, notices=("no floors: no memory",))
    *_, table, last = texts(result)
    assert not isinstance(table, str)
    assert last == "no floors: no memory"


def test_the_picture_is_a_png(tmp_path):
    draw(a_result([rank([1000] * 4, [3000] * 4)] * 2, name="a$b"), tmp_path / "breakdown.png")
    assert (tmp_path / "breakdown.png").read_bytes().startswith(b"\x89PNG")
