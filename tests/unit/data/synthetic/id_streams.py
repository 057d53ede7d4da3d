"""Streams of ids as real columns look, and slow, plain implementations to compare with."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

COLD = 2**40  # a distance beyond every cache


def zipf_stream(length: int, rows: int, exponent: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(np.arange(1, rows + 1.0) ** -exponent)
    return rng.permutation(rows)[np.searchsorted(cumulative / cumulative[-1], rng.random(length))]


def scan_stream(length: int, rows: int) -> np.ndarray:
    return np.arange(length) % rows


def scan_and_zipf_stream(length: int, seed: int = 0) -> np.ndarray:
    scanning = np.random.default_rng(seed).random(length) < 0.3
    return np.where(scanning, np.cumsum(scanning) % 3000, 3000 + zipf_stream(length, 2000, 1.1, seed))


def drifting_stream(length: int, seed: int = 0) -> np.ndarray:
    """A hot set that wanders through the table, with occasional uniform references."""
    rng = np.random.default_rng(seed)
    hot = (rng.zipf(1.3, length) + np.arange(length) // 50) % 20_000
    return np.where(rng.random(length) < 0.8, hot, rng.integers(0, 20_000, length))


def listed_distances(ids: list[int]) -> list[int]:
    """Algorithm 1 of the paper as it stands there, with a list for the stack."""
    stack: list[int] = []
    distances = []
    for i in ids:
        distances.append(stack[::-1].index(i) + 1 if i in stack else 0)
        if i in stack:
            stack.remove(i)
        stack.append(i)
    return distances


def listed_replay(distances: list[int], rows: int) -> list[int]:
    """Algorithm 2 of the paper with a list for the stack, and LruStack's rules for what the stack cannot give."""
    stack: list[int] = []
    owed: list[int] = []
    ids = []
    for asked in distances:
        distance = min(asked, rows)
        if distance > len(stack):
            owed.append(distance)
            distance = 0
        elif distance == 0 and any(other <= len(stack) for other in owed):
            distance = min(owed)
            owed.remove(distance)
        is_new = distance == 0 and len(stack) < rows
        ids.append(len(stack) if is_new else stack.pop(-distance if distance else 0))
        stack.append(ids[-1])
    return ids


def lru_hit_rate(ids: np.ndarray, cache_rows: int) -> float:
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for i in ids.tolist():
        if i in cache:
            hits += 1
            cache.move_to_end(i)
        else:
            cache[i] = None
            if len(cache) > cache_rows:
                cache.popitem(last=False)
    return hits / len(ids)


def ks_distance(distances: np.ndarray, others: np.ndarray, below: int = COLD) -> float:
    """Largest difference of the cumulative distributions at distances under ``below``; cold references are beyond."""
    sorted_1, sorted_2 = (np.sort(np.where(d == 0, COLD, d.astype(np.int64))) for d in (distances, others))
    at = np.unique(np.concatenate([sorted_1, sorted_2]))
    at = at[at < below]
    shares = (np.searchsorted(part, at, side="right") / len(part) for part in (sorted_1, sorted_2))
    return float(np.abs(np.subtract(*shares)).max(initial=0.0))
