import itertools
from types import SimpleNamespace

import pytest

from dlrm.data.order import SampleOrder
from dlrm.train.hooks import Hook
from dlrm.train.schedule import ALL_EPOCHS, BEGINNING, MAX_STEPS, Position, Schedule
from dlrm.train.standard_hooks import ResetTables
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
