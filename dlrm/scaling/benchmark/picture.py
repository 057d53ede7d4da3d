"""A benchmark's breakdown as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dlrm.files import written_beside
from dlrm.format import escaped
from dlrm.scaling.benchmark.result import Breakdown, Result
from dlrm.scaling.stage_names import BACKWARD, UPDATE

_FORWARD_COLOUR, _BACKWARD_COLOUR, _SLOWEST_COLOUR = "#2f6db0", "#d9772b", "#d0d0d0"
_DPI = 110


def draw(result: Result, path: Path) -> None:
    """Write the picture, a PNG file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with written_beside(path, durable=False) as file:
        _picture(result).savefig(file, format="png", dpi=_DPI, bbox_inches="tight")


def _picture(result: Result) -> Figure:
    found = result.breakdown
    picture = Figure(figsize=(8.5, 0.26 * len(found.stages) + 1.4))
    axes = picture.subplots()
    axes.set_title(_title(result), fontsize=10, loc="left")
    _bars(axes, found)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5, axis="x")
    axes.set_axisbelow(True)
    ranks = "; mean of the ranks, grey: the slowest" if result.ranks > 1 else ""
    axes.set_xlabel(f"ms of the host's time in a step of {found.step_ms:.2f} ms; orange: backward{ranks}", fontsize=8)
    return picture


def _title(result: Result) -> str:
    name = escaped(result.name, 40).replace("$", r"\$")
    left_out = f" without {', '.join(result.without)}" if result.without else ""
    return f"{name}{left_out}: {result.samples_per_s:,.0f} samples/s, {result.ranks} rank(s), {result.device}"


def _bars(axes: Any, found: Breakdown) -> None:
    names = [stage.stage for stage in found.stages]
    colours = [_BACKWARD_COLOUR if _is_backward(name) else _FORWARD_COLOUR for name in names]
    places = range(len(names))
    axes.barh(places, [stage.mean_ms for stage in found.stages], color=colours)
    shares = [f"{stage.mean_ms / found.step_ms:.1%}" for stage in found.stages]
    longest = axes.barh(places, [stage.slowest_ms for stage in found.stages], color=_SLOWEST_COLOUR, zorder=0.5)
    axes.bar_label(longest, shares, padding=3, fontsize=7)
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first at the top


def _is_backward(stage: str) -> bool:
    return stage.endswith(BACKWARD) or stage == UPDATE
