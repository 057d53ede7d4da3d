"""export, read back by the safetensors package."""

import errno
import json
import os

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from dlrm.checkpoint import fill
from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.checkpoint.tools import exporting
from dlrm.errors import CheckpointError
from tests.unit.checkpoint.delta.deltas import COLUMN_WISE, normal_state, save_delta, stepped
from tests.unit.checkpoint.states import SHAPES as OF_ALL_TYPES
from tests.unit.checkpoint.states import cut_up, random_state, same_bits, save_ranks, small_chunks
from tests.unit.checkpoint.tools.runs import WEIGHTS, a_state, command, flip, save


@pytest.mark.parametrize("seed", range(4))
def test_the_file_holds_every_tensor_to_the_bit_however_the_checkpoint_is_cut(seed, tmp_path, monkeypatch, capsys):
    small_chunks(monkeypatch)
    state = random_state(seed, OF_ALL_TYPES)
    save(tmp_path, 12, state, world_size=3, seed=seed)
    command(capsys, "export", tmp_path, tmp_path / "out.safetensors", "--optimizer")
    found = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert set(found) == set(state.values)
    assert all(same_bits(found[name], value) for name, value in state.values.items())


def test_weights_alone_are_exported_unless_asked_with_step_and_configuration(tmp_path, capsys):
    state = a_state()
    path = save(tmp_path, 12, state)
    shown = command(capsys, "export", tmp_path, tmp_path / "out.safetensors")
    assert "4 tensors" in shown
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(WEIGHTS)
        metadata = file.metadata()
        assert all(same_bits(file.get_tensor(name), state.values[name]) for name in WEIGHTS)
    assert metadata["step"] == "12"
    assert json.loads(metadata["config"]) == {"run": {"name": "x", "seed": 7}, "optim": {"lr": 1e-5}}
    assert metadata["checkpoint"] == open_checkpoint(path).manifest_checksum


def test_of_a_delta_the_state_that_it_restores_is_exported(tmp_path, capsys):
    state = normal_state(0)
    base = parent = save_ranks(tmp_path / "run", 10, cut_up(state, 0, 2))
    for step in (11, 12):
        rows = {"a": [step, 30], "b": [0, step]}
        state = stepped(state, step, rows)
        parent = save_delta(tmp_path / "run", step, state, rows, base=base, parent=parent, shards=COLUMN_WISE)
    assert "of step 12" in command(capsys, "export", tmp_path / "run", tmp_path / "out", "--optimizer")
    found = safetensors.torch.load_file(tmp_path / "out")
    assert set(found) == set(state.values)
    assert all(same_bits(found[name], value) for name, value in state.values.items())
    command(capsys, "export", tmp_path / "run", tmp_path / "weights")
    found = safetensors.torch.load_file(tmp_path / "weights")
    assert set(found) == {"tables.a.weight", "tables.b.weight", "tables.dp.weight", "mlp.weight"}
    assert all(same_bits(value, state.values[name]) for name, value in found.items())
    needed = open_checkpoint(base).chunks["tables.a.weight"][0]
    flip(base / needed.file.name, needed.chunk.range[0])
    with pytest.raises(CheckpointError, match="not those that were written"):
        command(capsys, "export", parent, tmp_path / "other", "--optimizer")
    assert not (tmp_path / "other").exists()


def test_nothing_is_overwritten_unless_asked_and_nothing_is_left_beside(tmp_path, capsys):
    save(tmp_path / "run", 12, a_state())
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    with pytest.raises(CheckpointError, match="is there already; name another file, or replace it with --overwrite"):
        command(capsys, "export", tmp_path / "run", out)
    assert out.read_text() == "mine"
    command(capsys, "export", tmp_path / "run", out, "--overwrite")
    assert set(safetensors.torch.load_file(out)) == set(WEIGHTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "run"]


def test_a_damaged_checkpoint_is_not_exported(tmp_path, capsys):
    for file in save(tmp_path / "run", 12, a_state()).glob("*.safetensors"):
        flip(file)
    with pytest.raises(CheckpointError, match="not those that were written"):
        command(capsys, "export", tmp_path / "run", tmp_path / "out.safetensors", "--optimizer")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    save(tmp_path / "run", 12, a_state())

    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exporting.os, "posix_fallocate", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        command(capsys, "export", tmp_path / "run", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_places_that_are_none_are_refused(tmp_path, capsys):
    path = save(tmp_path / "run", 12, a_state())
    for out, why in (
        (tmp_path, "is a folder"),
        (path / "out.safetensors", "lies in a checkpoint"),
        (tmp_path / "no" / "out.safetensors", "No such file or directory"),
        ("s3://bucket/out.safetensors", "is remote"),
    ):
        with pytest.raises(CheckpointError, match=why):
            command(capsys, "export", path, out)


def test_memory_is_that_of_a_few_chunks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fill, "VERIFYING_THREADS", 2)
    shapes = {"tables.a.weight": ((4096, 64), "float32")}
    small_chunks(monkeypatch, chunk_bytes=1 << 14, file_bytes=1 << 18)
    state = a_state(shapes=shapes)
    checkpoint = open_checkpoint(save(tmp_path / "run", 1, state))
    held, most = [0], [0]
    read = type(checkpoint).read

    def counting(self, stored):
        data = read(self, stored)
        held[0] += len(data)
        most[0] = max(most[0], held[0])
        return data

    monkeypatch.setattr(type(checkpoint), "read", counting)
    exporting.export(
        open_reader(checkpoint),
        ["tables.a.weight"],
        str(tmp_path / "out"),
        overwrite=False,
        progress=lambda nbytes: held.__setitem__(0, held[0] - nbytes),
    )
    assert most[0] <= 3 << 14
    assert torch.equal(
        safetensors.torch.load_file(tmp_path / "out")["tables.a.weight"].view(torch.int32),
        state.values["tables.a.weight"].view(torch.int32),
    )
