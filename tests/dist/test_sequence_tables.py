"""Tables whose rows are not summed: hashed, padded, frozen, in float16, and beside ids with weights.

The reference is the model that is not sharded, its gradients torch's, and its tables trained by hand.
"""

from dataclasses import replace

import pytest
import torch

from dlrm.config import load_config
from dlrm.data.batch import make_batch
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.lookups.jagged import RowsLookedUp
from dlrm.models.build import build_model
from dlrm.train.engine import build_engine
from tests.support.histories import SCHEMA, HistorySource
from tests.support.ranks import run_ranks
from tests.support.training import this_world
from tests.support.whole_state import gather_state

SAMPLES, BATCH, STEPS, DIM, LR, EPS = 120, 40, 3, 6, 0.1, 0.01  # rows of 6 are padded to 8
OPTIONS = [
    "model.kind=din",
    f"model.embedding_dim={DIM}",
    "model.top_mlp=16,1",
    "model.tables={item: {embedding: {kind: hashed, rows: 11}}, tags: {pooling: mean}}",
    f"train.global_batch_size={BATCH}",
    "optim.dense={kind: sgd, lr: 0.1}",
    f"optim.sparse={{kind: rowwise_adagrad, lr: {LR}, eps: {EPS}}}",
    "optim.frozen=shop",
    "sharding.min_column_width=4",
]
CASES = {kind: [f"sharding.types={kind}"] for kind in ("table_wise", "row_wise", "column_wise", "data_parallel")}
HALF = {"half": ["sharding.types=row_wise", "precision.tables=fp16"]}
WEIGHTED = replace(SCHEMA, sparse=tuple(replace(f, weights="w") if f.name == "tags" else f for f in SCHEMA.sparse))


class WeightedSource(HistorySource):
    """The ids of one feature, a pooled one, have weights; those of others have 1."""

    def __init__(self, samples):
        super().__init__(samples)
        self.schema = WEIGHTED
        self._weights_MS = torch.ones(samples, SCHEMA.ids_per_sample)
        self._weights_MS[:, 3:5] = torch.rand(samples, 2, generator=torch.Generator().manual_seed(4)) + 0.5

    def read(self, index_B):
        return replace(super().read(index_B), id_weights_BS=self._weights_MS[index_B])


def trained(rank, world_size, cases):
    """By case the losses and the state in the end."""
    world, data, found = this_world(), WeightedSource(SAMPLES), {}
    for name, options in cases.items():
        engine = build_engine(load_config(None, [*OPTIONS, *options]), WEIGHTED, world)
        order, losses = SampleOrder(SAMPLES, global_batch_size=BATCH), []
        loader = BatchLoader(data, order, rank=rank, world_size=world_size)
        for output in engine.stepper.train(loader.batches(0, 0, STEPS), first_step=1):
            loss = output.loss.double() / world_size
            world.collectives.all_reduce_sum_(loss)
            losses.append(loss.item())
        found[name] = losses, gather_state(engine, world.collectives)
    return found


def by_hand(options=(), rounded=lambda weight: weight):
    """The same: losses, and weights of tables without padding by name."""
    config = load_config(None, [*OPTIONS, *options])
    model = build_model(config.model, WEIGHTED, seed=config.run.seed, tables_device="cpu")
    look_up = RowsLookedUp(model.lookups)
    tables = model.table_weights
    sums = {name: torch.zeros(len(weight), dtype=torch.float64) for name, weight in tables.items()}
    of_tables = {id(weight) for weight in tables.values()}
    losses = []
    for weight in tables.values():
        weight.data = rounded(weight.data)
    for step in range(STEPS):
        index_B = torch.arange(step * BATCH, (step + 1) * BATCH)
        samples = WeightedSource(SAMPLES).read(index_B)
        batch = make_batch(samples, WEIGHTED, size=BATCH, global_samples=BATCH, world_size=1)
        logits = model(batch.dense, look_up(batch.sparse))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels)
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, weight in tables.items():
                if name != "shop":
                    sums[name] += weight.grad[:, :DIM].square().mean(1)
                    rate_R = LR / (sums[name].sqrt() + EPS)
                    weight.data = rounded((weight - rate_R[:, None] * weight.grad).float())
            for parameter in model.parameters():
                if id(parameter) not in of_tables:
                    parameter -= 0.1 * parameter.grad
    return losses, {name: weight.detach()[:, :DIM] for name, weight in tables.items()}


@pytest.mark.parametrize("world_size", [1, 2])
def test_they_train_as_by_hand_whatever_the_ranks_and_the_sharding(world_size):
    expected, tables = by_hand()
    by_rank = run_ranks(trained, world_size, CASES)
    for name, (losses, state) in by_rank[0].items():
        assert losses == pytest.approx(expected, rel=1e-5), name
        for table, weight in tables.items():
            found = state[f"tables.{table}.weight"]
            torch.testing.assert_close(found, weight, atol=2e-6, rtol=0, msg=f"{name} {table}")


def test_float16_rows_are_computed_with_in_float32_and_rounded_after_an_update():
    expected, tables = by_hand(rounded=lambda weight: weight.half().float())
    losses, state = run_ranks(trained, 2, HALF)[0]["half"]
    assert losses == pytest.approx(expected, rel=1e-4)
    for table, weight in tables.items():
        found = state[f"tables.{table}.weight"]
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.float(), weight, atol=1e-4, rtol=1e-3)
