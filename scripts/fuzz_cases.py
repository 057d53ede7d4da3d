"""Malformed requests for ``scripts/fuzz_server.py``: good ones of a model, spoiled in many ways."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

KINDS_OF_BODY = (
    "application/json",
    "application/vnd.apache.arrow.stream",
    "application/x-npy",
    "text/tab-separated-values",
)


@dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
        kind: for the table.
        parts: bytes, with a short pause after each but the last.
        may_close: whether the server may close without an answer: there is no request that one would be to.
    """

    kind: str
    parts: tuple[bytes, ...]
    may_close: bool = False


class Maker:
    """Makes malformed requests of good ones.

    Args:
        seed: of what is chosen.
        model: what the server says of its model: its example is what is spoiled.
    """

    def __init__(self, seed: int, model: dict[str, Any]) -> None:
        self._choose = random.Random(seed)
        self._example: dict[str, Any] = model["example"]
        self._path = f"/v1/models/{model['name']}/predict"
        self._bodies = dict(self._good_bodies())
        self._makers: list[Callable[[], Case]] = [
            self._bad_value,
            self._bad_column,
            self._bad_shape,
            self._broken_json,
            self._broken_bytes,
            self._broken_bytes,
            self._cut_body,
            self._other_type,
            self._strange_headers,
            self._strange_path,
            self._strange_query,
            self._garbage,
            self._many_rows,
            self._cut_request,
            self._in_pieces,
            self._strange_arrow,
            self._strange_npy,
            self._pipelined,
        ]

    def cases(self, count: int) -> Iterator[Case]:
        """So many."""
        for _ in range(count):
            yield self._choose.choice(self._makers)()

    def good(self) -> Case:
        """A request that is answered."""
        return Case("good", (self._request(self._bodies["application/json"]),))

    def _good_bodies(self) -> Iterator[tuple[str, bytes]]:
        yield "application/json", json.dumps({"rows": [self._example] * 3}).encode()
        yield "application/vnd.apache.arrow.stream", _arrow(self._table(3))
        yield "application/x-npy", self._npy(3)
        yield "text/tab-separated-values", b"\t".join([b"1"] * 13 + [b"68fd1e64"] * 26) + b"\n"

    def _table(self, rows: int) -> pa.Table:
        return pa.table({name: [value] * rows for name, value in self._example.items()})

    def _npy(self, rows: int) -> bytes:
        fields = [(name, *_field(value)) for name, value in self._example.items()]
        array = np.zeros(rows, fields)
        for name, value in self._example.items():
            array[name] = value
        return _saved(array)

    def _request(
        self,
        body: bytes,
        kind: str = "application/json",
        *,
        path: str | None = None,
        method: str = "POST",
        more: str = "",
    ) -> bytes:
        head = f"{method} {path or self._path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\n{more}"
        return head.encode("latin-1") + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body

    def _bad_value(self) -> Case:
        values = (
            None, True, -1, 2**31, 2**63, 10**400, 1.5, 1e300, -1e39, "", "x" * 10_000, "\ud800", "\u202e\x1b[2J", "0x1", " 1",
            "zzzzzzzz", [], [1, 2], [[]], {}, {"a": 1}, [None], [-1], [1] * 1000, "1" * 400, 0.1, "NaN", "123456789",
        )  # fmt: skip
        row = self._example | {self._column(): self._choose.choice(values)}
        rows = [self._example] * self._choose.randrange(3) + [row]
        if self._choose.random() < 0.5:
            content: Any = {"columns": {name: [one[name] for one in rows] for name in row}}
        else:
            content = {"rows": rows}
        return Case("value", (self._request(json.dumps(content).encode()),))

    def _bad_column(self) -> Case:
        names = ("", "int_99", "\x00", "a" * 1000, "label", "__class__", "\u202e", "cat_0 ")
        row = self._example | {self._choose.choice(names): 1}
        if self._choose.random() < 0.5:
            row.pop(self._column(), None)
        return Case("column", (self._request(json.dumps({"rows": [row]}).encode()),))

    def _bad_shape(self) -> Case:
        one = self._example
        contents = (
            [], {}, 1, None, "rows", {"rows": one}, {"rows": [[one]]}, {"rows": [1]}, {"rows": [None]}, {"rows": {}}, {"row": one},
            {"rows": [one], "x": 1}, {"columns": []}, {"columns": {}}, {"columns": {"int_0": 1}}, {"columns": [one]},
            {"columns": {name: [value] * (at + 1) for at, (name, value) in enumerate(one.items())}},
            {"columns": dict.fromkeys(one)}, {"columns": {name: [] for name in one}}, {"columns": dict.fromkeys(one, "abc")},
        )  # fmt: skip
        return Case("shape", (self._request(json.dumps(self._choose.choice(contents)).encode()),))

    def _broken_json(self) -> Case:
        bodies = (
            b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b'{"rows": [{"a": NaN}]}', b'{"rows": [{"a": 1, "a": 2}]}', b"\xef\xbb\xbf{}",
            b'{"rows": [' + b"9" * 5000 + b"]}", '{"rows": []}'.encode("utf-16"), '{"rows": []}'.encode("utf-32"), b"\xff" * 50,
            b'{"rows": [1e99999]}', b'{"rows": [-]}', b'{"rows": [01]}', b"{'rows': []}", b'{"rows": []} x', b"\x00" * 100, b'"\\ud800"',
            b'{"rows": [{"a": "\x01"}]}', b"nul", b'{"rows": [' + b"{}," * 20_000 + b"{}]}",
        )  # fmt: skip
        return Case("broken JSON", (self._request(self._choose.choice(bodies)),))

    def _broken_bytes(self) -> Case:
        kind = self._choose.choice(KINDS_OF_BODY)
        body = bytearray(self._bodies[kind])
        for _ in range(self._choose.choice((1, 1, 2, 5, 50))):
            body[self._choose.randrange(len(body))] = self._choose.choice(
                (0, 1, 0x7F, 0x80, 0xFF, self._choose.randrange(256))
            )
        return Case(f"changed bytes, {_short(kind)}", (self._request(bytes(body), kind),))

    def _cut_body(self) -> Case:
        kind = self._choose.choice(KINDS_OF_BODY)
        body = self._bodies[kind]
        at = self._choose.randrange(len(body))
        cut = self._choose.choice((body[:at], body[at:], body + body[:at], body[:at] + body))
        return Case(f"cut, {_short(kind)}", (self._request(cut, kind),))

    def _other_type(self) -> Case:
        sent, said = (
            self._choose.choice(KINDS_OF_BODY),
            self._choose.choice((*KINDS_OF_BODY, "", "text/html", "a/b;c=d", "\xff", ";")),
        )
        return Case("another type", (self._request(self._bodies[sent], said),))

    def _strange_headers(self) -> Case:
        headers = (
            "Content-Encoding: gzip\r\n", "Content-Encoding: br, identity\r\n", "Accept: text/html\r\n", "Accept: \xff\r\n", "Expect: x\r\n",
            "Transfer-Encoding: gzip\r\n", "Content-Length: 5\r\n", "Content-Length: -1\r\n", "Content-Length: 99999999999999999999\r\n",
            "Upgrade: websocket\r\nConnection: upgrade\r\n", "X: " + "a" * 100_000 + "\r\n", "X: a\r\n" * 3000, "Bad\r\n", "Bad header: 1\r\n",
            ": empty\r\n", "X:\x00\r\n", " folded\r\n", "Expect: 100-continue\r\n", "Cookie: " + "a=b; " * 1000 + "\r\n",
        )  # fmt: skip
        more = self._choose.choice(headers)
        may_close = "aaaa" in more or "X: a" in more or "100-continue" in more
        return Case("headers", (self._request(self._bodies["application/json"], more=more),), may_close)

    def _strange_path(self) -> Case:
        paths = (
            "/v1/models/x/predict", "/v1/models//predict", "/v1/models/../predict", "/v1/models/%2e%2e/predict", "/v1/models/%00/predict",
            "/v1/models/%ff/predict", "/v1/models/" + "a" * 5000 + "/predict", "/v1/models/a/b/predict", "//", "/%", "*", "http://a/", "x",
            "/openapi.json/", "/metrics/x", "/v1/models/%1b[2J", "/docs/..", "/?" + "a" * 5000, "/v1/models/default/predict/",
        )  # fmt: skip
        methods = ("POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "post")
        path, method = self._choose.choice(paths), self._choose.choice(methods)
        return Case("address", (self._request(b"{}", path=path, method=method),))

    def _strange_query(self) -> Case:
        queries = (
            "?x",
            "?labelled=true",
            "?timeout_ms=-1",
            "?timeout_ms=1e9",
            "?timeout_ms=%ff",
            "?" + "&" * 5000,
            "?a=b" * 500,
            "?%",
            "?=",
            "??",
        )
        return Case(
            "query", (self._request(self._bodies["application/json"], path=self._path + self._choose.choice(queries)),)
        )

    def _garbage(self) -> Case:
        lines = (
            b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"",
        )
        start = self._choose.choice((*lines, b"POST " + self._path.encode()))
        return Case("no HTTP", (start + self._choose.randbytes(self._choose.randrange(1, 3000)),), may_close=True)

    def _many_rows(self) -> Case:
        rows = self._choose.choice((8193, 20_000))
        columns = {name: [value] * rows for name, value in self._example.items()}
        return Case("too many rows", (self._request(json.dumps({"columns": columns}).encode()),))

    def _cut_request(self) -> Case:
        request = self._request(self._bodies["application/json"])
        return Case("client leaves", (request[: self._choose.randrange(1, len(request))],), may_close=True)

    def _in_pieces(self) -> Case:
        request = self._request(self._bodies["application/json"])
        cuts = sorted(self._choose.randrange(len(request)) for _ in range(self._choose.randrange(1, 6)))
        parts = [request[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(request)], strict=True)]
        return Case("in pieces", tuple(part for part in parts if part))

    def _strange_arrow(self) -> Case:
        table, column = self._table(2), self._column()
        kinds = (
            pa.null(),
            pa.string(),
            pa.binary(),
            pa.float16(),
            pa.bool_(),
            pa.date32(),
            pa.decimal128(9, 2),
            pa.list_(pa.int64()),
        )
        arrays = [pa.nulls(2, kind) for kind in kinds]
        arrays += [
            pa.array([float("nan"), float("inf")]),
            pa.array([2**63, 0], pa.uint64()),
            pa.array(["a", "\x00"]).dictionary_encode(),
        ]
        place = table.column_names.index(column)
        choices = (
            lambda: table.set_column(place, column, self._choose.choice(arrays)),
            lambda: table.drop_columns([column]),
            lambda: table.append_column(column, table[column]),
            lambda: pa.table({column: pa.nulls(10_000_000)}),
            lambda: table.slice(0, 0),
        )
        options = pa.ipc.IpcWriteOptions(compression=self._choose.choice((None, None, "zstd", "lz4")))
        return Case(
            "strange Arrow", (self._request(_arrow(self._choose.choice(choices)(), options), KINDS_OF_BODY[1]),)
        )

    def _strange_npy(self) -> Case:
        column = self._column()
        arrays = (
            np.zeros(3), np.zeros((2, 2)), np.zeros(2, [(column, "c8")]), np.zeros(2, [(column, "M8[s]")]), np.zeros(2, [(column, "S0")]),
            np.zeros(2, [(column, [("a", "f4")])]), np.zeros(2, [(column, "f4", (2, 2))]), np.zeros(2, [(column, ">f8")]), np.zeros(0, [("a", "f4")]),
        )  # fmt: skip
        headers = (
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (SIZE,)}".replace("SIZE", str(2 ** self._choose.randrange(64))), "{", "(" * 200,
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "{'descr': [('a', 'V0')], 'fortran_order': False, 'shape': (1,)}",
        )  # fmt: skip
        text = self._choose.choice(headers).encode()
        made = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        return Case(
            "strange npy",
            (self._request(self._choose.choice((made, _saved(self._choose.choice(arrays)))), KINDS_OF_BODY[2]),),
        )

    def _pipelined(self) -> Case:
        good = self._request(self._bodies["application/json"]).replace(b"Connection: close\r\n", b"")
        return Case("pipelined", (good * self._choose.randrange(2, 5) + self._request(b"{"),))

    def _column(self) -> str:
        return self._choose.choice(list(self._example))


def _arrow(table: pa.Table, options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _field(value: Any) -> tuple[Any, ...]:
    if isinstance(value, list):
        return "<i8", (len(value),)
    return ("U8",) if isinstance(value, str) else ("<f4",) if isinstance(value, float) else ("<i8",)


def _short(kind: str) -> str:
    return {"application/vnd.apache.arrow.stream": "Arrow", "text/tab-separated-values": "TSV"}.get(
        kind, kind.rpartition("/")[2]
    )
