"""torch's archive of an exported program, without what would run code when it is read.

The archive is a zip of JSON and of tensors' bytes. Reading it, torch 2.13 unpickles sample inputs, objects of custom
classes and tensors that say so, executes ``guards_code``, hands ``expr_str`` to sympy, which evaluates it, and takes any
function of torch for an operator that is called ``torch....``. Here guards, sample inputs and where nodes came from are
left out, and an archive with anything but operators of ATen, numbers' arithmetic and plain symbols is refused before
torch sees it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

NAME = "model"
"""Of the program within the archive."""

_GRAPH = f"models/{NAME}.json"
_SAMPLE_INPUTS = f"data/sample_inputs/{NAME}.pt"
_CONFIGS = (f"data/weights/{NAME}_weights_config.json", f"data/constants/{NAME}_constants_config.json")
_DATA = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
_MARKS = ("archive_format", "archive_version", "byteorder", "version", ".data/version", ".data/serialization_id")
_MOMENT = (1980, 1, 1, 0, 0, 0)

_OPERATOR = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|getitem)"
)
_SYMBOL = re.compile(r"[su]\d+")
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_EXPRESSION = re.compile(r"[\w\s(),=*+/'-]*")
_WORDS = {
    "Symbol",
    "Integer",
    "Add",
    "Mul",
    "Pow",
    "Max",
    "Min",
    "FloorDiv",
    "positive",
    "nonnegative",
    "integer",
    "True",
}


def plain_archive(archive: bytes) -> bytes:
    """The same program without what is not read here; the same bytes for the same program.

    Args:
        archive: what torch.export.save has written.
    """
    plain = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(plain, "w", zipfile.ZIP_STORED) as target:
        for member in source.infolist():
            name = member.filename.partition("/")[2]
            data = source.read(member)
            if name == _SAMPLE_INPUTS:
                data = b""
            elif name == _GRAPH:
                data = _plain_graph(data)
            elif name == ".data/serialization_id":
                data = b"0" * len(data)
            target.writestr(zipfile.ZipInfo(f"{NAME}/{name}", _MOMENT), data)
    return plain.getvalue()


def fault_in_archive(archive: bytes) -> str:
    """Why an archive is not to be read, in words; empty if it is as :func:`plain_archive` makes them."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as members:
            for member in members.infolist():
                folder, _, name = member.filename.partition("/")
                known = name in (_GRAPH, _SAMPLE_INPUTS, *_CONFIGS, *_MARKS) or _DATA.fullmatch(name)
                if folder != NAME or not known:
                    return f"holds {ascii(member.filename)[:80]}, which is no part of a program here"
                if name == _SAMPLE_INPUTS and member.file_size:
                    return "holds pickled sample inputs"
            for name in _CONFIGS:
                entries = json.loads(members.read(f"{NAME}/{name}"))["config"]
                if any(entry["use_pickle"] is not False for entry in entries.values()):
                    return "holds pickled tensors"
            return _fault_in_graph(json.loads(members.read(f"{NAME}/{_GRAPH}")))
    except (zipfile.BadZipFile, ValueError, RecursionError, KeyError, TypeError, AttributeError, NotImplementedError):
        return "is no archive of a program"


def _plain_graph(data: bytes) -> bytes:
    graph = json.loads(data)
    graph["guards_code"] = []
    for node in graph["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    graph["graph_module"]["metadata"] = {}
    return json.dumps(graph, separators=(",", ":")).encode()


def _fault_in_graph(graph: Any) -> str:
    if graph["guards_code"]:
        return "holds code"
    for key, value in _pairs(graph):
        if key == "metadata" and value:
            return "says where its nodes come from"
        if key == "target" and not _OPERATOR.fullmatch(value):
            return f"calls {ascii(value)[:80]}, which is no operator of ATen"
        if key == "expr_str" and not _is_arithmetic(value):
            return f"holds the expression {ascii(value)[:80]}"
    return ""


def _is_arithmetic(text: str) -> bool:
    words = _WORD.findall(text)
    return bool(_EXPRESSION.fullmatch(text)) and all(word in _WORDS or _SYMBOL.fullmatch(word) for word in words)


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)
