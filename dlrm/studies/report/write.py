"""report.html of a study: how it was made, arms with their differences, curves, searches, what figures cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlrm.config.metrics import SMALLER_IS_BETTER
from dlrm.config.study import NoSearch, Study
from dlrm.format import byte_size, counted, local_time
from dlrm.scaling.report.about import hardware
from dlrm.scaling.report.cells import Cell, Column
from dlrm.scaling.report.looks import compact
from dlrm.scaling.report.parts import Head, ShownTable, Tile, write_page
from dlrm.studies.baselines import Baseline
from dlrm.studies.choice import Trial
from dlrm.studies.outcome import ArmOutcome, Outcome
from dlrm.studies.report.curves import Entries, learning_curves
from dlrm.studies.report.looks import METRICS, looks_of
from dlrm.studies.report.pictures import differences, searches, tradeoff
from dlrm.studies.statistics import BETTER, ERRORS, WORSE, Estimate, estimate
from dlrm.studies.table import BEST_AUC, DONE, EXCHANGED, FAILED, MODEL_BYTES, SAMPLES_PER_S
from dlrm.studies.text import difference_texts, estimate_text

PAGE = "report.html"
_NONE = "–"
_READING = (
    "Means over the final seeds ± their standard errors. Differences are of pairs with the same seed. A click on a heading "
    "sorts."
)


def write_report(
    outcome: Outcome,
    entries: Mapping[str, Mapping[int, Entries]],
    baselines: Sequence[Baseline],
    folder: Path,
    *,
    environment: Mapping[str, Any] | None = None,
    changed: Mapping[str, int] | None = None,
) -> Path:
    """Write the page and its pictures, in the place of earlier ones.

    Args:
        outcome: of the study.
        entries: what its final runs have recorded, by arm and seed.
        baselines: other learners on the same samples.
        folder: for the page, which holds the table already.
        environment: of a run.
        changed: how often the choice of an arm was another before.

    Returns:
        The page.

    Raises:
        OSError: the folder cannot be written.
    """
    found = looks_of(outcome.arms)
    tables = [_arms_table(outcome, baselines)]
    if any(arm.trials for arm in outcome.arms):
        tables.append(_trials_table(outcome))
    drawings = [
        learning_curves(found, entries, outcome.study.metric),
        differences(outcome, found),
        searches(outcome, found),
        *(tradeoff(outcome, found, cost) for cost in (MODEL_BYTES, SAMPLES_PER_S, EXCHANGED)),
    ]
    head = _head(outcome, baselines, environment or {}, changed or {})
    write_page(folder / PAGE, head, tables, drawings, after=["trials"])
    return folder / PAGE


def statements(study: Study, outcome: Outcome, changed: Mapping[str, int]) -> Iterator[str]:
    """What a reader has to know of the figures."""
    metric = METRICS[study.metric]
    if any(not isinstance(study.search_of(name), NoSearch) for name in study.arms):
        yield (
            f"Trials were chosen by the mean validation {metric} over {_seeds(study.selection_seeds)}. They scored no test "
            "samples (evaluation.test was false)."
        )
    yield (
        f"What was chosen was trained anew with {_seeds(study.final_seeds)}, the same in all arms, and each of these runs "
        "scored the test samples once, at its end."
    )
    floor = (
        f", or than {study.noise:g}, which the study's file gives as noise."
        if study.noise
        else ". The study's file gives no noise floor: what another draw of test samples would change is not in this."
    )
    yield (
        f"A difference is called noise where it is not larger than {ERRORS:.0f} standard errors of the paired differences"
        f"{floor}"
    )
    for arm in outcome.arms:
        if arm.ensemble > 1:
            yield (
                f"{arm.name} averages the probabilities of {arm.ensemble} models, each trained with a seed of its own; its "
                "configuration was chosen by single models."
            )
        diverged = [seed for seed, status in arm.statuses.items() if status.state == FAILED]
        if diverged:
            yield f"{arm.name} has no figures of {_seeds(diverged)}, which failed: its mean is of the others alone."
    for name, times in changed.items():
        if times:
            yield (
                f"The choice of {name} was another {counted(times, 'time')} before, and test samples may have been scored "
                "with it: the trials were changed in between (choices.json)."
            )


def _seeds(seeds: Sequence[int]) -> str:
    listed = ", ".join(map(str, seeds[:8])) + (", ..." if len(seeds) > 8 else "")
    return f"seed {listed}" if len(seeds) == 1 else f"{len(seeds)} seeds ({listed})"


def _head(
    outcome: Outcome, baselines: Sequence[Baseline], environment: Mapping[str, Any], changed: Mapping[str, int]
) -> Head:
    study = outcome.study
    said = list(statements(study, outcome, changed))
    for baseline in baselines:
        where = (
            ""
            if baseline.same_data
            else " Its file names other data than the study's first arm: figures do not compare."
        )
        said.append(f"{baseline.name} (baseline): {baseline.about}.{where}")
    return Head(
        title=study.name,
        description=study.description,
        tiles=list(_tiles(outcome)),
        details=hardware(environment),
        link="table.parquet",
        download="",
        table="table.parquet",
        size=f"{counted(len(outcome.rows), 'row')}; table.csv is the same",
        environment=json.dumps(environment, indent=2, default=str) if environment else "",
        what="Study",
        statements=said,
    )


def _tiles(outcome: Outcome) -> Iterator[Tile]:
    study, metric = outcome.study, METRICS[outcome.study.metric]
    yield Tile(f"{len(outcome.arms):,}", f"arm{'s' * (len(outcome.arms) != 1)}")
    yield Tile(f"{sum(len(arm.trials) for arm in outcome.arms if arm.name == arm.owner):,}", "trials of searches")
    means = [(arm, found) for arm in outcome.arms if (found := arm.estimate("test", study.metric)) is not None]
    if means:
        smaller = study.metric in SMALLER_IS_BETTER
        arm, best = min(means, key=lambda one: one[1].mean if smaller else -one[1].mean)
        yield Tile(f"{best.mean:.5f}", f"best mean test {metric}: {arm.name}")
    failed = {(row.arm, row.trial, row.seed) for row in outcome.rows if row.status == FAILED}
    yield Tile(f"{len(failed):,}", "runs failed", "bad" if failed else "good")
    day, _, hour = local_time(time.time()).partition(" ")
    yield Tile(day, f"{hour}, when the page was written")


def _arms_table(outcome: Outcome, baselines: Sequence[Baseline]) -> ShownTable:
    study = outcome.study
    scores = [study.metric, *(name for name in ("auc", "log_loss") if name != study.metric)]
    columns = [Column("arm"), Column("chosen"), Column("seeds", number=True)]
    columns += [Column(f"validation {METRICS[study.metric]}", number=True)]
    columns += [Column(f"test {METRICS[name]}", number=True) for name in scores]
    if any(arm.estimate("test", BEST_AUC) for arm in outcome.arms):
        scores.append(BEST_AUC)
        columns.append(Column("best reachable test AUC", number=True))
    of = f" from {outcome.arms[0].name}" if outcome.has_one_reference else ""
    columns += [Column(f"difference{of}", number=True), Column("verdict")]
    columns += [Column(title, number=True) for title in ("model", "samples/s", "exchanged a step")]
    rows = [list(_arm_row(outcome, arm, scores)) for arm in outcome.arms]
    rows += [list(_baseline_row(baseline, study, scores)) for baseline in baselines]
    failures = [
        (f"{arm.name}, seed {seed}", status.state, status.reason)
        for arm in outcome.arms
        for seed, status in arm.statuses.items()
        if status.state != DONE
    ]
    return ShownTable("arms", "Arms", _READING, columns, rows, failures[:30])


def _arm_row(outcome: Outcome, arm: ArmOutcome, scores: Sequence[str]) -> Iterator[Cell]:
    study = outcome.study
    yield Cell(arm.name, f"{arm.ensemble} models averaged" if arm.ensemble > 1 else "")
    point = arm.chosen.point if arm.chosen is not None else {}
    yield Cell(", ".join(f"{name} {_value(value)}" for name, value in point.items()) or arm.why or _NONE, kind="why")
    done = sum(status.state == DONE for status in arm.statuses.values())
    yield Cell(f"{done}/{len(study.final_seeds)}", value=done, kind="number")
    yield _estimate(arm.estimate("validation", study.metric))
    for name in scores:
        yield _estimate(arm.estimate("test", name))
    compared = outcome.difference(arm, "test")
    text, verdict = difference_texts(outcome, arm)
    if compared is None:
        yield Cell(_NONE, value="", kind="number")
        yield Cell(_NONE, value="")
    else:
        yield Cell(text, value=compared.estimate.mean, kind="number")
        yield Cell(verdict, kind={BETTER: "good", WORSE: "bad"}.get(compared.verdict, ""), value=compared.verdict)
    size, speed, sent = (arm.estimate("", name) for name in (MODEL_BYTES, SAMPLES_PER_S, EXCHANGED))
    yield _amount(size, byte_size)
    yield _amount(speed, compact)
    yield _amount(sent, byte_size)


def _baseline_row(baseline: Baseline, study: Study, scores: Sequence[str]) -> Iterator[Cell]:
    def mean(split: str, name: str) -> Estimate | None:
        return estimate([run[split, name] for run in baseline.runs.values() if (split, name) in run])

    yield Cell(baseline.name, "baseline")
    yield Cell(baseline.about, kind="why")
    yield Cell(f"{len(baseline.runs)}", kind="number", value=len(baseline.runs))
    yield _estimate(mean("validation", study.metric))
    for name in scores:
        yield _estimate(mean("test", name))
    for number in range(5):
        yield Cell(_NONE, value="", kind="" if number == 1 else "number")


def _trials_table(outcome: Outcome) -> ShownTable:
    study = outcome.study
    owners = [arm for arm in outcome.arms if arm.name == arm.owner]
    names = list(dict.fromkeys(name for arm in owners for trial in arm.trials for name in trial.point))
    columns = [Column("arm"), Column("trial", number=True), *(Column(name) for name in names)]
    columns += [Column(f"validation {METRICS[study.metric]}", number=True), Column("status")]
    rows = [list(_trial_row(arm, trial, names, study)) for arm in owners for trial in arm.trials]
    reading = (
        f"The mean over {_seeds(study.selection_seeds)} of each trial's validation figure. A click on a heading sorts."
    )
    return ShownTable("trials", "Trials", reading, columns, rows)


def _trial_row(arm: ArmOutcome, trial: Trial, names: Sequence[str], study: Study) -> Iterator[Cell]:
    value = trial.value(study.selection_seeds)
    chosen = arm.chosen is not None and arm.chosen.number == trial.number
    status = "done" if value is not None else next(iter(trial.failures.values()), "missing")
    yield Cell(arm.name)
    yield Cell(f"{trial.number}", value=trial.number, kind="number")
    for name in names:
        text = _value(trial.point.get(name, _NONE))
        yield Cell(text, value=text.replace(",", ""))
    yield Cell(_NONE if value is None else f"{value:.5f}", value="" if value is None else value, kind="number")
    kind = "good why" if chosen else "bad why" if value is None else "why"
    yield Cell("chosen" if chosen else status, kind=kind)


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _estimate(found: Estimate | None) -> Cell:
    return Cell(estimate_text(found), value="" if found is None else found.mean, kind="number")


def _amount(found: Estimate | None, text: Any) -> Cell:
    if found is None:
        return Cell(_NONE, value="", kind="number")
    return Cell(text(found.mean), value=found.mean, kind="number")
