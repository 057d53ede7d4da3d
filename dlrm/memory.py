"""What takes a rank's memory: the parts by name, and what this process expects of them.

``train/memory.py`` finds out how much each part takes. It is kept here, free of torch, for whoever has to say why memory
has run out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from dlrm.format import byte_size

PROCESS = "process and libraries"
TABLES = "tables"
TABLE_STATE = "optimizer of the tables"
ID_MAPS = "ids of growing tables"
CACHES = "cached rows of tables"
TABLE_GRADIENTS = "gradients of data-parallel tables"
DENSE = "dense parameters"
DENSE_GRADIENTS = "their gradients"
DENSE_STATE = "their optimizer"
AVERAGE = "averaged weights"
ACTIVATIONS = "activations"
EXCHANGE = "exchange of ids and embeddings"
BATCHES = "batches in flight"
HEAP = "freed memory that the heap keeps"
WORKSPACE = "workspace of matrix products"
SCORES = "scores of an evaluation"
COPIES = "copies for checkpoints"
SLICES = "figures of slices"

_SMALLER_STEPS = "lower train.global_batch_size, raise train.accumulation_steps or use more ranks"
_SMALLER_TABLES = "use smaller tables (fewer rows, model.embedding_dim) or more ranks"
_SMALLER_LAYERS = "use smaller layers"
WHAT_TO_CHANGE = {
    PROCESS: "start fewer ranks on a host",
    TABLES: _SMALLER_TABLES,
    TABLE_STATE: "use optim.sparse rowwise_adagrad or sgd, or more ranks",
    ID_MAPS: "use fewer rows or admission.candidates (model.embedding, or model.tables.<name>.embedding), or more ranks",
    CACHES: "lower sharding.cache_share",
    TABLE_GRADIENTS: "leave data_parallel out of sharding.types",
    DENSE: _SMALLER_LAYERS,
    DENSE_GRADIENTS: _SMALLER_LAYERS,
    DENSE_STATE: "use optim.dense adagrad or sgd, or smaller layers",
    AVERAGE: "set train.average_decay to 0",
    ACTIVATIONS: _SMALLER_STEPS,
    EXCHANGE: _SMALLER_STEPS,
    BATCHES: "lower train.prefetch_batches or train.global_batch_size",
    HEAP: _SMALLER_STEPS,
    WORKSPACE: "use a device with more memory",
    SCORES: "score fewer samples",
    COPIES: "use more ranks, or checkpoint.enabled: false",
    SLICES: "name fewer columns in slices, or lower slice_values and slice_buckets",
}
"""By part, what makes it smaller."""


@dataclass(frozen=True)
class Bytes:
    """Of a rank's memory.

    Attributes:
        host: in its host's memory; device: on its device, nothing where that is the CPU.
    """

    host: int = 0
    device: int = 0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.host + other.host, self.device + other.device)


NO_BYTES = Bytes()


@dataclass(frozen=True)
class MemoryAccount:
    """What a rank takes at its peak.

    Attributes:
        parts: bytes by what takes them.
        missing: what could not be counted, and why, in a line; empty if nothing.
    """

    parts: dict[str, Bytes] = field(default_factory=dict)
    missing: str = ""

    @property
    def total(self) -> Bytes:
        """The sum of all parts."""
        return sum(self.parts.values(), NO_BYTES)

    def with_part(self, name: str, size: Bytes) -> MemoryAccount:
        """The same with one part more, before the others."""
        return replace(self, parts={name: size, **self.parts})

    def without(self, names: Collection[str]) -> MemoryAccount:
        """The same without these parts."""
        return replace(self, parts={name: part for name, part in self.parts.items() if name not in names})

    def largest(self, *, device: bool) -> Iterator[tuple[str, int]]:
        """The parts in one of the memories with their bytes, the largest first; not those that take none there."""
        sizes = {name: part.device if device else part.host for name, part in self.parts.items()}
        return ((name, size) for name, size in sorted(sizes.items(), key=lambda item: -item[1]) if size)

    def told(self, *, device: bool, most: int = 4) -> str:
        """In a few words what takes most in one of the memories; empty if nothing is expected there."""
        total = self.total.device if device else self.total.host
        parts = [f"{name} {byte_size(size)}" for name, size in self.largest(device=device)]
        shown = parts[:most] + (["..."] if len(parts) > most else [])
        return f"{byte_size(total)} expected ({', '.join(shown)})" if total else ""

    def to_dict(self) -> dict[str, Any]:
        """Bytes, ready for JSON."""
        total = self.total
        parts = {name: {"host": part.host, "device": part.device} for name, part in self.parts.items()}
        return {"host": total.host, "device": total.device, "parts": parts}


_expected = MemoryAccount()


def expect(account: MemoryAccount) -> None:
    """Remember what this process will take."""
    global _expected
    _expected = account


def expected() -> MemoryAccount:
    """What this process will take, as far as it is known: without parts where it is not."""
    return _expected
