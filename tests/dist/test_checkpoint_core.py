"""Saving and loading on several gloo ranks; each test has to end by itself, or it has shown a hang."""

import errno
import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.patience import Patience, patient
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.soundness import DivergedStateError
from dlrm.checkpoint.storage import LocalStorage
from dlrm.distributed.collectives import ProcessGroup
from dlrm.errors import CheckpointError
from tests.support.ranks import run_ranks
from tests.unit.checkpoint.states import State, blank, cut_up, gathered, random_state, save_ranks


class Slow(LocalStorage):
    """Takes its time for every file of tensors, so that a save is still going on after many steps."""

    def writer(self, path):
        if path.endswith(".safetensors"):
            time.sleep(0.3)
        return super().writer(path)


class Full(LocalStorage):
    """Has no room, not even for the word that there is none."""

    def writer(self, path):
        if path.endswith((".safetensors", ".failed.unfinished")):
            raise OSError(28, os.strerror(28), path)
        return super().writer(path)


class Elsewhere(LocalStorage):
    """Another host's folder of the same name."""

    def is_folder(self, path):
        return False


def train_and_save(rank, world_size, folder):
    """Steps with an all-reduce each, and saves behind them; how many steps were done while a save was in flight."""
    saver = AsyncSaver(folder, ProcessGroup(), storage=Slow())
    weight = torch.zeros(4)
    behind = 0
    for step in range(1, 61):
        gradient = torch.full((4,), float(rank + step))
        dist.all_reduce(gradient)
        weight += gradient
        behind += saver.busy
        if step in (20, 40):
            state = State({**random_state(step).values, "weight": weight})
            saver.save(step, cut_up(state, step, world_size)[rank], {"step": step})
    saver.wait()
    return behind, weight, saver.last.path


def test_ranks_save_behind_their_all_reduces(tmp_path):
    results = run_ranks(train_and_save, 3, str(tmp_path))
    expected = torch.full((4,), float(sum(rank + step for rank in range(3) for step in range(1, 61))))
    for behind, weight, path in results:
        assert behind > 10
        assert torch.equal(weight, expected)
        assert path == str(tmp_path / "step_00000040")
    for step in (20, 40):
        found, skipped = newest_good(tmp_path, before=step + 1, verify=True)
        assert found is not None
        assert (found.step, skipped, found.metadata) == (step, [], {"step": step})
        assert found.manifest.world_size == 3


def load_on_ranks(rank, world_size, folder, seed):
    tensors = cut_up(blank(random_state(40)), seed, world_size)[rank]
    resumed = load_newest(folder, tensors, ProcessGroup(), strict=False)
    dist.barrier()
    return (
        tensors,
        resumed.checkpoint and resumed.checkpoint.step,
        resumed.left,
        [skip.path for skip in resumed.skipped],
    )


@pytest.mark.parametrize("world_size", [2, 4])
def test_another_world_loads_what_three_ranks_saved_and_all_pass_over_what_one_finds_damaged(world_size, tmp_path):
    run_ranks(train_and_save, 3, str(tmp_path))
    results = run_ranks(load_on_ranks, world_size, str(tmp_path), 5)
    assert gathered([tensors for tensors, *_ in results]).same_bits_as(random_state(40))
    assert all(rest == [40, ["weight is in the checkpoint, not here"], []] for _, *rest in results)

    flip_a_byte_of(tmp_path / "step_00000040", "rank_0002.safetensors")
    results = run_ranks(load_on_ranks, world_size, str(tmp_path), 5)
    assert all(rest[0] == 20 for _, *rest in results)
    assert all(rest[2] == [str(tmp_path / "step_00000040")] for _, *rest in results)
    assert gathered([tensors for tensors, *_ in results]).same_bits_as(random_state(20))


def flip_a_byte_of(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)


def save_with_a_full_disk(rank, world_size, folder, full_rank):
    saver = AsyncSaver(folder, ProcessGroup(), storage=Full() if rank == full_rank else None, time_limit_s=600)
    tensors = cut_up(random_state(1), 1, world_size)[rank]
    saver.save(1, tensors, {})
    errors = []
    for action in (lambda: saver.save(2, tensors, {}), saver.wait):
        try:
            action()
        except CheckpointError as error:
            errors.append(str(error))
        else:
            errors.append("")
    dist.barrier()  # the ranks are still in step
    return errors


@pytest.mark.parametrize("full_rank", [0, 1, 2])
def test_a_rank_without_room_is_told_to_all_at_the_next_save_and_not_after_the_time_limit(full_rank, tmp_path):
    results = run_ranks(save_with_a_full_disk, 3, str(tmp_path), full_rank)
    assert len({tuple(errors) for errors in results}) == 1
    at_next_save, at_wait = results[0]
    assert f"step_00000001: could not be saved: rank {full_rank}: " in at_next_save
    assert "No space left on device" in at_next_save
    assert at_wait == ""
    assert list(tmp_path.iterdir()) == []


def save_what_one_rank_objects_to(rank, world_size, folder, objecting):
    saver = AsyncSaver(
        folder, ProcessGroup(), judge=lambda snapshot: "w holds NaN" if rank == objecting else "", time_limit_s=600
    )
    tensors = cut_up(random_state(1), 1, world_size)[rank]
    saver.save(1, tensors, {})
    with pytest.raises(DivergedStateError) as caught:
        saver.wait()
    saver.wait()
    dist.barrier()  # the ranks are still in step
    return str(caught.value)


@pytest.mark.parametrize("objecting", [0, 1])
def test_what_one_rank_finds_diverged_is_saved_by_none_and_told_to_all(objecting, tmp_path):
    first, second = run_ranks(save_what_one_rank_objects_to, 2, str(tmp_path), objecting)
    assert first == second
    assert "step_00000001: w holds NaN" in first
    assert list(tmp_path.iterdir()) == []


def save_elsewhere(rank, world_size, folder):
    saver = AsyncSaver(folder, ProcessGroup(), storage=Elsewhere() if rank == 1 else None)
    with pytest.raises(CheckpointError) as caught:
        saver.save(1, [], {})
    dist.barrier()
    return str(caught.value)


def test_ranks_without_a_folder_in_common_are_told_at_the_first_save(tmp_path):
    for error in run_ranks(save_elsewhere, 2, str(tmp_path)):
        assert "rank 1 does not see this folder" in error


def save_the_same_step_twice(rank, world_size, folder):
    saver = AsyncSaver(folder, ProcessGroup())
    saver.save(1, cut_up(random_state(1), 1, world_size)[rank], {})
    with pytest.raises(CheckpointError) as caught:
        saver.save(1, cut_up(random_state(1), 1, world_size)[rank], {})
    dist.barrier()
    return str(caught.value)


def test_a_step_that_is_there_is_refused_on_every_rank(tmp_path):
    assert len(set(run_ranks(save_the_same_step_twice, 2, str(tmp_path)))) == 1


class AwayOnOneHost(LocalStorage):
    """A mount that does not answer ``times`` times."""

    def __init__(self, times):
        self.times = times

    def read(self, path, start, size):
        if path.endswith(".safetensors") and self.times > 0:
            self.times -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return super().read(path, start, size)


def load_where_one_rank_meets_something(rank, world_size, folder, seed):
    """What becomes of loading where rank 1 cannot read, for good and for a moment, and where it alone objects."""
    collectives, found = ProcessGroup(), []
    tensors = cut_up(blank(random_state(seed)), 8, world_size)[rank]
    try:
        load_newest(folder, tensors, collectives, storage=AwayOnOneHost(10**9 if rank else 0))
    except CheckpointError as error:
        found.append((type(error).__name__, error.problem))
    said = []
    storage = patient(AwayOnOneHost(3 * rank), Patience(60, said.append))
    resumed = load_newest(folder, tensors, collectives, storage=storage)
    found.append((resumed.checkpoint.step, resumed.skipped, len(said) > 0))
    objections = [""] * 2 if rank == 0 else ["a table holds NaN", ""]
    resumed = load_newest(folder, tensors, collectives, judge=lambda tensors: objections.pop(0))
    found.append((resumed.checkpoint.step, [(one.kind, one.why) for one in resumed.skipped]))
    return found


def test_what_one_rank_alone_meets_in_loading_all_ranks_heed(tmp_path):
    for step in (1, 2):
        save_ranks(tmp_path, step, cut_up(random_state(step), step, 2))
    first, second = run_ranks(load_where_one_rank_meets_something, 2, tmp_path, 2)
    assert first[0] == second[0] == ("UnreachableError", "cannot be read (Stale file handle)")
    assert (first[1], second[1]) == ((2, [], False), (2, [], True))
    assert first[2] == second[2]
    step, ((kind, why),) = first[2]
    assert (step, kind) == (1, "diverged")
    assert "was saved after training had diverged: a table holds NaN" in why
