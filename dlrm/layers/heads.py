"""From what tasks share to the logit of each: the last layers of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dlrm.config.model import SharedBottom
from dlrm.layers.mlp import MLP


class TaskTowers(nn.Module):
    """An MLP of its own for each task, on what all share (shared bottom: Caruana, "Multitask learning", 1997).

    Attributes:
        towers: T MLPs, in the order of the tasks.
    """

    def __init__(self, in_features: int, sizes: Sequence[int], *, tasks: int) -> None:
        super().__init__()
        self.towers = nn.ModuleList(MLP(in_features, (*sizes, 1), relu_last=False) for _ in range(tasks))

    def forward(self, shared_BH: torch.Tensor) -> torch.Tensor:
        """float32 (B, H) -> logits, float32 (B, T)."""
        return torch.cat([tower(shared_BH) for tower in self.towers], dim=1)


def build_heads(
    in_features: int,
    hidden: Sequence[int],
    config: SharedBottom,
    *,
    tasks: int,
    dropout: float,
    seed: int,
    rank: int,
) -> tuple[MLP, TaskTowers | nn.Identity]:
    """The MLP that tasks share and what follows it.

    Without towers the shared MLP ends with a logit a task and nothing follows. With them it ends with its hidden layers.

    Args:
        in_features: columns of its input.
        hidden: sizes of the hidden layers, at least one where there are towers.
        config: sizes of the towers' hidden layers.
        tasks: T.
        dropout: of the shared hidden layers but the last of those that towers stand on; towers have none.
        seed: of dropout.
        rank: which part of the global batch this process computes.
    """
    if not config.tower:
        shared = MLP(in_features, (*hidden, tasks), relu_last=False, dropout=dropout, seed=seed, rank=rank)
        return shared, nn.Identity()
    shared = MLP(in_features, hidden, relu_last=True, dropout=dropout, seed=seed, rank=rank)
    return shared, TaskTowers(shared.out_features, config.tower, tasks=tasks)
