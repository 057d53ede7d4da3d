"""Samples with labels in memory, and how well a predictor scores them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dlrm.data.check import SampleCheck
from dlrm.data.source import Samples, Source
from dlrm.errors import ConfigError
from dlrm.format import escaped
from dlrm.inference.exported.predictor import Predictor
from dlrm.inference.features import Features
from dlrm.metrics.tasks import Results, TaskMetrics
from dlrm.schema import Schema, SparseFeature

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Scored:
    """Samples of a split: R rows.

    Attributes:
        name: of the split's source; features: of all rows.
        labels_RT: float32, 0 or 1 (0 where missing); weights_RT: float32, 1 for a label, 0 for a missing or skipped one.
    """

    name: str
    features: Features
    labels_RT: torch.Tensor
    weights_RT: torch.Tensor

    def __len__(self) -> int:
        return len(self.features)


def read_scored(source: Source, schema: Schema, *, max_rows: int, split: str) -> Scored:
    """The first samples of a split.

    Args:
        source: of the split.
        schema: what the export takes.
        max_rows: that are read at most.
        split: how errors call it.

    Raises:
        ConfigError: the split is empty, or its columns are not the export's.
        DataError: a sample cannot be read, or is bad.
    """
    require_columns(source.schema, schema)
    rows = min(source.num_samples, max_rows)
    if not rows:
        raise ConfigError.at("data", f"has no {split} samples, by which precisions are judged")
    check, parts = SampleCheck(source), []
    for start in range(0, rows, _ROWS_AT_ONCE):
        index_B = torch.arange(start, min(start + _ROWS_AT_ONCE, rows))
        parts.append(check(source.read(index_B), index_B))
    labels_RT = torch.cat([part.labels_BT for part in parts])
    weights_RT = torch.cat([_weights(part) for part in parts])
    features = Features.joined([Features.of(part) for part in parts], schema)
    return Scored(source.name, features, labels_RT.nan_to_num(0.0), weights_RT)


def require_columns(found: Schema, expected: Schema) -> None:
    """See that data have the columns of an export.

    Raises:
        ConfigError: the first difference.
    """
    pairs = (
        ("dense columns", found.dense, expected.dense),
        ("sparse features", found.sparse, expected.sparse),
        ("tasks", found.tasks, expected.tasks),
    )
    for what, here, there in pairs:
        if len(here) != len(there):
            raise ConfigError.at("data", f"has {len(here)} {what}, the export {len(there)}: give the data it is for")
        for one, other in zip(here, there, strict=True):
            if one != other:
                message = f"has {escaped(_words(one))} where the export has {escaped(_words(other))}"
                raise ConfigError.at("data", f"{message}: give the data it is for")


def _words(column: object) -> str:
    if isinstance(column, str):
        return column
    assert isinstance(column, SparseFeature)
    weighted = ", with weights" if column.weights else ""
    return f"{column.name} ({column.rows:,} rows, {column.hotness} ids{weighted})"


def _weights(samples: Samples) -> torch.Tensor:
    weights_BT = (~samples.labels_BT.isnan()).float()
    return weights_BT if samples.weights_B is None else weights_BT * (samples.weights_B[:, None] > 0)


def figures(logits_RT: torch.Tensor, scored: Scored, schema: Schema) -> Results:
    """The metrics of logits, by task.

    Raises:
        DivergedError: a logit is not finite.
    """
    metrics = TaskMetrics(schema.tasks, torch.device("cpu"))
    metrics.update(logits_RT, scored.labels_RT, scored.weights_RT)
    return metrics.compute()


def require_labels(scored: Scored) -> None:
    """See that samples have a label by which log losses can be compared.

    Raises:
        ConfigError: none has.
    """
    if not scored.weights_RT.any():
        message = f"has no label in {len(scored):,} samples of {escaped(scored.name)}, and a budget is one of log loss"
        raise ConfigError.at("data", f"{message}: give data with labels")


def log_losses(logits_RT: torch.Tensor, scored: Scored) -> torch.Tensor:
    """The log loss of each task, float64 (T,), as :class:`dlrm.metrics.binary.BinaryMetrics` has it; 0 without labels."""
    exact_RT = logits_RT.double()
    losses_RT = -torch.nn.functional.logsigmoid(torch.where(scored.labels_RT > 0, exact_RT, -exact_RT))
    weights_RT = scored.weights_RT.double()
    return (losses_RT * weights_RT).sum(0) / weights_RT.sum(0).clamp(min=1)


@dataclass(frozen=True)
class Speed:
    """Rows a second of one thread: median, least and most of the runs; and as many times as fast as another's, by pairs."""

    rows_per_s: float
    least: float
    most: float
    times_as_fast: float


def compare_speed(base: Predictor, other: Predictor, features: Features, *, runs: int) -> tuple[Speed, Speed]:
    """Measure two predictors in turn, so that what else a machine does meets both.

    Args:
        base: what the other is compared with.
        other: the other.
        features: rows of a run.
        runs: of each.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    with one_thread():
        for run in range(runs + 1):
            for predictor, times in zip((base, other), taken, strict=True):
                began = time.perf_counter()
                predictor.probabilities(features)
                if run:  # the first run of each warms up
                    times.append(len(features) / (time.perf_counter() - began))
    ratio = statistics.median(there / here for here, there in zip(*taken, strict=True))
    return _speed(taken[0], 1.0), _speed(taken[1], ratio)


def _speed(rows_per_s: list[float], ratio: float) -> Speed:
    return Speed(statistics.median(rows_per_s), min(rows_per_s), max(rows_per_s), ratio)


@contextmanager
def one_thread() -> Iterator[None]:
    """No other thread than the caller's computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
