"""The recipe's lookup tables at work: in memory where they are small, else in a file that processes of a host share.

MLPerf's tables are 21 GiB. A process that needs them maps one file of them; four ranks of a host then hold its pages
once, those that ids ask for, and the next run finds the file. Whoever comes first draws it, a piece at a time, beside its
final name, while the others wait at a lock that the kernel takes from a process that dies.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.data.multi_hot.recipe import Recipe
from dlrm.errors import SetupError
from dlrm.files import alone, written_beside

IN_MEMORY_BYTES = 64 << 20
"""Tables up to this size are drawn into the memory of each process, within a second; larger ones into a file."""
_LOG = logging.getLogger(__name__)

OnDrawn = Callable[[int], None]
"""Is told the number of ids drawn since it was last called."""


def _ignore(_count: int) -> None:
    return


class LookupBags:
    """One-hot ids into bags by the recipe.

    Args:
        recipe: what to look up.
        cache_dir: folder of the shared file, made if it is not there.
        on_drawn: progress, where the tables have to be drawn.

    Raises:
        SetupError: the folder cannot be written to or has no room.
    """

    def __init__(self, recipe: Recipe, cache_dir: str, on_drawn: OnDrawn = _ignore) -> None:
        self._recipe = recipe
        starts = recipe.starts
        small = 4 * starts[-1] <= IN_MEMORY_BYTES
        vector = _drawn(recipe, on_drawn) if small else _mapped(recipe, Path(cache_dir).expanduser(), on_drawn)
        self._tables = [
            vector[start:stop].reshape(rows, hotness - 1)
            for (start, stop), rows, hotness in zip(pairwise(starts), recipe.rows, recipe.hotness, strict=True)
        ]

    def expand(self, ids_BF: torch.Tensor) -> torch.Tensor:
        """The bags of B samples, made in this thread (NumPy's copies are, torch's would call its others).

        Args:
            ids_BF: int32 or int64 (B, F), on the host.

        Returns:
            ids_BS of the same type, S = sum of the hotness: the bag of feature 0, then that of feature 1, ... An id
            outside of its table stays first in its bag as it is; the others are then those of the id modulo the rows.
        """
        ids_BS = ids_BF.new_empty(ids_BF.shape[0], sum(self._recipe.hotness))
        for feature, bags_BL in enumerate(ids_BS.split(self._recipe.hotness, dim=1)):
            self.fill(feature, ids_BF[:, feature].numpy(), bags_BL.numpy())
        return ids_BS

    def fill(self, feature: int, ids_B: NDArray[np.integer], bags_BL: NDArray[np.integer]) -> None:
        """Write the bags of one feature (its index) into ``bags_BL``, int32 or int64 (B, hotness)."""
        bags_BL[:, 0] = ids_B
        if self._recipe.hotness[feature] > 1:
            bags_BL[:, 1:] = self._tables[feature].take(ids_B % self._recipe.rows[feature], axis=0)


def _drawn(recipe: Recipe, on_drawn: OnDrawn) -> NDArray[np.int32]:
    vector = np.empty(recipe.starts[-1], dtype=np.int32)
    at = 0
    for piece in recipe.draw():
        vector[at : at + len(piece)] = piece
        at += len(piece)
        on_drawn(len(piece))
    return vector


def _mapped(recipe: Recipe, folder: Path, on_drawn: OnDrawn) -> NDArray[np.int32]:
    path = folder / f"mlperf_multi_hot_{recipe.digest}.i32"
    count = recipe.starts[-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(path.with_suffix(".lock")):
            if not path.exists():
                _check_room(folder, 4 * count)
                _LOG.info("drawing %d ids of MLPerf's multi-hot recipe into %s", count, path)
                _draw_file(recipe, path, on_drawn)
    except OSError as error:
        raise SetupError(
            f"{path}: cannot write the multi-hot recipe's lookup tables there ({error.strerror}); name another folder as "
            "cache_dir (hashed ids need none)"
        ) from None
    if path.stat().st_size != 4 * count:
        raise SetupError(f"{path}: has {path.stat().st_size:,} bytes instead of {4 * count:,}; delete it")
    return np.memmap(path, dtype="<i4", mode="r", shape=(count,)).view(np.ndarray)


def _draw_file(recipe: Recipe, path: Path, on_drawn: OnDrawn) -> None:
    with written_beside(path) as file:
        for piece in recipe.draw():
            file.write(piece.astype("<i4", copy=False).data)
            on_drawn(len(piece))


def _check_room(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise SetupError(
            f"{folder}: the multi-hot recipe's lookup tables need {need / 2**30:.1f} GiB there, {free / 2**30:.1f} GiB are "
            "free; make room, or name another folder as cache_dir (hashed ids need none)"
        )
