"""What a person should know of a plan before paying for it."""

from __future__ import annotations

from collections.abc import Iterator

from dlrm.format import byte_size
from dlrm.scaling.cost.workload import CUT_BY_ROWS, DATA_PARALLEL, ON_HOST
from dlrm.scaling.plan.forecast import Forecast
from dlrm.scaling.stage_names import LAUNCHES, OUTPUT_DIST, backward_of
from dlrm.sharding.hardware import Hardware

_IMBALANCE = 1.10
_BOUND = 0.30
_HOT = 1.5
_NAMED = 3


def cautions(found: Forecast, hardware: Hardware) -> Iterator[str]:
    """A line each: tables larger than a device, ranks out of balance, steps that wait for exchanges, hot ranges of rows."""
    room = hardware.device_bytes or hardware.host_bytes
    for table in found.plan:
        copies = sum(gib > 0 for gib in table.gib_by_rank) if table.sharding == DATA_PARALLEL else 1
        size = sum(table.gib_by_rank) * 2**30 / copies
        if size > room and len(table.ranks) > 1 and table.kernel not in ON_HOST:
            yield (
                f"table {table.table} takes {byte_size(size)} with its optimizer's state, more than a device has "
                f"({byte_size(room)}): it fits only because {table.sharding} cuts it"
            )
    memory = [account.total.device or account.total.host for account in found.accounts]
    mean = sum(memory) / len(memory)
    if max(memory) > _IMBALANCE * mean:
        yield (
            f"memory is out of balance: rank {memory.index(max(memory))} takes {max(memory) / mean:.2f} times the mean; "
            "allow more sharding.types (row_wise, table_row_wise, column_wise cut large tables)"
        )
    if found.cost and found.workload:
        yield from _of_the_step(found)


def _of_the_step(found: Forecast) -> Iterator[str]:
    assert found.cost is not None
    assert found.workload is not None
    cost, step_s = found.cost, found.cost.step_s
    mean_s = sum(cost.by_rank_s) / len(cost.by_rank_s)
    slowest_s = cost.by_rank_s[cost.limiting_rank]
    if slowest_s > _IMBALANCE * mean_s:
        heaviest = max(found.workload.lookups[cost.limiting_rank], key=lambda lookup: lookup.ids * lookup.columns)
        yield (
            f"work is out of balance: rank {cost.limiting_rank} works {slowest_s / mean_s:.2f} times as long as the mean; "
            f"most of what it looks up is {heaviest.table} ({heaviest.sharding}, {heaviest.ids:,.0f} rows a step)"
        )
    exchanged_s = sum(cost.stages_s.get(stage, 0.0) for stage in (OUTPUT_DIST, backward_of(OUTPUT_DIST)))
    if exchanged_s > _BOUND * step_s:
        yield (
            f"the step is bound by the exchange of pooled embeddings: {exchanged_s / step_s:.0%} of it waits for that; "
            "try precision.exchange, table_row_wise or sharding groups of one host, or larger batches"
        )
    launched_s = cost.stages_s.get(LAUNCHES, 0.0)
    if launched_s > _BOUND * step_s:
        yield (
            f"for {launched_s / step_s:.0%} of the step the device waits for its host to launch kernels: larger batches "
            "cost little more time"
        )
    yield from _hot_ranges(found)


def _hot_ranges(found: Forecast) -> Iterator[str]:
    """Tables of which one range of rows is asked for more than its number of rows explains."""
    assert found.workload is not None
    by_table: dict[str, list[tuple[float, int]]] = {}
    for of_rank in found.workload.lookups:
        for lookup in of_rank:
            if lookup.sharding in CUT_BY_ROWS and lookup.rows:
                by_table.setdefault(lookup.table, []).append((lookup.ids, lookup.rows))
    hot = {table: heat for table, ranges in by_table.items() if (heat := _heat(ranges)) > _HOT}
    if hot:
        hottest = sorted(hot, key=lambda table: -hot[table])
        names = ", ".join(f"{table} ({hot[table]:.1f} times)" for table in hottest[:_NAMED])
        more = f" and {len(hot) - _NAMED} more" if len(hot) > _NAMED else ""
        yield (
            f"hot ids: one range of rows gets more than {_HOT:g} times its share of lookups in {names}{more}; column_wise "
            f"spreads them, data_parallel does if a table is small (sharding.tables.{hottest[0]}.types)"
        )


def _heat(ranges: list[tuple[float, int]]) -> float:
    """How many times its share by rows the most asked-for range gets."""
    ids, rows = (sum(values) for values in zip(*ranges, strict=True))
    return max(asked * rows / (size * ids) for asked, size in ranges) if ids else 0.0
