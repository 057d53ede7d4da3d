"""Malformed requests, over real sockets, to a server of an export: every answer must be one that a client can have caused.

    python -m scripts.fuzz_server EXPORT [--requests 10000] [--seed 1]

Starts ``dlrm_main.py serve EXPORT`` on a free port of the loopback interface, sends the requests of the seed from a few
threads, and prints how often each kind got which status. It fails if a status is 5xx (503 and 504 aside, which load alone
explains), if a connection is closed without an answer where there is one to give, if the server ends or no longer answers
right, or if its memory has grown by more than ``--most-mib``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripts.fuzz_cases import Case, Maker

PROGRAM = Path(__file__).resolve().parents[1] / "dlrm_main.py"
_PATIENCE_S = 60.0
BUSY = (503, 504)
"""What a server that has too much to do may say to anyone."""
CLOSED = 0
"""The status of a connection that was closed without an answer."""


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
