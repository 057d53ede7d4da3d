import os
import random
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from dlrm.config.prepare import FixedDense, PreprocessConfig
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, MISSING_INTEGER
from dlrm.data.raw.tsv_parse import parse_lines
from dlrm.errors import DataError
from dlrm.preprocess.parse import ParsedChunk, count_lines, parse_chunk
from dlrm.preprocess.records import Columns
from dlrm.preprocess.sources import find_sources, text_chunks
from dlrm.preprocess.work_folder import ChunkCounts
from tests.unit.data.raw.tsv_files import CATEGORIES, FIELD_PATTERNS, INTEGERS, LAYOUT, line

REPOSITORY = Path(__file__).resolve().parents[3]
SAMPLE = Path(os.environ.get("CRITEO_SAMPLE", REPOSITORY.parent / "shared" / "data" / "criteo_kaggle_sample.tsv.gz"))
GOOD = line()


def config(**changes) -> PreprocessConfig:
    return PreprocessConfig(input=("raw",), output="packed", num_dense=2, num_sparse=3, **changes)


def unasked(row: int) -> tuple[str, int]:
    raise AssertionError(f"row {row} was asked for, though nothing is wrong")


def of_day(row: int) -> tuple[str, int]:
    return "day_0", 100 + row


class ByColumn(Columns):
    """A parsed chunk's columns, and its counts."""

    counts: ChunkCounts


def parse_text(text: bytes, settings: PreprocessConfig, where=unasked) -> ParsedChunk:
    return parse_chunk(text, settings, where=where, num_lines=count_lines(text))


def by_column(chunk: ParsedChunk) -> ByColumn:
    columns = ByColumn(**vars(Columns.of(chunk.records_M)))
    object.__setattr__(columns, "counts", chunk.counts)
    return columns


def parse(*lines: bytes, end=b"\n", where=unasked, **changes) -> ByColumn:
    return by_column(parse_text(b"".join(text + end for text in lines), config(**changes), where))


def error_of(*lines: bytes, end=b"\n", where=of_day, **changes) -> DataError:
    with pytest.raises(DataError) as caught:
        parse(*lines, end=end, where=where, **changes)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def random_line(rng: random.Random) -> bytes:
    def integer():
        kinds = (
            "",
            str(rng.randrange(-5, 100)),
            str(rng.randrange(-(10 ** rng.randrange(19)), 10 ** rng.randrange(1, 19))),
        )
        number = rng.choice(kinds)
        return number + rng.choice(["", "", ".0", ".000"]) if number else ""

    def category():
        text = "" if rng.random() < 0.3 else f"{rng.randrange(2 ** rng.randrange(1, 33)):0{rng.randrange(1, 9)}x}"
        return rng.choice([text, text.upper()])

    return line(rng.choice(["0", "1", "0.0", "1.0"]), (integer(), integer()), (category(), category(), category()))


def is_well_formed(text: bytes) -> bool:
    fields = text.removesuffix(b"\r").split(b"\t")
    if len(fields) != len(FIELD_PATTERNS):
        return False
    return all(pattern.fullmatch(field) for pattern, field in zip(FIELD_PATTERNS, fields, strict=True))


def assert_same(chunk: ByColumn, lines: list[bytes], dense: FixedDense) -> None:
    """Compares every value with plain Python's reading of well-formed lines; dense ones exactly, as float64 rounded."""
    split = [text.removesuffix(b"\r").decode().split("\t") for text in lines]
    integers = [[int(x.partition(".")[0]) if x else dense.missing for x in fields[INTEGERS]] for fields in split]
    clamped = np.maximum(np.array(integers, np.float64).reshape(-1, 2), dense.minimum)
    assert chunk.labels_M.tolist() == [int(fields[0][0]) for fields in split]
    np.testing.assert_array_equal(chunk.dense_MN, np.log(clamped + dense.shift).astype(np.float32))
    assert chunk.categories_FM.T.tolist() == [[int(x or "0", 16) for x in fields[CATEGORIES]] for fields in split]
    assert chunk.missing_FM.T.tolist() == [[not x for x in fields[CATEGORIES]] for fields in split]
    assert chunk.counts.rows == len(lines)
    empty = {name: sum(not fields[i] for fields in split) for i, name in enumerate(LAYOUT.columns)}
    del empty["label"]
    assert chunk.counts.missing == empty


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(
    "dense",
    [FixedDense(), FixedDense(shift=1.0, minimum=0.0), FixedDense(shift=2000.5, minimum=-2000.25, missing=-7.5)],
)
def test_values_agree_with_plain_python(end, dense):
    rng = random.Random(0)
    lines = [random_line(rng) for _ in range(2000)]
    assert_same(parse(*lines, end=end, dense=dense), lines, dense)


@pytest.mark.parametrize("integer", [-(10**18) + 1, -1025, -1024, -3, -2, -1, 0, 65_535, 65_536, 2**31, 10**18 - 1])
def test_the_transform_is_the_same_on_both_sides_of_what_is_looked_up(integer):
    text = line(integers=(str(integer), "0" * 18))
    assert_same(parse(text), [text], FixedDense())


def test_arrays_have_the_documented_types():
    chunk = parse(GOOD, GOOD)
    assert (chunk.labels_M.dtype, chunk.labels_M.shape) == (np.uint8, (2,))
    assert (chunk.dense_MN.dtype, chunk.dense_MN.shape) == (np.float32, (2, 2))
    assert (chunk.categories_FM.dtype, chunk.categories_FM.shape) == (np.uint32, (3, 2))
    assert (chunk.missing_FM.dtype, chunk.missing_FM.shape) == (np.bool_, (3, 2))
    assert chunk.dense_MN.flags.c_contiguous
    assert chunk.categories_FM.flags.c_contiguous


def test_only_the_empty_field_is_missing():
    chunk = parse(line(integers=("", "0"), categories=("", "0", "00000000")))
    assert chunk.counts.missing == {"int_0": 1, "int_1": 0, "cat_0": 1, "cat_1": 0, "cat_2": 0}
    assert chunk.categories_FM.tolist() == [[0], [0], [0]]
    assert chunk.missing_FM.tolist() == [[True], [False], [False]]


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_a_chunk_without_lines_has_no_rows(bad_rows):
    chunk = parse(bad_rows=bad_rows)
    assert (len(chunk.labels_M), chunk.categories_FM.shape, chunk.counts.rows) == (0, (3, 0), 0)


def test_a_malformed_field_is_named_with_file_row_column_value_and_mend():
    error = error_of(GOOD, GOOD, line(categories=("a", "xyz", "c")), GOOD)
    assert str(error) == (
        "day_0, row 102, column cat_1: is 'xyz', not a category of 1 to 8 hexadecimal digits; give hexadecimal digits, or "
        "leave the field empty where it is missing; bad_rows=skip leaves such rows out"
    )


def test_messages_name_the_options_of_this_command():
    error = error_of(GOOD, GOOD + b"\t")
    assert "row has 7 columns, expected 6" in error.problem
    assert "num_dense and num_sparse say" in error.mend
    assert "data." not in str(error)


def test_of_several_problems_the_first_row_and_in_it_the_first_column_is_reported():
    two_bad = line(integers=("1", "x"), categories=("a", "zz", "c"))
    error = error_of(GOOD, two_bad, line(label="7"), b"short")
    assert (error.row, error.column) == (101, "int_1")
    assert error_of(GOOD, b"short", two_bad).column is None


def test_the_first_row_of_a_file_is_asked_for_a_header():
    error = error_of(b"label\ti1\ti2\tc1\tc2\tc3", GOOD, where=lambda row: ("day_0", 1 + row))
    assert (error.row, error.mend) == (1, "the file must have no header: remove its first line")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_skipped_rows_are_left_out_and_counted(end):
    good = [line(label=str(i % 2), categories=(f"{i:x}", "", "c")) for i in range(5)]
    bad = [b"", b"short", line(label="2"), line(integers=("", "1.5")), line(integers=("", "")) + b"\t"]
    lines = [bad[0], good[0], bad[1], bad[2], good[1], good[2], bad[3], good[3], good[4], bad[4]]
    chunk = parse(*lines, end=end, bad_rows="skip")
    assert chunk.counts.skipped_rows == len(bad)
    assert_same(chunk, good, FixedDense())
    chunk = parse_text(end.join([*lines, b""]), config(bad_rows="skip"))
    assert chunk.skipped_lines.tolist() == [lines.index(text) for text in bad]


def test_where_every_row_is_malformed_all_are_skipped():
    chunk = parse(b"", b"x", bad_rows="skip")
    assert (chunk.counts.rows, chunk.counts.skipped_rows) == (0, 2)
    assert chunk.counts.missing == dict.fromkeys(LAYOUT.columns[1:], 0)


def damaged_chunk(rng: random.Random) -> bytes:
    data = bytearray(b"".join(random_line(rng) + rng.choice([b"\n", b"\r\n"]) for _ in range(rng.randrange(1, 8))))
    junk = [b"\t", b"\n", b"-", b"+", b"0", b"9", b"a", b"F", b"g", b"x", b".", b" ", b'"', b"\r", b"\0", b"", b"\xff"]
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = rng.choice(junk) * rng.choice([1, 1, 1, 2, 20])
    return bytes(data) if data.endswith(b"\n") else bytes(data) + b"\n"


def test_both_parsers_and_regular_expressions_agree_on_thousands_of_damaged_chunks():
    rng = random.Random(1)
    rejected = 0
    for _ in range(5000):
        data = damaged_chunk(rng)
        lines = data.removesuffix(b"\n").split(b"\n")
        good = [text for text in lines if is_well_formed(text)]
        exact = failure(lambda data=data: parse_lines(data, LAYOUT, path="day_0", first_row=100))
        fast = failure(lambda data=data: parse_text(data, config(), of_day))
        assert (fast is None) == (exact is None) == (len(good) == len(lines)), data
        if fast is not None:
            rejected += 1
            assert (fast.row, fast.column, fast.problem) == (exact.row, exact.column, exact.problem)
        kept = by_column(parse_text(data, config(bad_rows="skip")))
        assert kept.counts.skipped_rows == len(lines) - len(good)
        assert_same(kept, good, FixedDense())
    assert 1000 < rejected < 4500  # both outcomes were seen


def failure(parse) -> DataError | None:
    try:
        parse()
    except DataError as error:
        return error
    return None


def test_the_exact_parser_gives_the_same_values():
    rng = random.Random(2)
    data = b"".join(random_line(rng) + b"\n" for _ in range(500))
    chunk, rows = (
        by_column(parse_text(data, config())),
        parse_lines(data, LAYOUT, path="day_0", first_row=1),
    )
    np.testing.assert_array_equal(chunk.labels_M, rows.labels_M)
    np.testing.assert_array_equal(chunk.missing_FM, rows.categories_FM == MISSING_CATEGORY)
    np.testing.assert_array_equal(chunk.categories_FM, np.maximum(rows.categories_FM, 0))
    raw_NM = np.where(rows.integers_NM == MISSING_INTEGER, 0, rows.integers_NM)
    np.testing.assert_array_equal(chunk.dense_MN.T, np.log(np.maximum(raw_NM, -2.0) + 3.0).astype(np.float32))


def test_threads_at_once_parse_what_one_alone_parses():
    rng = random.Random(3)
    chunks = [b"".join(random_line(rng) + b"\n" for _ in range(3000)) for _ in range(4)]
    alone = [parse_text(data, config()) for data in chunks]
    together = [None] * len(chunks)

    def work(i):
        together[i] = parse_text(chunks[i], config())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(chunks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        assert one.counts == other.counts
        np.testing.assert_array_equal(one.records_M, other.records_M)


@pytest.mark.criteo
@pytest.mark.skipif(
    not SAMPLE.exists(), reason=f"needs the Criteo Kaggle sample; CRITEO_SAMPLE names it, not at {SAMPLE}"
)
def test_the_real_sample_parses_as_pyarrow_reads_it():
    settings = PreprocessConfig(input=(str(SAMPLE),), output="packed")
    (source,) = find_sources(settings.input)
    texts = text_chunks(source, 5_000_000, lambda k: True)
    chunks = [by_column(parse_text(text.lines, settings)) for text in texts]
    assert sum(chunk.counts.rows for chunk in chunks) == 109_711
    names = [f"c{i}" for i in range(40)]
    types = {name: pa.int64() if i < 14 else pa.string() for i, name in enumerate(names)}
    table = csv.read_csv(
        str(SAMPLE),
        read_options=csv.ReadOptions(column_names=names),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=csv.ConvertOptions(column_types=types),
    )
    np.testing.assert_array_equal(np.concatenate([chunk.labels_M for chunk in chunks]), table["c0"].to_numpy())
    for i in range(13):
        integers = table[f"c{1 + i}"].fill_null(0).to_numpy()
        expected = np.log(np.maximum(integers, -2.0) + 3.0).astype(np.float32)
        np.testing.assert_array_equal(np.concatenate([chunk.dense_MN[:, i] for chunk in chunks]), expected)
        assert sum(chunk.counts.missing[f"int_{i}"] for chunk in chunks) == table[f"c{1 + i}"].null_count
    for i in range(26):
        expected = [int(text, 16) if text else 0 for text in table[f"c{14 + i}"].to_pylist()]
        np.testing.assert_array_equal(np.concatenate([chunk.categories_FM[i] for chunk in chunks]), expected)
        assert sum(chunk.counts.missing[f"cat_{i}"] for chunk in chunks) == expected.count(0)


def test_a_digit_is_known_at_each_of_eight_places_and_no_other_byte_is():
    for place in range(8):
        for byte in sorted(set(range(256)) - set(b"\t\n\r")):
            category = b"0123aBcF"[:place] + bytes([byte]) + b"9876dEf0"[place + 1 :]
            text = b"1\t2\t3\t" + category + b"\t1\t2"
            if byte in b"0123456789abcdefABCDEF":
                assert parse(text, GOOD).categories_FM[0, 0] == int(category, 16)
            else:
                assert "cat_0" in str(error_of(text, GOOD)), category


@pytest.mark.parametrize("num_sparse", [1, 30, 31, 32, 63, 80])
def test_what_is_missing_is_known_of_any_number_of_columns(num_sparse):
    draw = random.Random(num_sparse)
    rows = [[draw.choice(["", "0", "f00d"]) for _ in range(num_sparse)] for _ in range(50)]
    text = b"".join(b"%d\t7\t%s\n" % (i % 2, "\t".join(row).encode()) for i, row in enumerate(rows))
    settings = PreprocessConfig(input=("raw",), output="packed", num_dense=1, num_sparse=num_sparse)
    chunk = by_column(parse_text(text, settings))
    assert chunk.missing_FM.T.tolist() == [[not field for field in row] for row in rows]
    assert chunk.categories_FM.T.tolist() == [[int(field or "0", 16) for field in row] for row in rows]
    assert chunk.labels_M.tolist() == [i % 2 for i in range(50)]
    missing = [chunk.counts.missing[f"cat_{f}"] for f in range(num_sparse)]
    assert missing == [sum(not row[f] for row in rows) for f in range(num_sparse)]
