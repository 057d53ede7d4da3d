"""From a trained run to answers, end to end: export it, serve the export, ask for every test row over HTTP, and compare.

    python -m scripts.answers runs/quickstart

Each test row of the run's data is asked for as a raw row: JSON, or the text of the file where the data are raw Criteo
files. What must hold, and what is printed:

- the served probabilities are those that ``predict`` writes for the same rows, bit for bit;
- their AUC is the one that ``evaluate`` finds with the trainer's model;
- the server ends with exit code 0 on SIGTERM.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dlrm.config import Config, load_config
from dlrm.config.data import CriteoTsvData
from dlrm.data.build import build_dataset
from dlrm.data.source import Samples
from dlrm.metrics.score_histogram import ScoreHistogram

PROGRAM = Path(__file__).resolve().parents[1] / "dlrm_main.py"
_ADDRESS = re.compile(r"serving at (http://\S+)")
_ASKED_ALONE = 100
"""Rows that are asked for one by one, too."""


def command(*words: str) -> None:
    """Run a command of ``dlrm_main.py``; what it prints is shown."""
    subprocess.run([sys.executable, PROGRAM, *words], check=True)


@contextmanager
def served(export: Path) -> Iterator[str]:
    """A server of an export; its address. It must end with exit code 0."""
    words = ["serve", str(export), "--port=0"]
    with subprocess.Popen([sys.executable, PROGRAM, *words], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = None
            while found is None:
                line = server.stdout.readline()
                assert line, "the server ended before it served"
                print(f"server: {line}", end="", flush=True)
                found = _ADDRESS.search(line)
            yield found[1]
            server.send_signal(signal.SIGTERM)
            print(f"server: {server.communicate(timeout=60)[0]}", end="")
        finally:
            server.kill()
    assert server.returncode == 0, f"the server ended with exit code {server.returncode}"


def ask(address: str, body: bytes, kind: str) -> np.ndarray:
    """The probabilities of the first task, float32."""
    request = urllib.request.Request(f"{address}/v1/models/default/predict", body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)["probabilities"]
    return np.array(next(iter(found.values())), np.float32)


class TextRows:
    """Test rows of raw Criteo files: the last lines."""

    kind = "text/tab-separated-values"

    def __init__(self, paths: tuple[str, ...], count: int) -> None:
        lines: list[bytes] = []
        for path in paths:
            data = Path(path).expanduser().read_bytes()
            lines += (gzip.decompress(data) if path.endswith(".gz") else data).splitlines(keepends=True)
        self._lines = lines[-count:]

    def body(self, rows: slice) -> bytes:
        return b"".join(line.partition(b"\t")[2] for line in self._lines[rows])  # without labels, as who asks has them

    def write(self, folder: Path) -> Path:
        path = folder / "rows.tsv"
        path.write_bytes(b"".join(self._lines))
        return path


class NumberRows:
    """Test rows whose columns are numbers and ids already."""

    kind = "application/json"

    def __init__(self, samples: Samples, dense: tuple[str, ...], sparse: tuple[str, ...]) -> None:
        self._columns = {
            **dict(zip(dense, samples.dense_BN.t().contiguous().numpy(), strict=True)),
            **dict(zip(sparse, samples.ids_BS.t().contiguous().numpy(), strict=True)),
        }

    def body(self, rows: slice) -> bytes:
        columns = {name: values[rows].tolist() for name, values in self._columns.items()}
        names = list(columns)
        as_rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return json.dumps({"rows": as_rows}).encode()

    def write(self, folder: Path) -> Path:
        path = folder / "rows.parquet"
        pq.write_table(pa.table(self._columns), path)
        return path


def rows_of(config: Config, samples: Samples, dense: tuple[str, ...], sparse: tuple[str, ...]) -> Any:
    """The test rows as a client has them."""
    if isinstance(config.data, CriteoTsvData):
        return TextRows(config.data.paths, len(samples))
    return NumberRows(samples, dense, sparse)


def auc(probabilities_B: np.ndarray, labels_B: torch.Tensor) -> float:
    """The exact AUC of float32 scores."""
    histogram = ScoreHistogram(torch.device("cpu"))
    histogram.add(torch.from_numpy(probabilities_B), labels_B > 0.5)
    found = histogram.auc()
    assert found is not None
    return found.value


def main() -> int:
    """Compare, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of one task")
    parser.add_argument("--rows-per-request", type=int, default=500)
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml")
    test = build_dataset(config.data).test
    if not test.num_samples:
        parser.exit(2, f"{options.run}: its data have no test rows\n")
    if not isinstance(config.data, CriteoTsvData) and test.schema.ids_per_sample > len(test.schema.sparse):
        parser.exit(2, f"{options.run}: its rows have bags of several ids, which are not asked for here\n")
    samples = test.read(torch.arange(test.num_samples))
    rows = rows_of(config, samples, test.schema.dense, tuple(feature.name for feature in test.schema.sparse))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command("evaluate", str(options.run), "--output", str(folder / "evaluated.json"))
        command("export", str(options.run), str(folder / "export"))
        command("predict", str(folder / "export"), str(rows.write(folder)), "--output", str(folder / "scores.npy"))
        began = time.monotonic()
        with served(folder / "export") as address:
            step = options.rows_per_request
            spans = [slice(start, start + step) for start in range(0, len(samples), step)]
            answers = np.concatenate([ask(address, rows.body(span), rows.kind) for span in spans])
            singles = range(min(_ASKED_ALONE, len(samples)))
            one = np.concatenate([ask(address, rows.body(slice(i, i + 1)), rows.kind) for i in singles])
        took_s = time.monotonic() - began
        predicted = np.load(folder / "scores.npy", allow_pickle=False)[:, 0]
        evaluated = json.loads((folder / "evaluated.json").read_text())
    expected = next(iter(evaluated["tasks"].values()))
    found_auc = auc(answers, samples.labels_BT[:, 0])
    faults = []
    if not np.array_equal(answers, predicted):
        faults.append(f"{int((answers != predicted).sum())} served probabilities are not those of predict")
    if not np.array_equal(one, answers[: len(one)]):
        faults.append("rows asked for one by one have other probabilities than in a batch")
    if abs(found_auc - expected["auc"]) > 1e-7:
        faults.append(f"the AUC of what was served is {found_auc}, evaluate finds {expected['auc']}")
    print(
        f"{len(answers):,} rows asked for over HTTP in {took_s:.1f} s: AUC {found_auc:.7f}, evaluate {expected['auc']:.7f}"
        f"; bit for bit what predict wrote: {np.array_equal(answers, predicted)}"
    )
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
