"""How fast this machine is at best, measured on the spot by the ranks all at once: they share its memory.

Each ceiling is the best of some tries, so that what disturbs one of them does not lower it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dlrm.scaling.work import Product

_FEWEST_TRIES = 5
_ENOUGH_S = 0.1
_TOO_LONG_S = 5.0
_LARGEST_TABLE_BYTES = 2**29  # larger ones are no slower, as no cache holds this one either
_LARGEST_OUTPUT_BYTES = 2**30
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Ceilings:
    """The best that one rank reaches while the others try as well.

    Attributes:
        stream_bytes_per_s: of a triad.
        row_bytes_per_s: of rows gathered from random places and written one after the other.
        flops_per_s: of the products of a step, one after the other, each in the type it is computed in.
    """

    stream_bytes_per_s: float
    row_bytes_per_s: float
    flops_per_s: float


def measure(products: Sequence[Product], *, rows: int, dim: int, lookups: int, device: torch.device) -> Ceilings:
    """All of them, on this rank.

    Args:
        products: of a step, at least one.
        rows: of this rank's tables together.
        dim: their width.
        lookups: ids of a step.
        device: to measure.
    """
    operand_bytes = sum(product.bytes for product in products) // (3 * len(products))
    return Ceilings(
        stream_bytes_per_s=stream_bytes_per_s(max(1, operand_bytes // _FLOAT_BYTES), device),
        row_bytes_per_s=row_bytes_per_s(rows, dim, lookups, device),
        flops_per_s=flops_per_s(products, device),
    )


def stream_bytes_per_s(numbers: int, device: torch.device) -> float:
    """Bytes a second of the triad a = b + 3 c (McCalpin's STREAM), which reads two arrays and writes one.

    Args:
        numbers: float32 in each array. Take as many bytes as an activation has: what fits into a cache is read from there
            by the training as well.
        device: whose memory.
    """
    a, b, c = (torch.zeros(numbers, device=device) for _ in range(3))
    return 3 * numbers * _FLOAT_BYTES / best_s(lambda: torch.add(b, c, alpha=3.0, out=a), device)


def row_bytes_per_s(rows: int, dim: int, lookups: int, device: torch.device) -> float:
    """Bytes a second that random rows are read and written with.

    Args:
        rows: of the table.
        dim: its width.
        lookups: rows that are gathered at once.
        device: whose memory.
    """
    rows = max(1, min(rows, _LARGEST_TABLE_BYTES // (dim * _FLOAT_BYTES)))
    lookups = max(1, min(lookups, _LARGEST_OUTPUT_BYTES // (dim * _FLOAT_BYTES)))
    table_RD = torch.zeros(rows, dim, device=device)
    ids_L = torch.randint(rows, (lookups,), device=device)
    out_LD = torch.zeros(lookups, dim, device=device)
    seconds = best_s(lambda: torch.index_select(table_RD, 0, ids_L, out=out_LD), device)
    return 2 * lookups * dim * _FLOAT_BYTES / seconds


def flops_per_s(products: Sequence[Product], device: torch.device) -> float:
    """Floating-point operations a second of a step's products at their own shapes."""
    seconds: dict[Product, float] = {}
    for product in products:
        if product not in seconds:
            seconds[product] = _product_s(product, device)
    total_s = sum(seconds[product] for product in products)
    return sum(product.flops for product in products) / total_s if total_s else 0.0


def _product_s(product: Product, device: torch.device) -> float:
    left = torch.randn(product.batch, product.m, product.k, device=device, dtype=product.dtype)
    right = torch.randn(product.batch, product.k, product.n, device=device, dtype=product.dtype)
    out = torch.empty(product.batch, product.m, product.n, device=device, dtype=product.dtype)
    if product.batch == 1:
        left, right, out = left[0], right[0], out[0]
    return best_s(lambda: torch.matmul(left, right, out=out), device)


def best_s(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some tries, after one that does not count."""
    work()
    tries, total_s, fastest_s = 0, 0.0, math.inf
    while total_s < (_ENOUGH_S if tries >= _FEWEST_TRIES else _TOO_LONG_S):
        try_s = timed_s(work, device)
        tries, total_s, fastest_s = tries + 1, total_s + try_s, min(fastest_s, try_s)
    return fastest_s


def timed_s(work: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Seconds of so many repeats, all of their kernels included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
