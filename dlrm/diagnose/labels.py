"""What can be wrong with labels, and with what features say of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlrm.diagnose.finding import Finding, named
from dlrm.diagnose.information import Floats, auc, auc_deviation, bucket_edges, scores, values_of
from dlrm.diagnose.sample import SampledRows
from dlrm.format import escaped

LEAKING_AUC = 0.9
"""No published model reaches an AUC of 0.83 on Criteo's clicks with all of its features together (BARS benchmark,
Criteo_x1: 0.8154). One that has 0.9 on its own is as good as the label."""
DEVIATIONS = 4.0
"""What chance gives once in 16,000 times is called chance no more; a look tests about a hundred things."""
_LEAST_OF_A_CLASS = 200  # the deviation of an AUC is 0.02 then: too much to say that there is nothing
_LITTLE = 0.02  # an AUC that is nearer than that to 0.5 is no information worth the name


@dataclass(frozen=True)
class Split:
    """A split that is not trained on: its name and its samples."""

    name: str
    rows: SampledRows


def judge_labels(train: SampledRows, others: list[Split]) -> Iterator[Finding]:
    """What is wrong with each task's labels, and with features that tell them."""
    edges = bucket_edges(train)
    values = values_of(train, edges)
    values_of_others = [values_of(split.rows, edges) for split in others]
    for t, task in enumerate(train.schema.tasks):
        of_task = "" if len(train.schema.tasks) == 1 else f" of task {escaped(task)}"
        labels_M = train.labels_MT[:, t].astype(np.float64)
        for name, rows in (("training", train), *((split.name, split.rows) for split in others)):
            yield from _classes(rows.labels_MT[:, t], f"{name} labels{of_task}")
        if not _enough(labels_M):
            continue
        score_by_column = [scores(one, labels_M) for one in values]
        aucs = {
            one.column: max(_distance(score_M, labels_M), _rank_distance(train, one.column, labels_M))
            for one, score_M in zip(values, score_by_column, strict=True)
        }
        leaking = [column for column, distance in aucs.items() if 0.5 + distance >= LEAKING_AUC]
        if leaking:
            best = 0.5 + max(aucs.values())
            yield Finding(
                "leaking_feature",
                f"{named(leaking)} alone {_tells(leaking)} the training labels{of_task} (AUC up to {best:.3f}, on samples "
                "that its rates are not of)",
                f"see whether {'it is' if len(leaking) == 1 else 'they are'} known only after the label is, and leave "
                f"{'it' if len(leaking) == 1 else 'them'} out",
            )
        known_M = ~np.isnan(labels_M)
        together = auc(sum(score_by_column, np.zeros(len(labels_M)))[known_M], labels_M[known_M])
        assert together is not None  # there are enough of both classes
        if noise := _noise(together, labels_M[known_M]):
            yield Finding(
                "shuffled_labels",
                f"no feature says anything of the training labels{of_task} (AUC {together:.3f} of all together by naive "
                f"Bayes; chance gives 0.5 +- {noise:.3f})",
                "see whether labels and features are of the same rows: a join, a sort or a shuffle of one alone",
            )
            continue
        for split, columns in zip(others, values_of_others, strict=True):
            other_M = split.rows.labels_MT[:, t].astype(np.float64)
            if not _enough(other_M):
                continue
            total_M = sum(
                (
                    scores(one, labels_M, of=of, samples=len(split.rows))
                    for one, of in zip(values, columns, strict=True)
                ),
                np.zeros(len(split.rows)),
            )
            yield from _transfer(total_M, other_M, together, f"{split.name} labels{of_task}")


def _tells(columns: list[str]) -> str:
    return "tells" if len(columns) == 1 else "tell, each of them,"


def _classes(labels_M: np.ndarray[tuple[int], np.dtype[np.float32]], called: str) -> Iterator[Finding]:
    """No labels, labels of one class, and more than half of them 1."""
    known_M = labels_M[~np.isnan(labels_M)]
    if not len(labels_M):
        return
    if not len(known_M):
        yield Finding("constant_labels", f"all {len(labels_M):,} {called} looked at are missing", "mend the column")
        return
    rate = float(known_M.mean())
    if rate in (0, 1):
        bound = 3 / len(known_M)  # of the other class's share, with 95 % confidence ("rule of three")
        yield Finding(
            "constant_labels",
            f"all {len(known_M):,} {called} looked at are {rate:.0f} (of the other there are below {bound:.2g} with 95 % "
            "confidence)",
            "nothing can be learnt from one class: see which column the label is, and how it was made",
        )
    elif rate - 0.5 > DEVIATIONS * math.sqrt(0.25 / len(known_M)):
        yield Finding(
            "mostly_positive",
            f"{100 * rate:.1f} % of {len(known_M):,} {called} are 1; clicks are rare as a rule",
            "if 1 stands for no click here, exchange 0 and 1: training and its AUC look the same either way, probabilities "
            "are those of the other class",
            "note",
        )


def _transfer(score_M: Floats, labels_M: Floats, together: float, called: str) -> Iterator[Finding]:
    """Whether what the training samples say of the label holds for another split."""
    known_M = ~np.isnan(labels_M)
    found = auc(score_M[known_M], labels_M[known_M])
    assert found is not None  # there are enough of both classes
    deviation = auc_deviation(labels_M[known_M])
    if found < 0.5 - max(_LITTLE, DEVIATIONS * deviation):
        yield Finding(
            "exchanged_labels",
            f"what speaks for 1 in the training labels speaks for 0 in the {called} (AUC {found:.3f}, naive Bayes; "
            f"{together:.3f} within the training samples)",
            "0 and 1 are exchanged in one of the two: see which",
        )
    elif together - 0.5 > 5 * _LITTLE and (noise := _noise(found, labels_M[known_M])):
        yield Finding(
            "unrelated_labels",
            f"what the training samples say of the label says nothing of the {called} (AUC {found:.3f}, naive Bayes; "
            f"chance gives 0.5 +- {noise:.3f}; {together:.3f} within the training samples)",
            "see whether labels and features are of the same rows there, and whether ids mean the same in both",
        )


def _enough(labels_M: Floats) -> bool:
    return bool(min((labels_M == 1).sum(), (labels_M == 0).sum()) >= _LEAST_OF_A_CLASS)


def _noise(found: float, labels_M: Floats) -> float:
    """The deviations that chance gives, if an AUC is within them and they leave no room for more than little; else 0."""
    noise = DEVIATIONS * auc_deviation(labels_M)
    return noise if abs(found - 0.5) < min(noise, _LITTLE) else 0.0


def _distance(score_M: Floats, labels_M: Floats) -> float:
    """How far an AUC is above 0.5: scores of other samples' rates that rank the wrong way round say nothing."""
    known_M = ~np.isnan(labels_M)
    found = auc(score_M[known_M], labels_M[known_M])
    return 0.0 if found is None else found - 0.5


def _rank_distance(rows: SampledRows, column: str, labels_M: Floats) -> float:
    """How far the AUC of a number by itself is from 0.5; 0 of ids, whose order says nothing."""
    if column not in rows.schema.dense:
        return 0.0
    known_M = ~np.isnan(labels_M)
    found = auc(rows.dense_MN[known_M, rows.schema.dense.index(column)], labels_M[known_M])
    return 0.0 if found is None else abs(found - 0.5)
