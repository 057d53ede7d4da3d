"""Profiles of id streams, and the file that they are kept in.

Of every column: how many references there are, how many of them cold, and how the stack distances of the others are
distributed (:mod:`dlrm.data.synthetic.lru_stack` defines these words).

The cumulative distribution is kept as *knots* between which it is linear. They are chosen so that it is nowhere further
than a tolerance, a share of all references, from the recorded one: a stream that returns to each id after exactly 5,000
others needs two knots, a smooth distribution some dozens, and none more than 2 / tolerance. The file is JSON, of at most
a megabyte for 26 columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from dlrm.compiled import compiled
from dlrm.data.json_files import read_record, write_record
from dlrm.data.synthetic.lru_stack import stack_distances
from dlrm.errors import DataError

FORMAT: Literal["dlrm-trace-profile"] = "dlrm-trace-profile"
VERSION: Literal[1] = 1
TOLERANCE = 0.001
"""How far the kept distribution may be from the recorded one anywhere (Kolmogorov-Smirnov distance)."""
MOST_REFERENCES = 2**31 - 1


@dataclass(frozen=True)
class ColumnProfile:
    """The stack distances of one stream.

    Attributes:
        name: of the column; rows: of its table.
        references: length of the stream; distinct: ids in it, which is the number of cold references.
        distances_K: int64, ascending, at least 1.
        reuses_K: int64, references that are not cold and whose distance is at most ``distances_K``; linear in between
            and from (0, 0) to the first knot.
    """

    name: str
    rows: int
    references: int
    distinct: int
    distances_K: NDArray[np.int64]
    reuses_K: NDArray[np.int64]

    def distances(self, drawn_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """The stack distances that 0 .. references - 1 stand for: 0 (cold) for the first ``distinct``, then ascending.

        Numbers drawn uniformly give the profile's distribution.
        """
        reuse_M = drawn_M - self.distinct
        distances_M = np.zeros(len(drawn_M), np.int64)
        warm_M = reuse_M >= 0
        distances_M[warm_M] = self._reuse_distances(reuse_M[warm_M])
        return distances_M

    def _reuse_distances(self, reuse_M: NDArray[np.int64]) -> NDArray[np.int64]:
        knot_M = np.searchsorted(self.reuses_K, reuse_M, side="right")
        nearer_M, earlier_M = np.append(0, self.distances_K)[knot_M], np.append(0, self.reuses_K)[knot_M]
        width_M, share_M = self.distances_K[knot_M] - nearer_M, self.reuses_K[knot_M] - earlier_M
        distances_M: NDArray[np.int64] = nearer_M + 1 + (reuse_M - earlier_M) * width_M // share_M
        return distances_M

    def hit_rate(self, cache_rows: int) -> float:
        """Share of all references that an LRU cache of so many rows holds."""
        hits = np.interp(cache_rows, np.append(0, self.distances_K), np.append(0, self.reuses_K))
        return float(hits) / self.references

    def reuse_quantile(self, share: float) -> int:
        """The stack distance that this share of the references that are not cold do not exceed; 0 if all are cold."""
        reuses = self.references - self.distinct
        return int(self._reuse_distances(np.array([min(int(share * reuses), reuses - 1)]))[0]) if reuses else 0


@dataclass(frozen=True)
class TraceProfile:
    """The profiles of the columns of a data set, in order."""

    columns: tuple[ColumnProfile, ...]


def profile_column(name: str, rows: int, ids_M: NDArray[np.integer], tolerance: float = TOLERANCE) -> ColumnProfile:
    """Profile a stream of ids.

    Args:
        name: of the column.
        rows: of its table.
        ids_M: at least one, fewer than 2^31.
        tolerance: how far the distribution may be from the recorded one; 0: it is that.
    """
    counts_D = np.bincount(stack_distances(ids_M))
    distances_K, reuses_K = knots(counts_D, tolerance * len(ids_M))
    return ColumnProfile(name, rows, len(ids_M), int(counts_D[0]), distances_K, reuses_K)


def knots(counts_D: NDArray[np.int64], tolerance: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A piecewise linear cumulative distribution that is close to the given one.

    The swing filter of Elmeleegy et al. ("Online piece-wise linear approximation of numerical streams", VLDB 2009), but
    with every line ending on the distribution itself: a line grows while it passes all of its steps within the
    tolerance. More than the tolerance lies between any knot and the next but one, which bounds their number.

    Args:
        counts_D: references of distance 0, 1, ...; those of distance 0 are left out.
        tolerance: how many references the two may differ by.

    Returns:
        distances and cumulative references of the knots.
    """
    occurring = np.flatnonzero(counts_D[1:]) + 1
    after = np.cumsum(counts_D[occurring])
    # The distribution is a staircase: before each step it has the height after the last one.
    points = np.stack([occurring - 1, after - counts_D[occurring], occurring, after], axis=1).reshape(-1, 2)
    kept = points[_line_ends(points, tolerance)]
    return kept[:, 0], kept[:, 1]


@compiled
def _line_ends(points: NDArray[np.int64], tolerance: float) -> NDArray[np.bool_]:
    """Which of the points (x, y), ascending in both, the lines end at; the first one starts at (0, 0)."""
    ends = np.zeros(len(points), np.bool_)
    x, y, lowest, highest = 0, 0, 0.0, np.inf
    for p in range(len(points)):
        if points[p, 0] == x:
            continue  # the point where the line starts, a second time
        slope = (points[p, 1] - y) / (points[p, 0] - x)
        if not lowest <= slope <= highest:
            ends[p - 1] = True
            x, y, lowest, highest = points[p - 1, 0], points[p - 1, 1], 0.0, np.inf
            if points[p, 0] == x:
                continue
        lowest = max(lowest, (points[p, 1] - tolerance - y) / (points[p, 0] - x))
        highest = min(highest, (points[p, 1] + tolerance - y) / (points[p, 0] - x))
    if len(points):
        ends[len(points) - 1] = True
    return ends


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_Count = Annotated[int, Field(ge=0, le=MOST_REFERENCES)]
_Positive = Annotated[int, Field(ge=1, le=MOST_REFERENCES)]


class _ColumnRecord(_Record):
    name: str
    rows: Annotated[int, Field(ge=1, le=2**40)]
    references: _Positive
    distinct: _Positive
    distances: tuple[_Positive, ...]
    reuses: tuple[_Count, ...]


class _ProfileRecord(_Record):
    format: Literal["dlrm-trace-profile"] = FORMAT
    version: Literal[1] = VERSION
    columns: Annotated[tuple[_ColumnRecord, ...], Field(min_length=1)]


def write_profile(profile: TraceProfile, path: str) -> None:
    """Write the file, beside and renamed.

    Raises:
        DataError: the folder cannot be written to.
    """
    records = tuple(
        _ColumnRecord(
            name=column.name,
            rows=column.rows,
            references=column.references,
            distinct=column.distinct,
            distances=tuple(column.distances_K.tolist()),
            reuses=tuple(column.reuses_K.tolist()),
        )
        for column in profile.columns
    )
    write_record(_ProfileRecord(columns=records), path)


def is_profile(path: str) -> bool:
    """Whether a file begins as those of :func:`write_profile` do, which may be replaced, damaged or not."""
    beginning = f'{{"format":"{FORMAT}"'.encode()
    file = Path(path).expanduser()
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(beginning)) == beginning


def read_profile(path: str) -> TraceProfile:
    """Read a file of :func:`write_profile`.

    Raises:
        DataError: there is no such file, it is no profile or another version, or a value in it cannot be.
    """
    other = "is not a profile of id streams"
    record = read_record(_ProfileRecord, path, other=other, made_by="synthesize", again="profile again")
    return TraceProfile(tuple(_column(column, i, path) for i, column in enumerate(record.columns)))


def _column(record: _ColumnRecord, number: int, path: str) -> ColumnProfile:
    """The column, if it can be that of a stream."""
    where = f"columns.{number}"
    if record.distinct > record.references:
        problem = f"{record.distinct} distinct ids in {record.references} references cannot be"
        raise _damaged(path, f"{where}.distinct", problem)
    if len(record.reuses) != len(record.distances):
        problem = f"has {len(record.reuses)} entries, distances has {len(record.distances)}"
        raise _damaged(path, f"{where}.reuses", problem)
    if not _ascending(record.distances, strictly=True) or max(record.distances, default=0) > record.distinct:
        problem = f"must ascend and not exceed the number of distinct ids ({record.distinct})"
        raise _damaged(path, f"{where}.distances", problem)
    reuses = record.references - record.distinct
    if not _ascending(record.reuses, strictly=False) or (record.reuses[-1] if record.reuses else 0) != reuses:
        raise _damaged(path, f"{where}.reuses", f"must ascend to references - distinct ({reuses})")
    return ColumnProfile(
        name=record.name,
        rows=record.rows,
        references=record.references,
        distinct=record.distinct,
        distances_K=np.array(record.distances, np.int64),
        reuses_K=np.array(record.reuses, np.int64),
    )


def _ascending(values: Sequence[int], *, strictly: bool) -> bool:
    return all(a < b or (a == b and not strictly) for a, b in pairwise(values))


def _damaged(path: str, where: str, problem: str) -> DataError:
    return DataError(path, f"{where}: {problem}", hint="restore it or profile again")
