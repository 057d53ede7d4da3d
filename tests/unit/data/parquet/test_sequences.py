"""Histories in Parquet: lists of any length, of which the newest ids are kept."""

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from dlrm.data.check import SampleCheck
from dlrm.errors import ConfigError, DataError
from dlrm.schema import SparseFeature
from tests.unit.data.parquet.parquet_files import columns, config, dataset, write

LISTS = [[1, 2, 3, 4, 5], [], None, [6], [7, 8, 9]]
NEWEST = {"last": [[3, 4, 5], [], [], [6], [7, 8, 9]], "first": [[1, 2, 3], [], [], [6], [7, 8, 9]]}
KINDS = [
    pa.list_(pa.int32()),
    pa.large_list(pa.uint64()),
    pa.list_(pa.float64()),
    pa.list_(pa.dictionary(pa.int8(), pa.int64())),
]


def written(folder, lists, kind=KINDS[0]):
    return write(folder / "train.parquet", columns(len(lists)) | {"seen": pa.array(lists, kind)})


def bags(samples):
    lengths_B = samples.lengths_BF[:, -1].tolist()
    return [row[:length] for row, length in zip(samples.ids_BS[:, 2:].tolist(), lengths_B, strict=True)]


@pytest.mark.parametrize("newest", ["last", "first"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_newest_ids_are_kept_in_their_order_and_none_of_an_empty_or_null_list(tmp_path, kind, newest):
    written(tmp_path, LISTS, kind)
    found = dataset(tmp_path, sequences={"seen": {"item": "small", "max_length": 3, "newest": newest}})
    assert found.schema.sparse[-1] == SparseFeature("seen", rows=100, hotness=3, history_of="small")
    samples = found.train.read(torch.arange(5))
    assert bags(samples) == NEWEST[newest]
    assert samples.lengths_BF[:, :2].eq(1).all()
    beyond_BL = torch.arange(3) >= samples.lengths_BF[:, 2:]
    assert not samples.ids_BS[:, 2:][beyond_BL].any()
    assert SampleCheck(found.train)(samples, torch.arange(5)) is samples


def test_an_id_that_is_cut_off_is_never_judged_and_one_that_is_kept_is(tmp_path):
    written(tmp_path, [[1000, 1, 2, 3], [1, None, 2]])
    found = dataset(tmp_path, sequences={"seen": {"item": "small", "max_length": 3}})
    samples = found.train.read(torch.tensor([0]))
    assert bags(samples) == [[1, 2, 3]]
    SampleCheck(found.train)(samples, torch.tensor([0]))
    with pytest.raises(DataError, match=r"row 2, column seen: id null \(or -1\) is outside of its table \(0 .. 99\)"):
        SampleCheck(found.train)(found.train.read(torch.tensor([1])), torch.tensor([1]))


def test_lists_are_cut_under_every_policy(tmp_path):
    written(tmp_path, LISTS)
    for policy in ("error", "hash", "clamp", "skip"):
        sequences = {"seen": {"item": "small", "max_length": 3}}
        assert (
            bags(dataset(tmp_path, sequences=sequences, bad_rows=policy).train.read(torch.arange(5))) == NEWEST["last"]
        )


def test_lists_of_a_fixed_size_are_cut_too(tmp_path):
    written(tmp_path, [[1, 2, 3, 4], None, [5, 6, 7, 8]], pa.list_(pa.int64(), 4))
    found = dataset(tmp_path, sequences={"seen": {"item": "small", "max_length": 2}})
    assert bags(found.train.read(torch.arange(3))) == [[3, 4], [], [7, 8]]


@pytest.mark.parametrize(
    ("values", "option", "said"),
    [
        (pa.array([1, 2]), "data.sequences.seen", "holds one id a row (int64), and a history is a list of ids"),
        (pa.array([["a"], []]), "data.sequences.seen", "is lists of text (string), not ids"),
        (None, "data.sequences.seen", "there is no column seen"),
    ],
)
def test_what_is_no_history_is_refused_by_its_option(tmp_path, values, option, said):
    write(tmp_path / "train.parquet", columns(2) | ({} if values is None else {"seen": values}))
    with pytest.raises(ConfigError) as refused:
        dataset(tmp_path, sequences={"seen": {"item": "small"}})
    assert f"{option}: " in str(refused.value)
    assert said in str(refused.value)


def test_a_history_is_of_a_sparse_column_and_has_a_column_of_its_own(tmp_path):
    with pytest.raises(ValidationError, match=r"sequences.seen.item is smal, which sparse does not name"):
        config(tmp_path, sequences={"seen": {"item": "smal"}})
    with pytest.raises(ValidationError, match=r"column large is named twice"):
        config(tmp_path, sequences={"large": {"item": "small"}})
    with pytest.raises(ValidationError, match=r"sequences.seen.item is small, which is in vocabulary.columns"):
        config(
            tmp_path, sequences={"seen": {"item": "small"}}, vocabulary={"columns": ["small"], "folder": str(tmp_path)}
        )
