import dataclasses
import threading

import pytest
import torch

from dlrm.data.check import SKIPPED, SampleCheck
from dlrm.data.source import Samples, Source
from dlrm.errors import DataError
from dlrm.schema import Schema

SCHEMA = Schema.numbered(2, rows=[10, 5, 3], hotness=[1, 3, 2])
INDEX = torch.tensor([40, 7, 99])


class TwoFiles(Source):
    """A source whose samples lie in two files of 50 rows; nothing is read from it."""

    def __init__(self, schema, bad_rows):
        super().__init__("two files", schema, 100)
        self.bad_rows = bad_rows

    def read(self, index_B):
        raise NotImplementedError

    def fingerprint(self):
        raise NotImplementedError

    def locate(self, index, column):
        return f"{column}_{index // 50}.npy", index % 50 + 1


def check_of(bad_rows="error", schema=SCHEMA):
    return SampleCheck(TwoFiles(schema, bad_rows))


def good():
    return Samples(
        dense_BN=torch.tensor([[0.0, -1e30], [1e30, 3.0], [4.0, 5.0]]),
        ids_BS=torch.tensor([[9, 4, 0, 4, 2, 2], [0, 0, 0, 0, 0, 0], [5, 1, 2, 3, 1, 0]]),
        labels_BT=torch.tensor([[0.0], [1.0], [1.0]]),
    )


def changed(field, at, value):
    samples = good()
    tensor = getattr(samples, field).clone()
    tensor[at] = value
    return dataclasses.replace(samples, **{field: tensor})


@pytest.mark.parametrize("bad_rows", ["error", "hash", "clamp", "skip"])
def test_good_samples_pass_unchanged_under_every_policy(bad_rows):
    samples, check = good(), check_of(bad_rows)
    assert check(samples, INDEX) is samples
    assert check.counts.by_column(check.counts.snapshot()) == {}


def test_a_label_is_called_as_its_column_is():
    schema = dataclasses.replace(SCHEMA, tasks=("watched",))
    with pytest.raises(DataError) as caught:
        check_of(schema=schema)(changed("labels_BT", (1, 0), 0.86), INDEX)
    assert (caught.value.row, caught.value.column) == (8, "watched")
    check = check_of("skip", schema)
    check(changed("labels_BT", (1, 0), 0.86), INDEX)
    assert check.counts.by_column(check.counts.snapshot()) == {"watched": 1, SKIPPED: 1}


BAD_IDS = [
    ((1, 0), 10, "cat_0_0.npy", 8, "cat_0", "id 10 is outside of its table (0 .. 9)"),
    ((0, 0), -1, "cat_0_0.npy", 41, "cat_0", "id -1 is outside of its table (0 .. 9)"),
    ((2, 3), 5, "cat_1_1.npy", 50, "cat_1", "id 5 is outside of its table (0 .. 4)"),
    ((2, 5), 2**31 - 1, "cat_2_1.npy", 50, "cat_2", "id 2147483647 is outside of its table (0 .. 2)"),
    ((1, 1), -(2**31), "cat_1_0.npy", 8, "cat_1", "id -2147483648 is outside of its table (0 .. 4)"),
]
WIDE_IDS = [
    ((2, 5), 2**40, "cat_2_1.npy", 50, "cat_2", "id 1099511627776 is outside of its table (0 .. 2)"),
    ((2, 5), 2**32, "cat_2_1.npy", 50, "cat_2", "id 4294967296 is outside of its table (0 .. 2)"),
    ((0, 1), -(2**63), "cat_1_0.npy", 41, "cat_1", "id -9223372036854775808 is outside of its table (0 .. 4)"),
]
OTHER_FAULTS = [
    ("dense_BN", (0, 1), float("nan"), "int_1_0.npy", 41, "int_1", "nan is not finite"),
    ("dense_BN", (2, 0), float("inf"), "int_0_1.npy", 50, "int_0", "inf is not finite"),
    ("dense_BN", (2, 0), float("-inf"), "int_0_1.npy", 50, "int_0", "-inf is not finite"),
    ("labels_BT", (1, 0), 0.5, "label_0.npy", 8, "label", "0.5 is neither 0 nor 1"),
    ("labels_BT", (1, 0), -1.0, "label_0.npy", 8, "label", "-1.0 is neither 0 nor 1"),
    ("labels_BT", (2, 0), 2.0, "label_1.npy", 50, "label", "2.0 is neither 0 nor 1"),
    ("labels_BT", (0, 0), float("nan"), "label_0.npy", 41, "label", "the label is missing (null or NaN)"),
]


def assert_refused(check, samples, path, row, column, problem):
    with pytest.raises(DataError) as caught:
        check(samples, INDEX)
    error = caught.value
    assert (error.path, error.row, error.column, error.problem) == (path, row, column, problem)
    assert error.hint
    assert "\n" not in str(error)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("at", "value", "path", "row", "column", "problem"), BAD_IDS)
def test_an_id_outside_of_its_table_is_named_with_file_row_and_value(dtype, at, value, path, row, column, problem):
    samples = changed("ids_BS", at, value)
    samples = dataclasses.replace(samples, ids_BS=samples.ids_BS.to(dtype))
    assert_refused(check_of(), samples, path, row, column, problem)


@pytest.mark.parametrize(("at", "value", "path", "row", "column", "problem"), WIDE_IDS)
def test_an_id_beyond_32_bits_is_not_taken_for_a_small_one(at, value, path, row, column, problem):
    assert_refused(check_of(), changed("ids_BS", at, value), path, row, column, problem)


@pytest.mark.parametrize("bad_rows", ["error", "hash", "clamp"])
@pytest.mark.parametrize(("field", "at", "value", "path", "row", "column", "problem"), OTHER_FAULTS)
def test_other_faults_are_refused_unless_skipped(bad_rows, field, at, value, path, row, column, problem):
    assert_refused(check_of(bad_rows), changed(field, at, value), path, row, column, problem)
    skipped = check_of("skip")(changed(field, at, value), INDEX)
    assert skipped.weights_B.tolist() == [float(b != at[0]) for b in range(3)]


def test_ids_in_either_memory_order_are_checked():
    samples = changed("ids_BS", (1, 0), 10)
    transposed = dataclasses.replace(samples, ids_BS=samples.ids_BS.t().contiguous().t())
    assert_refused(check_of(), transposed, *BAD_IDS[0][2:])


def test_tables_beyond_32_bits_take_their_ids():
    schema = Schema.numbered(0, rows=[2**40, 2**31 + 5, 2**31 - 1])
    wide = Samples(torch.empty(1, 0), torch.tensor([[2**40 - 1, 2**31 + 4, 2**31 - 2]]), torch.tensor([[1.0]]))
    assert check_of(schema=schema)(wide, INDEX[:1]) is wide
    narrow = dataclasses.replace(wide, ids_BS=torch.tensor([[2**31 - 1, 2**31 - 1, 2**31 - 2]], dtype=torch.int32))
    assert check_of(schema=schema)(narrow, INDEX[:1]) is narrow
    for column, last in enumerate((2**40, 2**31 + 5, 2**31 - 1)):
        ids = wide.ids_BS.clone()
        ids[0, column] = last
        with pytest.raises(DataError, match=f"cat_{column}: id {last} is outside"):
            check_of(schema=schema)(dataclasses.replace(wide, ids_BS=ids), INDEX[:1])


def some_bad(count, seed):
    """Random samples with a few faults of every kind."""
    generator = torch.Generator().manual_seed(seed)
    rows_S = torch.tensor([10, 5, 5, 5, 3, 3])
    ids = (torch.rand(count, 6, generator=generator) * rows_S).long()
    ids[torch.rand(count, 6, generator=generator) < 0.02] = -7
    ids[torch.rand(count, 6, generator=generator) < 0.02] = 1_000_003
    dense = torch.randn(count, 2, generator=generator)
    labels = torch.randint(0, 2, (count, 1), generator=generator).float()
    return Samples(dense, ids, labels), rows_S


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_hash_and_clamp_change_bad_ids_alone_and_count_them_by_table(dtype):
    samples, rows_S = some_bad(500, seed=1)
    samples = dataclasses.replace(samples, ids_BS=samples.ids_BS.to(dtype))
    before = samples.ids_BS.clone()
    rules = {"hash": lambda i, rows: i % rows, "clamp": lambda i, rows: max(0, min(i, rows - 1))}
    expected_counts = dict.fromkeys(("cat_0", "cat_1", "cat_2"), 0)
    for row in before.tolist():
        for s, (i, rows) in enumerate(zip(row, rows_S.tolist(), strict=True)):
            expected_counts[("cat_0", "cat_1", "cat_1", "cat_1", "cat_2", "cat_2")[s]] += not 0 <= i < rows
    for policy, rule in rules.items():
        check = check_of(policy)
        mended = check(samples, torch.arange(500))
        expected = [[rule(i, rows) for i, rows in zip(row, rows_S.tolist(), strict=True)] for row in before.tolist()]
        assert mended.ids_BS.tolist() == expected
        assert mended.ids_BS.dtype == dtype
        assert torch.equal(samples.ids_BS, before)  # what the source gave may be its own memory
        assert (mended.dense_BN is samples.dense_BN, mended.weights_B) == (True, None)
        assert check.counts.by_column(check.counts.snapshot()) == expected_counts


def test_a_skipped_sample_is_emptied_and_the_others_stay():
    samples, rows_S = some_bad(500, seed=2)
    samples.dense_BN[3, 1] = float("nan")
    samples.labels_BT[4] = 7
    check = check_of("skip")
    kept = check(samples, torch.arange(500))
    bad_ids = [
        any(not 0 <= i < n for i, n in zip(row, rows_S.tolist(), strict=True)) for row in samples.ids_BS.tolist()
    ]
    bad = torch.tensor([found or b in (3, 4) for b, found in enumerate(bad_ids)])
    assert 50 < bad.sum() < 200
    assert torch.equal(kept.weights_B, (~bad).float())
    assert torch.equal(kept.lengths_BF, torch.tensor([1, 3, 2]) * (~bad).int()[:, None])
    for field in ("dense_BN", "ids_BS", "labels_BT"):
        assert torch.equal(getattr(kept, field)[~bad], getattr(samples, field)[~bad])
        assert not getattr(kept, field)[bad].any()
    counts = check.counts.by_column(check.counts.snapshot())
    assert (counts["int_1"], counts["label"], counts["skipped samples"]) == (1, 1, bad.sum())
    assert sum(counts[f"cat_{t}"] for t in range(3)) == ((samples.ids_BS < 0) | (samples.ids_BS >= rows_S)).sum()


def test_skipping_keeps_bags_of_other_lengths_and_samples_that_were_skipped_before():
    lengths = torch.tensor([[1, 2, 0], [0, 3, 1], [1, 1, 1]], dtype=torch.int32)
    samples = dataclasses.replace(
        changed("ids_BS", (1, 1), 99), lengths_BF=lengths, weights_B=torch.tensor([1.0, 1.0, 0.0])
    )
    kept = check_of("skip")(samples, INDEX)
    assert kept.lengths_BF.tolist() == [[1, 2, 0], [0, 0, 0], [1, 1, 1]]
    assert kept.weights_B.tolist() == [1, 0, 0]


def test_counts_of_threads_and_ranks_add_up():
    check = check_of("clamp")
    samples = changed("ids_BS", (1, 0), 10)
    threads = [threading.Thread(target=lambda: [check(samples, INDEX) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = check_of("clamp")
    other(changed("ids_BS", (2, 4), -1), INDEX)
    assert check.counts.columns == other.counts.columns
    total = check.counts.snapshot() + other.counts.snapshot()
    assert check.counts.by_column(total) == {"cat_0": 200, "cat_2": 1}


def test_no_samples_pass():
    nothing = Samples(torch.empty(0, 2), torch.empty(0, 6, dtype=torch.int64), torch.empty(0, 1))
    assert check_of()(nothing, torch.empty(0, dtype=torch.int64)) is nothing


def test_data_without_dense_features_pass():
    schema = Schema.numbered(0, rows=[10])
    samples = Samples(torch.empty(2, 0), torch.tensor([[1], [2]]), torch.tensor([[0.0], [1.0]]))
    assert check_of(schema=schema)(samples, torch.arange(2)) is samples
