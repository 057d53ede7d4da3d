import ast
import mmap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dlrm.data.packed.arrays import MappedFile, map_array, parse_npy_header
from dlrm.errors import DataError


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("shape", [(5, 3), (5,), (0, 3), (1, 1)])
def test_arrays_of_every_npy_version_are_what_numpy_reads(tmp_path, version, shape):
    array = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, array, version=version)
    found = map_array(MappedFile(str(tmp_path / "a.npy")), ["<i4", "<i8"])
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.load(tmp_path / "a.npy").reshape(shape[0], -1 if shape[0] else shape[-1]))


def test_a_mapped_array_is_the_file_itself_and_cannot_be_written(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 2), np.float32))
    found = map_array(MappedFile(str(tmp_path / "a.npy")), ["<f4"])
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1.0
    base = found
    while not isinstance(base, memoryview):
        base = base.base
    assert isinstance(base.obj, mmap.mmap)


def test_headers_say_what_numpy_says(tmp_path):
    array = np.asfortranarray(np.zeros((3, 2), np.float64))
    np.save(tmp_path / "a.npy", array)
    header = parse_npy_header((tmp_path / "a.npy").read_bytes(), "a.npy")
    with open(tmp_path / "a.npy", "rb") as file:
        np.lib.format.read_magic(file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        assert (header.shape, header.fortran_order, header.descr) == (shape, fortran_order, dtype.str)
        assert header.data_offset == file.tell()


def test_threads_parse_headers_one_after_the_other(monkeypatch, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    inside = []

    def parse(text, literal_eval=ast.literal_eval):
        inside.append(text)
        time.sleep(0.01)
        assert len(inside) == 1
        return literal_eval(inside.pop())

    monkeypatch.setattr(ast, "literal_eval", parse)
    with ThreadPoolExecutor(4) as threads:
        parsed = threads.map(lambda name: parse_npy_header((tmp_path / "a.npy").read_bytes(), name), "abcdefgh")
        assert {header.shape for header in parsed} == {(3, 2)}


def test_unsigned_ids_are_to_be_converted_to_a_type_that_holds_them(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[2**32 - 1]], np.uint32))
    file = MappedFile(str(tmp_path / "a.npy"))
    with pytest.raises(DataError, match=r"has type '<u4'.*; convert it: array\.astype\(np\.int64\)"):
        map_array(file, ["<i4", "<i8"])


def test_what_will_be_needed_may_lie_anywhere_in_the_file(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100_000, 13), np.float32))
    file = MappedFile(str(tmp_path / "a.npy"))
    array = map_array(file, ["<f4"])
    for start, stop in ((0, 1), (0, 100_000), (99_999, 100_000), (1234, 56_789)):
        file.will_need(array[start:stop])
