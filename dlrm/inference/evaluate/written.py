"""An evaluation as a file: JSON with all that was found, or a CSV table."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from dlrm.errors import ConfigError
from dlrm.inference.evaluate.evaluation import Evaluation
from dlrm.run.secondary import write_json, write_text

_ALL = {"column": "", "slice": ""}


def write(found: Evaluation, output: str) -> None:
    """Write the file, as its suffix says.

    Raises:
        ConfigError: it cannot be written any more.
    """
    path = Path(output)
    try:
        if path.suffix == ".csv":
            write_text(path, table_text(found))
        else:
            write_json(path, found.to_dict())
    except OSError as error:
        raise ConfigError.at("output", f"{output} cannot be written: {error.strerror}") from None


def table_text(found: Evaluation) -> str:
    """CSV: a row a task of all samples, with empty column and slice, then one a slice and task."""
    rows: list[dict[str, Any]] = [
        {**_ALL, "task": task, "share": 1.0, **result.to_dict()} for task, result in found.results.items()
    ]
    rows += [one.to_dict() for one in found.slices]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
