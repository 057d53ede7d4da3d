"""Ensembles: the mean over several runs of the probability that each gives to a sample, scored like a model's.

Test samples are not scored again: what each run has kept (``evaluation.scores``) is averaged. Of several tasks the first
counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlrm.errors import DataError
from dlrm.studies.runs import TrainingRun
from dlrm.studies.table import MODEL_BYTES, SCORES, TRAINING_TIME

if TYPE_CHECKING:
    import torch

_ROWS = 1 << 17
_LEAST = 1e-15  # of a probability: beyond it a float64 near 1 has no other side
Figures = Mapping[tuple[str, str], float]


class Ensembles:
    """Figures of averaged models, worked out once for each."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, ...], Figures] = {}

    def figures(self, members: Sequence[TrainingRun]) -> Figures:
        """By (split, quantity), of the mean probabilities of runs that have all been done.

        Raises:
            DataError: scores are missing, or of other samples.
        """
        key = tuple(member.run_folder for member in members)
        if key not in self._known:
            self._known[key] = _figures(members)
        return self._known[key]


def _figures(members: Sequence[TrainingRun]) -> Figures:
    found: dict[tuple[str, str], float] = {}
    for split in ("validation", "test"):
        paths = [member.run_folder / f"{split}_scores.parquet" for member in members]
        if split == "validation" or all(path.exists() for path in paths):
            scores = averaged_scores(paths, weighted=members[0].own.evaluation.weighted)
            found |= {(split, name): value for name, value in scores.items() if value is not None}
    results = [member.result() or {} for member in members]
    for name in (MODEL_BYTES, TRAINING_TIME):
        found["", name] = float(sum(result.get(name) or 0.0 for result in results))
    return found


def averaged_scores(paths: Sequence[Path], *, weighted: bool = False) -> dict[str, float | None]:
    """The figures of the mean of the probabilities in files of scores, in constant memory.

    Args:
        paths: as :mod:`dlrm.train.scores` writes them, of the same samples in the same order.
        weighted: count each sample by its weight, which is in the files then, not once.

    Raises:
        DataError: one cannot be read, is of other samples, or has no weights that are asked for.
    """
    # Imports are here because torch takes a second, and a study without ensembles does without.
    import torch

    from dlrm.metrics.binary import BinaryMetrics

    metrics = BinaryMetrics(torch.device("cpu"), weighted=weighted)
    for logits_MB, labels_B, weights_B in _together(paths, weighted=weighted):
        mean_B = logits_MB.double().sigmoid().mean(0)
        metrics.update(mean_B.logit(eps=_LEAST), labels_B.nan_to_num(), weights_B.masked_fill(labels_B.isnan(), 0.0))
    result = metrics.compute().to_dict()
    return {name: result[name] for name in SCORES}


def _together(paths: Sequence[Path], *, weighted: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(logits (M, B), labels (B,) with NaN where there is none, weights (B,)) of the same rows of all files."""
    import numpy as np
    import pyarrow.parquet
    import torch

    from dlrm.train.scores import WEIGHT

    files = []
    for path in paths:
        try:
            files.append(pyarrow.parquet.ParquetFile(path))
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(
                str(path), f"cannot be read: {error}", hint="remove its run, and start the study again"
            ) from None
    rows = {file.metadata.num_rows for file in files}
    if len(rows) > 1:
        raise DataError(str(paths[0]), f"has not as many rows as those of other runs ({sorted(rows)})")
    columns = [files[0].schema_arrow.names[at] for at in (0, 1)] + [WEIGHT] * weighted
    for path, file in zip(paths, files, strict=True):
        if weighted and WEIGHT not in file.schema_arrow.names:
            hint = "remove its run, and start the study again"
            raise DataError(str(path), "has no weights of samples, which evaluation.weighted needs", hint=hint)
    batches = [file.iter_batches(_ROWS, columns=columns) for file in files]
    for parts in zip(*batches, strict=True):
        logits_MB, labels_MB, *weights_1MB = (
            np.stack([part.column(name).to_numpy(zero_copy_only=False) for part in parts]) for name in columns
        )
        if not np.array_equal(labels_MB, np.broadcast_to(labels_MB[0], labels_MB.shape), equal_nan=True):
            raise DataError(str(paths[0]), "has other labels than those of other runs: their data have changed")
        weights_MB = weights_1MB[0] if weighted else np.ones_like(labels_MB)
        if (weights_MB != weights_MB[0]).any():
            raise DataError(str(paths[0]), "has other weights than those of other runs: their data have changed")
        yield torch.from_numpy(logits_MB), torch.from_numpy(labels_MB[0]), torch.from_numpy(weights_MB[0])
