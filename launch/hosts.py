"""Which hosts are in a job, and which of them are lost."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from torch.distributed.elastic.rendezvous import RendezvousParameters


class Hosts:
    """Which hosts are in the job and when they were last heard of; fed with every state of the rendezvous that is read.

    Args:
        interval_s: between two heartbeats of a host.
        silence_s: without one, after which a host is lost.
    """

    def __init__(self, *, interval_s: float, silence_s: float) -> None:
        self._silence_s = silence_s
        self._unusual_s = 2 * interval_s + 1
        self._suspicious_s = max(silence_s / 2, self._unusual_s)
        self._state: Any = None
        self._there: list[str] = []  # a host that gives up waiting leaves, and would not be counted
        self._met: list[Any] = []
        self._heard: dict[Any, tuple[Any, float]] = {}  # by host: its own time of the heartbeat, when it was seen here
        self._closed_s: float | None = None

    @property
    def count(self) -> int:
        """Of the hosts that met."""
        return len(self._met)

    def note(self, state: Any) -> None:
        """Remember what a state of the rendezvous says."""
        now_s = time.monotonic()
        for host, beat in state.last_heartbeats.items():
            if host not in self._heard:  # it may have died before this one came
                self._heard[host] = (beat, now_s - max(0.0, (datetime.now(UTC) - beat).total_seconds()))
            elif self._heard[host][0] != beat:
                self._heard[host] = (beat, now_s)
        if state.closed and self._closed_s is None:
            self._closed_s = now_s
        self._state = state
        here = [*state.participants, *state.wait_list]
        heard = [host.addr for host in here if now_s - self._heard.get(host, (None, now_s))[1] <= self._suspicious_s]
        self._there = sorted(heard) or self._there

    def meet(self) -> None:
        """The hosts of the state have met."""
        now_s = time.monotonic()
        self._met = sorted(self._state.participants)
        for host in self._met:
            self._heard[host] = (self._heard.get(host, (None, 0.0))[0], now_s)

    def missing(self) -> tuple[list[Any], list[Any]]:
        """Of the hosts that met, those that are not there any more, and those of them that are lost: silent for too long.

        Where a host has ended the job, it and others fall silent because of that, and nobody is missing but who was
        silent before.
        """
        silent_s = {host: (self._closed_s or time.monotonic()) - self._heard[host][1] for host in self._met}
        if self._closed_s is not None:
            lost = [host for host in self._met if silent_s[host] > self._suspicious_s]
            return lost, lost
        gone = [host for host in self._met if host not in self._state.participants]
        lost = [host for host in self._met if silent_s[host] > self._silence_s]
        lost += [host for host in gone if host not in lost and silent_s[host] > self._suspicious_s]
        return sorted({*gone, *lost}), lost

    def silent(self) -> str:
        """Of which hosts nothing was heard for longer than is usual, in words; empty if of none.

        Where ranks have lost others, these are the hosts that are lost.
        """
        now_s = time.monotonic()
        silent_s = {host: now_s - self._heard[host][1] for host in self._met}
        hosts = [host for host in self._met if silent_s[host] > self._unusual_s]
        if not hosts:
            return ""
        names = ", ".join(host.addr for host in hosts)
        return f"lost host {names}: nothing was heard of it for {min(silent_s[host] for host in hosts):.0f} s"

    def news(self, missing: list[Any]) -> str:
        """Which hosts have joined or left since hosts met, in words; empty if none."""
        left = ", ".join(host.addr for host in missing)
        joined = ", ".join(sorted(host.addr for host in self._state.wait_list if host not in self._met))
        news = [f"host {joined} has joined"] if joined else []
        return " and ".join([*news, f"host {left} has left"] if left else news)

    def told(self, lost: list[Any]) -> str:
        """That hosts are lost, in words."""
        names = ", ".join(host.addr for host in lost)
        return f"lost host {names}: nothing was heard of it for {self._silence_s:g} s (--rdzv-conf keep_alive_interval)"

    def here(self, params: RendezvousParameters) -> str:
        """Which hosts are there and how many are waited for, in words."""
        fewest, most = params.min_nodes, params.max_nodes
        wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
        names = f": {', '.join(self._there)}" if self._there else ""
        missing = sorted({host.addr for host in self._met} - set(self._there))
        names += f"; {', '.join(missing)} is missing" if missing else ""
        return f"{len(self._there)} of {wanted} hosts (--nnodes) are here{names}"
