"""Which rows of a packed data set are looked at, and their values by column.

A *region* is the rows of a part that are for one thing (training, validation, test, or nothing). Small parts are read
whole; of larger ones each region gives its share of the rows, in contiguous *blocks* spread evenly over it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrm.data.packed.folder import PackedFolder, PackedPart
from dlrm.data.packed.split import Part, ResolvedSplit, Span

BLOCK_ROWS = 8192
_MEMORY_BYTES = 1 << 29  # of the columns that are in memory at a time

SPLITS = ("train", "validation", "test")
UNUSED = "unused"

Columns = Callable[[PackedPart], Sequence[NDArray[Any]]]
"""The columns of a part, each (M, L)."""


@dataclass(frozen=True)
class Region:
    """Rows start .. stop - 1 of a part and what they are for."""

    part: str
    start: int
    stop: int
    split: str

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """Contiguous rows of a region."""

    region: Region
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class RowSample:
    """The rows that are looked at.

    Attributes:
        regions: all rows of the data set; blocks: those that are looked at.
        rows: rows of the data set; taken: rows of the blocks.
    """

    regions: tuple[Region, ...]
    blocks: tuple[Block, ...]
    rows: int
    taken: int

    @property
    def whole(self) -> bool:
        """Whether every row is looked at."""
        return self.taken == self.rows


def sample_rows(parts: Sequence[Part], split: ResolvedSplit | None, rows_of_part: int) -> RowSample:
    """Choose the rows.

    Args:
        parts: all parts.
        split: what their rows are for, if that is known.
        rows_of_part: about how many rows of each part to look at (at least one of each region).
    """
    regions = tuple(region for part in parts for region in _regions(part, split))
    sizes = {part.name: part.rows for part in parts}
    blocks = tuple(block for region in regions for block in _blocks(region, sizes[region.part], rows_of_part))
    return RowSample(regions, blocks, sum(sizes.values()), sum(len(block) for block in blocks))


def _regions(part: Part, split: ResolvedSplit | None) -> Iterator[Region]:
    spans: list[tuple[Span, str]] = []
    if split is not None:
        spans = [(span, name) for name in SPLITS for span in getattr(split, name) if span.part == part.name]
    at = 0
    for span, name in sorted(spans, key=lambda entry: entry[0].start):
        if at < span.start:
            yield Region(part.name, at, span.start, UNUSED)
        if len(span):
            yield Region(part.name, span.start, span.stop, name)
        at = span.stop
    if at < part.rows:
        yield Region(part.name, at, part.rows, UNUSED)


def _blocks(region: Region, part_rows: int, rows_of_part: int) -> Iterator[Block]:
    wanted = len(region) if part_rows <= rows_of_part else max(1, len(region) * rows_of_part // part_rows)
    count = -(-wanted // BLOCK_ROWS)
    for i in range(count):
        taken, following = i * wanted // count, (i + 1) * wanted // count
        skipped = (2 * i + 1) * (len(region) - wanted) // (2 * count)  # what is left out, spread around the blocks
        start = region.start + taken + skipped
        yield Block(region, start, start + following - taken)


def sampled_columns(
    folder: PackedFolder, blocks: Sequence[Block], columns: Columns
) -> Iterator[tuple[int, NDArray[Any]]]:
    """The values of each column in all blocks, one column after the other, a few of them in memory at a time.

    Yields:
        number of the column, and its values in order of rows, (rows of the blocks * L,); the caller may change them.

    Raises:
        DataError: a file became shorter since it was opened.
    """
    parts = {part.name: part for part in folder.parts}
    by_name = {part.name: columns(part) for part in folder.parts}
    first = next(iter(by_name.values()))
    offsets = np.cumsum([0, *(len(block) for block in blocks)])
    sizes = [int(offsets[-1]) * column.shape[1] * column.itemsize for column in first]
    for group in _groups(sizes):
        values = [np.empty((offsets[-1], first[i].shape[1]), np.result_type(*_types(by_name, i))) for i in group]

        def copy(number: int, group: list[int] = group, values: list[NDArray[Any]] = values) -> None:
            block = blocks[number]
            for file in parts[block.region.part].files.values():
                file.check_size()
            for column, target in zip(group, values, strict=True):
                found_ML = by_name[block.region.part][column]
                target[offsets[number] : offsets[number + 1]] = found_ML[block.start : block.stop]

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for _ in threads.map(copy, range(len(blocks))):
                pass
        while group:
            yield group.pop(0), values.pop(0).reshape(-1)


def _types(by_name: dict[str, Sequence[NDArray[Any]]], column: int) -> set[np.dtype[Any]]:
    return {columns[column].dtype for columns in by_name.values()}


def _groups(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Columns that fit into memory together, in order; at least one at a time."""
    group: list[int] = []
    for column, size in enumerate(sizes):
        if group and sum(sizes[i] for i in group) + size > _MEMORY_BYTES:
            yield group
            group = []
        group.append(column)
    if group:
        yield group
