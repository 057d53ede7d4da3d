"""The layers of Wukong (arXiv:2403.02545, sections 3.3 to 3.6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dlrm.config.model import WukongModel
from dlrm.layers.mlp import MLP


class OptimisedFM(nn.Module):
    """X X^T Y (section 3.6): products of all pairs of vectors, times a matrix of K columns instead of as many as vectors.

    X^T Y comes first, so that it takes V D K multiplications. Y is learned, or made for each sample by an MLP on K sums of
    its vectors (the paper: "attentive to the input by processing linearly compressed input through a MLP").

    Attributes:
        weight: Y^T as a linear layer from V vectors to K; None where it is made for each sample.
        compress, attention: what makes it; None where it is learned.
    """

    def __init__(self, vectors: int, dim: int, rank: int, attention: Sequence[int]) -> None:
        """Make the weights.

        Args:
            vectors: V.
            dim: D.
            rank: K.
            attention: sizes of the hidden layers of the MLP that makes Y; none if it is learned.
        """
        super().__init__()
        self.vectors, self.rank = vectors, rank
        self.weight = self.compress = self.attention = None
        if not attention:
            self.weight = nn.Linear(vectors, rank, bias=False)
            return
        self.compress = nn.Linear(vectors, rank, bias=False)
        self.attention = MLP(rank * dim, (*attention, vectors * rank), relu_last=False, gives_logits=False)

    def forward(self, x_BVD: torch.Tensor) -> torch.Tensor:
        """float32 (B, V, D) -> float32 (B, V, K)."""
        x_BDV = x_BVD.transpose(1, 2)
        if self.compress is None or self.attention is None:
            assert self.weight is not None
            return torch.bmm(x_BVD, self.weight(x_BDV))
        y_BVK = self.attention(self.compress(x_BDV).flatten(1)).unflatten(1, (self.vectors, self.rank))
        return torch.bmm(x_BVD, torch.bmm(x_BDV, y_BVK))


class WukongLayer(nn.Module):
    """X_{i+1} = LN(concat(FMB(X_i), LCB(X_i)) + X_i) (section 3.3).

    FMB(X) = reshape(MLP(LN(flatten(FM(X))))) (section 3.4) and LCB(X) = W_L X (section 3.5). The residual is a linear map
    of X_i where that has another number of vectors. Which numbers the LN around it all normalises the paper leaves open:
    here those of each vector.

    Attributes:
        fm, fm_norm, fm_mlp: FMB.
        linear: W_L, from V vectors to n_L.
        residual, norm: what is around them.
        vectors: that the layer gives, n_F + n_L.
    """

    def __init__(self, config: WukongModel, vectors: int, *, seed: int, rank: int) -> None:
        """Make the layer.

        Args:
            config: its sizes.
            vectors: V, of its input.
            seed: of dropout.
            rank: which part of the global batch this process computes.
        """
        super().__init__()
        self.dim = config.embedding_dim
        self.vectors = config.fm_vectors + config.linear_vectors
        self.fm = OptimisedFM(vectors, self.dim, config.fm_rank, config.attention_mlp)
        self.fm_norm = nn.LayerNorm(vectors * config.fm_rank)
        self.fm_mlp = MLP(
            vectors * config.fm_rank,
            (*config.fm_mlp, config.fm_vectors * self.dim),
            relu_last=False,
            gives_logits=False,
            dropout=config.dropout,
            seed=seed,
            rank=rank,
        )
        self.linear = nn.Linear(vectors, config.linear_vectors, bias=False)
        same = self.vectors == vectors
        self.residual = nn.Identity() if same else nn.Linear(vectors, self.vectors, bias=False)
        self.norm = nn.LayerNorm(self.dim)

    def forward(self, x_BVD: torch.Tensor) -> torch.Tensor:
        """float32 (B, V, D) -> float32 (B, n_F + n_L, D)."""
        x_BDV = x_BVD.transpose(1, 2)
        fmb_BFD = self.fm_mlp(self.fm_norm(self.fm(x_BVD).flatten(1))).unflatten(1, (-1, self.dim))
        lcb_BLD = self.linear(x_BDV).transpose(1, 2)
        residual_BVD = self.residual(x_BDV).transpose(1, 2)
        return self.norm(torch.cat((fmb_BFD, lcb_BLD), dim=1) + residual_BVD)  # type: ignore[no-any-return]
