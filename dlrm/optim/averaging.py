"""An exponential moving average of weights, for evaluation (Polyak and Juditsky 1992 averaged all iterates alike)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

_WARM_UP_STEPS = 10


class Averaging(Protocol):
    """Follows the weights of training and can stand in for them."""

    def update(self) -> None:
        """Take the weights of a step into account."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside."""
        yield


class RowCache(Protocol):
    """Newer copies of rows of the weights, held by the kernels that train them (tables in host memory)."""

    def flush(self) -> None:
        """Bring the weights up to date."""

    def purge(self) -> None:
        """Forget the copies: the weights have been written to."""


class NoCache:
    """The weights are where training changes them."""

    def flush(self) -> None:
        """Nothing to bring."""

    def purge(self) -> None:
        """Nothing to forget."""


class NoAverage:
    """The weights themselves."""

    def update(self) -> None:
        """Nothing to follow."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model as it is."""
        yield


class ExponentialAverage:
    """avg <- d * avg + (1 - d) * weight after step n, with d = min(decay, n / (n + 10)): early weights fade fast.

    Element by element, so every rank averages what it holds and no plan changes the result.

    Args:
        weights: this rank's parts of all weights, float; they are read and, while applied, exchanged in place.
        decay: d once training is under way.
        cache: where rows may be newer than in ``weights``.

    Attributes:
        steps: int64 (), n; on the CPU.
    """

    def __init__(self, weights: Sequence[torch.Tensor], decay: float, cache: RowCache | None = None) -> None:
        self._weights, self._cache = list(weights), cache or NoCache()
        self._cache.flush()
        self._averages = [weight.detach().clone() for weight in weights]
        self._average_at = {weight.data_ptr(): average for weight, average in zip(weights, self._averages, strict=True)}
        self._decay = decay
        self.steps = torch.zeros((), dtype=torch.int64)

    def average_of(self, weight: torch.Tensor) -> torch.Tensor:
        """The average of one of the weights: the tensor that goes on following it."""
        return self._average_at[weight.data_ptr()]

    @torch.no_grad()
    def start_from_weights(self) -> None:
        """Begin anew from what the weights are now."""
        self.steps.zero_()
        self._cache.flush()
        torch._foreach_copy_(self._averages, self._weights)

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of a step into account."""
        self.steps += 1
        steps = int(self.steps)
        decay = min(self._decay, steps / (steps + _WARM_UP_STEPS))
        self._cache.flush()
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        self._cache.flush()
        for weight, average in zip(self._weights, self._averages, strict=True):
            own = weight.clone()
            weight.copy_(average)
            average.copy_(own)
        self._cache.purge()
