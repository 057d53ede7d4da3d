"""What differs from rank to rank: memory, and how long each works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dlrm.format import byte_size, counted
from dlrm.scaling.report import looks
from dlrm.scaling.report.looks import COLOURS, INK, MUTED, Drawing
from dlrm.scaling.report.points import Point
from dlrm.scaling.report.stacks import names_axis, shown_of
from dlrm.scaling.table import MEASURED, PREDICTED

_MOST_BARS = 64  # ranks of all points together
_SOURCES = (MEASURED, PREDICTED)
_PARTS = ("device", "host")
_PART_COLOURS = {"device": COLOURS[0], "host": COLOURS[5]}
_EVEN = 1.05  # a slowest rank that works so much longer than the mean is nothing to look after

_ByRank = Mapping[int | None, float]


def memory(points: Sequence[Point]) -> Drawing:
    """Bytes at the peak, by rank."""
    caption = (
        "What each rank takes at its peak, by part: a rank that takes more than the others runs out first, and a "
        "prediction (diamond) inside of its bar is too low to plan with."
    )
    drawing = Drawing("memory", "Memory by rank", caption)
    found = [point for point in points if any(_parts(point, source) for source in (MEASURED, PREDICTED))]
    if not found:
        return looks.without(drawing, "no point has bytes of memory")
    shown, left_out = shown_of(found)
    parts = sorted({part for point in shown for own in point.memory.values() for part in own}, key=_place)
    if _bars_of(shown, parts) <= _MOST_BARS * len(parts):
        return replace(
            drawing,
            caption=caption + left_out,
            alt=_memory_text(shown),
            draw=lambda width_in: _draw_bars(shown, parts, width_in),
        )
    caption = (
        "What the ranks of a point take at their peak, by part: a bar's full colour is what each of them takes, the paler "
        "part goes up to the rank that takes most, the line is the median, and the diamond is the most that was "
        "predicted. A long paler part is a plan that loads ranks unevenly."
    )
    return replace(
        drawing,
        caption=caption + left_out,
        alt=_memory_text(shown),
        draw=lambda width_in: _draw_shared(shown, parts, width_in),
    )


def balance(points: Sequence[Point]) -> Drawing:
    """The slowest rank relative to the mean."""
    caption = (
        "How long the slowest rank works in a step, as a multiple of the mean: the others wait for it, so at 1.25 evenly "
        "shared work would take a fifth less time."
    )
    drawing = Drawing("balance", "Load balance", caption)
    found = [p for p in points if any(p.imbalance(source) is not None for source in (MEASURED, PREDICTED))]
    found = [point for point in found if point.ranks > 1]
    if not found:
        return looks.without(drawing, "no point of two ranks or more has ms that each rank works")
    shown, left_out = shown_of(found)
    worst = max(shown, key=_worst)
    return replace(
        drawing,
        caption=caption + left_out,
        alt=f"Slowest rank relative to the mean of {len(shown)} point(s). The most uneven is {worst.name}: "
        f"{_worst(worst):.2f}.",
        draw=lambda width_in: _draw_balance(shown, width_in),
    )


def _parts(point: Point, source: str) -> Mapping[str, _ByRank]:
    return point.memory.get(source, {})


def _place(part: str) -> tuple[int, str]:
    return (_PARTS.index(part) if part in _PARTS else len(_PARTS), part)


def _colour(part: str) -> str:
    return _PART_COLOURS.get(part, COLOURS[2])


def _bars_of(points: Sequence[Point], parts: Sequence[str]) -> int:
    return sum(max(len(_parts(point, s).get(part, {})) for s in _SOURCES) for point in points for part in parts)


def _draw_bars(points: Sequence[Point], parts: Sequence[str], width_in: float) -> Figure:
    """A bar a rank and part."""
    narrow = looks.is_narrow(width_in)
    size, unit = looks.unit_of_bytes(_most(points))
    bars = [(point, rank) for point in points for rank in _ranks(point)]
    picture, axes = looks.figure(width_in, 1.2 + 0.2 * len(bars))
    height = 0.8 / len(parts)
    for place, (point, rank) in enumerate(bars):
        for number, part in enumerate(parts):
            centre = place + (number - (len(parts) - 1) / 2) * height
            measured, predicted = (_parts(point, source).get(part, {}).get(rank) for source in _SOURCES)
            if measured is not None:
                axes.barh(centre, measured / size, height * 0.92, color=_colour(part))
            if predicted is not None:
                _diamond(axes, predicted / size, centre)
    names = [point.name + ("" if rank is None else f" · rank {rank}") for point, rank in bars]
    if narrow:
        names = [("" if rank is None else f"r{rank} ") + point.name for point, rank in bars]
    names_axis(axes, names, narrow=narrow)
    _finish_memory(picture, axes, points, parts, unit)
    return picture


def _draw_shared(points: Sequence[Point], parts: Sequence[str], width_in: float) -> Figure:
    """A bar a point and part, for all ranks."""
    size, unit = looks.unit_of_bytes(_most(points))
    picture, axes = looks.figure(width_in, 1.2 + 0.2 * len(parts) * len(points) + 0.1 * len(points))
    height = 0.8 / len(parts)
    for place, point in enumerate(points):
        for number, part in enumerate(parts):
            centre = place + (number - (len(parts) - 1) / 2) * height
            measured, predicted = (list(_parts(point, source).get(part, {}).values()) for source in _SOURCES)
            if measured:
                least, middle, most = np.quantile(measured, (0, 0.5, 1)) / size
                axes.barh(centre, least, height * 0.9, color=_colour(part))
                axes.barh(centre, most - least, height * 0.9, least, color=_colour(part), alpha=0.4)
                if len(measured) > 1:
                    ends = [centre - height * 0.45, centre + height * 0.45]
                    axes.plot([middle, middle], ends, color=INK, linewidth=1.4)
            if predicted:
                _diamond(axes, max(predicted) / size, centre)
    names_axis(axes, _names(points, width_in), narrow=looks.is_narrow(width_in))
    _finish_memory(picture, axes, points, parts, unit)
    return picture


def _finish_memory(picture: Figure, axes: Any, points: Sequence[Point], parts: Sequence[str], unit: str) -> None:
    for part in parts:
        axes.barh([-9], [0], color=_colour(part), label=f"{looks.label(part, 30)}, measured")
    if any(_parts(point, PREDICTED) for point in points):
        axes.plot([], [], "D", color="none", markeredgecolor=INK, markersize=5, label="predicted")
    axes.set_xlim(0, _most(points) / looks.unit_of_bytes(_most(points))[0] * 1.04)
    axes.set_xlabel(f"{unit} at the peak")
    looks.legend(picture, axes)


def _diamond(axes: Any, x: float, y: float) -> None:
    axes.plot([x], [y], "D", color=looks.PAPER, markeredgecolor=INK, markersize=4.5, markeredgewidth=1.1, zorder=4)


def _most(points: Sequence[Point]) -> float:
    return max(
        (
            value
            for point in points
            for own in point.memory.values()
            for ranks in own.values()
            for value in ranks.values()
        ),
        default=1.0,
    )


def _ranks(point: Point) -> list[int | None]:
    found = {rank for own in point.memory.values() for ranks in own.values() for rank in ranks}
    return sorted(found, key=lambda rank: -1 if rank is None else rank)


def _names(points: Sequence[Point], width_in: float) -> list[str]:
    if looks.is_narrow(width_in):
        return [point.name for point in points]
    return [f"{looks.label(point.name, 28)} · {counted(point.ranks, 'rank')}" for point in points]


def _memory_text(points: Sequence[Point]) -> str:
    value, part, name, rank, source = max(
        (value, part, point.name, -1 if rank is None else rank, source)
        for point in points
        for source, own in point.memory.items()
        for part, ranks in own.items()
        for rank, value in ranks.items()
    )
    of_rank = "" if rank < 0 else f", rank {rank}"
    most = f"{byte_size(value)} of {part}: {name}{of_rank} ({source})"
    return f"Memory of {len(points)} point(s) by rank. The most is {most}."


def _worst(point: Point) -> float:
    found = [point.imbalance(source) for source in _SOURCES]
    return max(value for value in found if value is not None)


def _draw_balance(points: Sequence[Point], width_in: float) -> Figure:
    picture, axes = looks.figure(width_in, 1.3 + 0.26 * len(points))
    axes.axvline(1.0, color=MUTED, linestyle=":", linewidth=1.2)
    for place, point in enumerate(points):
        measured, predicted = (point.imbalance(source) for source in _SOURCES)
        if measured is not None:
            colour = COLOURS[1] if measured > _EVEN else COLOURS[0]
            axes.plot([1.0, measured], [place, place], color=colour, linewidth=4, solid_capstyle="round")
            axes.annotate(
                f"{measured:.2f}", (measured, place), (8, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        if predicted is not None:
            _diamond(axes, predicted, place)
    if any(point.imbalance(MEASURED) is not None for point in points):
        for colour, text in ((COLOURS[0], "within 5 %"), (COLOURS[1], "more than 5 % over the mean")):
            axes.plot([], [], color=colour, linewidth=4, label=text)
    if any(point.imbalance(PREDICTED) is not None for point in points):
        axes.plot([], [], "D", color="none", markeredgecolor=INK, markersize=5, label="predicted")
    names_axis(axes, _names(points, width_in), narrow=looks.is_narrow(width_in))
    worst = max(map(_worst, points))
    axes.set_xlim(1 - 0.02 * (worst - 1) - 0.005, 1 + max(0.1, (worst - 1) * 1.12))
    axes.set_xlabel("time of the slowest rank / mean of the ranks")
    looks.legend(picture, axes)
    return picture
