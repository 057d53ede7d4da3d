"""Probabilities as a client reads them: JSON, or an Arrow stream."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from dlrm.inference.serve.batcher import Probabilities
from dlrm.inference.serve.bodies import ARROW, JSON
from dlrm.inference.serve.models import Version
from dlrm.inference.serve.refusal import Refusal


def answer_type(accept: str) -> str:
    """Which of the two a client asks for; JSON where it does not care.

    Args:
        accept: its header; empty where it had none.

    Raises:
        Refusal: it accepts neither.
    """
    if not accept or accept == "*/*":
        return JSON
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for kind in kinds:
        if kind == ARROW:
            return ARROW
        if kind in (JSON, "application/*", "*/*"):
            return JSON
    raise Refusal(406, "not_acceptable", f"{accept[:80]!a} is not what answers are", hint=f"accept {JSON} or {ARROW}")


def json_answer(version: Version, name: str, found_BT: Probabilities) -> bytes:
    """The probabilities of each task, each as the shortest decimal that is read back as the same float32.

    Raises:
        Refusal: one is no number.
    """
    if not np.isfinite(found_BT).all():
        raise _no_number(found_BT)
    tasks = zip(version.predictor.schema.tasks, found_BT.T, strict=True)
    numbers = ",".join(f"{json.dumps(task)}:[{','.join(map(str, found_B))}]" for task, found_B in tasks)
    head = f'{{"model":"{name}","export":"{version.checksum}","step":{version.step},"probabilities":{{'
    return f"{head}{numbers}}}}}\n".encode()


def arrow_answer(version: Version, name: str, found_BT: Probabilities) -> bytes:
    """A column of float32 for each task; model, export and step are metadata of the schema.

    Raises:
        Refusal: one is no number.
    """
    if not np.isfinite(found_BT).all():
        raise _no_number(found_BT)
    columns = [pa.array(np.ascontiguousarray(found_B)) for found_B in found_BT.T]
    table = pa.record_batch(columns, names=list(version.predictor.schema.tasks))
    told = {"model": name, "export": version.checksum, "step": str(version.step)}
    table = table.replace_schema_metadata(told)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(table)
    return bytes(sink.getvalue().to_pybytes())


ANSWERS = {JSON: json_answer, ARROW: arrow_answer}


def _no_number(found_BT: Probabilities) -> Refusal:
    """Numbers that a column can hold and a model cannot add up: finite in float32, and their products are not."""
    row = int(np.argmin(np.isfinite(found_BT).all(axis=1))) + 1
    hint = "its numbers are far beyond those that the model was trained with"
    return Refusal(422, "bad_rows", "the model's answer to this row is no number", row=row, hint=hint)
