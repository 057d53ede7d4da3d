"""``checkpoint export``: one safetensors file of whole tensors, in bounded memory."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from dlrm.checkpoint.increments import Chain
from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.manifest import COMMITTED_NAME, DTYPES
from dlrm.checkpoint.save import storage_errors
from dlrm.checkpoint.stored import VERIFYING_THREADS, Checkpoint, StoredPiece
from dlrm.checkpoint.tensors import Block, LogicalTensor
from dlrm.checkpoint_tools.places import local_file
from dlrm.checkpoint_tools.safetensors_format import Entry, layout
from dlrm.checkpoint_tools.showing import is_weight
from dlrm.errors import CheckpointError
from dlrm.files import written_beside

Progress = Callable[[int], None]
"""Told the number of bytes that were copied."""


def tensors_to_export(chain: Chain, *, optimizer: bool) -> list[str]:
    """Names: the model's weights, or everything."""
    return [name for name in chain.tensors if optimizer or is_weight(name)]


def export(
    chain: Chain, names: Sequence[str], output: str, *, overwrite: bool, progress: Progress = lambda _: None
) -> Path:
    """Write whole tensors into a new file.

    Of a full checkpoint each piece is verified, read once and copied to where it belongs; memory is a few pieces of at most
    64 MiB. An increment is restored with all that it stands on, as it would be for training, into the mapped file. The
    file is written beside its place and renamed when it is whole.

    Args:
        chain: the checkpoint and what it stands on.
        names: of the tensors.
        output: the file, on this host.
        overwrite: replace it if it is there.
        progress: told of every piece of a full checkpoint.

    Raises:
        CheckpointError: the file is there, or cannot be written; a piece is damaged.
    """
    path, checkpoint = local_file(output), chain.tip
    metadata = {
        "format": "pt",
        "step": str(checkpoint.step),
        "config": json.dumps(checkpoint.facts.get("config")),
        "checkpoint": checkpoint.manifest_checksum,
    }
    kinds = {name: (DTYPES[chain.tensors[name].dtype], chain.tensors[name].shape) for name in names}
    try:
        header, places = layout(kinds, metadata)
    except ValueError as error:
        raise CheckpointError(checkpoint.path, f"does not fit into a safetensors file: {error}") from None
    size = max((place.stop for place in places.values()), default=len(header))
    with storage_errors(str(path), mend=""), _new_file(path, size, overwrite=overwrite) as beside:
        with beside.open("r+b") as file:
            file.write(header)
        if chain.increments:
            mapped = [_mapped(beside, name, place) for name, place in places.items()]
            load_tensors(checkpoint, mapped, strict=False)  # what is not exported is not asked for
        else:
            _copy_pieces(checkpoint, places, beside, progress)
    return path


def _mapped(path: Path, name: str, place: Entry) -> LogicalTensor:
    """A tensor whose memory is its part of the file."""
    values = torch.empty(place.shape, dtype=place.dtype)
    if place.start < place.stop:
        data = np.memmap(path, np.uint8, "r+", offset=place.start, shape=(place.stop - place.start,))
        values = torch.from_numpy(data).view(place.dtype).view(place.shape)
    return LogicalTensor(name, place.shape, place.dtype, (Block((0,) * len(place.shape), values),))


def _copy_pieces(checkpoint: Checkpoint, places: Mapping[str, Entry], path: Path, progress: Progress) -> None:
    stored = [piece for name in places for piece in checkpoint.pieces.get(name, [])]

    def copy(piece: StoredPiece) -> None:
        data = checkpoint.read(piece)
        _place(path, places[piece.piece.tensor], piece, data)
        progress(len(data))

    with ThreadPoolExecutor(VERIFYING_THREADS) as pool:
        list(pool.map(copy, stored))


@contextmanager
def _new_file(path: Path, size: int, *, overwrite: bool) -> Iterator[Path]:
    """A file of ``size`` bytes beside ``path``, which takes its place, durable, when the block has ended well."""
    _check_free(path, overwrite=overwrite)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with written_beside(path, beside=beside) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here and a crash in mapped memory
        yield beside
        _check_free(path, overwrite=overwrite)


def _check_free(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise CheckpointError(str(path), "is a folder", mend="name a file")
    if (path.parent / COMMITTED_NAME).exists():
        raise CheckpointError(str(path), "lies in a checkpoint, which no other file may", mend="name another folder")
    if not overwrite and os.path.lexists(path):
        raise CheckpointError(str(path), "is there already", mend="name another file, or replace it with --overwrite")


def _place(path: Path, place: Entry, stored: StoredPiece, data: bytearray) -> None:
    """Write a piece's bytes to where its elements are in the whole tensor."""
    piece, width = stored.piece, place.dtype.itemsize
    if piece.shape[1:] == place.shape[1:]:  # whole rows: they follow each other
        row_bytes = math.prod(place.shape[1:]) * width
        start = place.start + (piece.offsets[0] * row_bytes if piece.offsets else 0)
        with path.open("r+b", buffering=0) as file:
            _write_all(file.fileno(), data, start)
        return
    whole = np.memmap(path, np.uint8, "r+", offset=place.start, shape=(*place.shape, width))
    whole[piece.rectangle.slices_from((0,) * len(place.shape))] = np.frombuffer(data, np.uint8).reshape(
        *piece.shape, width
    )


def _write_all(descriptor: int, data: bytearray, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written
