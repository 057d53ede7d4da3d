"""What a rank's hardware does, measured while all ranks of its host do the same, each figure by the work it stands for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from dlrm.scaling.cost.rates import Link
from dlrm.scaling.work import Product

_LEAST_S, _TRIES = 0.05, 7
_PRODUCTS = (  # m, k, n, batch: wide and narrow layers, the three products of each, and pairs of an interaction
    (512, 512, 512, 1), (128, 1024, 1024, 1), (1024, 128, 512, 1), (256, 512, 64, 1), (64, 256, 16, 1), (512, 512, 1, 1),
    (1024, 512, 1024, 1), (512, 13, 256, 1), (27, 64, 27, 512), (27, 27, 64, 512), (65, 16, 65, 256),
)  # fmt: skip
_HALF_SIZES = np.geomspace(0.5, 128, 49)
_TABLES = ((16, 1), (16, 16), (128, 1), (128, 16))  # columns, ids of a bag
_SIZES = (1 << 12, 1 << 16, 1 << 19, 1 << 22)  # bytes of a rank in a collective


def typical_s(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the median of some tries, after one that does not count; repeated within a try until it can be timed."""
    work()
    repeats = 1
    while True:
        seconds = _timed_s(work, repeats, device)
        if seconds >= _LEAST_S / 10 or repeats > 1 << 20:
            break
        repeats *= 4
    return float(np.median([_timed_s(work, repeats, device) / repeats for _ in range(_TRIES)]))


def _timed_s(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def products(device: torch.device, dtype: torch.dtype) -> tuple[float, float, float]:
    """Peak FLOP/s, the size at which a product has half of it, seconds of any product: the best fit in the logarithm."""
    shapes = [Product(m, k, n, batch, dtype=dtype) for m, k, n, batch in _PRODUCTS]
    measured_s = np.array([_product_s(shape, device) for shape in shapes])
    fixed_s = _product_s(Product(1, 1, 1, dtype=dtype), device)
    flops = np.array([shape.flops for shape in shapes])
    sizes = np.array([(shape.m, shape.k, shape.n) for shape in shapes], dtype=float)
    best = (np.inf, 0.0, 0.0)
    for half in _HALF_SIZES:
        unit_s = flops * np.prod(1 + half / sizes, axis=1)
        logs = np.log(np.maximum(measured_s - fixed_s, 0.2 * measured_s) / unit_s)
        best = min(best, (float(np.std(logs)), float(half), float(np.exp(-np.median(logs)))))
    return best[2], best[1], fixed_s


def _product_s(shape: Product, device: torch.device) -> float:
    left = torch.randn(shape.batch, shape.m, shape.k, device=device).to(shape.dtype)
    right = torch.randn(shape.batch, shape.k, shape.n, device=device).to(shape.dtype)
    if shape.batch == 1:
        left, right = left[0], right[0]
    return typical_s(lambda: left @ right, device)


def stream_bytes_per_s(size: int, device: torch.device) -> float:
    """Of ``a = b + 3 c`` into a new tensor, as activations are; ``size`` bytes each."""
    b, c = (torch.ones(size // 4, device=device) for _ in range(2))
    return 3 * size / typical_s(lambda: torch.add(b, c, alpha=3.0), device)


def operation_s(device: torch.device) -> float:
    """Of an operator on a single number, with its node of autograd, forward and backward, per operator."""
    x = torch.ones(1, device=device, requires_grad=True)

    def chain() -> None:
        y = x
        for _ in range(20):
            y = y * 1.5
        y.backward()

    return typical_s(chain, device) / 40


def tables(device: torch.device, rows: int, bags: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Seconds of a bag, an id, and a byte of rows: of the lookup, and of the update by row-wise Adagrad."""
    work, forward_s, backward_s = [], [], []
    for columns, hotness in _TABLES:
        ahead, back = _lookup_s(device, rows, columns, bags, hotness)
        ids = bags * hotness
        distinct = rows * (1 - (1 - 1 / rows) ** ids)
        work.append((bags, ids, (distinct + bags) * columns * 4))
        forward_s.append(ahead)
        backward_s.append(back)
    amounts = np.array(work, dtype=float)
    return _fitted(amounts, forward_s), _fitted(amounts, backward_s)


def _lookup_s(device: torch.device, rows: int, columns: int, bags: int, hotness: int) -> tuple[float, float]:
    on_cpu = device.type == "cpu"
    place = EmbeddingLocation.HOST if on_cpu else EmbeddingLocation.DEVICE
    tables = 4
    kernel: Any = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, columns, place, ComputeDevice.CPU if on_cpu else ComputeDevice.CUDA)] * tables,
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        pooling_mode=PoolingMode.SUM,
        device=device,
    )
    ids = torch.randint(rows, (tables * bags * hotness,), device=device)
    offsets = torch.arange(0, len(ids) + 1, hotness, device=device)
    gradient = torch.ones(bags, tables * columns, device=device)
    forward = typical_s(lambda: kernel(ids, offsets), device)
    both = typical_s(lambda: kernel(ids, offsets).backward(gradient), device)
    return forward / tables, max(both - forward, 0.1 * both) / tables


def _fitted(amounts_NK: np.ndarray[Any, Any], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Non-negative coefficients whose relative errors have the least sum of squares (projected coordinate descent)."""
    seconds_N = np.array(seconds)
    scaled_NK = amounts_NK / seconds_N[:, None]
    return tuple(non_negative(scaled_NK, np.ones(len(seconds_N))))


def non_negative(a_NK: np.ndarray[Any, Any], b_N: np.ndarray[Any, Any], sweeps: int = 2000) -> np.ndarray[Any, Any]:
    """The x >= 0 with the least |a x - b|^2, by coordinate descent; every step solves for one coordinate exactly."""
    x_K = np.zeros(a_NK.shape[1])
    squares_K = np.maximum((a_NK**2).sum(axis=0), 1e-300)
    rest_N = b_N - a_NK @ x_K
    for _ in range(sweeps):
        for k in range(len(x_K)):
            moved = max(0.0, x_K[k] + a_NK[:, k] @ rest_N / squares_K[k])
            rest_N = rest_N - a_NK[:, k] * (moved - x_K[k])
            x_K[k] = moved
    return x_K


def collectives(device: torch.device, group: Any = None) -> dict[str, Link]:
    """What each collective takes on the ranks of a group, all of which call this."""
    ranks = dist.get_world_size(group)
    return {name: _link(name, ranks, device, group) for name in _CALLS}


def _link(name: str, ranks: int, device: torch.device, group: Any) -> Link:
    amounts, seconds = [], []
    for size in _SIZES:
        numbers = max(ranks, size // 4 // ranks * ranks)
        sent = numbers * 4 if name == "all_reduce" else numbers * 4 * (ranks - 1) / ranks
        amounts.append((1.0, float(sent)))
        seconds.append(_collective_s(name, numbers, ranks, device, group))
    amounts_N2, seconds_N = np.array(amounts), np.array(seconds)
    latency, a_byte = non_negative(amounts_N2 / seconds_N[:, None], np.ones(len(seconds_N)))
    times = 2 * (ranks - 1) / ranks if name == "all_reduce" else 1.0
    return Link(latency_s=float(latency), bytes_per_s=float(times / max(a_byte, 1e-15)))


def _collective_s(name: str, numbers: int, ranks: int, device: torch.device, group: Any) -> float:
    own = torch.ones(numbers, device=device)
    call = _CALLS[name]
    taken = []
    call(own, ranks, group)
    tries = 5 if numbers > 1 << 18 else 15
    for _ in range(tries):
        dist.barrier(group)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        call(own, ranks, group)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    slowest = torch.tensor([float(np.median(taken))], dtype=torch.float64)
    if device.type == "cuda":
        slowest = slowest.to(device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX, group=group)
    return float(slowest)


def _all_to_all(own: torch.Tensor, ranks: int, group: Any) -> None:
    dist.all_to_all_single(torch.empty_like(own), own, group=group)


def _reduce_scatter(own: torch.Tensor, ranks: int, group: Any) -> None:
    dist.reduce_scatter_tensor(own.new_empty(len(own) // ranks), own, group=group)


def _all_gather(own: torch.Tensor, ranks: int, group: Any) -> None:
    part = own[: len(own) // ranks].contiguous()
    dist.all_gather_into_tensor(torch.empty_like(own), part, group=group)


def _all_reduce(own: torch.Tensor, ranks: int, group: Any) -> None:
    dist.all_reduce(own, group=group)


_CALLS: dict[str, Callable[[torch.Tensor, int, Any], None]] = {
    "all_to_all": _all_to_all,
    "reduce_scatter": _reduce_scatter,
    "all_gather": _all_gather,
    "all_reduce": _all_reduce,
}
