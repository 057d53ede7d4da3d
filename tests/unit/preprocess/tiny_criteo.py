"""Small raw Criteo-like files, what preprocessing has to make of them (in plain Python), and how to preprocess them."""

import gzip
import hashlib
import json
import math
import random
from pathlib import Path

import numpy as np
import pyarrow as pa

from dlrm.config.prepare import PreprocessConfig
from dlrm.distributed.collectives import OneProcess
from dlrm.preprocess.job import preprocess

NUM_DENSE, NUM_SPARSE = 2, 3
ROWS = (61, 47, 33)
CHUNK_BYTES = 300  # about ten rows


def make_rows(count, seed):
    """Rows as fields: label, integers, hexadecimal categories; empty where missing."""
    draw = random.Random(seed)

    def field(value):
        return "" if draw.random() < 0.15 else value

    return [
        [
            str(draw.randrange(2)),
            *(field(str(draw.randrange(-4, 300))) for _ in range(NUM_DENSE)),
            *(field(f"{int(draw.random() ** 3 * size) * 0x01234567 % 2**32:08x}") for size in (5, 40, 500)),
        ]
        for _ in range(count)
    ]


def write_raw(folder: Path, kind="plain", rows=ROWS) -> Path:
    """``day_0`` .. in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for day, count in enumerate(rows):
        text = "".join("\t".join(fields) + "\n" for fields in make_rows(count, seed=day)).encode()
        if kind == "gz":
            (folder / f"day_{day}.gz").write_bytes(gzip.compress(text))
        elif kind == "zst":
            (folder / f"day_{day}.zst").write_bytes(pa.compress(text, codec="zstd", asbytes=True))
        else:
            (folder / f"day_{day}").write_bytes(text)
    return folder


def options(raw: Path, output: Path, **changes) -> PreprocessConfig:
    given = {"num_dense": NUM_DENSE, "num_sparse": NUM_SPARSE, "workers": 2, "bucket_rows": 16}
    return PreprocessConfig(**{"input": [str(raw)], "output": str(output), **given, **changes})


def make(raw: Path, output: Path, chunk_bytes=CHUNK_BYTES, **changes) -> Path:
    """Preprocess in this process."""
    preprocess(options(raw, output, **changes), OneProcess(), chunk_bytes=chunk_bytes)
    return output


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, and of dataset.json what does not say how the input was stored."""
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = json.loads((folder / "dataset.json").read_text())
    del manifest["preprocessing"]["sources"]
    return found | {"dataset.json": json.dumps(manifest)}


def arrays(folder: Path, part: str):
    """Dense, ids and labels of a part, as NumPy reads them."""
    return tuple(np.load(folder / f"{part}_{kind}.npy", allow_pickle=False) for kind in ("dense", "sparse", "labels"))


def expected(rows, vocabulary_rows):
    """Dense, ids and labels of some rows, with contiguous ids of the categories in others: 0 missing, 1 unseen."""
    dense = [[math.log(max(int(text or 0), -2) + 3) for text in fields[1 : 1 + NUM_DENSE]] for fields in rows]
    ids = []
    for column in range(1 + NUM_DENSE, 1 + NUM_DENSE + NUM_SPARSE):
        values = sorted({int(fields[column], 16) for fields in vocabulary_rows if fields[column]})
        id_of = {value: i + 2 for i, value in enumerate(values)}
        ids.append([id_of.get(int(fields[column], 16), 1) if fields[column] else 0 for fields in rows])
    labels = [[int(fields[0])] for fields in rows]
    return np.array(dense, np.float32), np.array(ids, np.int32).T, np.array(labels, np.int32)
