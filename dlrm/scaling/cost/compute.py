"""What a rank's own work takes: matrix products, elementwise operators, lookups, updates, optimizers.

Every function returns seconds of one rank that has its cores for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from dlrm.scaling.cost.rates import Rates
from dlrm.scaling.cost.workload import CACHING, DATA_PARALLEL, ON_HOST, Lookup, Workload
from dlrm.scaling.operations import Operation
from dlrm.scaling.stage_names import COPY, INPUT_DIST, LOOKUP, OPTIMIZER, OTHER, UPDATE
from dlrm.scaling.work import Product

_FLOAT = 4
TABLE_KERNELS = 60
"""Of lookups, updates, and the order of ids and embeddings, on rehearsed CUDA (docs/rehearsal.md)."""


@dataclass
class Seconds:
    """Time by stage and term."""

    by: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, stage: str, term: str, seconds: float) -> None:
        """Some more."""
        self.by[stage, term] = self.by.get((stage, term), 0.0) + seconds

    def __iadd__(self, other: Seconds) -> Seconds:
        for (stage, term), seconds in other.by.items():
            self.add(stage, term, seconds)
        return self

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.by.values())

    def terms(self) -> dict[str, float]:
        """By term."""
        found: dict[str, float] = {}
        for (_, term), seconds in self.by.items():
            found[term] = found.get(term, 0.0) + seconds
        return found

    def stage(self, stage: str) -> float:
        """Of one stage."""
        return self.of_stage(stage).total

    def of_stage(self, stage: str) -> Seconds:
        """That of one stage only."""
        return Seconds({key: seconds for key, seconds in self.by.items() if key[0] == stage})

    def without_stage(self, *stages: str) -> Seconds:
        """That of all others."""
        return Seconds({key: seconds for key, seconds in self.by.items() if key[0] not in stages})

    def stages(self) -> dict[str, float]:
        """By stage."""
        found: dict[str, float] = {}
        for (stage, _), seconds in self.by.items():
            found[stage] = found.get(stage, 0.0) + seconds
        return found

    def scaled(self, factor: float) -> Seconds:
        """The same, so many times as long."""
        return Seconds({key: seconds * factor for key, seconds in self.by.items()})

    def times(self, factor: Callable[[str], float]) -> Seconds:
        """The same with each term as many times as long as ``factor`` says."""
        return Seconds({(stage, term): seconds * factor(term) for (stage, term), seconds in self.by.items()})


def product_s(product: Product, rates: Rates) -> float:
    """Of a matrix product: the longer of its arithmetic and its bytes (roofline), and what any product takes.

    Narrow products do not keep the units busy: each of m, k, n costs a factor 1 + half_size / it.
    """
    dtype = str(product.dtype).removeprefix("torch.")
    peak = rates.flops_per_s.get(dtype, rates.flops_per_s["float32"])
    narrow = 1.0
    for size in (product.m * (product.batch if product.n == 1 else 1), product.k, product.n):
        narrow *= 1 + rates.half_size / size
    arithmetic = product.flops / peak * narrow
    return rates.product_s + max(arithmetic, product.bytes / _stream(product.bytes, rates))


def _stream(size: float, rates: Rates) -> float:
    return rates.cached_bytes_per_s if size < rates.cache_bytes else rates.stream_bytes_per_s


def dense(operations: Iterable[Operation], rates: Rates) -> Seconds:
    """Of the dense part, forward and backward."""
    found = Seconds()
    for operation in operations:
        found.add(operation.stage, "operations", rates.operation_s)
        if operation.product is not None:
            found.add(operation.stage, "products", product_s(operation.product, rates))
        else:
            found.add(operation.stage, "elementwise", operation.bytes / _stream(operation.bytes, rates))
    return found


def lookups(of_rank: Iterable[Lookup], rates: Rates) -> Seconds:
    """Of a rank's tables, lookup and update."""
    found = Seconds()
    for lookup in of_rank:
        found.add(
            LOOKUP, "lookup", _rows_s(replace(lookup, state=0.0), rates.lookup_s, rates)
        )  # which asks for no state
        if lookup.sharding == DATA_PARALLEL:  # its gradient is summed up in full
            found.add(UPDATE, "lookup", lookup.ids * lookup.columns * _FLOAT * rates.lookup_s[-1])
        else:
            found.add(UPDATE, "update", _rows_s(lookup, rates.update_s, rates))
    return found


def _rows_s(lookup: Lookup, costs: tuple[float, float, float, float], rates: Rates) -> float:
    """Of pooled embeddings, ids, and the bytes of the rows that come from memory and not from a cache.

    An id that occurs again in a step finds its row in the cache if all distinct rows of the step fit there, and as often as
    the part of them that fits if they do not.
    """
    a_table, a_bag, an_id, a_byte = costs
    row = lookup.columns * _FLOAT
    working_set = max(1.0, lookup.distinct * row)
    kept = min(1.0, rates.cache_bytes / working_set)
    read = lookup.distinct + (lookup.ids - lookup.distinct) * (1 - kept)
    moved = read * (row + lookup.state) + lookup.bags * row
    seconds = a_table + lookup.bags * a_bag + lookup.ids * an_id + moved * a_byte
    if rates.host_bytes_per_s and lookup.kernel in ON_HOST:
        missed = 1 - lookup.cached if lookup.kernel == CACHING else 1.0
        seconds += lookup.distinct * missed * row / rates.host_bytes_per_s
    return seconds


def around(workload: Workload, rates: Rates) -> Seconds:
    """What is no layer and no table: the batch, the optimizer of the dense part, the step itself."""
    found = Seconds()
    if rates.copy_bytes_per_s:
        found.add(COPY, "copy", workload.batch_bytes / rates.copy_bytes_per_s)
    found.add(INPUT_DIST, "ids", workload.batch_ids * rates.ids_s * (workload.ranks > 1))
    found.add(INPUT_DIST, "ids", workload.cut_bags * rates.cut_s[0] + workload.cut_ids * rates.cut_s[1])
    for operation in workload.updates:
        found.add(OPTIMIZER, "optimizer", operation.bytes / _stream(operation.bytes, rates))
    found.add(OPTIMIZER, "replicated", _replicated_s(workload, rates))
    if rates.cores is None:  # however little each of them does
        found.add(OTHER, "operations", TABLE_KERNELS * rates.operation_s)
    found.add(OTHER, "step", rates.step_s)
    found.add(OTHER, "tables", rates.table_s * workload.tables)
    if workload.ranks > 1:
        found.add(OTHER, "shared", rates.shared_step_s)
    return found


def _replicated_s(workload: Workload, rates: Rates) -> float:
    """Of tables that every rank has: a gradient of their size is made, summed up, copied to be all-reduced, and applied."""
    gradient = workload.replicated_numbers * _FLOAT
    touched = 4 * gradient + sum(operation.bytes for operation in workload.replicated)
    made = gradient + sum(operation.made for operation in workload.replicated)
    return touched / rates.stream_bytes_per_s + (made / rates.fresh_bytes_per_s if rates.fresh_bytes_per_s else 0.0)
