"""Where a run goes on: at its newest checkpoint that is of use, and never at the first sample because none is."""

import os
from types import SimpleNamespace

import pytest
import torch

from dlrm.checkpoint import patience as patience_module
from dlrm.checkpoint.patience import Patience, patient
from dlrm.checkpoint.storage import LocalStorage, UnreachableError
from dlrm.config import load_config
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import CheckpointError
from dlrm.run.folder import RunFolder
from dlrm.train.checkpointing import load as load_module
from dlrm.train.checkpointing import resume as resume_module
from dlrm.train.checkpointing.resume import Start, start_elsewhere, start_here
from dlrm.train.checkpointing.train_state import TrainingData
from tests.unit.checkpoint.delta.deltas import normal_state
from tests.unit.checkpoint.states import State, blank, save_ranks, uncut
from tests.unit.checkpoint.test_patience import away

WORLD = World(rank_info=RankInfo(), device=torch.device("cpu"), backend="gloo", collectives=OneProcess())
STATE = normal_state(0)
ELSEWHERE = Start(lines=("elsewhere",))


@pytest.fixture(params=["--resume auto", "started again by the launcher"])
def run(tmp_path, request, monkeypatch):
    """A run with three checkpoints, and what looks for where it goes on."""
    restarted = request.param != "--resume auto"
    folder, state = tmp_path / "checkpoints", blank(STATE)
    for step in (1, 2, 3):
        save_ranks(folder, step, [uncut(STATE)])
    for module in (resume_module, load_module):
        monkeypatch.setattr(module, "engine_tensors", lambda engine: uncut(state))
        monkeypatch.setattr(module, "after_load", lambda engine: None)
    monkeypatch.setattr(patience_module, "_FIRST_PAUSE_S", 0.0)
    config = load_config(None, [] if restarted else ["resume.checkpoint=auto"])
    said = []

    def start(wait_s=60.0):
        storage = patient(LocalStorage(), Patience(wait_s, said.append))
        here = RunFolder(tmp_path, continued=True, restarted=restarted)
        return start_here(config, None, TrainingData(1000), here, storage, WORLD, otherwise=lambda: ELSEWHERE)

    return SimpleNamespace(folder=folder, start=start, said=said, state=state)


def names(run):
    return sorted(os.listdir(run.folder))


def kinds(run):
    return [name.partition("-")[0] for name in names(run)]


def spoil(run, *steps):
    for step in steps:
        (file,) = (run.folder / f"step_{step:08d}").glob("*.safetensors")
        file.write_bytes(b"\0" * file.stat().st_size)


def test_what_is_damaged_is_set_aside_and_the_one_before_taken(run):
    spoil(run, 2, 3)
    start = run.start()
    assert start.checkpoint.step == 1
    assert kinds(run) == ["step_00000001", "step_00000002.damaged", "step_00000003.damaged"]
    assert [line.split(":")[0].rpartition("/")[2] for line in start.lines[:2]] == ["step_00000003", "step_00000002"]


def test_where_none_of_the_checkpoints_is_of_use_training_does_not_begin_anew_and_nothing_is_renamed(run):
    spoil(run, 1, 2, 3)
    before = names(run)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints here \(3\) can be used") as caught:
        run.start()
    assert names(run) == before
    assert "--resume none" in str(caught.value)
    assert "step_00000003/rank_0000.safetensors: does not begin as it was written" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_never_committed_is_no_checkpoint_and_training_begins(run):
    for step in (1, 2, 3):
        (run.folder / f"step_{step:08d}" / "COMMITTED").unlink()
    start = run.start()
    assert start.checkpoint is None
    assert start.lines[-1] == "elsewhere"


@pytest.mark.parametrize("name", ["listdir", "lstat", "preadv"])
def test_storage_that_is_away_is_waited_for_and_never_taken_for_a_run_without_good_checkpoints(run, name, monkeypatch):
    before = names(run)
    with away(monkeypatch, name, times=5):
        assert run.start().checkpoint.step == 3
    assert "Stale file handle" in run.said[0]
    assert run.state.same_bits_as(STATE)
    with away(monkeypatch, name), pytest.raises(UnreachableError, match="Stale file handle"):
        run.start(wait_s=0)
    assert names(run) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_state_that_was_saved_after_it_had_exploded_is_passed_over_and_said_to_be(run, value):
    exploded = State({name: tensor.clone() for name, tensor in STATE.values.items()})
    exploded.values["mlp.weight"][3, 3] = value
    for step in (4, 5):
        save_ranks(run.folder, step, [uncut(exploded)])
    start = run.start()
    assert start.checkpoint.step == 3
    assert run.state.same_bits_as(STATE)
    assert kinds(run)[3:] == ["step_00000004.diverged", "step_00000005.diverged"]
    assert "was saved after training had diverged: mlp.weight holds" in start.lines[0]


def test_a_new_run_does_not_begin_with_a_state_that_has_exploded(run):
    exploded = State({name: tensor * (1e30 if name == "mlp.weight" else 1) for name, tensor in STATE.values.items()})
    save_ranks(run.folder, 4, [uncut(exploded)])
    config = load_config(None, [f"resume.checkpoint={run.folder}"])
    with pytest.raises(CheckpointError, match=r"step_00000004: was saved after training had diverged"):
        start_elsewhere(config, None, TrainingData(1000), WORLD, Patience(0, run.said.append))
