"""Deltas of a training on several ranks: what they hold, and that any world and sharding restores it from them."""

import shutil
from pathlib import Path

import pytest
import torch

from dlrm.checkpoint.delta.format import delta_record
from dlrm.checkpoint.delta.quantise import decode_rows, encode_rows, quantised_record, row_parameters
from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.distributed.internals import fused_lookups
from dlrm.sharding.dirty_rows import DirtyRows
from dlrm.train.checkpointing.delta_state import DeltaState
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_dataset
from tests.support.whole_state import gather_state

SAMPLES = 480
BATCH = 16
SMALL = [
    "model.bottom_mlp=16,16",
    "model.embedding_dim=16",
    "model.top_mlp=16,1",
    f"train.global_batch_size={BATCH}",
]
OPTIMIZERS = {
    "sgd": ["optim.sparse={kind: sgd, lr: 0.1}", "optim.dense={kind: sgd, lr: 0.05, momentum: 0.9}"],
    "adagrad": ["optim.sparse={kind: adagrad, lr: 0.05}"],
    "rowwise_adagrad": ["optim.sparse={kind: rowwise_adagrad, lr: 0.05}", "optim.dense={kind: adam, lr: 0.01}"],
    "adagrad, average": ["optim.sparse={kind: adagrad, lr: 0.05}", "train.average_decay=0.9"],
}
MIXED = [
    "sharding.tables.cat_0.types=data_parallel",
    "sharding.tables.cat_1.types=row_wise",
    "sharding.tables.cat_2.types=row_wise",
    "sharding.tables.cat_3.types=column_wise",
]
SHARDINGS = {
    "mixed": MIXED,
    "table-wise": ["sharding.types=table_wise"],
    "column-wise": ["sharding.types=column_wise"],
}


def engine_of(options):
    return build_engine(load_config(None, [*SMALL, *options]), tiny_dataset(SAMPLES).schema, this_world())


def train_steps(engine, first, steps):
    world = this_world()
    order = SampleOrder(SAMPLES, global_batch_size=BATCH, seed=0, shuffle=True)
    loader = BatchLoader(tiny_dataset(SAMPLES).train, order, rank=world.rank, world_size=world.size)
    for _ in engine.stepper.train(loader.batches(0, first - 1, first - 1 + steps), first_step=first):
        engine.average.update()


def save(saver, provider, step):
    saver.wait()
    provider.on_saved(saver.last)
    tensors, metadata = provider.collect()
    saver.save(step, tensors, metadata)


def trained_and_saved(rank, world_size, folder, options, bits):
    """Saves after steps 1 .. 6, of which the first and the fifth are full; the whole states by step."""
    engine = engine_of(options)
    decay = load_config(None, [*SMALL, *options]).train.average_decay
    collectives = this_world().collectives
    saver = AsyncSaver(folder, collectives)
    provider = DeltaState(engine, collectives, full_every=4, bits=bits, average_decay=decay)
    provider.resumed(None)
    states = {}
    for step in range(1, 7):
        train_steps(engine, step, 1)
        save(saver, provider, step)
        states[step] = gather_state(engine, collectives)
    saver.wait()
    return states


def loaded(rank, world_size, folder, options, steps):
    """The whole states after loading the newest checkpoint up to each step, and what was passed over."""
    engine = engine_of(options)
    collectives = this_world().collectives
    states = {}
    for step in steps:
        path = f"{folder}/upto_{step}"
        resumed = load_newest(path, engine_tensors(engine), collectives)
        after_load(engine)
        assert resumed.checkpoint is not None
        states[step] = (
            resumed.checkpoint.step,
            gather_state(engine, collectives),
            [skip.path for skip in resumed.skipped],
        )
    return states


def folders_up_to(folder, steps):
    """For each step a folder with the checkpoints up to it, copied."""
    for last in steps:
        for step in range(1, last + 1):
            shutil.copytree(folder / f"step_{step:08d}", folder / f"upto_{last}" / f"step_{step:08d}")


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_deltas_restore_the_state_to_the_bit_into_any_world_and_sharding(optimizer, tmp_path):
    options = OPTIMIZERS[optimizer]
    sharding = {"sgd": "column-wise", "adagrad": "table-wise", "rowwise_adagrad": "mixed"}.get(optimizer, "mixed")
    states = run_ranks(trained_and_saved, 2, str(tmp_path), [*SHARDINGS[sharding], *options], 32)[0]
    records = [delta_record(open_checkpoint(tmp_path / f"step_{step:08d}")) for step in range(1, 7)]
    assert [None if record is None else (record.base.step, record.parent.step) for record in records] == [
        None, (1, 1), (1, 2), (1, 3), None, (5, 5),
    ]  # fmt: skip
    found, skipped = newest_good(tmp_path, verify=True)
    assert found is not None
    assert (found.step, skipped) == (6, [])
    folders_up_to(tmp_path, [4, 6])
    targets = [(1, ["sharding.types=row_wise"]), (3, MIXED), (2, ["sharding.types=column_wise"])]
    for world_size, other in targets:
        results = run_ranks(loaded, world_size, str(tmp_path), [*other, *options], [4, 6])[0]
        for step, (taken, state, skipped_paths) in results.items():
            assert (taken, skipped_paths) == (step, [])
            assert list(state) == list(states[step])
            assert [name for name in state if not torch.equal(state[name], states[step][name])] == []


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad, average"])
def test_eight_bits_restore_weights_within_half_a_step_of_their_row_moments_within_a_256th_and_all_else_to_the_bit(
    optimizer, tmp_path
):
    options = [*SHARDINGS["column-wise"], *OPTIMIZERS[optimizer]]
    states = run_ranks(trained_and_saved, 2, str(tmp_path), options, 8)[0]
    folders_up_to(tmp_path, [4])
    _, state, _ = run_ranks(loaded, 1, str(tmp_path), [*MIXED, *options], [4])[0][4]
    stored = open_checkpoint(tmp_path / "step_00000004").tensors
    full = open_checkpoint(tmp_path / "step_00000001").tensors
    in_fewer_bytes = {name for name in state if quantised_record(full[name]) is not None}
    assert {name for name in stored if name.startswith("reduced.")} == {f"reduced.{name}" for name in in_fewer_bytes}
    assert any(".optimizer." in name for name in in_fewer_bytes)
    quantised = 0
    for name, value in state.items():
        expected = states[4][name]
        if "tables." in name and name.endswith(".weight"):
            differing = (value != expected).any(dim=1)
            steps = row_parameters(encode_rows(expected))[0]
            if name.startswith("average."):  # of rows that were quantised before, and then moved towards their weights
                weight = states[4][name.removeprefix("average.")]
                steps = torch.maximum(steps, row_parameters(encode_rows(weight))[0]) * 1.5
            assert bool(((value - expected).abs() <= 0.5001 * steps + 1e-9).all()), name
            quantised += int(differing.sum())
        elif name in in_fewer_bytes:
            bound = expected.abs() / 256
            if ".optimizer." not in name:
                bound = 0.5001 * row_parameters(encode_rows(expected))[0] + 1e-9
            assert bool(((value - expected).abs() <= bound).all()), name
            assert not torch.equal(value, expected), name
        else:
            assert torch.equal(value, expected), name
    assert quantised > 50


def test_a_damaged_delta_is_passed_over_with_all_that_depend_on_it(tmp_path):
    options = [*SHARDINGS["mixed"], *OPTIMIZERS["rowwise_adagrad"]]
    states = run_ranks(trained_and_saved, 2, str(tmp_path), options, 32)[0]
    folders_up_to(tmp_path, [4])
    damaged = open_checkpoint(tmp_path / "upto_4" / "step_00000003")
    stored = next(chunks[0] for name, chunks in damaged.chunks.items() if name.startswith("touched.cat_2."))
    path = Path(damaged.path) / stored.file.name
    data = bytearray(path.read_bytes())
    data[stored.chunk.range[0]] ^= 1
    path.write_bytes(data)
    results = run_ranks(loaded, 2, str(tmp_path), options, [4])
    for result in results:
        taken, state, skipped = result[4]
        assert taken == 2
        assert [path.rpartition("_")[2] for path in skipped] == ["00000004", "00000003"]
        assert [name for name in state if not torch.equal(state[name], states[2][name])] == []
    found, passed_over = newest_good(tmp_path / "upto_4", verify=True)
    assert found is not None
    assert (found.step, len(passed_over)) == (2, 2)


def ids_of(first, steps):
    order = SampleOrder(SAMPLES, global_batch_size=BATCH, seed=0, shuffle=True)
    seen = {}
    for batch in BatchLoader(tiny_dataset(SAMPLES).train, order, rank=0, world_size=1).batches(0, first - 1, steps):
        for table, ids in batch.sparse.to_dict().items():
            seen.setdefault(table, set()).update(ids.values().tolist())
    return seen


def rows_by_table(taken):
    found = {}
    for shard, rows in taken.items():
        found.setdefault(shard.table, set()).update((rows + shard.first_row).tolist())
    return found


def dirty_rows(rank, world_size, options):
    """What is taken after 2 steps, an evaluation and a step; then given back and taken again; and after a reset."""
    engine = engine_of(options)
    dirty = DirtyRows(engine.model)
    train_steps(engine, 1, 2)
    order = SampleOrder(SAMPLES, global_batch_size=BATCH)
    loader = BatchLoader(tiny_dataset(SAMPLES).test, order, rank=rank, world_size=world_size)
    for _ in engine.stepper.predict(loader.batches(0, 0, 5)):
        pass
    first = rows_by_table(dirty.take())
    dirty.commit()
    train_steps(engine, 3, 1)
    second = rows_by_table(dirty.take())
    dirty.rollback()
    train_steps(engine, 4, 1)
    third = rows_by_table(dirty.take())
    dirty.commit()
    engine.reset_tables()
    return first, second, third, rows_by_table(dirty.take())


@pytest.mark.parametrize("sharding", list(SHARDINGS))
def test_dirty_rows_are_those_that_training_looked_up_and_all_after_a_reset(sharding):
    ranks = run_ranks(dirty_rows, 2, SHARDINGS[sharding])
    found = []
    for at in range(4):
        union = {}
        for of_rank in ranks:
            for table, rows in of_rank[at].items():
                union.setdefault(table, set()).update(rows)
        found.append(union)
    followed = set(found[3])
    assert followed == {"cat_0", "cat_1", "cat_2", "cat_3"} - ({"cat_0"} if sharding == "mixed" else set())
    for rows, expected in zip(found[:3], (ids_of(1, 2), ids_of(3, 3), ids_of(3, 4)), strict=True):
        assert rows == {table: expected[table] for table in followed}
    sizes = {"cat_0": 7, "cat_1": 50, "cat_2": 300, "cat_3": 40}
    assert found[3] == {table: set(range(sizes[table])) for table in followed}


def marked_by_both_ways(rank, world_size, options):
    """The maps after a step on the CPU, and when the same ids are marked as on a GPU."""
    engine = engine_of(options)
    dirty, seen = DirtyRows(engine.model), []
    for lookup, marks in zip(fused_lookups(engine.model), dirty._maps, strict=True):
        lookup.register_forward_pre_hook(lambda _, inputs, marks=marks: seen.append((marks, inputs[0])))
    train_steps(engine, 1, 1)
    maps = []
    for marks, ids in seen:
        by_loop = marks._marks.clone()
        marks.fill(0)
        marks._mark_on_device(ids)
        maps.append((by_loop, marks._marks.clone()))
    return maps


def test_both_ways_of_marking_mark_the_same_rows():
    for sharding in ("table-wise", "column-wise"):
        for maps in run_ranks(marked_by_both_ways, 2, SHARDINGS[sharding]):
            assert len(maps) == 1
            for by_loop, by_kernels in maps:
                assert bool(by_loop.any())
                assert torch.equal(by_loop, by_kernels)


def failed_and_saved(rank, world_size, folder):
    """Save 2 fails; its rows are in the third, which depends on the first."""
    engine = engine_of(SHARDINGS["table-wise"])
    collectives = this_world().collectives
    saver = AsyncSaver(folder, collectives)
    provider = DeltaState(engine, collectives, full_every=9, bits=32)
    train_steps(engine, 1, 1)
    save(saver, provider, 1)
    saver.wait()
    provider.on_saved(saver.last)
    train_steps(engine, 2, 1)
    provider.collect()  # as if to take memory
    provider.collect()
    provider.on_saved(None)
    train_steps(engine, 3, 1)
    saver.save(3, *provider.collect())
    saver.wait()
    return gather_state(engine, collectives)


def test_rows_of_a_failed_save_are_in_the_next_one(tmp_path):
    state = run_ranks(failed_and_saved, 2, str(tmp_path))[0]
    reader = open_reader(tmp_path / "step_00000003")
    assert [member.step for member in reader.members] == [1, 3]
    folder = tmp_path / "upto_3"
    folder.mkdir()
    for step in (1, 3):
        (tmp_path / f"step_{step:08d}").rename(folder / f"step_{step:08d}")
    _, found, _ = run_ranks(loaded, 1, str(tmp_path), ["sharding.types=table_wise"], [3])[0][3]
    assert [name for name in found if not torch.equal(found[name], state[name])] == []


DENSE = "bottom_mlp.linears.1.weight"


def what_is_no_number(rank, world_size, folder, which):
    """The second save is of a state of which ``which`` is NaN."""
    engine = engine_of([*SHARDINGS["table-wise"], *OPTIMIZERS["rowwise_adagrad"]])
    collectives = this_world().collectives
    saver = AsyncSaver(folder, collectives)
    provider = DeltaState(engine, collectives, full_every=9, bits=8)
    train_steps(engine, 1, 1)
    save(saver, provider, 1)
    train_steps(engine, 2, 1)
    for tensor in engine_tensors(engine):
        if tensor.name == which:
            for shard in tensor.shards:
                shard.tensor.fill_(float("nan"))
    save(saver, provider, 2)
    saver.wait()


@pytest.mark.parametrize("which", ["tables.cat_2.weight", DENSE, f"{DENSE}.optimizer.exp_avg"])
def test_numbers_that_cannot_be_quantised_make_a_checkpoint_full(which, tmp_path):
    run_ranks(what_is_no_number, 2, str(tmp_path), which)
    found = open_checkpoint(tmp_path / "step_00000002")
    assert delta_record(found) is None
    assert which in found.tensors


def test_decoding_gives_what_the_delta_says():
    rows = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    codes = encode_rows(rows)
    scale, offset = row_parameters(codes)
    expected = offset.double() + scale.double() * codes[:, :16].double()
    assert torch.allclose(decode_rows(codes).double(), expected, atol=1e-6)
