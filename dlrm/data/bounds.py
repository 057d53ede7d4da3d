"""Ids and the tables they are of."""

from __future__ import annotations

import torch


def outside(ids_BS: torch.Tensor, rows_S: torch.Tensor) -> torch.Tensor:
    """Which ids are none of their table's, bool (B, S).

    Args:
        ids_BS: whole numbers (B, S).
        rows_S: int64, of the table of each column.
    """
    return (ids_BS < 0) | (ids_BS >= rows_S)


def mended(ids_BS: torch.Tensor, rows_S: torch.Tensor, beyond: str) -> torch.Tensor:
    """Ids that are all of their table's; those that are already stay.

    Args:
        ids_BS: whole numbers (B, S).
        rows_S: int64, of the table of each column.
        beyond: what becomes of the others: ``hash``: themselves modulo the rows; ``clamp``: the nearest.

    Returns:
        int64 (B, S).
    """
    if beyond == "hash":
        return ids_BS % rows_S
    return ids_BS.clamp(min=0).minimum(rows_S - 1)
