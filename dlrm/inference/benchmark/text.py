"""What a benchmark has found, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from rich.table import Table

from dlrm.format import counted
from dlrm.inference.benchmark.colocation import Shared
from dlrm.inference.benchmark.comparison import Comparison
from dlrm.inference.benchmark.measure import Measured
from dlrm.inference.benchmark.points import Point
from dlrm.inference.benchmark.result import Result


def texts(result: Result) -> Iterator[str | Table]:
    """All there is to show, in lines and tables."""
    if result.measured:
        yield f"requests/s within a p99 of {result.config.bound_ms:g} ms, arrivals at random:"
        yield points_table(result.measured)
    together = [one for one in result.shared if one.models > 1]
    if together:
        yield "what models that share the threads cost each other:"
        yield shared_table(result.shared)
    yield from result.notices
    if result.comparison is not None:
        yield comparison_line(result.comparison, result.config.bound_ms)
    yield best_line(result)


def points_table(measured: list[Measured]) -> Table:
    """A row a point."""
    shown = _factors([one.point for one in measured])
    table = _table(*shown, "alone ms", "closed/s", "within/s", "p50", "p95", "p99", "max", "CPU")
    for number, one in enumerate(measured):
        cells = [values[number] for values in shown.values()]
        cells += [f"{one.alone.latency.p50_ms:.2f}", f"{one.closed.requests_per_s:,.0f}"]
        if one.bounded is None:
            table.add_row(*cells, "none")
            continue
        latency = one.bounded.latency
        times = (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms)
        rate = f"{one.bounded_rate:,.0f}{'*' * one.bounded.behind}"
        table.add_row(*cells, rate, *(f"{time:.1f}" for time in times), f"{one.bounded.cpus:.1f}")
    return table


def shared_table(found: list[Shared]) -> Table:
    """A row a number of models."""
    ordered = sorted(found, key=lambda one: (replace(one.point, members=(0,)).title, one.models))
    shown = _factors([one.point for one in ordered])
    table = _table(*shown, "each/s", "of alone", "all, of alone", "more cost")
    for number, one in enumerate(ordered):
        table.add_row(
            *(values[number] for values in shown.values()),
            f"{one.rate_per_model:,.0f}",
            f"{one.relative:.2f}",
            f"{one.total:.2f}",
            "" if one.added is None else f"{one.added:+.0%}",
        )
    return table


def _factors(points: list[Point]) -> dict[str, list[str]]:
    """Of each factor that is shown, its level at each point; what is the same at all is left out."""
    factors = {
        "CPUs": [str(point.cpu_set) for point in points],
        "given": [str(point.given) for point in points],
        "rows": [f"{point.request_rows}" for point in points],
        "threads": [f"{point.threads}" for point in points],
        "batch": [f"{point.batch_rows}" for point in points],
        "models": [_models(point) for point in points],
    }
    always = ("threads", "batch")
    return {name: levels for name, levels in factors.items() if len(set(levels)) > 1 or name in always}


def _models(point: Point) -> str:
    return f"1 (no. {point.members[0] + 1})" if point.models == 1 and point.members != (0,) else f"{point.models}"


def _table(*names: str) -> Table:
    table = Table()
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def comparison_line(found: Comparison, bound_ms: float) -> str:
    """Both ways in one line."""
    ratios = found.ratios
    if not ratios:
        return f"the plain way: in none of {counted(len(found.plain), 'round')} both kept a p99 of {bound_ms:g} ms"
    plain = median(one.rate_per_s for one in found.plain if one)
    batched = median(one.rate_per_s for one in found.batched if one)
    return (
        f"the plain way (the trainer's model, one request after the other, {counted(found.threads, 'thread')}): "
        f"{plain:,.0f} requests/s within {bound_ms:g} ms; {found.point.title}: {batched:,.0f}, {median(ratios):.1f} times "
        f"as many ({min(ratios):.1f} to {max(ratios):.1f} in {counted(len(ratios), 'round')})"
    )


def best_line(result: Result) -> str:
    """The best combination."""
    best, bound = result.best, f"a p99 of {result.config.bound_ms:g} ms"
    if best is None or best.bounded is None:
        if not result.measured:
            return "nothing was measured"
        fastest = min(one.alone.latency.p50_ms for one in result.measured)
        if fastest > result.config.bound_ms:
            return f"nothing keeps {bound}: one request alone takes {fastest:.2f} ms"
        return f"nothing keeps {bound}, at however low a rate (one request alone takes {fastest:.2f} ms)"
    rows = f" ({best.bounded.rows_per_s:,.0f} rows/s)" if best.point.request_rows > 1 else ""
    return f"best within {bound}: {best.point.title}: {best.bounded_rate:,.0f} requests/s{rows}"
