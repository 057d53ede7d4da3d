"""Malformed requests, over real sockets, to a server of an export: every answer must be one that a client can have caused.

    python -m scripts.fuzz_server EXPORT [--requests 10000] [--seed 1]

Starts ``dlrm_main.py serve EXPORT`` on a free port of the loopback interface, sends the requests of the seed from a few
threads, and prints how often each kind got which status. It fails if a status is 5xx (503 and 504 aside, which load alone
explains), if a connection is closed without an answer where there is one to give, if the server ends or no longer answers
right, or if its memory has grown by more than ``--most-mib``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

PROGRAM = Path(__file__).resolve().parents[1] / "dlrm_main.py"
KINDS_OF_BODY = (
    "application/json",
    "application/vnd.apache.arrow.stream",
    "application/x-npy",
    "text/tab-separated-values",
)
_PATIENCE_S = 60.0
BUSY = (503, 504)
"""What a server that has too much to do may say to anyone."""
CLOSED = 0
"""The status of a connection that was closed without an answer."""


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


def ask(port: int, case: Case) -> list[int]:
    """The statuses of the answers; :data:`CLOSED` where there was none."""
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as connection:
        content = b""
        try:
            for part in case.parts[:-1]:
                connection.sendall(part)
                time.sleep(0.002)
            connection.sendall(case.parts[-1])
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has answered and closed already
            pass
        try:
            while part := connection.recv(1 << 16):
                content += part
        except ConnectionResetError:
            pass
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", content) if found != b"100"] or [CLOSED]


@dataclass
class Found:
    """What came of many requests: of each kind, how often which status; and what must not be."""

    table: dict[str, Counter[int]]
    problems: list[str]


def fuzz(port: int, *, seed: int, count: int, threads: int = 4) -> Found:
    """Send the requests of a seed to a server that is there.

    Args:
        port: of 127.0.0.1.
        seed, count: of the requests.
        threads: that send them.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=_PATIENCE_S) as answer:
        model = json.load(answer)[0]
    maker = Maker(seed, model)
    cases, lock, found = maker.cases(count), threading.Lock(), Found({}, [])

    def work() -> None:
        while True:
            with lock:
                case = next(cases, None)
            if case is None:
                return
            try:
                statuses = ask(port, case)
            except OSError as error:
                statuses = []
                found.problems.append(f"{case.kind}: {error!r}")
            with lock:
                found.table.setdefault(case.kind, Counter()).update(statuses)
                if any(status >= 500 and status not in BUSY for status in statuses) or (
                    statuses == [CLOSED] and not case.may_close
                ):
                    found.problems.append(f"{case.kind}: {statuses}: {b'|'.join(case.parts)[:2000]!r}")

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if (statuses := ask(port, maker.good())) != [200]:
        found.problems.append(f"a good request is answered with {statuses} afterwards")
    return found


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most-mib", type=float, default=200.0, help="that the server's memory may grow by")
    options = parser.parse_args()
    command = [sys.executable, str(PROGRAM), "serve", options.export, "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as server:
        assert server.stdout is not None
        port = None
        for line in server.stdout:
            print(line, end="")
            if said := re.search(r"serving at http://127\.0\.0\.1:(\d+)", line):
                port = int(said[1])
                break
        if port is None:
            return 1
        reader = threading.Thread(target=lambda: [print(line, end="") for line in server.stdout], daemon=True)
        reader.start()
        process = psutil.Process(server.pid)
        fuzz(port, seed=options.seed + 1, count=200)  # what is allocated once
        before = process.memory_info().rss
        started = time.monotonic()
        found = fuzz(port, seed=options.seed, count=options.requests)
        grown = (process.memory_info().rss - before) / 2**20
        for kind, statuses in sorted(found.table.items()):
            shown = "  ".join(f"{status or 'closed'}: {count}" for status, count in sorted(statuses.items()))
            print(f"{kind:32} {shown}")
        print(f"{options.requests} requests in {time.monotonic() - started:.0f} s; memory grew by {grown:.1f} MiB")
        if grown > options.most_mib:
            found.problems.append(f"memory grew by {grown:.1f} MiB")
        server.send_signal(signal.SIGTERM)
        if (code := server.wait(_PATIENCE_S)) != 0:
            found.problems.append(f"the server ended with {code}")
        for problem in found.problems[:20]:
            print(f"WRONG {problem}")
        return int(bool(found.problems))


if __name__ == "__main__":
    sys.exit(main())
