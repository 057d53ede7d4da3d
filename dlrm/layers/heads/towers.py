"""The last layers of a model: an MLP of its own for each task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

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


class TowersOfMixtures(TaskTowers):
    """The same, each on a vector of its task's own."""

    def forward(self, mixed_BTH: torch.Tensor) -> torch.Tensor:
        """float32 (B, T, H) -> logits, float32 (B, T)."""
        own = zip(self.towers, mixed_BTH.unbind(1), strict=True)
        return torch.cat([tower(mixed_BH) for tower, mixed_BH in own], dim=1)
