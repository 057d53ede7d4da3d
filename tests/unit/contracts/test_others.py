"""numba's cache of machine code, iopath's handlers, fsspec's file systems, torch's flight recorder."""

from __future__ import annotations

import pytest

from tests.unit.contracts.hooks import hook


@hook(
    "_cache",
    "_impl",
    "_impl_class",
    "_locator_classes",
    of="numba",
    used_in="dlrm/compiled.py",
    see="numba/core/caching.py",
)
def test_a_compiled_function_takes_its_cache_from_an_attribute() -> None:
    from numba import njit
    from numba.core import caching

    from dlrm import compiled

    class Recorded(caching.NullCache):
        def load_overload(self, sig: object, target_context: object) -> None:
            asked.append("load")

        def save_overload(self, sig: object, data: object) -> None:
            asked.append("save")

    asked: list[str] = []
    double = njit(lambda x: 2 * x)
    double._cache = Recorded()
    assert double(3) == 6
    assert asked == ["load", "save"]
    cache = compiled.LenientCache(test_a_compiled_function_takes_its_cache_from_an_attribute)
    assert isinstance(cache._impl, caching.FunctionCache._impl_class)
    assert type(cache._impl.locator) in cache._impl_class._locator_classes
    assert caching.InTreeCacheLocator in caching.CompileResultCacheImpl._locator_classes


@hook(
    "_strict_kwargs_check", "_get_supported_prefixes", "_open", "_ls", "_isdir", "_isfile", "_exists", "_rm", "_copy",
    of="iopath", used_in="dlrm/remote/objects.py and the handlers made of it", see="iopath/common/file_io.py",
)  # fmt: skip
def test_a_manager_of_paths_calls_its_handler_s_methods() -> None:
    from iopath.common.file_io import PathHandler, PathManager

    class Recorder(PathHandler):
        _strict_kwargs_check = False

        def _get_supported_prefixes(self) -> list[str]:
            return ["contract://"]

        def __getattribute__(self, name: str) -> object:
            if name in ("_open", "_ls", "_isdir", "_isfile", "_exists", "_rm", "_copy"):
                return lambda *given, **named: calls.append((name, given, named))
            return super().__getattribute__(name)

    calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []
    manager = PathManager()
    manager.set_logging(False)
    manager.register_handler(Recorder())
    manager.open("contract://a", "rb", start=3, size=4)
    for method in ("ls", "isdir", "isfile", "exists", "rm"):
        getattr(manager, method)("contract://a")
    manager.copy("contract://a", "contract://b", overwrite=True)
    assert [name for name, _, _ in calls] == ["_open", "_ls", "_isdir", "_isfile", "_exists", "_rm", "_copy"]
    _, given, named = calls[0]
    assert given[:2] == ("contract://a", "rb")
    assert (named["start"], named["size"]) == (3, 4)


@hook("_strip_protocol", "_parent", of="fsspec", used_in="dlrm/remote/fsspec_files.py", see="fsspec/spec.py")
def test_a_file_system_turns_urls_into_its_paths() -> None:
    fsspec = pytest.importorskip("fsspec")
    files, _ = fsspec.core.url_to_fs("memory://a/b", skip_instance_cache=True)
    assert files._strip_protocol("memory://a/b") == "/a/b"
    assert files._parent("/a/b") == "/a"


@hook(
    "_dump_fr_trace_json", "_C", "_distributed_c10d", of="torch", used_in="dlrm/distributed/called.py",
    see="torch/csrc/distributed/c10d/init.cpp and FlightRecorder.hpp",
)  # fmt: skip
def test_the_flight_recorder_knows_the_collectives_of_gloo() -> None:
    import torch
    import torch.distributed as dist

    from dlrm.distributed.called import last_called

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        dist.all_reduce(torch.ones(1))
        dist.broadcast(torch.ones(1), src=0)
        first, second = last_called()[-2:]
    finally:
        dist.destroy_process_group()
    assert (first.name, second.name) == ("all_reduce", "broadcast")
    assert (second.group, second.number) == (first.group, first.number + 1)


@hook(
    "_subclasses", "_python_dispatch", "_pytree", of="torch", used_in="dlrm/models/activations.py",
    see="torch/_subclasses/fake_tensor.py, torch/utils/_python_dispatch.py",
)  # fmt: skip
def test_a_dispatch_mode_sees_the_storages_of_tensors_without_memory_forward_and_backward() -> None:
    import torch

    from dlrm.distributed.internals import DispatchMode, FakeTensors, tree_leaves

    made: list[int] = []

    class Recorded(DispatchMode):
        def __torch_dispatch__(
            self, func: object, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
        ) -> object:
            result = func(*args, **(kwargs or {}))  # type: ignore[operator]
            leaves = tree_leaves([{"x": result}])
            made.extend(leaf.untyped_storage().nbytes() for leaf in leaves if isinstance(leaf, torch.Tensor))
            return result

    with FakeTensors():
        x = torch.zeros(2**50, dtype=torch.uint8).to(torch.float64).requires_grad_()  # eight PiB: no machine has it
        with Recorded():
            y = x.exp()
            forward = len(made)
            y.sum().backward()
    assert made[0] == 2**53
    assert made[forward:].count(2**53) >= 1  # of the backward pass, which another thread may run


@hook(
    "_submit_dryrun",
    of="torchx",
    used_in="launch/torchx_gaps.py",
    see="torchx/schedulers/aws_batch_scheduler.py, kubernetes_scheduler.py, slurm_scheduler.py",
)
def test_torchx_renders_retries_where_rules_for_exit_codes_can_be_added() -> None:
    from torchx import specs
    from torchx.schedulers import kubernetes_scheduler
    from torchx.schedulers.aws_batch_scheduler import AWSBatchScheduler
    from torchx.schedulers.slurm_scheduler import SLURM_STATES, SlurmScheduler

    role = specs.Role(name="train", image="dlrm:1", resource=specs.Resource(cpu=1, gpu=0, memMB=1000), max_retries=3)
    render = getattr(AWSBatchScheduler._submit_dryrun, "__wrapped__", AWSBatchScheduler._submit_dryrun)
    scheduler = AWSBatchScheduler("test")
    cfg = scheduler.run_opts().resolve({"queue": "dlrm"})
    info = render(scheduler, specs.AppDef("dlrm", roles=[role]), cfg)
    assert {"onExitCode": "0", "action": "EXIT"} in info.request.job_def["retryStrategy"]["evaluateOnExit"]
    own = kubernetes_scheduler.RETRY_POLICIES[specs.RetryPolicy.APPLICATION]
    assert {"event": "PodFailed", "action": "RestartJob"} in own
    assert SLURM_STATES["PENDING"] == specs.AppState.PENDING
    assert callable(SlurmScheduler.describe)
