import hashlib
import hmac
import pickle
from pathlib import Path

import pytest

from dlrm.distributed.sealed import seal, unseal
from dlrm.errors import DataError, SetupError

SECRET = "s" * 32


@pytest.fixture(autouse=True)
def _secret(monkeypatch):
    monkeypatch.setenv("DLRM_JOB_SECRET", SECRET)


class Creates:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_objects_come_back():
    error = DataError("a.tsv", "'x' is no number", row=3)
    assert str(unseal(seal(error, sender=1), sender=1)) == str(error)


def test_the_hash_is_that_of_sender_and_content():
    content = pickle.dumps((1, "two"))
    digest = hmac.new(SECRET.encode(), b"\0\0\0\0\0\0\0\x03" + content, hashlib.sha256).digest()
    assert unseal(digest + content, sender=3) == (1, "two")


def test_what_a_stranger_sends_is_not_unpickled(tmp_path, monkeypatch):
    path = tmp_path / "executed"
    content = pickle.dumps(Creates(path))
    own = seal("value", sender=0)
    monkeypatch.setenv("DLRM_JOB_SECRET", "t" * 32)
    with_another_secret = seal(Creates(path), sender=0)
    monkeypatch.setenv("DLRM_JOB_SECRET", SECRET)
    for sent in (content, b"\0" * 32 + content, own[:32] + content, with_another_secret, own[:-1], b""):
        with pytest.raises(SetupError, match="what came as rank 0's was not sent by it"):
            unseal(sent, sender=0)
    assert not path.exists()


def test_what_one_rank_sent_does_not_pass_as_another_ranks():
    with pytest.raises(SetupError, match="rank 1"):
        unseal(seal("value", sender=0), sender=1)
