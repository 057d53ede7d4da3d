"""safetensors (https://huggingface.co/docs/safetensors): the header of a file to write, and of one to read.

A file is the length of a JSON text, 8 bytes little-endian; that text; and the tensors' bytes, row after row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dlrm.checkpoint.manifest import SAFETENSORS_NAMES, safetensors_header

_DTYPES = {name: dtype for dtype, name in SAFETENSORS_NAMES.items()}
_METADATA = "__metadata__"
LONGEST_HEADER = 100_000_000
"""Bytes; readers refuse more."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a file; its bytes are ``start .. stop - 1`` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def layout(
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, Entry]]:
    """The first bytes of a file, and where its tensors are: those with the widest numbers first, so that all are aligned.

    Args:
        tensors: type and shape by name.
        metadata: text by name.

    Raises:
        ValueError: a tensor has the name of the metadata, or there is more to say than readers accept.
    """
    if _METADATA in tensors:
        raise ValueError(f"a tensor is called {_METADATA}")
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for name in sorted(tensors, key=lambda name: -tensors[name][0].itemsize):
        dtype, shape = tensors[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        places[name] = start, end
    entries: dict[str, Any] = {_METADATA: dict(metadata)}
    for name, offsets in places.items():
        dtype, shape = tensors[name]
        entries[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": offsets}
    header = safetensors_header(entries)
    first = len(header)
    if first - 8 > LONGEST_HEADER:
        raise ValueError(f"the header has {first - 8} bytes, readers accept {LONGEST_HEADER}")
    found = {name: Entry(*tensors[name], first + start, first + stop) for name, (start, stop) in places.items()}
    return header, found


def parse(beginning: bytes, size: int) -> dict[str, Entry]:
    """The tensors of a file.

    Args:
        beginning: of the file, with all of the header.
        size: of the file, in bytes.

    Raises:
        ValueError: it is no such file, or a tensor is not inside of it or not of its shape and type.
    """
    length = header_length(beginning, size)
    try:
        found = json.loads(beginning[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise ValueError("its header is not valid JSON") from error
    if not isinstance(found, dict):
        raise ValueError("its header is no mapping")
    found.pop(_METADATA, None)
    return {name: _entry(name, value, 8 + length, size) for name, value in found.items()}


def header_length(beginning: bytes, size: int) -> int:
    """Bytes of the JSON text in a file of ``size`` bytes.

    Raises:
        ValueError: it is no such file.
    """
    length = int.from_bytes(beginning[:8], "little")
    if len(beginning) < 8 or not 2 <= length <= min(LONGEST_HEADER, size - 8):
        raise ValueError("it does not begin with the length of a header")
    return length


def _entry(name: str, value: Any, first: int, size: int) -> Entry:
    entry = value if isinstance(value, dict) else {}
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry.get("dtype"), str) else None
    shape, offsets = _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if dtype is None or shape is None or offsets is None or len(offsets) != 2:
        raise ValueError(f"tensor {ascii(name)[:100]} has no type, shape and place that are known here")
    start, stop = first + offsets[0], first + offsets[1]
    if not start <= stop <= size or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {ascii(name)[:100]} is not inside of the file, or not of its shape")
    return Entry(dtype, shape, start, stop)


def _counts(value: Any) -> tuple[int, ...] | None:
    """A list of integers that a size or a place in a file may be; None if it is anything else."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        return None
    return tuple(value)
