"""From events to stages, on events that are made up."""

import itertools

import pytest

from dlrm.scaling.benchmark import stages
from dlrm.scaling.benchmark.collectives import WAIT
from dlrm.scaling.benchmark.regions import OWN, STEP
from dlrm.scaling.benchmark.stages import (
    Event,
    Kernel,
    Timeline,
    busy_by_step,
    by_step,
    launched_by_step,
    merged,
    timeline,
    working_by_step,
)
from dlrm.scaling.stage_names import in_order

NODE = "autograd::engine::evaluate_function: "
MAIN, READER, GLOO = 1, 2, 3


def step(start_us=0.0):
    """100 us: hooks of the step before end at the start."""
    events = [
        (STEP, 0, 0),
        ("## copy_batch_to_gpu 3 ##", 2, 10),
        ("## next_batch ##", 3, 9),
        ("## forward 1 ##", 10, 40),
        (f"{OWN}model", 11, 39),
        (f"{OWN}input distribution", 12, 20),
        ("[lookup]_[model.tables]_[table_wise]", 13, 17, 7),
        ("fbgemm::lookup", 14, 16, 7),
        ("[output_dist]_[model.tables]_[table_wise]", 17, 19),
        (f"{OWN}top_mlp", 20, 35),
        ("aten::linear", 21, 30, 8),
        ("aten::t", 22, 23, 8),
        ("aten::addmm", 23, 30, 9),
        ("## backward 1 ##", 40, 80),
        (f"{NODE}AddmmBackward0", 42, 50, 9),
        ("AddmmBackward0", 43, 49, 9),
        ("aten::mm", 44, 48),
        (f"{NODE}torch::autograd::AccumulateGrad", 51, 53),
        (f"{NODE}TBackward0", 53, 54, 8),
        (f"{NODE}CppNode<Lookup>", 55, 70, 7),
        (f"{NODE}torch::autograd::AccumulateGrad", 70, 71),
        ("aten::item", 73, 74),
        ("## optimizer 1 ##", 80, 90),
        (f"{OWN}hooks", 92, 97),
    ]
    return [
        Event(name, start_us + begin, start_us + end, MAIN, *sequence, device_us=float(name == "aten::mm"))
        for name, begin, end, *sequence in events
    ]


def test_each_moment_belongs_to_the_innermost_stage_and_a_backward_pass_to_what_made_its_nodes():
    found = by_step(timeline([*step(0.0), *step(100.0), Event(STEP, 200.0, 200.0, MAIN)]))
    expected = {
        "copy to the device": 2, "data wait": 6, "input distribution": 2, "lookup": 4, "output distribution": 2,
        "top_mlp": 15, "model": 1 + 4, "top_mlp backward": 8 + 1, "all-reduce": 2 + 1 + 9, "table update": 15,
        "optimizer": 10, "hooks": 5, "other": 2 + 1 + 1 + 2 + 1 + 1 + 2 + 3,
    }  # fmt: skip
    assert found == [expected, expected]


def test_the_stages_of_a_step_sum_up_to_it():
    line = timeline([*step(0.0), *step(130.0), *step(230.0), Event(STEP, 350.5, 350.5, MAIN)])
    assert [sum(found.values()) for found in by_step(line)] == pytest.approx([130.0, 100.0, 120.5])


def test_threads_that_neither_step_nor_run_autograd_do_not_count():
    others = [Event("aten::copy_", 5, 60, READER), Event("gloo:all_to_all", 12, 90, GLOO)]
    events = [*step(0.0), Event(STEP, 100.0, 100.0, MAIN)]
    assert by_step(timeline([*others, *events])) == by_step(timeline(events))


def test_on_a_device_autograd_s_own_thread_fills_the_time_in_which_the_other_waits():
    events = [
        Event(STEP, 0, 0, MAIN), Event(f"{OWN}loss", 0, 10, MAIN), Event("aten::mul", 1, 9, MAIN, 5),
        Event("## backward ##", 10, 40, MAIN), Event(f"{NODE}MulBackward0", 12, 35, READER, 5), Event(STEP, 40, 40, MAIN),
    ]  # fmt: skip
    assert by_step(timeline(events)) == [{"loss": 10, "loss backward": 23, "other": 2, "all-reduce": 5}]


def test_kernels_count_where_they_were_launched_and_the_device_is_busy_where_any_runs():
    kernels = [Kernel("gemm", 45.0, 60.0), Kernel("ncclDevKernel_AllReduce", 50.0, 70.0), Kernel("add", 95.0, 110.0)]
    line = timeline([*step(0.0), *step(100.0), Event(STEP, 200.0, 200.0, MAIN)], kernels)
    assert launched_by_step(line) == [{"top_mlp backward": 1.0}, {"top_mlp backward": 1.0}]
    assert busy_by_step(line) == [25.0 + 5.0, 10.0]
    assert working_by_step(line) == [15.0 + 5.0, 10.0]


def test_a_rank_works_where_it_waits_for_no_other():
    waits = [Event(WAIT, 20.0, 26.0, MAIN), Event(WAIT, 24.0, 30.0, MAIN), Event(WAIT, 0.0, 100.0, READER)]
    plain = timeline([*step(0.0), Event(STEP, 100.0, 100.0, MAIN)])
    line = timeline([*step(0.0), *waits, Event(STEP, 100.0, 100.0, MAIN)])
    (alone,), (beside) = working_by_step(plain), working_by_step(line)
    assert beside == [alone - 10.0]
    assert by_step(line) == by_step(plain)
    # Behind the last node of a backward pass it waits for the all-reduce.
    events = [
        Event(STEP, 0, 0, MAIN), Event(f"{OWN}loss", 0, 10, MAIN), Event("aten::mul", 1, 9, MAIN, 5),
        Event("## backward ##", 10, 40, MAIN), Event(f"{NODE}MulBackward0", 12, 35, MAIN, 5), Event(STEP, 40, 40, MAIN),
    ]  # fmt: skip
    assert working_by_step(timeline(events)) == [35.0]


def test_neighbours_of_one_stage_become_one():
    line = timeline([*step(0.0), Event(STEP, 100.0, 100.0, MAIN)])
    segments = merged(line.segments)
    assert all(a.stage != b.stage and a.end_us == b.start_us for a, b in itertools.pairwise(segments))
    assert by_step(Timeline(segments, line.ends_us)) == by_step(line)


def test_stages_stand_in_the_order_of_a_step():
    found = ["other", "optimizer", "loss", "bottom_mlp", "top_mlp", "all-reduce", "top_mlp backward", "data wait"]
    found += ["table update", "lookup", "bottom_mlp backward", "loss backward", "output distribution backward"]
    assert in_order(found) == [
        "data wait", "lookup", "bottom_mlp", "top_mlp", "loss", "loss backward", "top_mlp backward",
        "bottom_mlp backward", "output distribution backward", "table update", "all-reduce", "optimizer", "other",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("made_in", "stage"), [("lookup", "table update"), ("top_mlp", "top_mlp backward"), ("other", "other")]
)
def test_a_backward_pass_is_called_after_the_forward_one(made_in, stage):
    assert stages.backward_of(made_in) == stage
