"""What a benchmark has found as a picture: latency against throughput, and what a model has of a shared machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dlrm.files import written_beside
from dlrm.format import counted, escaped
from dlrm.inference.benchmark.colocation import Shared
from dlrm.inference.benchmark.measure import Measured
from dlrm.inference.benchmark.points import Point
from dlrm.inference.benchmark.result import Result

_COLOURS = ("#2f6db0", "#d9772b", "#4a9a5b", "#8a5fb0", "#b04a4a", "#777777")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_BOUND_COLOUR, _EQUAL_COLOUR = "#d0302f", "#b0b0b0"
_DPI = 110
_PLAIN_NUMBERS = FuncFormatter(lambda number, _: f"{number:,.6g}")
_SPARE = 2.5
"""Of the bound: how far up the latencies are shown."""


def draw(result: Result, path: Path) -> None:
    """Write the picture, a PNG file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with written_beside(path, durable=False) as file:
        picture(result).savefig(file, format="png", dpi=_DPI, bbox_inches="tight")


def picture(result: Result) -> Figure:
    """One panel, or two where models have shared the machine."""
    together = result.shared if any(one.models > 1 for one in result.shared) else []
    figure = Figure(figsize=(13 if together else 7.5, 4.4))
    panels = figure.subplots(1, 2 if together else 1, squeeze=False)[0]
    _latencies(panels[0], result)
    if together:
        _shares(panels[1], together)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.set_axisbelow(True)
    name = ", ".join(escaped(Path(path).name, 40) for path in result.config.exports).replace("$", r"\$")
    figure.suptitle(f"{name}: requests that arrive at random", fontsize=10, x=0.06, ha="left")
    figure.tight_layout()
    return figure


def _latencies(axes: Any, result: Result) -> None:
    bound, best = result.config.bound_ms, result.best
    shown = [one for one in result.measured if one.bounded and _is_shown(one.point, best)]
    batches, threads = _different(one.point.batch_rows for one in shown), _different(one.point.threads for one in shown)
    for one in shown:
        runs = sorted([*one.curve, *([one.bounded] if one.bounded else [])], key=lambda run: run.rate_per_s)
        look = batches.index(one.point.batch_rows)
        axes.plot(
            [run.requests_per_s for run in runs],
            [run.latency.p99_ms for run in runs],
            color=_COLOURS[look % len(_COLOURS)],
            marker=_MARKERS[look % len(_MARKERS)],
            linestyle=_LINES[threads.index(one.point.threads) % len(_LINES)],
            markersize=4,
            linewidth=1.2,
            label=f"{counted(one.point.batch_rows, 'row')}, {counted(one.point.threads, 'thread')}",
        )
    axes.axhline(bound, color=_BOUND_COLOUR, linewidth=1)
    axes.annotate(
        f"bound {bound:g} ms", (1, bound), xycoords=("axes fraction", "data"), xytext=(-4, 3),
        textcoords="offset points", fontsize=8, color=_BOUND_COLOUR, ha="right",
    )  # fmt: skip
    if best is not None and best.bounded is not None and best in shown:
        axes.plot(
            best.bounded.requests_per_s, best.bounded.latency.p99_ms, marker="*", markersize=15, linestyle="",
            color="#f2b01e", markeredgecolor="black", markeredgewidth=0.6, zorder=4,
            label=f"best: {best.bounded_rate:,.0f} requests/s",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=bound * _SPARE)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PLAIN_NUMBERS)
    axes.yaxis.set_minor_formatter(_PLAIN_NUMBERS)
    axes.set_xlabel("requests/s", fontsize=8)
    axes.set_ylabel("p99 of the latency, ms", fontsize=8)
    axes.set_title(_what_is_shown(best), fontsize=9, loc="left")
    if shown:
        _legend(axes, "most rows of a batch, threads")


def _legend(axes: Any, title: str) -> None:
    """To the right of the panel: curves may be anywhere in it."""
    axes.legend(fontsize=7, frameon=False, title=title, title_fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _is_shown(point: Point, best: Measured | None) -> bool:
    """Points that differ from the best in batch and threads only are one picture; all else would be a tangle."""
    if best is None:
        return True
    like = best.point
    return (point.members, point.request_rows, point.given, point.cpu_set) == (
        like.members,
        like.request_rows,
        like.given,
        like.cpu_set,
    )


def _what_is_shown(best: Measured | None) -> str:
    if best is None:
        return "latency against throughput"
    point = best.point
    parts = [counted(point.models, "model"), f"requests of {counted(point.request_rows, 'row')}", f"{point.given}"]
    return f"latency against throughput ({', '.join(parts)})"


def _shares(axes: Any, found: Sequence[Shared]) -> None:
    most = max(one.point.threads for one in found)
    shown = [one for one in found if one.point.threads == most]
    like = shown[0].point
    shown = [
        one
        for one in shown
        if (one.point.given, one.point.cpu_set, one.point.request_rows) == (like.given, like.cpu_set, like.request_rows)
    ]
    batches = _different(one.point.batch_rows for one in shown)
    counts = _different(one.models for one in shown)
    for look, batch in enumerate(batches):
        of_batch = sorted((one for one in shown if one.point.batch_rows == batch), key=lambda one: one.models)
        axes.plot(
            [one.models for one in of_batch],
            [one.rate_per_model for one in of_batch],
            color=_COLOURS[look % len(_COLOURS)],
            marker=_MARKERS[look % len(_MARKERS)],
            markersize=4,
            linewidth=1.2,
            label=counted(batch, "row"),
        )
        axes.plot(
            counts, [of_batch[0].rate_per_model * of_batch[0].models / count for count in counts],
            color=_EQUAL_COLOUR, linewidth=0.8, linestyle=":", zorder=0.5,
            label="equal shares of the first" if look == len(batches) - 1 else None,
        )  # fmt: skip
    axes.set_xticks(counts)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"models that share {counted(most, 'thread')}", fontsize=8)
    axes.set_ylabel("requests/s of each within the bound", fontsize=8)
    axes.set_title("what a model has of a shared machine", fontsize=9, loc="left")
    _legend(axes, "most rows of a batch")


def _different(values: Iterable[int]) -> list[int]:
    return sorted(set(values))
