"""What an input is: rows in blocks, which can be read without those before them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dlrm.errors import DataError
from dlrm.inference.features import Features

Wanted = Callable[[int], bool]
"""Whether a block is wanted; asked once for each, in order."""


@dataclass(frozen=True)
class Decoded:
    """B rows: features, and labels float32 (B, T) with NaN where one is missing; None where there are none."""

    features: Features
    labels_BT: torch.Tensor | None


class Block(ABC):
    """Consecutive rows of an input, read but not decoded.

    Attributes:
        index: which block of its input; rows: how many.
    """

    def __init__(self, index: int, rows: int) -> None:
        self.index, self.rows = index, rows

    @abstractmethod
    def decode(self, rows: slice) -> Decoded:
        """Some of the rows; several threads may ask at once.

        Raises:
            DataError: the first row that is none, counted from 1 within the block.
        """

    @abstractmethod
    def carried(self) -> list[pa.Array]:
        """The columns to carry, of all rows; null where a row that cannot be read has none."""

    @abstractmethod
    def located(self, error: DataError) -> DataError:
        """An error of :meth:`decode` with the row of the file."""


class Input(ABC):
    """A file, or a packed data set.

    Attributes:
        path: where it is, for messages; stamp: by what it is known again.
        rows: how many there are, at least about; blocks: how many there are, None where that is known at the end only.
        labelled: whether the rows have labels; carried: the columns that are carried.
    """

    path: str
    stamp: dict[str, Any]
    rows: int
    blocks: int | None
    labelled: bool
    carried: tuple[pa.Field, ...]

    @abstractmethod
    def read(self, wanted: Wanted) -> Iterator[Block]:
        """The wanted blocks, in order.

        Raises:
            DataError: the input cannot be read, or has changed.
        """


def checked_labels(labels_BT: torch.Tensor, tasks: Sequence[str], *, name: str) -> torch.Tensor:
    """Labels float32 (B, T), each 0, 1 or NaN.

    Raises:
        DataError: the first other one, rows counted from 1.
    """
    good_BT = (labels_BT == 0) | (labels_BT == 1) | labels_BT.isnan()
    if not bool(good_BT.all()):
        row, task = np.argwhere(~good_BT.numpy())[0].tolist()
        problem = f"label {labels_BT[row, task].item():g} is neither 0 nor 1"
        hint = "mend it, or set labels to false"
        raise DataError(name, problem, row=row + 1, column=tasks[task], hint=hint)
    return labels_BT


def moved(error: DataError, rows: int) -> DataError:
    """The same error, so many rows later."""
    if error.row is None:
        return error
    return DataError(error.path, error.problem, row=error.row + rows, column=error.column, hint=error.hint)
