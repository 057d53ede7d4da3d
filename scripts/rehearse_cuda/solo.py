"""One rank of a job whose other ranks do not exist: each is taken to be like this one.

NCCL's stand-in does the same for tensors (REHEARSAL_SOLO); here is what goes through the store and through gloo.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

_ID_BYTES = 128  # of NCCL's unique id


def stand_in_for_others() -> None:
    """Join alone, plan here, and hear from the others what this rank says."""
    from torch.testing._internal.distributed import fake_pg  # noqa: F401  # registers the backend "fake"
    from torchrec.distributed import model_parallel

    from dlrm.distributed import world
    from dlrm.distributed.collectives import ProcessGroup, from_rank_0

    init_process_group = dist.init_process_group

    def join(backend: str, **given: Any) -> None:
        given.pop("device_id", None)  # groups would be split off, and how large a part is only all ranks together know
        init_process_group(backend.replace("gloo", "fake"), **given)

    dist.init_process_group = join
    world._open_store = lambda rank_info, timeout: _Store()
    world.leave_together = lambda *args: None
    world.devices.share = lambda mine, **kwargs: [mine]
    ProcessGroup.all_gather_object = lambda self, value: [value] * self.world_size  # type: ignore[method-assign]
    ProcessGroup.broadcast_object = lambda self, value: value  # type: ignore[method-assign]
    from_rank_0.__code__ = _do_it_here.__code__  # in place, because many modules have imported it by name
    dist.all_to_all_single = _told_by_others(dist.all_to_all_single)
    model_parallel.init_collective_validation = lambda group: None  # it compares what the ranks say, by gloo


def _told_by_others(all_to_all: Callable[..., Any]) -> Callable[..., Any]:
    """On the host, where the backend "fake" leaves the output alone: others send here what this rank sends to itself."""

    def exchanged(output: torch.Tensor, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        work = all_to_all(output, input, *args, **kwargs)
        if not input.is_cuda:
            group = kwargs.get("group")
            ranks = dist.get_world_size(group)
            output.view(ranks, -1).copy_(input.view(ranks, -1)[dist.get_rank(group)].expand(ranks, -1))
        return work

    return exchanged


def _do_it_here(collectives: Any, action: Any) -> Any:
    return action()


class _Store(dist.Store):  # type: ignore[misc]
    """What is asked of others is there at once. It is NCCL's name of a communicator, which matters to nobody here."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, bytes] = {}

    def set(self, key: str, value: bytes | str) -> None:
        self._values[key] = value.encode() if isinstance(value, str) else value

    def get(self, key: str) -> bytes:
        return self._values.get(key, bytes(_ID_BYTES))

    def add(self, key: str, amount: int) -> int:
        value = int(self._values.get(key, b"0")) + amount
        self._values[key] = str(value).encode()
        return value

    def wait(self, keys: list[str], timeout: Any = None) -> None:
        pass

    def check(self, keys: list[str]) -> bool:
        return all(key in self._values for key in keys)

    def set_timeout(self, timeout: Any) -> None:
        pass
