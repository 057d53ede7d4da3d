"""The multi-layer perceptrons below and above the interaction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from dlrm.counter_rng import stream_key
from dlrm.layers.dropout import SampleDropout


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Attributes:
        linears: the layers; their names, and so their initial weights, do not depend on dropout.
        gives_logits: whether the last one's outputs are logits, which stay float32 whatever the rest computes in.
        out_features: size of the last one.
    """

    def __init__(
        self,
        in_features: int,
        sizes: Sequence[int],
        *,
        relu_last: bool,
        dropout: float = 0.0,
        seed: int = 0,
        rank: int = 0,
        gives_logits: bool | None = None,
    ) -> None:
        """Make the layers.

        Args:
            in_features: columns of the input.
            sizes: outputs of each layer, at least one layer.
            relu_last: whether ReLU follows the last layer, too (bottom MLP) or not (top MLP, whose output is a logit).
            dropout: share of the hidden units (all outputs but the last layer's) dropped in training.
            seed: of dropout.
            rank: which part of the global batch this process computes; see :class:`~dlrm.layers.dropout.SampleDropout`.
            gives_logits: whether the output are logits; where no ReLU is last they are, unless said otherwise.
        """
        super().__init__()
        self.linears = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise([in_features, *sizes])
        )
        self.dropouts = nn.ModuleList(
            SampleDropout(dropout, key=stream_key(seed, "dropout", layer), rank=rank) if dropout else nn.Identity()
            for layer in range(len(sizes) - 1)
        )
        self.gives_logits = not relu_last if gives_logits is None else gives_logits
        self.last = nn.ReLU() if relu_last else nn.Identity()
        self.out_features = sizes[-1]

    def forward(self, x_BN: torch.Tensor) -> torch.Tensor:
        """float32 (B, in_features) -> float32 (B, out_features)."""
        *hidden, last = self.linears
        x_BH = x_BN
        for linear, dropout in zip(hidden, self.dropouts, strict=True):
            x_BH = dropout(torch.relu(linear(x_BH)))
        return self.last(last(x_BH))  # type: ignore[no-any-return]
