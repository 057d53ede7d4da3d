import threading

import numpy as np
import pyarrow as pa
import pytest
import torch

from dlrm.data.check import SKIPPED, SampleCheck
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.data.parquet import decode
from dlrm.errors import DataError
from tests.unit.data.parquet.parquet_files import columns, dataset, write


def everything(source):
    return source.read(torch.arange(source.num_samples))


def numbers(source, index) -> list[int]:
    return source.read(torch.tensor(index)).dense_BN[:, 0].long().tolist()


def one_column(folder, values, *, rows=100, hotness=1, **options):
    """The training source of one sparse column ``ids``."""
    count = len(values)
    write(folder / "train.parquet", {"label": [0] * count, "x": [0.0] * count, "ids": values})
    return dataset(folder, sparse=["ids"], rows=[rows], hotness=[hotness], **options).train


def test_rows_follow_each_other_in_natural_order_of_the_files(tmp_path):
    for i, first in ((10, 9), (2, 4), (1, 0)):
        write(tmp_path / f"train_{i}.parquet", columns(5 if i != 1 else 4, first), row_group_size=3)
    source = dataset(tmp_path).train
    assert source.num_samples == 14
    samples = everything(source)
    assert samples.dense_BN.flatten().tolist() == list(range(14))
    assert samples.ids_BS.tolist() == [[i % 100, i] for i in range(14)]
    assert samples.labels_BT[:, 0].tolist() == [i % 2 for i in range(14)]
    assert samples.lengths_BF is None
    assert (samples.dense_BN.dtype, samples.labels_BT[:, 0].dtype) == (torch.float32, torch.float32)


def test_any_index_gives_what_a_plain_list_of_the_rows_has_there(tmp_path):
    for i in range(3):
        write(tmp_path / f"train_{i}.parquet", columns(50, 50 * i), row_group_size=7)
    index = np.random.default_rng(0).integers(0, 150, 400).tolist()
    assert numbers(dataset(tmp_path).train, index) == index


def test_a_rank_without_samples_reads_none(tmp_path):
    write(tmp_path / "train.parquet", columns(4))
    samples = dataset(tmp_path).train.read(torch.empty(0, dtype=torch.int64))
    assert samples.dense_BN.shape == (0, 1)
    assert samples.ids_BS.shape == (0, 2)


def test_splits_are_the_files_that_their_patterns_match(tmp_path):
    write(tmp_path / "a" / "part-0.parquet", columns(3))
    write(tmp_path / "a" / "part-1.parquet", columns(3, 3))
    write(tmp_path / "b.parquet", columns(2, 6))
    data = dataset(tmp_path, files={"train": "a/*.parquet", "validation": ["b.parquet"]})
    assert [split.num_samples for split in (data.train, data.validation, data.test)] == [6, 2, 0]
    assert numbers(data.validation, [1, 0]) == [7, 6]


def test_locate_names_the_file_and_the_row_in_it(tmp_path):
    for i, first in ((0, 0), (1, 10)):
        write(tmp_path / f"train_{i}.parquet", columns(10, first), row_group_size=4)
    source = dataset(tmp_path).train
    for index, expected in ((0, ("train_0", 1)), (9, ("train_0", 10)), (10, ("train_1", 1)), (17, ("train_1", 8))):
        path, row = source.locate(index, "small")
        assert (path, row) == (str(tmp_path / f"{expected[0]}.parquet"), expected[1])


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()],
)
def test_ids_may_be_integers_of_any_width(tmp_path, kind):
    source = one_column(tmp_path, pa.array([3, 0, 99], kind))
    assert everything(source).ids_BS.flatten().tolist() == [3, 0, 99]


def test_ids_beyond_int32_are_exact(tmp_path):
    values = [2**40 + 1, 5, 2**31]
    assert everything(one_column(tmp_path, values, rows=2**40)).ids_BS.flatten().tolist() == values


def test_an_id_outside_of_its_table_is_handed_on_as_it_is(tmp_path):
    values = [1, -(2**40), 2**62 + 1, None]
    assert everything(one_column(tmp_path, values, rows=10)).ids_BS.flatten().tolist() == [1, -(2**40), 2**62 + 1, -1]


def test_dictionary_encoded_ids_are_looked_up(tmp_path):
    indices = pa.array([1, 0, None, 1], pa.int8())
    flat = pa.DictionaryArray.from_arrays(indices, pa.array([7, 9], pa.int64()))
    source = one_column(tmp_path, flat)
    assert everything(source).ids_BS.flatten().tolist() == [9, 7, -1, 9]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, pa.list_view])
def test_lists_become_bags_with_lengths_and_what_lies_beyond_is_zero(tmp_path, kind):
    lists = [[1, 2, 3], [], None, [4], [5, None]]
    source = one_column(tmp_path, pa.array(lists, kind(pa.int32())), hotness=3)
    samples = source.read(torch.tensor([0, 1, 2, 3, 4]))
    assert samples.ids_BS.tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0], [4, 0, 0], [5, -1, 0]]
    assert samples.lengths_BF is not None
    assert samples.lengths_BF.tolist() == [[3], [0], [0], [1], [2]]
    assert samples.lengths_BF.dtype == torch.int32


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, pa.list_view])
def test_a_sample_with_a_longer_list_is_skipped_where_bad_samples_are(tmp_path, kind):
    lists = pa.array([[1, 2], [4, 5, 6], [7], [8, 9, 10, 11]], kind(pa.int32()))
    source = one_column(tmp_path, lists, hotness=2, bad_rows="skip")
    index_B = torch.arange(4)
    check = SampleCheck(source)
    found = check(source.read(index_B), index_B)
    assert found.weights_B is not None
    assert found.weights_B.tolist() == [1, 0, 1, 0]
    assert found.ids_BS.tolist() == [[1, 2], [0, 0], [7, 0], [0, 0]]
    assert found.lengths_BF is not None
    assert found.lengths_BF.tolist() == [[2], [0], [1], [0]]
    assert check.counts.by_column(check.counts.snapshot()) == {"ids": 2, SKIPPED: 2}


@pytest.mark.parametrize("policy", ["error", "hash", "clamp"])
def test_a_longer_list_is_an_error_under_every_other_policy(tmp_path, policy):
    lists = pa.array([[1, 2], [4, 5, 6]], pa.list_(pa.int32()))
    with pytest.raises(DataError, match=r"row 2, column ids: has 3 ids, more than hotness 2"):
        everything(one_column(tmp_path, lists, hotness=2, bad_rows=policy))


def test_a_null_id_is_called_null(tmp_path):
    source = one_column(tmp_path, [3, None, 12], rows=10)
    index_B = torch.arange(3)
    with pytest.raises(DataError, match=r"row 2, column ids: id null \(or -1\) is outside of its table \(0 \.\. 9\)"):
        SampleCheck(source)(source.read(index_B), index_B)
    source.bad_rows = "clamp"
    check = SampleCheck(source)
    assert check(source.read(index_B), index_B).ids_BS.flatten().tolist() == [3, 0, 9]
    assert check.counts.by_column(check.counts.snapshot()) == {"ids": 1, "ids (null)": 1}


def test_lists_of_fixed_size_may_be_null_or_shorter_than_the_bag(tmp_path):
    lists = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2))
    samples = everything(one_column(tmp_path, lists, hotness=3))
    assert samples.ids_BS.tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 0]]
    assert samples.lengths_BF is not None
    assert samples.lengths_BF.tolist() == [[2], [0], [2]]


def test_lists_and_single_ids_lie_side_by_side(tmp_path):
    rows = np.random.default_rng(1)
    bags = [rows.integers(0, 50, rows.integers(0, 5)).tolist() for _ in range(60)]
    values = columns(60) | {"bag": pa.array(bags, pa.list_(pa.int64()))}
    write(tmp_path / "train.parquet", values, row_group_size=11)
    source = dataset(tmp_path, sparse=["small", "bag", "large"], rows=[100, 50, 100], hotness=[1, 4, 1]).train
    index = rows.permutation(60)
    samples = source.read(torch.from_numpy(index))
    assert samples.ids_BS.tolist() == [[i, *bags[i], *[0] * (4 - len(bags[i])), i] for i in index]
    assert samples.lengths_BF is not None
    assert samples.lengths_BF.tolist() == [[1, len(bags[i]), 1] for i in index]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None, -3], pa.int64()),
        pa.array([1.0, None, -3.0], pa.float64()),
        pa.array([1.0, None, -3.0], pa.float32()),
        pa.array(np.array([1, 0, -3], np.float16), mask=np.array([False, True, False])),
        pa.array([1, None, -3], pa.int32()).cast(pa.decimal128(12, 2)),
    ],
)
def test_dense_columns_may_be_any_numbers_and_a_null_is_what_the_option_says(tmp_path, values):
    write(tmp_path / "train.parquet", {"label": [0, 1, 0], "x": values, "small": [1, 2, 3]})
    source = dataset(tmp_path, sparse=["small"], rows=[10], dense_missing=0.5).train
    assert everything(source).dense_BN.flatten().tolist() == [1.0, 0.5, -3.0]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_value_that_is_no_number_is_missing_as_a_null_is_and_an_infinite_one_is_not(tmp_path, kind):
    values = pa.array(np.array([np.nan, 0, -np.inf, 2.5], np.float64), mask=np.array([False, True, False, False])).cast(
        kind
    )
    write(tmp_path / "train.parquet", columns(4) | {"x": values})
    found = everything(dataset(tmp_path, dense_missing=7).train).dense_BN.flatten().tolist()
    assert found == [7, 7, -np.inf, 2.5]


@pytest.mark.parametrize("kind", [pa.bool_(), pa.uint8(), pa.int64(), pa.float32(), pa.float64()])
def test_labels_may_be_of_any_type_with_zero_and_one(tmp_path, kind):
    labels = pa.array([1, 0, 1, None], pa.int8()).cast(kind)
    write(tmp_path / "train.parquet", columns(4) | {"label": labels})
    found = everything(dataset(tmp_path).train).labels_BT[:, 0].tolist()
    assert found[:3] == [1, 0, 1]
    assert np.isnan(found[3])  # which the check of samples refuses


def test_only_mapped_columns_are_read(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", columns(4) | {"note": ["a", "b", "c", "d"]})
    source = dataset(tmp_path).train
    read, original = [], decode.GroupReader.column
    monkeypatch.setattr(decode.GroupReader, "column", lambda self, name: read.append(name) or original(self, name))
    everything(source)
    assert sorted(read) == ["label", "large", "small", "x"]


def decoded_groups(monkeypatch) -> list[tuple[str, int]]:
    """Grows by (file, row group) with every row group that is decoded."""
    from dlrm.data.parquet import dataset as module

    decoded: list[tuple[str, int]] = []
    original = module.decode_group

    def counting(part, group, wanted):
        decoded.append((part.path.rsplit("/", 1)[-1], group))
        return original(part, group, wanted)

    monkeypatch.setattr(module, "decode_group", counting)
    return decoded


def test_a_rank_decodes_only_the_row_groups_its_samples_lie_in(tmp_path, monkeypatch):
    decoded = decoded_groups(monkeypatch)
    for i in range(2):
        write(tmp_path / f"train_{i}.parquet", columns(40, 40 * i), row_group_size=10)
    dataset(tmp_path).train.read(torch.tensor([35, 41, 33, 49]))
    assert decoded == [("train_0.parquet", 3), ("train_1.parquet", 0)]


def test_a_batch_reader_in_stored_order_decodes_every_row_group_once(tmp_path, monkeypatch):
    decoded = decoded_groups(monkeypatch)
    write(tmp_path / "train.parquet", columns(100), row_group_size=10)
    one_group = 10 * (4 + 4 + 2 * 4)
    source = dataset(tmp_path, cache_gib=2.5 * one_group / 2**30).train
    loader = BatchLoader(source, SampleOrder(100, global_batch_size=7))
    batches = list(loader.batches(0, 0, loader.order.num_batches))
    assert torch.cat([batch.dense.flatten() for batch in batches])[:100].tolist() == list(range(100))
    assert [group for _, group in decoded] == list(range(10))


def test_threads_that_read_the_same_rows_decode_each_row_group_once(tmp_path, monkeypatch):
    decoded = decoded_groups(monkeypatch)
    write(tmp_path / "train.parquet", columns(2000), row_group_size=100)
    source = dataset(tmp_path).train
    rng = np.random.default_rng(3)
    index_of = [rng.permutation(2000).tolist() for _ in range(6)]
    found: dict[int, list[int]] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: numbers(source, index_of[i])})) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict(enumerate(index_of))
    assert sorted(decoded) == [("train.parquet", group) for group in range(20)]


def test_memory_for_row_groups_is_what_their_arrays_take(tmp_path):
    bags = pa.array([[1, 2], [3]] * 50, pa.list_(pa.int16()))
    write(tmp_path / "train.parquet", columns(100) | {"bag": bags}, row_group_size=10)
    one_group = 10 * (4 + 4 + 4 * (1 + 3) + 4 * 2)  # label, x, small and the bag's three places, two lengths
    options = {"sparse": ["small", "bag"], "rows": [100, 10], "hotness": [1, 3]}
    source = dataset(tmp_path, cache_gib=3.5 * one_group / 2**30, **options).train
    for start in range(0, 100, 10):
        source.read(torch.arange(start, start + 10))
        assert source._cache.bytes_kept == one_group * min(start // 10 + 1, 3)


def test_a_bag_that_is_too_long_names_file_row_and_column(tmp_path):
    values = columns(8) | {"bag": [[1]] * 6 + [[1, 2, 3]] + [[1]]}
    write(tmp_path / "train.parquet", values, row_group_size=4)
    source = dataset(tmp_path, sparse=["bag"], rows=[10], hotness=[2]).train
    assert len(source.read(torch.arange(4))) == 4
    with pytest.raises(DataError, match="has 3 ids, more than hotness 2") as caught:
        source.read(torch.tensor([4]))
    assert (caught.value.row, caught.value.column) == (7, "bag")
    assert caught.value.path == str(tmp_path / "train.parquet")


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2, 2**63, 4], pa.uint64()),
        pa.array([[1], [], [2, 2**63], [4]], pa.list_(pa.uint64())),
    ],
)
def test_an_unsigned_id_beyond_int64_names_file_row_and_column(tmp_path, values):
    source = one_column(tmp_path, values, hotness=1 if values.type == pa.uint64() else 2)
    with pytest.raises(DataError, match="id 9223372036854775808 is beyond int64") as caught:
        everything(source)
    assert (caught.value.row, caught.value.column) == (3, "ids")


def test_days_are_the_files_with_rows_in_natural_order(tmp_path):
    for day, rows in ((10, 3), (2, 4), (3, 0)):
        write(
            tmp_path / f"train_{day}.parquet",
            {name: pa.array(values)[:rows] for name, values in columns(rows + 1).items()},
        )
    days = dataset(tmp_path).train.days
    assert [(day.name, day.samples) for day in days] == [("train_2.parquet", 4), ("train_10.parquet", 3)]
