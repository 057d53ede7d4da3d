"""Plans that have many sharding types and kernels at once, so that a rehearsal or two of a configuration meet them all.

The configurations have 26 tables, and CUDA has 19 pairs of a sharding type and a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle, islice, product

TYPES = (
    *("table_wise", "row_wise", "column_wise", "data_parallel", "table_row_wise", "table_column_wise", "grid_shard"),
)
OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "adam")
KERNELS = ("fused", "fused_uvm", "fused_uvm_caching")
TABLES = 26

Pair = tuple[str, str]
REPLICATED: Pair = ("data_parallel", "dense")
# In this order the planner gives one of each to rank 2 of 8, in all cases but one (matrix.py).
WHOLE: tuple[Pair, ...] = (("table_wise", "fused"), ("table_wise", "fused_uvm_caching"), ("table_wise", "fused_uvm"))
COLUMNS: tuple[Pair, ...] = (
    *(("column_wise", "fused"), ("column_wise", "fused_uvm_caching"), ("table_column_wise", "fused")),
    *(("table_column_wise", "fused_uvm_caching"), ("table_column_wise", "fused_uvm"), ("column_wise", "fused_uvm")),
)
ROWS: tuple[Pair, ...] = tuple(product(("row_wise", "table_row_wise", "grid_shard"), KERNELS))
_CUT_INTO_COLUMNS = ("column_wise", "table_column_wise", "grid_shard")


def offered(pairs: Iterable[Pair], optimizer: str) -> list[Pair]:
    """Those that a table optimizer may have; the package refuses the others."""
    return [pair for pair in pairs if not _is_refused(*pair, optimizer)]


def _is_refused(kind: str, kernel: str, optimizer: str) -> bool:
    if optimizer == "rowwise_adagrad":  # behind the cache its update by columns does not reach the rows
        return kind in _CUT_INTO_COLUMNS and kernel == "fused_uvm_caching"
    return optimizer == "adam" and kind == "data_parallel"  # it would be another algorithm


def everything(optimizer: str) -> list[Pair]:
    """A pair for each table: all that there are."""
    return _last_is_replicated(offered((*WHOLE, *COLUMNS, *ROWS), optimizer), (), optimizer)


def whole_tables() -> list[Pair]:
    """A pair for each table: kernels of tables that are not cut, as many that eight ranks all have some."""
    return list(islice(cycle(WHOLE), TABLES))


def cut_tables(optimizer: str) -> list[Pair]:
    """A pair for each table: all others, of those that need not be on every rank as many as there is room for."""
    return _last_is_replicated(offered(COLUMNS, optimizer), offered(ROWS, optimizer), optimizer)


def _last_is_replicated(repeated: Sequence[Pair], once: Sequence[Pair], optimizer: str) -> list[Pair]:
    """The last table is small in all configurations."""
    last = offered([REPLICATED], optimizer)
    return [*islice(cycle(repeated), TABLES - len(once) - len(last)), *once, *last]


def as_options(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """What dlrm_main.py is told to shard each table so."""
    tables = (f"cat_{i}: {{types: {kind}, kernels: {kernel}}}" for i, (kind, kernel) in enumerate(pairs))
    return (f"--sharding.tables={{{', '.join(tables)}}}",)
