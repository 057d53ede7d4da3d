import gzip
import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from dlrm.errors import DataError
from dlrm.preprocess import sources
from dlrm.preprocess.sources import SourceFile, TextChunk, find_sources, first_row, text_chunks
from tests.unit.data.raw.damaged_files import after_each_flipped_bit, make_unreadable

RNG = random.Random(0)
LINES = [f"{i}\t{'x' * RNG.randrange(30)}".encode() for i in range(400)]
TEXT = b"".join(text + b"\n" for text in LINES)


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def in_members(compress):
    return lambda data: compress(data[: len(data) // 3]) + compress(data[len(data) // 3 :])


STORED = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstd,
    "gzip in two members": in_members(gzip.compress),
    "zstd in two frames": in_members(zstd),
}
COMPRESSED = ("gzip", "zstd")


def put(folder: Path, data: bytes, name="day_0") -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def source_of(path: str) -> SourceFile:
    (source,) = find_sources([path])
    return source


def chunks_of(path: str, chunk_bytes=100, wanted=lambda k: True) -> list[TextChunk]:
    return list(text_chunks(source_of(path), chunk_bytes, wanted))


def error_of(read, *arguments) -> DataError:
    with pytest.raises(DataError) as caught:
        read(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.mend
    return caught.value


def by_hand(text: bytes, chunk_bytes: int) -> list[TextChunk]:
    """Chunks as they are defined: every line is in the chunk that its first byte is in."""
    lines, start = {}, 0
    for piece in text.splitlines(keepends=True):
        lines.setdefault(start // chunk_bytes, []).append(piece if piece.endswith(b"\n") else piece + b"\n")
        start += len(piece)
    return [TextChunk(k, b"".join(lines.get(k, []))) for k in range(max(lines) + 1)]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("read_bytes", [1, 50, 1 << 20])
@pytest.mark.parametrize("chunk_bytes", [1, 10, 100, 1000, len(TEXT) - 1, len(TEXT), 1 << 20])
def test_a_chunk_holds_the_lines_that_start_in_it_however_the_file_is_stored(
    tmp_path, monkeypatch, stored, read_bytes, chunk_bytes
):
    monkeypatch.setattr(sources, "READ_BYTES", read_bytes)
    text = TEXT if read_bytes > 1 else TEXT[: 30 * chunk_bytes][:3000]
    assert chunks_of(put(tmp_path, STORED[stored](text)), chunk_bytes) == by_hand(text, chunk_bytes)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("text", [b"a", b"\n", b"\n\n\n", b"a\nb", b"abcdefgh\n\nij", b"ab\ncd\r\nefghijklmnop\r\nq"])
def test_odd_texts_are_cut_in_the_same_way(tmp_path, stored, text):
    for chunk_bytes in range(1, 20):
        assert chunks_of(put(tmp_path, STORED[stored](text)), chunk_bytes) == by_hand(text, chunk_bytes)


@pytest.mark.parametrize("stored", STORED)
def test_chunks_that_are_not_wanted_are_left_out_and_change_nothing(tmp_path, stored):
    path = put(tmp_path, STORED[stored](TEXT))
    everything = chunks_of(path)
    rng = random.Random(1)
    for _ in range(10):
        some = {chunk.index for chunk in everything if rng.random() < 0.3}
        assert chunks_of(path, wanted=some.__contains__) == [chunk for chunk in everything if chunk.index in some]
    assert chunks_of(path, wanted=lambda k: False) == []


@pytest.mark.parametrize("stored", STORED)
def test_every_chunk_is_asked_for_once_and_in_order(tmp_path, stored):
    asked = []
    assert chunks_of(put(tmp_path, STORED[stored](TEXT)), wanted=asked.append) == []
    assert asked == [chunk.index for chunk in by_hand(TEXT, 100)]


def test_chunks_of_plain_files_that_are_not_wanted_are_not_read(tmp_path, monkeypatch):
    path = put(tmp_path, TEXT * 100)
    opened, read = open, []

    class Counted:
        def __init__(self, file):
            self.file, self.seek = file, file.seek

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def read(self, size):
            data = self.file.read(size)
            read.append(len(data))
            return data

    source = source_of(path)
    monkeypatch.setattr(sources, "READ_BYTES", 5000)
    monkeypatch.setattr(sources, "open", lambda *given, **more: Counted(opened(*given, **more)), raising=False)
    (chunk,) = text_chunks(source, 100_000, {3}.__contains__)
    assert sum(read) < len(chunk.lines) + len(TEXT) * 100 / 100_000 * 10_000


@pytest.mark.parametrize("stored", STORED)
def test_the_first_row_of_a_chunk_is_the_count_of_the_lines_before(tmp_path, stored):
    path = put(tmp_path, STORED[stored](TEXT))
    row = 1
    for chunk in chunks_of(path, 70):
        assert first_row(source_of(path), 70, chunk.index) == row
        row += chunk.lines.count(b"\n")
    assert row == 1 + len(LINES)


def test_what_a_file_is_its_first_bytes_say_and_not_its_name(tmp_path):
    assert source_of(put(tmp_path, TEXT, "plain.gz")).compression == "none"
    assert source_of(put(tmp_path, gzip.compress(TEXT), "packed.txt")).compression == "gzip"
    assert source_of(put(tmp_path, zstd(TEXT), "packed.gz")).compression == "zstd"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("day_0", "day_0"),
        ("day_0.gz", "day_0"),
        ("day_0.zst", "day_0"),
        ("train.txt", "train"),
        ("train.txt.gz", "train"),
        ("a.tsv.zst", "a"),
        ("a.b.csv", "a.b"),
        ("a.gz.gz", "a.gz"),
    ],
)
def test_a_part_is_called_like_its_file_without_how_it_is_stored(tmp_path, name, part):
    path = put(tmp_path, TEXT, name)
    assert source_of(path) == SourceFile(path, part, len(TEXT), "none")


def parts(*input: str) -> list[str]:
    return [source.part for source in find_sources(input)]


def test_folders_patterns_and_files_come_in_natural_order(tmp_path):
    for name in ("day_10", "day_8", "day_9.gz", "day_11", "other_3"):
        put(tmp_path, TEXT, name)
    put(tmp_path, TEXT, ".hidden")
    (tmp_path / "day_folder").mkdir()
    assert parts(str(tmp_path)) == ["day_8", "day_9", "day_10", "day_11", "other_3"]
    assert parts(f"{tmp_path}/day_*") == ["day_8", "day_9", "day_10", "day_11"]
    assert parts(f"{tmp_path}/day_10", f"{tmp_path}/day_8", f"{tmp_path}/oth*") == ["day_8", "day_10", "other_3"]


def test_what_spark_and_hadoop_leave_beside_their_files_is_left_out(tmp_path):
    folder = tmp_path / "_raw"  # as the folder is called says nothing
    folder.mkdir()
    for name in ("part-0", "part-1", "_committed_1", ".part-0.crc"):
        put(folder, TEXT, name)
    put(folder, b"", "_SUCCESS")
    assert parts(str(folder)) == parts(f"{folder}/*") == ["part-0", "part-1"]
    assert parts(f"{folder}/_comm*") == ["_committed_1"]
    assert parts(f"{folder}/_committed_1") == ["_committed_1"]


@pytest.mark.parametrize("entry", ["", "/*"])
def test_where_there_is_nothing_else_that_is_said(tmp_path, entry):
    put(tmp_path, b"", "_SUCCESS")
    error = error_of(find_sources, [f"{tmp_path}{entry}"])
    assert error.problem.endswith("no data: _SUCCESS")
    assert error.mend == "names that begin with _ or . are left out; check input"


def test_names_with_digits_anywhere_can_be_ordered(tmp_path):
    names = ("1", "01", "a", "a1b", "a1", "1a", "b")
    assert parts(*(put(tmp_path, TEXT, name) for name in names)) == ["01", "1", "1a", "a", "a1", "a1b", "b"]


@pytest.mark.parametrize("entry", [".", "day_*"])
def test_a_number_that_is_missing_in_a_folder_or_a_pattern_is_named(tmp_path, entry):
    for name in ("day_0.gz", "day_1", "day_3", "day_4", "day_9"):
        put(tmp_path, TEXT, name)
    error = error_of(find_sources, [f"{tmp_path}/{entry}"])
    assert error.path == f"{tmp_path}/{entry}"
    assert error.problem == "part day_2 is missing between day_1 and day_3"
    assert "list the files one by one" in error.mend


def test_files_that_are_listed_one_by_one_are_those_that_are_meant(tmp_path):
    paths = [put(tmp_path, TEXT, name) for name in ("day_0", "day_7")]
    assert parts(*paths) == ["day_0", "day_7"]


def test_a_pattern_may_mean_some_of_the_numbers(tmp_path):
    for name in ("day_0", "day_1", "day_4", "day_5", "day_6", "test_9"):
        put(tmp_path, TEXT, name)
    assert parts(f"{tmp_path}/day_[4-6]") == ["day_4", "day_5", "day_6"]
    assert parts(f"{tmp_path}/day_[4-6]", f"{tmp_path}/day_[01]") == ["day_0", "day_1", "day_4", "day_5", "day_6"]
    assert parts(f"{tmp_path}/*[019]") == ["day_0", "day_1", "test_9"]


def test_numbers_may_be_spread_over_folders(tmp_path):
    for day in range(5):
        disk = tmp_path / f"disk{day % 2}"
        disk.mkdir(exist_ok=True)
        put(disk, TEXT, f"day_{day}")
    assert parts(f"{tmp_path}/disk0", f"{tmp_path}/disk1/day_*") == [f"day_{day}" for day in range(5)]


def test_two_files_with_one_number_are_an_error(tmp_path):
    for name in ("day_0", "day_01", "day_1"):
        put(tmp_path, TEXT, name)
    assert "parts day_01 and day_1 have the same number" in str(error_of(find_sources, [str(tmp_path)]))


def test_the_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path, TEXT)
    assert parts("~/day_0") == parts("~/day*") == ["day_0"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    put(tmp_path, TEXT, "day_[0]")
    assert parts(f"{tmp_path}/day_[0]") == ["day_[0]"]


def test_two_files_for_one_part_are_an_error(tmp_path):
    put(tmp_path, TEXT, "day_0")
    put(tmp_path, gzip.compress(TEXT), "day_0.gz")
    error = error_of(find_sources, [str(tmp_path)])
    assert {error.path, error.problem} & {f"{tmp_path}/day_0", f"{tmp_path}/day_0.gz"}
    assert "is the part day_0, which" in error.problem
    assert "is the part day_0" in str(error_of(find_sources, [f"{tmp_path}/day_0", f"{tmp_path}/day_0"]))


@pytest.mark.parametrize("entry", ["absent", "absent*", "folder", "folder/absent"])
def test_what_matches_nothing_is_an_error(tmp_path, entry):
    (tmp_path / "folder").mkdir()
    error = error_of(find_sources, [f"{tmp_path}/{entry}"])
    assert error.path == f"{tmp_path}/{entry}"
    assert error.problem in ("no such file", "the pattern matches no file", "the folder holds no files")


def test_a_link_that_leads_nowhere_is_an_error(tmp_path):
    (tmp_path / "day_0").symlink_to(tmp_path / "absent")
    assert "no such file" in str(error_of(find_sources, [str(tmp_path)]))


def test_a_pipe_is_an_error_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in str(error_of(find_sources, [str(tmp_path)]))


def test_an_empty_file_is_an_error(tmp_path):
    assert "the file is empty" in str(error_of(find_sources, [put(tmp_path, b"")]))


@pytest.mark.parametrize("stored", COMPRESSED)
def test_a_compressed_file_without_text_is_an_error(tmp_path, stored):
    assert "the file is empty" in str(error_of(chunks_of, put(tmp_path, STORED[stored](b""))))


@pytest.mark.parametrize(
    ("magic", "kind"), [(b"PK\x03\x04", "zip"), (b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"PAR1", "Parquet")]
)
def test_files_of_another_format_are_named(tmp_path, magic, kind):
    assert f" {kind} " in str(error_of(find_sources, [put(tmp_path, magic + TEXT)]))


def test_a_file_without_read_permission_is_an_error(tmp_path, monkeypatch):
    path = put(tmp_path, TEXT)
    make_unreadable(path, monkeypatch)
    assert "no permission to read it" in str(error_of(find_sources, [path]))


def test_a_name_that_cannot_name_files_is_an_error(tmp_path):
    assert "rename the file" in str(error_of(find_sources, [put(tmp_path, TEXT, "day\n0")]))


@pytest.mark.parametrize("stored", COMPRESSED)
def test_a_compressed_file_that_is_cut_off_is_an_error(tmp_path, stored):
    whole = STORED[stored](TEXT)
    for length in range(5, len(whole), 17):
        assert "the compressed data is cut off" in str(error_of(chunks_of, put(tmp_path, whole[:length])))


def lines_of(path: str) -> list[bytes]:
    return [chunk.lines for chunk in chunks_of(path)]


def test_every_flipped_byte_of_a_gzip_file_gives_an_error_or_the_same_text(tmp_path):
    whole = gzip.compress(TEXT, mtime=0)
    for outcome in after_each_flipped_bit(whole, tmp_path / "day_0", lines_of, step=7):
        assert outcome == TEXT or b"the compressed data is" in outcome  # the header has bytes without meaning here


@pytest.mark.parametrize("stored", COMPRESSED)
def test_damage_is_reported_rather_than_the_row_of_a_chunk_before_it(tmp_path, stored):
    path = put(tmp_path, STORED[stored](TEXT)[:-9])
    assert "the compressed data is cut off" in str(error_of(first_row, source_of(path), 100, 1))


def test_a_file_of_another_size_than_at_first_is_an_error(tmp_path):
    path = put(tmp_path, TEXT)
    source = source_of(path)
    put(tmp_path, TEXT + b"more\n")
    error = error_of(list, text_chunks(source, 100, lambda k: True))
    assert error.problem == f"has {len(TEXT) + 5} bytes, but had {len(TEXT)} at first"


@pytest.mark.parametrize("stored", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("change", ["append", "truncate", "overwrite", "remove"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, stored, change):
    path = put(tmp_path, STORED[stored](TEXT))
    chunks = text_chunks(source_of(path), 1000, lambda k: True)
    next(chunks)
    if change == "append":
        with open(path, "ab") as file:
            file.write(b"x")
    elif change == "truncate":
        os.truncate(path, 10)
    elif change == "overwrite":
        os.utime(path, ns=(0, 12345))
    else:
        os.remove(path)
    words = "no such file" if change == "remove" else "has changed while it was read"
    assert words in str(error_of(list, chunks))


@pytest.mark.parametrize("stored", ["plain", "gzip", "zstd"])
def test_a_row_without_end_is_an_error_before_memory_runs_out(tmp_path, monkeypatch, stored):
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(sources, "READ_BYTES", 64)
    error = error_of(chunks_of, put(tmp_path, STORED[stored](b"one\ntwo\n" + b"x" * 1000 + b"\nend\n")), 32)
    assert (error.row, error.problem) == (3, "the row is longer than 100 bytes")
