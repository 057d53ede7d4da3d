"""Multi-gate mixture of experts (Ma et al., KDD 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dlrm.layers.heads.experts import ExpertLinear, Experts, Mixture


class MultiGateExperts(nn.Module):
    """Experts that all tasks share, mixed for each task by a gate of its own.

    With x the input, ``f^k(x) = sum_i g^k(x)_i f_i(x)`` (equation 7), where ``g^k(x) = softmax(W_gk x)`` (equation 8), for
    task k and experts f_i. Towers follow.

    Attributes:
        experts: E MLPs, each with a ReLU after its last layer; gates: T matrices W_gk.
    """

    def __init__(
        self,
        in_features: int,
        sizes: Sequence[int],
        *,
        experts: int,
        tasks: int,
        dropout: float,
        seed: int,
        rank: int,
    ) -> None:
        super().__init__()
        self.experts = Experts(
            in_features, sizes, experts=experts, inputs=1, name="mmoe", dropout=dropout, seed=seed, rank=rank
        )
        self.gates = ExpertLinear(in_features, experts, experts=tasks, inputs=1, bias=False)
        self.mixture = Mixture()

    def forward(self, x_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, in_features) -> float32 (B, T, sizes[-1])."""
        x_B1X = x_BX.unsqueeze(1)
        gates_BTE = self.gates(x_B1X).softmax(dim=2)
        return self.mixture(gates_BTE, self.experts(x_B1X))  # type: ignore[no-any-return]
