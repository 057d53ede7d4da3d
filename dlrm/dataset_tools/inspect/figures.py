"""What there is to say of a packed data set, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrm.data.id_statistics.measured import MeasuredIds, measure_ids
from dlrm.data.packed.folder import PackedFolder, PackedPart
from dlrm.data.packed.manifest import Manifest, PartRecord
from dlrm.dataset_tools.inspect.sample import SPLITS, UNUSED, Block, Region, RowSample, sampled_columns
from dlrm.dataset_tools.inspect.skew import Skew, skew_of, value_counts
from dlrm.schema import SparseFeature

_HISTOGRAM_BINS = 60
_MOST_SPREAD = 1 << 22  # ids of a column that are sorted for it


@dataclass(frozen=True)
class Rate:
    """A share of rows; ``exact`` where all rows were counted."""

    share: float
    exact: bool


@dataclass(frozen=True)
class RowFigures:
    """Some rows: a part or a split.

    Attributes:
        name: of the part or split; rows: how many; nbytes: of its files (0 for splits).
        uses: for a part, what its rows are for.
        click_rate: share of rows with label 1; None without rows.
    """

    name: str
    rows: int
    click_rate: Rate | None
    uses: tuple[Region, ...] = ()
    nbytes: int = 0


@dataclass(frozen=True)
class SparseFigures:
    """A sparse column.

    Attributes:
        table_rows: size of its table, or the largest id looked at + 1 where nothing records it.
        hotness: ids a row.
        missing: share of rows whose raw field was empty; unseen: share of validation and test rows whose category has no
            id of its own; None where the data do not tell.
        outside: ids looked at that are outside of the table.
        skew: of all ids looked at; spread: over the table, of as many of them as are sorted quickly.
    """

    name: str
    table_rows: int
    hotness: int
    missing: Rate | None
    unseen: Rate | None
    outside: int
    skew: Skew
    spread: MeasuredIds


@dataclass(frozen=True)
class DenseFigures:
    """A dense column: of its finite values, mean, extremes, the commonest one and its share, a histogram.

    Attributes:
        missing: share of rows whose raw field was empty; None where the data do not tell.
        not_finite: values looked at that are NaN or infinite.
        histogram: counts and edges, of the values between the 0.1th and the 99.9th percentile.
    """

    name: str
    missing: Rate | None
    mean: float
    minimum: float
    maximum: float
    commonest: float
    commonest_share: float
    not_finite: int
    histogram: tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class Reserved:
    """Ids with a meaning of their own.

    Attributes:
        missing, unseen: the id that stands for it; None where there is none.
        count: how many ids there are before the first category's; None where that is not recorded.
    """

    missing: int | None = None
    unseen: int | None = None
    count: int | None = None


@dataclass(frozen=True)
class Figures:
    """Everything that is shown of a data set.

    Attributes:
        path: its folder; sample: the rows that were looked at.
        parts, splits: rows and click rates; sparse, dense: by column.
        table_rows_known: whether the sizes of the tables are recorded.
    """

    path: str
    sample: RowSample
    parts: tuple[RowFigures, ...]
    splits: tuple[RowFigures, ...]
    sparse: tuple[SparseFigures, ...]
    dense: tuple[DenseFigures, ...]
    table_rows_known: bool


def figures_of(folder: PackedFolder, sample: RowSample) -> Figures:
    """Look at the rows of ``sample`` and at what dataset.json records."""
    clicks = _clicks_by_region(folder, sample)
    return Figures(
        path=folder.path,
        sample=sample,
        parts=tuple(_part(part, folder, clicks) for part in folder.parts),
        splits=tuple(_splits(clicks)),
        sparse=tuple(_sparse(folder, sample)),
        dense=tuple(_dense(folder, sample)),
        table_rows_known=folder.manifest is not None,
    )


def reserved_ids(manifest: Manifest | None) -> Reserved:
    """Which ids stand for missing and for unseen categories, as far as preprocessing recorded it."""
    parameters = manifest.preprocessing.get("parameters", {}) if manifest is not None else {}
    categories = parameters.get("categories", {}) if isinstance(parameters, dict) else {}
    match categories:
        case {"kind": "vocabulary", "reserved": "separate"}:
            return Reserved(missing=0, unseen=1, count=2)
        case {"kind": "hashing"}:
            return Reserved(missing=0, count=1)
        case {"kind": "vocabulary", "reserved": "mlperf"}:
            return Reserved(count=0)
        case _:
            return Reserved()


def ids_by_column(part: PackedPart) -> list[NDArray[Any]]:
    """The ids of each sparse column, (M, hotness)."""
    if part.multi_hot is not None:
        return list(part.multi_hot)
    return [part.sparse_MF[:, i : i + 1] for i in range(part.sparse_MF.shape[1])]


@dataclass(frozen=True)
class _Clicks:
    """Rows looked at and how many of them have label 1, of several labels the first."""

    rows: int = 0
    clicks: int = 0

    def __add__(self, other: _Clicks) -> _Clicks:
        return _Clicks(self.rows + other.rows, self.clicks + other.clicks)

    def rate(self, of_rows: int) -> Rate | None:
        return Rate(self.clicks / self.rows, exact=self.rows == of_rows) if self.rows else None


def _clicks_by_region(folder: PackedFolder, sample: RowSample) -> dict[Region, _Clicks]:
    """Exact where a part was read whole or dataset.json counts the clicks of a part that is for one thing."""
    labels = {part.name: part.labels_MT for part in folder.parts}
    found = dict.fromkeys(sample.regions, _Clicks())
    for block in sample.blocks:
        clicks = int(np.count_nonzero(labels[block.region.part][block.start : block.stop, 0] == 1))
        found[block.region] += _Clicks(len(block), clicks)
    for part in folder.parts:
        record = _record(folder.manifest, part.name)
        regions = [region for region in sample.regions if region.part == part.name]
        if record is not None and record.clicks is not None and len(regions) == 1:
            found[regions[0]] = _Clicks(part.rows, record.clicks)
    return found


def _record(manifest: Manifest | None, part: str) -> PartRecord | None:
    if manifest is None:
        return None
    return next(record for record in manifest.parts if record.name == part)


def _part(part: PackedPart, folder: PackedFolder, clicks: dict[Region, _Clicks]) -> RowFigures:
    regions = [region for region in clicks if region.part == part.name]
    record = _record(folder.manifest, part.name)
    rate = sum((clicks[region] for region in regions), _Clicks()).rate(part.rows)
    if record is not None and record.clicks is not None and part.rows:
        rate = Rate(record.clicks / part.rows, exact=True)
    nbytes = sum(Path(path).stat().st_size for path in part.paths.values())
    return RowFigures(part.name, part.rows, rate, tuple(regions), nbytes)


def _splits(clicks: dict[Region, _Clicks]) -> list[RowFigures]:
    found = []
    for split in (*SPLITS, UNUSED):
        regions = [region for region in clicks if region.split == split]
        rows = sum(len(region) for region in regions)
        if rows:
            rate = sum((clicks[region] for region in regions), _Clicks()).rate(rows)
            found.append(RowFigures(split, rows, rate))
    return found


def _sparse(folder: PackedFolder, sample: RowSample) -> list[SparseFigures]:
    reserved = reserved_ids(folder.manifest)
    held_out = [block for block in sample.blocks if block.region.split in ("validation", "test")]
    unseen = _shares(folder, held_out, reserved.unseen)
    found = []
    for i, ids in sampled_columns(folder, sample.blocks, ids_by_column):
        feature = folder.schema.sparse[i]
        table_rows = feature.rows if folder.manifest is not None else max(int(ids.max()) + 1, 1)
        spread = _spread(feature, table_rows, ids)
        distinct, counts = value_counts(ids)  # sorts
        missing = _missing(folder, feature.name)
        if missing is None and reserved.missing is not None:
            missing = Rate(float(counts[distinct == reserved.missing].sum() / len(ids)), exact=sample.whole)
        found.append(
            SparseFigures(
                name=feature.name,
                table_rows=table_rows,
                hotness=feature.hotness,
                missing=missing,
                unseen=Rate(unseen[i], exact=sample.whole) if unseen else None,
                outside=int(counts[(distinct < 0) | (distinct >= table_rows)].sum()),
                skew=skew_of(counts),
                spread=spread,
            )
        )
    return found


def _spread(feature: SparseFeature, table_rows: int, ids: NDArray[Any]) -> MeasuredIds:
    step = -(-len(ids) // _MOST_SPREAD)
    ids_ML = ids.reshape(-1, feature.hotness)[::step]
    samples_M = np.repeat(np.arange(len(ids_ML)), feature.hotness)
    return measure_ids(feature.name, table_rows, ids_ML.reshape(-1), samples_M)


def _shares(folder: PackedFolder, blocks: Sequence[Block], value: int | None) -> list[float]:
    """Share of ``value`` in each sparse column of these blocks; empty where there is nothing to count."""
    if value is None or not blocks:
        return []
    return [float((ids == value).mean()) for _, ids in sampled_columns(folder, blocks, ids_by_column)]


def _missing(folder: PackedFolder, column: str) -> Rate | None:
    """What dataset.json counted over all parts or, where rows were moved between parts, over all raw files."""
    if folder.manifest is None:
        return None
    records = [(part.rows, part.missing or {}) for part in folder.manifest.parts]
    for counted in (records, _counted_in(folder.manifest.preprocessing.get("sources"), column)):
        rows = sum(count for count, _ in counted)
        if rows and all(column in missing for _, missing in counted):
            return Rate(sum(missing[column] for _, missing in counted) / rows, exact=True)
    return None


def _counted_in(sources: Any, column: str) -> list[tuple[int, dict[str, int]]]:
    """Rows and empty fields of a column of each raw file; none where that is not recorded as preprocessing does."""
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        return []
    found = [(source.get("rows", 0), source.get("missing", {})) for source in sources]
    known = all(
        type(rows) is int and rows >= 0 and isinstance(missing, dict) and type(missing.get(column, 0)) is int
        for rows, missing in found
    )
    return found if known else []


def _dense(folder: PackedFolder, sample: RowSample) -> list[DenseFigures]:
    def columns(part: PackedPart) -> list[NDArray[Any]]:
        return [part.dense_MN[:, i : i + 1] for i in range(part.dense_MN.shape[1])]

    names = folder.schema.dense
    return [
        _dense_column(names[i], values, _missing(folder, names[i]))
        for i, values in sampled_columns(folder, sample.blocks, columns)
    ]


def _dense_column(name: str, values: NDArray[np.float32], missing: Rate | None) -> DenseFigures:
    finite = values[np.isfinite(values)]
    not_finite = len(values) - len(finite)
    if not len(finite):
        empty = np.zeros(1, np.int64), np.zeros(2)
        nan = float("nan")
        return DenseFigures(name, missing, nan, nan, nan, nan, 0.0, not_finite, empty)
    distinct, counts = value_counts(finite)  # sorts
    low, high = finite[int(0.001 * (len(finite) - 1))], finite[int(0.999 * (len(finite) - 1))]
    commonest = int(counts.argmax())
    return DenseFigures(
        name=name,
        missing=missing,
        mean=float(finite.mean(dtype=np.float64)),
        minimum=float(finite[0]),
        maximum=float(finite[-1]),
        commonest=float(distinct[commonest]),
        commonest_share=float(counts[commonest] / len(finite)),
        not_finite=not_finite,
        histogram=np.histogram(finite, bins=_HISTOGRAM_BINS, range=(float(low), float(high))),
    )
