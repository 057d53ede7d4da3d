"""Packed data sets made by hand, of any columns and with whatever a manifest may say."""

from pathlib import Path

import numpy as np

from dlrm.data.packed.manifest import SUFFIXES, Manifest, PartRecord, SpanRecord, SparseRecord
from tests.unit.data.packed import packed_files
from tests.unit.data.packed.packed_files import file_record, write_npz

SEPARATE = {"parameters": {"categories": {"kind": "vocabulary", "reserved": "separate"}}}


def write_part(folder: Path, name: str, dense, sparse, labels, multi_hot=None) -> None:
    """The files of a part; ``dense`` (M, N), ``sparse`` (M, F) or None, ``labels`` (M,), ``multi_hot`` F arrays (M, L)."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}_dense.npy", np.asarray(dense, np.float32))
    if sparse is not None:
        ids = np.asarray(sparse)
        np.save(
            folder / f"{name}_sparse.npy", ids if ids.dtype == np.int64 and ids.max() >= 2**31 else ids.astype(np.int32)
        )
    np.save(folder / f"{name}_labels.npy", np.asarray(labels, np.int32).reshape(-1, 1))
    if multi_hot is not None:
        write_npz(folder / f"{name}_sparse_multi_hot.npz", [np.asarray(bag, np.int32) for bag in multi_hot])


def write_manifest(folder: Path, rows, *, split=None, missing=None, hotness=None, preprocessing=None, vocabularies=()):
    """dataset.json of the parts in ``folder``, with clicks; ``missing`` by part and column, ``split`` of whole parts."""
    names = sorted(path.name.removesuffix("_dense.npy") for path in folder.glob("*_dense.npy"))
    parts = []
    for name in names:
        labels = np.load(folder / f"{name}_labels.npy")
        files = {kind: f"{name}{suffix}" for kind, suffix in SUFFIXES.items()}
        parts.append(
            PartRecord(
                name=name,
                rows=len(labels),
                files={kind: file_record(folder, file) for kind, file in files.items() if (folder / file).exists()},
                clicks=int(labels.sum()),
                missing=(missing or {}).get(name),
            )
        )
    sizes = {part.name: part.rows for part in parts}
    chosen = split or {"train": names}
    dense = np.load(folder / f"{names[0]}_dense.npy").shape[1]
    manifest = Manifest(
        dense=tuple(f"int_{i}" for i in range(dense)),
        sparse=tuple(
            SparseRecord(name=f"cat_{i}", rows=size, hotness=hotness[i] if hotness else 1)
            for i, size in enumerate(rows)
        ),
        parts=tuple(parts),
        split={
            use: tuple(SpanRecord(part=name, start=0, stop=sizes[name]) for name in of) for use, of in chosen.items()
        },
        preprocessing=preprocessing or {},
        vocabularies={name: file_record(folder, f"{name}_vocabulary.npy") for name in vocabularies},
    )
    packed_files.write_manifest(folder, manifest)


def small(folder: Path, *, parts=3, rows=400, seed=0, **options) -> Path:
    """A data set of a few parts: 2 dense columns, 3 sparse ones of 5, 50 and 1000 rows."""
    rng = np.random.default_rng(seed)
    for i in range(parts):
        sparse = np.stack([rng.integers(0, size, rows) for size in (5, 50, 1000)], axis=1)
        write_part(folder, f"day_{i}", rng.random((rows, 2)), sparse, rng.random(rows) < 0.3)
    write_manifest(folder, (5, 50, 1000), **options)
    return folder
