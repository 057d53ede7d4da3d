"""How fast a rank's hardware is, as the cost model needs it; from a calibration of the machine, or from the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TERMS = (
    "products", "elementwise", "operations", "lookup", "update", "ids", "exchange", "all_reduce", "optimizer", "replicated",
    "copy", "step", "shared", "tables", "crowding",
)  # fmt: skip
"""What the time of a step is a sum of; a calibration has a factor for each."""


@dataclass(frozen=True)
class Link:
    """What a collective takes: ``latency_s + peer_s * others + bytes / bytes_per_s``.

    The alpha-beta model (Hockney, "The communication challenge for MPP", 1994), with a term for every rank that a rank
    speaks to.

    Attributes:
        latency_s: of a call; peer_s: more of it for each other rank.
        bytes_per_s: that a rank sends, or reduces.
    """

    latency_s: float
    bytes_per_s: float
    peer_s: float = 0.0


@dataclass(frozen=True)
class Rates:
    """Of one rank, while all ranks of its host work.

    Attributes:
        name: of the hardware.
        cores: that the ranks of a host share; None where each has a device of its own.
        threads: of a rank.
        flops_per_s: by type of the operands, at large shapes; half_size: size of m, k or n at which a product has half of
            that; product_s: of a product, however small.
        stream_bytes_per_s: of large tensors that are read and written; cached_bytes_per_s: of those of less than
            ``cache_bytes``; fresh_bytes_per_s: of memory that the system has to find first; None where an allocator has it.
        operation_s: of an operator, however small, with what autograd does about it.
        lookup_s, update_s: of a table, of a pooled embedding, of an id, of a byte of the rows that are asked for.
        ids_s: of an id that is exchanged, outside of collectives; cut_s: of a bag and of an id that are sorted by
            ranges of rows.
        copy_bytes_per_s: from host to device; None where they are one.
        host_bytes_per_s: of rows that a device reads from its host's memory; None where they are one.
        step_s, table_s: of a step, and more for each table, whatever they do; shared_step_s: more where there are other
            ranks.
        crowding: how many times as long ranks take that share cores and wait for each other than their work does on all
            cores.
        launch_s: of the host, for each operator that it has the device run; 0 where they are one.
    """

    name: str
    cores: float | None
    threads: int
    flops_per_s: Mapping[str, float]
    half_size: float
    product_s: float
    stream_bytes_per_s: float
    cached_bytes_per_s: float
    cache_bytes: float
    fresh_bytes_per_s: float | None
    operation_s: float
    lookup_s: tuple[float, float, float, float]
    update_s: tuple[float, float, float, float]
    ids_s: float
    cut_s: tuple[float, float]
    copy_bytes_per_s: float | None
    host_bytes_per_s: float | None
    step_s: float
    table_s: float
    shared_step_s: float
    launch_s: float = 0.0
    crowding: float = 1.0


@dataclass(frozen=True)
class Links:
    """What collectives take.

    Attributes:
        inside: of a host, by collective; between: of hosts, a rank's share of the adapters; by collective.
    """

    inside: Mapping[str, Link]
    between: Mapping[str, Link]


@dataclass(frozen=True)
class Machine:
    """Hardware that ranks run on.

    Attributes:
        rates: of a rank; links: between ranks.
        factors: by which the times of each term are multiplied.
        spread: of the logarithm of measured over predicted times, as a standard deviation.
        source: where all this is from, in a line.
        domain: ranks that reach each other inside, if that is more than a host has (NVL72).
    """

    rates: Rates
    links: Links
    factors: Mapping[str, float] = field(default_factory=dict)
    spread: float = 0.25
    source: str = ""
    domain: int = 1

    def factor(self, term: str) -> float:
        """1 unless something else is known."""
        return self.factors.get(term, 1.0)
