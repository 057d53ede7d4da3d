import gzip
from pathlib import Path

import pytest

from dlrm.data.raw import tsv_file
from dlrm.data.raw.tsv_file import line_blocks
from dlrm.data.raw.tsv_parse import read_tsv
from dlrm.errors import DataError
from tests.unit.data.raw.damaged_files import after_each_flipped_bit, make_unreadable
from tests.unit.data.raw.tsv_files import LAYOUT, line, write

LINES = [f"{i}\t{'x' * (i % 7)}".encode() for i in range(200)]
TEXT = b"".join(text + b"\n" for text in LINES)


def put(folder: Path, data: bytes, name="day.tsv") -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def error_of(path: str) -> DataError:
    with pytest.raises(DataError) as caught:
        list(line_blocks(path))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(path)
    return caught.value


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_blocks_hold_whole_lines_and_together_the_file(tmp_path, monkeypatch, block_bytes, packed):
    monkeypatch.setattr(tsv_file, "BLOCK_BYTES", block_bytes)
    blocks = list(line_blocks(put(tmp_path, gzip.compress(TEXT) if packed else TEXT)))
    assert all(block.endswith(b"\n") for block in blocks)
    assert b"".join(blocks) == TEXT


def test_the_last_line_needs_no_newline(tmp_path):
    assert b"".join(line_blocks(put(tmp_path, b"a\nb"))) == b"a\nb\n"


def test_gzip_is_known_by_its_content_and_not_by_its_name(tmp_path):
    assert b"".join(line_blocks(put(tmp_path, TEXT, name="plain.gz"))) == TEXT
    assert b"".join(line_blocks(put(tmp_path, gzip.compress(TEXT), name="packed.tsv"))) == TEXT


def test_concatenated_gzip_files_are_one_stream(tmp_path):
    two = gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])
    assert b"".join(line_blocks(put(tmp_path, two))) == TEXT


@pytest.mark.parametrize("data", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_an_empty_file_is_an_error(tmp_path, data):
    assert "the file is empty" in str(error_of(put(tmp_path, data)))


def test_a_gzip_file_that_is_cut_off_names_the_row_where_it_ends(tmp_path):
    stored = gzip.compress(TEXT, compresslevel=0)  # stored bytes: the cut falls where the text says
    readable = stored[: len(stored) // 2]
    error = error_of(put(tmp_path, readable))
    assert error.problem == "the gzip data is cut off"
    assert error.row is not None
    assert abs(error.row - readable.count(b"\n")) <= 2  # the header may hold a byte that looks like a newline


@pytest.mark.parametrize("length", [2, 5, 12])
def test_a_gzip_file_without_rows_is_cut_off_in_its_first_row(tmp_path, length):
    assert error_of(put(tmp_path, gzip.compress(TEXT)[:length])).row == 1


def test_a_gzip_file_with_a_wrong_checksum_is_damaged(tmp_path):
    packed = bytearray(gzip.compress(TEXT))
    packed[-6] ^= 1
    assert "the gzip data is damaged (CRC check failed" in str(error_of(put(tmp_path, bytes(packed))))


def test_every_flipped_bit_of_a_gzip_file_gives_an_error_or_the_same_text(tmp_path):
    packed = gzip.compress(TEXT, mtime=0)
    for outcome in after_each_flipped_bit(packed, tmp_path / "day.tsv", line_blocks, step=11):
        assert outcome == TEXT or b"gzip data is" in outcome  # the header has bytes without meaning here


def test_damage_is_reported_rather_than_the_malformed_row_that_follows_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv_file, "BLOCK_BYTES", 64)  # the row is parsed long before the checksum is seen
    packed = bytearray(gzip.compress(b"".join(line() + b"\n" for _ in range(50)), compresslevel=0))
    packed[100] = ord("z")  # a field of an early row; stored bytes, so that only the checksum can tell
    with pytest.raises(DataError, match="the gzip data is damaged"):
        read_tsv([put(tmp_path, bytes(packed))], LAYOUT)


def test_a_missing_file_is_an_error(tmp_path):
    assert "no such file; check data.paths" in str(error_of(str(tmp_path / "absent.tsv")))
    assert "no such file; list the files, as patterns are for the shell" in str(error_of(str(tmp_path / "day_*")))


def test_a_directory_is_an_error(tmp_path):
    assert "is a directory" in str(error_of(str(tmp_path)))


def test_a_file_without_read_permission_is_an_error(tmp_path, monkeypatch):
    path = put(tmp_path, TEXT)
    make_unreadable(path, monkeypatch)
    assert "no permission to read it" in str(error_of(path))


@pytest.mark.parametrize(
    ("magic", "kind"), [(b"PK\x03\x04", "zip"), (b"BZh9", "bzip2"), (b"PAR1", "Parquet"), (b"\x28\xb5\x2f\xfd", "zstd")]
)
def test_files_of_another_kind_are_named(tmp_path, magic, kind):
    assert f" {kind} " in str(error_of(put(tmp_path, magic + TEXT)))


def test_a_row_without_end_is_an_error_before_memory_runs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv_file, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(tsv_file, "BLOCK_BYTES", 64)
    error = error_of(put(tmp_path, b"one\ntwo\n" + b"x" * 1000))
    assert (error.row, error.problem) == (3, "the row is longer than 100 bytes")


def test_three_rows_in_one_gzip_read_like_the_plain_file(tmp_path):
    lines = [line(), line(label="1", integers=("", "-3")), line(categories=("", "", "ffffffff"))]
    plain = read_tsv([write(tmp_path, *lines)], LAYOUT)
    packed = read_tsv([write(tmp_path, *lines, name="day.tsv.gz")], LAYOUT)
    for name in ("labels_M", "integers_NM", "categories_FM"):
        assert (getattr(plain, name) == getattr(packed, name)).all()
