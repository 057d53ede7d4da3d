"""The lookups of fused tables and their updates, in plain torch on host memory: what fbgemm has for CUDA only.

A kernel is called with the arguments of fbgemm's operator, by name. Tables of any placement are used where they lie: on the
device, in managed memory, or behind a cache, which is then never filled. One feature a table; pooling is a sum.

B samples, T features, D columns, N ids, U rows that a batch touches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

_SUM_POOLING = 0
_ON_DEVICE = 0  # fbgemm's EmbeddingLocation: managed memory, with a cache or without, and host memory are the others
_OUTPUT_TYPES = {0: torch.float32, 1: torch.float16, 5: torch.bfloat16}  # fbgemm's SparseType
_FUSED = "fbgemm::split_embedding_{}_unweighted_pt2_wrapper"


class _Table(NamedTuple):
    """A feature's part of the arguments.

    Attributes:
        place: its number; columns: its part of the output; ids_N, offsets_B1: its bags.
    """

    place: int
    columns: slice
    ids_N: torch.Tensor
    offsets_B1: torch.Tensor

    @property
    def dim(self) -> int:
        return int(self.columns.stop - self.columns.start)


def _tables(given: SimpleNamespace) -> Iterator[_Table]:
    if given.pooling_mode != _SUM_POOLING:
        raise NotImplementedError("pooling other than a sum")
    bounds = given.D_offsets.tolist()
    features = len(bounds) - 1
    samples = (given.offsets.numel() - 1) // features
    for place in range(features):
        offsets_B1 = given.offsets[place * samples : (place + 1) * samples + 1].long()
        ids_N = given.indices[offsets_B1[0] : offsets_B1[-1]].long()
        yield _Table(place, slice(bounds[place], bounds[place + 1]), ids_N, offsets_B1 - offsets_B1[0])


def _rows(given: SimpleNamespace, name: str, place: int, dim: int) -> torch.Tensor:
    """(rows, dim) of a table's weights or state, and what lies behind it."""
    placements = getattr(given, f"{name}_placements", None)  # replicated tables have none: they are on the device
    kind = "dev" if placements is None or int(placements[place]) == _ON_DEVICE else "uvm"
    flat = getattr(given, f"{kind}_weights" if name == "weights" else f"{name}_{kind}")
    flat = flat[int(getattr(given, f"{name}_offsets")[place]) :]
    return flat[: flat.numel() // dim * dim].view(-1, dim)


def _look_up(given: SimpleNamespace) -> torch.Tensor:
    made = []
    for table in _tables(given):
        weight_RD = _rows(given, "weights", table.place, table.dim)
        pooled_BD = weight_RD.new_zeros(len(table.offsets_B1) - 1, table.dim, dtype=torch.float32)
        pooled_BD.index_add_(0, _bags(table), weight_RD.index_select(0, table.ids_N).float())
        made.append(pooled_BD)
    return torch.cat(made, dim=1).to(_OUTPUT_TYPES[given.output_dtype])


def _bags(table: _Table) -> torch.Tensor:
    lengths_B = table.offsets_B1.diff()
    return torch.arange(len(lengths_B)).repeat_interleave(lengths_B)


def _row_gradients(given: SimpleNamespace, table: _Table) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that the ids name, ascending (U,), and the sums of their gradients (U, D)."""
    rows_U, position_N = torch.unique(table.ids_N, return_inverse=True)
    gradient_UD = torch.zeros(len(rows_U), table.dim)
    gradient_UD.index_add_(0, position_N, given.grad_output[:, table.columns].index_select(0, _bags(table)).float())
    return rows_U, gradient_UD


def _dense_gradient(given: SimpleNamespace) -> torch.Tensor:
    gradient = torch.zeros_like(given.dev_weights)
    into = SimpleNamespace(dev_weights=gradient, weights_offsets=given.weights_offsets)
    for table in _tables(given):
        rows_U, gradient_UD = _row_gradients(given, table)
        _rows(into, "weights", table.place, table.dim).index_add_(0, rows_U, gradient_UD.to(gradient.dtype))
    return gradient


def _update(rule: Callable[..., torch.Tensor], given: SimpleNamespace) -> None:
    lr = float(given.learning_rate_tensor)
    for table in _tables(given):
        rows_U, gradient_UD = _row_gradients(given, table)
        weight_RD = _rows(given, "weights", table.place, table.dim)
        step_UD = lr * rule(given, table, rows_U, gradient_UD)
        weight_RD.index_copy_(0, rows_U, (weight_RD.index_select(0, rows_U).float() - step_UD).to(weight_RD.dtype))


def _leave_cache_empty(given: SimpleNamespace) -> None:
    """Tables are used where they lie."""


def _sgd(given: SimpleNamespace, table: _Table, rows_U: torch.Tensor, gradient_UD: torch.Tensor) -> torch.Tensor:
    return gradient_UD


def _adagrad(given: SimpleNamespace, table: _Table, rows_U: torch.Tensor, gradient_UD: torch.Tensor) -> torch.Tensor:
    sums_RD = _rows(given, "momentum1", table.place, table.dim)
    sums_UD = sums_RD.index_select(0, rows_U) + gradient_UD.square()
    sums_RD.index_copy_(0, rows_U, sums_UD)
    return gradient_UD / (sums_UD.sqrt() + given.eps)


def _rowwise_adagrad(
    given: SimpleNamespace, table: _Table, rows_U: torch.Tensor, gradient_UD: torch.Tensor
) -> torch.Tensor:
    sums_R1 = _rows(given, "momentum1", table.place, 1)
    sums_U1 = sums_R1.index_select(0, rows_U) + gradient_UD.square().mean(dim=1, keepdim=True)
    sums_R1.index_copy_(0, rows_U, sums_U1)
    return gradient_UD / (sums_U1.sqrt() + given.eps)


def _adam(given: SimpleNamespace, table: _Table, rows_U: torch.Tensor, gradient_UD: torch.Tensor) -> torch.Tensor:
    first_RD = _rows(given, "momentum1", table.place, table.dim)
    second_RD = _rows(given, "momentum2", table.place, table.dim)
    first_UD = given.beta1 * first_RD.index_select(0, rows_U) + (1 - given.beta1) * gradient_UD
    second_UD = given.beta2 * second_RD.index_select(0, rows_U) + (1 - given.beta2) * gradient_UD.square()
    first_RD.index_copy_(0, rows_U, first_UD)
    second_RD.index_copy_(0, rows_U, second_UD)
    first_UD, second_UD = first_UD / (1 - given.beta1**given.iter), second_UD / (1 - given.beta2**given.iter)
    return first_UD / (second_UD.sqrt() + given.eps)


KERNELS: dict[str, Callable[[SimpleNamespace], torch.Tensor | None]] = {
    "fbgemm::dense_embedding_codegen_forward_unweighted_cuda": _look_up,
    "fbgemm::split_embedding_backward_codegen_dense_unweighted_exact_cuda": _dense_gradient,
    "fbgemm::lru_cache_populate": _leave_cache_empty,
    "fbgemm::lxu_cache_flush": _leave_cache_empty,
    _FUSED.format("codegen_forward"): _look_up,
    _FUSED.format("backward_codegen_sgd"): partial(_update, _sgd),
    _FUSED.format("backward_codegen_adagrad"): partial(_update, _adagrad),
    _FUSED.format("backward_codegen_rowwise_adagrad"): partial(_update, _rowwise_adagrad),
    _FUSED.format("backward_codegen_adam"): partial(_update, _adam),
}
"""By the name of fbgemm's operator; what returns nothing works in place."""


def by_name(schema: Any, args: Any, kwargs: Any) -> SimpleNamespace:
    """The arguments of a call, by the names in the operator's schema, with its defaults."""
    given = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    given |= dict(zip((argument.name for argument in schema.arguments), args, strict=False))
    return SimpleNamespace(**given, **kwargs)
