"""Histories as a candidate sees them: target attention over jagged rows, without padding.

A *history* of a sample is any number of vectors, none included; the *candidate* is the one vector of the feature that the
history is of. Shape suffixes besides those of :mod:`dlrm.models`: R rows of all samples' histories, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from dlrm.config.model import Attention, LocalActivation
from dlrm.layers.mlp import MLP


class LocalActivationUnit(nn.Module):
    """Weighs each row of a history by an MLP of the row and the candidate (arXiv:1706.06978, section 4.3, figure 2).

    The MLP's input are the row h, the candidate c, c - h and c * h, as in the authors' published code; the paper's figure
    has an "out product" in the place of the last two. Its hidden layers are followed by ReLU. The paper's Dice (section
    5.2) is left out: it needs mean and variance of the batch, so that training would depend on how ranks divide it.
    """

    def __init__(self, dim: int, config: LocalActivation) -> None:
        super().__init__()
        self.weigh = MLP(4 * dim, (*config.hidden, 1), relu_last=False)

    def forward(self, candidate_BD: torch.Tensor, rows_RD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """sum_j a(h_j, c) h_j over each sample's rows (equation 3); float32 (B, D), zeros for an empty history."""
        candidate_RD = spread(candidate_BD, lengths_B, len(rows_RD))
        pairs_RX = torch.cat((rows_RD, candidate_RD, candidate_RD - rows_RD, candidate_RD * rows_RD), dim=1)
        return sums_by_sample(self.weigh(pairs_RX) * rows_RD, lengths_B)


class PlainSum(nn.Module):
    """Weighs all rows alike: the paper's BaseModel (section 4.2)."""

    def forward(self, candidate_BD: torch.Tensor, rows_RD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """The sum over each sample's rows; float32 (B, D)."""
        return sums_by_sample(rows_RD, lengths_B)


class AttendedHistories(nn.Module):
    """What unpooled tables return, side by side: the candidates, then each history as its candidate sees it.

    (A module of its own because the pipelines trace what holds tables; this depends on names and sizes.)

    Attributes:
        units: one a history, in order.
    """

    def __init__(self, candidates: Sequence[str], histories: Mapping[str, str], dim: int, config: Attention) -> None:
        """Make the module.

        Args:
            candidates: features, each once.
            histories: by name the candidate that each is of.
            dim: D, of all of them.
            config: how histories are summed.
        """
        super().__init__()
        self._candidates, self._histories = tuple(candidates), dict(histories)
        self.units = nn.ModuleList(
            LocalActivationUnit(dim, config) if isinstance(config, LocalActivation) else PlainSum() for _ in histories
        )
        self.out_features = dim * (len(self._candidates) + len(self._histories))

    def forward(self, rows: Mapping[str, JaggedTensor]) -> torch.Tensor:
        """float32 (B, X), X = ``out_features``.

        Args:
            rows: of each feature the rows of its ids, sample by sample; a candidate's bag that is empty (padding) gives
                zeros, one of several ids their sum.
        """
        found = {name: _summed(rows[name]) for name in self._candidates}
        columns = list(found.values())
        for (name, of), unit in zip(self._histories.items(), self.units, strict=True):
            columns.append(unit(found[of], rows[name].values(), rows[name].lengths()))
        return torch.cat(columns, dim=1)


def _summed(rows: JaggedTensor) -> torch.Tensor:
    return sums_by_sample(rows.values(), rows.lengths())


def sums_by_sample(rows_RD: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """(B, D), sums of the first lengths_B[0] rows, of the next lengths_B[1], ...; those of no rows are zeros.

    The rows of a sample are added one after the other, on every device, whatever samples are beside it.
    """
    return torch.segment_reduce(rows_RD, "sum", lengths=lengths_B, axis=0, initial=0.0, unsafe=True)


def spread(values_BD: torch.Tensor, lengths_B: torch.Tensor, rows: int) -> torch.Tensor:
    """(R, D), R = ``rows`` = sum of ``lengths_B``: each sample's vector as often as it has rows."""
    spread_RD: torch.Tensor = _Spread.apply(values_BD, lengths_B, rows)  # type: ignore[no-untyped-call]
    return spread_RD


class _Spread(torch.autograd.Function):
    """torch's own backward pass adds with atomics on CUDA, in an order that varies."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def forward(ctx: Any, values_BD: torch.Tensor, lengths_B: torch.Tensor, rows: int) -> torch.Tensor:
        ctx.save_for_backward(lengths_B)
        return values_BD.repeat_interleave(lengths_B, dim=0, output_size=rows)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient_RD: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (lengths_B,) = ctx.saved_tensors
        return sums_by_sample(gradient_RD.contiguous(), lengths_B), None, None
