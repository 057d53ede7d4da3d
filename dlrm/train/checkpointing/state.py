"""The state of training as global tensors: what a checkpoint holds of an engine.

Names, shapes and meaning are the same whatever the plan, the number of ranks and the kernels:

========================================  ==================  ==========================================================
name                                      shape               what it is
========================================  ==================  ==========================================================
``tables.<table>.weight``                 (rows, dim)         weights of a table
``tables.<table>.optimizer.<state>``      (rows, dim) or      Adagrad's ``sum``, row-wise Adagrad's (rows,); Adam's
                                          (rows,)             ``exp_avg`` and ``exp_avg_sq``; SGD has none
``<module path>``                         the parameter's     everything else: the model's other weights, and the
                                                              step counters of dropout
``<module path>.optimizer.<state>``       the parameter's     its optimizer's state by torch's names: ``sum``, ``exp_avg``,
                                          or ()               ``exp_avg_sq``, ``momentum_buffer``, ``step``
``average.<name of a weight>``            the weight's        its exponential average, where there is one
``average.steps``                         ()                  steps that went into it
``growing.<table>.ids``                   (buckets, slots)    the id of each row of a growing table, -1 for none
``growing.<table>.counts``, ``.seen``     (buckets, slots)    how often it was seen, and the step it was last seen in
``growing.<table>.candidates.<...>``      (buckets, slots)    the same of ids that are counted and have no row
========================================  ==================  ==========================================================

``dim`` is without padding (:mod:`dlrm.models.tables`). ``<table>`` is the name of its column (or see
:mod:`dlrm.lookups`), or what :func:`dlrm.table_names.state_name` makes of one that cannot be printed.

What else a step depends on follows from its number: learning rates, the step that fbgemm's Adam counts
(:meth:`dlrm.optim.training.TrainingOptimizer.set_step`) and which samples it trains.

A table that is cut into columns has a copy of row-wise Adagrad's vector in each column shard, equal to the bit
(:mod:`dlrm.sharding.column_shards`). The shards that begin at column 0 save it; all of them load it.
Where there are several copies of the tables (:mod:`dlrm.sharding.copies`) the first one saves, once they agree, and all
load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from dlrm.checkpoint.tensors import GlobalTensor, Shard, weight_name
from dlrm.distributed.internals import ShardedTensor
from dlrm.models.task import MODEL_PREFIX
from dlrm.optim.averaging import ExponentialAverage
from dlrm.sharding.wrap import forget_cached_rows, fused_shards
from dlrm.table_names import is_table_weight, state_name, table_name, table_of_weight
from dlrm.train.engine import Engine

AVERAGE_PREFIX = "average."
AVERAGE_STEPS = f"{AVERAGE_PREFIX}steps"


def engine_tensors(engine: Engine) -> tuple[GlobalTensor, ...]:
    """Every tensor of the training state, in the same order on every rank.

    The shards are views of the memory that training uses. Call it anew for each save, between steps: it brings rows home
    that a kernel has changed in a cache, and has copies of the tables agree. After loading call :func:`after_load`.
    """
    engine.copies.agree()
    saved = engine.copies.is_saved
    weights = {name: _global_weight(name, weight, primary=saved) for name, weight in _named_weights(engine)}
    tensors = (
        *weights.values(),
        *_table_state(engine, weights),
        *_dense_state(engine),
        *_average(engine, weights.values()),
        *_id_maps(engine),
    )
    return tuple(_without_padding(tensor, engine.widths) for tensor in tensors)


def after_load(engine: Engine) -> None:
    """Make the engine take notice of what has been written into the shards of :func:`engine_tensors`.

    An average that was not in the checkpoint begins with the weights that were.
    """
    forget_cached_rows(engine.model)
    if isinstance(engine.average, ExponentialAverage) and engine.average.steps == 0:
        engine.average.start_from_weights()


def _named_weights(engine: Engine) -> Iterator[tuple[str, torch.Tensor | ShardedTensor]]:
    for full_name, weight in engine.model.state_dict().items():
        yield _name_in_state(full_name), weight


def _name_in_state(full_name: str) -> str:
    """The name of a weight without what wraps it: TrainTask's ``model.`` and torchrec's collection of tables."""
    if is_table_weight(full_name):
        return weight_name(state_name(table_of_weight(full_name)))
    return full_name.removeprefix(MODEL_PREFIX)


def _global_weight(name: str, weight: torch.Tensor | ShardedTensor, *, primary: bool) -> GlobalTensor:
    if not isinstance(weight, ShardedTensor):
        return GlobalTensor.of(name, weight, replicated=True)
    whole, local = weight.metadata(), weight.local_shards()
    shards = tuple(Shard(tuple(shard.metadata.shard_offsets), shard.tensor.detach(), primary) for shard in local)
    return GlobalTensor(name, tuple(whole.size), whole.tensor_properties.dtype, _not_empty(shards))


def _without_padding(tensor: GlobalTensor, widths: Mapping[str, int]) -> GlobalTensor:
    """The tensor of a table with its own columns only (:mod:`dlrm.models.tables`); any other one as it is."""
    table = _table_of(tensor.name)
    if table is None or len(tensor.shape) < 2 or tensor.shape[1] == widths[table]:
        return tensor
    width = widths[table]
    shards = tuple(
        replace(shard, tensor=shard.tensor[:, : max(0, width - shard.offsets[1])]) for shard in tensor.shards
    )
    return replace(tensor, shape=(tensor.shape[0], width), shards=_not_empty(shards))


def _table_of(name: str) -> str | None:
    """The table that a tensor of the state is of; None if it is of none."""
    name = name.removeprefix(AVERAGE_PREFIX)
    if not name.startswith("tables."):
        return None
    name = name.removeprefix("tables.")
    found, separator, _ = name.rpartition(".optimizer.")
    return table_name(found if separator else name.removesuffix(".weight"))


def _not_empty(shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
    """Without those of ranks that a short table has no rows for."""
    return tuple(shard for shard in shards if shard.tensor.numel())


def _table_state(engine: Engine, weights: dict[str, GlobalTensor]) -> Iterator[GlobalTensor]:
    """The optimizer's state of each table, from fused kernels or, of data-parallel tables, from torch's optimizers."""
    shards: dict[str, list[Shard]] = {}
    for shard in fused_shards(engine.model):
        for state, tensor in shard.states.items():
            offsets = (shard.first_row, shard.first_column)[: tensor.dim()]
            primary = engine.copies.is_saved and (tensor.dim() == 2 or shard.first_column == 0)
            name = f"tables.{state_name(shard.table)}.optimizer.{state}"
            shards.setdefault(name, []).append(Shard(offsets, tensor, primary))
    unfused = {_name_in_state(name): state for name, state in engine.optimizer.unfused_state().items()}
    for weight_of_table, weight in weights.items():
        if not weight_of_table.startswith("tables."):
            continue
        rows, dim = weight.shape
        for state, shape in engine.optimizer.tables.state_shapes(rows, dim).items():
            name = f"{weight_of_table.removesuffix('.weight')}.optimizer.{state}"
            if weight.replicated:
                yield GlobalTensor.of(name, unfused[weight_of_table][state], replicated=True)
            else:
                yield GlobalTensor(name, shape, torch.float32, _not_empty(tuple(shards.get(name, ()))))


def _dense_state(engine: Engine) -> Iterator[GlobalTensor]:
    for full_name, states in engine.optimizer.unfused_state().items():
        name = _name_in_state(full_name)
        if not name.startswith("tables."):
            for state, tensor in states.items():
                yield GlobalTensor.of(f"{name}.optimizer.{state}", tensor, replicated=True)


def _average(engine: Engine, weights: Iterable[GlobalTensor]) -> Iterator[GlobalTensor]:
    average = engine.average
    if not isinstance(average, ExponentialAverage):
        return
    yield GlobalTensor.of(AVERAGE_STEPS, average.steps, replicated=True)
    for weight in weights:
        if weight.dtype.is_floating_point:  # dropout's step counter is no weight
            shards = tuple(
                Shard(shard.offsets, average.average_of(shard.tensor), shard.primary) for shard in weight.shards
            )
            yield GlobalTensor(f"{AVERAGE_PREFIX}{weight.name}", weight.shape, weight.dtype, shards, weight.replicated)


def _id_maps(engine: Engine) -> Iterator[GlobalTensor]:
    """What growing tables know of ids: of each bucket from the one rank that has it."""
    for map_ in engine.rows_of_ids.maps:
        for name, shape, values_KW in map_.state:
            shards = _not_empty((Shard((map_.first_bucket, 0), values_KW),))
            yield GlobalTensor(f"growing.{state_name(map_.table)}.{name}", shape, values_KW.dtype, shards)
