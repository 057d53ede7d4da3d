"""Figures as tables for a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence

import rich.box
from rich.table import Table
from rich.text import Text

from dlrm.data.id_statistics.base import imbalance
from dlrm.dataset_tools.inspect.figures import DenseFigures, Figures, Rate, RowFigures, SparseFigures
from dlrm.dataset_tools.inspect.sample import UNUSED
from dlrm.format import byte_size, counted, escaped, printable

_MOST_PARTS = 40
_BATCHES = (8192, 65536)
_HOT = (0.0001, 0.001, 0.01, 0.1)
_RANKS = 8
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def headline(figures: Figures) -> str:
    """What the data set is, in a line."""
    nbytes = sum(part.nbytes for part in figures.parts)
    return (
        f"{printable(figures.path)}: {figures.sample.rows:,} rows in {counted(len(figures.parts), 'part')}, "
        f"{len(figures.dense)} dense and {len(figures.sparse)} sparse columns, {byte_size(nbytes)}"
    )


def splits_table(figures: Figures) -> Table:
    """Rows and click rate of each split."""
    table = _table("Splits", ("split", "rows", "share", "click rate"))
    for split in figures.splits:
        table.add_row(split.name, f"{split.rows:,}", percent(split.rows / figures.sample.rows), rate(split.click_rate))
    return table


def parts_table(figures: Figures) -> Table:
    """Rows, size, click rate and use of each part."""
    table = _table("Parts", ("part", "rows", "size", "click rate"), last="used for")
    parts = figures.parts
    shown = parts if len(parts) <= _MOST_PARTS else (*parts[: _MOST_PARTS // 2], *parts[-_MOST_PARTS // 2 :])
    for i, part in enumerate(shown):
        if len(shown) < len(parts) and i == _MOST_PARTS // 2:
            table.add_row(f".. {len(parts) - len(shown)} more", "", "", "", "")
        table.add_row(
            Text(escaped(part.name)), f"{part.rows:,}", byte_size(part.nbytes), rate(part.click_rate), Text(_uses(part))
        )
    return table


def sparse_table(columns: Sequence[SparseFigures]) -> Table:
    """Sizes, missing and unseen rates, and skew of the sparse columns."""
    multi_hot = any(column.hotness > 1 for column in columns)
    names = ["column", *(["hot"] if multi_hot else []), "table", "ids seen", "missing", "unseen", "top id", "top 1%"]
    table = _table("Sparse columns", (*names, "effective", "Zipf"))
    for column in columns:
        skew = column.skew
        table.add_row(
            Text(escaped(column.name)),
            *([str(column.hotness)] if multi_hot else []),
            short(column.table_rows),
            short(skew.distinct),
            rate(column.missing),
            rate(column.unseen),
            percent(skew.top),
            percent(skew.top_percent),
            short(skew.effective_ids),
            "-" if skew.zipf_exponent is None else f"{skew.zipf_exponent:.2f}",
        )
    return table


def spread_table(columns: Sequence[SparseFigures]) -> Table:
    """How ids are spread over their tables: what caches and sharding make of them."""
    hot = tuple(f"{100 * fraction:g}%" for fraction in _HOT)
    table = _table(
        "How ids are spread", ("column", "ids", *(short(batch) for batch in _BATCHES), *hot, f"{_RANKS} ranks")
    )
    for column in columns:
        spread = column.spread
        shares = spread.row_range_shares(spread.rows, _RANKS)
        table.add_row(
            Text(escaped(column.name)),
            f"{spread.ids_per_sample:.3g}",
            *(short(round(spread.distinct(batch * spread.ids_per_sample))) for batch in _BATCHES),
            *(percent(spread.hot_share(fraction)) for fraction in _HOT),
            f"{imbalance(shares):.2f}",
        )
    return table


def dense_table(columns: Sequence[DenseFigures]) -> Table:
    """Missing rates and distribution of the dense columns."""
    table = _table("Dense columns", ("column", "missing", "min", "mean", "max", "commonest", "its share"))
    for column in columns:
        numbers = (column.minimum, column.mean, column.maximum, column.commonest)
        table.add_row(
            Text(escaped(column.name)),
            rate(column.missing),
            *(f"{x:.4g}" for x in numbers),
            percent(column.commonest_share),
        )
    return table


def notes(figures: Figures) -> list[str]:
    """What a reader of the tables has to know, a paragraph each."""
    sample = figures.sample
    looked_at = (
        "All figures are of all rows."
        if sample.whole
        else f"Columns are judged by {sample.taken:,} of {sample.rows:,} rows, in blocks spread evenly over every part "
        "(sample_rows); ~ marks a rate that is of these rows alone."
    )
    found = [
        looked_at,
        "ids seen: distinct ids in these rows. top id, top 1%: share of the most frequent id, and of the most frequent 1% "
        "of the ids seen. effective: equally frequent ids of the same entropy. Zipf: s in P(rank r) ~ 1/r^s.",
        f"ids: of a sample. {', '.join(map(short, _BATCHES))}: distinct ids in batches of so many samples. "
        f"{', '.join(f'{100 * fraction:g}%' for fraction in _HOT)}: share of the ids that the hottest rows of the table "
        "get, as far as these rows tell. "
        f"{_RANKS} ranks: the largest share of a rank over the mean, under row_wise sharding.",
    ]
    if any(column.unseen is not None for column in figures.sparse):
        found.append("unseen: share of validation and test rows whose category has no id of its own.")
    if not figures.table_rows_known:
        which = "" if sample.whole else ", so the least they may be"
        found.append(f"There is no dataset.json: table sizes are the largest id of these rows + 1{which}.")
    outside = [column for column in figures.sparse if column.outside]
    if outside:
        names = ", ".join(f"{escaped(column.name)} ({column.outside:,})" for column in outside[:5])
        found.append(f"Ids outside of their tables: {names}. --verify names the rows.")
    not_finite = [column for column in figures.dense if column.not_finite]
    if not_finite:
        names = ", ".join(f"{escaped(column.name)} ({column.not_finite:,})" for column in not_finite[:5])
        found.append(f"Dense values that are not finite: {names}. --verify names the rows.")
    return found


def bullets(paragraphs: Sequence[str]) -> Table:
    """A list for a terminal of any width."""
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(overflow="fold")  # or the end of a long path is cut off
    for paragraph in paragraphs:
        table.add_row("-", Text(printable(paragraph)))
    return table


def rate(value: Rate | None) -> str:
    """A share in percent, ~ if it is not of all rows."""
    if value is None:
        return "n/a"
    return percent(value.share) if value.exact else f"~{percent(value.share)}"


def percent(share: float) -> str:
    """Three figures at most: 12.3%, 0.45%."""
    if 0 < share < 0.0001:
        return "<0.01%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    value = 100 * share
    return f"{value:.0f}%" if share in (0, 1) else f"{value:.1f}%" if value >= 1 else f"{value:.2f}%"


def short(value: float) -> str:
    """Three figures at most beyond 9,999: 12.3M."""
    if value < 9_999.5:
        return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    for size, unit in _UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if value < 999.5 * size else f"{value / size:,.0f}{unit}"
    raise AssertionError(value)  # the last unit is below 9,999.5


def _table(title: str, names: Sequence[str], last: str = "") -> Table:
    """Numbers to the right; ``last`` is a column of text at the end."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    if last:
        table.add_column(last)
    return table


def _uses(part: RowFigures) -> str:
    if len(part.uses) == 1:
        return part.uses[0].split
    return ", ".join(
        f"{region.split} {region.start:,} .. {region.stop - 1:,}" for region in part.uses if region.split != UNUSED
    )
