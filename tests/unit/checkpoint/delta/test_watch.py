"""What deltas depend on: two chains are kept, and a chain that something happens to gets no further delta."""

import os
import shutil

import pytest

from dlrm.checkpoint.delta.watch import DeltaWatch
from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.names import step_of
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.storage import LocalStorage
from dlrm.distributed.collectives import OneProcess
from tests.unit.checkpoint.delta.deltas import normal_state, save_delta
from tests.unit.checkpoint.states import blank, save_ranks, uncut

ROWS = {"a": [1], "b": [2]}


def flip(path):
    """One bit of the first chunk of a file, which every delta needs; nothing else about the file changes."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[8 + int.from_bytes(data[:8], "little")] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class Chains:
    """Saves chains of a full checkpoint and deltas, watched, and pruned as a run does."""

    def __init__(self, folder, every=4):
        self.folder, self.every, self.state = folder, every, normal_state(0)
        self.watch = DeltaWatch(LocalStorage(), deltas=every - 1)
        self.base = self.parent = None

    def save(self, *steps):
        for step in steps:
            if (step - 1) % self.every == 0:
                self.base = self.parent = save_ranks(self.folder, step, [uncut(self.state)])
            else:
                self.parent = save_delta(self.folder, step, self.state, ROWS, base=self.base, parent=self.parent)
            self.watch.note(str(self.parent))
            self.watch.settle()
            prune(self.folder, keep=2, damaged=self.watch.damaged)

    def steps(self):
        return sorted(step for path in self.folder.iterdir() if (step := step_of(path.name)) is not None)

    def file(self, step):
        return next((self.folder / f"step_{step:08d}").glob("*.safetensors"))

    def loaded_step(self):
        return load_newest(self.folder, uncut(blank(self.state)), OneProcess()).checkpoint.step


def test_one_flipped_bit_anywhere_never_loses_all_that_is_kept(tmp_path):
    chains = Chains(tmp_path / "run")
    for step in range(1, 14):
        chains.save(step)
        if step not in (5, 7, 9, 13):
            continue
        for kept in chains.steps():
            shutil.copytree(chains.folder, tmp_path / "copy")
            copy = Chains(tmp_path / "copy")
            flip(copy.file(kept))
            first_of_newest = (step - 1) // 4 * 4 + 1
            expected = step if kept < first_of_newest else kept - 1 if kept > first_of_newest else first_of_newest - 1
            assert copy.loaded_step() == expected
            shutil.rmtree(tmp_path / "copy")
    assert chains.steps() == [
        9,
        10,
        11,
        12,
        13,
    ]  # the newest, and the newest of the chain before with all it depends on


@pytest.fixture
def chains(tmp_path):
    chains = Chains(tmp_path)
    chains.save(1, 2)
    assert chains.watch.fault() == ""
    return chains


def test_a_base_that_is_removed_or_written_to_is_seen_before_the_next_delta(chains):
    file = chains.file(1)
    os.utime(file, ns=(0, 0))
    assert chains.watch.fault() == f"{file}: was changed after it had been saved"
    file.unlink()
    assert "was changed" in chains.watch.fault()  # as it was first told
    chains.save(5)
    assert chains.watch.fault() == ""
    chains.file(5).unlink()
    assert "step_00000005/rank_0000.safetensors: was removed after it had been saved" in chains.watch.fault()
    chains.save(9, 10)
    shutil.rmtree(chains.folder / "step_00000010")
    assert chains.watch.fault() == f"{chains.folder}/step_00000010: is no longer there"


def test_a_bit_that_flips_without_a_trace_is_found_by_reading_again(chains):
    flip(chains.file(1))
    assert chains.watch.fault() == ""
    chains.save(3)
    assert "(tables.a.weight) are not those that were written" in chains.watch.fault()
    assert chains.watch.damaged == {str(chains.folder / "step_00000001")}


def test_large_chains_are_read_in_parts_all_of_them_once_before_the_next_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("dlrm.checkpoint.delta.watch.LEAST_READ_BYTES", 1)
    chains, read = Chains(tmp_path, every=5), []
    verify = type(open_of(chains)).verify

    def counted(checkpoint, part):
        read.append((checkpoint.step, part))
        verify(checkpoint, part)

    monkeypatch.setattr("dlrm.checkpoint.stored.Checkpoint.verify", counted)
    chains.save(6, 7)
    parts = open_of(chains, 6).parts
    assert 0 < len(read) < len(parts)
    chains.save(8, 9, 10)
    assert {str(part) for step, part in read if step == 6} == set(map(str, parts))


def open_of(chains, step=None):
    if step is None:
        chains.save(1)
    return newest_good(chains.folder, before=None if step is None else step + 1)[0]


def test_a_chain_that_is_known_to_be_damaged_does_not_count_among_those_that_are_kept(chains):
    chains.save(3, 4, 5, 6)
    flip(chains.file(5))
    chains.save(7)
    assert chains.watch.fault()
    chains.save(9)
    assert chains.loaded_step() == 9
    flip(chains.file(9))
    assert chains.loaded_step() == 4
    chains.save(10, 13)
    assert 4 in chains.steps()
    chains.save(17)
    assert not {1, 2, 3, 4} & set(chains.steps())


def test_storage_that_is_away_makes_the_next_one_full_and_is_no_damage(chains, monkeypatch):
    def stale(storage, folder):
        raise OSError(116, "Stale file handle", folder)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "stamps", stale)
        assert "Stale file handle" in chains.watch.fault()
    assert chains.watch.damaged == set()
