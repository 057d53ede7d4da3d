"""Compressed, shared and padded tables train as by hand in float64, on any ranks, under any sharding, through stops."""

import os

import numpy as np
import pytest
import torch

from dlrm.config import load_config
from dlrm.counter_rng import integers, stream_key
from dlrm.data.in_memory import InMemorySource
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.models.build import build_model
from dlrm.schema import Schema
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world
from tests.support.whole_state import fill_state, gather_state

ROWS, HOTNESS = (7, 50, 300, 40, 60, 45, 90), (1, 2, 1, 3, 1, 1, 2)
SAMPLES, BATCH, DIM = 330, 48, 6  # rows of 6 are padded to 8, and cut into columns 4 and 2
OPTIONS = [
    f"model.embedding_dim={DIM}",
    f"model.bottom_mlp=16,{DIM}",
    "model.top_mlp=16,1",
    "model.shared_tables={both: [cat_1, cat_5]}",
    "model.tables.both.embedding={kind: frequency_capped, rows: 20, tail_rows: 3}",
    "model.tables.cat_2.embedding={kind: quotient_remainder, ids_per_row: 5}",
    "model.tables.cat_3={pooling: mean, embedding: {kind: hashed, rows: 11, functions: 2}}",
    "model.tables.cat_4.embedding={kind: mixed_dim, dim: 3}",
    "model.tables.cat_6.embedding={kind: quotient_remainder, ids_per_row: 4, operation: concat, min_rows: 50}",
    f"train.global_batch_size={BATCH}",
    "optim.dense={kind: sgd, lr: 0.1}",
    "optim.lr_scale={cat_2_quotient: 2.0, fields: 0.5}",
    "sharding.min_column_width=4",
]
OPTIMIZERS = {
    "rowwise": "optim.sparse={kind: rowwise_adagrad, lr: 0.05, eps: 0.01}",
    "adagrad": "optim.sparse={kind: adagrad, lr: 0.05, eps: 0.01}",
}
STAYS = [  # (ranks, ranks of a host), and the shardings there, one after the other, each for some steps
    ((1, 1), ["table_wise"]),
    ((4, 2), ["column_wise", "row_wise", "grid_shard"]),
    ((2, 2), ["data_parallel", "column_wise"]),
]
STEPS = 3


def source():
    generator = torch.Generator().manual_seed(0)
    columns = [n for n, k in zip(ROWS, HOTNESS, strict=True) for _ in range(k)]
    ids_MS = torch.stack([torch.randint(0, n, (SAMPLES,), generator=generator) for n in columns], dim=1)
    labels_M1 = torch.randint(0, 2, (SAMPLES, 1), generator=generator)
    dense_MN = torch.randn(SAMPLES, 3, generator=generator)
    return InMemorySource("tiny", Schema.numbered(3, ROWS, HOTNESS), dense_MN, ids_MS.int(), labels_M1.to(torch.uint8))


def order():
    return SampleOrder(SAMPLES, global_batch_size=BATCH, seed=0, shuffle=True)


def stay(rank, world_size, ranks_per_host, shardings, states, first):
    """Take over each state, train on, and hand it on; whole states, and the losses by optimizer."""
    os.environ.update(LOCAL_WORLD_SIZE=str(ranks_per_host), LOCAL_RANK=str(rank % ranks_per_host))
    world, data = this_world(), source()
    losses = {name: [] for name in OPTIMIZERS}
    for sharding in shardings:
        for name, optimizer in OPTIMIZERS.items():
            config = load_config(None, [*OPTIONS, optimizer, f"sharding.types={sharding}"])
            engine = build_engine(config, data.schema, world)
            if name in states:
                fill_state(engine, states[name])
                found = gather_state(engine, world.collectives)
                assert all(torch.equal(found[key], states[name][key]) for key in states[name])
            loader = BatchLoader(data, order(), rank=rank, world_size=world_size)
            for step in range(first, first + STEPS):
                epoch, batch = divmod(step - 1, order().num_batches)
                for output in engine.stepper.train(loader.batches(epoch, batch, batch + 1), first_step=step):
                    loss = output.loss.double() / world_size
                    world.collectives.all_reduce_sum_(loss)
                    losses[name].append(loss.item())
            states[name] = gather_state(engine, world.collectives)
        first += STEPS
    return states, losses


def test_all_kinds_train_as_by_hand_whatever_the_ranks_and_the_sharding_and_through_stops():
    states, losses, first = {}, {name: [] for name in OPTIMIZERS}, 1
    for (ranks, ranks_per_host), shardings in STAYS:
        states, seen = run_ranks(stay, ranks, ranks_per_host, shardings, states, first)[0]
        first += STEPS * len(shardings)
        for name in OPTIMIZERS:
            losses[name] += seen[name]
    for name in OPTIMIZERS:
        by_hand = ByHand(load_config(None, [*OPTIONS, OPTIMIZERS[name]]))
        expected = [by_hand.step(step) for step in range(1, first)]
        assert losses[name] == pytest.approx(expected, rel=1e-5)
        assert {key for key in states[name] if key.startswith("tables.")} == set(by_hand.state())
        for key, tensor in by_hand.state().items():
            np.testing.assert_allclose(states[name][key], tensor, atol=2e-6, err_msg=key)


class ByHand:
    """The same training in float64: lookups, tables and their optimizers by hand, the MLPs by torch."""

    def __init__(self, config):
        self.config, self.data = config, source()
        model = build_model(config.model, self.data.schema, seed=config.run.seed, tables_device="cpu")
        widths = {"cat_4": 3, "cat_6_quotient": 3, "cat_6_remainder": 3}
        self.tables = {}
        for name, bag in model.tables.embedding_bags.items():
            width = widths.get(name, DIM)
            assert not bag.weight[:, width:].any()
            self.tables[name] = bag.weight.detach()[:, :width].double().requires_grad_()
        by_row = config.optim.sparse.kind == "rowwise_adagrad"
        self.sums = {name: torch.zeros(w.shape[: 2 - by_row], dtype=torch.float64) for name, w in self.tables.items()}
        self.dense = model.double()
        self.project_D3 = dict(self.dense.named_parameters())["fields.projections.4.weight"]

    def vectors(self, ids_BS):
        tables = self.tables
        ids = [part_BL.long() for part_BL in ids_BS.split(HOTNESS, dim=1)]

        def capped(ids_BL):
            return torch.where(ids_BL < 20, ids_BL, 20 + integers(stream_key(0, "lookup", "both", 0), ids_BL, 3))

        hashed = [integers(stream_key(0, "lookup", "cat_3", number), ids[3], 11) for number in range(2)]
        quotients, remainders = ids[6] // -(-90 // 4), ids[6] % -(-90 // 4)
        return [
            tables["cat_0"][ids[0]].sum(1),
            tables["both"][capped(ids[1])].sum(1),
            (tables["cat_2_quotient"][ids[2] // 60] * tables["cat_2_remainder"][ids[2] % 60]).sum(1),
            sum(tables["cat_3"][rows_BL].mean(1) for rows_BL in hashed),
            tables["cat_4"][ids[4]].sum(1) @ self.project_D3.T,
            tables["both"][capped(ids[5])].sum(1),
            torch.cat((tables["cat_6_quotient"][quotients], tables["cat_6_remainder"][remainders]), dim=2).sum(1),
        ]

    def step(self, step):
        epoch, batch = divmod(step - 1, order().num_batches)
        samples = self.data.read(order().indices(epoch, batch))
        dense_BD = self.dense.bottom_mlp(samples.dense_BN.double())
        vectors_BX = torch.cat(self.vectors(samples.ids_BS), dim=1)
        logits_BT = self.dense.top_mlp(self.dense.interaction(dense_BD, vectors_BX))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_BT, samples.labels_BT.double())
        self.dense.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, parameter in self.dense.named_parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * (0.5 if name.startswith("fields.") else 1.0) * parameter.grad
            for name, weight in self.tables.items():
                self._update(name, weight)
        return loss.item()

    def _update(self, name, weight):
        sums, gradient, sparse = self.sums[name], weight.grad, self.config.optim.sparse
        by_row = sums.dim() == 1
        sums += gradient.square().mean(1) if by_row else gradient.square()
        roots = (sums[:, None] if by_row else sums).sqrt() + sparse.eps
        weight -= sparse.lr * (2.0 if name == "cat_2_quotient" else 1.0) * gradient / roots
        weight.grad = None

    def state(self):
        found = {f"tables.{name}.weight": weight.detach() for name, weight in self.tables.items()}
        return found | {f"tables.{name}.optimizer.sum": sums for name, sums in self.sums.items()}
