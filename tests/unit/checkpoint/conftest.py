"""An S3 server for the tests of checkpoints."""

import pytest

from dlrm.checkpoint.remote import RemoteStorage
from dlrm.remote.s3 import S3Handler, S3Limits
from tests.unit.checkpoint.remote_runs import PART_BYTES


@pytest.fixture(scope="module")
def s3(s3_server):
    """Storage of the server; buckets come and go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3_server)
        patch.setenv("AWS_ACCESS_KEY_ID", "me")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("no_proxy", "127.0.0.1")
        handler = S3Handler(S3Limits(attempts=3, part_bytes=PART_BYTES))
        handler.client("s3://any")
        yield RemoteStorage(handler)


@pytest.fixture
def folder(bucket):
    return f"{bucket.url}/runs/checkpoints"
