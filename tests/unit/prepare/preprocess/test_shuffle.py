"""Records hold rows exactly, and a spill that is not whole is noticed."""

import numpy as np
import pytest

from dlrm.errors import DataError
from dlrm.prepare.preprocess.packed_rows import PackedRows
from dlrm.prepare.preprocess.rows import Bucket
from dlrm.prepare.preprocess.shuffle import BucketReader, Records


@pytest.mark.parametrize(("num_sparse", "wide"), [(3, False), (26, False), (31, True), (32, False), (80, True)])
def test_records_give_back_the_rows_that_were_packed(num_sparse, wide):
    draw = np.random.default_rng(0)
    high = 2**62 if wide else 2**31 - 1  # ids far beyond what a float32 tells apart
    rows = PackedRows(
        dense_MN=draw.normal(size=(500, 4)).astype(np.float32),
        ids_MF=draw.integers(high - 1000, high, size=(500, num_sparse), dtype=np.int64 if wide else np.int32),
        labels_M=draw.integers(0, 2, 500).astype(np.uint8),
        missing_FM=draw.random((num_sparse, 500)) < 0.3,
    )
    records = Records(4, num_sparse, wide=wide)
    packed = np.full((500, records.words), 0xFFFFFFFF, np.uint32)
    records.pack(rows, packed)
    found = records.unpack(packed)
    for name, array in vars(rows).items():
        np.testing.assert_array_equal(getattr(found, name), array, strict=True)


def spill(path, places, records, offsets):
    words = np.zeros((len(places), records.words), np.uint32)
    words[:, 0] = places
    path.write_bytes(np.array(offsets, "<i8").tobytes() + words.tobytes())
    return path


@pytest.mark.parametrize("places", [[0, 1, 2, 2], [0, 1, 2, 9], [0, 1, 2]], ids=["twice", "beyond", "missing"])
def test_a_bucket_whose_rows_are_not_each_there_once_is_refused(tmp_path, places):
    records = Records(1, 1, wide=False)
    path = spill(tmp_path / "0", places, records, [0, len(places)])
    with pytest.raises(DataError, match="bucket 0"):
        list(BucketReader([path], records, 1).blocks(Bucket(0, "p", 0, 4, 0)))


def test_a_spill_that_is_cut_off_is_refused(tmp_path):
    records = Records(1, 1, wide=False)
    path = spill(tmp_path / "0", [0, 1, 2], records, [0, 4])
    with pytest.raises(DataError, match="cut off"):
        list(BucketReader([path], records, 1).blocks(Bucket(0, "p", 0, 4, 0)))
