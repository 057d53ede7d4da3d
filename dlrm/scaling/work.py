"""How much a step computes and how many bytes it moves, by formula from the shapes of the model.

What is counted is what has to be done, however it is done:

- *Matrix products*, 2 m k n floating-point operations each (a multiplication and an addition for each term; Golub and Van
  Loan, "Matrix Computations", section 1.1). A linear layer is three: its output, the gradient of its weights, and the
  gradient of its input where that needs one. Everything else in the dense part is linear in the number of activations and
  could be done along with a product, so it counts neither as operations nor as bytes.
- *Bytes of the dense part*: each product reads its two operands and writes its result once (the compulsory misses of
  Williams et al., "Roofline", CACM 2009), in the type it computes in. Then the optimizer reads weight, gradient and state
  of each parameter, and writes weight and state, all of them float32.
- *Bytes of the tables*: an id's row is read by the lookup; the update reads it again and writes it, with the optimizer's
  state. The lookup writes a pooled embedding for each sample and table, and the update reads its gradient. Each id counts,
  also where a batch has it several times.
- *Bytes of the batch*: dense features and ids are read once.
- *Exchanged bytes*: pooled embeddings and their gradients, ids and lengths, as far as they go to another rank, of tables
  that are each on one rank. Gradients of dense parameters are not among them.

Suffixes: B samples of a rank, D width of a row, F tables, N dense features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from torchrec.modules.crossnet import LowRankCrossNet, VectorCrossNet

from dlrm.data.batch import Batch
from dlrm.layers.fields import LinearPart
from dlrm.layers.heads.experts import ExpertLinear, Mixture
from dlrm.layers.interaction import DotInteraction, ProjectionInteraction
from dlrm.layers.wukong import OptimisedFM
from dlrm.lookups.plan import Lookups
from dlrm.models.base import Model
from dlrm.optim.tables.base import BYTES_PER_NUMBER, TableOptimizer
from dlrm.train.precision import lowered

_LENGTH_BYTES = 4  # int32: dlrm.data.batch


@dataclass(frozen=True)
class Product:
    """``batch`` products of an (m, k) and a (k, n) matrix, in one step of a rank.

    Attributes:
        square: whether the second is the first, transposed: it is read once.
        dtype: of operands and result.
    """

    m: int
    k: int
    n: int
    batch: int = 1
    square: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return 2 * self.batch * self.m * self.k * self.n

    @property
    def bytes(self) -> int:
        """Of operands and result."""
        operands = self.m * self.k + (0 if self.square else self.k * self.n)
        return self.batch * (operands + self.m * self.n) * self.dtype.itemsize


@contextmanager
def products_of(model: nn.Module, dense: torch.dtype = torch.float32) -> Iterator[list[Product]]:
    """Collect the matrix products of the training steps in the block: forward, and the backward ones that follow from it.

    Known are linear layers, cross networks, and the products of interactions and of Wukong's factorisation machines.

    Args:
        model: sharded or not.
        dense: in what the parts compute that :func:`dlrm.train.precision.lower_dense` lowers, gradients included.
    """
    found: list[Product] = []
    low = {module for whole in model.modules() if isinstance(whole, Model) for module in lowered(whole)}

    def see(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        dtype = dense if module in low else torch.float32
        found.extend(replace(product, dtype=dtype) for product in _products(module, inputs))

    handles = [module.register_forward_pre_hook(see) for module in model.modules() if isinstance(module, _KNOWN)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


_KNOWN: tuple[type[nn.Module], ...] = (nn.Linear, LinearPart, ExpertLinear, Mixture, LowRankCrossNet, VectorCrossNet)
_KNOWN += (DotInteraction, ProjectionInteraction, OptimisedFM)


def _products(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Iterator[Product]:
    x_BX = inputs[0]
    samples = len(x_BX)
    match module:
        case nn.Linear():
            rows = x_BX.numel() // module.in_features  # a sample may have several
            yield from _linear(rows, module.in_features, module.out_features, x_BX.requires_grad)
        case ExpertLinear():
            experts, outputs, columns = module.weight.shape
            sharing = outputs * experts // module.inputs  # outputs of all experts that share an input
            products = _linear(samples, columns, sharing, x_BX.requires_grad)
            yield from (replace(product, batch=module.inputs) for product in products)
        case Mixture():
            weights_BTE, outputs_BEH = inputs
            _, tasks, experts = weights_BTE.shape
            width = outputs_BEH.shape[2]
            yield Product(tasks, experts, width, samples)
            yield Product(tasks, width, experts, samples)
            yield Product(experts, tasks, width, samples)
        case LinearPart() if module.weight is not None:
            yield from _linear(samples, module.weight.shape[1], module.weight.shape[0], False)
        case VectorCrossNet():
            for kernel in module.kernels:
                yield from _linear(samples, len(kernel), 1, True)
        case LowRankCrossNet():
            for w_kernel in module.W_kernels:
                width, rank = w_kernel.shape
                yield from _linear(samples, width, rank, True)
                yield from _linear(samples, rank, width, True)
        case DotInteraction():  # all V * V products are computed; the gradient is one product more
            yield Product(module.vectors, module.dim, module.vectors, samples, square=True)
            yield Product(module.vectors, module.vectors, module.dim, samples)
        case ProjectionInteraction():
            left, right = (branch.out_features // module.dim for branch in (module.branch1, module.branch2))
            yield Product(left, module.dim, right, samples)
            yield Product(left, right, module.dim, samples)
            yield Product(module.dim, left, right, samples)
        case OptimisedFM():
            vectors, dim = x_BX.shape[1:]
            for rows, inner in ((vectors, dim), *([] if module.attention is None else [(dim, vectors)])):
                yield Product(rows, inner, module.rank, samples)
                yield Product(rows, module.rank, inner, samples)
                yield Product(inner, rows, module.rank, samples)


def _linear(samples: int, inputs: int, outputs: int, input_needs_gradient: bool) -> Iterator[Product]:
    yield Product(samples, inputs, outputs)
    yield Product(outputs, samples, inputs)
    if input_needs_gradient:
        yield Product(samples, outputs, inputs)


@dataclass(frozen=True)
class TableUse:
    """What the samples ask of a table: its width, and how many of its rows a sample looks up in the mean.

    ``pooled`` says whether these are summed before they are sent.
    """

    dim: int
    ids_per_sample: float
    pooled: bool = True


def ids_per_sample(batch: Batch, lookups: Lookups) -> list[float]:
    """The mean number of rows that a sample looks up in each table, in their order."""
    counts = batch.sparse.length_per_key()
    found = dict.fromkeys((table.name for table in lookups.tables), 0.0)
    for lookup in lookups.lookups:
        found[lookup.table] += counts[lookup.feature] * lookup.rule.rows_per_id / batch.sparse.stride()
    return list(found.values())


@dataclass(frozen=True)
class Work:
    """What a sample costs, with all that a step does for it shared out over its samples.

    Attributes:
        flops: floating-point operations.
        row_bytes: of rows of tables, in no order; streamed_bytes: of everything else, one after the other.
        exchanged_bytes: that a rank sends to others, over all ranks.
    """

    flops: float
    row_bytes: float
    streamed_bytes: float
    exchanged_bytes: float


def work_per_sample(
    products: Sequence[Product],
    tables: Sequence[TableUse],
    optimizer: TableOptimizer,
    *,
    samples: int,
    ranks: int,
    dense_features: int,
    dense_weights: int,
    dense_state: int,
    bytes_per_id: int,
) -> Work:
    """The work of a sample.

    Args:
        products: of one step of one rank.
        tables: of the model.
        optimizer: of the tables.
        samples: B, of a step of one rank.
        ranks: their number.
        dense_features: N of a sample.
        dense_weights: number of weights outside of tables.
        dense_state: numbers that their optimizer keeps for each.
        bytes_per_id: of an id in a batch, and its weight, if it has one.
    """
    ids = sum(table.ids_per_sample for table in tables)
    pooled = sum(table.dim * (1 if table.pooled else table.ids_per_sample) for table in tables)
    rows = sum(
        table.ids_per_sample * (3 * table.dim * optimizer.weight_bytes + 2 * _state_bytes(optimizer, table.dim))
        for table in tables
    )
    batch_bytes = dense_features * BYTES_PER_NUMBER + ids * bytes_per_id
    multiplied = sum(product.bytes for product in products)
    # Weight and gradient are read, the weight is written; the state is both.
    updated = dense_weights * (3 + 2 * dense_state) * BYTES_PER_NUMBER
    streamed = (multiplied + updated) / samples + 2 * pooled * BYTES_PER_NUMBER + batch_bytes
    exchanged = 2 * pooled * BYTES_PER_NUMBER + ids * bytes_per_id + len(tables) * _LENGTH_BYTES
    return Work(
        flops=sum(product.flops for product in products) / samples,
        row_bytes=rows,
        streamed_bytes=streamed,
        exchanged_bytes=exchanged * (ranks - 1) / ranks,
    )


def _state_bytes(optimizer: TableOptimizer, dim: int) -> int:
    """Of the state of a row."""
    return optimizer.block_bytes(1, dim) - dim * optimizer.weight_bytes
