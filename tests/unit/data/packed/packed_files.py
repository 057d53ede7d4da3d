"""Small packed data sets for tests, written with NumPy alone."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dlrm.data.packed.manifest import (
    MANIFEST_NAME,
    SUFFIXES,
    FileRecord,
    Manifest,
    PartRecord,
    SpanRecord,
    SparseRecord,
    dump_manifest,
)

NUM_DENSE = 3
ROWS = (100, 7, 1000)
HOTNESS = (2, 1, 3)


@dataclass
class Part:
    """What a part's files hold."""

    dense_MN: np.ndarray
    sparse_MF: np.ndarray
    labels_M: np.ndarray
    multi_hot: list[np.ndarray] = field(default_factory=list)


def some_part(rows: int, seed: int = 0, *, ids=np.int32) -> Part:
    """Random rows; the first id of a bag is the one-hot one."""
    draw = np.random.default_rng(seed)
    sparse_MF = np.stack([draw.integers(0, n, rows) for n in ROWS], axis=1).astype(ids)
    bags = [draw.integers(0, n, (rows, hot)).astype(np.int32) for n, hot in zip(ROWS, HOTNESS, strict=True)]
    for i, bag in enumerate(bags):
        bag[:, 0] = sparse_MF[:, i]
    return Part(
        draw.standard_normal((rows, NUM_DENSE)).astype(np.float32),
        sparse_MF,
        draw.integers(0, 2, rows).astype(np.int32),
        bags,
    )


def write_part(folder: Path, name: str, part: Part, *, multi_hot: bool = False) -> None:
    np.save(folder / f"{name}_dense.npy", part.dense_MN)
    np.save(folder / f"{name}_sparse.npy", part.sparse_MF)
    np.save(folder / f"{name}_labels.npy", part.labels_M[:, None])
    if multi_hot:
        write_npz(folder / f"{name}_sparse_multi_hot.npz", part.multi_hot)


def write_npz(path: Path, arrays, save=np.savez) -> None:
    save(path, **{str(i): array for i, array in enumerate(arrays)})


def write_days(folder: Path, sizes=(50, 40, 30), *, multi_hot: bool = False, manifest: bool = False) -> list[Part]:
    """``day_0`` ... of so many rows each."""
    parts = [some_part(rows, seed) for seed, rows in enumerate(sizes)]
    for day, part in enumerate(parts):
        write_part(folder, f"day_{day}", part, multi_hot=multi_hot)
    if manifest:
        write_manifest(folder, record(folder, sizes, multi_hot=multi_hot))
    return parts


def record(folder: Path, sizes, *, multi_hot: bool = False) -> Manifest:
    """The manifest of what :func:`write_days` wrote: all days but the last are for training, its halves for the rest."""
    kinds = [kind for kind in SUFFIXES if (multi_hot or kind != "multi_hot") and kind != "weights"]
    days = [f"day_{day}" for day in range(len(sizes))]
    half = -(-sizes[-1] // 2)
    features = enumerate(zip(ROWS, HOTNESS, strict=True))
    return Manifest(
        dense=tuple(f"int_{i}" for i in range(NUM_DENSE)),
        sparse=tuple(SparseRecord(name=f"cat_{i}", rows=n, hotness=k) for i, (n, k) in features),
        parts=tuple(
            PartRecord(name=day, rows=rows, files={kind: file_record(folder, day + SUFFIXES[kind]) for kind in kinds})
            for day, rows in zip(days, sizes, strict=True)
        ),
        split={
            "train": tuple(SpanRecord(part=days[i], start=0, stop=sizes[i]) for i in range(len(days) - 1)),
            "validation": (SpanRecord(part=days[-1], start=0, stop=half),),
            "test": (SpanRecord(part=days[-1], start=half, stop=sizes[-1]),),
        },
    )


def file_record(folder: Path, name: str) -> FileRecord:
    content = (folder / name).read_bytes()
    return FileRecord(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_NAME).write_text(dump_manifest(manifest))
