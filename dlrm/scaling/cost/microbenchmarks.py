"""What a rank's hardware does, measured while all ranks of its host do the same, each figure by the work it stands for."""

from __future__ import annotations

import itertools
import time
import warnings
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

from dlrm.scaling.benchmark.ceilings import timed_s
from dlrm.scaling.cost.rates import Link
from dlrm.scaling.work import Product

_LEAST_S, _TRIES = 0.05, 7
_PRODUCTS = (  # m, k, n, batch: wide and narrow layers, the three products of each, and pairs of an interaction
    (512, 512, 512, 1), (128, 1024, 1024, 1), (1024, 128, 512, 1), (256, 512, 64, 1), (64, 256, 16, 1), (512, 512, 1, 1),
    (1024, 512, 1024, 1), (512, 13, 256, 1), (27, 64, 27, 512), (27, 27, 64, 512), (65, 16, 65, 256),
)  # fmt: skip
_HALF_SIZES = np.geomspace(0.5, 128, 49)
_TABLES = (
    (4, 16, 1),
    (4, 16, 16),
    (4, 128, 1),
    (4, 128, 16),
    (32, 16, 2),
    (16, 64, 1),
)  # tables, columns, ids of a bag
_SIZES = (1 << 12, 1 << 16, 1 << 19, 1 << 22, 1 << 25)  # bytes of a rank in a collective
_COLD_BYTES = 1 << 24
_PHASES_S, _PHASES = (0.003, 0.03), 30  # between collectives, and how many of them


def typical_s(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the median of some tries, after one that does not count; repeated within a try until it can be timed."""
    work()
    repeats = 1
    while True:
        seconds = timed_s(work, device, repeats)
        if seconds >= _LEAST_S / 10 or repeats > 1 << 20:
            break
        repeats *= 4
    return float(np.median([timed_s(work, device, repeats) / repeats for _ in range(_TRIES)]))


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
    """Of operands that are not in a cache of the core, as other layers have been there since."""
    sets = max(2, min(64, _COLD_BYTES // shape.bytes))
    operands = itertools.cycle([_operands(shape, device) for _ in range(sets)])

    def multiply() -> None:
        left, right = next(operands)
        left @ right

    return typical_s(multiply, device)


def _operands(shape: Product, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    left = torch.randn(shape.batch, shape.m, shape.k, device=device).to(shape.dtype)
    right = torch.randn(shape.batch, shape.k, shape.n, device=device).to(shape.dtype)
    return (left, right) if shape.batch > 1 else (left[0], right[0])


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


def launch_s(device: torch.device) -> float:
    """Of the host, of an operator whose kernel it does not wait for, forward and backward."""
    x = torch.ones(1, device=device, requires_grad=True)
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(20):
        y = x
        for _ in range(20):
            y = y * 1.5
        y.backward()
    took = time.perf_counter() - began
    torch.cuda.synchronize(device)
    return took / 800


def copy_bytes_per_s(device: torch.device) -> float:
    """From page-locked memory of the host to the device."""
    host = torch.empty(1 << 24, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(1 << 24, dtype=torch.uint8, device=device)
    return len(host) / typical_s(lambda: there.copy_(host, non_blocking=True), device)


Costs = tuple[float, float, float, float]


def tables(device: torch.device, rows: int, bags: int) -> tuple[Costs, Costs]:
    """Seconds of a table, a bag, an id, and a byte of rows: of the lookup, and of the update by row-wise Adagrad."""
    work, forward_s, backward_s = [], [], []
    for count, columns, hotness in _TABLES:
        ahead, back = _lookup_s(device, count, rows, columns, bags, hotness)
        ids = bags * hotness
        distinct = rows * (1 - (1 - 1 / rows) ** ids)
        work.append((count, count * bags, count * ids, count * (distinct + bags) * columns * 4))
        forward_s.append(ahead)
        backward_s.append(back)
    amounts_NK = np.array(work, dtype=float)
    return _fitted(amounts_NK, forward_s), _fitted(amounts_NK, backward_s)


def _lookup_s(
    device: torch.device, tables: int, rows: int, columns: int, bags: int, hotness: int
) -> tuple[float, float]:
    """Of the lookup and of the update of so many tables."""
    on_cpu = device.type == "cpu"
    place = EmbeddingLocation.HOST if on_cpu else EmbeddingLocation.DEVICE
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
    return forward, max(both - forward, 0.1 * both)


def cut_by_rows(device: torch.device, ranges: int) -> tuple[float, float]:
    """Seconds of a bag and of an id, whose ids are sorted by ranges of rows before they are sent (fbgemm's bucketize)."""
    work, seconds = [], []
    for features, bags, hotness in ((32, 512, 1), (8, 512, 16)):
        lengths = torch.full((features * bags,), hotness, dtype=torch.int32, device=device)
        ids = torch.randint(1000, (features * bags * hotness,), dtype=torch.int32, device=device)
        sizes = torch.full((features,), -(-1000 // ranges), dtype=torch.int32, device=device)

        def bucketize(lengths: torch.Tensor = lengths, ids: torch.Tensor = ids, sizes: torch.Tensor = sizes) -> None:
            torch.ops.fbgemm.block_bucketize_sparse_features(
                lengths, ids, bucketize_pos=False, sequence=False, block_sizes=sizes, my_size=ranges, weights=None
            )

        work.append((len(lengths), len(ids)))
        seconds.append(typical_s(bucketize, device))
    a_bag, an_id = _fitted(np.array(work, dtype=float), seconds)
    return a_bag, an_id


def id_s(device: torch.device) -> float:
    """Seconds of an id that is put in another order with its feature, as ids are before and after they are sent."""
    features, bags, hotness = 16, 512, 4
    lengths = torch.full((features, bags), hotness, dtype=torch.int32, device=device)
    ids = torch.randint(1000, (features * bags * hotness,), dtype=torch.int32, device=device)
    order = torch.randperm(features, dtype=torch.int32, device=device)
    permute = torch.ops.fbgemm.permute_2D_sparse_data
    return 2 * typical_s(lambda: permute(order, lengths, ids, None, ids.numel()), device) / len(ids)


def _fitted(amounts_NK: np.ndarray[Any, Any], seconds: Sequence[float]) -> tuple[Any, ...]:
    """Non-negative coefficients whose relative errors have the least sum of squares."""
    seconds_N = np.array(seconds)
    return tuple(map(float, non_negative(amounts_NK / seconds_N[:, None], np.ones(len(seconds_N)))))


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


def crowding(ideal: float) -> float:
    """How many times as long ranks take to compute between collectives, all at once, than their work takes on all cores.

    It is 1 where each has cores for itself. Where they share cores, a rank that is late holds up the others while a core is
    idle, and caches and the scheduler cost besides.

    Args:
        ideal: threads of a host's ranks over its cores; the same on every rank.
    """
    if ideal <= 1:
        return 1.0
    left, right = _operands(Product(256, 256, 256), torch.device("cpu"))
    once_s = _alone_s(lambda: left @ right)
    took, work = [], []
    for phase_s in _PHASES_S:
        repeats = torch.tensor(max(1.0, phase_s / once_s))
        dist.broadcast(repeats, src=0)
        took.append(_phase_s(lambda: left @ right, int(repeats)))
        work.append(int(repeats) * once_s)
    return max(1.0, (took[1] - took[0]) / (work[1] - work[0]) / ideal)


def _phase_s(work: Callable[[], object], repeats: int) -> float:
    """Seconds of ``repeats`` times the work and a collective, in the median."""
    taken = []
    for _ in range(_PHASES):
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        dist.all_reduce(torch.ones(1))
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:]))


def _alone_s(work: Callable[[], object]) -> float:
    """Seconds on the first rank while the others wait."""
    seconds = torch.zeros(1, dtype=torch.float64)
    if dist.get_rank() == 0:
        seconds += typical_s(work, torch.device("cpu"))
    dist.all_reduce(seconds)
    return float(seconds)


def collectives(device: torch.device) -> dict[str, Link]:
    """What each collective takes on all ranks, each of which calls this."""
    ranks = dist.get_world_size()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames two of them, torchrec and older ones do not
        return {name: _link(name, ranks, device) for name in _CALLS}


def _link(name: str, ranks: int, device: torch.device) -> Link:
    amounts, seconds = [], []
    for size in _SIZES:
        numbers = max(ranks, size // 4 // ranks * ranks)
        sent = numbers * 4 if name == "all_reduce" else numbers * 4 * (ranks - 1) / ranks
        amounts.append((1.0, float(sent)))
        seconds.append(_collective_s(name, numbers, ranks, device))
    amounts_N2, seconds_N = np.array(amounts), np.array(seconds)
    latency, a_byte = non_negative(amounts_N2 / seconds_N[:, None], np.ones(len(seconds_N)))
    times = 2 * (ranks - 1) / ranks if name == "all_reduce" else 1.0
    return Link(latency_s=float(latency), bytes_per_s=float(times / max(a_byte, 1e-15)))


def _collective_s(name: str, numbers: int, ranks: int, device: torch.device) -> float:
    own = torch.ones(numbers, device=device)
    call = _CALLS[name]
    taken = []
    call(own, ranks)
    tries = 5 if numbers > 1 << 18 else 15
    for _ in range(tries):
        dist.barrier()
        taken.append(timed_s(lambda: call(own, ranks), device))
    slowest = torch.tensor([float(np.median(taken))], dtype=torch.float64)
    if device.type == "cuda":
        slowest = slowest.to(device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return float(slowest)


def _all_to_all(own: torch.Tensor, ranks: int) -> None:
    dist.all_to_all_single(torch.empty_like(own), own)


def _reduce_scatter(own: torch.Tensor, ranks: int) -> None:
    dist.reduce_scatter_tensor(own.new_empty(len(own) // ranks), own)


def _all_gather(own: torch.Tensor, ranks: int) -> None:
    part = own[: len(own) // ranks].contiguous()
    dist.all_gather_into_tensor(torch.empty_like(own), part)


def _all_reduce(own: torch.Tensor, ranks: int) -> None:
    dist.all_reduce(own)


_CALLS: dict[str, Callable[[torch.Tensor, int], None]] = {
    "all_to_all": _all_to_all,
    "reduce_scatter": _reduce_scatter,
    "all_gather": _all_gather,
    "all_reduce": _all_reduce,
}
