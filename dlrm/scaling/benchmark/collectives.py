"""The collectives of a step, seen from outside: how many bytes they send to other ranks, and how long the host waits.

torchrec calls its collectives by their names in ``torch.distributed``, where they are wrapped for a while
(``tests/unit/contracts/test_regions.py`` holds it to that). DistributedDataParallel sums gradients in C++: what it sums is
counted when its forward pass says that the backward one will.

Of an exchange of all with all the bytes are those of the splits that other ranks get. Of the others, in which it is left to
the library how, they are as many as an algorithm sends that sends the fewest (Thakur, Rabenseifner and Gropp,
"Optimization of Collective Communication Operations in MPICH", 2005): over R ranks n (R - 1) / R for a reduce-scatter of n
bytes, n (R - 1) for an all-gather of n bytes of each rank, 2 n (R - 1) / R for an all-reduce.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.profiler import record_function
from torch.nn.parallel import DistributedDataParallel

from dlrm.distributed.internals import all_lookups

WAIT = "waits for other ranks"
"""Name of the regions in which the host does nothing but wait."""
ALL_TO_ALL, REDUCE_SCATTER, ALL_GATHER, ALL_REDUCE = "all_to_all", "reduce_scatter", "all_gather", "all_reduce"


class SentBytes:
    """Bytes that this rank has sent to others, by collective; counts while :func:`counted` is entered."""

    def __init__(self) -> None:
        self.total = dict.fromkeys((ALL_TO_ALL, REDUCE_SCATTER, ALL_GATHER, ALL_REDUCE), 0.0)

    def add(self, collective: str, sent: float) -> None:
        """Add to what a collective has sent."""
        self.total[collective] += sent

    def a_step(self, steps: int) -> dict[str, float]:
        """Of one of so many steps that were counted."""
        return {collective: sent / steps for collective, sent in self.total.items()}


@contextmanager
def counted(model: nn.Module) -> Iterator[SentBytes]:
    """Count what is sent in the block.

    Args:
        model: sharded; its replicas are DistributedDataParallel.
    """
    sent = SentBytes()

    def see(name: str, arguments: Mapping[str, Any]) -> None:
        group = arguments.get("group")
        collective, count = _SENT[name]
        sent.add(collective, count(arguments, dist.get_world_size(group), dist.get_rank(group)))

    def sums(module: nn.Module, _: Any) -> None:
        assert isinstance(module, DistributedDataParallel)
        # A hook calls collectives of torch.distributed, which are seen.
        if torch.is_grad_enabled() and module.require_backward_grad_sync and not module._comm_hooks:
            ranks = dist.get_world_size(module.process_group)
            sent.add(ALL_REDUCE, 2 * _replicated_bytes(module) * (ranks - 1) / ranks)

    with ExitStack() as stack:
        for module in {*model.modules(), *all_lookups(model)}:
            if isinstance(module, DistributedDataParallel):
                stack.callback(module.register_forward_pre_hook(sums).remove)
        for name in _SENT:
            real = getattr(dist, name)
            stack.callback(setattr, dist, name, real)
            setattr(dist, name, _seen(real, partial(see, name)))
        yield sent


@contextmanager
def named_waits() -> Iterator[None]:
    """In the block the waiting for collectives is a region :data:`WAIT`, but for DistributedDataParallel's own."""
    real = dist.Work.wait

    def wait(work: dist.Work, *arguments: Any, **named: Any) -> Any:
        with record_function(WAIT):
            return real(work, *arguments, **named)

    dist.Work.wait = wait  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        dist.Work.wait = real  # type: ignore[method-assign]


def _seen(real: Callable[..., Any], see: Callable[[Mapping[str, Any]], None]) -> Callable[..., Any]:
    signature = inspect.signature(real)

    def call(*arguments: Any, **named: Any) -> Any:
        see(signature.bind(*arguments, **named).arguments)
        return real(*arguments, **named)

    return call


def _replicated_bytes(module: DistributedDataParallel) -> int:
    """Of the gradients that it sums."""
    named = module.module.named_parameters()
    reduced = [weight for name, weight in named if weight.requires_grad and name not in module.parameters_to_ignore]
    return sum(_size(weight) for weight in reduced)


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _of_all_to_all(arguments: Mapping[str, Any], ranks: int, rank: int) -> float:
    tensor, splits = arguments["input"], arguments.get("input_split_sizes")
    if not splits:
        return _size(tensor) * (ranks - 1) / ranks
    return _size(tensor) * (1 - splits[rank] / sum(splits)) if sum(splits) else 0.0


def _of_reduce_scatter(arguments: Mapping[str, Any], ranks: int, rank: int) -> float:
    if "input_list" in arguments:
        return sum(_size(part) for other, part in enumerate(arguments["input_list"]) if other != rank)
    return _size(arguments["input"]) * (ranks - 1) / ranks


def _of_all_gather(arguments: Mapping[str, Any], ranks: int, rank: int) -> float:
    own = arguments["tensor"] if "tensor" in arguments else arguments["input_tensor"]
    return _size(own) * (ranks - 1)


def _of_all_reduce(arguments: Mapping[str, Any], ranks: int, rank: int) -> float:
    return 2 * _size(arguments["tensor"]) * (ranks - 1) / ranks


_SENT: dict[str, tuple[str, Callable[[Mapping[str, Any], int, int], float]]] = {
    "all_to_all_single": (ALL_TO_ALL, _of_all_to_all),
    "reduce_scatter_tensor": (REDUCE_SCATTER, _of_reduce_scatter),
    "reduce_scatter": (REDUCE_SCATTER, _of_reduce_scatter),
    "all_gather_into_tensor": (ALL_GATHER, _of_all_gather),
    "all_gather": (ALL_GATHER, _of_all_gather),
    "all_reduce": (ALL_REDUCE, _of_all_reduce),
}
