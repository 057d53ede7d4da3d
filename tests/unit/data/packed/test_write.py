"""Packed data sets are written completely or not at all, exactly as NumPy would."""

import errno
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dlrm.data.packed import write
from dlrm.data.packed.manifest import Manifest, SparseRecord, parse_manifest
from dlrm.data.packed.write import PartWriter, sha256_of, write_manifest, written_beside

ROWS, DENSE, SPARSE = 1000, 3, 5
draw = np.random.default_rng(0)
DENSE_MN = draw.normal(size=(ROWS, DENSE)).astype(np.float32)
IDS_MF = draw.integers(0, 2**31 - 1, size=(ROWS, SPARSE), dtype=np.int32)
LABELS_M = draw.integers(0, 2, size=ROWS).astype(np.uint8)


def writer(folder, *, wide_ids=False, **more):
    return PartWriter(folder, "day_0", rows=ROWS, num_dense=DENSE, num_sparse=SPARSE, wide_ids=wide_ids, **more)


def write_rows(part, start, stop, ids_MF=IDS_MF):
    part.write(start, DENSE_MN[start:stop], ids_MF[start:stop], LABELS_M[start:stop])


def as_numpy_saves(folder, array):
    np.save(folder / "expected.npy", array)
    return (folder / "expected.npy").read_bytes()


@pytest.mark.parametrize("wide", [False, True])
def test_files_are_byte_for_byte_what_numpy_saves(tmp_path, wide):
    ids_MF = IDS_MF.astype(np.int64) << 9 if wide else IDS_MF
    part = writer(tmp_path, wide_ids=wide)
    starts = [600, 0, 250, 900, 600]  # any order, one of them twice
    with ThreadPoolExecutor(3) as pool:
        list(
            pool.map(
                lambda start: write_rows(part, start, {0: 250, 250: 600, 600: 900, 900: ROWS}[start], ids_MF), starts
            )
        )
    record = part.finish(clicks=int(LABELS_M.sum()), missing={"int_0": 1})

    labels_M1 = LABELS_M.astype(np.int32)[:, None]
    for kind, array in (("dense", DENSE_MN), ("sparse", ids_MF), ("labels", labels_M1)):
        found = (tmp_path / f"day_0_{kind}.npy").read_bytes()
        assert found == as_numpy_saves(tmp_path, array)
        file = record.files[kind]
        assert (file.name, file.bytes) == (f"day_0_{kind}.npy", len(found))
        assert file.sha256 == hashlib.sha256(found).hexdigest()
    assert (record.name, record.rows, record.clicks, record.missing) == ("day_0", ROWS, LABELS_M.sum(), {"int_0": 1})


def test_a_part_without_rows_is_what_numpy_saves(tmp_path):
    part = PartWriter(tmp_path, "day_0", rows=0, num_dense=2, num_sparse=3, wide_ids=False)
    part.write(0, np.empty((0, 2), np.float32), np.empty((0, 3), np.int32), np.empty(0, np.uint8))
    part.finish(clicks=0, missing=None)
    assert (tmp_path / "day_0_sparse.npy").read_bytes() == as_numpy_saves(tmp_path, np.empty((0, 3), np.int32))


def test_no_file_has_its_name_before_it_is_finished(tmp_path):
    part = writer(tmp_path)
    write_rows(part, 0, ROWS)
    assert not list(tmp_path.glob("*.npy"))
    part.finish(clicks=None, missing=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "day_0_dense.npy", "day_0_labels.npy", "day_0_sparse.npy",
    ]  # fmt: skip


def test_a_part_that_was_begun_is_begun_anew_even_if_some_of_its_files_are_finished(tmp_path):
    part = writer(tmp_path)
    write_rows(part, 0, 400)
    part.close()
    (tmp_path / "day_0_dense.npy.unfinished").rename(tmp_path / "day_0_dense.npy")
    part = writer(tmp_path)
    write_rows(part, 0, ROWS)
    part.finish(clicks=None, missing=None)
    np.testing.assert_array_equal(np.load(tmp_path / "day_0_dense.npy"), DENSE_MN)
    np.testing.assert_array_equal(np.load(tmp_path / "day_0_sparse.npy"), IDS_MF)
    assert not list(tmp_path.glob("*.unfinished"))


def test_ids_are_never_squeezed_into_a_narrower_type(tmp_path):
    with pytest.raises(TypeError, match="Cannot cast"):
        write_rows(writer(tmp_path), 0, 10, IDS_MF.astype(np.int64))


def test_rows_outside_of_the_part_are_refused(tmp_path):
    part = writer(tmp_path)
    for start in (-1, ROWS - 5):
        with pytest.raises(ValueError, match="outside"):
            part.write(start, DENSE_MN[:10], IDS_MF[:10], LABELS_M[:10])
    with pytest.raises(ValueError, match="outside"):
        part.write(0, DENSE_MN[:10, :2], IDS_MF[:10], LABELS_M[:10])


def test_a_full_disk_is_met_when_files_are_laid_out_and_leaves_none(tmp_path, monkeypatch):
    def full(descriptor, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "_reserve", full)
    with pytest.raises(OSError, match="No space"):
        writer(tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_reserved_files_have_their_size_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(write.ctypes, "CDLL", lambda *_, **__: object())
    part = writer(tmp_path)
    assert (tmp_path / "day_0_dense.npy.unfinished").stat().st_size == 128 + 4 * ROWS * DENSE
    write_rows(part, 0, ROWS)
    part.finish(clicks=None, missing=None)
    np.testing.assert_array_equal(np.load(tmp_path / "day_0_dense.npy"), DENSE_MN)


def test_what_fails_while_it_is_written_leaves_the_old_file_and_nothing_beside(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), written_beside(path) as file:
        file.writelines([b"new", "no bytes"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with written_beside(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_the_checksum_is_that_of_the_whole_file(tmp_path):
    data = np.random.default_rng(1).bytes((3 << 20) + 7)
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    part = writer(tmp_path)
    write_rows(part, 0, ROWS)
    record = part.finish(clicks=3, missing={"cat_0": 2})
    sparse = (SparseRecord(name="cat_0", rows=7),)
    made_by = {"a": [1, {"b": "é"}]}
    manifest = Manifest(dense=("int_0",), sparse=sparse, parts=(record,), split={}, preprocessing=made_by)
    write_manifest(tmp_path, manifest)
    assert parse_manifest((tmp_path / "dataset.json").read_bytes(), "dataset.json") == manifest


def test_what_a_link_in_the_place_of_a_file_stands_for_is_not_written_to(tmp_path):
    (tmp_path / "precious").write_bytes(b"x" * 9)
    for name in ("day_0_labels.npy.unfinished", "dataset.json.unfinished"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"day_0_labels\.npy\.unfinished"):
        writer(tmp_path)
    with pytest.raises(OSError, match=r"dataset\.json\.unfinished"), written_beside(tmp_path / "dataset.json"):
        pass
    assert (tmp_path / "precious").read_bytes() == b"x" * 9
