"""DistributedDataParallel as torchrec makes it and as the trainer changes it; torch's operations on lists of tensors."""

from __future__ import annotations

import inspect

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper

from dlrm.sharding.replicas import Replicas, settle_gradient_buckets
from dlrm.train.engine import Engine
from tests.unit.contracts.hooks import hook

DDP = "torch/nn/parallel/distributed.py and torch/csrc/distributed/c10d/reducer.cpp"


@hook(
    "_dmp_wrapped_module", "_ddp_wrap", of="torchrec", used_in="dlrm/sharding/replicas.py",
    see="class DefaultDataParallelWrapper in torchrec/distributed/model_parallel.py",
)  # fmt: skip
def test_the_model_is_replicated_by_the_wrapper_s_own_method(engine: Engine) -> None:
    wrapped = engine.model._dmp_wrapped_module
    assert isinstance(wrapped, DistributedDataParallel)
    assert type(wrapped).__module__ == "dlrm.sharding.replicas"  # torchrec has called what is overridden there
    theirs, ours = (inspect.signature(kind._ddp_wrap).parameters for kind in (DefaultDataParallelWrapper, Replicas))
    assert list(ours) == list(theirs)


@hook(
    "_build_params_for_reducer", "_set_params_and_buffers_to_ignore_for_model", of="torch",
    used_in="dlrm/sharding/replicas.py", see=DDP,
)  # fmt: skip
def test_ddp_asks_for_its_parameters_in_order_without_the_ignored_ones(engine: Engine) -> None:
    class Reversed(DistributedDataParallel):
        def _build_params_for_reducer(self) -> tuple[list[torch.Tensor], list[bool]]:
            parameters, sparse = super()._build_params_for_reducer()
            asked.append((list(parameters), list(sparse)))
            return parameters[::-1], sparse[::-1]

    asked: list[tuple[list[torch.Tensor], list[bool]]] = []
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, {"0.bias"})
    Reversed(module, static_graph=True)
    ((parameters, sparse),) = asked
    assert [id(parameter) for parameter in parameters] == [
        id(parameter) for name, parameter in module.named_parameters() if name != "0.bias"
    ]
    assert sparse == [False] * 3


@hook("_push_all_rebuilt_params", "_rebuild_buckets", of="torch", used_in="dlrm/sharding/replicas.py", see=DDP)
def test_buckets_can_be_laid_out_before_the_first_step_and_are_not_laid_out_again(engine: Engine) -> None:
    left_alone, settled = (
        DistributedDataParallel(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), static_graph=True) for _ in range(2)
    )
    settle_gradient_buckets(settled)
    assert settled.reducer._rebuild_buckets() is False
    rebuilt: dict[str, list[bool]] = {"left alone": [], "settled": []}
    for name, ddp in (("left alone", left_alone), ("settled", settled)):
        for _ in range(3):
            ddp(torch.ones(1, 2)).sum().backward()
            rebuilt[name].append(ddp.reducer._rebuild_buckets())
    assert any(rebuilt["left alone"])
    assert not any(rebuilt["settled"])


@hook("require_backward_grad_sync", of="torch", used_in="dlrm/sharding/replicas.py", see=DDP)
def test_ddp_hands_gradients_to_its_reducer_only_in_backward_passes_that_are_to_sum_them(engine: Engine) -> None:
    module = nn.Linear(2, 1)
    ddp = DistributedDataParallel(module)
    summed: list[torch.Tensor] = []
    ddp.register_comm_hook(None, lambda _, bucket: summed.append(bucket.buffer().clone()) or _done(bucket.buffer()))
    for now in (False, False, True):
        ddp.require_backward_grad_sync = now
        ddp(torch.ones(1, 2)).sum().backward()
    assert [sum_.tolist() for sum_ in summed] == [[3.0] * 3]  # of three passes, over one rank


def _done(value: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(value)
    return done


@hook("_foreach_copy_", "_foreach_lerp_", of="torch", used_in="dlrm/optim/averaging.py", see="torch/optim/swa_utils.py")
def test_lists_of_tensors_are_copied_and_mixed_in_place() -> None:
    averages, weights = [torch.zeros(2), torch.zeros(1)], [torch.tensor([4.0, 8.0]), torch.tensor([2.0])]
    torch._foreach_lerp_(averages, weights, 0.25)
    assert [average.tolist() for average in averages] == [[1.0, 2.0], [0.5]]
    torch._foreach_copy_(averages, weights)
    assert [average.tolist() for average in averages] == [[4.0, 8.0], [2.0]]
