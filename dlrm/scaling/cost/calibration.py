"""What was measured of a machine, as a file: rates and links by number of ranks, and factors that measured steps gave."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dlrm.errors import ConfigError
from dlrm.files import written_beside
from dlrm.scaling.cost.rates import Link, Links, Machine, Rates
from dlrm.scaling.cost.workload import ALL_GATHER, ALL_REDUCE_OP, ALL_TO_ALL, REDUCE_SCATTER

FORMAT, VERSION = "dlrm-calibration", 1
CPU = "CPU"
"""Name of the hardware of ranks without a device of their own; others have that of the device."""
_POSITIVE = ("ranks", "ranks_per_host", "cores", "threads", "crowding")


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
        rates = _of_most(measured, ranks_per_host).rates
        assert rates is not None
        crowding = _of_most(self.entries, ranks_per_host).crowding
        links = self._links(ranks) if ranks > 1 else {}
        return Machine(
            replace(rates, crowding=crowding),
            Links(links, links),
            self.factors,
            self.spread * self._beyond(ranks),
            f"calibrated: {self.name}",
        )

    def _beyond(self, ranks: int) -> float:
        """How many times as uncertain a job is that has more ranks than were measured: half as much more a doubling."""
        most = max(entry.ranks for entry in self.entries)
        return 1 + max(0.0, math.log2(ranks / most)) / 2

    def _links(self, ranks: int) -> dict[str, Link]:
        known = sorted((entry for entry in self.entries if entry.links), key=lambda entry: entry.ranks)
        if not known:
            raise ConfigError.at("machine", "has no collectives: run calibrate on two ranks, too")
        below = [entry for entry in known if entry.ranks <= ranks] or known[:1]
        above = [entry for entry in known if entry.ranks >= ranks] or known[-1:]
        low, high = below[-1], above[0]
        share = 0.0 if low.ranks == high.ranks else math.log(ranks / low.ranks) / math.log(high.ranks / low.ranks)
        share = min(1.0, max(0.0, share))
        return {name: _between(link, high.links[name], share) for name, link in low.links.items()}

    def write(self, path: Path) -> None:
        """As JSON, in the place of what was there.

        Raises:
            OSError: it cannot be written; what was there stays.
        """
        text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1)
        with written_beside(path, durable=False) as file:
            file.write(f"{text}\n".encode())

    @classmethod
    def read(cls, path: Path, option: str = "machine") -> Calibration:
        """From such a file.

        Args:
            path: of the file.
            option: that names it.

        Raises:
            ConfigError: it cannot be read, is another kind of file, or has figures that cannot be.
        """
        try:
            text = path.read_text()
            found = json.loads(text)
            if not isinstance(found, dict) or (found.get("format"), found.get("version")) != (FORMAT, VERSION):
                raise ConfigError.at(option, f"is no calibration of version {VERSION}", str(path))
            calibration = TypeAdapter(cls).validate_json(text, strict=True)
        except OSError as error:
            raise ConfigError.at(option, f"cannot be read ({error.strerror})", str(path)) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError.at(option, f"is no calibration ({where}: {first['msg']})", str(path)) from None
        except (ValueError, RecursionError) as error:
            raise ConfigError.at(option, f"is no calibration ({type(error).__name__}: {error})", str(path)) from None
        for fault in _faults(calibration):
            raise ConfigError.at(option, f"is no calibration ({fault})", str(path))
        return calibration


def _of_most(entries: Sequence[Entry], ranks_per_host: int) -> Entry:
    """The entry of the most ranks of a host up to so many; of the fewest if all have more."""
    fitting = [entry for entry in entries if entry.ranks_per_host <= ranks_per_host]
    if fitting:
        return max(fitting, key=lambda entry: entry.ranks_per_host)
    return min(entries, key=lambda entry: entry.ranks_per_host)


def _faults(found: Calibration) -> Iterator[str]:
    """Figures that cannot be, and those that are missing."""
    told = asdict(found)
    yield from _bad_numbers({name: told[name] for name in ("entries", "factors", "spread")}, "")
    for i, entry in enumerate(found.entries):
        if entry.rates is not None and "float32" not in entry.rates.flops_per_s:
            yield f"entries.{i}.rates.flops_per_s has no float32"
        missing = {ALL_TO_ALL, REDUCE_SCATTER, ALL_GATHER, ALL_REDUCE_OP} - entry.links.keys()
        if entry.links and missing:
            yield f"entries.{i}.links has no {min(missing)}"


def _bad_numbers(found: Any, where: str) -> Iterator[str]:
    if isinstance(found, Mapping):
        for name, value in found.items():
            yield from _bad_numbers(value, f"{where}.{name}".strip("."))
    elif isinstance(found, list | tuple):
        for i, value in enumerate(found):
            yield from _bad_numbers(value, f"{where}.{i}")
    elif isinstance(found, int | float):
        name = where.rpartition(".")[2]
        positive = name in _POSITIVE or name.endswith("bytes_per_s") or ".flops_per_s." in where
        if not math.isfinite(found) or found < 0 or (positive and found == 0):
            yield f"{where} is {found}"


def _between(low: Link, high: Link, share: float) -> Link:
    """Between two numbers of ranks, in the logarithm."""

    def mean(a: float, b: float) -> float:
        return math.exp((1 - share) * math.log(max(a, 1e-9)) + share * math.log(max(b, 1e-9)))

    peer_s = (1 - share) * low.peer_s + share * high.peer_s
    return Link(mean(low.latency_s, high.latency_s), mean(low.bytes_per_s, high.bytes_per_s), peer_s)
