"""A benchmark's result for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple

from rich.table import Table

from dlrm.format import byte_size
from dlrm.scaling.benchmark.ceilings import Ceilings
from dlrm.scaling.benchmark.result import Breakdown, Memory, Result

_SHOWN = 5e-4
"""Share of a step from which on a stage is shown."""
_BAR = 40


def texts(result: Result) -> Iterator[str | Table]:
    """All there is to show, in lines and tables."""
    yield summary_line(result)
    if result.memory is not None:
        yield memory_line(result.memory)
    yield from floor_lines(result)
    yield breakdown_line(result.breakdown)
    yield breakdown_table(result.breakdown, result.ranks)
    yield from result.notices


def floor_lines(result: Result) -> Iterator[str]:
    """The work of a sample, the ceilings of the machine, the floors that follow; nothing where they are not known."""
    work, ceilings, floors = result.work, result.ceilings, result.floors
    if work is None or ceilings is None or floors is None:
        return
    yield (
        f"work of a sample: {work.flops / 1e6:,.3f} MFLOP, {byte_size(work.row_bytes)} of table rows, "
        f"{byte_size(work.streamed_bytes)} besides, {byte_size(work.exchanged_bytes)} to other ranks"
    )
    slowest = Ceilings(*(min(values) for values in zip(*map(astuple, ceilings), strict=True)))
    yield (
        f"ceilings of a rank: {slowest.flops_per_s / 1e9:,.0f} GFLOP/s in the step's matrix products, "
        f"{slowest.row_bytes_per_s / 1e9:,.1f} GB/s in rows, {slowest.stream_bytes_per_s / 1e9:,.1f} GB/s in streams"
    )
    yield (
        f"floors of a step: memory {floors.memory_ms:.2f} ms, arithmetic {floors.arithmetic_ms:.2f} ms; "
        f"{floors.share:.0%} of the {floors.higher} floor is reached"
    )
    if floors.share > 1:
        yield "more than all: something else ran while the ceilings were measured, or rows came from a cache; run it again"


def summary_line(result: Result) -> str:
    """Where it ran and how fast."""
    left_out = f" without {', '.join(result.without)}" if result.without else ""
    step = result.step
    return (
        f"{result.name}{left_out}: {result.samples_per_s:,.0f} samples/s on {result.ranks} rank(s) ({result.device}); "
        f"a step of {result.global_batch_size:,} samples takes {step.median_ms:.2f} ms "
        f"(median of {result.steps}; p5 {step.p5_ms:.2f}, p95 {step.p95_ms:.2f})"
    )


def memory_line(memory: Memory) -> str:
    """What a rank took, and how far what was expected is from it."""

    def told(measured: float, expected: float) -> str:
        return f"{measured:.2f} GiB ({expected:.2f} expected, {expected / measured - 1:+.0%})"

    device = ""
    if memory.device_gib and memory.expected_device_gib and memory.reserved_gib:
        tensors = told(memory.device_gib, memory.expected_device_gib)
        device = f"; device {tensors}, for which {memory.reserved_gib:.2f} GiB are reserved"
    return f"memory of the rank that takes most: host {told(memory.host_gib, memory.expected_host_gib)}{device}"


def breakdown_line(found: Breakdown) -> str:
    """What the table is made of."""
    return (
        f"Where the time of a step goes, mean of {found.steps} steps under the profiler "
        f"(whose median step is {found.overhead:+.1%} away from the one above):"
    )


def breakdown_table(found: Breakdown, ranks: int) -> Table:
    """The stages of a step, in its order."""
    on_device = found.device_busy_ms is not None
    table = Table()
    table.add_column("stage", no_wrap=True)
    table.add_column("host ms" if on_device else "ms", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    if on_device:
        table.add_column("device ms", justify="right", no_wrap=True)
    if ranks > 1:
        table.add_column("slowest rank", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for stage in found.stages:
        share = stage.mean_ms / found.step_ms
        if share < _SHOWN and (stage.device_ms or 0.0) / found.step_ms < _SHOWN:
            continue
        cells = [stage.stage, f"{stage.mean_ms:.2f}", f"{share:.1%}"]
        if stage.device_ms is not None:
            cells.append(f"{stage.device_ms:.2f}")
        if ranks > 1:
            cells.append(f"{stage.slowest_ms:.2f} (rank {stage.slowest_rank})")
        table.add_row(*cells, "#" * round(_BAR * share))
    table.add_section()
    table.add_row("step", f"{found.step_ms:.2f}", "100.0%")
    if found.device_busy_ms is not None:
        table.add_section()
        idle_ms = found.step_ms - found.device_busy_ms
        table.add_row("device busy", "", f"{found.device_busy_ms / found.step_ms:.1%}", f"{found.device_busy_ms:.2f}")
        table.add_row("device idle", "", f"{idle_ms / found.step_ms:.1%}", f"{idle_ms:.2f}")
    return table
