"""Deltas of a run whose checkpoints something happens to while it trains."""

import os
import shutil
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from dlrm.checkpoint.delta.format import delta_record
from dlrm.checkpoint.delta.watch import DeltaWatch
from dlrm.checkpoint.folder import checkpoint_paths
from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.storage import LocalStorage
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.distributed.collectives import OneProcess
from dlrm.optim.averaging import NoAverage
from dlrm.sharding.dirty_rows import Shard
from dlrm.train.checkpointing import delta_state as delta_state_module
from dlrm.train.checkpointing.delta_state import DeltaState
from tests.unit.checkpoint.delta.deltas import normal_state
from tests.unit.checkpoint.delta.test_watch import flip
from tests.unit.checkpoint.states import State, blank, gathered, uncut

SHARDS = (Shard("a", 0, 0, 37, 8), Shard("b", 0, 0, 20, 6))


class FirstRows:
    """Stands for what follows dirty rows: the first third of each table in every step."""

    def __init__(self, model):
        """Of no model."""

    def take(self):
        return {shard: torch.arange(shard.rows // 3) for shard in SHARDS}

    def rollback(self):
        """Nothing is forgotten here."""

    commit = forget = rollback


class Training:
    """Saves after every step; watches and prunes as a run does."""

    def __init__(self, folder, monkeypatch, **options):
        self.folder, self.state, self.step, self.said = folder, normal_state(0), 0, []
        self.states = {}
        monkeypatch.setattr(delta_state_module, "DirtyRows", FirstRows)
        monkeypatch.setattr(delta_state_module, "engine_tensors", lambda engine: uncut(self.state))
        self.watch = DeltaWatch(LocalStorage(), deltas=options["full_every"] - 1)
        self.saver = AsyncSaver(folder, OneProcess(), on_committed=self.committed)
        engine = SimpleNamespace(model=None, average=NoAverage(), widths=defaultdict(lambda: 1 << 20))
        told = {"fault": self.watch.fault, "say": self.said.append}
        self.provider = DeltaState(engine, OneProcess(), bits=32, **told, **options)

    def committed(self, report):
        self.watch.note(report.path)
        self.watch.settle()
        prune(self.folder, keep=2, damaged=self.watch.damaged)

    def save_after_a_step(self):
        self.step += 1
        for name, value in self.state.values.items():
            value[: len(value) // 3 if name.split(".")[1] in ("a", "b") else None] += 1
        self.states[self.step] = State({name: value.clone() for name, value in self.state.values.items()})
        tensors, metadata = self.provider.collect()
        self.saver.save(self.step, tensors, metadata)
        self.saver.wait()
        self.provider.on_saved(self.saver.last)

    def path(self, step):
        return self.folder / f"step_{step:08d}"

    def is_full(self, step):
        return delta_record(open_checkpoint(self.path(step))) is None

    def loaded_step(self):
        tensors = uncut(blank(self.state))
        step = load_newest(self.folder, tensors, OneProcess()).checkpoint.step
        assert gathered([tensors]).same_bits_as(self.states[step])
        return step


def remove_folder(file):
    shutil.rmtree(file.parent)


def truncate(file):
    os.truncate(file, 100)


@pytest.mark.parametrize("harm", [flip, truncate, os.unlink, remove_folder])
def test_no_delta_is_saved_on_a_base_that_something_has_happened_to(harm, tmp_path, monkeypatch):
    training = Training(tmp_path, monkeypatch, full_every=20)
    for _ in range(3):
        training.save_after_a_step()
    assert [training.is_full(step) for step in (1, 2, 3)] == [True, False, False]
    harm(next(training.path(1).glob("*.safetensors")))
    if harm is flip:  # only reading finds it, which happens behind training
        training.watch.note(str(training.path(3)))
        training.watch.settle()
    training.save_after_a_step()
    assert training.is_full(4)
    assert len(training.said) == 1
    assert "step_00000001" in training.said[0]
    assert "everything is saved instead of another delta" in training.said[0]
    assert training.loaded_step() == 4
    training.save_after_a_step()
    assert not training.is_full(5)
    assert training.loaded_step() == 5
    assert len(training.said) == 1


def test_from_the_second_save_of_a_run_on_no_file_is_in_all_that_is_kept(tmp_path, monkeypatch):
    training = Training(tmp_path, monkeypatch, full_every=4, full_at_first=2)
    for _ in range(12):
        training.save_after_a_step()
        readers = [open_reader(path) for path in checkpoint_paths(tmp_path)]
        members = [{member.path for member in reader.members} for reader in readers]
        assert training.step == 1 or not set.intersection(*members)
    assert sorted(os.listdir(tmp_path)) == [training.path(step).name for step in range(6, 13)]
    assert [step for step in range(6, 13) if training.is_full(step)] == [6, 10]
