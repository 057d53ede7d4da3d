"""Packed samples that carry their own number, so that what a model was trained on can be read off its input.

Dense feature 0 of training sample i is i / 2**20, which float32 holds exactly; validation and test samples have numbers of
their own, but nobody asks for them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

_UNIT = 2.0**-20
MOST_SAMPLES = 1 << 20
NUM_DENSE = 4
EVALUATION_SAMPLES = 4_000


def write_numbered_data(folder: Path, samples: int, rows: tuple[int, ...], seed: int = 0) -> None:
    """Write a data set: day_0 with ``samples`` rows is for training, the halves of day_1 are for validation and test.

    Labels depend on the id of the last table, so that there is something to learn.

    Args:
        folder: is made.
        samples: at most :data:`MOST_SAMPLES`.
        rows: table sizes.
        seed: of everything but the numbers.
    """
    if samples > MOST_SAMPLES:
        raise ValueError(f"{samples} samples, but only {MOST_SAMPLES} can be numbered")
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for day, count in enumerate((samples, EVALUATION_SAMPLES)):
        dense_MN = draw.standard_normal((count, NUM_DENSE)).astype(np.float32)
        dense_MN[:, 0] = np.arange(count, dtype=np.float32) * np.float32(_UNIT)
        sparse_MF = np.stack([draw.integers(0, size, count) for size in rows], axis=1).astype(np.int32)
        chance_M = 0.2 + 0.6 * (sparse_MF[:, -1] % 2)
        np.save(folder / f"day_{day}_dense.npy", dense_MN)
        np.save(folder / f"day_{day}_sparse.npy", sparse_MF)
        np.save(folder / f"day_{day}_labels.npy", (draw.random(count) < chance_M).astype(np.int32)[:, None])


def numbers_of(dense_BN: torch.Tensor) -> list[int]:
    """The numbers of the training samples with these dense features."""
    return (dense_BN[:, 0].double() / _UNIT).round().long().tolist()
