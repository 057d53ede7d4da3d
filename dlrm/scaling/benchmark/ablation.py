"""Leaving parts out of the steps, so that what a part really costs is the difference of two runs.

A part's own time is not what would be gained without it: it overlaps with others, and what it leaves in caches or does to
the other ranks' timing costs elsewhere. What takes a part's place gives results of the same shapes, so that all the other
parts do as much work as before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.benchmark import BenchmarkConfig, Part
from dlrm.distributed.internals import all_lookups, is_pooled, replace_lookups
from dlrm.errors import ConfigError
from dlrm.layers.heads.experts import Experts
from dlrm.layers.interaction import Interaction
from dlrm.layers.mlp import MLP
from dlrm.models.base import TABLES, Model
from dlrm.train.engine import Engine


def to_be_built(config: BenchmarkConfig) -> BenchmarkConfig:
    """The configuration of an engine that :func:`leave_out` can take parts out of.

    ``precision.all_reduce`` makes DistributedDataParallel's hook for gradients. It takes one, and without the exchange that
    is ours, which leaves nothing to round for.
    """
    if "exchange" not in config.without:
        return config
    return config.model_copy(update={"precision": config.precision.model_copy(update={"all_reduce": "fp32"})})


def leave_out(parts: Collection[Part], engine: Engine) -> None:
    """Take lookups, MLPs and the interaction out of a model, and its gradients' all-reduce if there is no exchange.

    For good: build another engine for the whole model.

    Args:
        parts: to leave out.
        engine: built from :func:`to_be_built`.

    Raises:
        ConfigError: the model has no interaction of its own to leave out.
    """
    modules = list(engine.model.modules())
    model = next(module for module in modules if isinstance(module, Model))
    if "interaction" in parts and not any(isinstance(child, Interaction) for child in model.children()):
        message = f"interaction: {type(model).__name__} has no module for it; leave it out of the list"
        raise ConfigError.at("without", message)
    for name, child in model.named_children():
        if isinstance(child, Interaction):
            if "interaction" in parts:
                _replace(child, child.out_features)
        elif "mlps" in parts and name != TABLES:
            for module in child.modules():
                if isinstance(module, MLP):
                    _replace(module, module.out_features)
                elif isinstance(module, Experts):
                    _replace(module, *module.out_shape)
    if "exchange" in parts:
        for module in (*modules, *all_lookups(engine.model)):
            if isinstance(module, DistributedDataParallel):
                module.register_comm_hook(None, lambda _, bucket: _keep_own(bucket))
    if "lookups" in parts:
        replace_lookups(engine.model, _NoLookup)


class _NoLookup:
    """Stands for a lookup: zeros instead of pooled embeddings, whose gradient goes nowhere."""

    def __init__(self, real: nn.Module) -> None:
        self._real = real.module if isinstance(real, DistributedDataParallel) else real
        self._unpooled = not is_pooled(self._real)  # has a row for each id
        self._zeros: dict[tuple[int, int], torch.Tensor] = {}

    def __call__(self, ids: KeyedJaggedTensor, *_: Any) -> torch.Tensor:
        """float32, as the lookup itself would return them."""
        size = ids.stride(), len(ids.values()) * self._unpooled
        if size not in self._zeros:
            with torch.no_grad():
                self._zeros[size] = torch.zeros_like(self._real.forward(ids))
        return self._zeros[size].detach().requires_grad_()

    def __getattr__(self, name: str) -> Any:
        """All else is the lookup's: its state, its mode."""
        return getattr(self._real, name)


def _replace(module: nn.Module, *out_shape: int) -> None:
    def nothing(*inputs_BX: torch.Tensor) -> torch.Tensor:
        outputs_BY: torch.Tensor = _Nothing.apply(out_shape, *inputs_BX)  # type: ignore[no-untyped-call]
        return outputs_BY

    module.forward = nothing


class _Nothing(torch.autograd.Function):
    """Zeros (B, *Y) from any (B, *X), and zeros as their gradients."""

    @staticmethod
    def forward(ctx: Any, out_shape: tuple[int, ...], *inputs_BX: torch.Tensor) -> torch.Tensor:
        ctx.shapes = [x_BX.shape for x_BX in inputs_BX]
        return inputs_BX[0].new_zeros(len(inputs_BX[0]), *out_shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient_BY,) = gradients
        return (None, *(gradient_BY.new_zeros(shape) for shape in ctx.shapes))


def _keep_own(bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """Instead of an all-reduce."""
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


@contextmanager
def exchange(left_out: bool) -> Iterator[None]:
    """Inside of the block, if it is left out, no rank speaks to another.

    Each takes what it would send to itself for what the others send. So all that follows has sizes and ids that are
    possible; the embeddings of other ranks' tables are made up.
    """
    with ExitStack() as stack:
        for name, stand_in in _STAND_INS.items() if left_out else ():
            stack.callback(setattr, dist, name, getattr(dist, name))
            setattr(dist, name, stand_in)
        yield


class _Done:
    """A collective that needs no waiting for."""

    def wait(self, *_: Any) -> bool:
        """It is done."""
        return True

    def is_completed(self) -> bool:
        """It is."""
        return True


def _all_to_all_single(
    output: torch.Tensor,
    input: torch.Tensor,
    output_split_sizes: list[int] | None = None,
    input_split_sizes: list[int] | None = None,
    group: Any = None,
    async_op: bool = False,
) -> _Done:
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    own = input.split(input_split_sizes or len(input) // ranks)[rank]
    for place in output.split(output_split_sizes or len(output) // ranks):
        _fill(place, own)
    return _Done()


def _reduce_scatter_tensor(
    output: torch.Tensor, input: torch.Tensor, op: Any = None, group: Any = None, async_op: bool = False
) -> _Done:
    output.copy_(input.view(dist.get_world_size(group), *output.shape)[dist.get_rank(group)])
    return _Done()


def _reduce_scatter(
    output: torch.Tensor, input_list: list[torch.Tensor], op: Any = None, group: Any = None, async_op: bool = False
) -> _Done:
    output.copy_(input_list[dist.get_rank(group)])
    return _Done()


def _all_gather_into_tensor(
    output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any = None, async_op: bool = False
) -> _Done:
    output_tensor.view(dist.get_world_size(group), *input_tensor.shape).copy_(input_tensor)
    return _Done()


def _all_gather(
    tensor_list: list[torch.Tensor], tensor: torch.Tensor, group: Any = None, async_op: bool = False
) -> _Done:
    for place in tensor_list:
        _fill(place, tensor)
    return _Done()


def _all_reduce(tensor: torch.Tensor, op: Any = None, group: Any = None, async_op: bool = False) -> _Done:
    return _Done()


_STAND_INS: dict[str, Callable[..., Any]] = {
    "all_to_all_single": _all_to_all_single,
    "reduce_scatter_tensor": _reduce_scatter_tensor,
    "reduce_scatter": _reduce_scatter,
    "all_gather_into_tensor": _all_gather_into_tensor,
    "all_gather": _all_gather,
    "all_reduce": _all_reduce,
}


def _fill(place: torch.Tensor, values: torch.Tensor) -> None:
    """Copy as much as fits; what remains is zero, whatever was there."""
    flat, values = place.view(-1), values.reshape(-1)
    count = min(len(flat), len(values))
    flat[:count] = values[:count]
    flat[count:] = 0
