"""Raw Criteo-like files of any length for benchmarks: the format, column counts and skew of the real ones, seeded.

    .venv/bin/python benchmarks/raw_rows.py OUT_FOLDER --rows 10000000 --files 2

Categories: 32-bit values that a hash makes of Zipf-distributed ranks, in columns as wide as MLPerf's tables (up to
40,000,000 values); integers: rounded log-normal counts, some -1 and -2; both are missing as often as in Criteo Kaggle
columns, roughly. Every block of rows is a function of (seed, block) alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

TABLE_ROWS = (
    40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10, 2_209, 11_938,
    155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36,
)  # fmt: skip  # MLPerf DLRM-DCNv2
NUM_DENSE = 13
BLOCK_ROWS = 500_000
_ZIPF = 1.1
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def write_raw(folder: Path, *, rows: int, files: int, seed: int = 0) -> list[Path]:
    """Write ``files`` files ``day_0`` .. of about equal length that hold ``rows`` rows together; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["label", *(f"i{n}" for n in range(NUM_DENSE)), *(f"c{n}" for n in range(len(TABLE_ROWS)))]
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    paths = []
    for file in range(files):
        count = (rows + files - 1 - file) // files
        path = folder / f"day_{file}"
        with open(path, "wb") as out:
            for block, size in enumerate(_block_sizes(count)):
                columns = _columns(np.random.default_rng([seed, file, block]), size)
                csv.write_csv(pa.table(columns, names=names), out, options)
        paths.append(path)
    return paths


def _block_sizes(rows: int) -> Iterator[int]:
    for first in range(0, rows, BLOCK_ROWS):
        yield min(BLOCK_ROWS, rows - first)


def _columns(rng: np.random.Generator, rows: int) -> list[pa.Array]:
    columns = [pa.array((rng.random(rows) < 0.26).astype(np.int8))]
    for n in range(NUM_DENSE):
        counts = np.floor(rng.lognormal(n % 5, 1.5, rows)).astype(np.int64) - (n % 3)
        columns.append(pa.array(counts, mask=rng.random(rows) < 0.02 * n))
    for table, size in enumerate(TABLE_ROWS):
        columns.append(_hexadecimal(_raw_values(rng, rows, table, size), missing=rng.random(rows) < 0.01 * (table % 8)))
    return columns


def _raw_values(rng: np.random.Generator, rows: int, table: int, size: int) -> np.ndarray:
    """Zipf ranks below ``size`` by the continuous inverse CDF, hashed to 32 bits."""
    tail = (size + 1.0) ** (1 - _ZIPF)
    ranks = (1 - rng.random(rows) * (1 - tail)) ** (1 / (1 - _ZIPF))
    ids = np.minimum(ranks.astype(np.uint64), size) - 1
    return ((ids * 2_654_435_761 + table * 40_503) & 0xFFFF_FFFF).astype(np.uint32)


def _hexadecimal(values: np.ndarray, *, missing: np.ndarray) -> pa.Array:
    """Eight hexadecimal digits each; nothing where missing."""
    nibbles = (values[:, None] >> np.arange(28, -4, -4, dtype=np.uint32)) & 15
    digits = _HEX[nibbles][~missing]
    offsets = np.concatenate([[0], np.cumsum(np.where(missing, 0, 8))]).astype(np.int32)
    return pa.Array.from_buffers(pa.utf8(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes())])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for written in write_raw(given.folder, rows=given.rows, files=given.files, seed=given.seed):
        print(written)
