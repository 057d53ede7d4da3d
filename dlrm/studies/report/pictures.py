"""How arms differ, what their searches found, and what their figures cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlrm.scaling.report import looks
from dlrm.scaling.report.looks import INK, MUTED, Drawing
from dlrm.studies.outcome import ArmOutcome, Outcome
from dlrm.studies.report.looks import METRICS, Look
from dlrm.studies.statistics import ERRORS
from dlrm.studies.table import EXCHANGED, MODEL_BYTES, SAMPLES_PER_S

_COSTS = {
    MODEL_BYTES: ("Model size", "bytes of all weights"),
    SAMPLES_PER_S: ("Training speed", "samples/s of training"),
    EXCHANGED: ("Exchanged bytes", "bytes that ranks send each other in a step, by formula"),
}


def differences(outcome: Outcome, found: Sequence[Look]) -> Drawing:
    """Of each arm from the one that it is compared with, on test samples, with what counts as noise."""
    metric = METRICS[outcome.study.metric]
    of = outcome.arms[0].name if outcome.has_one_reference else "the arm that it is compared with"
    drawing = Drawing(
        "differences",
        "Differences",
        f"Test {metric} of each arm minus that of {of}, in pairs of one seed: each pair as a dot, the mean with "
        f"{ERRORS:.0f} standard errors. In the grey band a difference is noise.",
    )
    pairs = [(look, outcome.difference(look.arm, "test")) for look in found]
    known = [(look, one) for look, one in pairs if one is not None]
    if not known:
        return looks.without(drawing, "it takes two arms with test figures of the same seeds")
    ends = [f"{look.arm.name}: {one.estimate.mean:+.5f} ({one.verdict})" for look, one in known]

    def draw(width_in: float) -> Figure:
        picture, axes = looks.figure(width_in, 1.2 + 0.5 * len(known))
        for place, (look, one) in enumerate(known):
            if one.threshold:
                axes.barh(place, 2 * one.threshold, left=-one.threshold, color=MUTED, alpha=0.2, height=0.7)
            axes.plot(one.pairs, [place] * len(one.pairs), ".", color=look.colour, alpha=0.6)
            error = ERRORS * (one.estimate.error or 0.0)
            axes.errorbar([one.estimate.mean], [place], xerr=[error], fmt=look.marker, color=look.colour, capsize=3)
        axes.axvline(0.0, color=INK, linewidth=1)
        axes.set_yticks(range(len(known)), [looks.label(_compared(outcome, look.arm), 40) for look, _ in known])
        axes.set(xlabel=f"test {metric} minus that of {looks.label(of, 36)}", ylim=(len(known) - 0.4, -0.6))
        return picture

    return replace(drawing, alt="; ".join(ends), draw=draw)


def _compared(outcome: Outcome, arm: ArmOutcome) -> str:
    """An arm, and what it is compared with where that is not the same for all."""
    reference = outcome.reference(arm)
    return arm.name if reference is None or outcome.has_one_reference else f"{arm.name} - {reference.name}"


def searches(outcome: Outcome, found: Sequence[Look]) -> Drawing:
    """What each trial was worth on validation samples, in their order."""
    metric, seeds = METRICS[outcome.study.metric], outcome.study.selection_seeds
    drawing = Drawing(
        "search",
        "Search",
        f"Validation {metric} of each trial, the mean over the selection seeds, in the order of the trials. The one that "
        "was chosen has a ring. No test sample had a part in this.",
    )
    own = [look for look in found if look.arm.name == look.arm.owner and len(look.arm.trials) > 1]
    values = {look.arm.name: [(t.number, t.value(seeds)) for t in look.arm.trials] for look in own}
    known = {name: [(n, value) for n, value in trials if value is not None] for name, trials in values.items()}
    if not any(known.values()):
        return looks.without(drawing, "nothing was searched")

    def draw(width_in: float) -> Figure:
        picture, axes = looks.figure(width_in, 4.0)
        for look in own:
            if not (trials := known[look.arm.name]):
                continue
            numbers, heights = zip(*trials, strict=True)
            style: Any = {"color": look.colour, "label": looks.label(look.arm.name), "linewidth": 0.8}
            axes.plot(numbers, heights, look.marker + "-", **style)
            if look.arm.chosen is not None and (best := dict(trials).get(look.arm.chosen.number)) is not None:
                ring: Any = {"markersize": 13, "fillstyle": "none", "markeredgewidth": 1.6}
                axes.plot([look.arm.chosen.number], [best], "o", color=look.colour, **ring)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="trial", ylabel=f"validation {metric}")
        looks.legend(picture, axes)
        return picture

    counts = ", ".join(f"{name}: {len(trials)} trials" for name, trials in known.items())
    return replace(drawing, alt=f"Validation {metric} of trials. {counts}.", draw=draw)


def tradeoff(outcome: Outcome, found: Sequence[Look], cost: str) -> Drawing:
    """The metric on test samples against what it costs."""
    metric, (title, axis) = METRICS[outcome.study.metric], _COSTS[cost]
    drawing = Drawing(
        cost,
        title,
        f"Test {metric} against {axis}: means over the final seeds, bars of {ERRORS:.0f} standard errors.",
    )
    points = [(look, look.arm.estimate("test", outcome.study.metric), look.arm.estimate("", cost)) for look in found]
    known = [(look, height, place) for look, height, place in points if height is not None and place is not None]
    if not known:
        why = (
            "runs of one rank exchange nothing: set exchange_ranks" if cost == EXCHANGED else "no final run has figures"
        )
        return looks.without(drawing, why)

    def draw(width_in: float) -> Figure:
        picture, axes = looks.figure(width_in, 4.2)
        looks.amounts_axis(axes, "x", [place.mean + ERRORS * (place.error or 0.0) for _, _, place in known])
        for look, height, place in known:
            bars = [ERRORS * (one.error or 0.0) for one in (height, place)]
            style: Any = {"color": look.colour, "capsize": 3, "label": looks.label(look.arm.name)}
            axes.errorbar([place.mean], [height.mean], yerr=[bars[0]], xerr=[bars[1]], fmt=look.marker, **style)
        axes.set(xlabel=axis, ylabel=f"test {metric}")
        looks.legend(picture, axes)
        return picture

    told = "; ".join(f"{look.arm.name}: {height.mean:.5f} at {place.mean:,.0f}" for look, height, place in known)
    return replace(drawing, alt=f"Test {metric} against {axis}. {told}.", draw=draw)
