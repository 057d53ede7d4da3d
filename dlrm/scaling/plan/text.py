"""A plan for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from dlrm.format import byte_size
from dlrm.memory import COPIES, SCORES, MemoryAccount
from dlrm.run.console import memory_table, plan_table
from dlrm.scaling.cost.workload import bytes_by_collective
from dlrm.scaling.plan.epoch import Epoch
from dlrm.scaling.plan.forecast import Forecast
from dlrm.scaling.plan.strategies import Strategy

_NO_BENCHMARK_HAS = (COPIES, SCORES)
_SHOWN = 5e-3
_BAR = 40


def memory_texts(found: Forecast) -> Iterator[str | Table]:
    """Where the tables go and what the ranks take."""
    most = found.most
    yield plan_table(found.plan)
    yield memory_table(most)
    started = "" if not found.world.described else " that is not started"
    yield (
        f"{found.name}: rank {found.accounts.index(most)} of {found.world.size}{started}, of steps of "
        f"{found.global_batch_size:,} samples, takes most: {_sizes(most)}"
    )
    if any(part in most.parts for part in _NO_BENCHMARK_HAS):
        yield f"a benchmark, which neither saves nor scores: {_sizes(most.without(_NO_BENCHMARK_HAS))}"
    yield f"planned for {found.hardware}; {found.reserved:.0%} of the memory is left free besides (sharding.reserve_fraction)"
    if found.world.described and found.world.device.type == "cuda":
        yield "of the host's memory, what the CUDA libraries take is not in it: they are not there"
    if most.missing:
        yield most.missing


def step_texts(found: Forecast) -> Iterator[str | Table]:
    """The time of a step."""
    cost, workload, machine = found.cost, found.workload, found.machine
    if cost is None or workload is None or machine is None:
        return
    yield stage_table(found)
    low, high = (1e3 * bound for bound in found.band(found.step_s))
    yield (
        f"a step of {found.global_batch_size:,} samples takes {1e3 * found.step_s:.2f} ms ({low:.2f} to {high:.2f}): "
        f"{found.samples_per_s:,.0f} samples/s on {found.world.size} rank(s), "
        f"{found.samples_per_s / found.world.size:,.0f} on each"
    )
    yield (
        f"rank {cost.limiting_rank} works longest ({1e3 * cost.by_rank_s[cost.limiting_rank]:.2f} ms of a step, "
        f"{1e3 * sum(cost.by_rank_s) / len(cost.by_rank_s):.2f} in the mean); most of a step is {cost.limiting_stage}"
    )
    sent = ", ".join(f"{name} {byte_size(size)}" for name, size in bytes_by_collective(workload).items())
    yield f"a rank sends, in a step: {sent or 'nothing'}"
    yield f"speeds from {machine.source}"


def stage_table(found: Forecast) -> Table:
    """The stages of a step."""
    assert found.cost is not None
    cost = found.cost
    table = Table(title="Step")
    table.add_column("stage", no_wrap=True)
    for column in ("ms", "share", "hidden ms"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for stage, seconds in cost.stages_s.items():
        share, hidden = seconds / cost.step_s, cost.hidden_s.get(stage, 0.0)
        if share >= _SHOWN or hidden >= _SHOWN * cost.step_s:
            cells = f"{1e3 * seconds:.3f}", f"{share:.1%}", f"{1e3 * hidden:.3f}" if hidden else ""
            table.add_row(stage, *cells, "#" * round(_BAR * share))
    return table


def comparison_table(title: str, own: tuple[str, Forecast], others: Sequence[Strategy]) -> Table:
    """Ways to train the model, beside each other.

    Args:
        title: of the table.
        own: name of the plan, and the plan.
        others: what it is compared with.
    """
    table = Table(title=title)
    for column in ("", "devices", "step ms", "of four in five", "samples/s", "a device", "memory GiB", "mostly"):
        table.add_column(column, justify="left" if column in ("", "mostly") else "right")
    for strategy in (Strategy(*own), *others):
        found = strategy.found
        if found is None:
            table.add_row(strategy.name, "", "", "", "", "", "", strategy.reason)
            continue
        memory = found.most.total
        cells = [strategy.name, f"{found.world.size:,}"]
        if found.cost is not None:
            low, high = (1e3 * bound for bound in found.band(found.step_s))
            cells += [f"{1e3 * found.step_s:.2f}", f"{low:.2f} to {high:.2f}", f"{found.samples_per_s:,.0f}"]
            cells += [f"{found.samples_per_s / found.world.size:,.0f}"]
        else:
            cells += ["", "", "", ""]
        mostly = found.cost.limiting_stage if found.cost else ""
        table.add_row(*cells, f"{(memory.device or memory.host) / 2**30:.1f}", mostly)
    return table


def epoch_text(found: Epoch, devices: int) -> str:
    """What an epoch costs."""
    parts = [f"{found.hours:,.2f} hours", f"{found.device_hours:,.1f} device-hours"]
    if found.usd is not None:
        parts.append(f"{found.usd:,.0f} USD at {found.usd_per_device_hour:,.2f} a device-hour ({found.price_source})")
    if found.kwh is not None:
        parts.append(f"{found.kwh:,.1f} kWh at most")
    return f"an epoch of {found.samples:,} samples on {devices} device(s): {', '.join(parts)}"


def _sizes(account: MemoryAccount) -> str:
    total = account.total
    device = f" and {byte_size(total.device)} of its device" if total.device else ""
    return f"{byte_size(total.host)} of its host{device}"
