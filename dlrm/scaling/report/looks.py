"""How all pictures of the report look, in light, in dark, on a wide screen and on a phone."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dlrm.format import printable

# Okabe and Ito, "Color Universal Design" (2008), without yellow and black, which a white or a dark page would swallow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = "os^Dv<>Ph*X"
OTHERS = "#9aa3ad"  # of lines beyond those that a reader can tell apart
INK, MUTED, GRID, PAPER = "#1f2933", "#5c6773", "#dde2e8", "#fffffe"
"""Of text, of what is less than text, of lines behind, and of the page: in dark they are others."""
_DARK = {INK: "#e5e9f0", MUTED: "#9aa7b8", GRID: "#333c48", PAPER: "#1c222a"}
WIDE_IN, NARROW_IN = 10.0, 4.7  # at 10 points the text of either is of the page's size
_DPI = 130
_LONGEST = 60
# Of legends: about the width of a letter, that of all else in an entry, and the height of a row.
_LETTER_IN, _HANDLE_IN, _ROW_IN = 0.075, 0.6, 0.19
_ONE_COLUMN = 6  # entries; more are given two, where there is width for them
MOST_LINES = 12
MOST_POINTS = 40
_LINEAR_UNTIL, _LINEAR_RANKS_UNTIL = 20.0, 6.0  # where an axis spans more, it is logarithmic

# matplotlib writes places with six decimals of a point, of which nobody sees more than two.
_COORDINATES = re.compile(r' (?:d|x|y)="[^"]*"')
_TOO_FINE = re.compile(r"(\.\d\d)\d+")

_LOOKS = {
    "text.parse_math": False,  # a dollar in somebody's name begins no formula
    "svg.fonttype": "path",
    "svg.hashsalt": "dlrm",  # the same table gives the same page
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "figure.facecolor": "none",
    "hatch.linewidth": 0.8,
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        name: of its file and its place on the page; title: of it.
        caption: what it means and how to read it, in a sentence; alt: what is to be seen, for those who do not.
        draw: given a width in inches; None: there is nothing to draw.
        why: there is nothing, in a line.
        notes: lines under the figure, such as what it names.
    """

    name: str
    title: str
    caption: str = ""
    alt: str = ""
    draw: Callable[[float], Figure] | None = None
    why: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pictures:
    """A figure as files: SVG for the page, of two widths, and PNG."""

    wide_svg: bytes
    narrow_svg: bytes
    png: bytes


def pictures_of(draw: Callable[[float], Figure]) -> Pictures:
    """Draw a figure as all files that are made of it."""
    with _looks():
        wide = draw(WIDE_IN)
        wide_svg = _svg(wide)
        wide.set_layout_engine("none")  # it has found its places, which takes as long as drawing does
        return Pictures(wide_svg, _svg(draw(NARROW_IN)), _png(wide))


@contextmanager
def _looks() -> Iterator[None]:
    with mpl.rc_context(_LOOKS), warnings.catch_warnings():
        # A script that the font lacks is shown as boxes, and the page beside has the name as it is.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def _svg(picture: Figure) -> bytes:
    file = io.StringIO()
    picture.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = _COORDINATES.sub(lambda found: _TOO_FINE.sub(r"\1", found[0]), text[text.index("<svg") :])
    for number, colour in enumerate(_DARK):
        text = text.replace(colour, f"var(--c{number})")
    light = "".join(f"--c{number}:{colour};" for number, colour in enumerate(_DARK))
    dark = "".join(f"--c{number}:{colour};" for number, colour in enumerate(_DARK.values()))
    style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    head, end, rest = text.partition(">")
    return f"{head}{end}{style}{rest}".encode()


def _png(picture: Figure) -> bytes:
    file = io.BytesIO()
    picture.savefig(file, format="png", dpi=_DPI, facecolor="white")
    return file.getvalue()


def figure(width_in: float, height_in: float) -> tuple[Figure, Any]:
    """A picture with one pair of axes."""
    picture = Figure(figsize=(width_in, height_in), layout="constrained")
    return picture, picture.subplots()


def is_narrow(width_in: float) -> bool:
    """Whether it is for a phone."""
    return width_in < WIDE_IN


def label(name: str, longest: int = _LONGEST) -> str:
    """A name that somebody else chose, of one line and bounded length: names often differ at their end."""
    shown = printable(name)
    tail = longest // 2
    return shown if len(shown) <= longest else f"{shown[: longest - tail - 1]}…{shown[-tail:]}"


def legend(picture: Figure, axes: Any) -> None:
    """Under the axes, in as many columns as find place."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    width = picture.get_figwidth()
    place = width / 2 if len(labels) > _ONE_COLUMN and not is_narrow(width) else width
    labels = [label(text, int((place - _HANDLE_IN) / _LETTER_IN)) for text in labels]
    columns = int(width / (_HANDLE_IN + _LETTER_IN * max(map(len, labels))))
    ncols = max(1, min(columns, len(labels), 5))
    rows = -(-len(labels) // ncols)
    picture.set_figheight(picture.get_figheight() + (rows - 1) * _ROW_IN)  # the axes keep their height
    picture.legend(handles, labels, loc="outside lower left", ncols=ncols, borderaxespad=0.2)


def compact(value: float, _: object = None, *, digits: int = 3) -> str:
    """``1.2M``: a number in few characters."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}"


def ranks_axis(axis: Any, ranks: Sequence[int], *, narrow: bool) -> None:
    """Ticks at numbers of ranks that there are; logarithmic where they span much."""
    found = sorted(set(ranks))
    if found[-1] / found[0] > _LINEAR_RANKS_UNTIL:
        axis.axes.set_xscale("log", base=2)
    most = 6 if narrow else 11
    step = -(-len(found) // most)
    axis.set_major_locator(FixedLocator(found[::-1][::step][::-1]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def amounts_axis(axes: Any, which: str, values: Sequence[float], *, logarithmic: bool | None = None) -> None:
    """An axis of positive numbers, from 0 or logarithmic; by default that where they span much."""
    axis, set_scale, set_limits = (
        (axes.xaxis, axes.set_xscale, axes.set_xlim) if which == "x" else (axes.yaxis, axes.set_yscale, axes.set_ylim)
    )
    positive = [value for value in values if value > 0]
    if logarithmic is None:
        logarithmic = spans_much(positive)
    if logarithmic and positive:
        set_scale("log")
        few = max(positive) / min(positive) < 300
        axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=12))
        axis.set_minor_locator(NullLocator())
        set_limits(min(positive) / 1.25, max(positive) * 1.25)
    else:
        axis.set_major_locator(MaxNLocator(6))
        set_limits(0, max(positive, default=1.0) * 1.08)
    axis.set_major_formatter(FuncFormatter(compact))


def spans_much(values: Sequence[float]) -> bool:
    """Whether positive numbers want a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LINEAR_UNTIL


def unit_of_bytes(most: float) -> tuple[float, str]:
    """In which unit amounts of bytes up to this are read."""
    for exponent, name in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if most >= 2**exponent:
            return float(2**exponent), name
    return 1.0, "B"


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, first and last included."""
    if len(items) <= most:
        return list(items)
    return [items[math.floor(number * (len(items) - 1) / (most - 1))] for number in range(most)]


def without(drawing: Drawing, why: str) -> Drawing:
    """A figure that is left out."""
    return replace(drawing, draw=None, why=why)
