"""What a benchmark has found, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from rich.table import Table

from dlrm.format import counted
from dlrm.inference.benchmark.colocation import Shared
from dlrm.inference.benchmark.comparison import Comparison
from dlrm.inference.benchmark.measure import Measured
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
    table = Table()
    factors: dict[str, list[str]] = {
        "CPUs": [str(one.point.cpu_set) for one in measured],
        "given": [str(one.point.given) for one in measured],
        "rows": [f"{one.point.request_rows}" for one in measured],
        "threads": [f"{one.point.threads}" for one in measured],
        "models": [_models(one) for one in measured],
        "batch": [f"{one.point.batch_rows}" for one in measured],
    }
    shown = {name: values for name, values in factors.items() if len(set(values)) > 1 or name in ("batch", "threads")}
    for name in (*shown, "alone ms", "closed/s", "within/s", "p50", "p95", "p99", "max", "CPU"):
        table.add_column(name, justify="right", no_wrap=True)
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


def _models(one: Measured) -> str:
    return f"{one.point.models}" if one.point.models > 1 else f"1 (export {one.point.members[0] + 1})"


def shared_table(found: list[Shared]) -> Table:
    """A row a number of models."""
    table = Table()
    names = ("threads", "batch", "models", "each/s", "of alone", "all, of alone", "one more costs")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for one in sorted(found, key=lambda found: (found.point.threads, found.point.batch_rows, found.models)):
        added = "" if one.added is None else f"{one.added:+.0%}"
        table.add_row(
            f"{one.point.threads}",
            f"{one.point.batch_rows}",
            f"{one.models}",
            f"{one.rate_per_model:,.0f}",
            f"{one.relative:.2f}",
            f"{one.total:.2f}",
            added,
        )
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
