"""Resetting tables and averaging weights, on whatever part of a table a rank holds."""

import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.train.engine import build_engine
from dlrm.train.evaluator import Evaluator
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source

SMALL = ["model.bottom_mlp=8,4", "model.embedding_dim=4", "model.top_mlp=8,1", "train.global_batch_size=16"]


def local(state):
    """Copies of this rank's part of every tensor of a state dict, by name."""
    parts = {}
    for name, value in state.items():
        shards = [shard.tensor for shard in value.local_shards()] if isinstance(value, ShardedTensor) else [value]
        parts.update({f"{name}/{i}": tensor.detach().clone() for i, tensor in enumerate(shards)})
    return parts


def train_and_reset(rank, world_size, config):
    source = tiny_source(64)
    engine = build_engine(config, source.schema, this_world())
    loader = BatchLoader(source, SampleOrder(64, global_batch_size=16), rank=rank, world_size=world_size)
    at_start = local(engine.model.state_dict())
    for _ in engine.stepper.train(loader.batches(0, 0, 4), first_step=1):
        pass
    trained = local(engine.model.state_dict())
    engine.reset_tables()
    after = local(engine.model.state_dict())
    state = {
        f"{name}.{key}": part
        for optimizer in engine.optimizer._table_optimizers
        for name, states in optimizer.state_dict()["state"].items()
        for key, part in local(states).items()
    }
    return at_start, trained, after, state


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise", "data_parallel"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_reset_restores_tables_and_clears_their_state_but_keeps_the_mlps(world_size, sharding):
    config = load_config(None, [*SMALL, f"sharding.types={sharding}"])
    for at_start, trained, after, state in run_ranks(train_and_reset, world_size, config):
        for name, weight in after.items():
            in_table = ".embedding_bags." in name
            assert torch.equal(weight, at_start[name] if in_table else trained[name]), name
            if in_table and weight.numel() > 100:
                assert not torch.equal(trained[name], at_start[name]), name
        for name, value in state.items():
            assert not value.any(), name
    assert any(state for *_, state in run_ranks(train_and_reset, world_size, config))


def evaluate(rank, world_size, decay):
    config = load_config(None, [*SMALL, f"train.average_decay={decay}", "sharding.types=row_wise,table_wise"])
    world, source = this_world(), tiny_source(64)
    engine = build_engine(config, source.schema, world)
    loader = BatchLoader(source, SampleOrder(64, global_batch_size=16), rank=rank, world_size=world_size)
    for _ in engine.stepper.train(loader.batches(0, 0, 4), first_step=1):
        engine.average.update()
    before = local(engine.model.state_dict())
    score = Evaluator(engine.stepper, engine.average, world).evaluate(loader)["label"].log_loss
    untouched = all(torch.equal(before[name], part) for name, part in local(engine.model.state_dict()).items())
    return score, untouched


def test_the_averaged_weights_are_evaluated_and_training_goes_on_with_its_own():
    plain = run_ranks(evaluate, 2, 0.0)
    averaged = run_ranks(evaluate, 2, 0.9)
    alone = run_ranks(evaluate, 1, 0.9)
    assert all(untouched for _, untouched in [*plain, *averaged])
    assert averaged[0][0] != pytest.approx(plain[0][0], rel=1e-4)
    assert averaged[0][0] == pytest.approx(alone[0][0], rel=1e-5)
