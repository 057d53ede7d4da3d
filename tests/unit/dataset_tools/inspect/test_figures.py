import math

import numpy as np
import pytest

from dlrm.data.packed.folder import open_packed
from dlrm.data.packed.split import Part
from dlrm.dataset_tools.inspect.figures import Rate, Reserved, figures_of, reserved_ids
from dlrm.dataset_tools.inspect.sample import sample_rows
from tests.unit.dataset_tools.inspect.packed_folders import SEPARATE, small, write_manifest, write_part

NAN = float("nan")


def figures(path, *, rows_of_part=1_000_000, **options):
    folder = open_packed(str(path), **options)
    split = folder.manifest.resolved_split if folder.manifest is not None else None
    parts = [Part(part.name, part.rows) for part in folder.parts]
    return figures_of(folder, sample_rows(parts, split, rows_of_part))


def by_hand(tmp_path, **options):
    """Two parts of 4 and 6 rows, the second for validation."""
    write_part(tmp_path, "day_0", [[1.0], [2.0], [2.0], [5.0]], [[0, 3], [1, 3], [2, 3], [2, 4]], [1, 0, 0, 0])
    held_out = [[1, 3], [1, 3], [2, 9], [0, 3], [1, 3], [2, 3]]
    write_part(tmp_path, "day_1", [[2.0], [0.0], [4.0], [8.0], [NAN], [2.0]], held_out, [1, 1, 1, 0, 0, 0])
    options = {"split": {"train": ["day_0"], "validation": ["day_1"]}} | options
    write_manifest(tmp_path, (3, 9), **options)
    return figures(tmp_path)


def test_rows_and_click_rates_of_parts_and_splits(tmp_path):
    found = by_hand(tmp_path)
    assert [(part.name, part.rows, part.click_rate) for part in found.parts] == [
        ("day_0", 4, Rate(0.25, exact=True)),
        ("day_1", 6, Rate(0.5, exact=True)),
    ]
    assert [(split.name, split.rows, split.click_rate) for split in found.splits] == [
        ("train", 4, Rate(0.25, exact=True)),
        ("validation", 6, Rate(0.5, exact=True)),
    ]
    assert found.parts[0].nbytes == sum(path.stat().st_size for path in tmp_path.glob("day_0_*"))


def test_sparse_columns_by_hand(tmp_path):
    first, second = by_hand(tmp_path, preprocessing=SEPARATE).sparse
    assert (first.table_rows, first.skew.distinct, first.outside) == (3, 3, 0)
    assert first.missing == Rate(0.2, exact=True)  # id 0 in 2 of 10 rows
    assert first.unseen == Rate(0.5, exact=True)  # id 1 in 3 of the 6 rows that are held out
    assert first.skew.top == 0.4
    assert (second.table_rows, second.skew.distinct, second.outside) == (9, 3, 1)  # id 9 in a table of 9 rows
    assert second.missing == second.unseen == Rate(0.0, exact=True)
    assert second.skew.top == 0.8


def test_what_was_counted_when_the_data_were_written_comes_first(tmp_path):
    missing = {"day_0": {"cat_0": 3, "int_0": 1}, "day_1": {"cat_0": 4, "int_0": 1}}
    found = by_hand(tmp_path, preprocessing=SEPARATE, missing=missing)
    assert found.sparse[0].missing == Rate(0.7, exact=True)
    assert found.dense[0].missing == Rate(0.2, exact=True)
    assert found.sparse[1].missing == Rate(0.0, exact=True)  # not counted: the share of id 0


def test_where_shuffled_parts_have_no_counts_of_their_own_those_of_the_raw_files_are_taken(tmp_path):
    raw = [{"name": "a", "rows": 6, "missing": {"int_0": 1}}, {"name": "b", "rows": 4, "missing": {"int_0": 2}}]
    found = by_hand(tmp_path, preprocessing={**SEPARATE, "sources": raw})
    assert found.dense[0].missing == Rate(0.3, exact=True)


def test_a_rate_that_the_data_do_not_tell_is_none(tmp_path):
    found = by_hand(tmp_path, missing={"day_0": {"cat_0": 3}})
    assert [column.missing for column in found.sparse] == [None, None]
    assert [column.unseen for column in found.sparse] == [None, None]
    assert found.dense[0].missing is None


def test_dense_columns_by_hand(tmp_path):
    (column,) = by_hand(tmp_path).dense
    finite = [1, 2, 2, 5, 2, 0, 4, 8, 2]
    assert (column.minimum, column.maximum) == (0, 8)
    assert column.mean == pytest.approx(sum(finite) / 9)
    assert (column.commonest, column.commonest_share) == (2, pytest.approx(4 / 9))
    assert column.not_finite == 1
    counts, edges = column.histogram
    assert counts.sum() == 8  # without the largest, which is beyond the 99.9th percentile
    assert (edges[0], edges[-1]) == (0, 5)


def test_a_dense_column_without_a_finite_value(tmp_path):
    write_part(tmp_path, "day_0", [[NAN], [float("inf")]], [[0], [0]], [0, 1])
    write_manifest(tmp_path, (1,))
    (column,) = figures(tmp_path).dense
    assert column.not_finite == 2
    assert math.isnan(column.mean)


def test_of_large_parts_a_sample_is_looked_at_and_said_so(tmp_path):
    small(tmp_path, rows=1000, preprocessing=SEPARATE, split={"train": ["day_0", "day_1"], "test": ["day_2"]})
    found = figures(tmp_path, rows_of_part=100)
    assert (found.sample.taken, found.sample.rows) == (300, 3000)
    assert not found.sample.whole
    assert found.parts[0].click_rate == Rate(np.load(tmp_path / "day_0_labels.npy").mean(), exact=True)  # recorded
    assert found.sparse[0].skew.occurrences == 300
    assert found.sparse[0].missing is not None
    assert not found.sparse[0].missing.exact
    block = found.sample.blocks[-1]
    held_out = np.load(tmp_path / "day_2_sparse.npy")[block.start : block.stop]
    assert found.sparse[0].unseen == Rate((held_out[:, 0] == 1).mean(), exact=False)


def test_without_dataset_json_tables_end_with_the_largest_id_and_labels_are_counted(tmp_path):
    write_part(tmp_path, "day_0", [[1.0]] * 3, [[0, 7], [2, 0], [1, 0]], [1, 0, 0])
    found = figures(tmp_path, rows=[2**40])
    assert [column.table_rows for column in found.sparse] == [3, 8]
    assert not found.table_rows_known
    assert found.parts[0].click_rate == Rate(pytest.approx(1 / 3), exact=True)
    assert [split.name for split in found.splits] == ["unused"]


def test_multi_hot_ids_are_all_counted(tmp_path):
    write_part(tmp_path, "day_0", [[1.0]] * 2, None, [1, 0], multi_hot=[[[0, 1], [1, 1]], [[5], [6]]])
    write_manifest(tmp_path, (2, 7), hotness=(2, 1))
    first, second = figures(tmp_path, multi_hot=True).sparse
    assert (first.hotness, first.skew.occurrences, first.skew.top) == (2, 4, 0.75)
    assert (second.hotness, second.skew.occurrences, second.skew.top) == (1, 2, 0.5)


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (SEPARATE, Reserved(missing=0, unseen=1, count=2)),
        ({"parameters": {"categories": {"kind": "vocabulary", "reserved": "mlperf"}}}, Reserved(count=0)),
        ({"parameters": {"categories": {"kind": "hashing", "rows": [10]}}}, Reserved(missing=0, count=1)),
        ({"parameters": "by hand"}, Reserved()),
        ({}, Reserved()),
    ],
)
def test_reserved_ids_are_those_that_preprocessing_recorded(tmp_path, preprocessing, expected):
    folder = open_packed(str(small(tmp_path, parts=1, preprocessing=preprocessing)))
    assert reserved_ids(folder.manifest) == expected
    assert reserved_ids(None) == Reserved()
