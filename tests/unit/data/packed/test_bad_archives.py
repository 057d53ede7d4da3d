"""Every way in which an archive of multi-hot ids can be wrong ends in one line that names member and hint."""

import struct
import zipfile

import numpy as np
import pytest

from tests.unit.data.packed.damage import SIZES, Case, assert_one_line, cut, edit, edit_json, named, put

NPZ = "day_1_sparse_multi_hot.npz"


def members(arrays_by_name, save_as=np.savez):
    return lambda folder: save_as(folder / NPZ, **arrays_by_name)


def zip_with(write):
    def act(folder):
        with zipfile.ZipFile(folder / NPZ, "w") as archive:
            write(archive)

    return act


def bag(columns, rows=SIZES[1]):
    return np.zeros((rows, columns), np.int32)


def patch_flag(content, flag):
    """Set a flag of the first member, in its own header and in the directory."""
    local, entry = content.index(b"PK\3\4"), content.index(b"PK\1\2")
    patched = bytearray(content)
    patched[local + 6] |= flag
    patched[entry + 8] |= flag
    return bytes(patched)


GOOD = {"0": bag(2), "1": bag(1), "2": bag(3)}
OBJECTS = np.array([[{}, [], None]], dtype=object)


def overlapping(content: bytes) -> bytes:
    """An archive whose first member claims the bytes of the second as well."""
    patched = bytearray(content)
    entry = content.index(b"PK\1\2")
    size = content.index(b"PK\3\4", 4) + 100 - content.index(b"\x93NUMPY")
    struct.pack_into("<2I", patched, entry + 20, size, size)
    return bytes(patched)


MULTI_HOT = [
    Case(
        "missing archive", lambda folder: (folder / NPZ).unlink(), NPZ, "is missing (the multi_hot file of part day_1)"
    ),
    Case("empty archive", cut(NPZ, 0), NPZ, "is empty"),
    Case("no archive", put(NPZ, b"x" * 999), NPZ, "is no .npz archive, or truncated"),
    Case("truncated archive", cut(NPZ, 900), NPZ, "is no .npz archive, or truncated"),
    Case("no members", zip_with(lambda archive: None), NPZ, "holds 0 members"),
    Case(
        "compressed",
        members(GOOD, np.savez_compressed),
        f"{NPZ}:0.npy",
        "is compressed (method 8), so it cannot be read where it lies; write it with np.savez",
    ),
    Case(
        "zip bomb",
        zip_with(lambda archive: archive.writestr("0.npy", bytes(1 << 24), zipfile.ZIP_DEFLATED)),
        f"{NPZ}:0.npy",
        "is compressed",
    ),
    Case("encrypted", edit(NPZ, lambda old: patch_flag(old, 1)), f"{NPZ}:0.npy", "is encrypted"),
    Case(
        "duplicate member",
        zip_with(lambda archive: [archive.writestr("0.npy", b"x") for _ in range(2)]),
        f"{NPZ}:0.npy",
        "is there twice",
    ),
    Case("missing member", members({"0": bag(2), "2": bag(3)}), NPZ, "has no member 1.npy; it holds '0.npy', '2.npy'"),
    Case("extra member", members({**GOOD, "x": bag(1)}), NPZ, "has no member 3.npy"),
    Case("too few members", members({"0": bag(2), "1": bag(1)}), NPZ, "holds 2 arrays, there are 3 sparse features"),
    Case(
        "too many members",
        zip_with(lambda archive: [archive.writestr(f"{i}.npy", b"") for i in range(5000)]),
        NPZ,
        "holds 5,000 members, where 1 to 4,096 make sense",
    ),
    Case(
        "member that leaves",
        zip_with(lambda archive: archive.writestr("../0.npy", b"x")),
        NPZ,
        "has no member 0.npy; it holds '../0.npy'",
    ),
    Case(
        "member that is no npy",
        zip_with(lambda archive: archive.writestr("0.npy", b"hello")),
        f"{NPZ}:0.npy",
        "is no .npy file",
    ),
    Case("member pickled", members({"0": OBJECTS}), f"{NPZ}:0.npy", "holds pickled Python objects"),
    Case(
        "member of int64",
        members({**GOOD, "2": bag(3).astype(np.int64)}),
        f"{NPZ}:2.npy",
        "has type '<i8', where int32",
    ),
    Case("member in Fortran order", members({**GOOD, "2": np.asfortranarray(bag(3))}), f"{NPZ}:2.npy", "Fortran order"),
    Case(
        "member of other rows",
        members({**GOOD, "1": bag(1, rows=39)}),
        f"{NPZ}:1.npy",
        "has 39 rows, {}/day_1_dense.npy has 40",
    ),
    Case(
        "hotness differs",
        members({**GOOD, "1": bag(2)}),
        f"{NPZ}:1.npy",
        "has 2 columns, {}/day_0_sparse_multi_hot.npz has 1",
    ),
    Case(
        "hotness not the manifest's",
        edit_json(lambda found: found["sparse"][1].update(hotness=4)),
        "day_0_sparse_multi_hot.npz:1.npy",
        "has 1 columns, dataset.json says 4",
        manifest=True,
    ),
    Case("members that overlap", edit(NPZ, lambda old: overlapping(old)), f"{NPZ}:0.npy", "overlaps another member"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")  # of zipfile, when such an archive is made
@pytest.mark.parametrize("case", named(MULTI_HOT))
def test_a_bad_archive_is_one_line_that_names_file_and_hint(tmp_path, case):
    assert_one_line(tmp_path, case, manifest=case.manifest, multi_hot=True)
