"""What the average of weights has gone through in steps that did not change a row, made again."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dlrm.checkpoint.delta.format import AverageRecord
from dlrm.checkpoint.tensors import GlobalTensor, Shard
from dlrm.optim.averaging import ExponentialAverage

_PART_BYTES = 1 << 20
"""Rows that go through all steps before the next do: they stay in the cache, and one part's memory is needed besides."""


def replay_average(table: Mapping[str, GlobalTensor], record: AverageRecord) -> None:
    """Let the averages of all rows of a table follow the weights as they are, in place.

    Element by element the arithmetic is that of training, so that rows whose weights have not changed come out equal to
    the bit, on the same kind of device.

    Args:
        table: its tensors by name; without ``weight`` or ``average`` nothing happens.
        record: which steps of the average.
    """
    if "weight" not in table or "average" not in table:
        return
    weights = {tuple(shard.offsets): shard for shard in table["weight"].shards}
    for shard in table["average"].shards:
        _replay_shard(weights[tuple(shard.offsets)].tensor.detach(), shard, record)


def _replay_shard(weight_RC: torch.Tensor, average: Shard, record: AverageRecord) -> None:
    average_RC = average.tensor.detach()
    rows = max(1, _PART_BYTES // max(1, weight_RC.shape[1] * weight_RC.element_size()))
    for weight_NC, average_NC in zip(weight_RC.split(rows), average_RC.split(rows), strict=True):
        following = ExponentialAverage([weight_NC], record.decay)
        following.steps.fill_(record.first)
        moving_NC = following.average_of(weight_NC)
        moving_NC.copy_(average_NC)
        for _ in range(record.last - record.first):
            following.update()
        average_NC.copy_(moving_NC)
