"""From a configuration and its sharding plan to the work of a step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from dlrm.config import Config
from dlrm.data.id_statistics.base import IdStatistics
from dlrm.data.id_statistics.sample import measure, statistics_of
from dlrm.data.source import Dataset
from dlrm.distributed.world import World
from dlrm.lookups.plan import with_table_rows
from dlrm.lookups.shared import growing_tables
from dlrm.models.base import Model
from dlrm.models.task import TrainTask
from dlrm.scaling.cost.updates import dense_update, replicated_update
from dlrm.scaling.cost.workload import Formats, Tables, Transfer, Workload, all_reduced
from dlrm.scaling.operations import Operation, operations
from dlrm.scaling.stage_names import ALL_REDUCE, AVERAGING, OUTPUT_DIST, backward_of
from dlrm.schema import Schema
from dlrm.sharding.spread_ids import spread_of_rows
from dlrm.sharding.wrap import data_parallel_tables
from dlrm.table_names import module_name
from dlrm.train.engine import PlannedModel
from dlrm.train.precision import DTYPES

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_FLOAT, _MIB = 4, 1 << 20
_SAMPLES = 1 << 14  # looked at to see how ids are spread
_BUCKET_MIB = 25  # torch.nn.parallel.DistributedDataParallel's bucket_cap_mb


def measured_ids(dataset: Dataset) -> dict[str, IdStatistics]:
    """How ids are spread, of the first split, by table; found by a look at some of its samples."""
    return statistics_of(dataset.schema, measure(dataset.train, _SAMPLES))


def workload_of(
    config: Config, schema: Schema, planned: PlannedModel, world: World, ids: Mapping[str, IdStatistics] | None = None
) -> Workload:
    """What the ranks do in a step of training, or of one micro-batch of it.

    Args:
        config: of the training.
        schema: of the data.
        planned: the model with its plan.
        world: the ranks, which need not be there.
        ids: how ids are spread, by feature; uniform over as many as the schema says if left out, and in growing tables.
            What the ids of these take on their way to rows is not among it.
    """
    samples = config.train.micro_batch_size / world.size
    groups, per_host = planned.groups, world.rank_info.local_world_size
    schema = with_table_rows(config.model, schema)
    known = dict(ids or statistics_of(schema))
    # Hashes spread the ids of a growing table over its rows; how often each is asked for is not known.
    known.update(
        (name, one) for name, one in statistics_of(schema).items() if name in growing_tables(config.model, schema)
    )
    spread = spread_of_rows(planned.lookups, known)
    schema = planned.schema
    formats = Formats(
        ids=schema.bytes_per_id(),
        forward=_BYTES[config.precision.exchange.forward],
        backward=_BYTES[config.precision.exchange.backward],
        all_reduce=_BYTES[config.precision.all_reduce],
    )
    tables = Tables(
        planned.plan,
        planned.sizes,
        spread,
        state_bytes=lambda columns: planned.tables.block_bytes(1, columns) - columns * planned.tables.weight_bytes,
        samples=samples,
        ranks=groups.size,
        ranks_per_host=groups.per_host(per_host),
        formats=formats,
    )
    of_group = tables.lookups()
    shapes = dense_shapes(planned.task)
    weights = sum(math.prod(shape) for shape in shapes)
    names = data_parallel_tables(planned.plan)
    replicated = [size for table, size in planned.sizes.items() if module_name(table) in names]
    replicated_numbers = sum(rows * columns for rows, columns in replicated)
    per_sample = sum(of_table.ids_per_sample for of_table in spread.values())
    bucket_bytes = (config.train.all_reduce_bucket_mib or _BUCKET_MIB) * _MIB
    return Workload(
        ranks=world.size,
        ranks_per_host=per_host,
        samples=samples,
        operations=tuple(dense_operations(config, schema, planned.task, max(1, round(samples)), world.device)),
        lookups=tuple(of_group[groups.position_of(rank)] for rank in range(world.size)),
        transfers=(
            *tables.transfers(),
            *all_reduced(backward_of(OUTPUT_DIST), replicated_numbers * _FLOAT, world.size, per_host),
            *all_reduced(
                ALL_REDUCE, weights * formats.all_reduce, world.size, per_host, -(-weights * _FLOAT // bucket_bytes)
            ),
            *_averaging(config, planned, per_host),
        ),
        updates=tuple(dense_update(config.optim.dense, shapes)),
        replicated=tuple(replicated_update(planned.tables, replicated)),
        replicated_numbers=replicated_numbers,
        batch_bytes=samples * batch_bytes(schema, per_sample),
        batch_ids=samples * per_sample,
        cut_bags=tables.cut()[0],
        cut_ids=tables.cut()[1],
        tables=len(planned.sizes),
        prefetches_ids=config.train.pipeline == "sparse_dist",
        micro_batches=config.train.accumulation_steps,
    )


def _averaging(config: Config, planned: PlannedModel, per_host: int) -> Iterator[Transfer]:
    """Of copies of the tables, weights and optimizer state, a step's share of it."""
    groups = planned.groups
    if groups.copies > 1:
        parts = pieces_by_rank(planned)
        size = max(
            sum(planned.tables.block_bytes(*part) for part in parts[position]) for position in range(groups.size)
        )
        peers = Counter(rank // per_host for rank in groups.peers_at(0)).most_common(1)[0][1]
        every = config.sharding.sync_steps
        for transfer in all_reduced(AVERAGING, size / every, groups.copies, peers):
            yield replace(transfer, calls=1 / every)


def pieces_by_rank(planned: PlannedModel) -> list[list[tuple[int, int]]]:
    """(rows, columns) of the parts of sharded tables that each rank of a group holds."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(planned.groups.size)]
    for module_plan in planned.plan.plan.values():
        for parameter in module_plan.values():
            for shard in parameter.sharding_spec.shards if parameter.sharding_spec else ():
                found[shard.placement.rank()].append(tuple(shard.shard_sizes))
    return found


def dense_shapes(task: TrainTask) -> list[torch.Size]:
    """Of the parameters outside of tables."""
    of_tables = {id(weight) for weight in task.model.table_weights.values()}
    return [parameter.shape for parameter in task.parameters() if id(parameter) not in of_tables]


def batch_bytes(schema: Schema, ids: float) -> float:
    """Of a sample with so many ids: its features, labels and their weights."""
    return _FLOAT * (len(schema.dense) + 2 * len(schema.tasks)) + ids * schema.bytes_per_id()


def dense_operations(
    config: Config, schema: Schema, task: TrainTask, samples: int, device: torch.device
) -> Sequence[Operation]:
    """Of the dense part of a rank with so many samples, in the types that the device computes in; it need not be there."""
    found = operations(task, schema, samples, torch.device("cpu"))
    if device.type == "cpu":
        return found
    # Autocast of a device that is not there changes no types, and TF32 is a way to compute, not a type.
    low = DTYPES[config.precision.dense]
    model = next(module for module in task.modules() if isinstance(module, Model))
    return [operation.lowered(low) if operation.part in model.lower_precision else operation for operation in found]
