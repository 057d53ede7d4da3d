"""DIN's tables, whose rows are not summed, train the same on any ranks under every sharding type that torchrec has.

Each case of a world is an engine of its own in the same ranks, so that ranks are started four times.
"""

import pytest
import torch

from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.sharding.dirty_rows import DirtyRows
from dlrm.train.engine import build_engine
from dlrm.train.evaluator import Evaluator
from tests.support.histories import SCHEMA, HistorySource
from tests.support.ranks import run_ranks
from tests.support.training import this_world
from tests.support.whole_state import fill_state, gather_state

pytestmark = pytest.mark.timeout(600)  # many engines in few ranks, on a machine that may be busy
SAMPLES, BATCH, STEPS, MORE_STEPS = 130, 50, 4, 2  # three batches an epoch, the last of 30
MODEL = ["model.kind=din", "model.embedding_dim=8", "model.top_mlp=16,1", f"train.global_batch_size={BATCH}"]
OPTIMIZERS = {
    "sgd": ["optim.sparse={kind: sgd, lr: 0.3}"],
    "adagrad": ["optim.sparse={kind: adagrad, lr: 0.1}"],
    "rowwise_adagrad": ["optim.sparse={kind: rowwise_adagrad, lr: 0.1}", "optim.lr_scale={item: 2.0, attention: 0.5}"],
}
TYPES = ["table_wise", "row_wise", "column_wise", "data_parallel"]
MIXED = "sharding.tables={item: {types: column_wise}, shop: {types: row_wise}, user: {types: data_parallel}}"
OTHERS = {"base pipeline": "train.pipeline=base", "mixed": MIXED}


def engine_of(optimizer, *options):
    return build_engine(load_config(None, [*MODEL, *OPTIMIZERS[optimizer], *options]), SCHEMA, this_world(), scored=90)


def trained(engine, first, steps):
    """The mean losses of the global batches."""
    world, losses = this_world(), []
    order = SampleOrder(SAMPLES, global_batch_size=BATCH, seed=0, shuffle=True)
    loader = BatchLoader(HistorySource(SAMPLES), order, rank=world.rank, world_size=world.size)
    for step in range(first, first + steps):
        epoch, batch = divmod(step - 1, order.num_batches)
        for output in engine.stepper.train(loader.batches(epoch, batch, batch + 1), first_step=step):
            loss = output.loss.double() / world.size
            world.collectives.all_reduce_sum_(loss)
            losses.append(loss.item())
    return losses


def auc_of(engine):
    world = this_world()
    source = HistorySource(90, seed=1)
    loader = BatchLoader(source, SampleOrder(90, global_batch_size=40), rank=world.rank, world_size=world.size)
    return Evaluator(engine.stepper, engine.average, world).evaluate(loader)["label"].auc


def of_one_rank(rank, world_size):
    """By optimizer the losses, the state after STEPS and the score; and whether a resumed training was the same."""
    collectives, found = this_world().collectives, {}
    for optimizer in OPTIMIZERS:
        engine = engine_of(optimizer, "sharding.types=table_wise")
        losses = trained(engine, 1, STEPS)
        state = gather_state(engine, collectives)
        losses += trained(engine, STEPS + 1, MORE_STEPS)
        resumed = engine_of(optimizer, "sharding.types=table_wise")
        fill_state(resumed, state)
        same = trained(resumed, STEPS + 1, MORE_STEPS) == losses[STEPS:]
        ends = (gather_state(one, collectives) for one in (engine, resumed))
        same &= all(torch.equal(*pair) for pair in zip(*(end.values() for end in ends), strict=True))
        found[optimizer] = losses, state, auc_of(engine), same
    return found


def of_ranks(rank, world_size, cases, states):
    """Of each case the losses from the start; those of training that goes on from another world's state; the score."""
    found = {}
    for optimizer, name, options in cases:
        engine = engine_of(optimizer, *options)
        losses = trained(engine, 1, STEPS)
        fill_state(engine, states[optimizer])
        taken = gather_state(engine, this_world().collectives)
        assert list(taken) == list(states[optimizer])
        assert all(torch.equal(taken[key], states[optimizer][key]) for key in taken), (optimizer, name)
        assert engine.memory.missing == ""
        more = trained(engine, STEPS + 1, MORE_STEPS)
        found[optimizer, name] = losses, more, auc_of(engine)
    return found


@pytest.fixture(scope="module")
def one_rank():
    return run_ranks(of_one_rank, 1, timeout_s=500)[0]


def cases_of(types_of, others=()):
    cases = [(optimizer, kind, [f"sharding.types={kind}"]) for optimizer, types in types_of.items() for kind in types]
    return cases + [("rowwise_adagrad", name, ["sharding.types=table_wise", OTHERS[name]]) for name in others]


FEW = {"sgd": ["data_parallel"], "adagrad": ["column_wise"], "rowwise_adagrad": TYPES}


@pytest.mark.parametrize(
    ("world_size", "cases"),
    [
        (2, cases_of(FEW, OTHERS)),
        (3, cases_of({"rowwise_adagrad": ["column_wise"]})),
        pytest.param(4, cases_of(dict.fromkeys(OPTIMIZERS, TYPES), ["mixed"]), marks=pytest.mark.slow),
    ],
    ids=["2", "3", "4"],
)
def test_training_its_state_and_its_scores_do_not_depend_on_ranks_and_sharding(one_rank, world_size, cases):
    states = {optimizer: state for optimizer, (_, state, _, _) in one_rank.items()}
    by_rank = run_ranks(of_ranks, world_size, cases, states, timeout_s=500)
    assert all(of_rank == by_rank[0] for of_rank in by_rank)
    for (optimizer, name), (losses, more, auc) in by_rank[0].items():
        expected, _, expected_auc, _ = one_rank[optimizer]
        assert losses[0] == pytest.approx(expected[0], rel=1e-6), (optimizer, name)
        assert losses + more == pytest.approx(expected, rel=1e-5), (optimizer, name)
        assert auc == pytest.approx(expected_auc, abs=2e-3), (optimizer, name)


def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped_to_the_bit(one_rank):
    assert all(same for _, _, _, same in one_rank.values())


def dirty(rank, world_size):
    """The rows that count as changed after a step and an evaluation, by sharding type and shard."""
    found = {}
    for kind in ("row_wise", "column_wise"):
        engine = engine_of("rowwise_adagrad", f"sharding.types={kind}")
        rows = DirtyRows(engine.model)
        trained(engine, 1, 1)
        auc_of(engine)
        for shard, changed in rows.take().items():
            found[kind, shard] = sorted((changed + shard.first_row).tolist())
    return found


def test_a_delta_has_the_rows_of_candidates_and_histories_of_all_ranks_and_no_others():
    index_B = SampleOrder(SAMPLES, global_batch_size=BATCH, seed=0, shuffle=True).indices(0, 0, 0, 1)
    samples = HistorySource(SAMPLES).read(index_B)
    touched = {}
    bags = samples.ids_BS.split([feature.hotness for feature in SCHEMA.sparse], dim=1)
    for feature, ids_BL, length_B in zip(SCHEMA.sparse, bags, samples.lengths_BF.t(), strict=True):
        ids = ids_BL[torch.arange(feature.hotness) < length_B[:, None]]
        touched.setdefault(feature.history_of or feature.name, set()).update(ids.tolist())
    by_rank = run_ranks(dirty, 2)
    seen = {(kind, shard.table) for found in by_rank for kind, shard in found}
    assert {("row_wise", "item"), ("row_wise", "shop"), ("column_wise", "item"), ("row_wise", "user")} <= seen
    for found in by_rank:
        for (_, shard), rows in found.items():
            held = range(shard.first_row, shard.first_row + shard.rows)
            assert rows == sorted(touched[shard.table].intersection(held)), shard
