"""How fast, and how efficient, against the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dlrm.scaling.report import looks
from dlrm.scaling.report.levels import SINGLE, STRONG, WEAK, Level
from dlrm.scaling.report.looks import COLOURS, INK, MARKERS, MOST_LINES, MUTED, OTHERS, Drawing
from dlrm.scaling.table import MEASURED, PREDICTED, PUBLISHED, Spread

_STYLES = {MEASURED: "-", PREDICTED: "--", PUBLISHED: "none"}
_PUBLISHED_COLOURS = (INK, *COLOURS[:2:-1], *COLOURS[2::-1])
_FEW = 4  # lines of which each has its ideal


@dataclass(frozen=True)
class Line:
    """A level with its looks, the same in every figure.

    Attributes:
        told: whether it has a colour and a place in the legend of its own.
        depth: which lines it is drawn over; the first is on top.
    """

    level: Level
    colour: str
    marker: str
    told: bool
    depth: float = 2.0


def lines_of(levels: Sequence[Level]) -> list[Line]:
    """Each level with its looks."""
    few = levels if len(levels) <= MOST_LINES else levels[: MOST_LINES - 1]
    lines = [
        Line(level, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], told=True, depth=3 - 0.01 * number)
        for number, level in enumerate(few)
    ]
    return lines + [Line(level, OTHERS, ".", told=False) for level in levels[len(few) :]]


def published_lines(levels: Sequence[Level]) -> list[Line]:
    """Each level of published points with its looks: from the other end of the colours."""
    return [
        replace(line, colour=_PUBLISHED_COLOURS[number % len(_PUBLISHED_COLOURS)] if line.told else OTHERS)
        for number, line in enumerate(lines_of(levels))
    ]


def others_text(lines: Sequence[Line]) -> str:
    """What the legend says of lines that have no place in it."""
    return f"{sum(not line.told for line in lines):,} others"


def throughput(lines: Sequence[Line], published: Sequence[Line]) -> Drawing:
    """Samples/s against ranks."""
    predicted = any(line.level.line(PREDICTED) for line in (*lines, *published))
    caption = (
        "Samples that all ranks train in a second: higher is better, and a line along the dotted ideal loses nothing by "
        "more ranks. Bars are the lowest and highest repeat"
        + ", dashes the prediction with its band" * predicted
        + ", stars published results" * bool(published)
    )
    drawing = Drawing("throughput", "Throughput", f"{caption}.")
    if not any(line.level.line(source) for line in (*lines, *published) for source in _STYLES):
        return looks.without(drawing, "no point has samples/s")
    return replace(
        drawing,
        alt=_throughput_text([*lines, *published]),
        draw=lambda width_in: _draw_throughput(lines, published, width_in),
    )


def efficiency(lines: Sequence[Line]) -> Drawing:
    """Efficiency against ranks."""
    kinds = {line.level.kind for line in lines}
    means = {
        WEAK: "weak scaling: the throughput of a rank relative to that of the smallest job",
        STRONG: "strong scaling: the speed-up over the smallest job divided by how many times as many ranks there are",
    }
    said = "; ".join(text for kind, text in means.items() if kind in kinds)
    caption = (
        f"What is left of each rank's throughput as ranks are added ({said}). 100 % is ideal, dashes are predicted."
    )
    drawing = Drawing("efficiency", "Efficiency", caption)
    found = [line for line in lines if line.level.kind != SINGLE and _efficiencies(line.level)]
    if not found:
        return looks.without(drawing, "it takes a level that has run on two numbers of ranks or more")
    return replace(drawing, alt=_efficiency_text(found), draw=lambda width_in: _draw_efficiency(found, lines, width_in))


def _efficiencies(level: Level) -> dict[str, dict[int, float]]:
    """By source, where there is more than the smallest job."""
    found = {source: level.efficiency(source) for source in (MEASURED, PREDICTED)}
    return {source: values for source, values in found.items() if len(values) > 1}


def _draw_throughput(lines: Sequence[Line], published: Sequence[Line], width_in: float) -> Figure:
    picture, axes = looks.figure(width_in, 4.8 if looks.is_narrow(width_in) else 5.0)
    everything = [*lines, *published]
    ideals = list(_ideals(lines))
    for line, ideal in ideals:
        colour = line.colour if len(ideals) > 1 else MUTED
        axes.plot(*_sides(ideal), ":", color=colour, linewidth=1.2, zorder=1.5)
    for line in lines:
        _draw_line(axes, line)
    for line in published:
        _draw_published(axes, line)
    if any(not line.told for line in lines):
        axes.plot([], [], "-", color=OTHERS, label=others_text(lines))
    if any(line.level.line(PREDICTED) for line in everything):
        axes.plot([], [], "--", color=MUTED, label="predicted")
    if ideals:
        axes.plot([], [], ":", color=MUTED, label="ideal")
    values = [value for line in everything for source in _STYLES for value in line.level.line(source).values()]
    values += [value for _, ideal in ideals for value in ideal.values()]
    looks.amounts_axis(axes, "y", values)
    ranks = [point.ranks for line in everything for point in line.level.points]
    looks.ranks_axis(axes.xaxis, ranks, narrow=looks.is_narrow(width_in))
    axes.set(xlabel="ranks", ylabel="samples/s of all ranks")
    looks.legend(picture, axes)
    return picture


def _draw_line(axes: Any, line: Line) -> None:
    looks_of = {"color": line.colour, "zorder": line.depth, "linewidth": 1.8 if line.told else 0.7}
    predicted = line.level.line(PREDICTED)
    if predicted:
        spreads = _spreads(line.level, PREDICTED)
        if line.told and len(predicted) > 1:
            low, high = ([getattr(spreads[ranks], end) for ranks in sorted(spreads)] for end in ("low", "high"))
            axes.fill_between(sorted(spreads), low, high, color=line.colour, alpha=0.13, linewidth=0)
        marker = line.marker if len(predicted) == 1 else ""
        axes.plot(*_sides(predicted), "--", marker=marker, fillstyle="none", **looks_of | {"linewidth": 1.3})
    measured = line.level.line(MEASURED)
    if measured and line.told:
        spreads = _spreads(line.level, MEASURED)
        bars = [[max(0.0, measured[r] - spreads[r].low) for r in sorted(measured)]]
        bars.append([max(0.0, spreads[r].high - measured[r]) for r in sorted(measured)])
        axes.errorbar(*_sides(measured), yerr=bars, marker=line.marker, capsize=3, **looks_of)
    elif measured:
        axes.plot(*_sides(measured), "-", marker=".", **looks_of)
    if line.told and (measured or predicted):
        marker = line.marker if measured else ""
        axes.plot([], [], "-", marker=marker, color=line.colour, label=looks.label(line.level.name))


def _draw_published(axes: Any, line: Line) -> None:
    called = looks.label(f"published: {line.level.name}" if line.level.name != PUBLISHED else PUBLISHED)
    if found := line.level.line(PUBLISHED):
        style = {"color": line.colour, "markeredgecolor": looks.PAPER, "markeredgewidth": 0.5}
        axes.plot(*_sides(found), linestyle="none", marker="*", markersize=12, zorder=4, label=called, **style)
    if predicted := line.level.line(PREDICTED):
        marker = "_" if len(predicted) == 1 else ""
        axes.plot(*_sides(predicted), "--", marker=marker, color=line.colour, linewidth=1.3, zorder=2.5)


def _draw_efficiency(found: Sequence[Line], lines: Sequence[Line], width_in: float) -> Figure:
    picture, axes = looks.figure(width_in, 4.2)
    axes.axhline(1.0, color=MUTED, linestyle=":", linewidth=1.2)
    highest = 1.0
    for line in found:
        width = 1.8 if line.told else 0.7
        for source, values in _efficiencies(line.level).items():
            highest = max(highest, *values.values())
            style = {"color": line.colour, "linestyle": _STYLES[source], "zorder": line.depth}
            marker = line.marker if source == MEASURED else ""
            axes.plot(*_sides(values), marker=marker, linewidth=width if source == MEASURED else 1.3, **style)
        if line.told:
            axes.plot([], [], "-", marker=line.marker, color=line.colour, label=looks.label(line.level.name))
    if any(not line.told for line in found):
        axes.plot([], [], "-", color=OTHERS, label=others_text(lines))
    if any(PREDICTED in _efficiencies(line.level) for line in found):
        axes.plot([], [], "--", color=MUTED, label="predicted")
    axes.plot([], [], ":", color=MUTED, label="ideal")
    axes.set_ylim(0, min(highest * 1.06, 3.0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    ranks = [point.ranks for line in found for point in line.level.points]
    looks.ranks_axis(axes.xaxis, ranks, narrow=looks.is_narrow(width_in))
    axes.set(xlabel="ranks", ylabel="efficiency")
    looks.legend(picture, axes)
    return picture


def _ideals(lines: Sequence[Line]) -> Iterator[tuple[Line, dict[int, float]]]:
    """From the smallest job of each line in proportion to ranks; of many lines, of the one that begins highest."""
    several = [line for line in lines if line.level.kind != SINGLE]
    starts = {id(line): _measured_or_predicted(line.level) for line in several}
    several = [line for line in several if len(starts[id(line)]) > 1]
    if len(several) > _FEW:
        several = [max(several, key=lambda line: _of_rank(starts[id(line)]))]
    for line in several:
        found = starts[id(line)]
        yield line, {ranks: _of_rank(found) * ranks for ranks in found}


def _of_rank(line: dict[int, float]) -> float:
    return line[min(line)] / min(line)


def _measured_or_predicted(level: Level) -> dict[int, float]:
    return level.line(MEASURED) or level.line(PREDICTED)


def _spreads(level: Level, source: str) -> dict[int, Spread]:
    found: dict[int, Spread] = {}
    for point in level.points:
        if (spread := point.throughput.get(source)) is not None:
            other = found.get(point.ranks, spread)
            found[point.ranks] = Spread(spread.value, min(spread.low, other.low), max(spread.high, other.high))
    return found


def _sides(line: dict[int, float]) -> tuple[list[int], list[float]]:
    return sorted(line), [line[ranks] for ranks in sorted(line)]


def _throughput_text(lines: Sequence[Line]) -> str:
    found = [
        (value, ranks, source, line.level.name)
        for line in lines
        for source in _STYLES
        for ranks, value in line.level.line(source).items()
    ]
    value, ranks, source, name = max(found)
    return (
        f"Samples per second against ranks, {len(lines)} line(s). The highest is {value:,.0f} samples/s on {ranks:,} "
        f"rank(s): {name} ({source})."
    )


def _efficiency_text(lines: Sequence[Line]) -> str:
    ends = []
    for line in lines[:MOST_LINES]:
        source, values = next(iter(_efficiencies(line.level).items()))
        ends.append(f"{line.level.name}: {values[max(values)]:.0%} on {max(values):,} ranks ({source})")
    return f"Efficiency against ranks. {'; '.join(ends)}."
