"""A checkpoint in memory: the whole tensors of an engine's state, gathered from all ranks, and engines filled from them.

It is what saving and loading must amount to, by the shortest way, and it checks what it gathers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dlrm.checkpoint.tensors import Block, LogicalTensor
from dlrm.distributed.collectives import Collectives
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.engine import Engine


def gather_state(engine: Engine, collectives: Collectives) -> dict[str, torch.Tensor]:
    """Every tensor of the training state, whole, on every rank.

    Raises:
        AssertionError: the ranks disagree on what there is, the primary blocks do not hold each element exactly once, or
            copies differ.
    """
    tensors = engine_tensors(engine)
    by_rank: list[list[Any]] = collectives.all_gather_object([_sendable(tensor) for tensor in tensors])
    whole = {}
    for of_ranks in zip(*by_rank, strict=True):
        descriptions = [description for description, _ in of_ranks]
        assert all(description == descriptions[0] for description in descriptions), descriptions
        name, shape, dtype, replicated = descriptions[0]
        blocks = [block for _, held in of_ranks for block in held]
        assert name not in whole, name
        whole[name] = _assemble(name, shape, dtype, blocks, copies=len(by_rank) if replicated else 1)
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
        for block in tensor.blocks:
            block.tensor.copy_(_part(whole[tensor.name], block))
    after_load(engine)


def _sendable(tensor: LogicalTensor) -> tuple[Any, ...]:
    """The tensor's description, and its blocks without the memory around them."""
    blocks = [Block(block.offsets, block.tensor.detach().cpu().clone(), block.primary) for block in tensor.blocks]
    return (tensor.name, tensor.shape, tensor.dtype, tensor.replicated), blocks


def _assemble(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, blocks: list[Block], *, copies: int
) -> torch.Tensor:
    whole, held = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=torch.int64)
    for block in blocks:
        assert block.tensor.dtype == dtype, name
        if block.primary:
            _part(whole, block).copy_(block.tensor)
            _part(held, block).add_(1)
    assert bool((held == copies).all()), f"{name}: elements are not held {copies} time(s)"
    for block in blocks:
        assert torch.equal(_part(whole, block), block.tensor), f"{name}: copies differ"
    return whole


def _part(whole: torch.Tensor, block: Block) -> torch.Tensor:
    for dimension, (offset, size) in enumerate(zip(block.offsets, block.tensor.shape, strict=True)):
        whole = whole.narrow(dimension, offset, size)
    return whole
