"""How long a job takes to notice a host that is lost without a word, and what it says meanwhile.

    sudo .venv/bin/python -m scripts.lost_host

Two hosts are two network namespaces of this machine, joined by a pair of virtual interfaces; each runs launch/elastic.py
with one rank. When both ranks have met, the interface of the second host is taken down: packets vanish, no connection is
reset. Printed is what each launcher says, with the seconds since then. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "tests/launch/rank_program.py"
PORT = 29400
FIRST, SECOND = "10.77.0.1", "10.77.0.2"
CASES = {
    "1 or 2 hosts": ("--nnodes", "1:2"),
    "2 hosts, no restarts": ("--nnodes", "2"),
    "2 hosts, restarts": ("--nnodes", "2", "--max-restarts", "3"),
}
_START_S = 180.0


@dataclass
class Host:
    """A launcher in its namespace; ``lines`` is what it said, each with the time."""

    name: str
    process: subprocess.Popen[str]
    lines: list[tuple[float, str]] = field(default_factory=list)
    up: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """Read what the launcher and its rank say until they have ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))
            if line.startswith("up "):
                self.up.set()
        self.lines.append((time.monotonic(), f"exit code {self.process.wait()}"))


@contextmanager
def two_hosts(number: int) -> Iterator[tuple[str, str]]:
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


def lose_second(number: int, options: Sequence[str]) -> list[Host]:
    """Run a job on two hosts, lose the second, and return what both launchers said, in seconds since then.

    Raises:
        RuntimeError: the hosts did not meet.
    """
    with two_hosts(number) as names:
        secret = secrets.token_hex(32)
        hosts = [_launch(name, at, options, secret) for name, at in zip(names, (FIRST, SECOND), strict=True)]
        readers = [threading.Thread(target=host.read, daemon=True) for host in hosts]
        for reader in readers:
            reader.start()
        try:
            if not all(host.up.wait(_START_S) for host in hosts):
                raise RuntimeError(f"the hosts did not meet: {[host.lines for host in hosts]}")
            _ip("-n", names[1], "link", "set", "eth0", "down")
            lost_s = time.monotonic()
            for reader in readers:
                reader.join()
        finally:
            for host in hosts:
                host.process.kill()
        for host in hosts:
            host.lines = [(at_s - lost_s, line) for at_s, line in host.lines if at_s > lost_s]
        return hosts


def _launch(namespace: str, address: str, options: Sequence[str], secret: str) -> Host:
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "lost", "--rdzv-endpoint", f"{FIRST}:{PORT}"]
    launcher = [sys.executable, "launch/elastic.py", *meeting, "--local-addr", address, "--nproc-per-node", "1"]
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, *launcher, *options, PROGRAM, "alone"],
        cwd=ROOT,
        env={**os.environ, "DLRM_JOB_SECRET": secret, "GLOO_SOCKET_IFNAME": "eth0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Host("first host" if address == FIRST else "second host", process)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def main() -> None:
    """Lose a host in each case, all at once, and print what was said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rdzv-conf", default="", help="as of launch/elastic.py, e.g. join_timeout=60")
    given = parser.parse_args()
    configuration = ["--rdzv-conf", given.rdzv_conf] if given.rdzv_conf else []
    told: dict[str, list[Host]] = {}

    def run(number: int, case: str) -> None:
        told[case] = lose_second(number, [*CASES[case], *configuration])

    runs = [threading.Thread(target=run, args=each) for each in enumerate(given.cases)]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    for case, hosts in told.items():
        for host in hosts:
            print(f"{case}: {host.name}")
            for at_s, line in host.lines:
                print(f"  {at_s:6.1f} s  {line}")


if __name__ == "__main__":
    main()
