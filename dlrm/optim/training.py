"""All optimizers of a training run behind one that a torchrec train pipeline can drive."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper

from dlrm.config.optim import Adagrad, Adam, AdamW, DenseOptimizer, LearningRates, OptimConfig, Sgd, SparseAdam
from dlrm.distributed.internals import ShardedTensor, kernels_of_optimizer, set_trained_steps, single_optimizers
from dlrm.errors import ConfigError, ConfigProblem
from dlrm.format import did_you_mean, escaped
from dlrm.optim.schedule import learning_rate
from dlrm.optim.tables.base import NO_FACTORS, TableOptimizer, table_rate
from dlrm.optim.tables.data_parallel import DataParallelTables
from dlrm.table_names import table_of_weight


class TrainingOptimizer(CombinedOptimizer):  # type: ignore[misc]  # torchrec is untyped here
    """Fused, dense and data-parallel-table optimizers with their schedule and clipping.

    The rate of a step has to be set before its backward pass, in which the fused kernels apply it; pipelines call
    ``zero_grad`` (which hands the rate to the kernels) first, so :meth:`set_step` belongs before ``pipeline.progress``.

    Args:
        optimizers: the parts, each with its rates in its parameter groups.
        schedule: factor over steps.
        rate_factor: of all rates at all steps.
        table_factors: of the rates of padded tables, in which those of ``optimizers`` have them; a schedule has none of
            them, so that its least rate is theirs as well.
        clipped: parameters whose joint gradient norm is clipped; the tables' gradients never leave the fused kernels.
        clip_norm: largest L2 norm of that gradient; None does not clip.
        accumulation_steps: micro-batches of a step.
        table_optimizers: those of ``optimizers`` that train tables.
        tables: what trains the tables.
        kernels: fbgemm's modules among them.

    Attributes:
        ends_step: whether what is trained ends a step; before the step's last micro-batch only tables learn.
    """

    def __init__(
        self,
        optimizers: list[KeyedOptimizer],
        *,
        table_optimizers: list[KeyedOptimizer],
        tables: TableOptimizer,
        kernels: list[Any],
        schedule: LearningRates,
        rate_factor: float,
        table_factors: Mapping[str, float] = NO_FACTORS,
        clipped: list[torch.Tensor],
        clip_norm: float | None,
        accumulation_steps: int = 1,
    ) -> None:
        super().__init__(optimizers)
        self.tables = tables
        self._kernels = kernels
        self._schedule = schedule
        self._clipped = clipped
        self._clip_norm = clip_norm
        self._accumulation_steps = accumulation_steps
        self.ends_step = True
        self._table_optimizers = table_optimizers
        self._groups: list[dict[str, Any]] = [group for part in optimizers for group in part.param_groups]
        self._factors = _group_factors(optimizers, table_optimizers, table_factors)
        self._base_rates = [
            float(group["lr"]) / factor * rate_factor for group, factor in zip(self._groups, self._factors, strict=True)
        ]

    def set_step(self, step: int) -> None:
        """Set every group's rate, and every kernel's count, to that of ``step``: about to be trained, counted from 1."""
        for group, base, factor in zip(self._groups, self._base_rates, self._factors, strict=True):
            group["lr"] = learning_rate(self._schedule, base, step) * factor
        for kernel in self._kernels:  # they count updates
            set_trained_steps(kernel, (step - 1) * self._accumulation_steps)

    def unfused_state(self) -> dict[str, dict[str, torch.Tensor]]:
        """The state of every parameter that no fused kernel trains, by the parameter's full name; live tensors."""
        return {
            name: dict(part.state.get(parameter, {}))
            for _, part in self.optimizers
            if isinstance(part, KeyedOptimizerWrapper)
            for name, parameter in part.params.items()
        }

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Forget the gradients, those of dense parameters only where a step begins."""
        for part in self._parts():
            part.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        """Clip, then step every part (the fused ones have updated their tables already)."""
        if self.ends_step and self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._clipped, self._clip_norm)
        for part in self._parts():
            part.step(closure)

    def _parts(self) -> list[KeyedOptimizer]:
        return [part for _, part in self.optimizers] if self.ends_step else self._table_optimizers

    def reset_table_state(self) -> None:
        """Put the accumulators of all tables back to where they started, or the moments (Adam goes on counting steps)."""
        for optimizer in self._table_optimizers:
            for state in optimizer.state.values():
                for value in state.values():
                    for part in _local_parts(value):
                        part.fill_(self.tables.initial_state)


def build_optimizer(
    config: OptimConfig,
    optimizer: TableOptimizer,
    *,
    fused: KeyedOptimizer,
    groups: Mapping[str, Mapping[str, torch.Tensor]],
    data_parallel_tables: Mapping[str, torch.Tensor],
    factors: Mapping[str, float] = NO_FACTORS,
    accumulation_steps: int = 1,
    undecayed: Collection[str] = (),
    rate_factor: float = 1.0,
) -> TrainingOptimizer:
    """The optimizer of a sharded model.

    Args:
        config: kinds, rates, schedule, clipping.
        optimizer: of the tables.
        fused: the optimizer of the sharded tables, from DistributedModelParallel.
        groups: the model's groups of replicated parameters, each by full name.
        data_parallel_tables: weights of data-parallel tables by full name, ``....<module name>.weight``.
        factors: of the rates of tables, beside the configured ones.
        accumulation_steps: micro-batches of a step.
        undecayed: groups to which ``optim.dense.weight_decay`` does not apply.
        rate_factor: of all rates, for the size of the batches.
    """
    of_tables: list[KeyedOptimizer] = [fused]
    of_rate: dict[tuple[float, float], dict[str, torch.Tensor]] = {}
    for name, weight in data_parallel_tables.items():
        table = table_of_weight(name)
        of_rate.setdefault((table_rate(optimizer, config, table), factors.get(table, 1.0)), {})[name] = weight
    for (lr, factor), weights in of_rate.items():
        of_tables.append(
            KeyedOptimizerWrapper(weights, partial(DataParallelTables, optimizer=optimizer, lr=lr * factor))
        )
    dense: list[KeyedOptimizer] = []
    for group, params in groups.items():
        lr = config.dense.lr * config.lr_scale.get(group, 1.0)
        # A decay would pull what weighs the tasks towards what it started from.
        of_group = config.dense.model_copy(update={"weight_decay": 0.0}) if group in undecayed else config.dense
        dense.append(KeyedOptimizerWrapper(dict(params), partial(dense_optimizer, of_group, lr=lr)))
    return TrainingOptimizer(
        [*of_tables, *dense],
        table_optimizers=of_tables,
        tables=optimizer,
        kernels=list(kernels_of_optimizer(fused)),
        schedule=config.schedule,
        rate_factor=rate_factor,
        table_factors=factors,
        clipped=[param for params in groups.values() for param in params.values()],
        clip_norm=config.clip_norm,
        accumulation_steps=accumulation_steps,
    )


def _group_factors(
    optimizers: Iterable[KeyedOptimizer], of_tables: Sequence[KeyedOptimizer], factors: Mapping[str, float]
) -> list[float]:
    """Of the rate of each parameter group; the tables of one have the same (:func:`fuse_optimizer`)."""
    found: list[float] = []
    for optimizer in optimizers:
        for part in single_optimizers(optimizer):
            trained = part.params if any(optimizer is one for one in of_tables) else ()
            factor = next((factors.get(table_of_weight(name), 1.0) for name in trained), 1.0)
            found += [factor] * len(part.param_groups)
    return found


def _local_parts(value: torch.Tensor | ShardedTensor) -> list[torch.Tensor]:
    if isinstance(value, ShardedTensor):
        return [shard.tensor for shard in value.local_shards()]
    return [value]


def check_rate_groups(config: OptimConfig, groups: Sequence[str], tables: Sequence[str]) -> None:
    """Refuse rate factors for groups that do not exist, or that are two, and groups that cannot be frozen.

    Args:
        config: the factors by group, and what is frozen.
        groups: of the model.
        tables: their names.

    Raises:
        ConfigError: names each key and the nearest group.
    """
    problems = []
    named = {f"optim.lr_scale.{name}": name for name in config.lr_scale}
    named |= {f"optim.frozen.{i}": name for i, name in enumerate(config.frozen)}
    for key, name in named.items():
        called = "" if key.endswith(f".{name}") else f"{escaped(name)} "  # where the key does not say it
        if name in groups and name in tables:
            message = f"{called}is a part of the model as well as a table here: rename the column"
            problems.append(ConfigProblem(key, "", message))
        elif name not in (*groups, *tables):
            all_groups = f"groups are {', '.join(groups)} and the tables {tables[0]} .. {tables[-1]}"
            hint = did_you_mean(name, [*groups, *tables]) or all_groups
            problems.append(ConfigProblem(key, "", f"{called}is no group of parameters; {hint}"))
    frozen_tables = sorted(set(config.frozen).intersection(tables))
    if frozen_tables and isinstance(config.sparse, SparseAdam):
        message = (
            f"names the table {escaped(frozen_tables[0])}, and Adam's moments of a table would decay all the same; use "
            "rowwise_adagrad, adagrad or sgd for optim.sparse.kind"
        )
        problems.append(ConfigProblem("optim.frozen", "", message))
    if {*groups, *tables} <= set(config.frozen):
        problems.append(ConfigProblem("optim.frozen", "", "names every group and table: nothing would be trained"))
    if problems:
        raise ConfigError(problems)


def check_all_are_trained(optimizer: KeyedOptimizer, names: Iterable[str]) -> None:
    """See that no parameter is forgotten: one without an optimizer would stay what it was without a word.

    Args:
        optimizer: of the model.
        names: of all parameters that no fused kernel trains, as the model had them before it was sharded.

    Raises:
        ValueError: names those that nothing trains: a bug of the model.
    """
    forgotten = [name for name in names if name not in optimizer.params]
    if forgotten:
        raise ValueError(f"no optimizer trains {', '.join(forgotten)}")


def dense_optimizer(config: DenseOptimizer, tensors: list[torch.Tensor], *, lr: float) -> torch.optim.Optimizer:
    """An optimizer with all of its state. Torch would make it at the first step, too late for a checkpoint to be loaded."""
    optimizer = _lazy_optimizer(config, tensors, lr=lr)
    for tensor in tensors:
        if isinstance(config, Adam | AdamW):
            moments = {name: torch.zeros_like(tensor).detach() for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[tensor].update(step=torch.tensor(0.0), **moments)
        elif isinstance(config, Sgd) and config.momentum > 0:  # torch starts from the gradient, which is 0 + gradient
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor).detach()
    return optimizer


def _lazy_optimizer(config: DenseOptimizer, tensors: list[torch.Tensor], *, lr: float) -> torch.optim.Optimizer:
    if isinstance(config, Adam | AdamW):
        kind = torch.optim.AdamW if isinstance(config, AdamW) else torch.optim.Adam
        betas = (config.beta1, config.beta2)
        return kind(tensors, lr=lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    if isinstance(config, Adagrad):
        start = config.initial_accumulator
        return torch.optim.Adagrad(
            tensors, lr=lr, eps=config.eps, weight_decay=config.weight_decay, initial_accumulator_value=start
        )
    return torch.optim.SGD(tensors, lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)
