"""How many rows are computed at once, so that a row's bits do not depend on the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlrm.inference.features import Features

TILE_ROWS = 32
"""Rows are computed in multiples of so many, the last ones padded.

Libraries choose the order of a matrix product's additions by its number of rows, so that a row's logit depends on how many
others it is asked with (in the last bits). With multiples of 32 it does not, in one thread and with the kernels that were
looked at: tests/unit/inference/exported/test_predictor.py. (Several threads share a product's additions, and its number of
rows says how: so it was seen of MKL with AVX-512.) Servers and ``predict`` have one of torch's threads in each of theirs.
So a row gets the same probability alone, in a batch of a server, and from a file.
"""
MOST_ROWS = 1024
"""Computed at once; further rows follow. Larger pieces are no faster a row, and leave the processor's cache."""


def pieces_of(features: Features) -> Iterator[Features]:
    """Rows that are computed at once, in order; none of no rows."""
    if 0 < len(features) <= MOST_ROWS:
        yield features
        return
    for start in range(0, len(features), MOST_ROWS):
        yield features[start : start + MOST_ROWS]


def padded(x_BC: torch.Tensor) -> torch.Tensor:
    """With rows of zeros up to a multiple of the tile; itself where it has such a number."""
    rows = len(x_BC)
    size = -(-rows // TILE_ROWS) * TILE_ROWS
    if rows == size:
        return x_BC
    padded_BC = x_BC.new_zeros(size, x_BC.shape[1])
    padded_BC[:rows] = x_BC
    return padded_BC
