"""torch's archive of an exported program, without what would run code when it is read.

The archive is a zip of JSON and of tensors' bytes. Reading it, torch 2.13 unpickles sample inputs, objects of custom
classes and tensors that say so, and does what :mod:`dlrm.inference.exported.program_graph` says. Here guards, sample inputs
and where nodes came from are left out; an archive with anything else than that module knows is refused. torch is never
shown the bytes of a file: it reads an archive that is made anew of what was found good, so that it cannot read another
thing in them than was looked at.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from math import prod
from typing import Any

from pydantic import ValidationError

from dlrm.checkpoint.manifest import first_fault
from dlrm.inference.exported.program_graph import Payload, Payloads, Program

NAME = "model"
"""Of the program within the archive."""

_GRAPH = f"models/{NAME}.json"
_SAMPLE_INPUTS = f"data/sample_inputs/{NAME}.pt"
_CONFIGS = {
    "data/weights/": f"data/weights/{NAME}_weights_config.json",
    "data/constants/": f"data/constants/{NAME}_constants_config.json",
}
_DATA = re.compile(r"data/weights/weight_\d{1,6}|data/constants/tensor_\d{1,6}", re.ASCII)
_MARKS = {
    "archive_format": re.compile(rb"pt2"),
    "archive_version": re.compile(rb"\d{1,4}"),
    "byteorder": re.compile(rb"little"),
    "version": re.compile(rb"\d{1,4}\n?"),
    ".data/version": re.compile(rb"\d{1,4}\n?"),
    ".data/serialization_id": re.compile(rb"0{0,64}"),
}
_MOMENT = (1980, 1, 1, 0, 0, 0)
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 13: 2}
"""Bytes of a number, by torch's number of its type (``ScalarType``): integers, floating point numbers, bfloat16."""

Members = dict[str, bytes]
"""The files of an archive by their names within its folder."""


class UnfitProgramError(Exception):
    """An archive that is not to be read; in words, why."""


def plain_archive(archive: bytes) -> bytes:
    """The same program without what is not read here; the same bytes for the same program.

    Args:
        archive: what torch.export.save has written.

    Raises:
        UnfitProgramError: the program has parts that are not read here.
    """
    members: Members = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        for member in source.infolist():
            name, data = member.filename.partition("/")[2], source.read(member)
            if name == _SAMPLE_INPUTS:
                data = b""
            elif name == _GRAPH:
                data = _plain_graph(data)
            elif name == ".data/serialization_id":
                data = b"0" * len(data)
            members[name] = data
    return archive_of(_checked(members))


def checked_archive(archive: bytes) -> bytes:
    """An archive as :func:`plain_archive` makes them, made anew of what is good in another.

    Raises:
        UnfitProgramError: it holds something else.
    """
    members: Members = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as source:
            # Members may lie over each other: each is as large as it says, and all of them need not fit.
            if sum(member.file_size for member in source.infolist()) > len(archive):
                raise UnfitProgramError("holds bytes twice")
            for member in source.infolist():
                folder, _, name = member.filename.partition("/")
                if folder != NAME or name in members:
                    raise UnfitProgramError(f"holds {ascii(member.filename)[:80]}, which is no part of a program here")
                if member.compress_type != zipfile.ZIP_STORED:
                    raise UnfitProgramError(f"holds {ascii(member.filename)[:80]} compressed")
                members[name] = source.read(member)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, OSError):
        raise UnfitProgramError("is no archive of a program") from None
    return archive_of(_checked(members))


def archive_of(members: Mapping[str, bytes]) -> bytes:
    """The archive of these files, in order; the same bytes for the same files."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as target:
        for name, data in members.items():
            target.writestr(zipfile.ZipInfo(f"{NAME}/{name}", _MOMENT), data)
    return written.getvalue()


def _plain_graph(data: bytes) -> bytes:
    program = json.loads(data)
    program["guards_code"] = []
    module = program["graph_module"]
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}
    module["metadata"] = {}
    module["module_call_graph"] = [call for call in module["module_call_graph"] if not call["fqn"]]
    return json.dumps(program).encode()


def _checked(members: Members) -> Members:
    """The members with their JSON read and written again."""
    found: Members = {}
    for name, data in members.items():
        if name == _GRAPH:
            found[name] = _record(Program, data, name)
        elif name in _CONFIGS.values():
            found[name] = _record(Payloads, data, name)
        elif name == _SAMPLE_INPUTS:
            if data:
                raise UnfitProgramError("holds pickled sample inputs")
            found[name] = data
        elif _DATA.fullmatch(name) or (name in _MARKS and _MARKS[name].fullmatch(data)):
            found[name] = data
        else:
            raise UnfitProgramError(f"holds {ascii(name)[:80]}, which is no part of a program here")
    if missing := [name for name in (_GRAPH, _SAMPLE_INPUTS, *_CONFIGS.values()) if name not in found]:
        raise UnfitProgramError(f"holds no {missing[0]}")
    for folder, name in _CONFIGS.items():
        for payload in Payloads.model_validate_json(found[name]).config.values():
            _check_size(payload, found.get(folder + payload.path_name))
    return found


def _record(kind: Any, data: bytes, name: str) -> bytes:
    """The JSON of a record, written as pydantic writes it."""
    try:
        record = kind.model_validate_json(data)
    except ValidationError as error:
        raise UnfitProgramError(f"holds what no program here does: {first_fault(error, name)}") from None
    text: str = record.model_dump_json(exclude_unset=True)
    return text.encode()


def _check_size(payload: Payload, data: bytes | None) -> None:
    meta, name = payload.tensor_meta, payload.path_name
    if data is None:
        raise UnfitProgramError(f"holds no {name}")
    sizes, strides, expected = [size.as_int for size in meta.sizes], [stride.as_int for stride in meta.strides], 1
    item = _ITEM_BYTES.get(meta.dtype, 0)
    if not item or len(sizes) != len(strides) or meta.storage_offset.as_int or len(data) != prod(sizes) * item:
        raise UnfitProgramError(f"holds {name}, whose {len(data)} bytes are not those of its shape")
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            raise UnfitProgramError(f"holds {name}, which is not stored row after row")
        expected *= size
