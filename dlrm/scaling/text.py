"""A benchmark's result for the terminal."""

from __future__ import annotations

from rich.table import Table

from dlrm.scaling.result import Breakdown, Result

_SHOWN = 5e-4
"""Share of a step from which on a stage is shown."""
_BAR = 40


def summary_line(result: Result) -> str:
    """Where it ran and how fast."""
    left_out = f" without {', '.join(result.without)}" if result.without else ""
    step = result.step
    return (
        f"{result.name}{left_out}: {result.samples_per_s:,.0f} samples/s on {result.ranks} rank(s) ({result.device}); "
        f"a step of {result.global_batch_size:,} samples takes {step.median_ms:.2f} ms "
        f"(median of {result.steps}; p5 {step.p5_ms:.2f}, p95 {step.p95_ms:.2f})"
    )


def breakdown_line(found: Breakdown) -> str:
    """What the table is made of."""
    return (
        f"Where the time of a step goes, mean of {found.steps} steps under the profiler, "
        f"which makes a step {found.overhead:+.1%} longer:"
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
