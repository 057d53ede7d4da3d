"""A rank's part of a global batch, in the layout that torchrec's pipelines move to the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dlrm.data.source import Samples
from dlrm.schema import Schema

# torch spreads a copy of more elements over threads of its own, which in a reader's thread would only get in the way of
# those that compute (measured on two busy cores: a hundredth of the speed).
_SERIAL_ELEMENTS = 32_768

_ID_TYPES = {4: torch.int32, 8: torch.int64}


@dataclass
class Batch(Pipelineable):  # type: ignore[misc]  # torchrec is untyped here
    """B samples of one rank, its part of a global batch or of a micro-batch. Some may be padding.

    Every rank's part of a global batch has the same B, so that shapes agree under every sharding type; where a global
    batch does not divide evenly (or has fewer samples than ranks) the last places are padding: empty bags, which touch
    no row of any table, and weight 0, which adds nothing to the loss or to a metric. A sample that the policy for bad
    rows skips becomes padding at its place, so that ranks need not agree on which samples are bad.

    Tensors are not to be written to: batches share those that are the same for all.

    Attributes:
        dense: float32 (B, N).
        sparse: ids by feature, int32 where that holds those of all tables or else int64, feature-major, as torchrec wants
            them; bags of padding are empty. With weights, float32, where the schema's ids have them.
        labels: float32 (B, T), 0 or 1 (0 for padding and where the label of a task is missing).
        weights: float32 (B, T), the sample's weight for a label, 0 for padding and missing labels.
        loss_scale: float32 (), ranks / samples of the global batch: the mean over ranks (which DDP and torchrec's
            gradient division both take) of loss_scale * sum of the rank's losses is the mean loss of the global batch.
            Skipped samples and missing labels are among them, as no rank knows of another's: they count as a loss of 0.
            So do samples with a weight: their number divides, not the sum of their weights.
        ends_step: whether it is the last micro-batch of its global batch, or the whole.
        constant: of "lengths" (of the bags) and "weights" those that other batches share, so that a device keeps them.
        fresh_rows: of growing tables, by name, the rows that start anew before this batch looks any up; int64, on the CPU.
    """

    dense: torch.Tensor
    sparse: KeyedJaggedTensor
    labels: torch.Tensor
    weights: torch.Tensor
    loss_scale: torch.Tensor
    ends_step: bool = True
    constant: frozenset[str] = frozenset()
    fresh_rows: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch on another device, to which what is constant is copied once, by the stream that copies batches."""

        def there(tensor: torch.Tensor, name: str = "") -> torch.Tensor:
            if name in self.constant:
                return _kept_on(device, tensor, non_blocking)
            return tensor.to(device, non_blocking=non_blocking)

        return Batch(
            dense=there(self.dense),
            sparse=KeyedJaggedTensor(
                keys=self.sparse.keys(),
                values=there(self.sparse.values()),
                weights=None if self.sparse.weights_or_none() is None else there(self.sparse.weights()),
                lengths=there(self.sparse.lengths(), "lengths"),
                stride=self.sparse.stride(),
                length_per_key=self.sparse.length_per_key(),
                offset_per_key=self.sparse.offset_per_key(),
            ),
            labels=there(self.labels),
            weights=there(self.weights, "weights"),
            loss_scale=there(self.loss_scale),
            ends_step=self.ends_step,
            constant=self.constant,
            fresh_rows=self.fresh_rows,
        )

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell CUDA's allocator that ``stream`` uses the memory of this batch."""
        for tensor in (self.dense, self.labels, self.weights, self.loss_scale):
            tensor.record_stream(stream)
        self.sparse.record_stream(stream)


def make_batch(
    samples: Samples,
    schema: Schema,
    *,
    size: int,
    global_samples: int,
    world_size: int,
    pin_memory: bool = False,
    ends_step: bool = True,
) -> Batch:
    """Lay out a rank's samples feature-major and pad them to ``size``.

    Args:
        samples: the rank's samples, at most ``size``.
        schema: columns of the samples.
        size: B, the same on every rank.
        global_samples: samples of the global batch over all ranks (without padding).
        world_size: number of ranks.
        pin_memory: write into page-locked memory, from which copies to a CUDA device overlap with compute.
        ends_step: see :class:`Batch`.
    """
    labels_BT, weights_BT = _labels_and_weights(samples)
    constant = {"lengths"} if samples.lengths_BF is None else set()
    if weights_BT is None:
        constant.add("weights")
        weights_BT = _full_weights(len(samples), size, pin_memory)
    else:
        weights_BT = _placed(weights_BT, size, pin_memory)
    return Batch(
        dense=_placed(samples.dense_BN, size, pin_memory),
        sparse=_sparse(samples, schema, size, pin_memory),
        labels=_placed(labels_BT, size, pin_memory),
        weights=weights_BT,
        loss_scale=torch.tensor(world_size / global_samples, dtype=torch.float32, pin_memory=pin_memory),
        ends_step=ends_step,
        constant=frozenset(constant),
    )


@lru_cache(maxsize=32)  # tensors are equal here if they are the same one
def _kept_on(device: torch.device, tensor: torch.Tensor, non_blocking: bool) -> torch.Tensor:
    return tensor.to(device, non_blocking=non_blocking)


def _labels_and_weights(samples: Samples) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Both (B, T); a missing label is 0 with weight 0. No weights: all are 1."""
    labels_BT = samples.labels_BT
    if labels_BT.shape[1] == 1:  # none is missing: such a sample would have nothing to train
        return labels_BT, None if samples.weights_B is None else samples.weights_B[:, None]
    missing_BT = labels_BT.isnan()
    labels_BT, weights_BT = labels_BT.masked_fill(missing_BT, 0), (~missing_BT).to(labels_BT.dtype)
    return labels_BT, weights_BT if samples.weights_B is None else weights_BT * samples.weights_B[:, None]


@lru_cache(maxsize=16)
def _full_weights(count: int, size: int, pin_memory: bool) -> torch.Tensor:
    """float32 (size, 1): 1, and 0 for padding. All batches of an epoch but the last share one."""
    return _placed(torch.ones(count, 1), size, pin_memory)


def _placed(values_BX: torch.Tensor, size: int, pin_memory: bool) -> torch.Tensor:
    """The values padded with zeros to ``size`` places, in page-locked memory if asked for; not copied without need."""
    if not pin_memory and len(values_BX) == size:
        return values_BX
    placed_BX = torch.empty(size, *values_BX.shape[1:], dtype=values_BX.dtype, pin_memory=pin_memory)
    placed_BX[: len(values_BX)] = values_BX
    placed_BX[len(values_BX) :] = 0
    return placed_BX


def _sparse(samples: Samples, schema: Schema, size: int, pin_memory: bool) -> KeyedJaggedTensor:
    names = [feature.name for feature in schema.sparse]
    hotness_F = tuple(feature.hotness for feature in schema.sparse)
    count, dtype = len(samples), _ID_TYPES[schema.id_bytes]
    weights_BS = samples.id_weights_BS
    if samples.lengths_BF is None:
        return KeyedJaggedTensor(
            keys=names,
            values=_feature_major(samples.ids_BS, hotness_F, dtype, pin_memory),
            weights=None if weights_BS is None else _feature_major(weights_BS, hotness_F, torch.float32, pin_memory),
            lengths=_full_lengths(hotness_F, count, size, pin_memory),
            stride=size,
            length_per_key=[hotness * count for hotness in hotness_F],
        )
    lengths_FB = _placed(samples.lengths_BF, size, False).t().contiguous()
    values = _feature_major_ragged(samples.ids_BS, samples.lengths_BF, hotness_F).to(dtype)
    weights = None
    if weights_BS is not None:
        weights = _feature_major_ragged(weights_BS, samples.lengths_BF, hotness_F)
        weights = _placed(weights, len(weights), pin_memory)
    return KeyedJaggedTensor(
        keys=names,
        values=_placed(values, len(values), pin_memory),
        weights=weights,
        lengths=_placed(lengths_FB.view(-1), lengths_FB.numel(), pin_memory),
        stride=size,
        length_per_key=lengths_FB.sum(1).tolist(),
    )


@lru_cache(maxsize=16)
def _full_lengths(hotness_F: tuple[int, ...], count: int, size: int, pin_memory: bool) -> torch.Tensor:
    """int32 (F * size,): every bag full, those of padding empty. All batches of an epoch but the last share one."""
    lengths_FB = torch.zeros(len(hotness_F), size, dtype=torch.int32)
    lengths_FB[:, :count] = torch.tensor(hotness_F, dtype=torch.int32)[:, None]
    return _placed(lengths_FB.view(-1), lengths_FB.numel(), pin_memory)


def _feature_major(
    ids_BS: torch.Tensor, hotness_F: tuple[int, ...], dtype: torch.dtype, pin_memory: bool
) -> torch.Tensor:
    """All ids of feature 0 over the batch, then all of feature 1, ...; (B * S,). Or their weights."""
    one_hot = max(hotness_F) == 1
    if one_hot and not pin_memory and ids_BS.dtype == dtype and ids_BS.t().is_contiguous():
        return ids_BS.t().reshape(-1)  # what is generated feature by feature lies so already
    values = torch.empty(ids_BS.numel(), dtype=dtype, pin_memory=pin_memory)
    if one_hot:
        values_SB = values.view(ids_BS.shape[::-1])
        step = max(1, _SERIAL_ELEMENTS // len(hotness_F))
        for start in range(0, len(ids_BS), step):
            chunk = slice(start, start + step)
            values_SB[:, chunk].copy_(ids_BS[chunk].t())  # converts and transposes in one pass
        return values
    places = values.split([hotness * len(ids_BS) for hotness in hotness_F])
    for ids_BL, place in zip(ids_BS.split(hotness_F, dim=1), places, strict=True):
        place.view(ids_BL.shape).copy_(ids_BL)
    return values


def _feature_major_ragged(ids_BS: torch.Tensor, lengths_BF: torch.Tensor, hotness_F: tuple[int, ...]) -> torch.Tensor:
    """The ids, or their weights, within the bags' lengths, in the same order."""
    bags = zip(ids_BS.split(hotness_F, dim=1), lengths_BF.t(), strict=True)
    return torch.cat([ids_BL[torch.arange(ids_BL.shape[1]) < length_B[:, None]] for ids_BL, length_B in bags])
