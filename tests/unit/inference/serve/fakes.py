"""Models of tests whose answers are known, and that can be held up."""

import threading

import torch

from dlrm.inference.features import Features
from dlrm.schema import Schema

SCHEMA = Schema.numbered(1, (100,))


def rows(*numbers: float) -> Features:
    """A row for each number."""
    return Features(
        torch.tensor(numbers, dtype=torch.float32)[:, None], torch.zeros(len(numbers), 1, dtype=torch.int32)
    )


class FakeModel:
    """The probability of a row is ``factor`` times its number.

    Attributes:
        batches: the numbers of each batch, in order.
        free: computes while set; busy: released for each batch that was begun.
    """

    schema = SCHEMA

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor
        self.batches: list[list[float]] = []
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Semaphore(0)

    def probabilities(self, features: Features) -> torch.Tensor:
        self.batches.append(features.dense_BN[:, 0].tolist())
        self.busy.release()
        assert self.free.wait(60)
        if (features.dense_BN < 0).any():
            raise RuntimeError("a negative number")
        return features.dense_BN * self.factor
