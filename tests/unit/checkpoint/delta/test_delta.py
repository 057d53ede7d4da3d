"""Chains of deltas: what they restore, what of them is kept, and what is refused of them before anything changes."""

import random
import shutil
from pathlib import Path

import pytest
import torch

from dlrm.checkpoint.delta import dirty_rows as dirty_rows_module
from dlrm.checkpoint.delta.quantise import decode_rows, encode_rows, fault_in_codes, row_parameters
from dlrm.checkpoint.folder import checkpoint_paths, newest_good
from dlrm.checkpoint.load import differences, load_tensors
from dlrm.checkpoint.names import step_of
from dlrm.checkpoint.reader import find_all_damage, open_reader
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import CheckpointError, HalfLoadedError
from tests.unit.checkpoint.delta.deltas import (
    COLUMN_WISE,
    ROW_WISE,
    alone,
    normal_state,
    save_delta,
    stepped,
)
from tests.unit.checkpoint.hostile import edit
from tests.unit.checkpoint.states import blank, cut_up, gathered, save_ranks, small_chunks, uncut


def random_rows(rng):
    return {
        "a": sorted(rng.sample(range(37), rng.randrange(30))),
        "b": sorted(rng.sample(range(20), rng.randrange(15))),
    }


def save_chain(folder: Path, length: int, *, seed=0, bits=32, shards=ROW_WISE):
    """A full checkpoint at step 1 and deltas at 2 .. length; the states by step."""
    rng = random.Random(seed)
    states = {1: normal_state(seed)}
    base = parent = save_ranks(folder, 1, [uncut(states[1])])
    for step in range(2, length + 1):
        rows = random_rows(rng)
        states[step] = stepped(states[step - 1], 1000 * seed + step, rows)
        parent = save_delta(folder, step, states[step], rows, base=base, parent=parent, bits=bits, shards=shards)
    return states


def steps_in(folder):
    return [step_of(path.rpartition("/")[2]) for path in checkpoint_paths(folder)]


@pytest.mark.parametrize("seed", range(8))
def test_any_shards_are_filled_with_what_the_chain_says_to_the_bit(seed, tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    states = save_chain(tmp_path, 4, seed=seed, shards=(ROW_WISE, COLUMN_WISE)[seed % 2])
    for step, state in states.items():
        tensors = cut_up(blank(state), seed + step, 3)
        for rank in tensors:
            checkpoint = open_checkpoint(tmp_path / f"step_{step:08d}")
            assert differences(checkpoint, rank) == []
            assert load_tensors(checkpoint, rank) == []
        assert gathered(tensors).same_bits_as(state)


def test_quantised_rows_do_not_drift_along_a_chain(tmp_path):
    states = save_chain(tmp_path, 9, bits=8, shards=COLUMN_WISE)
    for step, state in states.items():
        target = blank(state)
        load_tensors(open_checkpoint(tmp_path / f"step_{step:08d}"), uncut(target))
        for name, value in target.values.items():
            if name in ("tables.a.weight", "tables.b.weight"):
                scale, _ = row_parameters(encode_rows(state.values[name]))  # at least that of a part of its columns
                assert bool(((value - state.values[name]).abs() <= 0.5001 * scale).all())
            else:
                assert torch.equal(value, state.values[name])


@pytest.mark.parametrize("magnitude", [1e-30, 1e-8, 1e-3, 1.0, 1e5, 1e30])
def test_a_quantised_number_is_within_half_a_step_and_rows_of_one_number_are_exact(magnitude):
    rows = torch.randn(500, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float() * magnitude
    rows[0] = rows[0, 0]
    rows[1] = 0
    codes = encode_rows(rows)
    scale, _ = row_parameters(codes)
    assert codes.shape == (500, 24)
    assert fault_in_codes(codes) == ""
    assert torch.equal(decode_rows(codes)[:2], rows[:2])
    errors = (decode_rows(codes).double() - rows.double()).abs()[2:]
    assert bool((errors <= 0.5001 * scale[2:].double()).all())
    lowest, highest = decode_rows(codes)[2:].amin(dim=1), decode_rows(codes)[2:].amax(dim=1)
    assert torch.equal(lowest, rows[2:].amin(dim=1))
    assert torch.allclose(highest, rows[2:].amax(dim=1), rtol=1e-5, atol=0)


def test_no_rows_are_quantised_to_none_and_what_is_no_number_is_seen():
    assert decode_rows(encode_rows(torch.zeros(0, 5))).shape == (0, 5)
    for value in (float("nan"), float("inf"), -float("inf")):
        assert "no finite number" in fault_in_codes(encode_rows(torch.tensor([[0.0, value]])))


def test_prune_keeps_what_kept_deltas_depend_on(tmp_path):
    states = save_chain(tmp_path, 4)
    base = save_ranks(tmp_path, 5, [uncut(states[4])])
    rows = {"a": [1], "b": []}
    state = stepped(states[4], 6, rows)
    save_delta(tmp_path, 6, state, rows, base=base, parent=base)
    assert prune(tmp_path, keep=3) == []  # 6, 5 and 4, which depends on 3, 2 and 1
    assert steps_in(tmp_path) == [6, 5, 4, 3, 2, 1]
    assert prune(tmp_path, keep=2) == []  # 4 stays, because 5 may be damaged, and 6 with it
    save_ranks(tmp_path, 7, [uncut(state)])
    removed = prune(tmp_path, keep=2, protected=[2])
    assert [step_of(path.rpartition("/")[2]) for path in removed] == [4, 3]
    assert [found.step for found in (newest_good(tmp_path, verify=True)[0],) if found] == [7]
    prune(tmp_path, keep=2)
    assert steps_in(tmp_path) == [7, 6, 5]


def test_a_removal_interrupted_at_any_point_leaves_no_delta_without_its_parent(tmp_path, monkeypatch):
    states = save_chain(tmp_path / "whole", 4)
    for step in (5, 6):
        save_ranks(tmp_path / "whole", step, [uncut(states[4])])
    for count in range(4):
        folder = tmp_path / str(count)
        shutil.copytree(tmp_path / "whole", folder)
        left = [count]

        def discard(storage, path, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            storage.remove_folder(path)

        monkeypatch.setattr("dlrm.checkpoint.retention.discard", discard)
        with pytest.raises(KeyboardInterrupt):
            prune(folder, keep=2)
        assert len(steps_in(folder)) == 6 - count
        for path in checkpoint_paths(folder):
            assert find_all_damage(open_reader(path)) == []


def test_where_a_delta_is_missing_the_one_before_is_taken_and_those_after_are_named(tmp_path):
    states = save_chain(tmp_path, 5)
    shutil.rmtree(tmp_path / "step_00000003")
    target = blank(states[2])
    resumed = load_newest(tmp_path, uncut(target), OneProcess())
    assert resumed.checkpoint is not None
    assert resumed.checkpoint.step == 2
    assert target.same_bits_as(states[2])
    assert [step_of(skip.path.rpartition("/")[2]) for skip in resumed.skipped] == [5, 4]
    assert all("depends on step_00000003, which is not whole" in skip.why for skip in resumed.skipped)
    shutil.rmtree(tmp_path / "step_00000001")
    assert load_newest(tmp_path, uncut(target), OneProcess()).checkpoint is None


def test_a_damaged_chunk_is_read_once_and_all_that_depend_on_it_are_passed_over(tmp_path):
    states = save_chain(tmp_path, 6)
    checkpoint = open_checkpoint(tmp_path / "step_00000003")
    stored = checkpoint.chunks["touched.a.20_0.weight"][0]
    path = Path(checkpoint.path) / stored.file.name
    data = bytearray(path.read_bytes())
    data[stored.chunk.range[0]] ^= 1
    path.write_bytes(data)
    target = blank(states[2])
    resumed = load_newest(tmp_path, uncut(target), OneProcess())
    assert resumed.checkpoint is not None
    assert resumed.checkpoint.step == 2
    assert target.same_bits_as(states[2])
    whys = [skip.why for skip in resumed.skipped]
    assert "are not those that were written" in whys[0]
    assert ["is damaged" in why for why in whys[1:]] == [True, True, True]
    found, skipped = newest_good(tmp_path, verify=True)
    assert found is not None
    assert (found.step, len(skipped)) == (2, 4)


def test_storage_that_fails_in_the_second_reading_is_said_to_have_left_a_half_loaded_state(tmp_path, monkeypatch):
    states = save_chain(tmp_path, 2)
    monkeypatch.setattr(
        "dlrm.checkpoint.delta.reader.fill_dirty_rows", lambda *_: (_ for _ in ()).throw(CheckpointError("a", "failed"))
    )
    with pytest.raises(HalfLoadedError, match="part old, part new"):
        load_tensors(open_checkpoint(tmp_path / "step_00000002"), uncut(blank(states[2])))


def replaced_rows(rows):
    """Other row numbers for the first shard of table a, which has three."""

    def change(tensors, record):
        tensors["touched.a.0_0.rows"] = alone("touched.a.0_0.rows", torch.tensor(rows, dtype=torch.int32))

    return change


def replaced(name, value):
    return lambda tensors, record: tensors.update({name: alone(name, value)})


def without(name):
    return lambda tensors, record: tensors.pop(name)


def changed(**changes):
    return lambda tensors, record: record.update(changes)


def changed_link(which, **changes):
    return lambda tensors, record: record[which].update(changes)


def shards_of_a(*places):
    return lambda tensors, record: record["shards"].update(a=[list(place) for place in places])


def bad_codes(scale, offset):
    """Quantised rows of the first shard of table a with these parameters in one."""
    codes = encode_rows(torch.ones(3, 8))
    codes[1, 8:] = torch.tensor([scale, offset], dtype=torch.float32).view(torch.uint8)
    return replaced("touched.a.0_0.weight", codes)


NO_NUMBER = float("nan")
HOSTILE = {
    "row beyond the shard": (32, replaced_rows([1, 5, 20]), "are not rows 0 .. 19 in increasing order"),
    "negative row": (32, replaced_rows([-1, 5, 6]), "are not rows 0 .. 19"),
    "rows not increasing": (32, replaced_rows([5, 1, 6]), "are not rows 0 .. 19"),
    "row twice": (32, replaced_rows([5, 5, 6]), "are not rows 0 .. 19"),
    "row that overflows": (32, replaced_rows([1, 2, 2**31 - 1]), "are not rows 0 .. 19"),
    "row numbers as floats": (32, replaced("touched.a.0_0.rows", torch.ones(3)), "should hold another"),
    "row numbers in two dimensions": (
        32,
        replaced("touched.a.0_0.rows", torch.ones(3, 1, dtype=torch.int32)),
        "should hold another touched.a.0_0",
    ),
    "more rows than the shard": (32, replaced_rows(list(range(21))), "should hold another touched.a.0_0"),
    "fewer weights than rows": (32, replaced("touched.a.0_0.weight", torch.ones(2, 8)), "should hold another"),
    "weights of other columns": (32, replaced("touched.a.0_0.weight", torch.ones(3, 9)), "should hold another"),
    "weights of another type": (
        32,
        replaced("touched.a.0_0.weight", torch.ones(3, 8, dtype=torch.float64)),
        "should hold another",
    ),
    "no weights": (32, without("touched.a.0_0.weight"), "should hold another touched.a.0_0.weight"),
    "no rows": (32, without("touched.a.0_0.rows"), "should hold another touched.a.0_0"),
    "no state": (32, without("touched.a.20_0.optimizer.sum"), "should hold another touched.a.20_0.optimizer.sum"),
    "rows of no shard": (32, replaced("touched.c.0_0.rows", torch.ones(3)), "should not hold touched.c.0_0.rows"),
    "a table both ways": (32, replaced("tables.a.weight", torch.ones(37, 8)), "do not hold the same tables.a.weight"),
    "a tensor missing": (32, without("mlp.weight"), "do not hold the same mlp.weight"),
    "a tensor too many": (32, replaced("mlp.bias", torch.ones(3)), "do not hold the same mlp.bias"),
    "a tensor of another shape": (32, replaced("mlp.weight", torch.ones(7, 9)), "do not hold the same mlp.weight"),
    "overlapping shards": (32, shards_of_a((0, 0, 21, 8), (20, 0, 17, 8)), "do not make the table"),
    "shards of a larger table": (32, shards_of_a((0, 0, 20, 8), (20, 0, 2**62, 8)), "do not make the table"),
    "an empty shard": (32, shards_of_a((0, 0, 20, 8), (20, 0, 17, 8), (0, 0, 0, 8)), "without rows or columns"),
    "no shards of a table": (32, shards_of_a(), "shards.a"),
    "a negative shard": (32, shards_of_a((0, 0, -20, 8)), "shards.a.0.2"),
    "shards of no table": (32, changed(shards={"../a": [[0, 0, 37, 8]]}), "is no table of its base"),
    "bits of another kind": (32, changed(bits=4), "increment.bits"),
    "bits true": (32, changed(bits=True), "increment.bits"),
    "an unknown key": (32, changed(pickle="x"), "increment.pickle"),
    "scale that is no number": (8, bad_codes(NO_NUMBER, 0), "no finite number"),
    "infinite offset": (8, bad_codes(1, float("inf")), "no finite number"),
    "scale too large": (8, bad_codes(3e38, 0), "no finite number"),
    "negative scale": (8, bad_codes(-1, 0), "a negative scale"),
    "parent after it": (32, changed_link("parent", step=3), "which are not before it"),
    "itself as parent": (32, changed_link("parent", step=2), "which are not before it"),
    "base after its parent": (32, changed_link("base", step=2), "which are not before it"),
    "parent that is not there": (32, changed_link("parent", step=0), "which are not before it"),
    "another parent": (32, changed_link("parent", manifest_checksum="0" * 64), "depends on another step_00000001"),
    "another base": (32, changed_link("base", manifest_checksum="0" * 64), "has another base than its parent"),
    "a path as checksum": (32, changed_link("base", manifest_checksum="../../x"), "increment.base.manifest_checksum"),
    "a step that is text": (32, changed_link("parent", step="../1"), "increment.parent.step"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_what_somebody_puts_in_a_delta_is_refused_in_one_line_before_anything_changes(case, tmp_path):
    bits, change, says = HOSTILE[case]
    state, rows = normal_state(0), {"a": [1, 5, 6, 30], "b": [3]}
    base = save_ranks(tmp_path, 1, [uncut(state)])
    path = save_delta(tmp_path, 2, stepped(state, 2, rows), rows, base=base, parent=base, bits=bits, change=change)
    target = normal_state(7)
    with pytest.raises(CheckpointError) as caught:
        load_tensors(open_checkpoint(path), uncut(target))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert target.same_bits_as(normal_state(7))
    assert newest_good(tmp_path, verify=True)[0].step == 1
    resumed = load_newest(tmp_path, uncut(target), OneProcess())
    assert resumed.checkpoint is not None
    assert (resumed.checkpoint.step, [skip.path for skip in resumed.skipped]) == (1, [str(path)])
    assert target.same_bits_as(state)


def test_the_base_of_another_run_is_not_taken_for_the_own_one(tmp_path):
    save_chain(tmp_path / "one", 3, seed=1)
    save_chain(tmp_path / "other", 3, seed=2)
    shutil.rmtree(tmp_path / "one" / "step_00000001")
    shutil.copytree(tmp_path / "other" / "step_00000001", tmp_path / "one" / "step_00000001")
    target = normal_state(0)
    with pytest.raises(CheckpointError, match="depends on another step_00000001 than the one beside it"):
        load_tensors(open_checkpoint(tmp_path / "one" / "step_00000003"), uncut(target))
    found, skipped = newest_good(tmp_path / "one")
    assert found is not None
    assert (found.step, len(skipped)) == (1, 2)


def test_deltas_that_name_each_other_end_the_search_and_not_in_a_circle(tmp_path):
    save_chain(tmp_path, 3)
    edit(lambda content: content["facts"]["increment"]["parent"].update(step=3))(tmp_path / "step_00000002")
    with pytest.raises(CheckpointError, match="which are not before it"):
        open_reader(tmp_path / "step_00000002")
    assert [skip.path[-1] for skip in newest_good(tmp_path)[1]] == ["3", "2"]


def test_quantised_rows_cut_across_are_refused(tmp_path, monkeypatch):
    state, rows = normal_state(0), {"a": [1, 5, 6, 30], "b": [3]}
    base = save_ranks(tmp_path, 1, [uncut(state)])
    small_chunks(monkeypatch, chunk_bytes=10)
    path = save_delta(tmp_path, 2, stepped(state, 2, rows), rows, base=base, parent=base, bits=8)
    with pytest.raises(CheckpointError, match="parts of rows"):
        load_tensors(open_checkpoint(path), uncut(normal_state(7)))


def test_only_the_chunks_that_shards_need_are_read(tmp_path, monkeypatch):
    states = save_chain(tmp_path, 2)
    seen = []
    real = dirty_rows_module.read_rows
    monkeypatch.setattr(
        dirty_rows_module, "read_rows", lambda one, shard: (seen.append(shard.name), real(one, shard))[1]
    )
    mlp = [tensor for tensor in uncut(blank(states[2])) if tensor.name == "mlp.weight"]
    load_tensors(open_checkpoint(tmp_path / "step_00000002"), mlp, strict=False)
    assert seen == []
    assert torch.equal(mlp[0].shards[0].tensor, states[2].values["mlp.weight"])
