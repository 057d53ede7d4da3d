"""Whether samples that are to tell how good a model is are samples that it was trained on.

Samples of a split are known by a 64-bit hash of all they hold, labels included, and looked for among as many training
samples as time permits. Samples of few columns coincide by chance, so as many training samples are looked for among the
*other* training samples: what of the split is found beyond that is overlap. If a share f of the training samples was read,
a share f of what is there was found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.data.check import SampleCheck
from dlrm.data.source import Samples, Source
from dlrm.diagnose.finding import Finding, percent
from dlrm.diagnose.labels import DEVIATIONS, Split
from dlrm.diagnose.sample import Deadline, Ints, SampledRows, spread_order

LEAST_OVERLAP = 0.01
"""What makes a hundredth of a split look better than it is changes its AUC by 0.005 at most."""
_LEAST_FOUND = 20
_CHUNK = 1 << 12

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """Of a split: samples looked for, how many were found in training, and the same of training samples among the others.

    Attributes:
        read, samples: training samples that were read, of how many.
    """

    split: str
    looked_for: int
    found: int
    control: int
    control_found: int
    read: int
    samples: int

    @property
    def share(self) -> float:
        """The share of the split that is in training, beyond what coincides; an estimate unless all was read."""
        beyond = self.found / self.looked_for - self.control_found / self.control
        return min(1.0, max(0.0, beyond) * self.samples / self.read)

    @property
    def is_significant(self) -> bool:
        """Whether that is more than chance gives (two proportions, pooled) and enough to matter."""
        pooled = (self.found + self.control_found) / (self.looked_for + self.control)
        deviation = math.sqrt(pooled * (1 - pooled) * (1 / self.looked_for + 1 / self.control))
        beyond = self.found / self.looked_for - self.control_found / self.control
        return self.found >= _LEAST_FOUND and beyond > DEVIATIONS * deviation and self.share >= LEAST_OVERLAP


def find_overlaps(source: Source, train: SampledRows, others: Sequence[Split], deadline: Deadline) -> list[Overlap]:
    """Look for samples of other splits among those of training.

    Args:
        source: of the training samples.
        train: some of them.
        others: samples of other splits.
        deadline: when to stop reading; one chunk is read all the same.

    Raises:
        DataError: a sample cannot be read.
    """
    others = [split for split in others if len(split.rows)]
    if not others or not len(train):
        return []
    wanted = [_Wanted(hashes(split.rows)) for split in others]
    control = _Wanted(hashes(train), own=train.index_M)
    read = 0
    check = SampleCheck(source)
    count = -(-source.num_samples // _CHUNK)
    for number in spread_order(count):
        if read and deadline.is_over():
            break
        index_B = torch.arange(number * _CHUNK, min((number + 1) * _CHUNK, source.num_samples))
        found_B = hashes_of(check(source.read(index_B), index_B))
        for one in (*wanted, control):
            one.look(found_B, int(index_B[0]))
        read += len(index_B)
    return [
        Overlap(split.name, len(split.rows), one.found, len(train), control.found, read, source.num_samples)
        for split, one in zip(others, wanted, strict=True)
    ]


def judge_overlap(overlap: Overlap) -> Finding | None:
    """What there is to say of it; nothing where it is no more than chance."""
    if not overlap.is_significant:
        return None
    whole = overlap.read == overlap.samples
    said = (
        f"{'' if whole else 'about '}{percent(overlap.share)} of the {overlap.split} samples are training samples, too, "
        f"every column and the label alike ({overlap.found:,} of {overlap.looked_for:,} found in {overlap.read:,} of "
        f"{overlap.samples:,}; of training samples {overlap.control_found:,} of {overlap.control:,} come again)"
    )
    hint = "split the rows so that none is in both: the figures of that split say how well the model remembers"
    return Finding("overlapping_splits", said, hint)


class _Wanted:
    """Hashes that are looked for, and which of them were found.

    Args:
        hash_M: of the samples; own: their indices, if they are samples of what is looked through: none finds itself.
    """

    def __init__(self, hash_M: Hashes, own: Ints | None = None) -> None:
        self._sorted, self._place_M = np.unique(hash_M, return_inverse=True)
        self._count = np.zeros(len(self._sorted), np.int64)
        self._own_M, self._seen_M = own, np.zeros(len(hash_M), np.int64)

    def look(self, found_B: Hashes, first: int) -> None:
        """Look through samples ``first`` .. of the training samples."""
        at_B = np.minimum(np.searchsorted(self._sorted, found_B), len(self._sorted) - 1)
        self._count += np.bincount(at_B[self._sorted[at_B] == found_B], minlength=len(self._sorted))
        if self._own_M is not None:
            self._seen_M += (self._own_M >= first) & (self._own_M < first + len(found_B))

    @property
    def found(self) -> int:
        """How many of the samples came (once more)."""
        return int((self._count[self._place_M] > self._seen_M).sum())


def hashes(rows: SampledRows) -> Hashes:
    """uint64 (M,) of sampled rows; see :func:`hashes_of`."""
    return _hashes(rows.dense_MN, rows.ids_MS, rows.lengths_MF, rows.labels_MT)


def hashes_of(samples: Samples) -> Hashes:
    """uint64 (B,): equal for samples that are alike in every column and label; others coincide once in 2^64 pairs."""
    lengths = None if samples.lengths_BF is None else samples.lengths_BF.numpy()
    return _hashes(samples.dense_BN.numpy(), samples.ids_BS.numpy(), lengths, samples.labels_BT.numpy())


def _hashes(
    dense_BN: NDArray[np.float32],
    ids_BS: NDArray[np.integer],
    lengths_BF: NDArray[np.integer] | None,
    labels_BT: NDArray[np.float32],
) -> Hashes:
    state_B = np.zeros(len(labels_BT), np.uint64)
    blocks: list[NDArray[np.integer]] = [_bits(dense_BN), ids_BS, _bits(labels_BT)]
    if lengths_BF is not None:
        blocks.append(lengths_BF)
    for block in blocks:
        for column in block.T:
            state_B = _mix(state_B + np.uint64(0x9E3779B97F4A7C15) ^ column.astype(np.int64).view(np.uint64))
    return state_B


def _bits(values: NDArray[np.float32]) -> NDArray[np.integer]:
    """The bits of numbers, one zero and one missing value whatever their sign and payload."""
    plain = np.where(np.isnan(values), np.float32(np.nan), values) + np.float32(0)
    return np.ascontiguousarray(plain).view(np.uint32)


def _mix(state_B: Hashes) -> Hashes:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), a bijection."""
    state_B = (state_B ^ (state_B >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state_B = (state_B ^ (state_B >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state_B ^ (state_B >> np.uint64(31)))
