"""Records hold rows exactly, and a spill that is not whole is noticed."""

import numpy as np
import pytest

from dlrm.errors import DataError
from dlrm.prepare.preprocess.packed_rows import PackedRows
from dlrm.prepare.preprocess.records import Records, order_by_bucket
from dlrm.prepare.preprocess.rows import Bucket
from dlrm.prepare.preprocess.shuffle import BucketReader


@pytest.mark.parametrize(("num_sparse", "wide"), [(3, False), (26, False), (31, True), (32, False), (80, True)])
def test_records_give_back_the_rows_that_were_packed(num_sparse, wide):
    draw = np.random.default_rng(0)
    high = 2**62 if wide else 2**31 - 1  # ids far beyond what a float32 tells apart
    rows = PackedRows(
        dense_MN=draw.normal(size=(500, 4)).astype(np.float32),
        ids_MF=draw.integers(high - 1000, high, size=(500, num_sparse), dtype=np.int64 if wide else np.int32),
        labels_M=draw.integers(0, 2, 500).astype(np.uint8),
    )
    missing = draw.random((num_sparse, 500)) < 0.3
    records = Records(4, num_sparse, wide=wide)
    packed = np.full((500, records.words), 0xFFFFFFFF, np.uint32)
    records.pack(rows, missing, packed)
    places = draw.permutation(500)
    packed[:, 0] = places
    found = records.unpack(packed)
    for name, array in vars(rows).items():
        np.testing.assert_array_equal(getattr(found, name), array, strict=True)
    order, counts = records.look_over(packed)
    assert places[order].tolist() == list(range(500))
    assert counts.clicks == rows.labels_M.sum()
    assert list(counts.missing.values()) == missing.sum(axis=1).tolist()


def test_a_spill_has_the_rows_of_each_bucket_together():
    places = np.random.default_rng(0).permutation(1000)[:300]
    edges = np.array([0, 400, 401, 401, 1000])
    offsets, within, rows = order_by_bucket(places, edges)
    for bucket in range(4):
        here = rows[offsets[bucket] : offsets[bucket + 1]]
        expected = [row for row, place in enumerate(places) if edges[bucket] <= place < edges[bucket + 1]]
        assert here.tolist() == expected
        assert within[here].tolist() == (places[here] - edges[bucket]).tolist()


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
        BucketReader([path], records, 1).read(Bucket(0, "p", 0, 4, 0))


def test_a_spill_that_is_cut_off_is_refused(tmp_path):
    records = Records(1, 1, wide=False)
    path = spill(tmp_path / "0", [0, 1, 2], records, [0, 4])
    with pytest.raises(DataError, match="cut off"):
        BucketReader([path], records, 1).read(Bucket(0, "p", 0, 4, 0))


def test_a_bucket_that_is_forgotten_takes_no_room_and_the_others_stay(tmp_path):
    count = 20_000
    records = Records(1, 1, wide=False)
    path = spill(tmp_path / "0", [*range(count), *range(count)], records, [0, count, 2 * count])
    spilled_bytes, before = path.stat().st_size, path.stat().st_blocks
    reader = BucketReader([path], records, 2)
    reader.forget(Bucket(0, "p", 0, count, 0))
    assert path.stat().st_size == spilled_bytes
    if path.stat().st_blocks == before:
        pytest.skip("the file system frees no parts of files")
    assert path.stat().st_blocks < 0.6 * before
    blocks, _ = reader.read(Bucket(1, "p", count, count, count))
    assert sum(len(rows.labels_M) for _, rows in blocks) == count
    with pytest.raises(DataError, match="bucket 0"):
        reader.read(Bucket(0, "p", 0, count, 0))
