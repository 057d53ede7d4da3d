"""Every way in which JSON that a program reads can be another than was written, one value at a time."""

import json
from collections.abc import Iterator
from typing import Any

OTHERS = (
    None,
    True,
    -1,
    0,
    3,
    2**31,
    2**63,
    10**40,
    1.5,
    1e308,
    "",
    "x",
    "../x",
    "\x1b[31m\n",
    "\ud800",
    [],
    {},
    [[]],
    [None],
    [-1, "x"],
    {"x": {"y": 1}},
)
"""What stands in place of each value."""
_HERE = "@@here@@"


def mutations(document: Any) -> Iterator[tuple[str, bytes]]:
    """The text of other documents, and what was done in each: every value replaced, removed, doubled; no JSON at all."""
    for path in _paths(document):
        where = ".".join(map(str, path)) or "(all)"
        for other in OTHERS:
            yield f"{where} = {other!a:.40}", _text(_with(document, path, other))
        if path:
            yield f"{where} removed", _text(_without(document, path))
        for name, raw in (("NaN", "NaN"), ("1e999", "1e999"), ("deep", "[" * 5000 + "]" * 5000), ("long", "9" * 5000)):
            yield f"{where} is {name}", _text(_with(document, path, _HERE)).replace(f'"{_HERE}"'.encode(), raw.encode())
        parent = _at(document, path[:-1]) if path else None
        if isinstance(parent, dict):
            twice = f"{json.dumps(path[-1])}: null, {json.dumps(path[-1])}: {json.dumps(parent[path[-1]])}"
            marked = _text(_with(document, path, _HERE)).decode()
            yield f"{where} twice", marked.replace(f'{json.dumps(path[-1])}: "{_HERE}"', twice).encode()
    text = _text(document)
    yield "nothing", b""
    yield "cut", text[: len(text) // 2]
    yield "no text", b"\xff\xfe" + text
    yield "not UTF-8 within", text.replace(b'"', b'"\xff', 1)
    yield "zero bytes", bytes(len(text))
    yield "nested", b'{"a":' * 100_000


def _text(document: Any) -> bytes:
    return json.dumps(document).encode()


def _paths(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from _paths(below, (*path, key))


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(document: Any, path: tuple, other: Any) -> Any:
    if not path:
        return other
    copy = json.loads(json.dumps(document))
    _at(copy, path[:-1])[path[-1]] = other
    return copy


def _without(document: Any, path: tuple) -> Any:
    copy = json.loads(json.dumps(document))
    del _at(copy, path[:-1])[path[-1]]
    return copy
