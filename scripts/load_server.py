"""What a server of an export bears: its capacity, its latency at a share of it, and what it does with three times as much.

    python -m scripts.load_server EXPORT [--minutes 0.2] [--share 0.8] [--rows 256] [--output load.json]

The load is *open*: requests come as a Poisson process, whether the server has answered the last ones or not, and latency
is counted from the time at which a request was due. (Clients that wait for an answer before they ask again leave out just
the requests that would have waited: coordinated omission.) Server and load are processes of their own on this machine, and
share its cores: what is found is the capacity of both together. Requests have many rows, are Arrow and are made once, so
that it is the server that comes to its limit; where the load does, this is said and nothing is concluded.

1. *Capacity*: the rate is raised step by step until answers fail, come later than ``--bound-ms`` (99th percentile), or the
   load itself falls behind; it is the last rate before that.
2. *Steady*: ``--share`` of it for ``--minutes``; latency, errors and the server's memory over time.
3. *Overload*: ``--over`` times the capacity for some seconds: how fast refusals come, and how many answers still do.
4. *Recovery*: the share again; it must look like before.

The result is JSON. ``problems`` in it, and the exit code 1, say that: a request of *steady* or *recovery* failed; an answer
of *overload* was lost, was a 5xx other than 503 and 504, or a refusal came later than the server's time for waiting;
nothing was refused there; *recovery* was slow; the server's memory grew in *steady*, after its first quarter, by more than
``--most-growth``; the load fell behind; or the server ended badly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psutil
import pyarrow as pa

PROGRAM = Path(__file__).resolve().parents[1] / "dlrm_main.py"
_STEP = 1.25
_LATE_S = 0.05  # requests that are sent so much too late, and it is the load that has reached its capacity
_CLIENT_TIMEOUT_S = 10.0
_ARROW = "application/vnd.apache.arrow.stream"
_GRACE_MS = 500.0  # after the time for waiting: what a thread is computing, and the way back
_LEAST_SAMPLES = 8  # of memory, to be judged


@dataclass
class Measured:
    """What became of the requests of one rate.

    Attributes:
        rate: requests a second that were asked for; seconds: for how long.
        statuses: how often each came; ``lost``: no answer.
        latencies_s: of the answered (200), from when each was due; refused_s: of the others.
        late_s: the 99th percentile of how late requests were sent.
    """

    rate: float
    seconds: float
    statuses: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    sent_late_s: list[float] = field(default_factory=list)

    @property
    def late_s(self) -> float:
        return percentile(self.sent_late_s, 0.99)

    @property
    def failed(self) -> int:
        """Requests that were not answered with 200."""
        return sum(self.statuses.values()) - self.statuses["200"]

    def record(self, rows: int) -> dict[str, Any]:
        """For the result."""
        return {
            "rate": round(self.rate, 1),
            "seconds": self.seconds,
            "requests": sum(self.statuses.values()),
            "statuses": dict(self.statuses),
            "answered_rows_per_s": round(self.statuses["200"] * rows / self.seconds, 1),
            "latency_ms": _milliseconds(self.latencies_s),
            "refused_ms": _milliseconds(self.refused_s),
            "sent_late_p99_ms": round(1000 * self.late_s, 3),
        }


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so large a share is not above; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _milliseconds(values_s: list[float]) -> dict[str, float] | None:
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: round(1000 * percentile(values_s, share), 3) for name, share in shares.items()} if values_s else None


class Load:
    """Asks a server.

    Args:
        session: of connections.
        address: of the predictions; bodies: one of which is sent each time.
        seed: of the times.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str, bodies: list[bytes], seed: int) -> None:
        self._session, self._address, self._bodies = session, address, bodies
        self._choose = random.Random(seed)

    async def at(self, rate: float, seconds: float) -> Measured:
        """Send requests for so long, and wait for all answers."""
        found = Measured(rate, seconds)
        begun_s = time.perf_counter()
        due_s, tasks = begun_s, set()
        while (due_s := due_s + self._choose.expovariate(rate)) < begun_s + seconds:
            if (wait_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            elif len(tasks) % 64 == 0:
                await asyncio.sleep(0)  # answers are read even where the load has fallen behind
            task = asyncio.create_task(self._ask(due_s, self._choose.choice(self._bodies), found))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)
        return found

    async def _ask(self, due_s: float, body: bytes, found: Measured) -> None:
        found.sent_late_s.append(time.perf_counter() - due_s)
        try:
            async with self._session.post(
                self._address, data=body, headers={"Content-Type": _ARROW, "Accept": _ARROW}
            ) as answer:
                await answer.read()
                status = str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            status = f"lost ({type(error).__name__})"
        took_s = time.perf_counter() - due_s
        found.statuses[status] += 1
        (found.latencies_s if status == "200" else found.refused_s).append(took_s)


async def capacity(load: Load, first: float, seconds: float, bound_s: float) -> tuple[float, list[Measured]]:
    """The highest rate that is answered in time, and what was tried."""
    tried, rate, best = [], first, 0.0
    while True:
        found = await load.at(rate, seconds)
        tried.append(found)
        good = not found.failed and percentile(found.latencies_s, 0.99) <= bound_s and found.late_s <= _LATE_S
        print(
            f"{rate:8.0f}/s  p99 {1000 * percentile(found.latencies_s, 0.99):8.2f} ms  {dict(found.statuses)}",
            flush=True,
        )
        if not good:
            return best, tried
        best, rate = rate, rate * _STEP


async def watch(process: psutil.Process, into: list[tuple[float, float]]) -> None:
    """The server's memory, MiB, twice a second."""
    begun_s = time.perf_counter()
    while True:
        into.append((round(time.perf_counter() - begun_s, 1), round(process.memory_info().rss / 2**20, 1)))
        await asyncio.sleep(0.5)


async def measure(port: int, process: psutil.Process, options: argparse.Namespace) -> dict[str, Any]:
    connector = aiohttp.TCPConnector(limit=options.connections)
    timeout = aiohttp.ClientTimeout(total=_CLIENT_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        base = f"http://127.0.0.1:{port}/v1/models"
        async with session.get(base) as answer:
            model = (await answer.json())[0]
        body = as_arrow(model["example"], options.rows)
        load = Load(session, f"{base}/{model['name']}/predict", [body], options.seed)
        await load.at(options.first, 1.0)  # connections, caches
        best, tried = await capacity(load, options.first, options.step_s, options.bound_ms / 1000)
        if not best:
            raise SystemExit(f"the first rate, {options.first:g}/s, is too much already; give --first a lower one")
        memory: list[tuple[float, float]] = []
        phases = {}
        for name, rate, seconds in (
            ("steady", best * options.share, options.minutes * 60),
            ("overload", best * options.over, options.over_s),
            ("recovery", best * options.share, options.over_s),
        ):
            watching = asyncio.create_task(watch(process, memory if name == "steady" else []))
            phases[name] = (await load.at(rate, seconds)).record(options.rows)
            watching.cancel()
            print(f"{name}: {json.dumps(phases[name])}", flush=True)
        return {
            "rows": options.rows,
            "cores": psutil.cpu_count(),
            "step": model["step"],
            "bound_ms": options.bound_ms,
            "capacity_per_s": round(best, 1),
            "tried": [one.record(options.rows) for one in tried],
            **phases,
            "memory_mib": memory,
        }


def as_arrow(example: dict[str, Any], rows: int) -> bytes:
    """So many rows as a body."""
    table = pa.table({name: [value] * rows for name, value in example.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def growth(memory: list[tuple[float, float]]) -> float:
    """By which share memory has grown from the second quarter of the time to the last; 0 of a few samples."""
    quarter = len(memory) // 4
    if len(memory) < _LEAST_SAMPLES:
        return 0.0
    sizes = [size for _, size in memory]
    return median(sizes[-quarter:]) / median(sizes[quarter : 2 * quarter]) - 1


def problems_of(result: dict[str, Any], *, timeout_ms: float, most_growth: float) -> list[str]:
    """What is wrong with what was measured."""
    found = []
    steady, overload, recovery = (result[phase] for phase in ("steady", "overload", "recovery"))
    for name, phase in (("steady", steady), ("recovery", recovery)):
        if set(phase["statuses"]) != {"200"}:
            found.append(f"{name}: {phase['statuses']}, but every request should be answered")
    if bad := set(overload["statuses"]) - {"200", "503", "504"}:
        found.append(f"overload: {', '.join(sorted(bad))}, but only 503 and 504 may refuse")
    refused = overload["refused_ms"]
    if refused is None:
        found.append("overload: nothing was refused; it was not enough, see --over and --rows")
    elif refused["p99"] > timeout_ms + _GRACE_MS:
        found.append(f"overload: refusals came after {refused['p99']} ms (99th percentile)")
    if steady["latency_ms"] and recovery["latency_ms"]:
        most_ms = max(result["bound_ms"], 2 * steady["latency_ms"]["p99"])
        if recovery["latency_ms"]["p99"] > most_ms:
            found.append(f"recovery: {recovery['latency_ms']['p99']} ms (99th percentile), more than {most_ms:.1f}")
    for name, phase in (("steady", steady), ("overload", overload), ("recovery", recovery)):
        if phase["sent_late_p99_ms"] > 1000 * _LATE_S:
            found.append(f"{name}: the load fell behind by {phase['sent_late_p99_ms']} ms; give --rows more")
    if (grown := growth(result["memory_mib"])) > most_growth:
        found.append(f"steady: the server's memory grew by {grown:.1%}")
    if result["server_exit_code"] != 0:
        found.append(f"the server ended with {result['server_exit_code']}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export")
    parser.add_argument("--minutes", type=float, default=0.2, help="of the steady load")
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity, in the steady load")
    parser.add_argument("--over", type=float, default=3.0, help="times the capacity, in the overload")
    parser.add_argument("--over-s", type=float, default=5.0, help="seconds of the overload, and of the recovery")
    parser.add_argument("--rows", type=int, default=256, help="of a request")
    parser.add_argument("--first", type=float, default=20.0, help="requests a second that the search begins with")
    parser.add_argument("--step-s", type=float, default=3.0, help="seconds of each rate of the search")
    parser.add_argument("--bound-ms", type=float, default=500.0, help="of the 99th percentile, for the capacity")
    parser.add_argument("--timeout-ms", type=float, default=1000.0, help="of the server, by which it must have refused")
    parser.add_argument("--most-growth", type=float, default=0.05, help="of the server's memory, as a share of it")
    parser.add_argument("--connections", type=int, default=1000, help="at most; who waits for one is the load's delay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("load.json"))
    parser.add_argument(
        "--serve", nargs=argparse.REMAINDER, default=[], help="further options of dlrm_main.py serve; last"
    )
    options = parser.parse_args()
    command = [sys.executable, str(PROGRAM), "serve", options.export, "--port", "0"]
    command += ["--timeout_ms", str(options.timeout_ms), *options.serve]
    last: deque[str] = deque(maxlen=20)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            said = next(
                (found for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line))), None
            )
            if said is None:
                return 1
            threading.Thread(target=last.extend, args=[server.stdout], daemon=True).start()  # nobody else reads it
            result = asyncio.run(measure(int(said[1]), psutil.Process(server.pid), options))
        finally:
            server.send_signal(signal.SIGTERM)
        result["server_exit_code"] = server.wait(60)
    result["problems"] = problems_of(result, timeout_ms=options.timeout_ms, most_growth=options.most_growth)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.output}")
    for problem in result["problems"]:
        print(f"WRONG {problem}")
    if result["problems"]:
        print("the server said at last:", *last, sep="\n  ")
    return int(bool(result["problems"]))


if __name__ == "__main__":
    sys.exit(main())
