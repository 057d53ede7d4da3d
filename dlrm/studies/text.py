"""What study tells the terminal: what it will do, and what it has found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from dlrm.config.study import Bayes, Grid, NoSearch, Random, Study
from dlrm.format import counted, escaped
from dlrm.studies.arms import Configured
from dlrm.studies.outcome import ArmOutcome, Outcome
from dlrm.studies.statistics import Estimate
from dlrm.studies.table import DONE


def plan_table(study: Study, arms: Mapping[str, Configured]) -> Table:
    """What --dry_run shows."""
    table = Table(title=f"{study.name}: {counted(len(study.arms), 'arm')}", title_justify="left")
    for name in ("arm", "search", "runs of the search", "final runs"):
        table.add_column(name, justify="left" if name in ("arm", "search") else "right")
    for name, arm in study.arms.items():
        trials, how = _trials(study, name)
        final = f"{len(study.final_seeds)} seeds" + (f" x {arm.ensemble} averaged" if arm.ensemble > 1 else "")
        table.add_row(*map(Text, (escaped(name, 40), how, f"{trials * len(study.selection_seeds):,}", final)))
    return table


def _trials(study: Study, arm: str) -> tuple[int, str]:
    """How many, and how they come about."""
    if study.arms[arm].of:
        return 0, f"that of {study.arms[arm].of}"
    search = study.search_of(arm)
    match search:
        case NoSearch():
            return 0, "none"
        case Grid():
            count = 1
            for parameter in search.space.values():
                count *= len(parameter.values)  # type: ignore[union-attr]  # a grid has values only
            return count, f"grid of {count} over {', '.join(search.space)}"
        case Random() | Bayes():
            return search.trials, f"{search.kind}, {search.trials} trials over {', '.join(search.space)}"


def summary_table(outcome: Outcome) -> Table:
    """Means over the final seeds with their standard errors, and how each arm differs from its reference."""
    study = outcome.study
    of = f" from {outcome.arms[0].name}" if outcome.has_one_reference else ""
    title = f"Mean over the final seeds ± standard error; differences{of} are of pairs of seeds"
    table = Table(title=title, title_justify="left")
    table.add_column("arm", no_wrap=True)
    for name in ("seeds", f"validation {study.metric}", f"test {study.metric}", "test difference", "verdict"):
        table.add_column(name, justify="right")
    for arm in outcome.arms:
        done = sum(status.state == DONE for status in arm.statuses.values())
        figures = [estimate_text(arm.estimate(split, study.metric)) for split in ("validation", "test")]
        compared = [] if outcome.reference(arm) is None else difference_texts(outcome, arm)
        table.add_row(*map(Text, (arm.name, f"{done}/{len(study.final_seeds)}", *figures, *compared)))
    return table


def estimate_text(found: Estimate | None) -> str:
    """``0.83770 ± 0.00020``."""
    if found is None:
        return "-"
    error = "" if found.error is None else f" ± {found.error:.5f}"
    return f"{found.mean:.5f}{error}"


def difference_texts(outcome: Outcome, arm: ArmOutcome) -> tuple[str, str]:
    """The difference with its error, and what is to be thought of it."""
    reference, found = outcome.reference(arm), outcome.difference(arm, "test")
    if reference is None or found is None:
        return "-", "-"
    error = "" if found.estimate.error is None else f" ± {found.estimate.error:.5f}"
    verdict = f"{found.verdict} (below {found.threshold:.5f})" if found.verdict == "noise" else found.verdict
    of = "" if outcome.has_one_reference else f" from {reference.name}"
    return f"{found.estimate.mean:+.5f}{error}{of}", verdict


def choice_lines(arms: Sequence[ArmOutcome]) -> Iterator[str]:
    """What was chosen, a line an arm with a search."""
    for arm in arms:
        if arm.chosen is not None and arm.chosen.point and arm.name == arm.owner:
            told = ", ".join(f"{name} {escaped(value, 40)}" for name, value in arm.chosen.point.items())
            of = f" of {len(arm.trials)}" if arm.trials else ""  # none where another arm alone was run (--only)
            yield f"{arm.name}: trial {arm.chosen.number}{of} was chosen: {told}"
        elif arm.why and arm.name == arm.owner:
            yield f"{arm.name}: {arm.why}"


def failure_lines(outcome: Outcome) -> list[str]:
    """A line for each run that has failed, with its reason."""
    found = {}
    for row in outcome.rows:
        if row.status == "failed":
            which = "final" if row.trial is None else f"trial {row.trial}"
            found[row.arm, row.purpose, row.trial, row.seed] = f"{row.arm}, {which}, seed {row.seed}: {row.reason}"
    return list(found.values())
