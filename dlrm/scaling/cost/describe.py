"""From a configuration and its sharding plan to the work of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dlrm.config import Config
from dlrm.distributed.world import World
from dlrm.models.base import Model
from dlrm.optim.tables.base import BYTES_PER_NUMBER
from dlrm.scaling.cost.workload import Formats, Ids, Tables, Workload, dense_transfer
from dlrm.scaling.operations import Operation, operations
from dlrm.schema import Schema
from dlrm.sharding.wrap import data_parallel_tables
from dlrm.table_names import module_name
from dlrm.train.engine import PlannedModel
from dlrm.train.memory import dense_state
from dlrm.train.precision import DTYPES

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_MIB = 1 << 20
_BUCKET_MIB = 25  # torch.nn.parallel.DistributedDataParallel's bucket_cap_mb


def uniform_ids(rows: int, per_sample: float) -> Ids:
    """Ids that are drawn from all rows alike: n (1 - (1 - 1/n)^m) distinct ones among m."""
    return Ids(
        per_sample,
        lambda lookups: rows * -_expm1(lookups, rows),
        lambda ranges: _even_ranges(rows, ranges),
    )


def _expm1(lookups: float, rows: int) -> float:
    from math import expm1, log1p

    return expm1(lookups * log1p(-1 / rows)) if rows > 1 else -float(lookups > 0)


def _even_ranges(rows: int, ranges: int) -> list[float]:
    """The shares of ranges of ceil(rows / ranges) rows."""
    size = -(-rows // ranges)
    return [max(0, min(size, rows - size * first)) / rows for first in range(ranges)]


def workload_of(
    config: Config, schema: Schema, planned: PlannedModel, world: World, ids: Mapping[str, Ids] | None = None
) -> Workload:
    """What the ranks do in a step of training, or of one micro-batch of it.

    Args:
        config: of the training.
        schema: of the data.
        planned: the model with its plan.
        world: the ranks, which need not be there.
        ids: how ids are spread, by table; uniform over as many as the schema says for those left out.
    """
    samples = config.train.micro_batch_size / world.size
    spread = {
        feature.name: (ids or {}).get(feature.name) or uniform_ids(feature.rows, float(feature.hotness))
        for feature in schema.sparse
    }
    formats = Formats(
        ids=schema.id_bytes,
        forward=_BYTES[config.precision.exchange.forward],
        backward=_BYTES[config.precision.exchange.backward],
        all_reduce=_BYTES[config.precision.all_reduce],
    )
    tables = Tables(
        planned.plan,
        planned.sizes,
        spread,
        state_bytes=lambda columns: planned.tables.block_bytes(1, columns) - columns * BYTES_PER_NUMBER,
        samples=samples,
        ranks=world.size,
        ranks_per_host=world.rank_info.local_world_size,
        formats=formats,
    )
    weights = sum(parameter.numel() for parameter in planned.task.parameters())
    weights -= sum(rows * columns for rows, columns in planned.sizes.values())
    replicated = data_parallel_tables(planned.plan)
    per_sample = sum(of_table.per_sample for of_table in spread.values())
    bucket_bytes = (config.train.all_reduce_bucket_mib or _BUCKET_MIB) * _MIB
    return Workload(
        ranks=world.size,
        ranks_per_host=world.rank_info.local_world_size,
        samples=samples,
        operations=tuple(_operations(config, schema, planned, max(1, round(samples)), world)),
        lookups=tables.lookups(),
        transfers=(*tables.transfers(), *dense_transfer(weights, world.size, formats, bucket_bytes=bucket_bytes)),
        dense_weights=weights,
        dense_state=dense_state(config.optim.dense),
        batch_bytes=samples * (4 * (len(schema.dense) + 2) + per_sample * schema.id_bytes),
        batch_ids=samples * per_sample,
        tables=len(planned.sizes),
        prefetches_ids=config.train.pipeline == "sparse_dist",
        replicated_numbers=sum(
            rows * columns for table, (rows, columns) in planned.sizes.items() if module_name(table) in replicated
        ),
    )


def _operations(
    config: Config, schema: Schema, planned: PlannedModel, samples: int, world: World
) -> Sequence[Operation]:
    found = operations(planned.task, schema, samples, torch.device("cpu"))
    if world.device.type == "cpu":
        return found
    # Autocast of a device that is not there changes no types, and TF32 is a way to compute, not a type.
    low = DTYPES[config.precision.dense]
    model = next(module for module in planned.task.modules() if isinstance(module, Model))
    return [operation.lowered(low) if operation.part in model.lower_precision else operation for operation in found]
