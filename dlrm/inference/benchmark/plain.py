"""The plain way to answer: the trainer's model in eval mode, one request after the other, torch's threads for each."""

from __future__ import annotations

import time

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.errors import ExportError
from dlrm.inference.benchmark.observed import Log
from dlrm.inference.benchmark.requests import Given, Requests
from dlrm.inference.export.rebuilt import rebuilt_model
from dlrm.inference.exported.folder import ExportFolder
from dlrm.inference.exported.manifest import Precision
from dlrm.inference.exported.tables import feature_major, read_tables, starts_of_tables
from dlrm.inference.features import Features
from dlrm.lookups.jagged import RowsLookedUp
from dlrm.models.base import Model
from dlrm.schema import Schema
from dlrm.table_names import module_name

_INT4_LOW = 15


class Plain:
    """Answers each request before the next is looked at.

    Args:
        model: of the trainer, in eval mode; schema: its columns.
        requests: to choose from.
        given: whether a request is features, or raw rows that features are made of first.
    """

    waits = True

    def __init__(self, model: Model, schema: Schema, requests: Requests, *, given: Given) -> None:
        self.rows = len(requests.features[0])
        self._model, self._requests, self._given = model, requests, given
        self._rows_of_ids = None if model.lookups.are_ids else RowsLookedUp(model.lookups)
        self._names = [feature.name for feature in schema.sparse]
        self._hotness_F = torch.tensor([feature.hotness for feature in schema.sparse], dtype=torch.int32)
        self._parts = tuple(feature.hotness for feature in schema.sparse)

    def ask(self, number: int, log: Log) -> None:
        """See :class:`~dlrm.inference.benchmark.loops.Server`: the answer is there when this returns."""
        self.probabilities(self._requests.take(number, self._given)).numpy()
        log.answered(number, time.monotonic())

    def abandon(self, log: Log) -> None:
        """Nothing waits."""

    @torch.no_grad()
    def probabilities(self, features: Features) -> torch.Tensor:
        """float32 (B, T)."""
        rows = len(features)
        if features.lengths_BF is None:
            lengths = self._hotness_F.repeat_interleave(rows)
        else:
            lengths = features.lengths_BF.t().reshape(-1)
        values = feature_major(features, self._parts)
        sparse = KeyedJaggedTensor(keys=self._names, values=values, lengths=lengths)
        if self._rows_of_ids is not None:
            sparse = self._rows_of_ids(sparse)
        logits_BT: torch.Tensor = self._model(features.dense_BN, sparse)
        return logits_BT.sigmoid()


def trainers_model(folder: ExportFolder) -> Model:
    """The model that an export was made of, with the export's weights; reduced tables as the numbers that they stand for.

    Raises:
        ExportError: the export's dense part is reduced, damaged, or of a model that this version does not know.
    """
    manifest = folder.manifest
    if manifest.dense_precision != "fp32":
        problem = f"its dense part is {manifest.dense_precision}, which the trainer's model is not"
        raise ExportError(str(folder.path), problem, hint="give the export in float32, or --rounds 0")
    hint = "export it again, or leave it out with --rounds 0"
    model = rebuilt_model(folder, tables_device="cpu", hint=hint)
    weights, (starts, _) = read_tables(folder), starts_of_tables(manifest)
    for (name, rows, table), start in zip(manifest.named_tables, starts, strict=True):
        stored_RC = weights[start : start + table.row_bytes * rows].view(table.stored_dtype)
        bag = model.tables.embedding_bags[module_name(name)]
        with torch.no_grad():
            bag.weight.zero_()  # the padding
            bag.weight[:, : table.dim] = numbers_of(stored_RC.view(rows, -1), table.precision)
    return model


def numbers_of(stored_RC: torch.Tensor, precision: Precision) -> torch.Tensor:
    """The weights that rows of a table stand for, float32 (R, D).

    Args:
        stored_RC: as :class:`~dlrm.inference.exported.manifest.TableRecord` says.
        precision: of them.
    """
    if precision in ("fp32", "fp16"):
        return stored_RC.float()
    scale_bias_R2 = stored_RC[:, :4].reshape(-1).view(torch.float16).view(-1, 2).float()
    integers_RC = stored_RC[:, 4:]
    if precision == "int4":
        halves_RC2 = torch.stack([integers_RC & _INT4_LOW, integers_RC >> 4], dim=2)
        integers_RC = halves_RC2.flatten(1)
    return integers_RC.float() * scale_bias_R2[:, :1] + scale_bias_R2[:, 1:]
