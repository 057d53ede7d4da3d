from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dlrm.data.packed.folder import open_packed
from dlrm.data.packed.split import Part, ResolvedSplit, Span
from dlrm.dataset_tools.inspect import sample as module
from dlrm.dataset_tools.inspect.sample import BLOCK_ROWS, Region, sample_rows, sampled_columns
from tests.unit.dataset_tools.inspect.packed_folders import small

PARTS = [Part("a", 100_000), Part("b", 300_000), Part("c", 0), Part("d", 7)]
SPLIT = ResolvedSplit(
    train=(Span("a", 0, 100_000), Span("b", 0, 100_000)),
    validation=(Span("b", 100_000, 150_000),),
    test=(Span("b", 200_000, 300_000), Span("d", 0, 7)),
)


def test_regions_are_all_rows_once_and_say_what_they_are_for():
    regions = sample_rows(PARTS, SPLIT, 10).regions
    assert regions == (
        Region("a", 0, 100_000, "train"),
        Region("b", 0, 100_000, "train"),
        Region("b", 100_000, 150_000, "validation"),
        Region("b", 150_000, 200_000, "unused"),
        Region("b", 200_000, 300_000, "test"),
        Region("d", 0, 7, "test"),
    )


def test_without_a_split_all_rows_are_unused():
    assert sample_rows(PARTS, None, 10).regions[0] == Region("a", 0, 100_000, "unused")


def test_small_parts_are_taken_whole():
    sample = sample_rows(PARTS, SPLIT, 300_000)
    assert sample.whole
    assert sample.taken == sample.rows == 400_007
    rows = Counter((block.region.part, row) for block in sample.blocks for row in range(block.start, block.stop))
    assert set(rows.values()) == {1}
    assert len(rows) == 400_007
    assert max(len(block) for block in sample.blocks) <= BLOCK_ROWS


@pytest.mark.parametrize("wanted", [1, 999, 50_000, 99_999])
def test_large_parts_give_blocks_spread_evenly_in_proportion_to_their_regions(wanted):
    sample = sample_rows(PARTS, SPLIT, wanted)
    taken = Counter()
    last = {}
    for block in sample.blocks:
        assert block.region.start <= block.start < block.stop <= block.region.stop
        assert block.start >= last.get(block.region, 0)
        assert len(block) <= BLOCK_ROWS
        last[block.region] = block.stop
        taken[block.region] += len(block)
    for region in sample.regions:
        of_part = {part.name: part.rows for part in PARTS}[region.part]
        expected = len(region) if of_part <= wanted else max(1, len(region) * wanted // of_part)
        assert taken[region] == expected
    blocks = [block for block in sample.blocks if block.region == Region("a", 0, 100_000, "train")]
    gaps = np.diff([0, *(block.start + len(block) / 2 for block in blocks), 100_000])
    assert gaps[1:-1].size == 0 or np.ptp(gaps[1:-1]) <= 2
    assert abs(gaps[0] - gaps[-1]) <= 2


@pytest.mark.parametrize("memory", [1, 5_000, 1 << 20])
def test_columns_hold_the_values_of_the_blocks_whatever_fits_into_memory(tmp_path: Path, monkeypatch, memory):
    monkeypatch.setattr(module, "_MEMORY_BYTES", memory)
    folder = open_packed(str(small(tmp_path)))
    sample = sample_rows([Part(part.name, part.rows) for part in folder.parts], None, 150)
    assert not sample.whole
    found = dict(sampled_columns(folder, sample.blocks, lambda part: [part.sparse_MF[:, i : i + 1] for i in range(3)]))
    stored = {f"day_{i}": np.load(tmp_path / f"day_{i}_sparse.npy") for i in range(3)}
    rows = np.concatenate([stored[block.region.part][block.start : block.stop] for block in sample.blocks])
    assert sorted(found) == [0, 1, 2]
    for i in range(3):
        assert found[i].tolist() == rows[:, i].tolist()
