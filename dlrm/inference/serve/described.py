"""What is told of models, and how a prediction is asked for, in OpenAPI's words."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from dlrm.format import local_time
from dlrm.inference.serve.bodies import ARROW, JSON, NPY, TSV
from dlrm.inference.serve.models import Models, ServedModel

PREDICT_PATH = "/v1/models/{name}/predict"


class ColumnDescription(BaseModel):
    """A column of raw rows."""

    name: str
    kind: str = Field(description="integer, number, category, id or id list")
    says: str = Field(description="what a value may be, in words")
    may_be_missing: bool


class ModelDescription(BaseModel):
    """A model as it answers now."""

    name: str
    tasks: list[str] = Field(description="what is predicted")
    columns: list[ColumnDescription] = Field(description="of raw rows")
    example: dict[str, Any] = Field(description="a raw row")
    export: str = Field(description="checksum of the export's manifest")
    step: int = Field(description="of the checkpoint that it was made of")
    samples: int = Field(description="that were trained")
    run: str = Field(description="name of the training")
    precision: list[str] = Field(description="of the tables")
    dense_precision: str
    table_bytes: int
    loaded: str = Field(description="date and time of the server")
    problem: str = Field(description="why the export that is at the path now is not served; empty if it is")


def describe(model: ServedModel) -> ModelDescription:
    """A model as it is now."""
    version = model.version
    manifest = version.predictor.manifest
    return ModelDescription(
        name=model.name,
        tasks=list(manifest.tasks),
        columns=[
            ColumnDescription(
                name=column.name, kind=column.kind, says=column.says, may_be_missing=column.may_be_missing
            )
            for column in version.preprocessing.columns
        ],
        example=version.preprocessing.example(),
        export=version.checksum,
        step=version.step,
        samples=manifest.source.samples,
        run=manifest.source.run,
        precision=list(version.precisions),
        dense_precision=manifest.dense_precision,
        table_bytes=manifest.table_bytes,
        loaded=local_time(version.loaded_s),
        problem=model.problem,
    )


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "row": {"type": ["integer", "null"], "description": "counted from 1"},
                "column": {"type": ["string", "null"]},
                "problem": {"type": "string"},
                "hint": {"type": "string"},
            },
        }
    },
}
_ANSWER = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "export": {"type": "string", "description": "checksum of the export that answered"},
        "step": {"type": "integer"},
        "probabilities": {
            "type": "object",
            "description": "of each task, of each row",
            "additionalProperties": {"type": "array", "items": {"type": "number", "format": "float"}},
        },
    },
}
_ROWS = {
    "oneOf": [
        {
            "type": "object",
            "required": ["rows"],
            "properties": {"rows": {"type": "array", "items": {"type": "object"}}},
        },
        {
            "type": "object",
            "required": ["columns"],
            "properties": {"columns": {"type": "object", "additionalProperties": {"type": "array", "items": {}}}},
        },
    ]
}
_STATUSES = {
    "400": "not of the format that its content type says",
    "404": "no such model",
    "405": "not POST",
    "406": "neither form of an answer is accepted",
    "408": "the request did not come in time",
    "413": "too many bytes or rows",
    "415": "a content type or encoding that is not understood",
    "422": "a row is wrong; row and column say where",
    "503": "too much to do, or the server ends; Retry-After says when to ask again",
    "504": "waited longer than timeout_ms, and was not computed",
}


def predict_operation(models: Models) -> dict[str, Any]:
    """How predictions are asked for."""
    first = next(iter(models.values()))
    example = first.version.preprocessing.example()
    error = {"content": {JSON: {"schema": _ERROR}}}
    return {
        "summary": "Probabilities for raw rows",
        "operationId": "predict",
        "parameters": [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": list(models)}},
            {
                "name": "timeout_ms",
                "in": "query",
                "description": "how long it may wait before it is computed, if that is less than the server's",
                "schema": {"type": "integer", "minimum": 0},
            },
            {
                "name": "labelled",
                "in": "query",
                "description": f"whether lines of {TSV} begin with a label, which is ignored",
                "schema": {"type": "boolean"},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": _ROWS, "example": {"rows": [example]}},
                ARROW: _BINARY,
                TSV: {"schema": {"type": "string"}},
                NPY: _BINARY,
            },
        },
        "responses": {
            "200": {"description": "the probabilities", "content": {JSON: {"schema": _ANSWER}, ARROW: _BINARY}},
            **{status: {"description": text, **error} for status, text in _STATUSES.items()},
        },
    }
