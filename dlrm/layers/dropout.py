"""Dropout (Srivastava et al., JMLR 2014) whose masks do not depend on the number of ranks or on restarts."""

from __future__ import annotations

import torch
from torch import nn

from dlrm.counter_rng import random_bits

_LANES = 4  # 16-bit numbers in one 64-bit draw: four hidden units a draw
_LEVELS = 1 << 16
_STEP_SHIFT = 40  # room for 2^40 draws a step: a global batch of 2^24 samples in a layer of 2^18 units


class SampleDropout(nn.Module):
    """Drops hidden units in training, decided by (key, step, position of the sample in it, unit).

    A step is here a global batch, or each of its micro-batches. The ranks' parts of it must have the same size and follow
    each other: sample i of rank r is number r * B + i.

    Attributes:
        steps: int64 (), such steps so far; saved with the weights, so that a resumed run draws what it would have.
    """

    steps: torch.Tensor

    def __init__(self, share: float, *, key: int, rank: int = 0) -> None:
        """Make the layer.

        Args:
            share: of the units that are dropped, in [0, 1); rounded to 1/65536.
            key: from :func:`dlrm.counter_rng.stream_key`.
            rank: which part of the global batch this process computes.
        """
        super().__init__()
        dropped = min(round(share * _LEVELS), _LEVELS - 1)
        self.first_kept = dropped - _LEVELS // 2  # 16-bit numbers are signed
        self.scale = _LEVELS / (_LEVELS - dropped)
        self.key = key
        self.rank = rank
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, hidden_BH: torch.Tensor) -> torch.Tensor:
        """The same tensor in evaluation; in training with some units zero and the others scaled up, (B, H).

        In training bfloat16 becomes float32: the scale, rounded to 8 bits, would move the mean of what is kept.
        """
        if not self.training:
            return hidden_BH
        kept_BH = self._kept(*hidden_BH.shape)
        self.steps += 1
        of_scale = torch.promote_types(hidden_BH.dtype, torch.float32)
        return hidden_BH * kept_BH.to(of_scale).mul_(self.scale)

    def _kept(self, samples: int, units: int) -> torch.Tensor:
        draws = -(-units // _LANES)
        sample_B = torch.arange(self.rank * samples, (self.rank + 1) * samples, device=self.steps.device)
        draw_H = torch.arange(draws, device=self.steps.device)
        counters_BH = (self.steps << _STEP_SHIFT) + sample_B[:, None] * draws + draw_H
        return random_bits(self.key, counters_BH).view(torch.int16)[:, :units] >= self.first_kept
