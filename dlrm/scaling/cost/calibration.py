"""What was measured of a machine, as a file: rates and links by number of ranks, and factors that measured steps gave."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dlrm.errors import ConfigError
from dlrm.scaling.cost.rates import Link, Links, Machine, Rates

FORMAT, VERSION = "dlrm-calibration", 1


@dataclass(frozen=True)
class Entry:
    """What so many ranks measured at once.

    Attributes:
        ranks, ranks_per_host: of the job.
        rates: of a rank; None where ranks had to share cores, which says little about any of them.
        links: by collective, between all ranks; empty on one.
        crowding: how many times as long they took together than their work takes on all cores.
    """

    ranks: int
    ranks_per_host: int
    rates: Rates | None
    links: Mapping[str, Link]
    crowding: float = 1.0


@dataclass(frozen=True)
class Calibration:
    """Of a machine.

    Attributes:
        name: of its hardware.
        entries: by number of ranks.
        factors: of the model's terms, and the spread that is left; empty before steps were measured.
        environment: versions and hardware.
    """

    name: str
    entries: tuple[Entry, ...]
    factors: Mapping[str, float] = field(default_factory=dict)
    spread: float = 0.25
    environment: Mapping[str, Any] = field(default_factory=dict)

    def with_entry(self, entry: Entry) -> Calibration:
        """The same with another number of ranks, or new figures of one."""
        others = [
            known
            for known in self.entries
            if (known.ranks, known.ranks_per_host) != (entry.ranks, entry.ranks_per_host)
        ]
        entries = sorted((*others, entry), key=lambda known: (known.ranks, known.ranks_per_host))
        return replace(self, entries=tuple(entries))

    def machine(self, ranks: int, ranks_per_host: int) -> Machine:
        """For a job of so many ranks: rates of the most ranks of a host that were measured, links of the nearest numbers.

        Raises:
            ConfigError: no rates were measured, or no links and there is more than one rank.
        """
        measured = [entry for entry in self.entries if entry.rates is not None]
        if not measured:
            raise ConfigError.at("machine", "has no rates: run calibrate on no more ranks than the host has cores")
        fitting = [entry for entry in measured if entry.ranks_per_host <= ranks_per_host] or measured[:1]
        rates = fitting[-1].rates
        assert rates is not None
        if rates.cores is not None and ranks_per_host * rates.threads < rates.cores:
            rates = replace(rates, threads=max(1, int(rates.cores // ranks_per_host)))
        crowding = self._crowding(ranks_per_host)
        links = self._links(ranks) if ranks > 1 else {}
        return Machine(
            replace(rates, crowding=crowding),
            Links(links, links),
            self.factors,
            self.spread,
            f"calibrated: {self.name}",
        )

    def _crowding(self, ranks_per_host: int) -> float:
        known = [entry.crowding for entry in self.entries if entry.ranks_per_host <= ranks_per_host]
        return known[-1] if known else 1.0

    def _links(self, ranks: int) -> dict[str, Link]:
        known = [entry for entry in self.entries if entry.links]
        if not known:
            raise ConfigError.at("machine", "has no collectives: run calibrate on two ranks, too")
        below = [entry for entry in known if entry.ranks <= ranks] or known[:1]
        above = [entry for entry in known if entry.ranks >= ranks] or known[-1:]
        low, high = below[-1], above[0]
        share = 0.0 if low.ranks == high.ranks else math.log(ranks / low.ranks) / math.log(high.ranks / low.ranks)
        share = min(1.0, max(0.0, share))
        return {name: _between(link, high.links[name], share) for name, link in low.links.items()}

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """From such a file.

        Raises:
            ConfigError: it cannot be read, or is another kind of file.
        """
        try:
            found = json.loads(path.read_text())
            if found["format"] != FORMAT or found["version"] != VERSION:
                raise ConfigError.at("machine", f"is no calibration of version {VERSION}", str(path))
            entries = tuple(_entry(entry) for entry in found["entries"])
            return cls(found["name"], entries, found["factors"], found["spread"], found["environment"])
        except OSError as error:
            raise ConfigError.at("machine", f"cannot be read ({error.strerror})", str(path)) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError.at("machine", f"is no calibration ({type(error).__name__}: {error})", str(path)) from None


def _between(low: Link, high: Link, share: float) -> Link:
    """Between two numbers of ranks, in the logarithm."""

    def mean(a: float, b: float) -> float:
        return math.exp((1 - share) * math.log(max(a, 1e-9)) + share * math.log(max(b, 1e-9)))

    return Link(mean(low.latency_s, high.latency_s), mean(low.bytes_per_s, high.bytes_per_s))


def _entry(found: dict[str, Any]) -> Entry:
    rates = found["rates"]
    if rates is not None:
        told: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in rates.items()
        }
        rates = Rates(**told)
    links = {name: Link(**link) for name, link in found["links"].items()}
    return Entry(found["ranks"], found["ranks_per_host"], rates, links, found["crowding"])
