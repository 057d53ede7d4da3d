import base64
import gzip
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from dlrm.errors import ConfigError, DataError
from tests.unit.data.parquet.parquet_files import columns, config, dataset, write


def refused(folder, **options) -> str:
    """The one line that says what is wrong; a mistake of the configuration or of the data."""
    with pytest.raises((ConfigError, DataError)) as caught:
        dataset(folder, **options)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as it travels between ranks
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "options", "key", "expected"),
    [
        ({}, {"label": "lable"}, "data.label", "there is no column lable; did you mean label?"),
        ({}, {"dense": ["X"]}, "data.dense", "there is no column X; did you mean x?"),
        ({}, {"sparse": ["smal"]}, "data.sparse", "there is no column smal; did you mean small?"),
        ({}, {"sparse": ["zzz"]}, "data.sparse", "there is no column zzz; there are label, x, small, large"),
        (
            {"small": ["a", "b", "c", "d"]},
            {},
            "data.sparse",
            "column small is text (string), not ids: encode its values to integers 0 .. first",
        ),
        (
            {"small": pa.array(["a", "b", "c", "d"]).dictionary_encode()},
            {},
            "data.sparse",
            "column small is text (string), not ids: encode its values to integers 0 .. first",
        ),
        (
            {"small": [["a"], [], ["b"], []]},
            {},
            "data.sparse",
            "column small is lists of text (string), not ids: encode its values to integers 0 .. first",
        ),
        ({"small": pa.array([1, 2, 3, 4], pa.date32())}, {}, "data.sparse", "column small is date32[day], not ids"),
        ({"label": pa.nulls(4)}, {}, "data.label", "column label holds nothing but nulls, and a label is 0 or 1"),
        ({"small": [[[1]], [], [], []]}, {}, "data.sparse", "column small is lists of list<element: int64>, not ids"),
        ({"x": ["1", "2", "3", "4"]}, {}, "data.dense", "column x is text (string), not numbers: convert it"),
        ({"x": [[1.0], [2.0], [], []]}, {}, "data.dense", "column x is list<element: double>, not numbers"),
        ({"x": pa.array([1, 2, 3, 4], pa.date32())}, {}, "data.dense", "column x is date32[day], not numbers"),
        ({"label": list("0101")}, {}, "data.label", "column label is text (string), not numbers: a label is 0 or 1"),
        (
            {},
            {"hotness": [3, 1]},
            "data.hotness",
            "column small holds one id a row (int64), not lists: hotness 3 must be 1",
        ),
    ],
)  # fmt: skip
def test_a_column_that_will_not_do_is_named_with_its_file_and_option(tmp_path, changed, options, key, expected):
    path = write(tmp_path / "train.parquet", columns(4) | changed)
    if "sparse" in options:
        options = options | {"rows": [100]}
    message = refused(tmp_path, **options)
    assert message.startswith(f"{key}: {path}: {expected}")
    assert "\n" not in message


def test_all_columns_that_will_not_do_are_named_at_once(tmp_path):
    write(tmp_path / "train.parquet", columns(4) | {"x": list("abcd")})
    message = refused(tmp_path, label="clicked", sparse=["small", "larg"])
    assert message.startswith("3 mistakes in the configuration")
    for part in ("no column clicked", "column x is text", "did you mean large?"):
        assert part in message


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([0, 1])] * 4, names=["label", "x", "small", "small"])
    pq.write_table(table, tmp_path / "train.parquet")
    assert "there are 2 columns small: rename all but one" in refused(tmp_path, sparse=["small"], rows=[10])


def test_a_later_file_without_a_column_is_named(tmp_path):
    write(tmp_path / "train_1.parquet", columns(4))
    values = columns(4)
    del values["large"]
    path = write(tmp_path / "val.parquet", values)
    assert refused(tmp_path).startswith(f"data.sparse: {path}: there is no column large; there are label, x, small")


def test_files_that_encode_a_column_in_two_ways_are_refused(tmp_path):
    write(tmp_path / "train_1.parquet", columns(4))
    write(tmp_path / "train_2.parquet", columns(4) | {"small": [[1], [2], [], [3]]})
    message = refused(tmp_path)
    assert "train_2.parquet, column small: is list<element: int64>, but int64 in" in message
    assert message.endswith("train_1.parquet; write all files with one schema")


def test_widths_of_numbers_may_differ_from_file_to_file(tmp_path):
    write(tmp_path / "train_1.parquet", columns(4))
    values = columns(4, 4) | {"small": np.arange(4, 8, dtype=np.int16), "x": np.arange(4, 8, dtype=np.int32)}
    write(tmp_path / "train_2.parquet", values)
    source = dataset(tmp_path).train
    assert source.read(torch.arange(8)).dense_BN.flatten().tolist() == list(range(8))


def _cut(data: bytes) -> bytes:
    return data[:-20]


def _middle_missing(data: bytes) -> bytes:
    return data[:60] + data[-800:]


def _broken_footer(data: bytes) -> bytes:
    return data[:-300] + bytes(200) + data[-100:]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda data: b"", "the file is empty; write or fetch the file again"),
        (
            lambda data: b"label,x\n0,1\n",
            "is not a Parquet file but text; convert it, or check data.path and data.files",
        ),
        (gzip.compress, "is not a Parquet file but gzip data; convert it"),
        (lambda data: b"\0\1" + data, "is not a Parquet file; convert it"),
        (lambda data: b"PAR1", "is cut off: the footer is missing"),
        (_cut, "is cut off: the footer is missing; write or fetch the file again"),
        (_middle_missing, "cannot be decoded ("),
        (_broken_footer, "cannot be decoded ("),
    ],
)
def test_a_file_that_is_not_whole_is_refused_before_training(tmp_path, damage, expected):
    write(tmp_path / "train_1.parquet", columns(4))
    path = write(tmp_path / "train_2.parquet", columns(4))
    path.write_bytes(damage(path.read_bytes()))
    message = refused(tmp_path)
    assert message.startswith(f"{path}: {expected}")
    assert "\n" not in message


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_an_encrypted_file_is_refused_before_training(tmp_path, plaintext_footer):
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):
        def __init__(self, _):
            super().__init__()

        def wrap_key(self, key_bytes, master_key_identifier):
            return base64.b64encode(key_bytes)

        def unwrap_key(self, wrapped_key, master_key_identifier):
            return base64.b64decode(wrapped_key)

    how = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"columns": ["small"]}, plaintext_footer=plaintext_footer
    )
    properties = encryption.CryptoFactory(Keys).file_encryption_properties(encryption.KmsConnectionConfig(), how)
    write(tmp_path / "train.parquet", columns(4), encryption_properties=properties)
    assert "is encrypted; write it without encryption" in refused(tmp_path)


def test_splits_without_rows(tmp_path):
    no_rows = {name: pa.array([], pa.int64()) for name in columns(0)}
    write(tmp_path / "train_1.parquet", no_rows)
    assert "train_1.parquet: holds no row" in refused(tmp_path)
    write(tmp_path / "train_2.parquet", columns(3))  # an empty file beside others is an export's habit
    assert dataset(tmp_path).train.num_samples == 3
    write(tmp_path / "val.parquet", no_rows)
    assert "val.parquet: holds no row; write the rows, or leave the file out of data.files.validation" in refused(
        tmp_path
    )


def test_files_that_are_not_there(tmp_path):
    none = f"data.files.train: no file of {tmp_path} matches train*.parquet"
    assert refused(tmp_path) == f"{none}: it holds no data"
    for name in ("_SUCCESS", "day_0.csv", "day_1.csv", "day_2.csv", "day_3.csv"):
        (tmp_path / name).touch()
    assert refused(tmp_path) == f"{none}; there are day_0.csv, day_1.csv, day_2.csv, .."
    aside = refused(tmp_path, files={"train": ["_*"], "test": []}).partition("matches ")[2]
    assert aside == ""  # who asks for it gets it, and an empty file is no Parquet file
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "_SUCCESS").touch()
    message = refused(tmp_path, files={"train": ["sub/*"]})
    assert message.endswith("matches sub/* but sub/_SUCCESS, and names that begin with _ or . are left out")
    write(tmp_path / "train.parquet", columns(3))
    assert f"data.files.test: there is no file day_3.parquet in {tmp_path}" in refused(
        tmp_path, files={"test": ["day_3.parquet"]}
    )
    assert refused("/does/not/exist").endswith("matches train*.parquet: there is no such folder")


def test_what_spark_leaves_beside_its_files_is_left_out_of_what_a_pattern_matches(tmp_path):
    write(tmp_path / "train" / "part-0.parquet", columns(3))
    write(tmp_path / "train" / "day=1" / "part-0.parquet", columns(2))
    for name in ("_SUCCESS", "_metadata", "_temporary/part-0.parquet", ".part-0.parquet.crc", "day=1/_SUCCESS"):
        path = tmp_path / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no data")
    (tmp_path / "train" / "_temporary" / "0").mkdir()
    assert dataset(tmp_path, files={"train": ["train/*.parquet", "train/day=*/*"]}).train.num_samples == 5
    assert "_metadata: is not a Parquet file but text" in refused(tmp_path, files={"train": "train/_metadata"})


def test_a_file_in_two_splits_is_refused(tmp_path):
    write(tmp_path / "train.parquet", columns(3))
    message = refused(tmp_path, files={"train": "train*", "test": ["*.parquet"]})
    assert message.startswith("data.files.test:")
    assert message.endswith("is in train as well: splits must not share samples")


@pytest.mark.parametrize("pattern", ["../*.parquet", "/etc/*", "a/../../b.parquet"])
def test_a_pattern_does_not_lead_out_of_the_folder(tmp_path, pattern):
    assert "leads out of" in refused(tmp_path, files={"train": pattern})


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    write(tmp_path / "train.parquet" / "part-0.parquet", columns(3))
    message = refused(tmp_path)
    assert message.endswith("is a folder, not a file; name the files in it: data.files.train train.parquet/*.parquet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    write(tmp_path / "train.parquet", columns(3)).chmod(0)
    assert "no permission to read it" in refused(tmp_path)


def test_a_row_group_larger_than_the_cache_is_refused_with_what_it_needs(tmp_path):
    write(tmp_path / "train.parquet", columns(1000), row_group_size=600)
    needed = 600 * (4 + 4 + 2 * 4)
    message = refused(tmp_path, cache_gib=(needed - 1) / 2**30)
    assert "row group 0 (600 rows)" in message
    assert "data.cache_gib" in message
    assert f"takes {needed / 2**20:.3g} MiB decoded" in message
    assert dataset(tmp_path, cache_gib=needed / 2**30).train.num_samples == 1000


def test_a_file_that_changes_while_in_use_is_noticed(tmp_path):
    path = write(tmp_path / "train.parquet", columns(100), row_group_size=10)
    source = dataset(tmp_path).train
    source.read(torch.arange(5))
    write(path, columns(100, 1), row_group_size=10)
    with pytest.raises(DataError, match="was changed while in use"):
        source.read(torch.arange(50, 55))
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        source.read(torch.arange(50, 55))


def test_a_flipped_bit_in_a_page_with_a_checksum_is_noticed(tmp_path):
    values = columns(1000)
    path = write(tmp_path / "train.parquet", values, write_page_checksum=True, compression="none", use_dictionary=False)
    source = dataset(tmp_path).train
    identity = path.stat()
    data = bytearray(path.read_bytes())
    data[data.index(np.array(values["large"][500:510], np.int64).tobytes())] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(identity.st_atime_ns, identity.st_mtime_ns))
    with pytest.raises(DataError, match=r"cannot be decoded.*CRC") as caught:
        source.read(torch.tensor([1]))
    assert (caught.value.path, caught.value.column) == (str(path), "large")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"path": ""}, "path is empty"),
        ({"hotness": [1, 1, 1]}, "hotness has 3 entries, sparse names 2 columns"),
        ({"label": "small"}, "column small is named twice"),
    ],
)
def test_mistakes_that_need_no_file(tmp_path, options, expected):
    with pytest.raises(ValidationError, match=expected):
        config(tmp_path, **options)
