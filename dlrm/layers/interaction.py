"""How the bottom MLP's output and the pooled embeddings meet.

Each interaction takes ``dense_BD``, the bottom MLP's output, and ``pooled_BX``, the pooled embeddings of all tables
side by side in the order of the schema, and returns float32 (B, out_features). Where there are no dense features
``dense_BD`` is (B, 0): the pooled embeddings are then all the vectors there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchrec.modules.crossnet import LowRankCrossNet

from dlrm.config.model import interactions as options
from dlrm.layers.mlp import MLP


def build_interaction(config: options.Interaction, *, dense_dim: int, table_dims: Sequence[int]) -> Interaction:
    """The configured interaction.

    Args:
        config: the variant.
        dense_dim: outputs of the bottom MLP; 0 without dense features.
        table_dims: width of each table; all equal, and to ``dense_dim`` too if that is not 0, unless for cat and dcn.
    """
    width = dense_dim + sum(table_dims)
    match config:
        case options.DotInteraction():
            vectors = len(table_dims) + (dense_dim > 0)
            return DotInteraction(table_dims[0], vectors, dense_dim=dense_dim, self_interaction=config.self_interaction)
        case options.CatInteraction():
            return CatInteraction(width)
        case options.DcnInteraction():
            return CrossInteraction(width, layers=config.layers, rank=config.rank)
        case options.ProjectionInteraction():
            branches = config.branch1, config.branch2
            return ProjectionInteraction(table_dims[0], width, *branches, dense_dim=dense_dim)


class Interaction(nn.Module):
    """Base of the interactions.

    Attributes:
        out_features: columns of the output.
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, dense_BD: torch.Tensor, pooled_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, out_features)."""
        raise NotImplementedError


class CatInteraction(Interaction):
    """Side by side: dense_BD, then pooled_BX. The vectors may have different widths."""

    def forward(self, dense_BD: torch.Tensor, pooled_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, D + X)."""
        return torch.cat((dense_BD, pooled_BX), dim=1)


class DotInteraction(Interaction):
    """dense_BD, then the dot product of each pair of vectors (arXiv:1906.00091, section 2.2).

    Vector 0 is the bottom MLP's if there is one; those of the tables follow. The pairs (i, j), i < j (i <= j with
    self-interaction), are ordered by i, then j, as in torchrec's InteractionArch.
    """

    pairs_P: torch.Tensor
    pair_of_VV: torch.Tensor

    def __init__(self, dim: int, vectors: int, *, dense_dim: int, self_interaction: bool = False) -> None:
        """Make the module.

        Args:
            dim: D, width of every vector.
            vectors: V, one more than there are tables if there is a bottom MLP.
            dense_dim: outputs of the bottom MLP, D or 0.
            self_interaction: whether each vector's product with itself is a pair, too.
        """
        first_P, second_P = torch.triu_indices(vectors, vectors, offset=0 if self_interaction else 1)
        pairs = len(first_P)
        super().__init__(dense_dim + pairs)
        self.dim, self.vectors, self.self_interaction = dim, vectors, self_interaction
        pair_of_VV = torch.full((vectors, vectors), pairs)
        pair_of_VV[first_P, second_P] = pair_of_VV[second_P, first_P] = torch.arange(pairs)
        # int64 (P,): where each pair stands in the flattened (V, V) products; and int64 (V * V,): which pair each of
        # those products is, P standing for none. Both follow from the sizes: no checkpoint needs them.
        self.register_buffer("pairs_P", first_P * vectors + second_P, persistent=False)
        self.register_buffer("pair_of_VV", pair_of_VV.flatten(), persistent=False)

    def forward(self, dense_BD: torch.Tensor, pooled_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, D + P)."""
        pooled_BX = pooled_BX.to(dense_BD.dtype)  # what a product in bf16 would round to; only that need be copied
        vectors_BVD = torch.cat((dense_BD, pooled_BX), dim=1).view(-1, self.vectors, self.dim)
        if self.training:
            arguments = (vectors_BVD, self.pairs_P, self.pair_of_VV, self.self_interaction)
            products_BP = _PairProducts.apply(*arguments)  # type: ignore[no-untyped-call]
        else:  # plain operators, which exporters can trace; the same numbers
            products_BP = _pair_products(vectors_BVD, self.pairs_P)
        return torch.cat((dense_BD, products_BP), dim=1)


def _pair_products(vectors_BVD: torch.Tensor, pairs_P: torch.Tensor) -> torch.Tensor:
    return torch.bmm(vectors_BVD, vectors_BVD.transpose(1, 2)).flatten(1).index_select(1, pairs_P)


class _PairProducts(torch.autograd.Function):
    """:func:`_pair_products` with a faster gradient.

    Autograd scatters the gradient into (V, V) matrices (on CUDA by sorting or with atomic additions) and then
    multiplies these and their transposes with the vectors. No two pairs share a place, so the symmetric matrix can be
    gathered instead, and one multiplication is enough.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors_BVD: torch.Tensor, pairs_P: torch.Tensor, pair_of_VV: torch.Tensor, self_interaction: bool
    ) -> torch.Tensor:
        products_BP = _pair_products(vectors_BVD, pairs_P)
        # Under autocast the products are of another type than the vectors, and so will be their gradient, which is
        # multiplied with the vectors where no autocast is: they have to be what was multiplied here.
        ctx.save_for_backward(vectors_BVD.to(products_BP.dtype), pair_of_VV)
        ctx.self_interaction = self_interaction
        return products_BP

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient_BP,) = gradients
        vectors_BVD, pair_of_VV = ctx.saved_tensors
        vectors = vectors_BVD.shape[1]
        padded_BP = nn.functional.pad(gradient_BP, (0, 1))  # the last column: no pair, no gradient
        gradient_BVV = padded_BP.index_select(1, pair_of_VV).view(-1, vectors, vectors)
        if ctx.self_interaction:  # d(x.x) = 2x
            gradient_BVV.diagonal(dim1=1, dim2=2).mul_(2)
        return torch.bmm(gradient_BVV, vectors_BVD), None, None, None


class CrossNet(LowRankCrossNet):  # type: ignore[misc]  # torchrec is untyped here
    """torchrec's cross layers with half of their passes over memory: they are as wide as all vectors together.

    The bias is added by the matrix product, and product and sum of a layer are one operation.
    """

    def forward(self, x0_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, X) -> float32 (B, X)."""
        x_BX = x0_BX
        for down_RX, up_XR, bias_X in zip(self.V_kernels, self.W_kernels, self.bias, strict=True):
            low_BR = nn.functional.linear(x_BX, down_RX)
            x_BX = torch.addcmul(x_BX, x0_BX, nn.functional.linear(low_BR, up_XR, bias_X))
        return x_BX


class CrossInteraction(Interaction):
    """The low-rank cross network of DCN v2 over the concatenation (arXiv:2008.13535).

    x_0 = (dense_BD, pooled_BX); x_{l+1} = x_0 * (W_l V_l x_l + b_l) + x_l. The vectors may have different widths.
    """

    def __init__(self, width: int, *, layers: int, rank: int) -> None:
        """Make the layers.

        Args:
            width: D + X.
            layers: number of cross layers.
            rank: rows of V_l and columns of W_l.
        """
        super().__init__(width)
        self.crossnet = CrossNet(in_features=width, num_layers=layers, low_rank=rank)

    def forward(self, dense_BD: torch.Tensor, pooled_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, D + X)."""
        return self.crossnet(torch.cat((dense_BD, pooled_BX), dim=1))  # type: ignore[no-any-return]


class ProjectionInteraction(Interaction):
    """dense_BD, then the product of two learned projections of all vectors (torchrec's DLRM_Projection).

    Two MLPs turn the concatenation of all vectors into J and K vectors of width D; the output holds the products
    (J, D) x (D, K). (The second branch's output is read as (D, K), as torchrec does.)
    """

    def __init__(self, dim: int, width: int, branch1: Sequence[int], branch2: Sequence[int], *, dense_dim: int) -> None:
        """Make the two MLPs.

        Args:
            dim: D, width of every vector.
            width: V * D.
            branch1: layer sizes of the first projection, the last one J * D.
            branch2: layer sizes of the second projection, the last one D * K.
            dense_dim: outputs of the bottom MLP, D or 0.
        """
        super().__init__(dense_dim + (branch1[-1] // dim) * (branch2[-1] // dim))
        self.dim = dim
        self.branch1 = MLP(width, branch1, relu_last=True)
        self.branch2 = MLP(width, branch2, relu_last=True)

    def forward(self, dense_BD: torch.Tensor, pooled_BX: torch.Tensor) -> torch.Tensor:
        """float32 (B, D + J * K)."""
        vectors_BX = torch.cat((dense_BD, pooled_BX), dim=1)
        left_BJD = self.branch1(vectors_BX).unflatten(1, (-1, self.dim))
        right_BDK = self.branch2(vectors_BX).unflatten(1, (self.dim, -1))
        return torch.cat((dense_BD, torch.bmm(left_BJD, right_BDK).flatten(1)), dim=1)
