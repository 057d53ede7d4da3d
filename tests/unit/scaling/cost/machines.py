"""Hardware and work for tests, in round numbers."""

import numpy as np

from dlrm.scaling.cost.rates import Link, Links, Machine, Rates
from dlrm.scaling.cost.workload import Lookup, Transfer, Workload

COLLECTIVES = ("all_to_all", "reduce_scatter", "all_gather", "all_reduce")
US, MB, GB = 1e-6, 1e6, 1e9
INSIDE, BETWEEN = Link(2 * US, 100 * GB, 0.5 * US), Link(10 * US, 10 * GB, 1 * US)
LINKS = Links(dict.fromkeys(COLLECTIVES, INSIDE), dict.fromkeys(COLLECTIVES, BETWEEN))


def rates(**changed):
    """Of a device; nothing takes any time but what is said."""
    idle = {
        "name": "made up", "cores": None, "threads": 1, "flops_per_s": {"float32": 1e30}, "half_size": 0.0,
        "product_s": 0.0, "stream_bytes_per_s": 1e30, "cached_bytes_per_s": 1e30, "cache_bytes": 0.0,
        "fresh_bytes_per_s": None, "operation_s": 0.0, "lookup_s": (0.0,) * 4, "update_s": (0.0,) * 4, "ids_s": 0.0,
        "cut_s": (0.0, 0.0), "copy_bytes_per_s": None, "host_bytes_per_s": None, "step_s": 0.0, "table_s": 0.0,
        "shared_step_s": 0.0,
    }  # fmt: skip
    return Rates(**{**idle, **changed})


def machine(*, links=LINKS, factors=None, **changed):
    return Machine(rates(**changed), links, factors or {})


def lookup(**changed):
    plain = {
        "table": "cat_0", "sharding": "table_wise", "kernel": "fused", "cached": 0.0, "rows": 1000, "columns": 8,
        "bags": 10.0, "ids": 30.0, "distinct": 20.0, "state": 4.0,
    }  # fmt: skip
    return Lookup(**{**plain, **changed})


def transfer(collective, size, ranks, per_host, *, group="world", calls=1, stage="output distribution"):
    every = np.full(ranks, float(size))
    return Transfer(stage, collective, group, every, every, ranks, per_host, calls)


def workload(**changed):
    """Of two ranks on a host that have nothing to do."""
    nothing = {
        "ranks": 2, "ranks_per_host": 2, "samples": 10.0, "operations": (), "lookups": ((), ()), "transfers": (),
        "updates": (), "replicated": (), "replicated_numbers": 0, "batch_bytes": 0.0, "batch_ids": 0.0, "cut_bags": 0.0,
        "cut_ids": 0.0, "tables": 0, "prefetches_ids": True,
    }  # fmt: skip
    return Workload(**{**nothing, **changed})
