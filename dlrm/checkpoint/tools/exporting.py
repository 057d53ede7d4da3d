"""``checkpoint export``: one safetensors file of whole tensors, in bounded memory."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from dlrm.checkpoint.fill import Progress, ignore
from dlrm.checkpoint.manifest import COMMITTED_NAME
from dlrm.checkpoint.paths import local_file
from dlrm.checkpoint.reader import Reader
from dlrm.checkpoint.storage import storage_errors
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.checkpoint.tools.safetensors_format import Entry, layout
from dlrm.checkpoint.tools.showing import is_weight
from dlrm.errors import CheckpointError
from dlrm.files import written_beside


def tensors_to_export(reader: Reader, *, optimizer: bool) -> list[str]:
    """Names: the model's weights, or everything."""
    return [name for name in reader.tensors if optimizer or is_weight(name)]


def export(reader: Reader, names: Sequence[str], output: str, *, overwrite: bool, progress: Progress = ignore) -> Path:
    """Write whole tensors into a new file.

    What the checkpoint restores is written into the mapped file, each chunk verified and read once; memory is a few chunks
    of at most 64 MiB. The file is written beside its place and renamed when it is whole.

    Args:
        reader: of the checkpoint.
        names: of the tensors.
        output: the file, on this host.
        overwrite: replace it if it is there.
        progress: told of every chunk.

    Raises:
        CheckpointError: the file is there, or cannot be written; a chunk is damaged.
    """
    path, checkpoint = local_file(output), reader.checkpoint
    metadata = {
        "format": "pt",
        "step": str(checkpoint.step),
        "config": json.dumps(checkpoint.metadata.get("config")),
        "checkpoint": checkpoint.manifest_checksum,
    }
    kinds = {name: (reader.tensors[name].torch_dtype, reader.tensors[name].shape) for name in names}
    try:
        header, places = layout(kinds, metadata)
    except ValueError as error:
        raise CheckpointError(checkpoint.path, f"does not fit into a safetensors file: {error}") from None
    size = max((place.stop for place in places.values()), default=len(header))
    with storage_errors(str(path)), _new_file(path, size, overwrite=overwrite) as beside:
        with beside.open("r+b") as file:
            file.write(header)
        mapped = [_mapped(beside, name, place) for name, place in places.items()]
        reader.prepare(mapped, verify=False, progress=progress)()
    return path


def _mapped(path: Path, name: str, place: Entry) -> GlobalTensor:
    """A tensor whose memory is its part of the file."""
    values = torch.empty(place.shape, dtype=place.dtype)
    if place.start < place.stop:
        data = np.memmap(path, np.uint8, "r+", offset=place.start, shape=(place.stop - place.start,))
        values = torch.from_numpy(data).view(place.dtype).view(place.shape)
    return GlobalTensor.of(name, values)


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
        raise CheckpointError(str(path), "is a folder", hint="name a file")
    if (path.parent / COMMITTED_NAME).exists():
        raise CheckpointError(str(path), "lies in a checkpoint, which no other file may", hint="name another folder")
    if not overwrite and os.path.lexists(path):
        raise CheckpointError(str(path), "is there already", hint="name another file, or replace it with --overwrite")
