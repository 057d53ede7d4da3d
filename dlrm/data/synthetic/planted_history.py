"""Histories of planted data: a candidate item, and items that were met before, of which those like the candidate count.

Every item has one of K *interests*, item i that of number i modulo K. What a history adds to the logit is

    sum_j [interest of h_j = interest of c] * strength(h_j)

over the items h_j of the history, with c the candidate and strength a property of the item, between 1/2 and 3/2. So an
item counts by what the candidate is. That is attention with weights of 0 and 1 which are not normalised: ten items of the
candidate's interest count ten times as much as one. A sum of the history's vectors, taken before the candidate is known,
has too few numbers to tell K interests apart; that is what a model without attention is left with.

Candidates and items follow Zipf's law. A sample has an *affinity*, the share of its history's items that were drawn among
those of the candidate's interest, between 0 and ``_MOST_ALIKE``. Lengths are uniform between 0 and the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dlrm.config.data.synthetic import PlantedHistory
from dlrm.counter_rng import stream_key, uniform64
from dlrm.data.synthetic.zipf import ZipfQuantiles
from dlrm.schema import SparseFeature

ITEM, HISTORY = "item", "history"
_MOST_ALIKE = 0.4
_LEAST_STRENGTH, _STRENGTHS = 16, 33  # whole numbers, whose sums are exact


@dataclass(frozen=True)
class DrawnHistory:
    """The histories of B samples.

    Attributes:
        item_B: int64, the candidates.
        ids_BL: int64 (B, L), L the longest history there may be; 0 beyond the length.
        lengths_B: int64.
    """

    item_B: torch.Tensor
    ids_BL: torch.Tensor
    lengths_B: torch.Tensor


class Histories:
    """Draws candidates and histories, and knows what they do to the logit.

    Args:
        config: sizes; some history.
        seed: of all planted data.
    """

    def __init__(self, config: PlantedHistory, seed: int) -> None:
        self._config, self._seed = config, seed
        self._item = ZipfQuantiles([config.items], config.zipf_exponent)
        self._strength = _LEAST_STRENGTH + (
            _STRENGTHS * uniform64(stream_key(seed, "planted", "hidden", "strength"), torch.arange(config.items))
        ).to(torch.int64)

    @property
    def features(self) -> tuple[SparseFeature, SparseFeature]:
        """The candidate, and the history of it."""
        config = self._config
        return SparseFeature(ITEM, config.items), SparseFeature(
            HISTORY, config.items, config.max_length, history_of=ITEM
        )

    def draw(self, split: str, index_B: torch.Tensor) -> DrawnHistory:
        """Those of the samples at these indices (int64 (B,)) of a split."""
        longest, interests = self._config.max_length, self._config.interests
        place_BL = index_B[:, None] * longest + torch.arange(longest)

        def uniform(name: str, counters: torch.Tensor) -> torch.Tensor:
            return uniform64(stream_key(self._seed, "planted", split, "history", name), counters)

        item_B = self._items(uniform("item", index_B))
        ids_BL = self._items(uniform("ids", place_BL))
        alike_BL = uniform("alike", place_BL) < _MOST_ALIKE * uniform("affinity", index_B).square_()[:, None]
        ids_BL = torch.where(alike_BL, ids_BL - ids_BL % interests + (item_B % interests)[:, None], ids_BL)
        lengths_B = (uniform("length", index_B) * (longest + 1)).to(torch.int64)
        ids_BL.masked_fill_(torch.arange(longest) >= lengths_B[:, None], 0)
        return DrawnHistory(item_B, ids_BL, lengths_B)

    def effect(self, drawn: DrawnHistory) -> torch.Tensor:
        """The module's sum; float64 (B,), whole numbers."""
        interests = self._config.interests
        counts_BL = drawn.ids_BL % interests == (drawn.item_B % interests)[:, None]
        counts_BL &= torch.arange(drawn.ids_BL.shape[1]) < drawn.lengths_B[:, None]
        return (self._strength.take(drawn.ids_BL) * counts_BL).sum(1).to(torch.float64)

    def _items(self, quantiles: torch.Tensor) -> torch.Tensor:
        items = torch.empty(quantiles.numel(), 1, dtype=torch.int64)
        self._item(quantiles.reshape(-1, 1), items)
        return items.view(quantiles.shape)
