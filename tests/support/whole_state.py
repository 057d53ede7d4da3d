"""A checkpoint in memory: the whole tensors of an engine's state, gathered from all ranks, and engines filled from them.

It is what saving and loading must amount to, by the shortest way, and it checks what it gathers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dlrm.checkpoint.tensors import GlobalTensor, Shard
from dlrm.distributed.collectives import Collectives
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.engine import Engine


def gather_state(engine: Engine, collectives: Collectives) -> dict[str, torch.Tensor]:
    """Every tensor of the training state, whole, on every rank.

    Raises:
        AssertionError: the ranks disagree on what there is, the primary shards do not hold each element exactly once, or
            copies differ.
    """
    tensors = engine_tensors(engine)
    by_rank: list[list[Any]] = collectives.all_gather_object([_sendable(tensor) for tensor in tensors])
    whole = {}
    for of_ranks in zip(*by_rank, strict=True):
        descriptions = [description for description, _ in of_ranks]
        assert all(description == descriptions[0] for description in descriptions), descriptions
        name, shape, dtype, replicated = descriptions[0]
        shards = [shard for _, held in of_ranks for shard in held]
        assert name not in whole, name
        whole[name] = _assemble(name, shape, dtype, shards, copies=len(by_rank) if replicated else 1)
    return whole


def fill_state(engine: Engine, whole: Mapping[str, torch.Tensor]) -> None:
    """Write whole tensors into an engine.

    Raises:
        AssertionError: names, shapes or types are not those of the engine.
    """
    tensors = engine_tensors(engine)
    assert [tensor.name for tensor in tensors] == list(whole)
    for tensor in tensors:
        assert (tensor.shape, tensor.dtype) == (tuple(whole[tensor.name].shape), whole[tensor.name].dtype), tensor.name
        for shard in tensor.shards:
            shard.tensor.copy_(_part(whole[tensor.name], shard))
    after_load(engine)


def _sendable(tensor: GlobalTensor) -> tuple[Any, ...]:
    """The tensor's description, and its shards without the memory around them."""
    shards = [Shard(shard.offsets, shard.tensor.detach().cpu().clone(), shard.primary) for shard in tensor.shards]
    return (tensor.name, tensor.shape, tensor.dtype, tensor.replicated), shards


def _assemble(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, shards: list[Shard], *, copies: int
) -> torch.Tensor:
    whole, held = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=torch.int64)
    for shard in shards:
        assert shard.tensor.dtype == dtype, name
        if shard.primary:
            _part(whole, shard).copy_(shard.tensor)
            _part(held, shard).add_(1)
    assert bool((held == copies).all()), f"{name}: elements are not held {copies} time(s)"
    for shard in shards:
        assert torch.equal(_part(whole, shard), shard.tensor), f"{name}: copies differ"
    return whole


def _part(whole: torch.Tensor, shard: Shard) -> torch.Tensor:
    for dimension, (offset, size) in enumerate(zip(shard.offsets, shard.tensor.shape, strict=True)):
        whole = whole.narrow(dimension, offset, size)
    return whole
