"""Random small models, each a function of its seed, that a plan can cut in every way that there is.

Their tables have 1 to 12 rows (some have more), so that on 2 to 4 ranks many ranks hold no row of a table. Widths, ids a
sample, pooling, learning rates and sharding types differ from table to table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlrm.config import Config, load_config
from dlrm.data.fingerprint import FileFingerprint
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.source import Samples, Source
from dlrm.schema import Schema
from dlrm.train.checkpointing.state import engine_tensors
from dlrm.train.engine import build_engine
from tests.support.training import this_world

WORLDS = {(1, 1): 0.04, (2, 2): 0.26, (2, 1): 0.1, (3, 3): 0.2, (4, 4): 0.2, (4, 2): 0.2}
"""Ranks, how many of them share a host, and how often that is drawn."""
SHARDING_TYPES = {
    "row_wise": 0.4, "table_row_wise": 0.15, "grid_shard": 0.15, "column_wise": 0.1, "table_column_wise": 0.05,
    "table_wise": 0.1, "data_parallel": 0.05,
}  # fmt: skip
"""The types, and how often each is drawn."""
STEPS = 20
_DENSE = 3


class BagSource(Source):
    """Samples with 0 up to ``hotness`` ids of each feature, often one id more than once.

    Args:
        schema: the columns of a sample.
        dense_MN: of all samples, as :class:`dlrm.data.source.Samples` describes them.
        ids_MS: likewise.
        lengths_MF: likewise.
        labels_MT: likewise.
        weights_M: likewise; None where the schema says so.
        id_weights_MS: likewise.
    """

    def __init__(
        self,
        schema: Schema,
        dense_MN: torch.Tensor,
        ids_MS: torch.Tensor,
        lengths_MF: torch.Tensor,
        labels_MT: torch.Tensor,
        weights_M: torch.Tensor | None = None,
        id_weights_MS: torch.Tensor | None = None,
    ) -> None:
        super().__init__("random bags", schema, len(labels_MT))
        self.dense_MN, self.ids_MS, self.lengths_MF, self.labels_MT = dense_MN, ids_MS, lengths_MF, labels_MT
        self.weights_M, self.id_weights_MS = weights_M, id_weights_MS

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices."""
        return Samples(
            self.dense_MN[index_B],
            self.ids_MS[index_B],
            self.labels_MT[index_B],
            self.lengths_MF[index_B],
            None if self.weights_M is None else self.weights_M[index_B],
            None if self.id_weights_MS is None else self.id_weights_MS[index_B],
        )

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """None: no file is read."""
        return ()


@dataclass(frozen=True)
class RandomModel:
    """A model to be trained on some ranks.

    Attributes:
        seed: of which it is a function.
        ranks, ranks_per_host: where it is trained.
        config: everything else, sharding types of each table among it.
        source: its samples.
    """

    seed: int
    ranks: int
    ranks_per_host: int
    config: Config
    source: BagSource

    @property
    def order(self) -> SampleOrder:
        """Which samples form which batch."""
        batch = self.config.train.global_batch_size
        return SampleOrder(self.source.num_samples, global_batch_size=batch, seed=self.seed, shuffle=True)

    @property
    def batches(self) -> Iterator[tuple[int, int]]:
        """Epoch and number in it of each batch that is trained."""
        per_epoch = self.order.num_batches
        return (divmod(step, per_epoch) for step in range(STEPS))


def random_model(seed: int, *, whole: bool = False) -> RandomModel:
    """The model of a seed; ``whole``: the same on one rank that holds every table whole."""
    random = np.random.default_rng(seed)
    ranks, ranks_per_host = list(WORLDS)[random.choice(len(WORLDS), p=list(WORLDS.values()))]
    tables = int(random.integers(1, 7))
    largest = random.choice([ranks + 1, 12, 200], size=tables, p=[0.5, 0.35, 0.15])
    rows = [int(count) for count in random.integers(1, largest + 1)]
    schema = Schema.numbered(_DENSE, rows, [int(hot) for hot in random.integers(1, 5, tables)])
    options = [*_model_options(random, tables), *_training_options(random, tables), f"run.seed={seed}"]
    sharding = list(_sharding_options(random, tables))
    source = _random_bags(random, schema)
    if whole:
        return RandomModel(seed, 1, 1, load_config(None, [*options, "sharding.types=table_wise"]), source)
    return RandomModel(seed, ranks, ranks_per_host, load_config(None, [*options, *sharding]), source)


def _model_options(random: np.random.Generator, tables: int) -> Iterator[str]:
    yield from ("model.bottom_mlp=[6,4]", "model.top_mlp=[6,1]", "model.interaction.kind=cat")
    yield f"model.embedding_dim={random.choice([4, 8, 12, 16])}"
    for table in range(tables):
        if random.random() < 0.5:
            yield f"model.tables.cat_{table}.embedding_dim={random.choice([4, 8, 12, 16, 20])}"
        if random.random() < 0.3:
            yield f"model.tables.cat_{table}.pooling=mean"


def _training_options(random: np.random.Generator, tables: int) -> Iterator[str]:
    sparse = {"kind": str(random.choice(["sgd", "adagrad", "rowwise_adagrad"])), "lr": 0.05}
    yield f"optim.sparse={sparse}"
    yield f"optim.dense={ {'kind': str(random.choice(['sgd', 'adagrad'])), 'lr': 0.02} }"
    for table in range(tables):
        if random.random() < 0.25:
            yield f"optim.lr_scale.cat_{table}={random.choice([0.5, 2.0])}"
    yield f"train.global_batch_size={random.integers(2, 18)}"
    yield f"train.pipeline={random.choice(['sparse_dist', 'base'])}"


def _sharding_options(random: np.random.Generator, tables: int) -> Iterator[str]:
    yield f"sharding.min_column_width={random.choice([4, 8])}"
    kinds, shares = list(SHARDING_TYPES), list(SHARDING_TYPES.values())
    yield f"sharding.types={random.choice(kinds, p=shares)}"
    mixed = random.random()  # from all tables alike to all of a type of their own
    for table in range(tables):
        if random.random() < mixed:
            allowed = random.choice(kinds, size=random.choice([1, 2], p=[0.8, 0.2]), replace=False, p=shares)
            yield f"sharding.tables.cat_{table}.types=[{','.join(allowed)}]"


def _random_bags(random: np.random.Generator, schema: Schema) -> BagSource:
    samples = int(random.integers(30, 120))
    ids, lengths = [], []
    for feature in schema.sparse:
        length_M = random.integers(0, feature.hotness + 1, samples)
        ids_ML = random.integers(0, feature.rows, (samples, feature.hotness))
        ids_ML[np.arange(feature.hotness) >= length_M[:, None]] = 0
        ids.append(ids_ML)
        lengths.append(length_M)
    return BagSource(
        schema,
        dense_MN=torch.from_numpy(random.standard_normal((samples, _DENSE)).astype(np.float32)),
        ids_MS=torch.from_numpy(np.concatenate(ids, axis=1)),
        lengths_MF=torch.from_numpy(np.stack(lengths, axis=1).astype(np.int32)),
        labels_MT=torch.from_numpy((random.random((samples, 1)) < 0.4).astype(np.float32)),
    )


def weighted(model: RandomModel) -> RandomModel:
    """The model with weights of samples, and of the ids of all features but the first, some of each 0."""
    random = np.random.default_rng([model.seed, 1])
    source = model.source
    first, *others = source.schema.sparse
    features = [replace(feature, weights=f"{feature.name}_weights") for feature in others]
    weights_M, id_weights_MS = (
        torch.from_numpy(random.uniform(0, 2, shape) * (random.random(shape) > 0.1)).float()
        for shape in (source.num_samples, tuple(source.ids_MS.shape))
    )
    id_weights_MS[:, : first.hotness] = 1
    return replace(
        model,
        source=BagSource(
            replace(source.schema, sparse=(first, *features), sample_weight="weight"),
            source.dense_MN,
            source.ids_MS,
            source.lengths_MF,
            source.labels_MT,
            weights_M,
            id_weights_MS if features else None,
        ),
    )


@dataclass(frozen=True)
class RankResult:
    """What a rank knows after training a model.

    Attributes:
        losses: of the global batches.
        sharding: type of each table.
        blocks: (name, shape of the whole, offsets, values) of every part of a table and its optimizer's state that
            saving takes from this rank; what all ranks hold alike comes from rank 0.
    """

    losses: list[float]
    sharding: tuple[str, ...]
    blocks: list[tuple[str, tuple[int, ...], tuple[int, ...], Any]]


def ranks_of(seed: int) -> tuple[int, int]:
    """On how many ranks the model of a seed is trained, and how many of them share a host."""
    model = random_model(seed)
    return model.ranks, model.ranks_per_host


def train_models(
    rank: int, world_size: int, ranks_per_host: int, seeds: Sequence[int], whole: bool, progress: Path | None = None
) -> list[RankResult]:
    """Train the models of the seeds one after the other, for :func:`tests.support.ranks.run_ranks`.

    Args:
        rank: from run_ranks.
        world_size: from run_ranks.
        ranks_per_host: the same for all seeds.
        seeds: of the models.
        whole: see :func:`random_model`.
        progress: file in which rank 0 leaves the seed that is being trained.
    """
    os.environ.update(LOCAL_WORLD_SIZE=str(ranks_per_host), LOCAL_RANK=str(rank % ranks_per_host))
    results = []
    for seed in seeds:
        if progress is not None and rank == 0:
            progress.write_text(str(seed))
        results.append(train_model(rank, world_size, random_model(seed, whole=whole)))
    return results


def train_model(rank: int, world_size: int, model: RandomModel) -> RankResult:
    """Train a model, for :func:`tests.support.ranks.run_ranks`."""
    world = this_world()
    engine = build_engine(model.config, model.source.schema, world)
    parts = model.config.train.accumulation_steps
    loader = BatchLoader(model.source, model.order, rank=rank, world_size=world_size, accumulation_steps=parts)
    losses: list[float] = []
    batches = (batch for epoch, k in model.batches for batch in loader.batches(epoch, k, k + 1))
    for output in engine.stepper.train(batches, first_step=1):
        loss = output.loss.double() / world_size
        world.collectives.all_reduce_sum_(loss)
        losses.append(loss.item())
    blocks = [
        (tensor.name, tensor.shape, block.offsets, block.tensor.numpy().copy())
        for tensor in engine_tensors(engine)
        if tensor.name.startswith("tables.") and (rank == 0 or not tensor.replicated)
        for block in tensor.shards
        if block.primary
    ]
    return RankResult(losses, tuple(placement.sharding for placement in engine.placements), blocks)


def assembled(results: list[RankResult]) -> dict[str, np.ndarray]:
    """The whole tables and their optimizer's state by name, put together from what the ranks hold.

    Raises:
        AssertionError: an element is held by no rank, or by several.
    """
    tensors: dict[str, np.ndarray] = {}
    times_held: dict[str, np.ndarray] = {}
    for result in results:
        for name, shape, offsets, values in result.blocks:
            part = tuple(slice(at, at + size) for at, size in zip(offsets, values.shape, strict=True))
            tensors.setdefault(name, np.zeros(shape))[part] = values
            times_held.setdefault(name, np.zeros(shape))[part] += 1
    for name, times in times_held.items():
        assert (times == 1).all(), f"{name} is not held exactly once"
    return tensors
