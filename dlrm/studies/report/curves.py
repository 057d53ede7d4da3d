"""Learning curves: the metric over steps, as the mean of the final seeds with their spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from dlrm.scaling.report import looks
from dlrm.scaling.report.looks import MUTED, Drawing
from dlrm.studies.report.looks import METRICS, Look

Entries = Sequence[Mapping[str, Any]]
"""Of a run, as its metrics.jsonl has them."""
Curve = dict[int, list[float]]
"""By step, a value a seed."""
_IN_TRAINING = {"log_loss": "loss", "accuracy": "accuracy"}  # what a run records of its training samples


def learning_curves(found: Sequence[Look], entries: Mapping[str, Mapping[int, Entries]], metric: str) -> Drawing:
    """The metric on validation samples, and on training samples where runs record it.

    Args:
        found: the arms.
        entries: of the final runs, by arm and seed.
        metric: of the study.
    """
    called = METRICS[metric]
    curves = {look.arm.name: curve_of(entries.get(look.arm.name, {}).values(), "validation", metric) for look in found}
    trained = {
        look.arm.name: curve_of(entries.get(look.arm.name, {}).values(), "train", _IN_TRAINING.get(metric, ""))
        for look in found
    }
    caption = (
        f"{called[0].upper()}{called[1:]} on validation samples over the steps of the final runs: the mean "
        "over seeds, and from the least to the greatest in a band"
        + (". Thin dashes: on the training samples between two records" if any(trained.values()) else "")
    )
    drawing = Drawing("curves", "Learning curves", f"{caption}.")
    if not any(curves.values()):
        return looks.without(drawing, "no final run has recorded an evaluation")
    ends = [f"{name}: {fmean(curve[max(curve)]):.5f} at step {max(curve):,}" for name, curve in curves.items() if curve]
    return replace(
        drawing,
        alt=f"Validation {called} over steps. {'; '.join(ends)}.",
        draw=lambda width_in: _draw(found, curves, trained, called, width_in),
    )


def curve_of(runs: Iterable[Entries], kind: str, name: str) -> Curve:
    """Values by step that all runs have, of the first task; a kind is train, validation or test."""
    by_run = []
    for entries in runs:
        own: dict[int, float] = {}
        for entry in entries:
            value = entry.get(name)
            if entry.get("kind") == kind and isinstance(value, int | float) and isinstance(entry.get("step"), int):
                own.setdefault(entry["step"], float(value))
        by_run.append(own)
    steps = set.intersection(*map(set, by_run)) if by_run else set()
    return {step: [own[step] for own in by_run] for step in sorted(steps)}


def _draw(
    found: Sequence[Look], curves: Mapping[str, Curve], trained: Mapping[str, Curve], called: str, width_in: float
) -> Figure:
    picture, axes = looks.figure(width_in, 4.6)
    for look in found:
        if curve := curves[look.arm.name]:
            _line(axes, curve, look, "-", 1.8, band=True)
            axes.plot([], [], "-", marker=look.marker, color=look.colour, label=looks.label(look.arm.name))
        if curve := trained[look.arm.name]:
            _line(axes, curve, look, "--", 0.9, band=False)
    if any(trained.values()):
        axes.plot([], [], "--", color=MUTED, linewidth=0.9, label="training samples")
    axes.set(xlabel="steps", ylabel=called)
    axes.xaxis.set_major_formatter(looks.compact)
    looks.legend(picture, axes)
    return picture


def _line(axes: Any, curve: Curve, look: Look, style: str, width: float, *, band: bool) -> None:
    steps, means = list(curve), [fmean(values) for values in curve.values()]
    marker = look.marker if band and len(steps) <= looks.MOST_POINTS else ""
    axes.plot(steps, means, style, marker=marker, markersize=4, color=look.colour, linewidth=width)
    if band:
        low, high = ([end(values) for values in curve.values()] for end in (min, max))
        axes.fill_between(steps, low, high, color=look.colour, alpha=0.15, linewidth=0)
