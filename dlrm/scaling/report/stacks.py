"""What a step is made of, point by point: its stages, and the bytes of its collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dlrm.format import byte_size
from dlrm.scaling import stage_names
from dlrm.scaling.report import looks
from dlrm.scaling.report.looks import COLOURS, MOST_POINTS, Drawing
from dlrm.scaling.report.points import Point
from dlrm.scaling.stage_names import BACKWARD, in_order
from dlrm.scaling.table import MEASURED, PREDICTED

# Of one kind, one hue: input is grey, exchange blue, tables green; a backward pass is its forward pass, hatched.
_STAGES = {
    stage_names.DATA: "#b8c0c8",
    stage_names.COPY: "#8b95a1",
    stage_names.INPUT_DIST: "#56b4e9",
    stage_names.OUTPUT_DIST: "#0072b2",
    stage_names.LOOKUP: "#009e73",
    stage_names.UPDATE: "#00634a",
    stage_names.LOSS: "#f5c869",
    stage_names.ALL_REDUCE: "#004d7a",
    stage_names.OPTIMIZER: "#cc79a7",
    stage_names.AVERAGING: "#8fb8d8",
    stage_names.HOOKS: "#8a4a70",
    stage_names.OTHER: "#d5d9de",
}
_PARTS_OF_MODELS = ("#d55e00", "#e69f00", "#a84a00", "#f0a875", "#7f3800")
_HATCH = "////"
_COLLECTIVES = {"all_to_all": COLOURS[0], "all_reduce": COLOURS[1], "reduce_scatter": COLOURS[2]}
_BAR = 0.4  # of a point's height, of two

_Parts = Callable[[Point], Mapping[str, Mapping[str, float]]]


def stages(points: Sequence[Point]) -> Drawing:
    """Time in a step by stage."""
    caption = (
        "Where the time of a step goes, in the order in which a step comes by its stages (mean of the ranks): the longer a "
        "part, the more there is to gain. A hatched part is the backward pass of its colour."
    )
    drawing = Drawing("stages", "Step breakdown", caption)
    if not (found := [point for point in points if point.stages]):
        return looks.without(drawing, "no point has ms by stage")
    parts = in_order(part for point in found for own in point.stages.values() for part in own)
    return _stacked(drawing, found, lambda point: point.stages, parts, _stage_looks(parts))


def exchanged(points: Sequence[Point]) -> Drawing:
    """Bytes in a step by collective."""
    caption = (
        "What a rank sends to others in a step, by collective (mean of the ranks): what a faster network, another plan or "
        "fewer bits a number would shorten."
    )
    drawing = Drawing("exchanged", "Bytes sent in a step", caption)
    found = [point for point in points if any(sum(own.values()) for own in point.exchanged.values())]
    if not found:
        return looks.without(drawing, "no point has bytes sent by collective")
    parts = list(dict.fromkeys(part for point in found for own in point.exchanged.values() for part in own))
    colours = cycle(colour for colour in COLOURS if colour not in _COLLECTIVES.values())
    style = {part: (_COLLECTIVES.get(part) or next(colours), "") for part in parts}
    return _stacked(drawing, found, lambda point: point.exchanged, parts, style, is_bytes=True)


def shown_of(points: Sequence[Point]) -> tuple[list[Point], str]:
    """The points that a figure has place for, and a word on the others."""
    shown = looks.evenly(points, MOST_POINTS)
    left_out = len(points) > len(shown)
    return shown, f" Shown are {len(shown)} of {len(points):,} points, evenly spread." if left_out else ""


def _stage_looks(parts: Iterable[str]) -> dict[str, tuple[str, str]]:
    colours = cycle(_PARTS_OF_MODELS)
    bases = dict.fromkeys(part.removesuffix(BACKWARD) for part in parts)
    of_base = {base: _STAGES.get(base) or next(colours) for base in bases}
    return {part: (of_base[part.removesuffix(BACKWARD)], _HATCH if part.endswith(BACKWARD) else "") for part in parts}


def _stacked(
    drawing: Drawing,
    points: Sequence[Point],
    of: _Parts,
    parts: Sequence[str],
    style: Mapping[str, tuple[str, str]],
    *,
    is_bytes: bool = False,
) -> Drawing:
    shown, left_out = shown_of(points)
    both = any(MEASURED in of(point) for point in shown) and any(PREDICTED in of(point) for point in shown)
    beside = " Of a point's two bars the upper is measured and the lower, paler, predicted." if both else ""
    only = "" if both or any(MEASURED in of(point) for point in shown) else " All is predicted."
    return replace(
        drawing,
        caption=drawing.caption + beside + only + left_out,
        alt=_text(drawing.title, shown, of, is_bytes=is_bytes),
        draw=lambda width_in: _draw(shown, of, parts, style, width_in, is_bytes=is_bytes),
    )


def _draw(
    points: Sequence[Point],
    of: _Parts,
    parts: Sequence[str],
    style: Mapping[str, tuple[str, str]],
    width_in: float,
    *,
    is_bytes: bool,
) -> Figure:
    narrow = looks.is_narrow(width_in)
    most = max(sum(own.values()) for point in points for own in of(point).values())
    size, unit = looks.unit_of_bytes(most) if is_bytes else (1.0, "ms")
    rows = sum(max(1, len(of(point))) for point in points)
    legend_rows = -(-len(parts) // (2 if narrow else 4))
    picture, axes = looks.figure(width_in, 0.9 + 0.19 * rows + 0.12 * len(points) + 0.2 * legend_rows)
    for source in (MEASURED, PREDICTED):
        _bars(axes, points, of, [(part, *style[part]) for part in parts], source, size)
    names_axis(axes, [point.name for point in points], narrow=narrow)
    axes.set_xlim(0, most / size * 1.02)
    axes.set_xlabel(f"{unit} of a step" if unit == "ms" else f"{unit} that a rank sends in a step")
    handles = [_patch(*style[part], looks.label(part, 30)) for part in parts]
    columns = min(len(handles), 2 if narrow else 4)
    picture.legend(handles=handles, loc="outside lower left", ncols=columns, borderaxespad=0.2)
    return picture


def _bars(
    axes: Any, points: Sequence[Point], of: _Parts, parts: Sequence[tuple[str, str, str]], source: str, size: float
) -> None:
    """The bars of a source, a part of all points at a time: beside those of the other source, where there are some."""
    centres: list[float] = []
    heights: list[float] = []
    found: list[Mapping[str, float]] = []
    for place, point in enumerate(points):
        if source in of(point):
            both = len(of(point)) > 1
            centres.append(place + (0 if not both else -_BAR / 2 if source == MEASURED else _BAR / 2))
            heights.append(_BAR if both else 2 * _BAR)
            found.append(of(point)[source])
    lefts = [0.0] * len(found)
    for part, colour, hatch in parts:
        lengths = [own.get(part, 0.0) / size for own in found]
        there = [number for number, length in enumerate(lengths) if length > 0]
        axes.barh(
            *([values[number] for number in there] for values in (centres, lengths, heights, lefts)),
            color=colour,
            alpha=1.0 if source == MEASURED else 0.55,
            hatch=hatch,
            edgecolor=looks.PAPER,
            linewidth=0.4,
        )
        lefts = [left + max(0.0, length) for left, length in zip(lefts, lengths, strict=True)]


def _patch(colour: str, hatch: str, called: str) -> Patch:
    return Patch(facecolor=colour, hatch=hatch, edgecolor=looks.PAPER, label=called)


def names_axis(axes: Any, names: Sequence[str], *, narrow: bool) -> None:
    """Points from the top down, by name."""
    axes.set_yticks(range(len(names)), [looks.label(name, 20 if narrow else 42) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _text(title: str, points: Sequence[Point], of: _Parts, *, is_bytes: bool) -> str:
    source, own, name = max(
        ((source, own, point.name) for point in points for source, own in of(point).items()),
        key=lambda found: sum(found[1].values()),
    )
    total = sum(own.values())
    part = max(own, key=lambda part: own[part])
    shown = byte_size(total) if is_bytes else f"{total:,.2f} ms"
    share = f" of which {part} is {own[part] / total:.0%}" if total else ""
    return f"{title} of {len(points)} point(s) as stacked bars. The longest is {name} ({source}): {shown},{share}."
