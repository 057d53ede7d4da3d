"""Initial weights (those of arXiv:1906.00091), each a pure function of the seed and of what the weight is.

- Linear layers with n inputs and m outputs: weights normal with standard deviation sqrt(2 / (m + n)) (Xavier), biases
  normal with sqrt(1 / m). The branches of the projection interaction consist of such layers, and so do experts and gates.
- Cross layers: both factors of the weight matrix (DCN v1: its vector) like the weights of linear layers, biases 0.
- Layer norms: weights 1, biases 0.
- Modules with an ``initial_std``: all weights normal with that standard deviation.
- Tables with n rows: uniform within +-sqrt(1 / n), or within +-model.embedding_init_bound; padding 0. Where the row
  of an id is the product of a quotient's and a remainder's row, the product of the two bounds is about sqrt(1 / n) as well.

Weights of tables follow from (seed, table, row, column) alone, so that every shard of every plan holds the same
numbers, on CPU and CUDA to the last bit. The others are drawn on the CPU, from (seed, parameter name).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn
from torchrec.modules.crossnet import LowRankCrossNet, VectorCrossNet

from dlrm.counter_rng import stream_key, uniform, uniform64
from dlrm.layers.heads.experts import ExpertLinear
from dlrm.models.base import COLLECTIONS, Model, group_of
from dlrm.table_names import table_name

# Weights drawn at a time. Drawing needs a handful of int64 temporaries, which should stay in a CPU's cache; and up to
# 32768 elements torch keeps to one thread, so that ranks which share the cores do not wait for each other's threads. A
# GPU wants large kernels.
_CHUNK_CPU = 1 << 15
_CHUNK_GPU = 1 << 24
_CROSS_NETS = (LowRankCrossNet, VectorCrossNet)


def initialise_dense(model: Model, seed: int) -> None:
    """Draw every weight outside of the tables, in place.

    Args:
        model: its parts' parameters are named relative to it, e.g. ``bottom_mlp.linears.0.weight``.
        seed: run.seed.

    Raises:
        TypeError: the model has a parameter for which no rule is known.
    """
    for name, parameter, mean, std in _dense_parameters(model):
        with torch.no_grad():
            parameter.copy_(_normal(stream_key(seed, "init", name), parameter.shape) * std + mean)


def initialise_tables(model: Model, seed: int, *, bound: float | None) -> None:
    """Draw every weight of tables that are not sharded, in place."""
    widths = model.lookups.widths
    for name, weight in model.table_weights.items():
        table = table_name(name)
        fill_table_block(
            weight, seed, table, rows=len(weight), dim=widths[table], row_start=0, col_start=0, bound=bound
        )


@torch.no_grad()
def fill_table_block(
    out: torch.Tensor,
    seed: int,
    name: str,
    *,
    rows: int,
    dim: int,
    row_start: int,
    col_start: int,
    bound: float | None = None,
    chunk_weights: int | None = None,
) -> None:
    """Write the initial weights of a block of a table into ``out``, with bounded extra memory.

    The block may have columns beyond ``dim``, the table's padding: zeros.

    Args:
        out: any floating type and device, (block rows, block columns): a shard. Need not be contiguous.
        seed: run.seed.
        name: of the table.
        rows: of the whole table.
        dim: columns of the whole table; rows * dim must be below 2^63.
        row_start: the block's first row.
        col_start: the block's first column.
        bound: weights are uniform within +-bound; the paper's sqrt(1 / rows) if None.
        chunk_weights: weights drawn at a time (at least a row); changes nothing but time and memory.

    Raises:
        ValueError: the block has rows that are not the table's.
    """
    block_rows, block_cols = out.shape
    if not 0 <= row_start <= rows - block_rows:
        block = f"[{row_start}:{row_start + block_rows}, {col_start}:{col_start + block_cols}]"
        raise ValueError(f"block {block} is not inside of table {name} ({rows} x {dim})")
    if not out.numel():
        return
    chunk = chunk_weights or (_CHUNK_CPU if out.device.type == "cpu" else _CHUNK_GPU)
    chunk_rows = max(1, chunk // block_cols)
    for start in range(0, block_rows, chunk_rows):
        stop = min(start + chunk_rows, block_rows)
        row_R = torch.arange(row_start + start, row_start + stop, device=out.device)
        out[start:stop] = table_rows(
            row_R, seed, name, rows=rows, dim=dim, col_start=col_start, columns=block_cols, bound=bound
        )


def table_rows(
    row_R: torch.Tensor,
    seed: int,
    name: str,
    *,
    rows: int,
    dim: int,
    col_start: int,
    columns: int,
    bound: float | None = None,
) -> torch.Tensor:
    """Initial weights of any rows of a table, float32 (R, columns), on the device of ``row_R`` (int64).

    Columns beyond ``dim`` are zeros. The other arguments are those of :func:`fill_table_block`.
    """
    key = stream_key(seed, "init", "table", name)
    limit = math.sqrt(1.0 / rows) if bound is None else bound
    drawn = max(0, min(columns, dim - col_start))
    col_C = torch.arange(col_start, col_start + drawn, device=row_R.device)
    uniform_RC = uniform(key, row_R[:, None] * dim + col_C)
    # 2u - 1 is exact in float32, so the one rounding is the product's, the same on every device.
    rows_RC = uniform_RC.mul_(2.0).sub_(1.0).mul_(limit)
    return rows_RC if drawn == columns else nn.functional.pad(rows_RC, (0, columns - drawn))


def _dense_parameters(model: Model) -> Iterator[tuple[str, nn.Parameter, float, float]]:
    """(name, parameter, mean, standard deviation) of every parameter outside of the tables."""
    for prefix, module in model.named_modules():
        if group_of(prefix) in COLLECTIONS:
            continue
        holder, _, role = prefix.rpartition(".")
        crosses = isinstance(module, nn.ParameterList) and isinstance(model.get_submodule(holder), _CROSS_NETS)
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if isinstance(module, nn.Linear):
                yield name, parameter, 0.0, _std(parameter)
            elif isinstance(module, ExpertLinear):
                yield name, parameter, 0.0, _std(parameter[0])
            elif crosses:
                yield name, parameter, 0.0, 0.0 if role == "bias" else _std(parameter)
            elif isinstance(module, nn.LayerNorm):
                yield name, parameter, float(name.endswith(".weight")), 0.0
            elif (std := getattr(module, "initial_std", None)) is not None:
                yield name, parameter, 0.0, std
            else:
                raise TypeError(
                    f"no rule for the initial value of {name}: give {type(module).__name__} an initial_std, or "
                    "_dense_parameters in dlrm/models/init.py a case"
                )


def _std(parameter: torch.Tensor) -> float:
    return math.sqrt((2.0 if parameter.ndim == 2 else 1.0) / sum(parameter.shape))


def _normal(key: int, shape: torch.Size) -> torch.Tensor:
    """float64 standard normals, by inverting the cumulative distribution at the middle of uniform64's cells."""
    counters = torch.arange(shape.numel()).view(shape)
    normal: torch.Tensor = torch.special.ndtri(uniform64(key, counters) + 2.0**-54)
    return normal
