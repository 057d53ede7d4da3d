"""What the figures that a run has left show: metrics.jsonl, and how the run ended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dlrm.diagnose.finding import Finding
from dlrm.diagnose.labels import DEVIATIONS, LEAKING_AUC
from dlrm.errors import DataError
from dlrm.format import counted, escaped
from dlrm.metrics.base_rate import BLOCK_STEPS, BaseRateWatch
from dlrm.metrics.binary import BinaryResult, coin_entropy
from dlrm.run.recorder import parse_record
from dlrm.run.status.ages import Ages
from dlrm.run.status.job import look

_RATES = "optim.dense.lr, optim.sparse.lr"
_TOO_GOOD = 0.99
"""More than what one feature may have (LEAKING_AUC): here all of them are together."""
_WORSE = 0.01  # of the log loss: the best published models of Criteo_x1 are within 0.4 % of DLRM's (BARS benchmark)
_FLAT = 0.002
_NOTHING_LEARNT = 0.995  # normalised entropy; a model that knows one feature of Criteo's has 0.96
_LOSS_DEVIATION = 0.5  # of one sample's loss, about: of the log loss it is this over the root of the samples

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class RunRecords:
    """The entries of a run's metrics.jsonl.

    Attributes:
        folder: of the run; entries: in order; error: what ended it, if it failed.
    """

    folder: str
    entries: Records
    error: str = ""

    def of(self, kind: str, task: str) -> Records:
        """The entries of a kind and of one of several tasks (empty: of the only one)."""
        return [entry for entry in self.entries if entry["kind"] == kind and entry.get("task", "") == task]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that were scored; an empty one for the only task."""
        scored = (entry for entry in self.entries if entry["kind"] in ("validation", "test"))
        return list(dict.fromkeys(entry.get("task", "") for entry in scored))


def read_records(folder: str) -> RunRecords:
    """Read what a run has recorded. Lines that are no records, as a kill may leave one, are passed over.

    Raises:
        DataError: there is no metrics.jsonl, or it holds no record.
    """
    path = Path(folder, "metrics.jsonl")
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", hint="name the folder of a run") from None
    entries = [entry for line in lines if (entry := parse_record(line)) is not None]
    if not entries:
        raise DataError(str(path), "holds no record", hint="the run ended before logging.every_steps steps")
    fault = look(Path(folder), Ages()).fault
    return RunRecords(folder, entries, fault.line if fault is not None else "")


def judge_run(records: RunRecords, *, warmup_steps: int) -> Iterator[Finding]:
    """What a run's figures show, of each task.

    Args:
        records: of the run.
        warmup_steps: of its learning rates, in which anything may happen.
    """
    if "training has diverged" in records.error:
        yield Finding(
            "diverged",
            f"the run ended with: {escaped(records.error, 200)}",
            f"lower {_RATES}, warm up longer (optim.schedule.warmup_steps) or set optim.clip_norm",
        )
    worse = _worse_than_base_rate(records, warmup_steps)
    over_time = {task: list(_over_time(records, task, exploded=worse is not None)) for task in records.tasks}
    overfitted = any(one.cause == "overfitting" for found in over_time.values() for one in found)
    if worse is not None and not overfitted:  # which makes the validation samples as bad, and has another cure
        yield worse
    for task in records.tasks:
        called = _called(task)
        for split in ("validation", "test"):
            if scored := records.of(split, task):
                yield from _ranking(split, called, scored[-1])
        yield from over_time[task]


def _worse_than_base_rate(records: RunRecords, warmup_steps: int) -> Finding | None:
    """What :mod:`dlrm.metrics.base_rate` says of the evaluations, the last of each split as such."""
    tasks = records.tasks
    watch = BaseRateWatch(warmup_steps, tasks)
    for split in ("validation", "test"):
        by_step: dict[int, dict[str, BinaryResult]] = {}
        for task in tasks:
            for entry in records.of(split, task):
                by_step.setdefault(entry["step"], {})[task] = _result(entry)
        for step, results in by_step.items():
            if len(results) == len(tasks):
                watch.evaluated(split, step, results, last=step == max(by_step))
    if watch.found is None:
        return None
    said, _, hint = str(watch.found).rpartition("; ")
    return Finding("exploded", said, hint)


def _result(entry: dict[str, Any]) -> BinaryResult:
    return BinaryResult(**{field.name: entry.get(field.name) for field in fields(BinaryResult)})  # type: ignore[arg-type]


def _ranking(split: str, called: str, entry: dict[str, Any]) -> Iterator[Finding]:
    """What one evaluation shows."""
    found = _result(entry)
    positives, samples = found.positives or 0, found.samples or 0
    negatives = samples - positives
    if samples and not (positives and negatives):
        yield Finding(
            "constant_labels",
            f"all {samples:,} {split} labels{called} are {int(positives > 0)}",
            "there is no AUC of one class: see which column the label is",
        )
    if found.auc is None or not positives or not negatives:
        return
    if found.auc == 0.5 and found.average_precision is not None and _same(found.average_precision, found.click_rate):
        yield Finding(
            "constant_predictions",
            f"every one of {samples:,} {split} samples{called} has the same score (AUC exactly 0.5, average precision the "
            "click rate)",
            f"units that are all off give that, and so do weights that are all alike: lower {_RATES}",
        )
        return
    noise = DEVIATIONS * math.sqrt((samples + 1) / (12 * positives * negatives))
    if found.auc < 0.5 - noise:
        yield Finding(
            "below_chance",
            f"{split} AUC{called} is {found.auc:.4f}, below 0.5 by more than chance gives ({noise:.4f})",
            "the model ranks the wrong way round there: 0 and 1 are exchanged in one of the splits, or columns or ids mean "
            "something else in it",
        )
    elif found.auc < 0.5 + noise:
        yield Finding(
            "nothing_learnt",
            f"{split} AUC{called} is {found.auc:.4f}, which is chance (0.5 +- {noise:.4f})",
            "labels that have nothing to do with the features, or rates far too small or large: see the other findings",
        )
    elif found.auc > _TOO_GOOD:
        yield Finding(
            "too_good",
            f"{split} AUC{called} is {found.auc:.4f}; one feature that tells the label gives that, or samples that "
            "were trained on",
            f"look for a feature with an AUC above {LEAKING_AUC} of its own, and for rows that are in both splits",
        )


def _over_time(records: RunRecords, task: str, *, exploded: bool) -> Iterator[Finding]:
    """What losses and evaluations over steps show."""
    called = _called(task)
    losses = [(entry["step"], entry["loss"]) for entry in records.of("train", task) if _number(entry.get("loss"))]
    scored = [entry for entry in records.of("validation", task) if _number(entry.get("log_loss"))]
    if not scored:
        return
    last, best = scored[-1], min(scored, key=lambda entry: entry["log_loss"])
    chance = DEVIATIONS * _LOSS_DEVIATION / math.sqrt(max(1, last["samples"]))
    entropy = coin_entropy(_result(last).counted_positives, last["samples"])
    if len(losses) >= 3 and losses[-1][0] >= BLOCK_STEPS and entropy:
        first, end = _mean(losses[: len(losses) // 3]), _mean(losses[-(len(losses) // 3) :])
        learnt = last["log_loss"] / entropy
        if abs(first - end) < _FLAT * first and _NOTHING_LEARNT < learnt <= 1 + chance / entropy and not exploded:
            yield Finding(
                "flat_loss",
                f"the training loss{called} has stayed at {end:.4f} for {counted(losses[-1][0], 'step')} (in the "
                f"first third {first:.4f}), that of predicting the click rate for each",
                f"raise {_RATES}; if that does not help, labels have nothing to do with the features",
            )
    rise = last["log_loss"] - best["log_loss"]
    before = [loss for step, loss in losses if step <= best["step"]]
    after = [loss for step, loss in losses if step > best["step"]]
    if rise > max(_WORSE * best["log_loss"], chance) and before and after:
        window = min(len(before), len(after))
        if (now := _mean_of(after[-window:])) < (then := _mean_of(before[-window:])):
            yield Finding(
                "overfitting",
                f"validation log loss{called} is {last['log_loss']:.4f} at step {last['step']:,} and "
                f"was {best['log_loss']:.4f} at step {best['step']:,}, while the training loss fell from "
                f"{then:.4f} to {now:.4f}",
                "train fewer epochs, keep the best checkpoint (checkpoint.best), or reset the tables after each epoch "
                "(train.reset_tables_each_epoch)",
            )


def _called(task: str) -> str:
    return f" of task {escaped(task)}" if task else ""


def _same(one: float, other: float | None) -> bool:
    return other is not None and math.isclose(one, other, rel_tol=1e-9)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mean(pairs: Sequence[tuple[int, float]]) -> float:
    return _mean_of([loss for _, loss in pairs])


def _mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values)
