import struct
import zipfile
import zlib

import numpy as np
import pytest

from dlrm.data.packed.arrays import MappedFile
from dlrm.data.packed.npz import list_members, map_members, verify_checksums
from dlrm.errors import DataError

ARRAYS = [np.arange(rows * 3, dtype=np.int32).reshape(3, rows) for rows in (1, 5, 2, 100)]


def write(path, save=np.savez):
    save(path, **{str(i): array for i, array in enumerate(ARRAYS)})
    return MappedFile(str(path))


def test_mapped_members_are_what_numpy_loads(tmp_path):
    file = write(tmp_path / "a.npz")
    found = map_members(file, ["<i4"])
    with np.load(tmp_path / "a.npz") as expected:
        assert len(found) == len(expected)
        for i, array in enumerate(found):
            np.testing.assert_array_equal(array, expected[str(i)])
    verify_checksums(file)


def test_members_are_found_where_zipfile_finds_them(tmp_path):
    file = write(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        for member, info in zip(list_members(file), archive.infolist(), strict=True):
            assert (member.name, member.crc32) == (info.filename, info.CRC)
            assert content[member.start : member.stop] == archive.read(info)


@pytest.mark.parametrize("order", [[3, 1, 0, 2], [1, 0, 2, 3]])
def test_members_are_taken_by_name_whatever_their_order(tmp_path, order):
    np.savez(tmp_path / "a.npz", **{str(i): ARRAYS[i] for i in order})
    found = map_members(MappedFile(str(tmp_path / "a.npz")), ["<i4"], count=4)
    assert [array.shape for array in found] == [array.shape for array in ARRAYS]


def test_sizes_that_follow_a_member_are_taken_from_the_directory(tmp_path):
    with open(tmp_path / "a.npz", "wb") as out:

        class Pipe:  # zipfile writes sizes behind a member where it cannot seek back
            write, flush, read = out.write, out.flush, None

        np.savez(Pipe(), **{str(i): array for i, array in enumerate(ARRAYS)})
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.infolist()[0].flag_bits & 0x08
    file = MappedFile(str(tmp_path / "a.npz"))
    for found, right in zip(map_members(file, ["<i4"]), ARRAYS, strict=True):
        np.testing.assert_array_equal(found, right)


def test_archives_beyond_4_gib_are_read_by_their_64_bit_fields(tmp_path):
    """As zipfile writes them, but without the 4 GiB: it moves values to 64-bit fields where they exceed ZIP64_LIMIT."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 200)
        write(tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    assert b"PK\x06\x06" in content
    assert struct.pack("<I", 0xFFFF_FFFF) in content[content.rindex(b"PK\x01\x02") :]
    file = MappedFile(str(tmp_path / "a.npz"))
    for found, right in zip(map_members(file, ["<i4"]), ARRAYS, strict=True):
        np.testing.assert_array_equal(found, right)
    verify_checksums(file)


def test_a_flipped_bit_is_found_by_its_checksum(tmp_path):
    content = bytearray(write(tmp_path / "a.npz").view)
    member = list_members(MappedFile(str(tmp_path / "a.npz")))[2]
    content[member.stop - 1] ^= 4
    (tmp_path / "b.npz").write_bytes(content)
    found = zlib.crc32(content[member.start : member.stop])
    with pytest.raises(DataError) as caught:
        verify_checksums(MappedFile(str(tmp_path / "b.npz")))
    expected = f"{tmp_path / 'b.npz'}:2.npy: has CRC-32 {found:08x}, the archive says {member.crc32:08x}; "
    assert str(caught.value).startswith(expected)


def test_any_damaged_byte_of_the_structure_is_an_error_or_changes_nothing(tmp_path):
    """Every byte that is no data, replaced in turn: the arrays stay what they were, or a DataError says what is wrong."""
    file = write(tmp_path / "a.npz")
    content = bytes(file.view)
    data = {at for member in list_members(file) for at in range(member.start + 128, member.stop)}
    refused = 0
    for at in sorted(set(range(len(content))) - data):
        (tmp_path / "b.npz").write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
        try:
            found = map_members(MappedFile(str(tmp_path / "b.npz")), ["<i4"], count=len(ARRAYS))
        except DataError:
            refused += 1
        else:
            assert all(np.array_equal(array, right) for array, right in zip(found, ARRAYS, strict=True))
    assert refused > 500
