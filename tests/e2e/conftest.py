"""What the tests of preprocessing begin with: raw files, and what they become where nothing happens on the way."""

import pytest

from tests.unit.preprocess.tiny_criteo import make, write_raw


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module", params=[False, True], ids=["in order", "shuffled"])
def reference(request, raw, tmp_path_factory):
    """(shuffle, folder) of an output that was made without interruption."""
    return request.param, make(raw, tmp_path_factory.mktemp("reference") / "out", shuffle=request.param)
