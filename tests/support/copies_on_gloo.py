"""Several copies of the tables on gloo, for tests: DMPCollection asserts CUDA, and gloo has no average.

Its assertion lets the CPU pass here, shards lie on "cpu" and not on "cpu:1", and sums that are divided stand in for the
average. All else is what runs on CUDA.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.model_parallel import DMPCollection
from torchrec.distributed.types import ShardingPlan

from dlrm.sharding import groups
from dlrm.sharding.copies import CopiedTables


def allow_copies_on_gloo() -> None:
    """In a process that ends with the test."""
    groups.DEVICES_WITH_COPIES = (*groups.DEVICES_WITH_COPIES, "cpu")
    code = DMPCollection.__init__.__code__
    assert "mtia" in code.co_consts, "the assertion of DMPCollection has changed"
    constants = tuple("cpu" if constant == "mtia" else constant for constant in code.co_consts)
    DMPCollection.__init__.__code__ = code.replace(co_consts=constants)
    remap = DMPCollection._remap_sharding_plan

    def remapped(self: DMPCollection, plan: ShardingPlan, *given: Any, **named: Any) -> None:
        remap(self, plan, *given, **named)
        for parameter in (parameter for of_module in plan.plan.values() for parameter in of_module.values()):
            for shard in parameter.sharding_spec.shards if parameter.sharding_spec is not None else []:
                shard.placement = _remote_device(f"rank:{shard.placement.rank()}/cpu")

    DMPCollection._remap_sharding_plan = remapped
    build = CopiedTables.__init__

    def built(self: CopiedTables, *given: Any, **named: Any) -> None:
        build(self, *given, **named)
        peers = self._default_ctx.replica_pg

        def average(tensors: list[torch.Tensor]) -> None:
            for tensor in tensors:
                dist.all_reduce(tensor, group=peers)
                tensor /= peers.size()

        self.set_all_reduce_hook(average)

    CopiedTables.__init__ = built  # type: ignore[method-assign]
