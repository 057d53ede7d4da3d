import pytest
import torch

from dlrm.config import Config
from dlrm.config.train import EvaluationConfig
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import DataError
from dlrm.metrics.binary import BinaryResult
from dlrm.metrics.throughput import ThroughputMeter
from dlrm.run.console import Silent
from dlrm.run.recorder import NoRecorder
from dlrm.train.schedule import Position
from dlrm.train.standard_hooks import STALLED, TARGET_REACHED, LossAndSpeed, Measured, Validation
from dlrm.train.stepper import StepOutput


def hook_of_one_rank(every_steps=2, recorder=None, **options):
    place = RankInfo(rank=0, local_rank=0, world_size=1, local_world_size=1)
    world = World(rank_info=place, device=torch.device("cpu"), backend="gloo", collectives=OneProcess())
    measured = Measured(ThroughputMeter())
    hook = LossAndSpeed(
        world,
        Config().optim,
        measured,
        recorder or NoRecorder(),
        Silent(),
        every_steps=every_steps,
        total_steps=every_steps,
        **options,
    )
    hook.on_start(Position())
    return hook, measured


def output(losses_B, weights_B):
    """A step of one rank as the model gives it: the losses of what counts, divided by all samples of the batch."""
    losses_B1, weights_B1 = torch.tensor(losses_B)[:, None], torch.tensor(weights_B)[:, None]
    losses_1 = (losses_B1 * weights_B1).sum(0) / len(losses_B)
    return StepOutput(losses_1.sum(), losses_1, losses_B1, losses_B1, weights_B1)


def test_the_loss_shown_is_the_mean_over_the_samples_that_were_not_skipped():
    hook, measured = hook_of_one_rank()
    hook.on_step(Position(step=1, samples=4), output([0.5, 0.7, 9.0, 9.0], [1.0, 1.0, 0.0, 0.0]))
    hook.on_step(Position(step=2, samples=8), output([0.3, 0.1, 0.2, 9.0], [1.0, 1.0, 1.0, 0.0]))
    assert measured.last_loss == pytest.approx((0.5 + 0.7 + 0.3 + 0.1 + 0.2) / 5)


class Kept(NoRecorder):
    def __init__(self):
        self.entries = []

    def record(self, kind, step, values):
        self.entries.append(values)


def test_the_accuracy_of_training_is_that_of_the_samples_since_the_last_record():
    kept = Kept()
    hook, _ = hook_of_one_rank(recorder=kept)
    labels_B, weights_B, losses_1 = (
        torch.tensor([1.0, 0.0, 1.0, 1.0]),
        torch.tensor([1.0, 1.0, 1.0, 0.0]),
        torch.ones(1),
    )
    for step, logits_B in enumerate(([0.1, -0.1, -2.0, -9.0], [3.0, 0.0, 1.0, 9.0], [-1.0, 1.0, -1.0, 9.0]), start=1):
        columns = (torch.tensor(logits_B)[:, None], labels_B[:, None], weights_B[:, None])
        hook.on_step(Position(step=step, samples=4 * step), StepOutput(losses_1.sum(), losses_1, *columns))
    hook.on_end(Position(step=3, samples=12), "done")
    assert [entry["accuracy"] for entry in kept.entries] == [pytest.approx(5 / 6), 0.0]


def test_a_record_without_a_sample_that_was_not_skipped_ends_the_run_in_one_line():
    hook, _ = hook_of_one_rank(every_steps=1, bad_values=lambda: {"cat_0": 1, "label": 1200})
    words = r"every sample of the steps up to 1 was skipped \(data.bad_rows: skip\): cat_0: 1, label: 1,200;"
    with pytest.raises(DataError, match=rf"\A.*{words}.*\Z"):
        hook.on_step(Position(step=1, samples=2), output([0.5, 0.7], [0.0, 0.0]))


@pytest.mark.parametrize(("auc", "step", "ends"), [(0.8, 10, True), (0.7, 10, False), (0.8, 9, False)])
def test_a_run_that_had_reached_its_target_is_not_trained_on(auc, step, ends):
    figures = dict.fromkeys(BinaryResult.__dataclass_fields__)
    results = {"click": BinaryResult(**{**figures, "auc": auc}), "like": BinaryResult(**{**figures, "auc": 0.99})}
    measured = Measured(ThroughputMeter(), validation=results, validation_step=step)
    hook = Validation(EvaluationConfig(target_auc=0.75), lambda: results, measured, NoRecorder(), Silent())
    assert hook.on_start(Position(step=10)) == (TARGET_REACHED if ends else None)


def evaluations(aucs, patience, *, planned=lambda step: True, metric="auc"):
    """At which of these evaluations training ends, one every ten steps; None: at none."""
    figures = dict.fromkeys(BinaryResult.__dataclass_fields__)
    found = iter({"click": BinaryResult(**{**figures, metric: auc})} for auc in aucs)
    measured = Measured(ThroughputMeter())
    config = EvaluationConfig(patience=patience, every_steps=10)
    hook = Validation(config, lambda: next(found), measured, NoRecorder(), Silent(), metric=metric, planned=planned)
    for step in range(10, 10 * len(aucs) + 1, 10):
        if hook.on_pause(Position(step=step)) == STALLED:
            resumed = Validation(config, dict, measured, NoRecorder(), Silent(), metric=metric, planned=planned)
            assert resumed.on_start(Position(step=step)) == STALLED
            return step // 10
    return None


def test_training_ends_once_so_many_evaluations_in_a_row_were_no_better_than_the_best():
    assert evaluations([0.5, 0.6, 0.6, 0.59, 0.7], patience=2) == 4  # equally good is not better
    assert evaluations([0.5, 0.6, 0.6, 0.61, 0.6, 0.6], patience=2) == 6
    assert evaluations([0.5, 0.6, 0.55, 0.56, 0.57], patience=4) is None
    assert evaluations([0.7, 0.6, 0.65], patience=1, metric="log_loss") == 3
    assert evaluations([None, None, 0.5, 0.6], patience=3) is None


def test_evaluations_at_the_end_of_a_part_of_a_run_do_not_count():
    steps = {10, 20, 40, 50}
    assert evaluations([0.6, 0.5, 0.1, 0.5, 0.5], patience=3, planned=steps.__contains__) == 5
