"""What a trace stream repeats: the profile's stack distances and LRU hit rates."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrm.counter_rng import integers, stream_key
from dlrm.data.permutation import permuted
from dlrm.data.synthetic.lru_stack import stack_distances
from dlrm.data.synthetic.trace import TraceStream
from dlrm.data.synthetic.trace_profile import profile_column
from tests.unit.data.synthetic.id_streams import (
    drifting_stream,
    ks_distance,
    listed_replay,
    lru_hit_rate,
    scan_and_zipf_stream,
    scan_stream,
    zipf_stream,
)

LENGTH = 60_000
REPOSITORY = Path(__file__).parents[4]
SAMPLE = Path(os.environ.get("CRITEO_SAMPLE", REPOSITORY.parent / "shared" / "data" / "criteo_kaggle_sample.tsv.gz"))
STREAMS = {
    "zipf": zipf_stream(LENGTH, 20_000, 1.05),
    "flat": zipf_stream(LENGTH, 300_000, 0.7),
    "scan": scan_stream(LENGTH, 7000),
    "scan and zipf": scan_and_zipf_stream(LENGTH),
    "drifting": drifting_stream(LENGTH),
    "few ids": zipf_stream(LENGTH, 25, 1.0),
    "never twice": np.arange(LENGTH),
}


def replay(original: np.ndarray, length: int, rows: int, seed: int = 0) -> np.ndarray:
    stream = TraceStream(profile_column("c", 1, original), rows=rows, seed=seed, table=3)
    ids = stream.take(length)
    assert ids.min() >= 0
    assert ids.max() < rows
    assert stream.distinct == len(np.unique(ids))
    return ids


@pytest.mark.parametrize("original", STREAMS.values(), ids=STREAMS)
def test_distances_and_hit_rates_are_the_profiled_ones(original):
    ids = replay(original, LENGTH, rows=int(original.max()) + 1)
    assert ks_distance(stack_distances(ids), stack_distances(original)) <= 0.02
    for cache_rows in (1, 20, 300, 4000, 30_000):
        assert lru_hit_rate(ids, cache_rows) == pytest.approx(lru_hit_rate(original, cache_rows), abs=0.02)


@pytest.mark.parametrize("factor", [2, 5])
@pytest.mark.parametrize("original", STREAMS.values(), ids=STREAMS)
def test_a_longer_stream_over_a_larger_table_has_them_too(original, factor):
    ids = replay(original, factor * LENGTH, rows=2**31 - 1)
    assert ks_distance(stack_distances(ids), stack_distances(original)) <= 0.02


@pytest.mark.parametrize("length", [LENGTH, 3 * LENGTH])
@pytest.mark.parametrize("rows", [1, 10, 500, 5000])
@pytest.mark.parametrize("original", STREAMS.values(), ids=STREAMS)
def test_in_a_small_table_they_are_those_of_every_smaller_cache(original, rows, length):
    ids = replay(original, length, rows)
    assert ks_distance(stack_distances(ids), stack_distances(original), below=rows) <= 0.02
    assert len(np.unique(ids)) <= rows
    if rows > 1:
        assert lru_hit_rate(ids, rows - 1) == pytest.approx(lru_hit_rate(original, rows - 1), abs=0.02)


def test_a_stream_too_short_for_the_distances_has_more_cold_references_and_no_more_hits():
    original = STREAMS["zipf"]
    short = replay(original, LENGTH // 10, rows=20_000)
    assert (stack_distances(short) == 0).mean() > (stack_distances(original) == 0).mean()
    for cache_rows in (10, 100, 1000):
        assert lru_hit_rate(short, cache_rows) <= lru_hit_rate(original, cache_rows) + 0.02


@pytest.mark.parametrize("rows", [2, 900, 10**6])
@pytest.mark.parametrize("original", [STREAMS["zipf"][:4000], STREAMS["scan and zipf"][:4000], np.arange(50)])
def test_a_stream_from_an_exact_profile_is_that_of_a_list_for_the_same_draws(original, rows):
    profile = profile_column("c", 1, original, tolerance=0)
    drawn = integers(stream_key(5, "trace", 2, "distances"), torch.arange(5000), len(original)).numpy()
    numbers = listed_replay(np.sort(stack_distances(original))[drawn].tolist(), rows)
    ids = permuted(torch.tensor(numbers), rows, stream_key(5, "trace", 2, "rows"))
    assert np.array_equal(TraceStream(profile, rows=rows, seed=5, table=2).take(5000), ids)


def test_a_stream_does_not_depend_on_the_portions_it_is_taken_in():
    profile = profile_column("c", 1, STREAMS["drifting"])
    whole = TraceStream(profile, rows=10_000, seed=1, table=0).take(200_000)
    stream = TraceStream(profile, rows=10_000, seed=1, table=0)
    pieces = [stream.take(count) for count in (0, 1, 16_383, 16_384, 3, 167_229)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_tables_and_seeds_have_streams_of_their_own():
    profile = profile_column("c", 1, STREAMS["zipf"])
    streams = [TraceStream(profile, rows=20_000, seed=s, table=t).take(5000) for s, t in ((0, 0), (0, 1), (1, 0))]
    for i in range(3):
        assert (streams[i] == streams[i - 1]).mean() < 0.01


def test_the_rows_in_use_are_spread_over_the_table():
    ids = replay(STREAMS["zipf"], LENGTH, rows=10**8)
    used = np.unique(ids)
    assert np.histogram(used, bins=10, range=(0, 10**8))[0].min() > 0.08 * len(used)


@pytest.mark.criteo
@pytest.mark.skipif(
    not SAMPLE.exists(), reason=f"needs the Criteo Kaggle sample; CRITEO_SAMPLE names it, not at {SAMPLE}"
)
def test_every_column_of_the_real_sample_is_repeated():
    from dlrm.data.raw.layout import Layout
    from dlrm.data.raw.tsv_parse import read_tsv

    for column, original in enumerate(read_tsv([str(SAMPLE)], Layout(num_dense=13, num_sparse=26)).categories_FM):
        ids = replay(original, len(original), rows=2_000_000, seed=column)
        assert ks_distance(stack_distances(ids), stack_distances(original)) <= 0.02
        for cache_rows in (50, 5000):
            assert lru_hit_rate(ids, cache_rows) == pytest.approx(lru_hit_rate(original, cache_rows), abs=0.02)
