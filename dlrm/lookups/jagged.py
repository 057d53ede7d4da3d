"""The ids of a batch as the rows that are looked up of them, in torchrec's layout."""

from __future__ import annotations

from functools import lru_cache

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.lookups.plan import Lookups

_ID_TYPES = {4: torch.int32, 8: torch.int64}


class RowsLookedUp:
    """Makes rows of ids, on the host.

    Args:
        lookups: of a model.
    """

    def __init__(self, lookups: Lookups) -> None:
        schema = lookups.schema
        self._lookups = lookups.lookups
        self._names = [lookup.name for lookup in lookups.lookups]
        self._dtype = _ID_TYPES[schema.id_bytes]
        self._feature_L = torch.tensor([lookup.feature for lookup in lookups.lookups])
        self._rows_per_id_L1 = torch.tensor([[lookup.rule.rows_per_id] for lookup in lookups.lookups])
        self._constant_lengths = lru_cache(maxsize=16)(self._lengths)  # tensors are equal here if they are the same one

    def __call__(self, ids: KeyedJaggedTensor, *, constant: bool = False) -> KeyedJaggedTensor:
        """The rows.

        Args:
            ids: int32 or int64, those of every feature in the order of the schema, within the tables' ids.
            constant: whether other batches have the same tensor of lengths; they get the same one of this as well.

        Returns:
            In the order of the lookups; in page-locked memory where the ids are.
        """
        size, starts = ids.stride(), ids.offset_per_key()
        counts = [
            (starts[lookup.feature + 1] - starts[lookup.feature]) * lookup.rule.rows_per_id for lookup in self._lookups
        ]
        given, weights = ids.values(), ids.weights_or_none()
        rows = torch.empty(sum(counts), dtype=self._dtype, pin_memory=given.is_pinned())
        made = None if weights is None else torch.empty(len(rows), dtype=weights.dtype, pin_memory=weights.is_pinned())
        stop = 0
        for lookup, count in zip(self._lookups, counts, strict=True):
            start, stop = stop, stop + count
            of_feature = slice(starts[lookup.feature], starts[lookup.feature + 1])
            lookup.rule.rows(given[of_feature], rows[start:stop])
            if weights is not None and made is not None:
                repeated = weights[of_feature].repeat_interleave(lookup.rule.rows_per_id)
                made[start:stop] = repeated if lookup.weighted else 1
        lengths = (self._constant_lengths if constant else self._lengths)(ids.lengths(), size)
        return KeyedJaggedTensor(
            keys=self._names, values=rows, weights=made, lengths=lengths, stride=size, length_per_key=counts
        )

    def _lengths(self, lengths: torch.Tensor, size: int) -> torch.Tensor:
        lengths_FB = lengths.view(-1, size)
        lengths_LB = lengths_FB[self._feature_L] * self._rows_per_id_L1.to(lengths.dtype)
        made = lengths_LB.view(-1)
        return made.pin_memory() if lengths.is_pinned() else made
