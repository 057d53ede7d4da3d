"""Predictions against what was measured, and against what others have published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dlrm.format import counted
from dlrm.scaling.report import looks
from dlrm.scaling.report.curves import Line, others_text
from dlrm.scaling.report.looks import INK, MUTED, OTHERS, Drawing
from dlrm.scaling.report.points import Point
from dlrm.scaling.table import MEASURED, PREDICTED, PUBLISHED

MISS = 0.2
"""A prediction that is further off than this share is named."""
_BANDS = (0.1, MISS)
_ALPHAS = (0.16, 0.1)
_MOST_NAMED = 30
_MOST_PAIRS = 200  # points of one number of ranks whose order is looked at


@dataclass(frozen=True)
class Accuracy:
    """How good predictions are.

    Attributes:
        points: that have both figures.
        median_error: of the absolute errors, as a share.
        in_order, pairs: of two levels on as many ranks, how often the prediction has the faster one right.
    """

    points: tuple[Point, ...]
    median_error: float
    in_order: int
    pairs: int


def accuracy_of(points: Sequence[Point], against: str = MEASURED) -> Accuracy | None:
    """How good the predictions of these points are; None if none has both figures."""
    found = [point for point in points if point.error(against) is not None]
    if not found:
        return None
    pairs = [
        (_is_faster(a, b, against), _is_faster(a, b, PREDICTED))
        for group in _by_ranks(found).values()
        for a, b in combinations(looks.evenly(group, _MOST_PAIRS), 2)
        if a.throughput[against].value != b.throughput[against].value
    ]
    right = sum(truth == predicted for truth, predicted in pairs)
    return Accuracy(tuple(found), median(abs(_error(point, against)) for point in found), right, len(pairs))


def prediction(points: Sequence[Point], lines: Sequence[Line]) -> Drawing:
    """Predicted against measured."""
    drawing = Drawing(
        "prediction",
        "Prediction against measurement",
        "Each mark is a point of the experiment: on the diagonal the prediction is right, above it too fast. The shaded "
        "bands are 10 % and 20 %; bars are the repeats and the band of the prediction. On a wide screen the errors are "
        "beside it, by ranks.",
    )
    found = accuracy_of(points)
    if found is None:
        return looks.without(drawing, "no point has both a measured and a predicted throughput")
    return _compared(drawing, found, lines, MEASURED)


def published(points: Sequence[Point], lines: Sequence[Line]) -> Drawing:
    """Predicted against published."""
    drawing = Drawing(
        "published",
        "Published against predicted",
        "Each mark is a published result, with the prediction for the same job: on the diagonal the prediction is right, "
        "above it too fast. The shaded bands are 10 % and 20 %. On a wide screen the errors are beside it, by ranks.",
    )
    found = accuracy_of(points, PUBLISHED)
    if found is None:
        has_some = any(PUBLISHED in point.throughput for point in points)
        return looks.without(
            drawing, "no published point has a prediction" if has_some else "the table has no published results"
        )
    return _compared(drawing, found, lines, PUBLISHED)


def _compared(drawing: Drawing, found: Accuracy, lines: Sequence[Line], against: str) -> Drawing:
    said = f"The median absolute error of {counted(len(found.points), 'point')} is {found.median_error:.1%}."
    if found.pairs:
        said += (
            f" Of two levels on as many ranks the prediction names the faster one in {found.in_order / found.pairs:.0%} of "
            f"{counted(found.pairs, 'case')}."
        )
    return replace(
        drawing,
        alt=f"{drawing.title}, samples per second. {said}",
        draw=lambda width_in: _draw(found, lines, against, width_in),
        notes=(said, *_misses(found, against)),
    )


def _misses(found: Accuracy, against: str) -> Iterator[str]:
    far = [point for point in found.points if abs(_error(point, against)) > MISS]
    far.sort(key=lambda point: -abs(_error(point, against)))
    if not far:
        yield f"No prediction misses by more than {MISS:.0%}."
    for point in far[:_MOST_NAMED]:
        truth, predicted = point.throughput[against].value, point.throughput[PREDICTED].value
        yield (
            f"{point.name}: predicted {predicted:,.0f} samples/s, {against} {truth:,.0f} ({_error(point, against):+.1%})"
        )
    if len(far) > _MOST_NAMED:
        yield f"and {len(far) - _MOST_NAMED:,} more that miss by more than {MISS:.0%}; the table has all"


def _draw(found: Accuracy, lines: Sequence[Line], against: str, width_in: float) -> Figure:
    """Predicted against the truth, as samples/s; and where there is place for it, errors against ranks."""
    narrow = looks.is_narrow(width_in)
    picture = Figure(figsize=(width_in, 4.8), layout="constrained")
    if narrow:
        axes = picture.subplots()
    else:
        axes, errors = picture.subplots(1, 2)
        _draw_errors(errors, found, lines, against)
    spreads = [point.throughput[source] for point in found.points for source in (against, PREDICTED)]
    logarithmic = looks.spans_much([spread.value for spread in spreads])
    values = [value for spread in spreads for value in (spread.value, spread.low, spread.high)]
    for which in "xy":
        looks.amounts_axis(axes, which, values, logarithmic=logarithmic)
    ends = list(axes.get_xlim())
    if not logarithmic and min(values) > 0.5 * max(values):  # a cloud far from 0 is looked at closely
        ends = [min(values) * 0.8, max(values) * 1.1]
        axes.set(xlim=ends, ylim=ends)
    for band, alpha in zip(_BANDS, _ALPHAS, strict=True):
        low, high = ([end * (1 + sign * band) for end in ends] for sign in (-1, 1))
        axes.fill_between(ends, low, high, color=MUTED, alpha=alpha, linewidth=0)
    axes.plot(ends, ends, color=INK, linewidth=1)
    axes.set(ylim=ends, aspect="equal")
    _draw_marks(axes, found, lines, against)
    axes.set(xlabel=f"{against} samples/s", ylabel="predicted samples/s")
    for band, alpha in zip(_BANDS, _ALPHAS, strict=True):
        axes.fill_between([], [], color=MUTED, alpha=0.1 + alpha, linewidth=0, label=f"within {band:.0%}")
    looks.legend(picture, axes)
    return picture


def _draw_errors(axes: Any, found: Accuracy, lines: Sequence[Line], against: str) -> None:
    """Errors against ranks, so that one sees where predictions go wrong."""
    chosen = {id(point) for point in found.points}
    for band, alpha in zip(_BANDS, _ALPHAS, strict=True):
        axes.axhspan(-band, band, color=MUTED, alpha=alpha, linewidth=0)
    axes.axhline(0.0, color=INK, linewidth=1)
    for line in lines:
        own = [point for point in line.level.points if id(point) in chosen]
        sides = [point.ranks for point in own], [_error(point, against) for point in own]
        axes.plot(*sides, line.marker, color=line.colour, zorder=line.depth)
    most = max(abs(_error(point, against)) for point in found.points)
    axes.set_ylim(-max(0.3, most * 1.1), max(0.3, most * 1.1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0%}" if value else "0%"))
    looks.ranks_axis(axes.xaxis, [point.ranks for point in found.points], narrow=True)
    axes.set(xlabel="ranks", ylabel=f"predicted / {against} - 1")


def _draw_marks(axes: Any, found: Accuracy, lines: Sequence[Line], against: str) -> None:
    chosen = {id(point) for point in found.points}
    for line in lines:
        own = [point for point in line.level.points if id(point) in chosen]
        if not own:
            continue
        truths, predictions = ([point.throughput[source] for point in own] for source in (against, PREDICTED))
        x, y = ([one.value for one in spreads] for spreads in (truths, predictions))
        bars = [
            [[max(0.0, one.value - one.low) for one in spreads], [max(0.0, one.high - one.value) for one in spreads]]
            for spreads in (truths, predictions)
        ]
        style: dict[str, Any] = {"color": line.colour, "zorder": line.depth, "linestyle": "none"}
        if line.told:
            axes.errorbar(x, y, bars[1], bars[0], marker=line.marker, elinewidth=0.9, **style)
            axes.plot([], [], line.marker, color=line.colour, label=looks.label(line.level.name))
        else:
            axes.plot(x, y, marker=".", **style)
    if any(not line.told for line in lines):
        axes.plot([], [], ".", color=OTHERS, label=others_text(lines))


def _by_ranks(points: Sequence[Point]) -> dict[tuple[str, int], list[Point]]:
    found: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        found.setdefault((point.experiment, point.ranks), []).append(point)
    return found


def _is_faster(a: Point, b: Point, source: str) -> bool:
    return a.throughput[source].value > b.throughput[source].value


def _error(point: Point, against: str) -> float:
    error = point.error(against)
    assert error is not None
    return error
