import itertools
from types import SimpleNamespace

import pytest

from dlrm.config import Config
from dlrm.data.day_order import DayOrder
from dlrm.data.order import SampleOrder
from dlrm.data.source import Day
from dlrm.metrics.throughput import ThroughputMeter
from dlrm.run.console import Silent
from dlrm.run.mlperf import write_parameters
from dlrm.run.recorder import NoRecorder
from dlrm.train.days import ScoreNextDay
from dlrm.train.hooks import Hook
from dlrm.train.mlperf_hook import MlperfHook
from dlrm.train.schedule import ALL_EPOCHS, BEGINNING, MAX_STEPS, Position, Schedule
from dlrm.train.standard_hooks import TARGET_REACHED, Measured, ResetTables
from dlrm.train.trainer import Trainer

EPOCH = 4
ORDER = SampleOrder(num_samples=8, global_batch_size=2)


class Loader:
    def batches(self, epoch, first, end):
        yield from range(first, end)


class Watching(Hook):
    """Notes the steps at which it is told of anything; may know an end."""

    def __init__(self, told, ended=None):
        self.told, self._ended = told, ended

    def on_start(self, position):
        self.told.append("start")
        return self._ended

    def on_step(self, position, output):
        self.told.append(position.step)

    def on_end(self, position, reason):
        self.told.append(reason)


def trainer(*hooks, position=BEGINNING, epochs=3, max_steps=None):
    stepper = SimpleNamespace(train=lambda batches, first_step: batches)
    return Trainer(stepper, Loader(), Schedule(ORDER, epochs, max_steps), hooks, position)


AFTER_ONE_EPOCH = Position(epoch=1, step=EPOCH, samples=8, epoch_ended=True)


@pytest.mark.parametrize(
    ("position", "max_steps", "resets"),
    [
        (BEGINNING, None, [4, 8]),  # after every epoch but the last
        (BEGINNING, 8, [4]),  # nor after one with which training ends, so that its tables are scored and saved
        (BEGINNING, 9, [4, 8]),
        (AFTER_ONE_EPOCH, None, [4, 8]),  # saved before
        (AFTER_ONE_EPOCH, 4, []),
        (Position(batch=1, step=1, samples=2), 4, []),
    ],
)
def test_tables_are_reset_where_training_goes_on_after_an_epoch(position, max_steps, resets):
    told = []
    made = trainer(ResetTables(lambda: told.append(made.position.step)), position=position, max_steps=max_steps)
    assert made.fit() == (MAX_STEPS if max_steps else ALL_EPOCHS)
    assert told == resets


def test_a_pause_that_comes_between_waits_for_the_micro_batches_that_are_read_ahead():
    class InHalves:
        def batches(self, epoch, first, end):
            for k in range(first, end):
                yield from (SimpleNamespace(k=k, ends_step=half == 1) for half in range(2))

    class Pausing(Watching):
        def pauses_now(self, position):
            return position.step == 1

        def on_pause(self, position):
            self.told.append("pause")

    def train(batches, first_step):  # reads ahead as a pipeline does
        ahead = [*itertools.islice(batches, 3)]
        while ahead:
            taken.append(ahead.pop(0))
            ahead += itertools.islice(batches, 1)
            if taken[-1].ends_step:
                yield taken[-1]

    told, taken = [], []
    Trainer(SimpleNamespace(train=train), InHalves(), Schedule(ORDER, 1, None), [Pausing(told)], BEGINNING).fit()
    assert told == ["start", 1, 2, 3, "pause", 4, "pause", ALL_EPOCHS]
    assert [batch.k for batch in taken] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_where_a_hook_knows_that_training_has_ended_every_hook_is_started_and_ended_and_no_step_trained():
    told, resets = [], []
    made = trainer(
        Watching(told, ended="enough"), Watching(told), ResetTables(lambda: resets.append(1)), position=AFTER_ONE_EPOCH
    )
    assert made.fit() == "enough"
    assert (told, resets) == (["start", "start", "enough", "enough"], [])


class ReachesTarget(Hook):
    """Ends the training at a step, as a validation does, so that later hooks are not asked."""

    def __init__(self, step):
        self._step = step

    def on_pause(self, position):
        return TARGET_REACHED if position.step == self._step else None


def test_a_run_that_is_ended_between_days_scores_the_next_day_where_it_goes_on_and_each_once():
    order = DayOrder.of((8, 6, 4), seed=0, global_batch_size=2)
    schedule = Schedule(order, 1, None)
    measured, scored = Measured(ThroughputMeter()), []

    def goes_on(start, *hooks):
        def score(number):
            scored.append((number, made.position.step))
            return {}

        days = [Day(f"day_{number}", samples) for number, samples in enumerate((8, 6, 4))]
        next_day = ScoreNextDay(order, days, score, measured, NoRecorder(), Silent())
        stepper = SimpleNamespace(train=lambda batches, first_step: batches)
        made = Trainer(stepper, Loader(), schedule, [*hooks, next_day], start)
        return made.fit(), made.position

    reason, position = goes_on(BEGINNING, ReachesTarget(4))
    assert (reason, position.step, scored) == (TARGET_REACHED, 4, [])
    assert goes_on(position)[0] == ALL_EPOCHS
    assert scored == [(1, 4), (2, 7)]
    assert [(step, name) for step, name, _ in measured.days] == [(4, "day_1"), (7, "day_2")]
    goes_on(schedule.position(7))
    assert len(scored) == 2  # known from before


class Lines:
    """MLPerf's lines as (key, value or metadata)."""

    def __init__(self):
        self.said = []

    def event(self, key, value, metadata=None):
        self.said.append((key, value, metadata))

    def start(self, key, metadata=None, *, time_ms=None):
        self.said.append((key, metadata))

    stop = start


def test_mlperfs_log_of_a_target_reached_at_an_epochs_end_stops_the_epoch_that_was_started():
    log = Lines()
    hook = MlperfHook(log, Config(), Schedule(ORDER, 3, None), train_samples=8, eval_samples=4, began_ms=0)
    assert trainer(ReachesTarget(2 * EPOCH), hook).fit() == TARGET_REACHED
    epochs = [(key, metadata["epoch_num"]) for key, metadata in (line[:2] for line in log.said) if "epoch_" in key]
    assert epochs == [("epoch_start", 1), ("epoch_stop", 1), ("epoch_start", 2), ("epoch_stop", 2)]


@pytest.mark.parametrize(
    ("sparse", "dense"), [("adagrad", "adagrad"), ("rowwise_adagrad", "adagrad"), ("adagrad", "sgd")]
)
def test_mlperfs_log_names_the_tables_own_adagrad(sparse, dense):
    tables = {"kind": sparse, "lr": 0.1, "eps": 1e-5, "initial_accumulator": 0.25}
    of_mlps = {"eps": 1e-6, "initial_accumulator": 0.5} if dense == "adagrad" else {}
    config, log = Config(optim={"dense": {"kind": dense, "lr": 0.1, **of_mlps}, "sparse": tables}), Lines()
    write_parameters(log, config, train_samples=8, eval_samples=4)
    found = {line[0]: line[1:] for line in log.said}
    expected = of_mlps or tables
    assert found["opt_adagrad_epsilon"] == (expected["eps"], {"tables": 1e-5})
    assert found["opt_adagrad_initial_accumulator_value"] == (expected["initial_accumulator"], {"tables": 0.25})
