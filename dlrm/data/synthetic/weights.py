"""Weights that are drawn: 1/8, 2/8, .. 2, each equally often; exact in float32 and in metrics' sums."""

from __future__ import annotations

import torch

_EIGHTHS = 16
SAMPLE_WEIGHT = "weight"
"""The name of the column that there would be if samples were read."""


def id_weights_of(feature: str) -> str:
    """The name of the column of a feature's ids' weights, if they were read."""
    return f"{feature}_weights"


def weights_of(bits: torch.Tensor) -> torch.Tensor:
    """float32, of whole numbers of any shape whose last four bits are random."""
    return ((bits & (_EIGHTHS - 1)) + 1).to(torch.float32) / 8
