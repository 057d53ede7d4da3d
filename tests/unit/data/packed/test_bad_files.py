"""Every way in which the arrays of a packed data set can be wrong ends in one line that names the file and the hint."""

import builtins
import os
import resource
import socket
import struct
from pathlib import Path

import numpy as np
import pytest

from dlrm.data.packed.folder import open_packed
from dlrm.errors import DataError
from tests.unit.data.packed.damage import SIZES, Case, assert_one_line, cut, edit, leaves, named, put, save
from tests.unit.data.packed.packed_files import NUM_DENSE, ROWS, some_part, write_days, write_part


def instead(name, make):
    def act(folder):
        (folder / name).unlink()
        make(folder / name)

    return act


def remove_day(day):
    return lambda folder: [path.unlink() for path in folder.glob(f"day_{day}_*")]


def header(text, version=(1, 0)):
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text.encode()


DENSE = np.zeros((40, NUM_DENSE), np.float32)
IDS = np.zeros((40, len(ROWS)), np.int32)
OBJECTS = np.array([[{}, [], None]], dtype=object)

FILES = [
    Case(
        "truncated",
        cut("day_1_dense.npy", 500),
        "day_1_dense.npy",
        "is truncated: 40 x 3 float32 are 480 bytes, there are 372",
    ),
    Case("truncated within its header", cut("day_1_dense.npy", 90), "day_1_dense.npy", "ends within its header"),
    Case("truncated within its magic", cut("day_1_dense.npy", 3), "day_1_dense.npy", "is no .npy file"),
    Case("empty", cut("day_1_labels.npy", 0), "day_1_labels.npy", "is empty"),
    Case(
        "too long", edit("day_1_sparse.npy", lambda old: old + b"xy"), "day_1_sparse.npy", "is too long: 40 x 3 int32"
    ),
    Case("not npy", put("day_1_dense.npy", b"0\t1\t2\n" * 99), "day_1_dense.npy", "is no .npy file (it begins with"),
    Case(
        "unknown npy version",
        put("day_1_dense.npy", header("{}", (4, 0))),
        "day_1_dense.npy",
        "has .npy format version 4.0",
    ),
    Case(
        "huge header",
        put("day_1_dense.npy", b"\x93NUMPY\2\0\xff\xff\xff\x7f"),
        "day_1_dense.npy",
        "claims a header of 2,147,483,647 bytes",
    ),
    Case(
        "header is code",
        put("day_1_dense.npy", header("__import__('os').abort()")),
        "day_1_dense.npy",
        "has a header that is none of NumPy's",
    ),
    Case(
        "header nested deeply",
        put("day_1_dense.npy", header("(" * 60_000)),
        "day_1_dense.npy",
        "has a header that is none of NumPy's",
    ),
    Case(
        "header not text",
        put("day_1_dense.npy", b"\x93NUMPY\1\0\4\0\xff\xfe\xff\xfe"),
        "day_1_dense.npy",
        "has a header that is none of NumPy's",
    ),
    Case(
        "negative shape",
        put("day_1_dense.npy", header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}")),
        "day_1_dense.npy",
        "impossible shape",
    ),
    Case(
        "endless shape",
        put("day_1_dense.npy", header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 3)}}")),
        "day_1_dense.npy",
        "is truncated",
    ),
    Case(
        "dense is float64",
        save("day_1_dense.npy", DENSE.astype(np.float64)),
        "day_1_dense.npy",
        "has type '<f8', where float32 (<f4) is needed",
    ),
    Case("dense is big-endian", save("day_1_dense.npy", DENSE.astype(">f4")), "day_1_dense.npy", "has type '>f4'"),
    Case(
        "ids are uint32",
        save("day_1_sparse.npy", IDS.astype(np.uint32)),
        "day_1_sparse.npy",
        "has type '<u4', where int32 (<i4) or int64 (<i8) is needed",
    ),
    Case("ids are float32", save("day_1_sparse.npy", IDS.astype(np.float32)), "day_1_sparse.npy", "has type '<f4'"),
    Case(
        "labels are float32",
        save("day_1_labels.npy", np.zeros((40, 1), np.float32)),
        "day_1_labels.npy",
        "has type '<f4', where int32",
    ),
    Case("structured", save("day_1_dense.npy", np.zeros(40, [("a\nb", "<f4")])), "day_1_dense.npy", "has type"),
    Case(
        "pickled",
        save("day_1_sparse.npy", OBJECTS),
        "day_1_sparse.npy",
        "holds pickled Python objects, which are not loaded",
    ),
    Case(
        "three dimensions",
        save("day_1_dense.npy", DENSE[:, :, None]),
        "day_1_dense.npy",
        "has shape (40, 3, 1), where (rows, columns) is needed",
    ),
    Case("a scalar", save("day_1_dense.npy", np.float32(1)), "day_1_dense.npy", "has shape ()"),
    Case("no columns", save("day_1_dense.npy", DENSE[:, :0]), "day_1_dense.npy", "has 0 columns, "),
    Case(
        "no sparse columns", save("day_1_sparse.npy", np.zeros((40, 0), np.int32)), "day_1_sparse.npy", "has no columns"
    ),
    Case(
        "Fortran order",
        save("day_1_dense.npy", np.asfortranarray(DENSE)),
        "day_1_dense.npy",
        "is stored column by column (Fortran order)",
    ),
    Case(
        "missing file",
        lambda folder: (folder / "day_1_labels.npy").unlink(),
        "day_1_labels.npy",
        "is missing (the labels file of part day_1)",
    ),
    Case("missing day", remove_day(1), "", "part day_1 is missing between day_0 and day_2"),
    Case(
        "duplicate part",
        lambda folder: write_part(folder, "day_01", some_part(40)),
        "",
        "parts day_01 and day_1 have the same number",
    ),
    Case(
        "ids twice",
        save("day_1_sparse_contig_freq.npy", IDS),
        "day_1_sparse_contig_freq.npy",
        "is there beside day_1_sparse.npy, and both are ids of part day_1",
    ),
    Case(
        "mixed row counts",
        save("day_1_sparse.npy", IDS[:-1]),
        "day_1_sparse.npy",
        "has 39 rows, {}/day_1_dense.npy has 40",
    ),
    Case(
        "a label too many",
        save("day_1_labels.npy", np.zeros((41, 1), np.int32)),
        "day_1_labels.npy",
        "has 41 rows, {}/day_1_dense.npy has 40",
    ),
    Case(
        "labels of two columns",
        save("day_1_labels.npy", np.zeros((40, 2), np.int32)),
        "day_1_labels.npy",
        "has 2 columns, {}/day_0_labels.npy has 1",
    ),
    Case(
        "dense columns differ",
        save("day_1_dense.npy", DENSE[:, :2].copy()),
        "day_1_dense.npy",
        "has 2 columns, {}/day_0_dense.npy has 3",
    ),
    Case(
        "sparse columns differ",
        save("day_1_sparse.npy", IDS[:, :2].copy()),
        "day_1_sparse.npy",
        "has 2 columns, {}/day_0_sparse.npy has 3",
    ),
    Case(
        "folder instead of a file",
        instead("day_1_dense.npy", os.mkdir),
        "day_1_dense.npy",
        "is a folder where a file is needed",
    ),
    Case("named pipe", instead("day_1_dense.npy", os.mkfifo), "day_1_dense.npy", "is neither a file nor a folder"),
    Case("link that leaves", leaves, "day_1_dense.npy", "is a link that leaves the folder"),
    Case(
        "link to nowhere",
        instead("day_1_dense.npy", lambda path: os.symlink("gone", path)),
        "day_1_dense.npy",
        "is missing",
    ),
    Case(
        "link to itself",
        instead("day_1_dense.npy", lambda path: os.symlink(path.name, path)),
        "day_1_dense.npy",
        "cannot be read (Too many levels of symbolic links)",
    ),
    Case("nothing there", lambda folder: [path.unlink() for path in folder.iterdir()], "", "holds no packed data"),
]


@pytest.mark.parametrize("case", named(FILES))
def test_a_bad_folder_is_one_line_that_names_file_and_hint(tmp_path, case):
    assert_one_line(tmp_path, case, manifest=False, multi_hot=False)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"gone: there is no such folder; name the folder of a packed data set$"):
        open_packed(str(tmp_path / "gone"), rows=ROWS)


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match="data: is a file, where a folder is needed; "):
        open_packed(str(tmp_path / "data"), rows=ROWS)


def test_a_socket_in_place_of_a_file_is_one_line(tmp_path, monkeypatch):
    write_days(tmp_path, SIZES)
    (tmp_path / "day_1_dense.npy").unlink()
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("day_1_dense.npy")
        with pytest.raises(
            DataError, match=r"day_1_dense.npy: is neither a file nor a folder where a file is needed; "
        ):
            open_packed(str(tmp_path), rows=ROWS)


def denied(path, *_, **__):
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize("name", ["day_1_dense.npy", "dataset.json"])
def test_a_file_without_permission_is_one_line(tmp_path, monkeypatch, name):
    """Simulated, as the tests may run as root, whom nothing is forbidden."""
    write_days(tmp_path, SIZES, manifest=True)
    real_open = open
    monkeypatch.setattr(
        builtins,
        "open",
        lambda path, *args, **kwargs: (denied if str(path).endswith(name) else real_open)(path, *args, **kwargs),
    )
    with pytest.raises(DataError) as caught:
        open_packed(str(tmp_path))
    assert str(caught.value) == f"{tmp_path / name}: cannot be read (Permission denied); check its permissions"


def test_more_files_than_may_be_open_is_one_line_with_its_own_hint(tmp_path):
    write_days(tmp_path, (2,) * 40)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))  # what tests before have left open
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 60, limits[1]))
    try:
        with pytest.raises(DataError, match=r"cannot be read \(Too many open files\); raise the limit of open files"):
            open_packed(str(tmp_path), rows=ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_folder_without_permission_is_one_line(tmp_path, monkeypatch):
    write_days(tmp_path, SIZES)
    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(DataError) as caught:
        open_packed(str(tmp_path), rows=ROWS)
    assert str(caught.value) == f"{tmp_path}: cannot be listed (Permission denied); check its permissions"


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    """A pickle that would write a file when loaded."""

    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    write_days(tmp_path, SIZES)
    np.save(tmp_path / "day_0_dense.npy", np.array([Harmful()], dtype=object))
    with pytest.raises(DataError, match="pickled"):
        open_packed(str(tmp_path), rows=ROWS)
    assert not (tmp_path / "harm").exists()
