"""What becomes of a job over two hosts when the network between them is cut, or one of them dies; with the times.

    sudo .venv/bin/python -m scripts.lost_host [--cases NAME ...] [--together 2] [--output FILE]

Two hosts are two network namespaces of this machine, joined by a pair of virtual interfaces; each runs launch/elastic.py
with one rank that trains a small model and saves every 200 steps into a folder that both see. Some seconds after the first
save something happens:

* cut: the interface of the second host is taken down: packets vanish, no connection is reset; perhaps it comes back;
* killed: every process of a host is killed by SIGKILL; perhaps its launcher is started again.

A case is over when all launchers have ended, or when training has gone on for ten seconds; then the job is told to stop by
SIGTERM to one of the launchers. Printed is what each launcher says, in seconds since it happened, and how long training
stood. Exit code 1 if a case did not end as it should. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.support.elastic_job import NOT_PASSED, small_training
from tests.support.numbered_data import write_numbered_data
from tests.support.step_log import FOLDER_VARIABLE, read_events

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "scripts/logged_training.py"
PORT = 29400
FIRST, SECOND = "10.77.0.1", "10.77.0.2"
ROWS = (2_000, 1_000, 500, 50)
SAVE_EVERY = 200
JOIN_S = 60  # of the launchers, which wait for five minutes by default
START_S = LONGEST_S = 300.0
GOES_ON_S, FRESH_S, STOPS_S, POLL_S = 10.0, 3.0, 60.0, 0.2
FIXED, ELASTIC = ("--nnodes", "2"), ("--nnodes", "1:2")
RESTARTS = ("--max-restarts", "2")


@dataclass(frozen=True)
class Case:
    """What happens to a job.

    Attributes:
        options: of the launchers.
        victim: 0 for the first host, 1 for the second.
        killed: whether it dies; else its network is cut.
        back_after_s: when the network, or the launcher, comes back.
        goes_on: whether training should.
        restarts: whether the ranks should be started again for that.
    """

    options: tuple[str, ...]
    victim: int = 1
    killed: bool = False
    back_after_s: float | None = None
    goes_on: bool = True
    restarts: bool = True


CASES = {
    "cut for 20 s, 2 hosts": Case((*FIXED, *RESTARTS), back_after_s=20, restarts=False),
    "cut for 20 s, 1:2 hosts": Case((*ELASTIC, *RESTARTS), back_after_s=20, restarts=False),
    "cut for good, 2 hosts": Case((*FIXED, *RESTARTS), goes_on=False),
    "cut for good, 2 hosts, no restarts": Case(FIXED, goes_on=False),
    "cut for good, 1:2 hosts": Case((*ELASTIC, *RESTARTS)),
    "second killed, 2 hosts": Case((*FIXED, *RESTARTS), killed=True, goes_on=False),
    "second killed, 2 hosts, back after 30 s": Case((*FIXED, *RESTARTS), killed=True, back_after_s=30),
    "second killed, 1:2 hosts": Case((*ELASTIC, *RESTARTS), killed=True),
    "second killed, 1:2 hosts, back after 90 s": Case((*ELASTIC, *RESTARTS), killed=True, back_after_s=90),
    "first killed, 2 hosts": Case((*FIXED, *RESTARTS), victim=0, killed=True, goes_on=False),
    "first killed, 1:2 hosts": Case((*ELASTIC, *RESTARTS), victim=0, killed=True, goes_on=False),
}


class Host:
    """A launcher in its namespace; ``lines`` is what it says, each with the time."""

    def __init__(self, namespace: str, command: Sequence[str], environment: dict[str, str]) -> None:
        self._namespace, self._command, self._environment = namespace, command, environment
        self.lines: list[tuple[float, str]] = []
        self.start()

    def start(self) -> None:
        """Start the launcher, for the first time or again."""
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self._namespace, *self._command],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def set_network(self, state: str) -> None:
        """``up`` or ``down``."""
        _ip("-n", self._namespace, "link", "set", "eth0", state)

    def kill(self) -> None:
        """Every process of the host dies at once."""
        pids = subprocess.run(["ip", "netns", "pids", self._namespace], check=True, capture_output=True, text=True)
        for pid in map(int, pids.stdout.split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> int | None:
        """Tell the launcher to stop, if it runs; its exit code, None if it hangs."""
        with suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(STOPS_S)
        self._reader.join(STOPS_S)
        return self.process.poll()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append((time.time(), line.rstrip()))
        self.lines.append((time.time(), f"exit code {process.wait()}"))


class Steps:
    """The steps that were trained, as ranks log them in a folder."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def training(self) -> int:
        """How many ranks train just now."""
        now_s = time.time()
        fresh = [path for path in self._log.glob("*.jsonl") if now_s - path.stat().st_mtime < FRESH_S]
        return len({path.stem.rpartition("_")[2] for path in fresh})

    def stood(self, happened_s: float) -> tuple[float, int]:
        """The end of the longest time without a step, in seconds since it happened; how many steps were trained again."""
        events = [event for path in self._log.glob("*.jsonl") for event in read_events(path)]
        times = sorted((event["time_s"], event["step"]) for event in events if event["what"] == "step")
        around = [each for each in times if each[0] > happened_s - FRESH_S]
        gaps = [(later[0] - earlier[0], later[0], earlier[1] - later[1] + 1) for earlier, later in pairwise(around)]
        _, end_s, again = max(gaps, default=(0.0, happened_s, 0))
        return round(max(0.0, end_s - happened_s), 1), max(0, again)


@dataclass
class Outcome:
    """What became of a job, in seconds since something happened to it.

    Attributes:
        goes_on_s: when training went on, if it did.
        steps_again: that were trained a second time.
        ended_s: when each launcher ended; None where it did not by itself, or was killed.
        exit_codes: of the launchers, in the end; None where one hung.
        said: what each launcher said.
        problems: what was not as it should be.
    """

    goes_on_s: float | None = None
    steps_again: int = 0
    ended_s: list[float | None] = field(default_factory=lambda: [None, None])
    exit_codes: list[int | None] = field(default_factory=lambda: [None, None])
    said: list[list[tuple[float, str]]] = field(default_factory=lambda: [[], []])
    problems: list[str] = field(default_factory=list)


@contextmanager
def two_namespaces(number: int) -> Iterator[tuple[str, str]]:
    """The names of two namespaces with a network between them, FIRST and SECOND in it."""
    names = (f"dlrm{os.getpid()}a{number}", f"dlrm{os.getpid()}b{number}")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, (FIRST, SECOND), strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for interface in ("eth0", "lo"):
                _ip("-n", name, "link", "set", interface, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def run_case(number: int, case: Case, work: Path) -> Outcome:
    """Run a job on two hosts until what happens to it has had its effect.

    Args:
        number: of the case; makes the names of its namespaces.
        case: what happens.
        work: a folder that is not there yet.

    Raises:
        RuntimeError: the job did not get to train.
    """
    (work / "log").mkdir(parents=True)
    write_numbered_data(work / "data", 100_000, ROWS)
    steps = Steps(work / "log")
    with two_namespaces(number) as names:
        hosts = launch(names, case.options, work)
        try:
            if not _await(lambda: _has_saved(work) and steps.training() == len(hosts), START_S):
                raise RuntimeError(f"the job does not train: {[host.lines for host in hosts]}")
            time.sleep(FRESH_S)
            happened_s = time.time()
            for host in hosts:
                host.lines.clear()
            outcome = follow(case, hosts, steps, happened_s)
        finally:
            for host in hosts:
                host.kill()
    return outcome


def launch(names: Sequence[str], options: Sequence[str], work: Path) -> list[Host]:
    """Start a launcher in each namespace."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "lost", "--rdzv-endpoint", f"{FIRST}:{PORT}"]
    launcher = [
        "launch/elastic.py",
        *meeting,
        "--rdzv-conf",
        f"join_timeout={JOIN_S}",
        "--nproc-per-node",
        "1",
        *options,
    ]
    training = [*small_training(work / "data", ROWS), "--run.dir", str(work / "runs"), "--train.epochs", "1000"]
    training += ["--checkpoint.every_steps", str(SAVE_EVERY), "--train.global_batch_size", "64"]
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED}
    own = {"DLRM_JOB_SECRET": secrets.token_hex(32), "GLOO_SOCKET_IFNAME": "eth0", FOLDER_VARIABLE: str(work / "log")}
    return [
        Host(name, [sys.executable, *launcher, "--local-addr", address, PROGRAM, "train", *training], {**kept, **own})
        for name, address in zip(names, (FIRST, SECOND), strict=True)
    ]


def follow(case: Case, hosts: Sequence[Host], steps: Steps, happened_s: float) -> Outcome:
    """Have it happen, and see what becomes of the job."""
    victim = hosts[case.victim]
    victim.kill() if case.killed else victim.set_network("down")
    if case.back_after_s is not None:
        time.sleep(case.back_after_s)
        victim.start() if case.killed else victim.set_network("up")
    ranks = 1 if case.back_after_s is None else len(hosts)

    def goes_on() -> bool:
        """Whether training has been seen all the time for GOES_ON_S."""
        return _await(lambda: steps.training() != ranks, GOES_ON_S) is False

    def has_ended() -> bool:
        return all(host.process.poll() is not None for host in hosts)

    time.sleep(FRESH_S)
    _await(lambda: has_ended() or (steps.training() == ranks and goes_on()), LONGEST_S)
    outcome = Outcome()
    if not has_ended() and steps.training() == ranks:
        outcome.goes_on_s, outcome.steps_again = steps.stood(happened_s)
    _conclude(case, hosts, happened_s, outcome)
    return outcome


def _conclude(case: Case, hosts: Sequence[Host], happened_s: float, outcome: Outcome) -> None:
    for number, host in enumerate(hosts):
        by_itself = host.process.poll() is not None
        outcome.exit_codes[number] = host.stop()
        outcome.said[number] = [(round(at_s - happened_s, 1), line) for at_s, line in host.lines]
        if by_itself and not (case.killed and number == case.victim and case.back_after_s is None):
            outcome.ended_s[number] = outcome.said[number][-1][0]
    if (outcome.goes_on_s is not None) != case.goes_on:
        outcome.problems.append("training should go on" if case.goes_on else "the job should end")
    again = any("starting all ranks again" in line for said in outcome.said for _, line in said)
    if case.goes_on and again != case.restarts:
        outcome.problems.append(f"ranks should {'' if case.restarts else 'not '}be started again")
    if None in outcome.exit_codes:
        outcome.problems.append("a launcher hangs")


def _has_saved(work: Path) -> bool:
    return any((work / "runs").glob("*/checkpoints/step_*/COMMITTED"))


def _await(condition: Callable[[], bool], timeout_s: float) -> bool:
    until_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(POLL_S)
    return True


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def in_words(name: str, outcome: Outcome) -> str:
    """The report of a case."""
    what = "ends" if outcome.goes_on_s is None else f"training goes on after {outcome.goes_on_s:.1f} s"
    again = f", {outcome.steps_again} steps again" if outcome.steps_again else ""
    lines = [f"{name}: {what}{again}", *(f"  NOT AS IT SHOULD BE: {problem}" for problem in outcome.problems)]
    for host, said in zip(("first host", "second host"), outcome.said, strict=True):
        lines += [f"  {host}", *(f"    {at_s:6.1f} s  {line}" for at_s, line in said)]
    return "\n".join(lines)


def main() -> int:
    """Run the cases, print what was said, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME")
    parser.add_argument("--together", type=int, default=2, help="how many cases run at a time")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="lost_host_"))

    def run(number: int, name: str) -> Outcome:
        outcome = run_case(number, CASES[name], work / str(number))
        print(in_words(name, outcome), flush=True)
        return outcome

    try:
        with ThreadPoolExecutor(given.together) as pool:
            found = dict(zip(given.cases, pool.map(run, range(len(given.cases)), given.cases), strict=True))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if given.output:
        setting = {"command": "python -m scripts.lost_host", "join_timeout_s": JOIN_S, "together": given.together}
        setting |= {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[1], 1)}
        cases = {name: asdict(outcome) for name, outcome in found.items()}
        given.output.write_text(json.dumps({**setting, "cases": cases}, indent=1) + "\n")
    return int(any(outcome.problems for outcome in found.values()))


if __name__ == "__main__":
    sys.exit(main())
