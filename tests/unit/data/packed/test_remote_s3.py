"""Packed data sets behind s3://, from a real S3 server on the loopback address."""

import numpy as np
import pytest

from dlrm.data.packed.folder import open_packed
from dlrm.errors import DataError
from tests.unit.data.packed.packed_files import write_days


@pytest.fixture
def upload(bucket, tmp_path):
    """Puts a data set into the bucket; return what was written."""

    def put():
        (tmp_path / "data").mkdir()
        written = write_days(tmp_path / "data", (50, 40), manifest=True)
        for path in (tmp_path / "data").iterdir():
            bucket.put(f"my data/{path.name}", path.read_bytes())
        return written

    return put


def test_a_data_set_in_a_bucket_is_what_was_uploaded(bucket, upload, tmp_path):
    written = upload()
    found = open_packed(f"{bucket.url}/my data", cache_dir=str(tmp_path / "cache"))
    for part, right in zip(found.parts, written, strict=True):
        np.testing.assert_array_equal(part.sparse_MF, right.sparse_MF)


def error_of(url, tmp_path):
    with pytest.raises(DataError) as caught:
        open_packed(url, cache_dir=str(tmp_path / "cache"))
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_missing_key_is_one_line(bucket, upload, tmp_path):
    upload()
    bucket.client.delete_object(Bucket=bucket.name, Key="my data/day_1_dense.npy")
    error = error_of(f"{bucket.url}/my data", tmp_path)
    assert error == f"{bucket.url}/my data/day_1_dense.npy: is missing; check the URL and what was uploaded"


def test_a_missing_bucket_is_one_line(s3_settings, tmp_path):
    error = error_of("s3://nowhere/data", tmp_path)
    assert error.startswith("s3://nowhere/data/dataset.json: cannot be read (there is no such bucket")
