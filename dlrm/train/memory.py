"""How much memory a rank will take, part by part, before it does.

What a part takes follows from shapes: of the tables by the plan, of the rest of the model by running it without memory
(:mod:`dlrm.models.activations`). What the process takes by itself, with its libraries and what reads the data, is measured
before the model is built, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from dlrm.config import Config
from dlrm.config.model import ModelConfig
from dlrm.config.model.growing import GrowingEmbedding
from dlrm.config.optim import Adagrad, Adam, AdamW, DenseOptimizer, Sgd
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.source import Dataset
from dlrm.distributed.world import World
from dlrm.errors import DlrmError
from dlrm.lookups.plan import Lookups
from dlrm.lookups.shared import growing_tables
from dlrm.memory import (
    ACTIVATIONS,
    AVERAGE,
    BATCHES,
    CACHES,
    COPIES,
    DENSE,
    DENSE_GRADIENTS,
    DENSE_STATE,
    EXCHANGE,
    HEAP,
    ID_MAPS,
    SCORES,
    TABLE_GRADIENTS,
    TABLE_STATE,
    TABLES,
    WORKSPACE,
    Bytes,
    MemoryAccount,
)
from dlrm.metrics.binary import BUFFER_SAMPLES
from dlrm.metrics.memory import resident_bytes
from dlrm.models.activations import Activations, activations
from dlrm.models.tables import padded_width
from dlrm.models.task import TrainTask
from dlrm.optim.tables.base import TableOptimizer
from dlrm.schema import Schema
from dlrm.sharding import memory as of_tables
from dlrm.sharding.groups import Groups
from dlrm.sharding.growing.id_map import map_bytes
from dlrm.sharding.memory import Piece
from dlrm.sharding.planner import Reserve

_FLOAT = 4
_BATCHES_IN_PIPELINE = {"sparse_dist": 3, "base": 1}  # one in training, those ahead of it
# How many times what small tensors take at once the C library's heap grows to for them: measured (docs/measurements.md).
# A tensor that is freed leaves a hole, which a smaller one splits, so that the next as large as the first finds no room.
_HEAP_FOR_SMALL = 2
_WORKSPACE = 64 << 20  # torch's for cuBLAS and cuBLASLt on Hopper, 32 MiB each; less on others
_MEASURED_SAMPLES = 4096  # of a rank, in a batch that is read to see what reading takes besides
_BYTES_PER_SCORE = 12 + 64  # a buffered logit, label and weight; what counting them takes, see dlrm/metrics


@dataclass(frozen=True)
class Shapes:
    """What the memory of a rank follows from, besides the configuration and the plan.

    Attributes:
        schema: of what is looked up.
        model: its class.
        tables: (rows, columns) of each table; columns: X, of the vectors that a sample gets of them, one a feature, or as
            many as it has ids where they are not summed.
        dense_weights: number of weights outside of tables.
        samples: B, of a rank's part of a training batch or micro-batch, 0 if nothing is trained.
        evaluation_samples: of an evaluation batch, 0 without one.
        footprint: of activations in a training step.
        scored: samples that this rank scores in its largest evaluation.
        growing: options of the tables that grow.
    """

    schema: Schema
    model: str
    tables: tuple[tuple[int, int], ...]
    columns: int
    dense_weights: int
    samples: int
    evaluation_samples: int
    footprint: Activations
    scored: int = 0
    growing: tuple[GrowingEmbedding, ...] = ()

    @classmethod
    def of(
        cls,
        task: TrainTask,
        config: Config,
        schema: Schema,
        world: World,
        scored: int,
        *,
        exchanged: bool | None = None,
        trains: bool = True,
    ) -> Shapes:
        """Run ``task``, which is not sharded yet, without memory.

        Args:
            task: the model with its loss.
            config: of the run.
            schema: of what is looked up.
            world: the ranks.
            scored: samples of the largest split that is evaluated, of all ranks.
            exchanged: whether ranks exchange embeddings with others; if left out, where there are others.
            trains: whether there are steps of training, or evaluations alone.
        """
        samples = -(-config.train.micro_batch_size // world.size) if trains else 0
        scored_at_once = config.evaluation.global_batch_size or config.train.micro_batch_size
        evaluation_samples = -(-scored_at_once // world.size) if scored else 0
        lookups, weights_of = task.model.lookups, task.model.table_weights
        tables = tuple((rows, columns) for rows, columns in (weight.shape for weight in weights_of.values()))
        columns = sum(
            padded_width(lookups.widths[feature.table])
            * (feature.hotness if feature.table in lookups.unpooled_tables else 1)
            for feature in lookups.schema.sparse
        )
        weights = sum(parameter.numel() for parameter in task.parameters())
        return cls(
            schema=schema,
            model=type(task.model).__name__,
            tables=tables,
            columns=columns,
            dense_weights=weights - sum(rows * columns for rows, columns in tables),
            samples=samples,
            evaluation_samples=evaluation_samples,
            footprint=activations(
                task,
                schema,
                samples,
                _kind_there(world.device),
                evaluation_samples=evaluation_samples,
                exchanged=world.size > 1 if exchanged is None else exchanged,
            ),
            scored=-(-scored // world.size),
            growing=tuple(growing_tables(config.model, lookups.features).values()),
        )


def _kind_there(device: torch.device) -> torch.device:
    """The device, if there is one of its kind; torch differentiates on no other, not even without memory."""
    return device if device.type == "cpu" or torch.cuda.is_available() else torch.device("cpu")


def account(
    config: Config,
    shapes: Shapes,
    pieces: Sequence[Piece],
    optimizer: TableOptimizer,
    world: World,
    groups: Groups | None = None,
) -> MemoryAccount:
    """The memory of a rank that holds ``pieces`` of the tables, its process aside.

    Copies of tables are averaged where they are (NCCL's coalesced all-reduce needs no buffer of torch's).
    """
    on_cpu = world.device.type == "cpu"
    exchanging = groups.size if groups else world.size
    parts = {
        **_of_tables(pieces, optimizer, on_cpu=on_cpu),
        **_of_dense_part(config, shapes, on_cpu=on_cpu),
        AVERAGE: _placed(_averages(config, pieces, shapes), on_cpu=on_cpu),
        **_of_step(config, shapes, pieces, ranks=exchanging, on_cpu=on_cpu),
        SCORES: _placed(
            min(shapes.scored, BUFFER_SAMPLES) * _BYTES_PER_SCORE * len(shapes.schema.tasks), on_cpu=on_cpu
        ),
        ID_MAPS: Bytes(host=_id_maps(shapes, world.size)),
        COPIES: Bytes(host=copied_bytes(config, shapes, pieces, optimizer, world.size)),
    }
    return MemoryAccount({name: part for name, part in parts.items() if part != Bytes()}, _missing(shapes))


def _missing(shapes: Shapes) -> str:
    if not shapes.footprint.unknown:
        return ""
    return (
        f"the activations of {shapes.model} are not in the memory account: it does not run on tensors without values "
        f"({shapes.footprint.unknown}); the planner leaves them sharding.reserve_fraction of the memory"
    )


def reserve(
    config: Config, shapes: Shapes, optimizer: TableOptimizer, world: World, groups: Groups | None = None
) -> Reserve:
    """What the planner must leave to all that is no table: as if the tables were spread evenly."""
    on_cpu = world.device.type == "cpu"
    rest = account(config, shapes, (), optimizer, world, groups).total
    sharing = groups.size if groups else world.size
    averages = copies = 0
    if config.train.average_decay > 0:
        averages = sum(rows * columns for rows, columns in shapes.tables) * _FLOAT // sharing
    if config.checkpoint.enabled:
        copies = sum(optimizer.block_bytes(*size) for size in shapes.tables) // sharing + averages
    # While weights and averages of a table change places there is a third copy, of no more than the rank has of all tables.
    largest = min(averages, max(rows * columns for rows, columns in shapes.tables) * _FLOAT)
    rest += _placed(averages + largest, on_cpu=on_cpu)
    return Reserve(device=0 if on_cpu else rest.device, host=rest.host + copies, copies=copies)


def copied_bytes(config: Config, shapes: Shapes, pieces: Sequence[Piece], optimizer: TableOptimizer, ranks: int) -> int:
    """Of the copy of the state that a rank keeps for saving (:mod:`dlrm.checkpoint.snapshot`)."""
    if not config.checkpoint.enabled:
        return 0
    averages = config.train.average_decay > 0
    dense = shapes.dense_weights * _FLOAT * (1 + dense_state(config.optim.dense) + averages) // ranks
    tables = sum(of_tables.saved_bytes(piece, optimizer, ranks) for piece in pieces)
    saved = (piece for piece in pieces if piece.saved)
    weights = sum(piece.rows * piece.columns * _FLOAT // (ranks if piece.replicated else 1) for piece in saved)
    return dense + tables + (weights if averages else 0) + _id_maps(shapes, ranks)


def model_bytes(config: ModelConfig, lookups: Lookups, optimizer: TableOptimizer, dense_weights: int) -> int:
    """Of a model's weights, padding aside, and of what growing tables know of ids; of all ranks, each counted once.

    Args:
        config: of the model.
        lookups: of the model.
        optimizer: of its tables.
        dense_weights: number of weights outside of tables.
    """
    table_weights = sum(table.rows * table.dim for table in lookups.tables)
    maps = sum(map_bytes(one, 1) for one in growing_tables(config, lookups.features).values())
    return dense_weights * _FLOAT + table_weights * optimizer.weight_bytes + maps


def _id_maps(shapes: Shapes, ranks: int) -> int:
    """Of what growing tables know of ids."""
    return sum(map_bytes(one, ranks) for one in shapes.growing)


def _of_tables(pieces: Sequence[Piece], optimizer: TableOptimizer, *, on_cpu: bool) -> dict[str, Bytes]:
    return {
        TABLES: sum((of_tables.weight_bytes(piece, optimizer, on_cpu=on_cpu) for piece in pieces), Bytes()),
        TABLE_STATE: sum((of_tables.state_bytes(piece, optimizer, on_cpu=on_cpu) for piece in pieces), Bytes()),
        CACHES: Bytes(device=0 if on_cpu else sum(of_tables.cache_bytes(piece, optimizer) for piece in pieces)),
        TABLE_GRADIENTS: _placed(sum(of_tables.gradient_bytes(piece, optimizer) for piece in pieces), on_cpu=on_cpu),
    }


def _of_dense_part(config: Config, shapes: Shapes, *, on_cpu: bool) -> dict[str, Bytes]:
    optimizer = config.optim.dense
    size = shapes.dense_weights * _FLOAT
    # torch's optimizers make temporaries of a parameter at a time on CPU, of a group's on CUDA (foreach).
    temporary = 0 if on_cpu or isinstance(optimizer, Sgd) else size
    # The sums of a step's micro-batches are put into DistributedDataParallel's buckets in the last one.
    gradients = size * (1 + (config.train.accumulation_steps > 1))
    return {
        DENSE: _placed(size, on_cpu=on_cpu),
        DENSE_GRADIENTS: _placed(gradients, on_cpu=on_cpu),
        DENSE_STATE: _placed(size * dense_state(optimizer) + temporary, on_cpu=on_cpu),
    }


def dense_state(config: DenseOptimizer) -> int:
    """Numbers that the optimizer of dense parameters keeps of each."""
    if isinstance(config, Adam | AdamW):
        return 2
    return int(isinstance(config, Adagrad) or config.momentum > 0)


def _averages(config: Config, pieces: Sequence[Piece], shapes: Shapes) -> int:
    """A copy of each weight, and of the largest one more while the two change places."""
    if not config.train.average_decay:
        return 0
    weights = [shapes.dense_weights, *(piece.rows * piece.columns for piece in pieces)]
    return (sum(weights) + max(weights)) * _FLOAT


def _of_step(config: Config, shapes: Shapes, pieces: Sequence[Piece], *, ranks: int, on_cpu: bool) -> dict[str, Bytes]:
    samples = max(shapes.samples, shapes.evaluation_samples)
    exchanged = of_tables.exchange_bytes(
        list(pieces), shapes.schema, columns=shapes.columns, samples=samples, ranks=ranks
    )
    batch = batch_bytes(shapes.schema, samples)
    ahead = config.train.prefetch_batches + config.train.read_threads
    in_pipeline = _BATCHES_IN_PIPELINE[config.train.pipeline]
    batches = Bytes(host=(ahead + in_pipeline) * batch)
    if not on_cpu:
        batches = Bytes(host=(ahead + 1) * batch, device=in_pipeline * batch)
    found = shapes.footprint
    activated = max(found.peak, found.evaluated)
    # The heap is as large as ever while large tensors are at their peak.
    in_heap = found.large + _HEAP_FOR_SMALL * found.small
    return {
        ACTIVATIONS: _placed(activated, on_cpu=on_cpu),
        EXCHANGE: _placed(exchanged, on_cpu=on_cpu),
        HEAP: Bytes(host=in_heap - activated if on_cpu else 0),
        WORKSPACE: Bytes(device=0 if on_cpu else _WORKSPACE),
        BATCHES: batches,
    }


def batch_bytes(schema: Schema, samples: int) -> int:
    """Of a batch: dense features, ids and the weights of ids, their counts, labels and weights."""
    return samples * (
        len(schema.dense) * _FLOAT
        + schema.ids_per_sample * schema.bytes_per_id()
        + len(schema.sparse) * 4
        + 2 * len(schema.tasks) * _FLOAT
    )


def _placed(size: int, *, on_cpu: bool) -> Bytes:
    return Bytes(host=size) if on_cpu else Bytes(device=size)


def process_bytes(config: Config, dataset: Dataset, world: World) -> int:
    """What this process takes before there is a model, measured after it has done in small what training does in large.

    It reads a batch in each of the loader's threads, and multiplies a matrix. What is wrong with the data is met again, and
    told, where it is trained. The batches are training's, of at most 4096 samples a rank, since what they take themselves
    is counted apart; they cost every start the reading of ``train.read_threads`` such batches.
    """
    size = min(config.train.micro_batch_size, _MEASURED_SAMPLES * world.size)
    order = SampleOrder(dataset.train.num_samples, global_batch_size=size)
    threads = config.train.read_threads
    loader = BatchLoader(
        dataset.train, order, rank=world.rank, world_size=world.size, prefetch_batches=threads, read_threads=threads
    )
    with suppress(DlrmError):
        for _ in loader.batches(0, 0, min(order.num_batches, threads)):
            pass
    torch.nn.Linear(8, 8)(torch.ones(8, 8)).sum().backward()
    return resident_bytes()


def scored_samples(config: Config, dataset: Dataset) -> int:
    """Samples of the largest split that is evaluated."""
    scored = [dataset.validation.num_samples, dataset.test.num_samples if config.evaluation.test else 0]
    return max(*scored, *(day.samples for day in dataset.train.days if config.train.by_day))


def of_most(accounts: Sequence[MemoryAccount]) -> MemoryAccount:
    """The account of the rank that takes most: of its device, then of its host."""
    return max(accounts, key=lambda account: (account.total.device, account.total.host))
