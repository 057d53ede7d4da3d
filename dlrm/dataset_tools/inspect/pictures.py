"""Figures as pictures, PNG files in a folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator, PercentFormatter

from dlrm.dataset_tools.inspect.figures import DenseFigures, Figures, RowFigures, SparseFigures
from dlrm.dataset_tools.inspect.sample import SPLITS, UNUSED
from dlrm.dataset_tools.inspect.skew import log_harmonic
from dlrm.dataset_tools.inspect.tables import short
from dlrm.errors import SetupError
from dlrm.files import written_beside
from dlrm.format import escaped

_BLUE, _ORANGE, _GREY = "#2f6db0", "#d9772b", "#9a9a9a"
_COLOURS = dict(zip((*SPLITS, UNUSED), (_BLUE, "#4c9f70", _ORANGE, _GREY), strict=True))
_MOST_PANELS = 48
_PANELS_IN_A_ROW = 6
_DPI = 110


def draw(figures: Figures, folder: Path) -> list[Path]:
    """Draw all pictures.

    Returns:
        The files, each written whole or not at all.

    Raises:
        SetupError: the folder cannot be written to.
    """
    pictures = {
        "click_rate.png": _click_rates(figures),
        "missing.png": _missing_rates(figures),
        "tables.png": _table_sizes(figures.sparse),
        "id_frequency.png": _id_frequencies(figures.sparse),
    }
    if figures.dense:
        pictures["dense.png"] = _dense_histograms(figures.dense)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            with written_beside(folder / name, durable=False) as file:
                picture.savefig(file, format="png", dpi=_DPI, bbox_inches="tight")
            paths.append(folder / name)
    except OSError as error:
        raise SetupError(
            f"{folder}: pictures cannot be written ({error.strerror}); name another folder: pictures"
        ) from None
    return paths


def _click_rates(figures: Figures) -> Figure:
    """By part, coloured by what the rows are for; with the range that chance alone would explain."""
    parts = [part for part in figures.parts if part.click_rate is not None]
    picture = Figure(figsize=(min(14.0, max(6.0, 0.45 * len(parts) + 2)), 3.8))
    axes = _axes(picture, "Click rate by part")
    for i, part in enumerate(parts):
        assert part.click_rate is not None
        rate = part.click_rate.share
        looked_at = part.rows if part.click_rate.exact else _looked_at(figures, part.name)
        error = 1.96 * (rate * (1 - rate) / max(1, looked_at)) ** 0.5
        axes.errorbar(i, rate, yerr=error, fmt="o", color=_COLOURS[_uses(part)[0]], capsize=3)
    axes.set_xticks(range(len(parts)), [_label(part.name) for part in parts], rotation=60 if len(parts) > 8 else 0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(y=0.25)
    named = {", ".join(_uses(part)): _COLOURS[_uses(part)[0]] for part in parts}
    handles = [Line2D([], [], marker="o", linestyle="", color=colour, label=uses) for uses, colour in named.items()]
    axes.legend(handles=handles, frameon=False, ncols=len(handles), fontsize=8, loc="upper right")
    axes.set_xlabel("bars: 95 % of what chance alone would give", fontsize=8)
    return picture


def _uses(part: RowFigures) -> list[str]:
    """What rows of a part are for, in the order of the splits."""
    return sorted({region.split for region in part.uses}, key=list(_COLOURS).index)


def _looked_at(figures: Figures, part: str) -> int:
    return sum(len(block) for block in figures.sample.blocks if block.region.part == part)


def _missing_rates(figures: Figures) -> Figure:
    columns: list[DenseFigures | SparseFigures] = [*figures.dense, *figures.sparse]
    known = [(_label(column.name), column.missing.share) for column in columns if column.missing is not None]
    picture = Figure(figsize=(7, max(2.0, 0.22 * len(known) + 1)))
    axes = _axes(picture, "Missing values by column")
    if not known:
        axes.text(0.5, 0.5, "not recorded in this data set", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return picture
    _bars(axes, [name for name, _ in known], [share for _, share in known], [f"{share:.1%}" for _, share in known])
    axes.set_xlim(0, max(1e-6, 1.15 * max(share for _, share in known)))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    return picture


def _table_sizes(columns: Sequence[SparseFigures]) -> Figure:
    """Rows of each table, and how many of them were seen."""
    picture = Figure(figsize=(7, max(2.0, 0.22 * len(columns) + 1)))
    axes = _axes(picture, "Table sizes, and ids seen in the rows looked at")
    names = [_label(column.name) for column in columns]
    _bars(axes, names, [column.table_rows for column in columns], [short(column.table_rows) for column in columns])
    axes.barh(range(len(columns)), [column.skew.distinct for column in columns], height=0.35, color=_ORANGE)
    axes.set_xscale("log")
    axes.set_xlim(0.8, 12 * max(column.table_rows for column in columns))
    axes.set_xlabel("rows of the table (blue), distinct ids seen (orange)", fontsize=8)
    return picture


def _id_frequencies(columns: Sequence[SparseFigures]) -> Figure:
    """Frequency against rank of each column, log-log, with the fitted Zipf law."""
    shown = columns[:_MOST_PANELS]
    picture, panels = _panels(len(shown), _title("Id frequency against rank (dashed: the fitted Zipf law)", columns))
    for axes, column in zip(panels, shown, strict=False):
        ranks, counts = column.skew.curve
        axes.loglog(ranks, counts, color=_BLUE, marker="." if len(ranks) < 30 else None, markersize=3)
        if column.skew.zipf_exponent is not None:
            exponent = column.skew.zipf_exponent
            log_scale = math.log(column.skew.occurrences) - log_harmonic(column.skew.distinct, exponent)
            axes.loglog(ranks, np.exp(log_scale - exponent * np.log(ranks)), "--", color=_GREY, lw=1)
        exponent_text = "" if column.skew.zipf_exponent is None else f", s = {column.skew.zipf_exponent:.2f}"
        axes.set_title(f"{_label(column.name)}: {short(column.skew.distinct)} ids{exponent_text}", fontsize=8)
        axes.set_ylim(bottom=0.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
    return picture


def _dense_histograms(columns: Sequence[DenseFigures]) -> Figure:
    shown = columns[:_MOST_PANELS]
    picture, panels = _panels(len(shown), _title("Dense values between the 0.1th and 99.9th percentile", columns))
    for axes, column in zip(panels, shown, strict=False):
        counts, edges = column.histogram
        axes.stairs(counts / max(1, counts.sum()), edges, fill=True, color=_BLUE)
        axes.set_title(f"{_label(column.name)}: mean {column.mean:.3g}", fontsize=8)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return picture


def _title(title: str, columns: Sequence[Any]) -> str:
    return title if len(columns) <= _MOST_PANELS else f"{title}; the first {_MOST_PANELS} of {len(columns)} columns"


def _panels(count: int, title: str) -> tuple[Figure, list[Any]]:
    """A grid of small axes, of which the first ``count`` are given."""
    width = min(_PANELS_IN_A_ROW, count)
    height = -(-count // width)
    size = 2.4 * width + 0.4, 1.9 * height + 0.5
    picture = Figure(figsize=size)
    # Margins in inches by hand: matplotlib's own layouts take seconds for this many panels.
    picture.subplots_adjust(0.4 / size[0], 0.3 / size[1], 1 - 0.1 / size[0], 1 - 0.7 / size[1], 0.3, 0.5)
    picture.suptitle(title, fontsize=11, y=1 - 0.2 / size[1])
    panels = list(picture.subplots(height, width, squeeze=False).flat)
    for axes in panels:
        _plain(axes)
    for axes in panels[count:]:
        axes.set_visible(False)
    return picture, panels[:count]


def _axes(picture: Figure, title: str) -> Any:
    axes = picture.subplots()
    axes.set_title(title, fontsize=11, loc="left")
    _plain(axes)
    return axes


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def _label(name: str) -> str:
    """A name as matplotlib has to be told it: a dollar would begin a formula, and a long name stretches the picture."""
    return escaped(name, 40).replace("$", r"\$")


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], texts: Sequence[str]) -> None:
    """Horizontal bars with their values at the end."""
    bars = axes.barh(range(len(names)), values, color=_BLUE)
    axes.bar_label(bars, texts, padding=3, fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first at the top
    axes.grid(visible=False, axis="y")
