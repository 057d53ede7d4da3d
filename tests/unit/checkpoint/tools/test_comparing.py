"""diff against a comparison of whole tensors."""

import math

import pytest
import torch

from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.stored import Checkpoint, open_checkpoint
from dlrm.checkpoint.tools import comparing
from dlrm.checkpoint.tools.comparing import Change, compare, config_differences, state_bytes
from dlrm.errors import CheckpointError
from tests.unit.checkpoint.delta.deltas import COLUMN_WISE, ROW_WISE, normal_state, save_delta, stepped
from tests.unit.checkpoint.delta.test_replay import save_two
from tests.unit.checkpoint.states import State, cut_up, save_ranks, small_chunks, uncut
from tests.unit.checkpoint.tools.runs import SHAPES, a_state, command, flip, save


def changed_in(one, other):
    """Elements with other bits, and the largest difference, the simple way."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    where = one.view(bits) != other.view(bits)
    distances = (one.double() - other.double()).abs()[where]
    return int(where.sum()), distances.max().item() if len(distances) else 0.0


@pytest.mark.parametrize("seed", range(6))
def test_whatever_way_the_two_are_cut_the_difference_is_that_of_the_whole_tensors(seed, tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    monkeypatch.setattr(comparing, "_PORTION_BYTES", 300)
    monkeypatch.setattr(comparing, "_STEP_ELEMENTS", 16)
    generator = torch.Generator().manual_seed(seed)
    values, others = {}, {}
    for name, (shape, dtype) in SHAPES.items():
        kind = getattr(torch, dtype)
        values[name] = (torch.randn(shape, generator=generator, dtype=torch.float64) * 9).to(kind)
        keep = torch.rand(shape, generator=generator) < 0.7
        drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) * 9).to(kind)
        others[name] = torch.where(keep, values[name], drawn)
    first = open_checkpoint(save(tmp_path / "a", 1, State(values), seed=seed))
    second = open_checkpoint(save(tmp_path / "b", 1, State(others), world_size=3, seed=seed + 100))
    told = []
    found = compare(open_reader(first), open_reader(second), told.append)
    expected = {name: changed_in(values[name], others[name]) for name in SHAPES}
    assert {c.name: (c.differing, c.largest) for c in found.changed} == {k: v for k, v in expected.items() if v[0]}
    assert all(change.elements == math.prod(SHAPES[change.name][0]) for change in found.changed)
    assert found.equal == len(SHAPES) - len(found.changed)
    assert sum(told) == sum(value.nbytes for value in values.values())


def test_what_is_not_a_number_is_compared_by_its_bits(tmp_path):
    nan, inf = math.nan, math.inf
    one = torch.tensor([nan, 1.0, inf, -0.0, 5.0])
    first = open_checkpoint(save(tmp_path / "a", 1, State({"w": one, "v": one.clone()})))
    two = torch.tensor([nan, 1.0, inf, 0.0, 5.0])
    second = open_checkpoint(save(tmp_path / "b", 1, State({"w": two, "v": torch.tensor([nan, nan, inf, -0.0, 7.0])})))
    found = {change.name: change for change in compare(open_reader(first), open_reader(second), lambda _: None).changed}
    assert found["w"] == Change("w", 5, 1, 0.0)
    assert found["v"].differing == 2
    assert math.isnan(found["v"].largest)


def test_chunks_with_equal_checksums_are_not_read(tmp_path):
    state = a_state()
    paths = [save(tmp_path / name, 1, state) for name in "ab"]
    for file in paths[1].glob("*.safetensors"):
        flip(file)  # would be found if it was read
    found = compare(*map(open_reader, paths), lambda _: None)
    assert (found.changed, found.equal) == ([], len(SHAPES))


def test_of_a_tensor_of_which_one_chunk_differs_the_rows_in_others_are_not_read(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    monkeypatch.setattr(comparing, "_PORTION_BYTES", 320)
    values = {"w": torch.arange(400.0).view(50, 8)}
    others = {"w": values["w"].clone()}
    others["w"][20, 3] = -1
    first = save_ranks(tmp_path / "a", 1, [uncut(State(values))])
    second = save_ranks(tmp_path / "b", 1, [uncut(State(others))])
    read, real = [], Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, stored: read.append(stored) or real(self, stored))
    (change,) = compare(open_reader(first), open_reader(second), lambda _: None).changed
    assert (change.differing, change.largest) == (1, 164.0)
    chunks = [stored.chunk for stored in read]
    rows = {row for chunk in chunks for row in range(chunk.offsets[0], chunk.offsets[0] + chunk.shape[0])}
    assert 20 in rows
    assert len(rows) < 25


def test_damage_is_found_where_values_are_compared(tmp_path):
    paths = [save(tmp_path / name, 1, a_state(seed)) for seed, name in enumerate("ab")]
    for file in paths[1].glob("*.safetensors"):
        flip(file)
    with pytest.raises(CheckpointError, match="not those that were written"):
        compare(*map(open_reader, paths), lambda _: None)


def test_tensors_of_one_or_another_shape_metadata_and_options_are_named(tmp_path, capsys):
    one = a_state(shapes={"same": ((3,), "int64"), "gone": ((2,), "float32"), "other": ((2, 3), "float32")})
    two = a_state(shapes={"same": ((3,), "int64"), "new": ((2,), "float32"), "other": ((3, 2), "float32")})
    save(tmp_path / "a", 10, one, config={"a": {"b": 1, "c": [1, 2]}, "d": {}, "e": 1})
    save(tmp_path / "b", 30, two, config={"a": {"b": 2, "c": [1, 2]}, "d": {"x": None}, "e": 1}, reason="at the end")
    shown = command(capsys, "diff", tmp_path / "a", tmp_path / "b")
    assert "only in A: gone" in shown
    assert "only in B: new" in shown
    assert "another shape or type in B: other: float32 [2, 3], float32 [3, 2]" in shown
    assert "1 tensor equal to the bit, 0 with other values" in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for line in (
        "step 10 30",
        "samples 25,600 76,800",
        "reason every 10 steps at the end",
        "a.b 1 2",
        "d.x absent None",
    ):
        assert line in lines
    assert not any(line.startswith(("a.c", "e ", "epoch")) for line in lines)
    assert "largest difference" not in shown


def test_configurations_of_any_kind_are_compared(tmp_path):
    first = open_checkpoint(save(tmp_path / "a", 1, a_state(), config=None))
    second = open_checkpoint(save(tmp_path / "b", 1, a_state(), config={"a": {"b": [1]}}))
    assert list(config_differences(first, second)) == [("a.b", "absent", "[1]")]
    assert list(config_differences(first, first)) == []


@pytest.mark.parametrize("portion_bytes", [1, 700, 1 << 20])
@pytest.mark.parametrize("seed", range(3))
def test_deltas_are_compared_as_the_states_that_they_restore(seed, portion_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "_PORTION_BYTES", portion_bytes)
    chains, states = [], []
    for which, shards in enumerate((ROW_WISE, COLUMN_WISE)):
        state = normal_state(0)
        base = parent = save_ranks(tmp_path / str(which), 10, cut_up(state, seed, 2))
        for step, rows in ((11, {"a": [1, 19, 30], "b": [0, 19]}), (12, {"a": [20], "b": [which, 7]})):
            state = stepped(state, step + which, rows)
            parent = save_delta(tmp_path / str(which), step, state, rows, base=base, parent=parent, shards=shards)
        chains.append(open_reader(parent))
        states.append(state.values)
    told = []
    found = compare(*chains, told.append)
    expected = {name: changed_in(value, states[1][name]) for name, value in states[0].items()}
    assert {c.name: (c.differing, c.largest) for c in found.changed} == {k: v for k, v in expected.items() if v[0]}
    assert sum(told) == state_bytes(chains[0]) == sum(value.nbytes for value in states[0].values())
    assert (found.only_first, found.only_second, found.reshaped) == ([], [], [])
    full = open_checkpoint(save_ranks(tmp_path / "full", 12, cut_up(State(states[0]), seed, 2)))
    same = compare(chains[0], open_reader(full), told.append)
    assert (same.changed, same.equal) == ([], len(states[0]))


@pytest.mark.parametrize("portion_bytes", [1, 500, 1 << 20])
def test_averages_of_deltas_are_compared_as_they_are_restored(portion_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "_PORTION_BYTES", portion_bytes)
    path, state = save_two(tmp_path / "a", {"decay": 0.9, "first": 4, "last": 40})
    state.values["average.tables.a.weight"][36, 7] += 1
    other = save_ranks(tmp_path / "b", 40, cut_up(state, 0, 2))
    found = compare(*(open_reader(which) for which in (path, other)), lambda _: None)
    assert [(change.name, change.differing) for change in found.changed] == [("average.tables.a.weight", 1)]
    assert found.equal == 1


def test_diff_of_a_delta_of_8_bits_and_its_full_twin_shows_what_quantising_has_changed(tmp_path, capsys):
    state = normal_state(0)
    base = save_ranks(tmp_path / "a", 10, cut_up(state, 0, 2))
    rows = {"a": [3, 4], "b": []}
    state = stepped(state, 1, rows)
    path = save_delta(tmp_path / "a", 11, state, rows, base=base, parent=base, bits=8)
    twin = save_ranks(tmp_path / "b", 11, cut_up(state, 0, 2))
    shown = command(capsys, "diff", path, twin)
    assert "a delta of step 10: the state that it restores is compared" in shown
    assert "touched." not in shown
    line = next(line for line in shown.splitlines() if "tables.a.weight" in line)
    name, elements, differing, _, largest = line.split()
    assert (name, elements) == ("tables.a.weight", "296")
    assert 0 < int(differing) <= 16
    assert 0 < float(largest) < 0.02
    assert "5 tensors equal to the bit, 1 with other values" in shown
