"""What is written in sections is what is read, or an error says that it is not."""

import os

import numpy as np
import pytest

from dlrm.errors import DataError
from dlrm.preprocess.sections import SectionFile, write_sections

RECORD = np.dtype([("key", "<u8"), ("values", "<u4", (3,)), ("more", "<u4")])
HEADER = {"counts": {"rows": 3}, "lines": [0, 5]}


def some_items(count=103, seed=0):
    return np.random.default_rng(seed).integers(0, 256, count * RECORD.itemsize, np.uint8).view(RECORD)


def some_ends(count, sections=4, seed=0):
    """Where each of some sections of random sizes ends."""
    section_of = np.random.default_rng(seed).integers(0, sections, count)
    return np.cumsum(np.bincount(section_of, minlength=sections))


def write(path, items, sections=4):
    write_sections(path, HEADER, items, some_ends(len(items), sections))


def opened(path, sections=4):
    return SectionFile(path, RECORD, sections)


def error_of(read) -> str:
    with pytest.raises(DataError) as caught:
        read()
    assert caught.value.mend
    return str(caught.value)


@pytest.mark.parametrize("sections", [1, 2, 50])
@pytest.mark.parametrize("count", [0, 1, 7, 103])
def test_what_was_written_is_read(tmp_path, count, sections):
    items, ends = some_items(count), some_ends(count, sections)
    write(tmp_path / "c", items, sections)
    file = opened(tmp_path / "c", sections)
    assert file.header == HEADER
    assert file.lengths().tolist() == np.diff(ends, prepend=0).tolist()
    np.testing.assert_array_equal(file.read_all(), items)
    for section, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        np.testing.assert_array_equal(file.read(section), items[start:stop])
        into = np.zeros(count + 1, RECORD)
        np.testing.assert_array_equal(file.read(section, into=into), items[start:stop])
        np.testing.assert_array_equal(into[: stop - start], items[start:stop])
        middle = (stop - start) // 2
        np.testing.assert_array_equal(file.read(section, middle), items[start + middle : stop])
        np.testing.assert_array_equal(file.read(section, 0, middle), items[start : start + middle])


def test_numbers_are_items_as_well(tmp_path):
    values = np.arange(10, dtype=np.uint32)
    write_sections(tmp_path / "v", {}, values, np.array([4, 4, 10]))
    file = SectionFile(tmp_path / "v", np.uint32, 3)
    assert [file.read(section).tolist() for section in range(3)] == [[0, 1, 2, 3], [], [4, 5, 6, 7, 8, 9]]


def test_a_flipped_byte_anywhere_is_an_error(tmp_path):
    path = tmp_path / "c"
    write(path, some_items(20))
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        error_of(lambda: opened(path).read_all())


def test_pages_that_the_disk_never_wrote_are_an_error(tmp_path):
    path = tmp_path / "c"
    write(path, some_items(5000))
    whole = path.read_bytes()
    for page in range(0, len(whole), 4096):
        path.write_bytes(whole[:page] + bytes(len(whole[page : page + 4096])) + whole[page + 4096 :])
        error_of(lambda: opened(path).read_all())


def test_a_file_that_is_cut_off_anywhere_is_an_error(tmp_path):
    path = tmp_path / "c"
    write(path, some_items(20))
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "cut off" in error_of(lambda: opened(path).read_all()) or length < 200


def test_sections_that_are_not_kept_give_their_room_back_and_those_before_them_stay(tmp_path):
    path, items, ends = tmp_path / "c", some_items(), some_ends(103)
    write(path, items)
    sizes = [path.stat().st_size]
    for kept in (4, 3, 3, 1, 0):
        opened(path).keep(kept)
        again = opened(path)
        assert again.lengths().tolist() == np.diff(ends, prepend=0).tolist()
        sizes.append(path.stat().st_size)
        for section in range(kept):
            np.testing.assert_array_equal(again.read(section), items[: ends[section]][-again.lengths()[section] :])
        if kept < 4:
            assert "cut off" in error_of(lambda kept=kept, again=again: again.read(kept))
    removed = [ends[3] - ends[2], 0, ends[2] - ends[0], ends[0]]
    assert np.diff(sizes).tolist() == [0, *(-RECORD.itemsize * count for count in removed)]
    opened(path).keep(3)
    assert path.stat().st_size == sizes[-1], "a file never grows again"
    assert opened(path).header == HEADER


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    assert "no such file" in error_of(lambda: opened(tmp_path / "absent"))
    write(tmp_path / "c", some_items())
    file = opened(tmp_path / "c")
    (tmp_path / "c").unlink()
    assert "no such file" in error_of(file.read_all)


def test_a_section_with_more_items_than_there_is_room_for_is_an_error(tmp_path):
    write(tmp_path / "c", some_items(), sections=1)
    error_of(lambda: opened(tmp_path / "c", 1).read(0, into=np.empty(102, RECORD)))


def test_a_file_is_replaced_as_a_whole_and_nothing_stays_beside_it(tmp_path):
    write(tmp_path / "c", some_items(seed=1))
    write(tmp_path / "c", some_items(seed=2))
    np.testing.assert_array_equal(opened(tmp_path / "c").read_all(), some_items(seed=2))
    assert os.listdir(tmp_path) == ["c"]


def test_a_full_disk_is_an_error_that_leaves_what_was_there(tmp_path, monkeypatch):
    write(tmp_path / "c", some_items(seed=1))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    problem = error_of(lambda: write(tmp_path / "c", some_items(seed=2)))
    assert "cannot be written (No space left on device)" in problem
    np.testing.assert_array_equal(opened(tmp_path / "c").read_all(), some_items(seed=1))
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_disk_that_is_full_while_writing_is_an_error(tmp_path):
    (tmp_path / "c.unfinished").symlink_to("/dev/full")
    assert "No space left on device" in error_of(lambda: write(tmp_path / "c", some_items()))
    assert os.listdir(tmp_path) == []
