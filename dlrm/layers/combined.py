"""From what lookups return to the vectors of the features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

Made = tuple[tuple[int, ...], str, int]
"""Of a feature: widths of what its lookups return, the operation that makes one vector of them, and the vector's width."""


def build_fields(fields: Sequence[Made]) -> nn.Module:
    """What makes the vectors; the identity where each feature has one lookup that returns its vector."""
    if all(len(widths) == 1 and widths[0] == dim for widths, _, dim in fields):
        return nn.Identity()
    return Fields(fields)


class Fields(nn.Module):
    """The vectors of the features side by side, from the columns of their lookups.

    The vector of a feature with two lookups is their elementwise product (``mult``), their sum (``add``) or both side by
    side (``concat``); arXiv:1909.02107. Where its width is another it is then multiplied by a matrix of weights, one a
    feature, without bias (arXiv:1909.11810).

    Attributes:
        projections: of each feature, that matrix or nothing to do.
    """

    def __init__(self, fields: Sequence[Made]) -> None:
        super().__init__()
        self._widths = [width for widths, _, _ in fields for width in widths]
        self._operations = [(len(widths), operation) for widths, operation, _ in fields]
        self.projections = nn.ModuleList(_projection(*field) for field in fields)

    def forward(self, columns_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, X), the columns of all lookups, -> float32 (B, sum of the features' widths)."""
        parts = iter(columns_BX.split(self._widths, dim=1))
        vectors = []
        for (count, operation), projection in zip(self._operations, self.projections, strict=True):
            vectors.append(projection(_combined([next(parts) for _ in range(count)], operation)))
        return torch.cat(vectors, dim=1)


def _projection(widths: tuple[int, ...], operation: str, dim: int) -> nn.Module:
    combined = sum(widths) if operation == "concat" else widths[0]
    return nn.Identity() if combined == dim else nn.Linear(combined, dim, bias=False)


def _combined(parts_BD: list[torch.Tensor], operation: str) -> torch.Tensor:
    if len(parts_BD) == 1:
        return parts_BD[0]
    first_BD, second_BD = parts_BD
    match operation:
        case "mult":
            return first_BD * second_BD
        case "add":
            return first_BD + second_BD
        case _:
            return torch.cat((first_BD, second_BD), dim=1)
