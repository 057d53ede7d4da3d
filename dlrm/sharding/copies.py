"""Several copies of the tables, each shared by a group of ranks, that are averaged every so many steps (2D parallelism).

What a step computes: a rank's loss is (ranks / samples of the global batch) * the sum of its samples' losses. torchrec
divides a table's gradient by the number of ranks of the *group*. So each copy learns from (copies / samples) * the sum over
its own group's samples, which is the mean over them, and the mean over the copies is the gradient of the mean over the
global batch. Under SGD and with an average after each step that is the update of one copy. It is not under optimizers with
state.

Dense parameters and data-parallel tables know nothing of copies: DistributedDataParallel averages their gradients over all
ranks.

torchrec's DMPCollection does most of it. What is put in its place here, none of it public
(tests/unit/contracts/test_copies.py):

- Process groups are made with all backends of the job, since ids are counted by gloo (:mod:`dlrm.sharding.id_exchange`).
  DMPCollection splits them off NCCL's.
- Sharded weights are ShardedTensors as elsewhere here, and no DTensors.
- State of every optimizer is averaged. DMPCollection knows the ``sum`` of Adagrad alone, and fails on others.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torchrec.distributed.model_parallel import DMPCollection
from torchrec.distributed.types import ShardingPlan

from dlrm.distributed.internals import fused_lookups, kernels_of
from dlrm.sharding.groups import Groups


class Copies(Protocol):
    """The copies of the tables, seen from a rank.

    Attributes:
        is_saved: whether checkpoints hold this rank's copy.
    """

    is_saved: bool

    def after_step(self, step: int) -> None:
        """A step was trained, counted from 1; average the copies if it is time to."""

    def agree(self) -> None:
        """Have all copies hold the same; on every rank, between steps."""


class OneCopy:
    """There is one, or there are none but equal ones."""

    is_saved = True

    def after_step(self, step: int) -> None:
        """Nothing to average."""

    def agree(self) -> None:
        """They do."""


class CopiedTables(DMPCollection):  # type: ignore[misc]  # torchrec is untyped here
    """A DistributedModelParallel whose tables every group of ranks has a copy of.

    Args:
        module: the model.
        device: where it computes.
        plan: of one group, whose ranks are positions; it is not changed.
        groups: of the ranks.
        ranks_per_host: started on each host.
        timeout: of what the ranks of a group, or peers, wait for; torch's if left out.
        given: further arguments of DMPCollection.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        plan: ShardingPlan,
        groups: Groups,
        *,
        ranks_per_host: int,
        timeout: timedelta | None = None,
        **given: Any,
    ) -> None:
        self._groups, self._timeout = groups, timeout
        super().__init__(
            module=module,
            device=device,
            plan=copy.deepcopy(plan),  # its ranks become those of this rank's group
            world_size=groups.world_size,
            sharding_group_size=groups.size,
            global_pg=dist.group.WORLD,
            node_group_size=groups.per_host(ranks_per_host),
            use_inter_host_allreduce=groups.consecutive,
            **given,
        )

    def _create_process_groups(
        self, global_rank: int, world_size: int, local_size: int, use_inter_host_allreduce: bool = False
    ) -> tuple[DeviceMesh, dist.ProcessGroup, dist.ProcessGroup]:
        """A mesh of ranks by copy and position, and this rank's group and peers; made in one order on all ranks."""
        rows = [self._groups.ranks_of(copy) for copy in range(self._groups.copies)]
        columns = [self._groups.peers_at(position) for position in range(self._groups.size)]
        of_rows, of_columns = ([dist.new_group(ranks, self._timeout) for ranks in cut] for cut in (rows, columns))
        sharding = of_rows[self._groups.copy_of(global_rank)]
        peers = of_columns[self._groups.position_of(global_rank)]
        mesh = DeviceMesh.from_group(
            [peers, sharding],
            self._device.type,
            mesh=torch.tensor(rows, dtype=torch.int),
            mesh_dim_names=("replicate", "shard"),
        )
        return mesh, sharding, peers

    def _init_dmp(self, module: nn.Module) -> nn.Module:
        self._env.output_dtensor = False
        sharded: nn.Module = super()._init_dmp(module)
        return sharded

    def _group_sharded_modules(self, contexts: list[Any]) -> None:
        """Of no use: see what follows."""

    def _cache_sync_tensors(self, contexts: list[Any]) -> None:
        """Note what :meth:`sync` averages: this rank's parts of weights and of optimizer states, without empty ones."""
        (context,) = contexts
        kernels = [kernel for lookup in fused_lookups(self) for _, kernel in kernels_of(lookup)]
        weights = [weight for kernel in kernels for weight in kernel.split_embedding_weights()]
        states = [state for kernel in kernels for of_table in kernel.split_optimizer_states() for state in of_table]
        context.weights_by_dtype = _by_dtype(weights)
        context.optimizer_tensors_by_dtype = _by_dtype(states)
        context.hash_zch_modules = []

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Average further tensors over the peers, in place, as :meth:`sync` does with the tables'."""
        options = dist.AllreduceCoalescedOptions()
        options.reduceOp = dist.ReduceOp.AVG  # type: ignore[assignment]  # as torchrec and torch's own code set it
        self._allreduce_tensors(self._default_ctx, _by_dtype(tensors), "## 2d_average_sync ##", options)


def _by_dtype(tensors: Sequence[torch.Tensor]) -> dict[torch.dtype, list[torch.Tensor]]:
    found: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            found.setdefault(tensor.dtype, []).append(tensor.detach())
    return found


class AveragedCopies:
    """Averages the copies after every so many steps, and whenever they have to agree in between.

    When they do follows from the number of the step, so that a resumed run averages after the same steps.

    Args:
        sharded: the model.
        groups: of the ranks; rank: which of them this is.
        every_steps: between two averages.
        followers: what follows the weights from step to step and so differs between copies that differ: exponential
            averages of this rank's parts of tables. They are linear in the weights, so that their mean over the copies
            follows the mean of the weights.
    """

    def __init__(
        self,
        sharded: CopiedTables,
        groups: Groups,
        rank: int,
        *,
        every_steps: int,
        followers: Sequence[torch.Tensor] = (),
    ) -> None:
        self.is_saved = groups.copy_of(rank) == 0
        self._sharded = sharded
        self._every_steps = every_steps
        self._followers = list(followers)
        self._tables_differ = self._followers_differ = False

    def after_step(self, step: int) -> None:
        """Average if ``step`` is a multiple of ``every_steps``."""
        self._tables_differ = step % self._every_steps > 0
        self._followers_differ |= self._tables_differ
        if not self._tables_differ:
            self._sharded.sync()

    def agree(self) -> None:
        """Average whatever may differ; nothing where each step did so."""
        if self._tables_differ:
            self._sharded.sync()
        if self._followers_differ:
            self._sharded.average(self._followers)
        self._tables_differ = self._followers_differ = False


ONE_COPY: Copies = OneCopy()
