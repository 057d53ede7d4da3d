"""Reading a state dict that somebody else has saved, without running anything that is in it, and without copying it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlrm.checkpoint.safetensors_format import Entry, header_length, parse
from dlrm.errors import CheckpointError
from dlrm.format import escaped

_INNER = ("state_dict", "model_state_dict", "model")
"""Under what trainers keep a model's state dict beside other things."""
_SAVE_AGAIN = "save it with torch.save(model.state_dict(), path), or as safetensors"


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """Names and values, mapped from the file as far as possible; in the order of the file.

    Args:
        path: what ``torch.save`` has written (in its format since torch 1.6), or safetensors.

    Raises:
        CheckpointError: it cannot be read, or holds anything but tensors and plain values.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            beginning = file.read(8)
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror})", hint="check the path") from None
    if beginning[:4] == b"PK\x03\x04":
        return _unpickled(path)
    try:
        return _safetensors(path, header_length(beginning, size), size)
    except ValueError as error:
        problem = f"is neither a file of torch.save nor safetensors ({error})"
        raise CheckpointError(str(path), problem, hint=_SAVE_AGAIN) from None


def _safetensors(path: Path, length: int, size: int) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        beginning = file.read(8 + length)
    return {name: _mapped(path, entry) for name, entry in parse(beginning, size).items()}


def _mapped(path: Path, entry: Entry) -> torch.Tensor:
    if entry.start == entry.stop:
        return torch.empty(entry.shape, dtype=entry.dtype)
    # Copy-on-write, because torch has no read-only tensors; nothing is written, so nothing is copied.
    data = np.memmap(path, np.uint8, "c", offset=entry.start, shape=(entry.stop - entry.start,))
    if entry.start % entry.dtype.itemsize:
        data = np.array(data)  # type: ignore[assignment]  # torch wants numbers where their width divides their place
    return torch.from_numpy(data).view(entry.dtype).view(entry.shape)


def _unpickled(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what a hostile file makes torch raise is any of a dozen kinds, and all mean the same
        why = escaped(str(error).strip().partition("\n")[0] or type(error).__name__, 200)
        problem = f"holds more than plain tensors, or is damaged ({why})"
        raise CheckpointError(str(path), problem, hint=f"gather sharded tensors and {_SAVE_AGAIN}") from None
    for name in _INNER:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(str(path), "holds no state dict", hint=_SAVE_AGAIN)
    return found
