"""A checkpoint's model, ready to be asked: its weights, and nothing of what trained them."""

from __future__ import annotations

from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.stored import Checkpoint
from dlrm.checkpoint.tensors import model_shapes, weight_name
from dlrm.config import Config
from dlrm.config.optim import OptimConfig, Sgd, SparseSgd
from dlrm.config.sharding import ShardingConfig
from dlrm.distributed.world import World
from dlrm.errors import DataError
from dlrm.format import escaped
from dlrm.lookups.plan import Lookups, lookups_of, with_table_rows
from dlrm.models.build import build_model
from dlrm.optim.tables.build import table_optimizer
from dlrm.schema import Schema
from dlrm.table_names import state_name

_MOST_DIFFERENCES = 3
_HINT = "give data with the columns that were trained on (--data.path, --data.kind, ...)"


def untrained(config: Config) -> Config:
    """The configuration of the same model and plan without what only training needs memory for.

    Optimizers are such as keep no state, and there are neither averages nor copies for checkpoints.
    """
    return config.model_copy(
        update={
            "optim": OptimConfig(dense=Sgd(lr=1.0), sparse=SparseSgd(lr=1.0)),
            "sharding": _planned_alike(config),
            "train": config.train.model_copy(update={"average_decay": 0.0}),
            "checkpoint": config.checkpoint.model_copy(update={"enabled": False}),
        }
    )


def _planned_alike(config: Config) -> ShardingConfig:
    """Without a sharding type that the optimizer which trained the model does not have."""
    types = tuple(kind for kind in config.sharding.types if kind != "data_parallel")
    if table_optimizer(config.optim.sparse).data_parallel or not types:
        return config.sharding
    return config.sharding.model_copy(update={"types": types})


def with_possible_copies(config: Config, world: World) -> tuple[Config, str]:
    """The configuration with as many copies of the tables as these ranks can hold, and a line if that is another number.

    Several copies are equal while nothing is trained, so one gives the same figures.
    """
    size = config.sharding.group_size
    if size is None or (world.size % size == 0 and (world.device.type == "cuda" or size == world.size)):
        return config, ""
    one = config.sharding.model_copy(update={"group_size": None})
    ranks = f"{world.size} rank(s) on {world.device.type}"
    line = f"sharding.group_size is {size}, which {ranks} cannot have: they share one copy of the tables"
    return config.model_copy(update={"sharding": one}), line


def require_fit(checkpoint: Checkpoint, config: Config, schema: Schema, *, data: str) -> None:
    """See that the columns of data are those that a checkpoint's model takes, before there are any tables.

    Args:
        checkpoint: an open one.
        config: its model.
        schema: of the data.
        data: how messages call them.

    Raises:
        DataError: they are not; what differs first.
        ConfigError: no such model can be built on these columns.
    """
    schema = with_table_rows(config.model, schema)
    differences = _of_tables(checkpoint, lookups_of(config.model, schema)) or _of_weights(checkpoint, config, schema)
    if differences:
        more = len(differences) - _MOST_DIFFERENCES
        told = "; ".join(differences[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise DataError(data, f"does not fit {escaped(checkpoint.path, 300)}: {told}", hint=_HINT)


def _of_tables(checkpoint: Checkpoint, lookups: Lookups) -> list[str]:
    stored = open_reader(checkpoint).tensors
    here = {weight_name(state_name(table.name)): table for table in lookups.tables}
    found = []
    for name, table in here.items():
        if name not in stored:
            found.append(f"the data have column {escaped(table.name)}, the checkpoint has no table of that name")
        elif (rows := stored[name].shape[0]) != table.rows:
            found.append(f"table {escaped(table.name)} has {rows:,} rows in the checkpoint, {table.rows:,} by the data")
    there = [name for name in stored if name.startswith("tables.") and name.endswith(".weight")]
    found += [
        f"the checkpoint has table {_named(name)}, the data have no such column" for name in there if name not in here
    ]
    return found or _of_order(checkpoint, lookups)


def _named(weight: str) -> str:
    return escaped(weight.removeprefix("tables.").removesuffix(".weight"))


def _of_order(checkpoint: Checkpoint, lookups: Lookups) -> list[str]:
    """Tables in another order: interactions and MLPs take their columns by place."""
    plan = checkpoint.metadata.get("plan")
    placed = [table.get("table") for table in plan if isinstance(table, dict)] if isinstance(plan, list) else []
    names = [table.name for table in lookups.tables]
    if sorted(map(str, placed)) != sorted(names):  # nothing is known of it
        return []
    pairs = zip(placed, names, strict=True)
    return [
        f"table {place} was {escaped(before)} in training, {escaped(now)} in the data"
        for place, (before, now) in enumerate(pairs)
        if before != now
    ]


def _of_weights(checkpoint: Checkpoint, config: Config, schema: Schema) -> list[str]:
    """What else follows from the columns: the number of dense ones, of tasks."""
    stored = open_reader(checkpoint).tensors
    columns = f"with the data's {len(schema.dense)} dense column(s) and {len(schema.tasks)} task(s)"
    found = []
    for name, shape in model_shapes(build_model(config.model, schema, seed=0)).items():
        if name not in stored:
            found.append(f"{columns} there is {escaped(name)}, which is not in the checkpoint")
        elif stored[name].shape != shape:
            sizes = " x ".join(map(str, stored[name].shape)), " x ".join(map(str, shape))
            found.append(f"{escaped(name)} is {sizes[0]} in the checkpoint, {sizes[1]} {columns}")
    return found
