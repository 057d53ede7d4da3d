"""Packed data sets behind s3://, read by iopath's own handler from a stand-in for boto3."""

import importlib.machinery
import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from dlrm.data.packed.folder import open_packed
from dlrm.errors import DataError
from tests.unit.data.packed.packed_files import write_days


class ClientError(Exception):
    """What botocore raises when a request fails; no OSError."""


class Body(io.BytesIO):
    """boto3's stream of an object."""

    def iter_chunks(self, chunk_size: int):
        while chunk := self.read(chunk_size):
            yield chunk


class Client:
    """The one request that reading makes, on a folder of buckets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_object(self, *, Bucket: str, Key: str, Range: str = "bytes=0-") -> dict:
        path = self.folder / Bucket / Key
        if not path.exists():
            raise ClientError("An error occurred (NoSuchKey) when calling the GetObject operation")
        first, _, last = Range.removeprefix("bytes=").partition("-")
        content = path.read_bytes()[int(first) : int(last) + 1 if last else None]
        return {"ContentLength": len(content), "Body": Body(content)}


def module(name: str, **contents) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__dict__.update(contents)
    return made


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder behind s3://bucket/data."""

    class Session:
        def __init__(self, profile_name):
            assert profile_name is None, "the user's default profile"

        def client(self, service):
            assert service == "s3"
            return Client(tmp_path / "s3")

    errors = module(
        "botocore.exceptions", ClientError=ClientError, BotoCoreError=type("BotoCoreError", (Exception,), {})
    )
    fakes = {
        "boto3": module("boto3", Session=Session),
        "boto3.s3": module("boto3.s3"),
        "boto3.s3.transfer": module("boto3.s3.transfer", TransferConfig=lambda **_: None),
        "botocore": module("botocore", exceptions=errors),
        "botocore.exceptions": errors,
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.delitem(sys.modules, "iopath.common.s3", raising=False)  # it looks for boto3 when it is imported
    folder = tmp_path / "s3" / "bucket" / "data"
    folder.mkdir(parents=True)
    yield folder
    sys.modules.pop("iopath.common.s3", None)


def test_a_data_set_in_a_bucket_is_what_was_uploaded(bucket, tmp_path):
    written = write_days(bucket, (50, 40), manifest=True)
    found = open_packed("s3://bucket/data", cache_dir=str(tmp_path / "cache"))
    for part, right in zip(found.parts, written, strict=True):
        np.testing.assert_array_equal(part.sparse_MF, right.sparse_MF)


def test_a_missing_key_is_one_line(bucket, tmp_path):
    write_days(bucket, (50, 40), manifest=True)
    (bucket / "day_1_dense.npy").unlink()
    with pytest.raises(DataError) as caught:
        open_packed("s3://bucket/data", cache_dir=str(tmp_path / "cache"))
    assert str(caught.value).startswith(
        "s3://bucket/data/day_1_dense.npy: cannot be read (An error occurred (NoSuchKey)"
    )
    assert str(caught.value).isprintable()
