"""What is not sharded: replicated by DistributedDataParallel, with gradients that sum up the same way in every step.

None of it is public: how torchrec wraps the model, which parameters DistributedDataParallel hands to its reducer in which
order, and when the reducer lays out its buckets. tests/unit/contracts/test_replicas.py holds torch and torchrec to it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
from torchrec.distributed.types import ShardingEnv


class Replicas(DefaultDataParallelWrapper):  # type: ignore[misc]  # torchrec is untyped here
    """Replicates the MLPs by a DistributedDataParallel whose parameters come in reverse order.

    :func:`settle_gradient_buckets` lays them out in the order of the parameters. Gradients of the last layers are ready
    first, so these parameters come first: their bucket is reduced while the rest is still being computed.

    Args:
        all_reduce: in what gradients are summed over ranks; where it is not float32 each rank rounds its own, divided by
            the number of ranks, and the sum is a sum of that type.
        bucket_mib: of gradients that are summed together; None as torch has it.
        accumulates: whether :func:`sum_over_ranks` is to be used. Then every parameter has to get a gradient in every
            backward pass.
    """

    def __init__(
        self, all_reduce: torch.dtype = torch.float32, *, bucket_mib: int | None = None, accumulates: bool = False
    ) -> None:
        super().__init__()
        self._bucket_mib = bucket_mib
        self._all_reduce = all_reduce
        self._accumulates = accumulates

    def _ddp_wrap(
        self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device, ddp_ignore_param_names: set[str]
    ) -> None:
        module = dmp._dmp_wrapped_module
        if not any(
            weight.requires_grad for name, weight in module.named_parameters() if name not in ddp_ignore_param_names
        ):
            dmp._dmp_wrapped_module = module.to(device)  # all are frozen, and equal on all ranks from the start
            return
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, ddp_ignore_param_names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames broadcast_buffers, 2.12 knows only this
            dmp._dmp_wrapped_module = _LastLayersFirst(
                module.to(device),
                device_ids=None if device.type == "cpu" else [device],
                process_group=env.process_group,
                bucket_cap_mb=self._bucket_mib,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,
                static_graph=not self._accumulates,  # torch fails where the first backward pass of one sums nothing
            )
        if self._all_reduce != torch.float32:
            dmp._dmp_wrapped_module.register_comm_hook(env.process_group, _HOOKS[self._all_reduce])


_HOOKS: dict[torch.dtype, Callable[..., torch.futures.Future[torch.Tensor]]] = {
    torch.float16: default_hooks.fp16_compress_hook,
    # Not by its own name, under which DistributedDataParallel refuses it on gloo. gloo sums bfloat16 as well.
    torch.bfloat16: lambda group, bucket: default_hooks.bf16_compress_hook(group, bucket),
}


class _LastLayersFirst(DistributedDataParallel):
    def _build_params_for_reducer(self) -> tuple[list[torch.Tensor], list[bool]]:
        parameters, sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
        return parameters[::-1], sparse[::-1]


def sum_over_ranks(sharded: DistributedModelParallel, *, now: bool) -> None:
    """Say whether the next backward pass sums the replicas' gradients over ranks, or leaves them for one that does.

    Like ``DistributedDataParallel.no_sync``. It does not concern data-parallel tables.
    """
    sharded._dmp_wrapped_module.require_backward_grad_sync = now


def settle_gradient_buckets(sharded: nn.Module) -> None:
    """Have DistributedDataParallel lay out its buckets of gradients for good, before the first step.

    Left alone, it lays them out anew after the first backward pass, in the order in which gradients became ready. The
    order in which an all-reduce adds up the ranks' values of an element depends on where the element lies, so from three
    ranks on the first step of a resumed run would round otherwise than the same step of a run that was never interrupted.

    Data-parallel tables, which torchrec gives a DistributedDataParallel of their own, are one parameter and so one bucket.
    """
    for module in sharded.modules():
        if isinstance(module, DistributedDataParallel):
            module.reducer._push_all_rebuilt_params()
            module.reducer._rebuild_buckets()
