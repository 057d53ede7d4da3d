"""``manifest.json``: what a checkpoint consists of, so that every byte of it can be checked before it is used.

A checkpoint is a folder with

- ``rank_0003.safetensors``, and ``rank_0003_1.safetensors`` .. if one would become too large: the *chunks* that rank 3
  wrote, each a slice of a global tensor of at most :data:`MAX_CHUNK_BYTES`. The header of such a file follows from
  the chunks that the manifest lists, to the byte (:func:`header`): nothing is ever parsed from the file itself.
- ``manifest.json``: all global tensors, the files with their sizes and chunks, the chunks with their checksums, and
  *metadata*: whatever JSON the writer wants to find again.
- ``COMMITTED``, written last: the checksum of the manifest. Without it the folder is no checkpoint.

Header, chunks, manifest and marker are all the bytes there are, each under one checksum or known beforehand. The checksum
is BLAKE2b with 256 bits: of those in hashlib that no accident and no attacker gets around it is the fastest on processors
without instructions for SHA (1.4 GB/s a core on an AMD EPYC, where SHA-256 with them had 1.75), and it runs without the
GIL.

Two keys in the files are older than the words here: ``pieces`` are the chunks of a file, ``facts`` the metadata.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dlrm.checkpoint.names import COMMITTED_NAME as COMMITTED_NAME
from dlrm.checkpoint.slices import Slice, fault_in_cover
from dlrm.errors import CheckpointError

MANIFEST_NAME = "manifest.json"
FORMAT: Literal["dlrm-checkpoint"] = "dlrm-checkpoint"
RANK_FORMAT: Literal["dlrm-checkpoint-rank"] = "dlrm-checkpoint-rank"
VERSION: Literal[1] = 1
CHECKSUM: Literal["blake2b-256"] = "blake2b-256"
RESTORE = "restore it or use another checkpoint"

MAX_CHUNK_BYTES = 64 << 20
MAX_FILE_BYTES = 2 << 30
"""Of chunks in a file that is written; one that is read may be larger."""
MAX_MANIFEST_BYTES = 256 << 20
MAX_DIMENSIONS = 4
MAX_NAME_LENGTH = 1 << 16
"""Of a tensor's name, in which a column's may be in percent-encoding."""

SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in SAFETENSORS_NAMES}
"""The types that a checkpoint may hold, by their names in it."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Record(BaseModel):
    """What is read strictly: no unknown keys, no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError(f"{name!a} is no name")
    return name


def _known_dtype(name: str) -> str:
    if name not in DTYPES:
        raise ValueError(f"{name!a} is no type of a tensor here (known: {', '.join(DTYPES)})")
    return name


Count = Annotated[int, Field(ge=0, lt=2**63)]
Indices = Annotated[tuple[Count, ...], Field(max_length=MAX_DIMENSIONS)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH), AfterValidator(_printable)]
Checksum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^rank_[0-9]{4,9}(_[0-9]{1,6})?\.safetensors$")]


class TensorRecord(Record):
    """A global tensor."""

    name: Name
    shape: Indices
    dtype: Annotated[str, AfterValidator(_known_dtype)]

    @property
    def torch_dtype(self) -> torch.dtype:
        """Its type."""
        return DTYPES[self.dtype]

    @property
    def bytes(self) -> int:
        """Of all its elements."""
        return math.prod(self.shape) * self.torch_dtype.itemsize


class ChunkRecord(Record):
    """A slice of a global tensor and where its bytes are.

    Attributes:
        tensor: its name; offsets, shape: which elements, row after row, little-endian.
        range: first byte in the file and the one after the last.
        checksum: of these bytes.
    """

    tensor: Name
    offsets: Indices
    shape: Indices
    range: tuple[Count, Count]
    checksum: Checksum

    @property
    def slice(self) -> Slice:
        """Which elements of the tensor."""
        return Slice(self.offsets, self.shape)

    @property
    def bytes(self) -> int:
        """Of its values."""
        return self.range[1] - self.range[0]


class FileRecord(Record):
    """A file: its name, size, and chunks in the order of their bytes."""

    name: FileName
    bytes: Count
    chunks: tuple[ChunkRecord, ...] = Field(min_length=1, alias="pieces")


class RankRecord(Record):
    """``rank_0003.json``: what a rank has written, for rank 0; gone once the checkpoint is committed.

    Attributes:
        token: of the save; tensors: those the rank knows of.
    """

    format: Literal["dlrm-checkpoint-rank"] = RANK_FORMAT
    version: Literal[1] = VERSION
    token: str
    rank: Count
    tensors: tuple[TensorRecord, ...]
    files: tuple[FileRecord, ...]


class Manifest(Record):
    """Everything that is known of a checkpoint.

    Attributes:
        step: trained global batches; world_size: number of ranks that wrote it.
    """

    format: Literal["dlrm-checkpoint"] = FORMAT
    version: Literal[1] = VERSION
    checksum: Literal["blake2b-256"] = CHECKSUM
    step: Count
    world_size: Annotated[int, Field(gt=0, lt=2**31)]
    tensors: tuple[TensorRecord, ...]
    files: tuple[FileRecord, ...]
    metadata: dict[str, Any] = Field(default_factory=dict, alias="facts")

    @property
    def bytes(self) -> int:
        """Of all files with chunks."""
        return sum(file.bytes for file in self.files)


def checksum(data: bytes | bytearray | memoryview) -> str:
    """The BLAKE2b of ``data`` with 256 bits, in hexadecimal; computed without the GIL."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def committed_text(manifest: bytes) -> bytes:
    """The contents of COMMITTED beside these contents of manifest.json."""
    return f"{CHECKSUM} {checksum(manifest)} {MANIFEST_NAME}\n".encode()


def header(chunks: Iterable[ChunkRecord], dtypes: dict[str, torch.dtype]) -> bytes:
    """What a safetensors file with ``chunks`` begins with.

    Format: https://huggingface.co/docs/safetensors. A chunk is called by its tensor and where it begins in it:
    ``tables.cat_0.weight@131072,0``.

    Args:
        chunks: in order; of ``range`` only the length counts.
        dtypes: of the tensors, by name.
    """
    entries, end = {}, 0
    for chunk in chunks:
        start, end = end, end + chunk.bytes
        entries[f"{chunk.tensor}@{','.join(map(str, chunk.offsets))}"] = {
            "dtype": SAFETENSORS_NAMES[dtypes[chunk.tensor]],
            "shape": chunk.shape,
            "data_offsets": (start, end),
        }
    return safetensors_header(entries)


def safetensors_header(entries: Mapping[str, Any]) -> bytes:
    """What a safetensors file begins with: the length of a JSON text, and that text."""
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    return len(text).to_bytes(8, "little") + text


def tensor_dtypes(tensors: Iterable[TensorRecord]) -> dict[str, torch.dtype]:
    """The types of tensors by their names."""
    return {tensor.name: tensor.torch_dtype for tensor in tensors}


def dump_record(record: Record) -> bytes:
    """The JSON of a record; the same record gives the same bytes.

    Raises:
        ValueError, TypeError: metadata that are no JSON: NaN, other objects.
    """
    content = record.model_dump(by_alias=True, exclude_none=True)
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def parse_manifest(text: bytes | bytearray, path: str) -> Manifest:
    """Read manifest.json.

    Args:
        text: its content.
        path: how errors call it.

    Raises:
        CheckpointError: not JSON, another format or version, a value of the wrong type, a name that is none, chunks that
            overlap, leave their tensor or their file, or do not make whole tensors.
    """
    manifest = parse_record(Manifest, text, path, format_name=FORMAT)
    problem = contradiction(manifest.tensors, manifest.files)
    if problem:
        raise CheckpointError(path, problem, hint=RESTORE)
    return manifest


R = TypeVar("R", bound=Record)


def parse_record(
    kind: type[R],
    text: bytes | bytearray,
    path: str,
    *,
    format_name: str,
    what: str = "nothing of a checkpoint",
    error: type[CheckpointError] = CheckpointError,
    restore: str = RESTORE,
    version: int = VERSION,
) -> R:
    """Read a record strictly: JSON without repeated keys, NaN or infinity, and nothing in it but what belongs there.

    Args:
        kind: of the record.
        text: its JSON.
        path: how errors call it.
        format_name: what its ``format`` must be.
        what: how a person is told that it is something else.
        error: what is raised.
        restore: the advice where it was changed.
        version: what its ``version`` must be.

    Raises:
        CheckpointError: it is not that.
    """
    try:
        found = json.loads(
            text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise error(path, "is not valid JSON here (too deeply nested)", hint=restore) from None
    except ValueError as invalid:
        raise error(path, f"is not valid JSON ({ascii(str(invalid))[1:-1]})", hint=restore) from None
    if not isinstance(found, dict) or found.get("format") != format_name:
        raise error(path, f"is {what} (no format: {format_name})", hint="check the path")
    if type(found.get("version")) is not int or found["version"] != version:
        problem = f"has format version {ascii(found.get('version'))[:40]}, this program reads {version}"
        raise error(path, problem, hint="use the program that wrote it")
    try:
        return kind.model_validate_json(bytes(text))
    except ValidationError as invalid:
        raise error(path, first_fault(invalid), hint=restore) from None


def first_fault(error: ValidationError, within: str = "") -> str:
    """The first of what is wrong with values from a file, in words: where it is, below ``within``, and what."""
    detail = error.errors(include_url=False, include_input=False)[0]
    places = [within] * bool(within) + [ascii(part).strip("'")[:80] for part in detail["loc"]]
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{'.'.join(places)}: {message}"


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large")
    return number


def contradiction(tensors: Sequence[TensorRecord], files: Sequence[FileRecord]) -> str:
    """The first thing in records that contradicts another, in words; empty if nothing does."""
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) < len(tensors):
        return "a tensor is listed twice"
    if len({file.name for file in files}) < len(files):
        return "a file is listed twice"
    for tensor in tensors:
        if tensor.bytes >= 2**63:
            return f"tensor {tensor.name} of shape {list(tensor.shape)} has more bytes than there are"
    for file in files:
        problem = _contradiction_in_file(file, by_name)
        if problem:
            return f"{file.name}: {problem}"
    slices: dict[str, list[Slice]] = defaultdict(list)
    for file in files:
        for chunk in file.chunks:
            slices[chunk.tensor].append(chunk.slice)
    for tensor in tensors:
        problem = fault_in_cover(tensor.shape, slices[tensor.name])
        if problem:
            return f"tensor {tensor.name} of shape {list(tensor.shape)}: {problem}"
    return ""


def _contradiction_in_file(file: FileRecord, tensors: dict[str, TensorRecord]) -> str:
    for chunk in file.chunks:
        tensor = tensors.get(chunk.tensor)
        if tensor is None:
            return f"holds a chunk of {chunk.tensor}, which is not listed"
        where = f"the chunk of {chunk.tensor} at {list(chunk.offsets)} of shape {list(chunk.shape)}"
        if not chunk.slice.within(tensor.shape) or not chunk.slice.size:
            return f"{where} is outside of shape {list(tensor.shape)}, or empty"
        size = chunk.slice.size * tensor.torch_dtype.itemsize
        if size > MAX_CHUNK_BYTES:
            return f"{where} has {size} bytes, more than {MAX_CHUNK_BYTES}"
        if chunk.bytes != size:
            return f"{where} has {size} bytes, not those of {list(chunk.range)}"
    end = len(header(file.chunks, tensor_dtypes(tensors.values())))
    for chunk in file.chunks:
        if chunk.range[0] != end:
            return f"the chunk of {chunk.tensor} at {list(chunk.offsets)} begins at byte {chunk.range[0]}, not {end}"
        end = chunk.range[1]
    return "" if end == file.bytes else f"has {file.bytes} bytes, but its chunks end at {end}"
