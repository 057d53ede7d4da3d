"""What the cost model says of a point, beside what is measured: the one place where experiments ask it."""

from __future__ import annotations

from dlrm.config.benchmark import BenchmarkConfig
from dlrm.scaling.table import Row


def predicted_rows(point_config: BenchmarkConfig, hosts: int, ranks: int) -> list[Row]:
    """Rows with source ``predicted``; none where nothing can be said. The caller fills in experiment and point.

    Args:
        point_config: of the point's benchmark.
        hosts: of its job.
        ranks: of all of them.
    """
    return []
