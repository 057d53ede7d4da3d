"""The export that predicts: what raw rows are to it is known before its tables are read."""

from __future__ import annotations

import json

from pydantic import TypeAdapter
from safetensors.torch import load

from dlrm.inference.exported.folder import ExportFolder
from dlrm.inference.exported.manifest import VOCABULARIES_NAME
from dlrm.inference.raw import Preprocessing, PreprocessingRecord
from dlrm.inference.raw.record import EncodedRecord, IdColumnRecord


def preprocessing_of_export(folder: ExportFolder) -> Preprocessing:
    """How raw rows become features of an export.

    Raises:
        ExportError: its vocabularies are not those of its manifest.
    """
    manifest = folder.manifest
    if not manifest.preprocessing:
        schema = manifest.columns
        sparse = tuple(
            IdColumnRecord(name=one.name, rows=one.rows, hotness=one.hotness, lists=one.hotness > 1)
            for one in schema.sparse
        )
        return Preprocessing.load(EncodedRecord(tasks=schema.tasks, dense=schema.dense, sparse=sparse), {})
    record = TypeAdapter(PreprocessingRecord).validate_json(json.dumps(manifest.preprocessing))
    listed = manifest.file(VOCABULARIES_NAME) is not None
    return Preprocessing.load(record, load(folder.read(VOCABULARIES_NAME)) if listed else {})
