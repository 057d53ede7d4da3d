"""Storage that fails, or lies: a part of what benchmarks/checkpoint_faults.py does in full."""

import errno
import os
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from dlrm.checkpoint import fill as fill_module
from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.stored import find_damage, open_checkpoint
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import CheckpointError, HalfLoadedError
from tests.support.storage_faults import FaultySystem, faulty_storage
from tests.unit.checkpoint.campaign import Run, every_call, random_damage, scratch
from tests.unit.checkpoint.states import blank, cut_up, gathered, random_state, save_ranks, small_chunks, uncut


@pytest.fixture
def quick_folder():
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        yield Path(folder) / "run"


def test_whatever_call_of_the_storage_fails_no_wrong_byte_is_loaded_and_a_good_checkpoint_is(quick_folder):
    outcomes = Counter(every_call(quick_folder, stride=7))
    assert outcomes["saving: said to have failed, the one before loaded"] > 30
    assert outcomes["loading: refused, tried again it loads"] > 3
    assert outcomes["pruning: survived"] > 10


def test_whatever_is_damaged_without_a_word_is_not_loaded(quick_folder):
    outcomes = Counter(random_damage(quick_folder, 60, seed=3))
    assert sum(outcomes.values()) == 60
    assert len(outcomes) == 7


def regions(path):
    """Places in every part of a file: its ends, and between."""
    size = path.stat().st_size
    return sorted({0, 1, 7, 8, 9, size // 3, size // 2, 2 * size // 3, size - 2, size - 1} & set(range(size)))


def test_a_flipped_bit_anywhere_in_any_file_is_found_by_name(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    state = random_state(5)
    path = save_ranks(tmp_path, 1, cut_up(state, 5, 2))
    for file in sorted(path.iterdir()):
        good = file.read_bytes()
        for at in regions(file):
            bad = bytearray(good)
            bad[at] ^= 1 << at % 8
            file.write_bytes(bad)
            tensors = uncut(blank(state))
            with pytest.raises(CheckpointError) as caught:
                load_tensors(open_checkpoint(path), tensors)
            assert os.path.basename(caught.value.path) in (file.name, "manifest.json")
            assert gathered([tensors]).same_bits_as(blank(state))
            found, skipped = newest_good(tmp_path, verify=True)
            assert found is None
            assert len(skipped) == 1
        file.write_bytes(good)
    assert find_damage(open_checkpoint(path)) == []


def test_all_that_is_damaged_is_listed(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    path = save_ranks(tmp_path, 1, cut_up(random_state(5), 5, 2))
    files = sorted(path.glob("*.safetensors"))
    for file in files[:3]:
        data = bytearray(file.read_bytes())
        data[0] ^= 1
        data[-1] ^= 1
        file.write_bytes(data)
    damage = find_damage(open_checkpoint(path))
    assert len(damage) == 6  # the header and the last chunk of each
    assert {error.path for error in damage} == {str(file) for file in files[:3]}


def test_what_is_whole_in_the_first_reading_and_not_in_the_second_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fill_module, "KEPT_BYTES", 0)
    state = random_state(0)
    path = save_ranks(tmp_path, 1, [uncut(state)])
    checkpoint = open_checkpoint(path)
    reads = []
    read = type(checkpoint).read

    def failing(self, stored):
        reads.append(stored)
        if len(reads) == len(state.values) + 1:  # one tensor is empty: the second chunk of the second reading
            raise CheckpointError("x", "is gone")
        return read(self, stored)

    monkeypatch.setattr(type(checkpoint), "read", failing)
    with pytest.raises(HalfLoadedError, match="part old, part new"):
        load_tensors(checkpoint, uncut(blank(state)))
    reads.clear()
    with pytest.raises(HalfLoadedError):
        load_newest(tmp_path, uncut(blank(state)), OneProcess())


def test_a_newest_checkpoint_with_a_damaged_chunk_is_passed_over_when_loading_meets_it(tmp_path):
    run = Run(tmp_path / "run", 0)
    run.save(2)
    run.save(3)
    for step, at in ((2, -1), (3, -1)):
        file = sorted((run.folder / f"step_{step:08d}").glob("*.safetensors"))[0]
        data = bytearray(file.read_bytes())
        data[at] ^= 4
        file.write_bytes(data)
    tensors = cut_up(blank(run.states[1]), 9, 1)
    resumed = load_newest(run.folder, tensors[0], OneProcess())
    assert resumed.checkpoint is not None
    assert resumed.checkpoint.step == 1
    assert [os.path.basename(skip.path) for skip in resumed.skipped] == ["step_00000003", "step_00000002"]
    assert all("are not those that were written" in skip.why for skip in resumed.skipped)
    assert gathered(tensors).same_bits_as(run.states[1])


def test_writes_that_the_system_takes_in_parts_are_completed(tmp_path, monkeypatch):
    rng, real = random.Random(0), os.write

    class Sparing(FaultySystem):
        def __getattr__(self, name):
            if name == "write":
                return lambda descriptor, data: real(descriptor, data[: rng.randrange(1, len(data) + 1)])
            return getattr(os, name)

    monkeypatch.setattr("dlrm.checkpoint.storage.os", Sparing())
    state = random_state(4)
    path = save_ranks(tmp_path, 1, cut_up(state, 4, 2))
    monkeypatch.undo()
    tensors = uncut(blank(state))
    load_tensors(open_checkpoint(path), tensors)
    assert gathered([tensors]).same_bits_as(state)


def test_a_full_disk_is_an_error_that_names_the_file_and_what_it_means(tmp_path):
    with faulty_storage(12, "full disk") as system, pytest.raises(CheckpointError) as caught:
        save_ranks(tmp_path, 1, cut_up(random_state(0), 0, 1))
    assert system.hit
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert "step_00000001.tmp-" in caught.value.path
    assert "earlier checkpoints are as they were" in str(caught.value)
