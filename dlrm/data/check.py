"""The last look at samples before they are trained on: whatever the source, nothing bad reaches a device.

fbgemm's own bounds check would clamp a bad id to row 0 and train on it, and its verdict differs between sharding types.
What happens to a bad value is a policy (:data:`dlrm.config.data.packed.BadRows`); whatever is let pass is counted.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from dlrm.compiled import compiled
from dlrm.data.bounds import mended, outside
from dlrm.data.source import Samples, Source
from dlrm.distributed.collectives import Collectives
from dlrm.errors import DataError
from dlrm.format import escaped
from dlrm.schema import Schema

SKIPPED = "skipped samples"
_SKIP = "or, where the data has the option, set data.bad_rows to skip"


class BadValueCounts:
    """How many bad values were let pass, by column; exact sums that threads may add to and anyone may read.

    Attributes:
        columns: names of what is counted: dense columns (not finite), tables (ids outside), where ids may be null tables
            once more (nulls), the labels (neither 0 nor 1), weights of samples and of ids where there are some (negative or
            not finite) and, last, the samples that were skipped for any of these.
    """

    def __init__(self, schema: Schema, *, nulls: bool = False) -> None:
        tables = [feature.name for feature in schema.sparse]
        null_tables = [f"{name} (null)" for name in tables] if nulls else []
        self.columns = (*schema.dense, *tables, *null_tables, *schema.tasks, *weight_columns(schema), SKIPPED)
        self._counts_C = torch.zeros(len(self.columns), dtype=torch.int64)
        self._lock = threading.Lock()

    def add(self, counts_C: torch.Tensor) -> None:
        """Add int64 counts, in the order of ``columns``."""
        with self._lock:
            self._counts_C += counts_C

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._counts_C.zero_()

    def snapshot(self) -> torch.Tensor:
        """The counts so far, int64 (C,), of all samples that this rank has read (also ahead); ranks may sum them."""
        with self._lock:
            return self._counts_C.clone()

    def by_column(self, counts_C: torch.Tensor) -> dict[str, int]:
        """A snapshot, or a sum of snapshots, by column; columns without a bad value are left out."""
        return {name: count for name, count in zip(self.columns, counts_C.tolist(), strict=True) if count}

    def summed(self, collectives: Collectives) -> dict[str, int]:
        """The counts so far of all ranks, by column; collective."""
        counts_C = self.snapshot()
        collectives.all_reduce_sum_(counts_C)
        return self.by_column(counts_C)


def bad_values_text(counts: dict[str, int]) -> str:
    """Counts by column for people."""
    return ", ".join(f"{escaped(column)}: {count:,}" for column, count in counts.items())


def weight_columns(schema: Schema) -> list[str]:
    """What counts of bad values call the columns of weights; the same one may give the ids of several features theirs."""
    of_ids = [f"{feature.name} (weights)" for feature in schema.sparse if feature.weights]
    return [schema.sample_weight, *of_ids] if schema.sample_weight else of_ids


class SampleCheck:
    """Checks samples of one source against its schema. Threads may share one.

    What becomes of a bad value is the source's policy, ``bad_rows``. ``error``; ``hash``: a bad id modulo the table's rows;
    ``clamp``: the nearest valid id; ``skip``: the sample keeps its place in the batch, with empty bags and weight 0. A
    dense value that is not finite, a label other than 0 and 1 and a weight that is negative or not finite are errors unless
    they are skipped. Of the labels of
    several tasks some may be missing (NaN), but not all of a sample.

    Args:
        source: where the samples come from; its table sizes bound the ids.
    """

    def __init__(self, source: Source) -> None:
        sparse = source.schema.sparse
        self._source = source
        self._policy = source.bad_rows
        self._null_id = source.null_id
        self._dense_names, self._tasks = source.schema.dense, source.schema.tasks
        self._id_names = [feature.name for feature in sparse for _ in range(feature.hotness)]
        self._hotness_F = torch.tensor([feature.hotness for feature in sparse], dtype=torch.int32)
        self._feature_S = torch.arange(len(sparse)).repeat_interleave(self._hotness_F)
        self._rows_S = torch.tensor([feature.rows for feature in sparse])[self._feature_S]
        # An int32 id is below 2^31 anyway, and a negative one is at least that as an unsigned number.
        self._bounds: dict[torch.dtype, NDArray[np.uint32] | NDArray[np.uint64]] = {
            torch.int32: self._rows_S.clamp(max=2**31).numpy().astype(np.uint32),
            torch.int64: self._rows_S.numpy().astype(np.uint64),
        }
        self._weighted = [number for number, feature in enumerate(sparse) if feature.weights]
        self._weights_names = [feature.weights for feature in sparse]
        self._sample_weight = source.schema.sample_weight
        self.counts = BadValueCounts(source.schema, nulls=self._null_id is not None)

    def __call__(self, samples: Samples, index_B: torch.Tensor) -> Samples:
        """The samples as they may be trained on: the same object where all is well.

        Args:
            samples: what the source gave.
            index_B: int64, the indices that were asked for; errors name the file and row they stand for.

        Raises:
            DataError: an id outside of its table, a dense value that is not finite, a label other than 0 and 1, a weight
                that is negative or not finite.
        """
        bound_S = self._bounds[samples.ids_BS.dtype]
        ids_BS = samples.ids_BS.numpy().view(bound_S.dtype)
        bits_BN = samples.dense_BN.numpy().view(np.uint32)
        good = _all_good(ids_BS, bound_S, bits_BN, samples.labels_BT.numpy(), len(self._tasks) - 1)
        if good and not _are_bad(samples.weights_B).any() and not _are_bad(samples.id_weights_BS).any():
            return samples
        return self._apply_policy(samples, index_B)

    def _apply_policy(self, samples: Samples, index_B: torch.Tensor) -> Samples:
        ids_BS = samples.ids_BS
        bad_ids_BS = outside(ids_BS, self._rows_S)
        bad_dense_BN = ~samples.dense_BN.isfinite()
        bad_labels_BT = self._bad_labels(samples.labels_BT)
        if self._policy == "error":
            self._refuse_ids(samples, bad_ids_BS, index_B)
        if self._policy == "skip":
            bad_B = bad_ids_BS.any(1) | bad_dense_BN.any(1) | bad_labels_BT.any(1)
            bad_B |= _are_bad(samples.weights_B).view(-1) | _are_bad(samples.id_weights_BS).any(1)
            self._count(samples, bad_ids_BS, bad_dense_BN, bad_labels_BT, bad_B)
            return self._skipped(samples, bad_B)
        self._refuse_others(samples, bad_dense_BN, bad_labels_BT, index_B)
        self._refuse_weights(samples, index_B)
        self._count(samples, bad_ids_BS, bad_dense_BN, bad_labels_BT, torch.zeros(len(samples), dtype=torch.bool))
        return replace(samples, ids_BS=mended(ids_BS, self._rows_S, self._policy).to(ids_BS.dtype))

    def _bad_labels(self, labels_BT: torch.Tensor) -> torch.Tensor:
        """Which labels (bool, (B, T)) are neither 0 nor 1, nor missing where they may be."""
        bad_BT = (labels_BT != 0) & (labels_BT != 1)
        if len(self._tasks) == 1:
            return bad_BT
        missing_BT = labels_BT.isnan()
        return bad_BT & (~missing_BT | missing_BT.all(1, keepdim=True))

    def _skipped(self, samples: Samples, bad_B: torch.Tensor) -> Samples:
        lengths_BF = self._hotness_F.expand(len(samples), -1) if samples.lengths_BF is None else samples.lengths_BF
        weights_B = torch.ones(len(samples)) if samples.weights_B is None else samples.weights_B
        id_weights_BS = samples.id_weights_BS
        return Samples(
            dense_BN=samples.dense_BN.masked_fill(bad_B[:, None], 0),
            ids_BS=samples.ids_BS.masked_fill(bad_B[:, None], 0),
            labels_BT=samples.labels_BT.masked_fill(bad_B[:, None], 0),
            lengths_BF=lengths_BF.masked_fill(bad_B[:, None], 0),
            weights_B=weights_B.masked_fill(bad_B, 0),
            id_weights_BS=None if id_weights_BS is None else id_weights_BS.masked_fill(bad_B[:, None], 0),
        )

    def _count(
        self,
        samples: Samples,
        ids_BS: torch.Tensor,
        dense_BN: torch.Tensor,
        labels_BT: torch.Tensor,
        skip_B: torch.Tensor,
    ) -> None:
        by_table = [self._by_table(ids_BS)]
        if self._null_id is not None:
            null_BS = samples.ids_BS == self._null_id
            by_table = [self._by_table(ids_BS & ~null_BS), self._by_table(null_BS)]
        weights = [_are_bad(samples.weights_B).sum()[None]] if self._sample_weight else []
        if self._weighted:
            weights.append(self._by_table(_are_bad(samples.id_weights_BS))[self._weighted])
        self.counts.add(torch.cat([dense_BN.sum(0), *by_table, labels_BT.sum(0), *weights, skip_B.sum()[None]]))

    def _by_table(self, bad_BS: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(self._hotness_F), dtype=torch.int64).index_add_(0, self._feature_S, bad_BS.sum(0))

    def _refuse_ids(self, samples: Samples, bad_BS: torch.Tensor, index_B: torch.Tensor) -> None:
        if bad_BS.any():
            at, column = bad_BS.nonzero()[0].tolist()
            found, last = samples.ids_BS[at, column].item(), self._rows_S[column].item() - 1
            shown = f"null (or {found})" if found == self._null_id else found
            raise self._error(
                index_B[at],
                self._id_names[column],
                f"id {shown} is outside of its table (0 .. {last})",
                "enlarge the table, mend the data or, where the data has the option, set data.bad_rows",
            )

    def _refuse_others(
        self, samples: Samples, bad_BN: torch.Tensor, bad_labels_BT: torch.Tensor, index_B: torch.Tensor
    ) -> None:
        hint = "mend the data " + _SKIP
        if bad_BN.any():
            at, column = bad_BN.nonzero()[0].tolist()
            problem = f"{samples.dense_BN[at, column].item()} is not finite"
            raise self._error(index_B[at], self._dense_names[column], problem, hint)
        if bad_labels_BT.any():
            at, task = bad_labels_BT.nonzero()[0].tolist()
            label = samples.labels_BT[at, task].item()
            problem = "the label is missing (null or NaN)" if math.isnan(label) else f"{label} is neither 0 nor 1"
            raise self._error(index_B[at], self._tasks[task], problem, hint)

    def _refuse_weights(self, samples: Samples, index_B: torch.Tensor) -> None:
        found = ((samples.weights_B, self._sample_weight), (samples.id_weights_BS, ""))
        for weights, column in found:
            bad = _are_bad(weights)
            if not bad.any() or weights is None:
                continue
            at, *place = bad.nonzero()[0].tolist()
            column = column or self._weights_names[int(self._feature_S[place[0]])]
            weight = weights[at, place[0]].item() if place else weights[at].item()
            problem = (
                "the weight is missing (null or NaN)" if math.isnan(weight) else f"the weight {weight:g} is infinite"
            )
            if weight < 0:
                problem = f"the weight {weight:g} is negative"
            raise self._error(
                index_B[at], column, problem, "a weight is a finite number from 0 on: mend the data, " + _SKIP
            )

    def _error(self, index: torch.Tensor, column: str, problem: str, hint: str) -> DataError:
        path, row = self._source.locate(int(index.item()), column)
        return DataError(path, problem, row=row, column=column, hint=hint)


def _are_bad(weights: torch.Tensor | None) -> torch.Tensor:
    """Which weights (bool, of their shape) are negative or not finite; without weights one that is not."""
    return torch.zeros(1, 1, dtype=torch.bool) if weights is None else ~((weights >= 0) & (weights < math.inf))


@compiled
def _all_good(
    ids_BS: NDArray[np.unsignedinteger],
    bound_S: NDArray[np.unsignedinteger],
    bits_BN: NDArray[np.uint32],
    labels_BT: NDArray[np.float32],
    may_miss: int,
) -> bool:
    """Whether ids are below their bounds, dense values (as bits) finite and labels 0 or 1, ``may_miss`` of them NaN.

    One pass without intermediate results, many times as fast as elementwise masks.
    """
    exponent = np.uint32(0x7F800000)  # all ones in what is infinite or no number
    for b in range(len(labels_BT)):
        bad = False
        missing = 0
        for t in range(labels_BT.shape[1]):
            label = labels_BT[b, t]
            missing += label != label
            bad |= (label != 0) & (label != 1) & (label == label)
        bad |= missing > may_miss
        for s in range(len(bound_S)):
            bad |= ids_BS[b, s] >= bound_S[s]
        for n in range(bits_BN.shape[1]):
            bad |= (bits_BN[b, n] & exponent) == exponent
        if bad:
            return False
    return True
