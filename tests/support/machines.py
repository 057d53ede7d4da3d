"""A calibration with round figures, for tests of what is predicted by one."""

from typing import Any

from dlrm.scaling.cost.calibration import Calibration, Entry
from dlrm.scaling.cost.rates import Link, Rates

LINKS = {name: Link(1e-4, 1e9) for name in ("all_to_all", "reduce_scatter", "all_gather", "all_reduce")}


def rates(**changes: Any) -> Rates:
    """Of a rank with one thread on a host with two cores; a multiply-add takes a nanosecond, whatever its shape."""
    told: dict[str, Any] = {
        "name": "CPU",
        "cores": 2.0,
        "threads": 1,
        "flops_per_s": {"float32": 2e9, "bfloat16": 4e9},
        "half_size": 0.0,
        "product_s": 0.0,
        "stream_bytes_per_s": 1e10,
        "cached_bytes_per_s": 1e10,
        "cache_bytes": 0.0,
        "fresh_bytes_per_s": 1e9,
        "operation_s": 1e-6,
        "lookup_s": (0.0, 0.0, 1e-8, 0.0),
        "update_s": (0.0, 0.0, 2e-8, 0.0),
        "ids_s": 0.0,
        "cut_s": (0.0, 0.0),
        "copy_bytes_per_s": None,
        "host_bytes_per_s": None,
        "step_s": 1e-3,
        "table_s": 0.0,
        "shared_step_s": 0.0,
    }
    return Rates(**{**told, **changes})


def calibration(**changes: Any) -> Calibration:
    """Of one and two ranks."""
    return Calibration("CPU", (Entry(1, 1, rates(**changes), {}), Entry(2, 2, rates(**changes), LINKS)))
