"""A model of raw Criteo rows, its export, and the same rows in every form in which predict takes them."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROWS = (230, 170)
"""Rows of each raw file."""


@dataclass(frozen=True)
class Forms:
    """A trained model and rows for it.

    Attributes:
        run: folder of the run; export: of its model.
        raw: folder of raw files, ``day_0`` and ``day_1``, which hold ``lines``; gz: the same, compressed.
        packed: what ``preprocess`` made of them, all of it for training.
        parquet: folder of files with their columns, one a raw file, and the number of the row as ``id``.
    """

    run: Path
    export: Path
    raw: Path
    gz: Path
    packed: Path
    parquet: Path
    lines: tuple[bytes, ...]

    def of(self, form: str) -> str:
        """The folder of a form."""
        return str(getattr(self, form))


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Forms:
    """A model that was trained for a few steps on rows of two days."""
    return make_forms(tmp_path_factory.mktemp("forms"))


def make_forms(folder: Path) -> Forms:
    """See :func:`forms`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.support.command import run_command
    from tests.support.exports import TINY, export

    tiny_criteo: Any = import_module("tests.unit.preprocess.tiny_criteo")  # has no annotations
    raw = tiny_criteo.write_raw(folder / "raw", rows=ROWS)
    gz, parquet = folder / "gz", folder / "parquet"
    gz.mkdir()
    parquet.mkdir()
    lines: list[bytes] = []
    for day, rows in enumerate(ROWS):
        text = (raw / f"day_{day}").read_bytes()
        (gz / f"day_{day}.gz").write_bytes(gzip.compress(text))
        table = pa.table(columns(tiny_criteo.make_rows(rows, seed=day), first=len(lines)))
        pq.write_table(table, parquet / f"day_{day}.parquet", row_group_size=70)
        lines += text.splitlines()
    packed = tiny_criteo.make(raw, folder / "packed", chunk_bytes=4096, split={"train": ["day_0"], "test": ["day_1"]})
    model = [option for option in TINY if not option.startswith("--data.")]
    data = ["--data.kind=packed", f"--data.path={packed}", "--train.global_batch_size=64", "--optim.sparse.lr=0.3"]
    (outcome,) = run_command(["train", f"--run.dir={folder / 'runs'}", *model, *data])
    assert outcome.exit_code == 0, outcome.stderr
    run, exported = folder / "runs" / "tiny", folder / "export"
    export(run, exported)
    return Forms(run, exported, raw, gz, packed, parquet, tuple(lines))


def columns(rows: list[list[str]], first: int) -> dict[str, list[Any]]:
    """Fields of raw rows as columns of numbers and text."""
    names = ["label", "int_0", "int_1", "cat_0", "cat_1", "cat_2"]
    found: dict[str, list[Any]] = {"id": list(range(first, first + len(rows)))}
    for name, fields in zip(names, zip(*rows, strict=True), strict=True):
        found[name] = [field or None if name.startswith("cat") else int(field) if field else None for field in fields]
    return found


def options(forms: Forms, output: Path, form: str = "raw", **changes: Any) -> Any:
    """Options of predict, with blocks of few rows."""
    from dlrm.config.predict import PredictConfig

    given = {"export": str(forms.export), "input": [forms.of(form)], "threads": 2, "chunk_rows": 20}
    return PredictConfig(**{**given, "output": str(output), **changes})


def predict_alone(forms: Forms, output: Path, form: str = "raw", **changes: Any) -> Path:
    """Predict in this process."""
    from dlrm.distributed.collectives import OneProcess
    from dlrm.inference.predict.job import predict

    predict(options(forms, output, form, **changes), OneProcess())
    return output
