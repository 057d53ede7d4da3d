import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from dlrm.data.packed.folder import open_packed
from dlrm.data.packed.source import PackedSource
from dlrm.data.packed.split import Span
from dlrm.errors import DataError
from tests.unit.data.packed.packed_files import HOTNESS, ROWS, some_part, write_days, write_part

SIZES = (500, 0, 300, 400)
SPANS = (
    Span("day_3", 100, 400),
    Span("day_1", 0, 0),
    Span("day_0", 0, 500),
    Span("day_2", 299, 300),
    Span("day_3", 5, 5),
)
TOTAL = 801
INDICES = {
    "none": np.arange(0),
    "one": np.array([42]),
    "all in order": np.arange(TOTAL),
    "a slice of one span": np.arange(300, 420),
    "a slice over spans": np.arange(250, 801),
    "long runs": np.concatenate([np.arange(700, 790), np.arange(10, 40), np.arange(290, 310)]),
    "backwards": np.arange(TOTAL)[::-1].copy(),
    "scattered": np.random.default_rng(0).permutation(TOTAL),
    "scattered in one span": np.random.default_rng(1).permutation(200) + 350,
    "repeated": np.random.default_rng(2).integers(0, TOTAL, 2000),
    "the last": np.array([800, 0, 800]),
}


def rows_of(arrays) -> np.ndarray:
    """The split's rows, from the arrays of days 0 .. 3."""
    return np.concatenate([arrays[int(span.part[-1])][span.start : span.stop] for span in SPANS])


def opened(folder, *, multi_hot=False) -> PackedSource:
    data = open_packed(str(folder), rows=ROWS, multi_hot=multi_hot)
    return PackedSource("split", data.schema, data.parts, SPANS)


@pytest.mark.parametrize("multi_hot", [False, True], ids=["one-hot", "multi-hot"])
@pytest.mark.parametrize("which", list(INDICES))
def test_samples_are_the_rows_of_the_spans_in_the_order_asked_for(tmp_path, which, multi_hot):
    parts = write_days(tmp_path, SIZES, multi_hot=multi_hot)
    index_B = INDICES[which]
    samples = opened(tmp_path, multi_hot=multi_hot).read(torch.from_numpy(index_B))
    ids = [np.concatenate(part.multi_hot, axis=1) if multi_hot else part.sparse_MF for part in parts]
    assert samples.dense_BN.dtype == samples.labels_BT.dtype == torch.float32
    assert samples.ids_BS.dtype == torch.int32
    assert samples.lengths_BF is None
    np.testing.assert_array_equal(samples.dense_BN, rows_of([part.dense_MN for part in parts])[index_B])
    np.testing.assert_array_equal(samples.ids_BS, rows_of(ids)[index_B])
    np.testing.assert_array_equal(samples.labels_BT[:, 0], rows_of([part.labels_M for part in parts])[index_B])


def test_ids_of_64_bits_stay_whole_beside_parts_of_32(tmp_path):
    write_part(tmp_path, "a", some_part(10))
    wide = some_part(10, ids=np.int64)
    wide.sparse_MF[3, 1] = 2**40 - 1
    write_part(tmp_path, "b", wide)
    data = open_packed(str(tmp_path), rows=[2**40])
    source = PackedSource("split", data.schema, data.parts, (Span("a", 0, 10), Span("b", 0, 10)))
    ids_BS = source.read(torch.tensor([13, 0])).ids_BS
    assert ids_BS.dtype == torch.int64
    assert ids_BS[0, 1] == 2**40 - 1


def test_a_split_without_rows_has_no_samples(tmp_path):
    write_days(tmp_path, SIZES)
    data = open_packed(str(tmp_path), rows=ROWS)
    source = PackedSource("split", data.schema, data.parts, ())
    assert source.num_samples == 0
    assert len(source.read(torch.arange(0))) == 0
    source.check_unchanged()


@pytest.mark.parametrize("index", [[-1], [801], [0, 1, 2**40]])
def test_an_index_outside_of_the_split_is_a_bug_not_a_sample(tmp_path, index):
    write_days(tmp_path, SIZES)
    with pytest.raises(IndexError, match=r"0 \.\. 800"):
        opened(tmp_path).read(torch.tensor(index))


@pytest.mark.parametrize("multi_hot", [False, True], ids=["one-hot", "multi-hot"])
def test_a_value_is_located_in_its_file_and_row(tmp_path, multi_hot):
    parts = write_days(tmp_path, SIZES, multi_hot=multi_hot)
    source = opened(tmp_path, multi_hot=multi_hot)
    for index in (0, 299, 300, 799, 800):
        samples = source.read(torch.tensor([index]))
        for column, found in (
            ("int_1", samples.dense_BN[0, 1]),
            ("cat_2", samples.ids_BS[0, -HOTNESS[2] if multi_hot else -1]),
            ("label", samples.labels_BT[:, 0][0]),
        ):
            path, row = source.locate(index, column)
            if path.endswith(".npz"):
                with np.load(path) as archive:
                    value = archive["2"][row - 1, 0]
            else:
                array = np.load(path)[row - 1]
                value = array[{"int_1": 1, "cat_2": 2, "label": 0}[column]]
            assert found == value
    day_3 = len(parts[3].labels_M)
    assert day_3 == 400
    assert source.locate(0, "label") == (str(tmp_path / "day_3_labels.npy"), 101)


def test_threads_read_the_same_samples(tmp_path):
    write_days(tmp_path, SIZES, multi_hot=True)
    source = opened(tmp_path, multi_hot=True)
    indices = [torch.from_numpy(np.random.default_rng(seed).integers(0, TOTAL, 500)) for seed in range(16)]
    expected = [source.read(index_B) for index_B in indices]
    with ThreadPoolExecutor(8) as threads:
        for found, right in zip(threads.map(source.read, indices), expected, strict=True):
            assert torch.equal(found.ids_BS, right.ids_BS)
            assert torch.equal(found.dense_BN, right.dense_BN)


def test_a_file_that_is_cut_while_it_is_read_is_an_error_and_not_a_bus_error(tmp_path):
    write_days(tmp_path, SIZES)
    source = opened(tmp_path)
    path = tmp_path / "day_0_sparse.npy"
    size = path.stat().st_size
    os.truncate(path, 200)
    with pytest.raises(DataError) as caught:
        source.read(torch.arange(TOTAL))
    assert str(caught.value).startswith(f"{path}: changed while it was read (had {size:,} bytes, has 200 now); ")
    with pytest.raises(DataError, match="changed while it was read"):
        source.check_unchanged()


def test_a_file_that_is_written_to_while_it_is_read_is_noticed(tmp_path):
    write_days(tmp_path, SIZES)
    source = opened(tmp_path)
    source.check_unchanged()
    path = tmp_path / "day_2_dense.npy"
    before = path.stat().st_mtime_ns
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    os.utime(path, ns=(before, before + 1))  # the clock of the file system may be coarse
    for look in (source.check_unchanged, lambda: source.locate(800, "int_0")):
        with pytest.raises(DataError, match=r"day_2_dense.npy: changed while it was read \(was written to\)"):
            look()


def test_a_file_that_is_replaced_or_removed_while_it_is_read_stays_what_it_was(tmp_path):
    parts = write_days(tmp_path, SIZES)
    source = opened(tmp_path)
    np.save(tmp_path / "new.npy", np.zeros_like(parts[0].dense_MN))
    os.replace(tmp_path / "new.npy", tmp_path / "day_0_dense.npy")
    os.unlink(tmp_path / "day_2_dense.npy")
    np.testing.assert_array_equal(source.read(torch.arange(300, 800)).dense_BN, parts[0].dense_MN)
    np.testing.assert_array_equal(source.read(torch.tensor([800])).dense_BN, parts[2].dense_MN[-1:])
    source.check_unchanged()


def test_an_unaligned_array_is_gathered_without_copying_all_of_it(tmp_path, monkeypatch):
    write_days(tmp_path, SIZES, multi_hot=True)
    source = opened(tmp_path, multi_hot=True)
    assert any(not array_ML.flags.aligned for part in source._parts for array_ML in part.multi_hot)
    taken = []
    take = np.take

    def watched(array, *args, **kwargs):
        taken.append(array)
        return take(array, *args, **kwargs)

    monkeypatch.setattr(np, "take", watched)
    source.read(torch.tensor([700, 3, 301]))
    assert taken
    assert all(array.flags.aligned for array in taken)


def test_days_are_the_parts_in_order_and_stretches_of_one_part_are_one_day(tmp_path):
    write_days(tmp_path, SIZES)
    assert [(day.name, day.samples) for day in opened(tmp_path).days] == [("day_3", 300), ("day_0", 500), ("day_2", 1)]
    data = open_packed(str(tmp_path), rows=ROWS)
    halves = (Span("day_0", 0, 250), Span("day_0", 250, 500), Span("day_3", 0, 10))
    source = PackedSource("split", data.schema, data.parts, halves)
    assert [(day.name, day.samples) for day in source.days] == [("day_0", 500), ("day_3", 10)]
