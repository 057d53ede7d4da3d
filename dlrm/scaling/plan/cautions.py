"""What a person should know of a plan before paying for it."""

from __future__ import annotations

from collections.abc import Iterator

from dlrm.format import byte_size
from dlrm.scaling.plan.forecast import Forecast
from dlrm.scaling.stage_names import BACKWARD, OUTPUT_DIST, backward_of
from dlrm.sharding.hardware import Hardware

_IMBALANCE = 1.10
_BOUND = 0.30
_HOT = 1.5


def cautions(found: Forecast, hardware: Hardware) -> Iterator[str]:
    """A line each: tables larger than a device, ranks out of balance, steps that wait for exchanges, hot ranges of rows."""
    room = hardware.device_bytes or hardware.host_bytes
    for table in found.plan:
        size = sum(table.gib_by_rank) * 2**30 / (found.world.size if table.sharding == "data_parallel" else 1)
        if size > room:
            yield (
                f"table {table.table} takes {byte_size(size)} with its optimizer's state, more than a device has "
                f"({byte_size(room)}): it has to be cut, as {table.sharding} does"
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
    computed_s = sum(s for stage, s in cost.stages_s.items() if stage.endswith(BACKWARD) or "mlp" in stage)
    if found.world.device.type == "cuda" and computed_s < 0.1 * step_s:
        yield f"dense layers are {computed_s / step_s:.0%} of the step: a larger batch costs little more time"
    yield from _hot_ranges(found)


def _hot_ranges(found: Forecast) -> Iterator[str]:
    """Tables of which one range of rows is asked for much more than the mean."""
    assert found.workload is not None
    by_table: dict[str, list[float]] = {}
    for of_rank in found.workload.lookups:
        for lookup in of_rank:
            if lookup.sharding in ("row_wise", "table_row_wise", "grid_shard"):
                by_table.setdefault(lookup.table, []).append(lookup.ids)
    for table, ids in by_table.items():
        mean = sum(ids) / len(ids)
        if len(ids) > 1 and max(ids) > _HOT * mean:
            yield (
                f"table {table} has hot ids: one range of its rows gets {max(ids) / mean:.1f} times the mean of lookups; "
                f"column_wise spreads them evenly, data_parallel does if it is small "
                f"(sharding.tables.{table}.types)"
            )
