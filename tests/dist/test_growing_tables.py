"""Growing tables on several ranks: the laws hold for them as for any other (docs/tables.md)."""

import pytest
import torch

from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.config import load_config
from dlrm.config.model.growing import AdmitSeen, EvictLfu, GrowingEmbedding
from dlrm.data.in_memory import InMemorySource
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.models.init import table_rows
from dlrm.schema import Schema
from dlrm.train.checkpointing.delta_state import DeltaState
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.engine import build_engine
from tests.support.copies_on_gloo import allow_copies_on_gloo
from tests.support.growing_by_hand import GrowingByHand
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source
from tests.support.whole_state import fill_state, gather_state

SAMPLES, BATCH, STEPS = 600, 50, 12
GROWING = GrowingEmbedding(
    rows=40, bucket_rows=7, fallback_rows=2, admission=AdmitSeen(times=2), eviction=EvictLfu(halve_steps=5)
)
OF_CAT_2 = (
    "{kind: growing, rows: 40, bucket_rows: 7, fallback_rows: 2, admission: {kind: seen}, "
    "eviction: {kind: lfu, halve_steps: 5}}"
)
SMALL = [
    "model.bottom_mlp=16,8",
    "model.embedding_dim=8",
    "model.top_mlp=16,1",
    f"train.global_batch_size={BATCH}",
    "optim.sparse.lr=0.1",
    "optim.dense.lr=0.01",
]
BOTH = [f"model.tables.cat_2.embedding={OF_CAT_2}", "model.tables.cat_1.embedding={kind: growing, rows: 12}"]
MIXED = ["sharding.tables.cat_1.types=data_parallel", "sharding.tables.cat_2.types=column_wise"]
MAPS = "growing."
SPREAD = 0x3C6EF372FE94F82  # makes large numbers of small ids


def source(rows=300, ids_of_cat_2=None):
    """Ids of the third feature are anything, unless they are given."""
    plain = tiny_source(SAMPLES)
    ids = plain.ids_MS.to(torch.int64)
    ids[:, 2] = (ids[:, 2] + 1) * SPREAD % 2**62 if ids_of_cat_2 is None else ids_of_cat_2
    schema = Schema.numbered(3, (7, 50, 2**63 - 1 if ids_of_cat_2 is None else rows, 40))
    return InMemorySource("large ids", schema, plain.dense_MN, ids, plain.labels_MT)


def loader_of(data, accumulation_steps=1):
    world, order = this_world(), SampleOrder(SAMPLES, global_batch_size=BATCH, seed=0, shuffle=True)
    return BatchLoader(data, order, rank=world.rank, world_size=world.size, accumulation_steps=accumulation_steps)


def train(engine, data, first, last, accumulation_steps=1):
    """The mean loss of each step from ``first`` to ``last``."""
    collectives, losses = this_world().collectives, []
    batches = loader_of(data, accumulation_steps).batches(0, first - 1, last)
    for output in engine.stepper.train(batches, first_step=first):
        engine.average.update()
        loss = output.loss.double() / collectives.world_size
        collectives.all_reduce_sum_(loss)
        losses.append(loss.item())
    return losses


def engine_of(options, data):
    return build_engine(load_config(None, [*SMALL, *options]), data.schema, this_world())


def losses_and_maps(rank, world_size, cases):
    found = []
    for options in cases:
        data = source()
        engine = engine_of([*BOTH, *options], data)
        losses = train(engine, data, 1, STEPS)
        state = gather_state(engine, this_world().collectives)
        found.append((losses, {name: state[name] for name in state if name.startswith(MAPS)}))
    return found


def assert_same_maps(maps, expected):
    assert list(maps) == list(expected)
    assert [name for name in maps if not torch.equal(maps[name], expected[name])] == []


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ids_get_the_same_rows_and_losses_are_the_same_on_any_number_of_ranks_and_under_every_sharding_type(world_size):
    kinds = ["table_wise", "row_wise", "column_wise", "table_row_wise", "data_parallel"]
    [(expected, maps)] = run_ranks(losses_and_maps, 1, [["sharding.types=table_wise"]])[0]
    assert maps["growing.cat_2.ids"].max() > 2**40
    assert (maps["growing.cat_2.ids"] >= 0).all()
    cases = [*([f"sharding.types={kind}"] for kind in kinds), MIXED, ["train.pipeline=base"]]
    for losses, found in run_ranks(losses_and_maps, world_size, cases)[0]:
        assert losses == pytest.approx(expected, rel=1e-6)
        assert_same_maps(found, maps)


def losses_and_maps_of_copies(rank, world_size, case):
    allow_copies_on_gloo()
    return losses_and_maps(rank, world_size, [case])


@pytest.mark.slow
def test_copies_of_the_tables_share_their_rows_among_ids_alike_and_start_them_anew_together():
    """Under SGD, copies that are averaged after each step train as one table does."""
    sgd = ["optim.sparse.kind=sgd", "checkpoint.enabled=false"]
    [(expected, maps)] = run_ranks(losses_and_maps, 1, [[*sgd, "sharding.types=table_wise"]])[0]
    several = [*sgd, "sharding.types=row_wise", "sharding.group_size=2"]
    [(losses, found)] = run_ranks(losses_and_maps_of_copies, 4, several)[0]
    assert losses == pytest.approx(expected, rel=1e-6)
    assert_same_maps(found, maps)


def tenures():
    """Each sample's id as a number of its own for as long as the id has its row, and the row of each such number."""
    data, by_hand = source(), GrowingByHand(GROWING)
    order = SampleOrder(SAMPLES, global_batch_size=BATCH, seed=0, shuffle=True)
    row_of, now, of_sample = (
        list(range(GROWING.rows)),
        list(range(GROWING.rows)),
        torch.zeros(SAMPLES, dtype=torch.int64),
    )
    for k in range(order.num_batches):
        index_B = order.indices(0, k)
        ids = data.ids_MS[index_B, 2].tolist()
        rows, fresh = by_hand.step(ids, k + 1)
        for row in fresh:
            now[row] = len(row_of)
            row_of.append(row)
        of_sample[index_B] = torch.tensor([now[rows[id_]] for id_ in ids])
    return of_sample, torch.tensor(row_of), torch.tensor(now)


def growing_and_tenures(rank, world_size, options):
    """Losses and state of a growing table, and of a table in which whoever gets a row has one that nobody had."""
    collectives, found = this_world().collectives, []
    of_sample, row_of, now = tenures()
    for data, more in (
        (source(), [f"model.tables.cat_2.embedding={OF_CAT_2}"]),
        (source(len(row_of), of_sample), []),
    ):
        engine = engine_of([*options, *more], data)
        if not more:
            state = gather_state(engine, collectives)
            start = table_rows(row_of, 0, "cat_2", rows=GROWING.rows, dim=8, col_start=0, columns=8)
            averages = {name: start for name in state if name == "average.tables.cat_2.weight"}
            fill_state(engine, state | {"tables.cat_2.weight": start} | averages)
        losses = train(engine, data, 1, 6)
        for _ in engine.stepper.predict(loader_of(data).batches(0, 6, 12)):  # ids that were not trained, too
            pass
        losses += train(engine, data, 7, STEPS)
        found.append((losses, gather_state(engine, collectives)))
    return found, now


@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise_adagrad"])
def test_whoever_gets_a_row_finds_it_as_nobody_had_it_and_who_had_it_trains_it_to_the_end(optimizer):
    options = [f"optim.sparse.kind={optimizer}", "train.average_decay=0.9", "sharding.types=row_wise"]
    ((losses, state), (expected, by_tenure)), now = run_ranks(growing_and_tenures, 2, options)[0]
    assert len(by_tenure["tables.cat_2.weight"]) > GROWING.rows + 40  # rows did change hands
    assert losses == expected
    plain = [name for name in state if not name.startswith(MAPS)]
    assert plain == list(by_tenure)
    for name in plain:
        other = by_tenure[name][now] if ".cat_2." in name else by_tenure[name]
        assert torch.equal(state[name], other), name


def trained_and_saved(rank, world_size, folder, options):
    """Saves after steps 4 (full) and 6 (a delta); the state after 6, and losses and state after the rest."""
    data, collectives = source(), this_world().collectives
    engine = engine_of([*BOTH, *options], data)
    saver, provider = AsyncSaver(folder, collectives), DeltaState(engine, collectives, full_every=3, bits=32)
    provider.resumed(None)
    for first, last in ((1, 4), (5, 6)):
        train(engine, data, first, last)
        saver.wait()
        provider.on_saved(saver.last)
        saver.save(last, *provider.collect())
    saver.wait()
    saved = gather_state(engine, collectives)
    return saved, train(engine, data, 7, STEPS), gather_state(engine, collectives)


def resumed(rank, world_size, folder, options):
    data, collectives = source(), this_world().collectives
    engine = engine_of([*BOTH, *options], data)
    assert load_newest(folder, engine_tensors(engine), collectives).checkpoint.step == 6
    after_load(engine)
    loaded = gather_state(engine, collectives)
    return loaded, train(engine, data, 7, STEPS), gather_state(engine, collectives)


def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit_and_on_other_ranks_it_has_the_same_state(tmp_path):
    kind = ["sharding.types=row_wise"]
    saved, losses, ended = run_ranks(trained_and_saved, 2, str(tmp_path), kind)[0]
    assert len(list(tmp_path.glob("step_*"))) == 2
    for world_size, options in ((2, kind), (1, kind), (4, MIXED)):
        loaded, losses_then, ended_then = run_ranks(resumed, world_size, str(tmp_path), options)[0]
        assert [name for name in saved if not torch.equal(loaded[name], saved[name])] == []
        if world_size == 2:
            assert losses_then == losses
            assert [name for name in ended if not torch.equal(ended_then[name], ended[name])] == []
        assert losses_then == pytest.approx(losses, rel=1e-6)
        assert_same_maps(
            {name: value for name, value in ended_then.items() if name.startswith(MAPS)},
            {name: value for name, value in ended.items() if name.startswith(MAPS)},
        )


def accumulated(rank, world_size):
    data = source()
    engine = engine_of([*BOTH, "train.accumulation_steps=2"], data)
    return train(engine, data, 1, STEPS, accumulation_steps=2), gather_state(engine, this_world().collectives)


def test_micro_batches_give_the_same_on_any_number_of_ranks():
    (expected, one), (losses, two) = (run_ranks(accumulated, world_size)[0] for world_size in (1, 2))
    assert losses == pytest.approx(expected, rel=1e-6)
    assert [name for name in one if name.startswith(MAPS) and not torch.equal(one[name], two[name])] == []
