"""A rank's part of a global batch, in the layout that torchrec's pipelines move to the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dlrm.data.source import Samples
from dlrm.schema import Schema


@dataclass
class Batch(Pipelineable):  # type: ignore[misc]  # torchrec is untyped here
    """B samples of one rank, some of which may be padding.

    Every rank's part of a global batch has the same B, so that shapes agree under every sharding type; where a global
    batch does not divide evenly (or has fewer samples than ranks) the last places are padding: empty bags, which touch
    no row of any table, and weight 0, which adds nothing to the loss or to a metric.

    Attributes:
        dense: float32 (B, N).
        sparse: ids by feature, feature-major, as torchrec wants them; bags of padding are empty.
        labels: float32 (B,), 0 or 1 (0 for padding).
        weights: float32 (B,), 1 for a sample, 0 for padding.
        loss_scale: float32 (), ranks / samples of the global batch: the mean over ranks (which DDP and torchrec's
            gradient division both take) of loss_scale * sum of the rank's losses is the mean loss of the global batch.
    """

    dense: torch.Tensor
    sparse: KeyedJaggedTensor
    labels: torch.Tensor
    weights: torch.Tensor
    loss_scale: torch.Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return Batch(
            dense=self.dense.to(device, non_blocking=non_blocking),
            sparse=self.sparse.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            weights=self.weights.to(device, non_blocking=non_blocking),
            loss_scale=self.loss_scale.to(device, non_blocking=non_blocking),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell CUDA's allocator that ``stream`` uses the memory of this batch."""
        for tensor in (self.dense, self.labels, self.weights, self.loss_scale):
            tensor.record_stream(stream)
        self.sparse.record_stream(stream)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a CUDA device overlap with compute."""
        return Batch(
            dense=self.dense.pin_memory(),
            sparse=self.sparse.pin_memory(),
            labels=self.labels.pin_memory(),
            weights=self.weights.pin_memory(),
            loss_scale=self.loss_scale.pin_memory(),
        )


def make_batch(samples: Samples, schema: Schema, *, size: int, global_samples: int, world_size: int) -> Batch:
    """Lay out a rank's samples feature-major and pad them to ``size``.

    Args:
        samples: the rank's samples, at most ``size``.
        schema: columns of the samples.
        size: B, the same on every rank.
        global_samples: samples of the global batch over all ranks (without padding).
        world_size: number of ranks.
    """
    count = len(samples)
    padding = size - count
    hotness_F = torch.tensor([feature.hotness for feature in schema.sparse])
    lengths_FB = torch.zeros(len(schema.sparse), size, dtype=torch.int32)
    lengths_FB[:, :count] = hotness_F[:, None].to(torch.int32)
    sparse = KeyedJaggedTensor(
        keys=[feature.name for feature in schema.sparse],
        values=_feature_major(samples.ids_BS, schema),
        lengths=lengths_FB.view(-1),
        stride=size,
    )
    weights_B = torch.ones(size)
    weights_B[count:] = 0.0
    return Batch(
        dense=torch.nn.functional.pad(samples.dense_BN, (0, 0, 0, padding)),
        sparse=sparse,
        labels=torch.nn.functional.pad(samples.labels_B, (0, padding)),
        weights=weights_B,
        loss_scale=torch.tensor(world_size / global_samples, dtype=torch.float32),
    )


def _feature_major(ids_BS: torch.Tensor, schema: Schema) -> torch.Tensor:
    """All ids of feature 0 over the batch, then all of feature 1, ...; int64 (B * S,)."""
    if schema.ids_per_sample == len(schema.sparse):  # one-hot: a plain transpose
        return ids_BS.t().reshape(-1)
    per_feature = ids_BS.split([feature.hotness for feature in schema.sparse], dim=1)
    return torch.cat([ids_BL.reshape(-1) for ids_BL in per_feature])
