"""A run that is worse than predicting the click rate says so, once, and only when it is sure."""

import math
from dataclasses import replace

import pytest
import torch

from dlrm.config import Config
from dlrm.config.train import EvaluationConfig
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.metrics.base_rate import BaseRateWatch
from dlrm.metrics.binary import BinaryResult
from dlrm.metrics.throughput import ThroughputMeter
from dlrm.run.recorder import NoRecorder
from dlrm.run.report import write_report
from dlrm.train.schedule import Position
from dlrm.train.standard_hooks import LossAndSpeed, Measured, Validation
from dlrm.train.stepper import StepOutput

RATE, SAMPLES = 0.25, 40_000
ENTROPY = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))


def feed(watch, entropies, *, rate=RATE, samples=SAMPLES, steps=100, first=1):
    """The lines that are told of stretches of training with these normalised entropies."""
    base = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    said = []
    for i, entropy in enumerate(entropies):
        start = first + i * steps
        sums_31 = [entropy * base * samples], [samples], [rate * samples]
        said.append(watch.trained(start, start + steps - 1, sums_31))
    return said


def evaluation(entropy, samples=SAMPLES, rate=RATE):
    figures = dict.fromkeys(BinaryResult.__dataclass_fields__)
    counts = {"samples": samples, "positives": round(rate * samples), "click_rate": rate}
    return {"label": BinaryResult(**{**figures, **counts, "normalised_entropy": entropy})}


def test_training_that_stays_worse_than_the_click_rate_is_told_once_with_what_to_try():
    watch = BaseRateWatch()
    said = feed(watch, [0.9, 27.0, 26.5, 27.0, 30.0])
    assert [bool(line) for line in said] == [False, False, True, False, False]
    assert said[2] == (
        "warning: step 300: normalised entropy 26.500 on the training samples, worse than predicting their click rate "
        "0.2500 for each: training has probably diverged; lower the learning rates (optim.dense.lr, optim.sparse.lr), "
        "warm up longer (optim.schedule.warmup_steps) or set optim.clip_norm"
    )
    assert watch.found.to_dict() == {
        "split": "training",
        "step": 300,
        "normalised_entropy": pytest.approx(26.5),
        "click_rate": 0.25,
    }


@pytest.mark.parametrize(
    ("entropies", "others"),
    [
        ([4.7, 3.0, 2.0, 1.4, 1.1, 0.95, 0.9], {}),  # it begins at log 2 and is on its way down
        ([0.8, 1.5, 0.8, 1.5, 0.8], {}),  # it comes back each time
        ([1.005] * 5, {}),  # labels that nothing predicts
        ([1.2] * 5, {"rate": 0.005}),  # 200 clicks: chance
        ([1.5] * 3, {"steps": 20, "samples": 100}),  # too few steps, and samples
        ([9.0] * 3, {"rate": 0.002}),  # 80 clicks in each: not judged yet, and then one block
    ],
)
def test_what_is_no_divergence_is_not_told(entropies, others):
    assert not any(feed(BaseRateWatch(), entropies, **others))


def test_each_of_several_tasks_is_judged_and_the_worse_one_is_named():
    watch = BaseRateWatch(tasks=("click", "like"))
    good, bad = 0.9 * ENTROPY * SAMPLES, 5 * ENTROPY * SAMPLES
    for first in (1, 101):
        said = watch.trained(first, first + 99, [[good, bad], [SAMPLES] * 2, [RATE * SAMPLES] * 2])
    assert "normalised entropy 5.000 on the training samples (like), worse than" in said
    assert watch.found.to_dict()["task"] == "like"
    results = {"click": evaluation(0.9)["label"], "like": evaluation(3.0)["label"]}
    assert "on the test samples (like)" in BaseRateWatch(tasks=("click", "like")).evaluated(
        "test", 300, results, last=True
    )


def test_warm_up_does_not_count():
    watch = BaseRateWatch(warmup_steps=1000)
    assert not any(feed(watch, [5.0] * 11))  # the first block after it is the eleventh
    assert any(feed(watch, [5.0], first=1101))


def test_evaluations_are_told_when_they_do_not_get_better_or_at_the_end():
    watch = BaseRateWatch()
    assert not watch.evaluated("validation", 20, evaluation(2.7), last=False)
    assert not watch.evaluated("validation", 40, evaluation(1.3), last=False)
    assert "on the validation samples" in watch.evaluated("validation", 60, evaluation(1.3), last=False)
    assert not BaseRateWatch().evaluated("test", 2, evaluation(2.7), last=True)  # a trial of two steps
    by_weight = {"label": replace(evaluation(27.0)["label"], weight=9e4, click_rate=0.4)}  # of samples it is 0.25
    watch = BaseRateWatch()
    assert "their click rate 0.4000" in watch.evaluated("test", 782, by_weight, last=True)
    assert watch.found.click_rate == pytest.approx(0.4)
    assert "step 782: normalised entropy 27.000 on the test" in BaseRateWatch().evaluated(
        "test", 782, evaluation(27.0), last=True
    )
    for other in (evaluation(0.99), evaluation(None), evaluation(1.2, samples=200), evaluation(3.0, samples=300)):
        assert not BaseRateWatch().evaluated("test", 782, other, last=True)


class Said:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    def status(self, status):
        """Progress is not looked at here."""


def hooks(said, every_steps, measured):
    place = RankInfo(rank=0, local_rank=0, world_size=1, local_world_size=1)
    world = World(rank_info=place, device=torch.device("cpu"), backend="gloo", collectives=OneProcess())
    loss = LossAndSpeed(
        world, Config().optim, measured, NoRecorder(), said, every_steps=every_steps, total_steps=every_steps
    )
    score = Validation(EvaluationConfig(), lambda: evaluation(5.0), measured, NoRecorder(), said)
    return loss, score


@pytest.mark.parametrize(("unrecorded", "told_at"), [(False, 200), (True, 300)])
def test_the_hook_judges_the_samples_that_it_has_seen(unrecorded, told_at):
    """Of a window that an earlier process has begun the clicks are not known."""
    said, measured = Said(), Measured(ThroughputMeter(), unrecorded=unrecorded)
    hook, _ = hooks(said, 100, measured)
    hook.on_start(Position())
    labels_B1 = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0])[:, None]
    weights_B1 = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])[:, None]
    for step in range(1, 301):
        loss_1 = torch.tensor([6 / 8 * 2 * math.log(2)])  # of the six that count: twice the entropy of a fair coin
        output = StepOutput(loss_1.sum(), loss_1, labels_B1, labels_B1, weights_B1)
        hook.on_step(Position(step=step, samples=8 * step), output)
        assert bool(said.lines) == (step >= told_at)
    assert "normalised entropy 2.000 on the training samples" in said.lines[0]
    assert "click rate 0.5000" in said.lines[0]


def test_an_evaluation_at_the_end_of_the_last_epoch_counts_as_the_last():
    said, measured = Said(), Measured(ThroughputMeter())
    _, hook = hooks(said, 100, measured)
    end = Position(epoch=1, step=300, epoch_ended=True)
    hook.on_pause(end)
    assert len(said.lines) == 1
    hook.on_end(end, "")
    assert "warning: step 300: normalised entropy 5.000 on the validation samples" in said.lines[1]


def test_the_report_shows_it(tmp_path):
    for name in ("curves.png", "plan.txt", "config.yaml", "environment.json"):
        (tmp_path / name).write_text("x")
    watch = BaseRateWatch()
    summary = {"name": "a", "stopped": "b", "steps": 782, "samples": 9, "training_time_s": 1.0, "samples_per_s": 1.0}
    summary |= {"ranks": 1, "device": "cpu", "validation": None, "test": None}
    watch.evaluated("test", 782, evaluation(27.0), last=True)
    for found, shown in ((watch.found.to_dict(), True), (None, False)):
        write_report(tmp_path, {**summary, "worse_than_base_rate": found})
        assert ("normalised entropy 27.000" in (tmp_path / "report.html").read_text()) == shown
