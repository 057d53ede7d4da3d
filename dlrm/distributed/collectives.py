"""The few collectives that are used outside of torchrec, and their one-process twin.

Everything that must be the same on every rank although only one rank can know it (a plan, a file's contents, a mistake
in them) goes through here. None of these is called after a failure: a rank that failed leaves, and the launcher ends the
others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from dlrm.distributed.sealed import seal, unseal
from dlrm.errors import DlrmError

T = TypeVar("T")


class Collectives(Protocol):
    """What ranks say to each other."""

    rank: int
    world_size: int

    def all_reduce_sum_(self, tensor: torch.Tensor) -> None:
        """Replace ``tensor`` by its sum over all ranks."""

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's ``value``, by rank, on every rank."""

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's ``value`` on every rank; that of the others is not looked at."""

    def all_to_all(self, tensor: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        """Send each rank a part of ``tensor``, on the CPU, and return what they send, one after the other.

        Args:
            tensor: the parts for rank 0, 1, ... one after the other along the first dimension.
            sent: how long the part for each rank is.
            received: how long the part of each rank is.
        """

    def barrier(self) -> None:
        """Return when every rank has called it."""


class OneProcess:
    """The collectives of a world with one rank."""

    rank = 0
    world_size = 1

    def all_reduce_sum_(self, tensor: torch.Tensor) -> None:
        """The sum over one rank is what is there."""

    def all_gather_object(self, value: Any) -> list[Any]:
        """A list of one."""
        return [value]

    def broadcast_object(self, value: Any) -> Any:
        """What is there."""
        return value

    def all_to_all(self, tensor: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        """What is there."""
        return tensor

    def barrier(self) -> None:
        """Nobody to wait for."""


class ProcessGroup:
    """The collectives of torch.distributed's default group.

    Objects are pickled, and signed with the job's secret (see :mod:`dlrm.distributed.sealed`), so that a rank unpickles
    what ranks of this job have sent and nothing else; torch's own ``all_gather_object`` would unpickle anything.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def all_reduce_sum_(self, tensor: torch.Tensor) -> None:
        """Replace ``tensor`` by its sum over all ranks."""
        dist.all_reduce(tensor)

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's ``value``, by rank, on every rank."""
        sealed = _as_tensor(seal(value, sender=self.rank))
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(sealed)]))
        longest = max(int(size) for size in sizes)
        padded = torch.cat([sealed, torch.zeros(longest - len(sealed), dtype=torch.uint8)])
        gathered = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        dist.all_gather(gathered, padded)
        return [
            unseal(bytes(row[: int(size)].numpy()), sender=rank)
            for rank, (row, size) in enumerate(zip(gathered, sizes, strict=True))
        ]

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's ``value`` on every rank."""
        sealed = _as_tensor(seal(value, sender=0)) if self.rank == 0 else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([len(sealed)])
        dist.broadcast(size, src=0)
        if self.rank:
            sealed = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(sealed, src=0)
        return value if self.rank == 0 else unseal(bytes(sealed.numpy()), sender=0)

    def all_to_all(self, tensor: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        """Send each rank a part of ``tensor``, on the CPU, and return what they send, one after the other."""
        found = tensor.new_empty(sum(received), *tensor.shape[1:])
        dist.all_to_all_single(found, tensor, list(received), list(sent))
        return found

    def barrier(self) -> None:
        """Return when every rank has called it.

        By gloo on CUDA, too: it notices at once that a rank has left, and torch's own would take NCCL there.
        """
        dist.all_reduce(torch.zeros(1))


def _as_tensor(sealed: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(sealed), dtype=torch.uint8)


def together(collectives: Collectives, action: Callable[[], T]) -> T:
    """Run ``action`` on every rank; where it meets a user error on any rank, raise that error on every rank.

    The error of the lowest rank is the one all ranks raise, so that one line says it and nobody waits for a rank that
    has left.
    """
    result: list[T] = []
    error: DlrmError | None = None
    try:
        result.append(action())
    except DlrmError as caught:
        error = caught
    for rank, found in enumerate(collectives.all_gather_object(error)):
        if found is not None:
            raise error if error is not None and rank == collectives.rank else found  # its own has a traceback
    return result[0]


def from_rank_0(collectives: Collectives, action: Callable[[], T]) -> T:
    """Run ``action`` on rank 0 alone and return its result, or raise its user error, on every rank."""
    outcome: T | DlrmError | None = None
    if collectives.rank == 0:
        try:
            outcome = action()
        except DlrmError as error:
            outcome = error
    outcome = collectives.broadcast_object(outcome)
    if isinstance(outcome, DlrmError):
        raise outcome
    return outcome  # no error, so the result of action
