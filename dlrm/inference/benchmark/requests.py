"""Requests to choose from: as many as fit into a little memory, made before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dlrm.inference.benchmark.rows import Row, made_up_rows, rows_of_file
from dlrm.inference.features import Features
from dlrm.inference.raw import Preprocessing

POOL_ROWS = 4096

Given = Literal["features", "raw"]


@dataclass(frozen=True)
class Requests:
    """Requests of one export.

    Attributes:
        raw: rows of each, as JSON has them; features: the same, encoded; preprocessing: that encodes them.
    """

    raw: list[list[Row]]
    features: list[Features]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.raw)

    def take(self, number: int, given: Given) -> Features:
        """The features of a request; encoded now where it is given raw."""
        at = number % len(self.raw)
        return self.features[at] if given == "features" else self.preprocessing.from_json(self.raw[at])


def make_rows(preprocessing: Preprocessing, *, data: str, skew: float, seed: int) -> list[Row]:
    """The rows of the pool: of a file if one is given, or else made up.

    Raises:
        ConfigError: of the file.
    """
    if data:
        return rows_of_file(data, preprocessing, POOL_ROWS)
    return made_up_rows(preprocessing, POOL_ROWS, skew=skew, rng=np.random.default_rng([seed, 1]))


def make_requests(preprocessing: Preprocessing, rows: list[Row], request_rows: int, *, seed: int) -> Requests:
    """Requests of rows that are drawn from the pool.

    Args:
        preprocessing: of the export.
        rows: the pool.
        request_rows: rows of each.
        seed: of the drawing.
    """
    count = max(16, len(rows) // request_rows)
    chosen = np.random.default_rng([seed, 2]).integers(len(rows), size=(count, request_rows))
    raw = [[rows[place] for place in places] for places in chosen.tolist()]
    return Requests(raw, [preprocessing.from_json(of_request) for of_request in raw], preprocessing)
