"""Checks of the values in the files of a packed data set, block of rows by block; a fault is raised as a DataError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dlrm.data.packed.arrays import PREPARE_AGAIN
from dlrm.data.packed.folder import SAMPLE_WEIGHT
from dlrm.data.packed.source import MISSING
from dlrm.errors import DataError


class ValueCheck(Protocol):
    """Sees all rows of an array, in order."""

    def block(self, values_MC: NDArray[Any], first_row: int) -> None:
        """Look at the next rows.

        Args:
            values_MC: (rows, columns), possibly unaligned.
            first_row: number of the first, from 0.

        Raises:
            DataError: the first value that must not be there.
        """

    def end(self, rows: int) -> None:
        """Say what only shows at the end, after ``rows`` rows.

        Raises:
            DataError: what is wrong with the array as a whole.
        """


class DenseCheck:
    """Every value is finite.

    Args:
        path: how messages call the file; names: the columns.
    """

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self._path, self._names = path, names

    def block(self, values_MC: NDArray[Any], first_row: int) -> None:
        """Look at float32 values."""
        good_MC = np.isfinite(values_MC)
        if not good_MC.all():
            row, column = np.argwhere(~good_MC)[0]
            problem = f"{values_MC[row, column]} is not finite"
            raise DataError(
                self._path, problem, row=first_row + int(row) + 1, column=self._names[column], hint=PREPARE_AGAIN
            )

    def end(self, rows: int) -> None:
        """Nothing more."""


class WeightsCheck:
    """Every weight of a sample is finite and not negative.

    Args:
        path: how messages call the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def block(self, values_MC: NDArray[Any], first_row: int) -> None:
        """Look at float32 weights."""
        good_M = (values_MC[:, 0] >= 0) & np.isfinite(values_MC[:, 0])
        if not good_M.all():
            row = int(good_M.argmin())
            problem = f"{values_MC[row, 0]} is no weight: a finite number from 0 on"
            raise DataError(self._path, problem, row=first_row + row + 1, column=SAMPLE_WEIGHT, hint=PREPARE_AGAIN)

    def end(self, rows: int) -> None:
        """Nothing more."""


class IdsCheck:
    """Every id is within its table.

    Args:
        path: how messages call the file; names: of the table that each column's ids are of.
        rows: of these tables; None: any that is not negative will do.
    """

    def __init__(self, path: str, names: Sequence[str], rows: Sequence[int] | None) -> None:
        self._path, self._names, self._rows = path, names, rows
        limits = [rows[i] if rows is not None else 2**63 for i in range(len(names))]
        # A negative id is at least 2^31 (or 2^63) as an unsigned number: one comparison finds both kinds.
        self._limits: dict[int, NDArray[Any]] = {
            4: np.array([min(limit, 2**31) for limit in limits], np.uint32),
            8: np.array(limits, np.uint64),
        }

    def block(self, values_MC: NDArray[Any], first_row: int) -> None:
        """Look at int32 or int64 ids."""
        limit_C = self._limits[values_MC.itemsize]
        if (_largest(values_MC.view(limit_C.dtype)) < limit_C).all():
            return
        row, column = np.argwhere(values_MC.view(limit_C.dtype) >= limit_C)[0]
        table = f"outside of its table (0 .. {self._rows[column] - 1:,})" if self._rows is not None else "negative"
        problem = f"id {values_MC[row, column]} is {table}"
        raise DataError(
            self._path, problem, row=first_row + int(row) + 1, column=self._names[column], hint=PREPARE_AGAIN
        )

    def end(self, rows: int) -> None:
        """Nothing more."""


class LabelsCheck:
    """Every label is 0 or 1; of several tasks' labels some may be missing, but not all of a row.

    Args:
        path: how messages call the file; tasks: names of its columns.
        clicks: how many labels of the first task are 1, if that is recorded.
    """

    def __init__(self, path: str, tasks: Sequence[str], clicks: int | None) -> None:
        self._path, self._tasks, self._recorded = path, tasks, clicks
        self._clicks = 0

    def block(self, values_MC: NDArray[Any], first_row: int) -> None:
        """Look at int32 labels."""
        bad_MC = (values_MC < 0) | (values_MC > 1)
        if bad_MC.any() and len(self._tasks) > 1:
            missing_MC = values_MC == MISSING
            bad_MC &= ~missing_MC | missing_MC.all(1, keepdims=True)
        if bad_MC.any():
            row, task = np.argwhere(bad_MC)[0].tolist()
            problem = f"{values_MC[row, task]} is neither 0 nor 1"
            raise DataError(self._path, problem, row=first_row + row + 1, column=self._tasks[task], hint=PREPARE_AGAIN)
        self._clicks += int(np.count_nonzero(values_MC[:, 0] == 1))

    def end(self, rows: int) -> None:
        """Compare the number of clicks."""
        if self._recorded is not None and self._clicks != self._recorded:
            problem = f"has {self._clicks:,} labels that are 1, dataset.json says {self._recorded:,}"
            raise DataError(self._path, problem, hint=PREPARE_AGAIN)


class VocabularyCheck:
    """Raw values ascend, and there are as many as the table has rows for.

    Args:
        path: how messages call the file; column: whose vocabulary it is.
        sizes: how many values there may be.
    """

    def __init__(self, path: str, column: str, sizes: Sequence[int]) -> None:
        self._path, self._column, self._sizes = path, column, sizes
        self._last = -1

    def block(self, values_MC: NDArray[Any], first_row: int) -> None:
        """Look at uint32 raw values."""
        before_M = np.concatenate([[self._last], values_MC[:-1, 0].astype(np.int64)])
        bad_M = values_MC[:, 0] <= before_M
        if bad_M.any():
            row = int(bad_M.argmax())
            problem = f"value {values_MC[row, 0]} follows {before_M[row]}, values must ascend"
            raise DataError(self._path, problem, row=first_row + row + 1, column=self._column, hint=PREPARE_AGAIN)
        self._last = int(values_MC[-1, 0])

    def end(self, rows: int) -> None:
        """Compare the number of values with the table."""
        if rows not in self._sizes:
            needed = " or ".join(f"{size:,}" for size in self._sizes)
            problem = f"has {rows:,} values, the table of dataset.json is for {needed}"
            raise DataError(self._path, problem, column=self._column, hint=PREPARE_AGAIN)


_STRIP_ROWS = 64


def _largest(values_MC: NDArray[Any]) -> NDArray[Any]:
    """The largest value of each column; rows are taken in strips, because numpy is slow along short rows."""
    strips = len(values_MC) // _STRIP_ROWS
    columns = values_MC.shape[1]
    whole = values_MC[: strips * _STRIP_ROWS]
    found = [values_MC[strips * _STRIP_ROWS :]]
    if strips:
        found.append(whole.reshape(strips, _STRIP_ROWS * columns).max(axis=0).reshape(_STRIP_ROWS, columns))
    largest_C: NDArray[Any] = np.concatenate(found).max(axis=0)
    return largest_C
