import errno
import os
import signal

import pytest
import torch

from dlrm.checkpoint.names import checkpoint_name
from dlrm.checkpoint.retention import RetentionPolicy
from dlrm.checkpoint.saver import AsyncSaver, SaveReport
from dlrm.checkpoint.soundness import fault_in_snapshot
from dlrm.checkpoint.storage import LocalStorage
from dlrm.checkpoint.tensors import GlobalTensor, Shard
from dlrm.config.checkpoint import CheckpointConfig
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import CheckpointError, DivergedError, StoppedBySignal
from dlrm.metrics.binary import BinaryResult
from dlrm.metrics.throughput import ThroughputMeter
from dlrm.signals import SignalWatch
from dlrm.train.checkpointing.hook import CheckpointHook
from dlrm.train.checkpointing.train_state import Best
from dlrm.train.schedule import Position
from dlrm.train.standard_hooks import Measured
from tests.support.elastic_job import committed_steps

WORLD = World(rank_info=RankInfo(), device=torch.device("cpu"), backend="gloo", collectives=OneProcess())
LAST = 100


class Saver:
    """Stands for the one that writes: what becomes of a save is known when it is waited for."""

    def __init__(self, failing):
        self.failing, self.begun, self.metadata = failing, [], {}
        self.failure, self.last, self._step = None, None, None

    @property
    def in_flight(self):
        return self._step is not None

    def reserve(self, tensors):
        assert list(tensors) == []

    def save(self, step, tensors, metadata):
        assert self._step is None, "the save before was not waited for"
        self.begun.append(step)
        self.metadata[step] = metadata
        self._step = step

    def wait(self):
        step, self._step = self._step, None
        if step in self.failing:
            raise CheckpointError(f"step {step}", "could not be saved: the disk is full")
        self.last = SaveReport(path=f"step {step}", step=step, bytes=0, stalled_s=0.0, written_s=0.0)


class NoState:
    tensors = ()

    def collect(self):
        return self.tensors, {}

    def on_saved(self, report):
        """What it would be told is not looked at here."""


class Run:
    """The hook and what is around it; polls happen at pauses alone."""

    def __init__(self, *, failing=(), saved_step=None, folder=None, storage=None, **config):
        self.signals, self.said = SignalWatch(announce=False), []
        self.retention = RetentionPolicy(str(folder or ""), storage or LocalStorage(), keep=2)
        self.saver = Saver(set(failing))
        if folder is not None:  # the one that writes
            self.saver = AsyncSaver(
                folder, OneProcess(), storage=storage, judge=fault_in_snapshot, on_committed=self.retention
            )
        self.measured, self.provider = Measured(ThroughputMeter()), NoState()
        self.hook = CheckpointHook(
            CheckpointConfig(every_minutes=None, **config),
            WORLD,
            saver=self.saver,
            retention=self.retention,
            provider=self.provider,
            metadata=lambda position, reason, best: {"reason": reason, "best": best},
            measured=self.measured,
            best=None,
            saved_step=saved_step,
            last_step=LAST,
            signals=self.signals,
            display=self,
        )
        self.hook.on_start(Position(step=saved_step or 0))

    def say(self, line):
        self.said.append(line)

    def pause(self, step, *, auc=None):
        self.measure(step, auc)
        self.hook.on_pause(Position(step=step))

    def end(self, step=LAST, *, auc=None):
        self.measure(step, auc)
        self.hook.on_end(Position(step=step), "")

    def measure(self, step, auc):
        if auc is not None:
            figures = dict.fromkeys(BinaryResult.__dataclass_fields__)
            results = {"label": BinaryResult(**{**figures, "auc": auc})}
            self.measured.validation, self.measured.validation_step = results, step


def test_the_end_is_saved_although_the_save_before_it_has_failed():
    run = Run(every_steps=50, failing=[50])
    run.pause(50)
    run.end()
    assert run.saver.begun == [50, LAST]
    assert run.saver.last.step == LAST


def test_on_failure_stop_ends_training_with_the_first_save_that_fails():
    run = Run(every_steps=40, failing=[40], on_failure="stop")
    run.pause(40)
    with pytest.raises(CheckpointError, match="step 40"):
        run.pause(80)
    assert run.saver.begun == [40]


def test_the_last_save_has_to_succeed():
    with pytest.raises(CheckpointError, match=f"step {LAST}"):
        Run(failing=[LAST]).end()


def test_a_best_that_could_not_be_saved_neither_replaces_the_saved_one_nor_has_to_be_beaten():
    run = Run(best="auc", failing=[20])
    run.pause(10, auc=0.6)
    run.pause(20, auc=0.8)
    run.pause(30, auc=0.7)  # when the failure at 20 is not known yet
    run.pause(40, auc=0.7)
    run.end(auc=0.5)
    assert run.saver.begun == [10, 20, LAST]
    assert run.retention.best_step == 10

    run = Run(best="auc", failing=[20])
    run.pause(10, auc=0.6)
    run.pause(20, auc=0.8)
    run.hook._finish(tolerant=True)  # as a poll does that hears of it
    run.pause(30, auc=0.7)
    run.end(auc=0.5)
    assert run.saver.begun == [10, 20, 30, LAST]
    assert run.retention.best_step == 30
    assert run.saver.metadata[LAST]["best"] == Best(metric="auc", value=0.7, step=30)


def test_a_best_is_protected_although_a_better_one_is_found_before_it_is_known_to_be_saved():
    run = Run(best="auc", failing=[20])
    run.pause(10, auc=0.6)
    run.pause(20, auc=0.7)
    run.end(30)
    assert run.retention.best_step == 10


def test_the_last_step_is_saved_once_after_all_hooks_have_come_to_their_end():
    run = Run(every_steps=LAST)
    run.pause(LAST)
    assert run.saver.begun == []
    run.end()
    assert (run.saver.begun, run.saver.metadata[LAST]["reason"]) == ([LAST], "end")


def test_a_save_that_is_due_where_another_hook_ends_training_is_made():
    run = Run(every_steps=50, at_end=False)
    run.end(50)  # no pause: the hook before has asked for the end
    assert (run.saver.begun, run.saver.metadata[50]["reason"]) == ([50], "every 50 steps")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_during_the_last_save_is_not_forgotten(number):
    run = Run()
    with run.signals:
        os.kill(os.getpid(), number)
        with pytest.raises(StoppedBySignal) as stopped:
            run.end()
    assert (stopped.value.number, run.saver.last.step) == (number, LAST)


def test_a_run_that_goes_on_from_its_last_checkpoint_saves_it_no_second_time_but_another_runs_it_does():
    own, others = Run(saved_step=LAST), Run()
    own.end()
    others.end()
    assert (own.saver.begun, others.saver.begun) == ([], [LAST])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("at_end", [False, True])
def test_a_state_that_has_exploded_is_not_saved_and_what_was_saved_before_is(tmp_path, value, at_end):
    run = Run(folder=tmp_path, every_steps=10)
    weight = torch.ones(3, 4)
    run.provider.tensors = [GlobalTensor("over.0.weight", (3, 4), torch.float32, (Shard((0, 0), weight),))]
    run.pause(10)
    run.pause(20)
    weight[1, 2] = value
    with pytest.raises(
        DivergedError, match=r"step \d+: the state is not saved, because over.0.weight holds .* from step 20: .*lower"
    ):
        run.end(30) if at_end else (run.pause(30), run.pause(40))  # found while training goes on
    assert committed_steps(tmp_path) == [10, 20]


class Stuck(LocalStorage):
    """Refuses to rename, and so to remove, some committed checkpoints."""

    def __init__(self, *steps):
        self.stuck = {checkpoint_name(step) for step in steps}

    def rename_folder(self, old, new):
        if os.path.basename(old) in self.stuck:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), old)
        super().rename_folder(old, new)


@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_a_step_counts_as_saved_although_older_checkpoints_cannot_be_removed_which_is_told_once(tmp_path, on_failure):
    storage = Stuck(10)
    run = Run(folder=tmp_path, storage=storage, every_steps=10, on_failure=on_failure)
    for step in (10, 20, 30, 40):
        run.pause(step)
    run.end(40)  # is saved already
    run.saver.wait()
    assert committed_steps(tmp_path) == [10, 30, 40]
    warnings = [line for line in run.said if line.startswith("warning")]
    assert len(warnings) == 1
    assert "step_00000010: Operation not permitted; tried again after every save" in warnings[0]
    assert [line.split(":")[0] for line in run.said if ": saved " in line] == [
        "step 10",
        "step 20",
        "step 30",
        "step 40",
    ]
    storage.stuck.clear()
    run.pause(50)
    run.hook.on_end(Position(step=LAST), "")
    assert committed_steps(tmp_path) == [50, LAST]
    assert run.saver.last.step == LAST
