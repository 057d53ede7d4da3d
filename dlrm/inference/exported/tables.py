"""The tables of an export in memory, and what sums their rows: fbgemm's inference kernel, all tables in one call."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate
from typing import Any

import fbgemm_gpu  # noqa: F401  # loads the kernel
import torch
from fbgemm_gpu.split_embedding_configs import SparseType, sparse_type_to_int
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode

# Registers the kernel's CPU form.
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen  # noqa: F401

from dlrm.errors import ExportError
from dlrm.format import byte_size
from dlrm.hardware.host import free_memory_bytes
from dlrm.inference.exported.folder import ExportFolder
from dlrm.inference.exported.manifest import RESTORE, FileRecord, Manifest, Precision
from dlrm.inference.features import Features

_ALIGNMENT = 64
_READERS = 4
_TYPES = {
    "fp32": SparseType.FP32,
    "fp16": SparseType.FP16,
    "int8": SparseType.INT8,
    "int4": SparseType.INT4,
}


def read_tables(folder: ExportFolder) -> torch.Tensor:
    """All tables in one piece of memory, uint8, each where :func:`starts_of_tables` says; every file is verified.

    Raises:
        ExportError: a file cannot be read or is not as it was written; there is too little memory.
    """
    starts, size = starts_of_tables(folder.manifest)
    require_memory(size, str(folder.path), "its tables take")
    weights = torch.empty(size, dtype=torch.uint8)
    bytes_of_all = memoryview(weights.numpy())  # type: ignore[arg-type]  # an array is a buffer
    files = [file for file in folder.manifest.files if file.pieces is not None]
    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda file: _read_file(folder, file, bytes_of_all, starts), files))
    return weights


def require_memory(size: int, path: str, what: str) -> None:
    """See that so much can be taken: the system would promise more than it has, and end the process when that is used.

    Args:
        size: bytes.
        path: of the export, for errors.
        what: takes them, likewise: ``its tables take``.

    Raises:
        ExportError: less is free.
    """
    if size > (free := free_memory_bytes()):
        problem = f"{what} {byte_size(size)}, {byte_size(free)} of memory are free"
        raise ExportError(path, problem, hint="use a host with more memory, or tables in fewer bits")


def starts_of_tables(manifest: Manifest) -> tuple[list[int], int]:
    """The byte in memory where each table starts, and how many bytes there are."""
    sizes = [-(-table.row_bytes * rows // _ALIGNMENT) * _ALIGNMENT for _, rows, table in manifest.named_tables]
    ends = list(accumulate(sizes, initial=0))
    return ends[:-1], ends[-1]


def _read_file(folder: ExportFolder, file: FileRecord, weights: memoryview, starts: list[int]) -> None:
    manifest = folder.manifest
    pieces = file.pieces or ()
    expected, entries = manifest.table_layout(pieces)
    header = bytearray(len(expected))
    parts = [memoryview(header)]
    for piece, entry in sorted(zip(pieces, entries, strict=True), key=lambda both: both[1].start):
        first = starts[piece.table] + piece.first_row * manifest.tables[piece.table].row_bytes
        parts.append(weights[first : first + entry.stop - entry.start])
    folder.read_into(file, parts)
    if header != expected:
        raise ExportError(str(folder.path / file.name), "does not begin as the manifest says", hint=RESTORE)


class Lookup:
    """From ids to the pooled embeddings of all tables; threads may share one.

    Args:
        manifest: says what the tables are.
        weights: uint8, as :func:`read_tables` returns them.
    """

    def __init__(self, manifest: Manifest, weights: torch.Tensor) -> None:
        lookups = manifest.looked_up
        self._rows_of_ids = None if manifest.lookups is None else RowsOfFeatures(manifest)
        self._features = len(lookups)
        self._hotness_F = tuple(
            manifest.sparse[lookup.feature].hotness * lookup.ids_to_rows.rows_per_id for lookup in lookups
        )
        # The kernel counts with int32 where ids are int32.
        most_rows = max(table.rows for table in manifest.named_tables)
        self._id_type = torch.int32 if most_rows < 2**31 else torch.int64
        dims = [manifest.tables[lookup.table].dim for lookup in lookups]
        self._mean_F = torch.tensor([lookup.mean for lookup in lookups])
        self._rows_per_id_F1 = torch.tensor([[lookup.ids_to_rows.rows_per_id] for lookup in lookups])
        self._any_mean = bool(self._mean_F.any())
        self._table_of_X = torch.arange(len(lookups)).repeat_interleave(torch.tensor(dims))
        self._kernel = _kernel(manifest, weights)

    def __call__(self, features: Features, size: int) -> torch.Tensor:
        """The pooled embeddings of rows, padded with empty bags to ``size`` rows.

        Args:
            features: at most ``size`` rows, their ids within the tables.
            size: B.

        Returns:
            float32 (B, X): sums, or means where a table has that pooling; zeros for empty bags.
        """
        if self._rows_of_ids is not None:
            features = self._rows_of_ids(features)
        ids = feature_major(features, self._hotness_F).to(self._id_type)
        if features.lengths_BF is None:
            offsets = _full_offsets(self._hotness_F, len(features), size, self._id_type)
        else:
            lengths_FB = features.lengths_BF.new_zeros(self._features, size)
            lengths_FB[:, : len(features)] = features.lengths_BF.t()
            offsets = _offsets(lengths_FB, self._id_type)
        pooled_BX: torch.Tensor = self._kernel(indices=ids, offsets=offsets)
        if not self._any_mean:
            return pooled_BX
        lengths_FB = (offsets[1:] - offsets[:-1]).view(self._features, size) // self._rows_per_id_F1
        divisors_FB = torch.where(self._mean_F[:, None], lengths_FB.clamp(min=1), 1)
        return pooled_BX / divisors_FB.index_select(0, self._table_of_X).t()


def _kernel(manifest: Manifest, weights: torch.Tensor) -> Callable[..., torch.Tensor]:
    lookups = [lookup.table for lookup in manifest.looked_up]  # to the kernel a table that two share is two tables
    tables = [manifest.tables[table] for table in lookups]
    widest: dict[Precision, int] = {"fp32": 0, "fp16": 0, "int8": 0, "int4": 0}
    for table in tables:
        widest[table.precision] = max(widest[table.precision], table.dim)
    starts, _ = starts_of_tables(manifest)
    dims = list(accumulate((table.dim for table in tables), initial=0))
    arguments: dict[str, Any] = {
        "dev_weights": weights,
        "uvm_weights": torch.empty(0, dtype=torch.uint8),
        "weights_placements": torch.full((len(tables),), int(EmbeddingLocation.HOST), dtype=torch.int32),
        "weights_offsets": torch.tensor([starts[table] for table in lookups], dtype=torch.int64),
        "weights_tys": torch.tensor(
            [sparse_type_to_int(_TYPES[table.precision]) for table in tables], dtype=torch.uint8
        ),
        "D_offsets": torch.tensor(dims, dtype=torch.int32),
        "total_D": dims[-1],
        "max_int2_D": 0,
        "max_int4_D": widest["int4"],
        "max_int8_D": widest["int8"],
        "max_float16_D": widest["fp16"],
        "max_float32_D": widest["fp32"],
        "pooling_mode": int(PoolingMode.SUM),
        "indice_weights": None,
        "output_dtype": SparseType.FP32.as_int(),
        "row_alignment": 1,
    }
    operator = torch.ops.fbgemm.int_nbit_split_embedding_codegen_lookup_function

    def kernel(*, indices: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        pooled_BX: torch.Tensor = operator(indices=indices, offsets=offsets, **arguments)
        return pooled_BX

    return kernel


class RowsOfFeatures:
    """Makes rows of the ids of features, as the manifest's lookups say."""

    def __init__(self, manifest: Manifest) -> None:
        self._lookups = manifest.looked_up
        self._rules = [lookup.ids_to_rows for lookup in self._lookups]
        self._parts = [feature.hotness for feature in manifest.sparse]
        self._feature_L = torch.tensor([lookup.feature for lookup in self._lookups])
        self._rows_per_id_L = torch.tensor([rule.rows_per_id for rule in self._rules], dtype=torch.int32)

    def __call__(self, features: Features) -> Features:
        """The same rows, with a feature for each lookup; what lies beyond a bag's length is no row."""
        of_features = features.ids_BS.split(self._parts, dim=1)
        found = []
        for lookup, rule in zip(self._lookups, self._rules, strict=True):
            ids_BL = of_features[lookup.feature]
            rows_BL = torch.empty(len(ids_BL), ids_BL.shape[1] * rule.rows_per_id, dtype=torch.int64)
            rule.rows(ids_BL.reshape(-1), rows_BL.view(-1))
            found.append(rows_BL)
        lengths_BL = None
        if features.lengths_BF is not None:
            lengths_BL = features.lengths_BF[:, self._feature_L] * self._rows_per_id_L
        return Features(features.dense_BN, torch.cat(found, dim=1), lengths_BL)


@lru_cache(maxsize=64)
def _full_offsets(hotness_F: tuple[int, ...], rows: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """(F * size + 1,): every bag of the first ``rows`` rows is full, the others are empty."""
    lengths_FB = torch.zeros(len(hotness_F), size, dtype=torch.int64)
    lengths_FB[:, :rows] = torch.tensor(hotness_F)[:, None]
    return _offsets(lengths_FB, dtype)


def _offsets(lengths_FB: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.nn.functional.pad(lengths_FB.flatten().cumsum(0), (1, 0)).to(dtype)


def feature_major(features: Features, hotness_F: tuple[int, ...]) -> torch.Tensor:
    """All ids of feature 0 over the rows, then all of feature 1, ...; of a bag those within its length."""
    if features.lengths_BF is None and max(hotness_F) == 1:
        return features.ids_BS.t().reshape(-1)
    parts = features.ids_BS.split(hotness_F, dim=1)
    if features.lengths_BF is None:
        return torch.cat([ids_BL.reshape(-1) for ids_BL in parts])
    bags = zip(parts, features.lengths_BF.t(), strict=True)
    return torch.cat([ids_BL[torch.arange(ids_BL.shape[1]) < length_B[:, None]] for ids_BL, length_B in bags])
