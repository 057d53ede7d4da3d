import pickle
import random

import numpy as np
import pytest

from dlrm.data.raw import tsv_file
from dlrm.data.raw.layout import Layout
from dlrm.data.raw.raw_rows import MISSING_CATEGORY, MISSING_INTEGER
from dlrm.data.raw.tsv_parse import parse_lines, read_tsv
from dlrm.errors import DataError
from tests.unit.data.raw.tsv_files import CATEGORIES, INTEGERS, LAYOUT, first_problem, line, write

IDS = Layout(num_dense=2, num_sparse=3, id_rows=(10, 20, 3_000_000_000))
GOOD = line()


def raised(folder, *lines, layout=LAYOUT, end=b"\n") -> DataError:
    """The error of a file with these lines; it is one line and names the file."""
    path = write(folder, *lines, end=end)
    with pytest.raises(DataError) as caught:
        read_tsv([path], layout)
    assert str(caught.value).startswith(f"{path}, row {caught.value.row}")
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def random_line(rng: random.Random) -> bytes:
    def integer():
        if rng.random() < 0.3:
            return ""
        number = str(rng.randrange(-(10 ** rng.randrange(19)), 10 ** rng.randrange(1, 19)))
        return number + rng.choice(["", "", ".0", ".000"])

    def category():
        text = "" if rng.random() < 0.3 else f"{rng.randrange(2 ** rng.randrange(1, 33)):0{rng.randrange(1, 9)}x}"
        return rng.choice([text, text.upper()])

    return line(rng.choice(["0", "1", "0.0", "1.0"]), (integer(), integer()), (category(), category(), category()))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("block_bytes", [50, 1 << 20])
def test_values_agree_with_plain_python(tmp_path, monkeypatch, end, block_bytes):
    monkeypatch.setattr(tsv_file, "BLOCK_BYTES", block_bytes)
    rng = random.Random(0)
    lines = [random_line(rng) for _ in range(300)]
    rows = read_tsv([write(tmp_path, *lines, end=end)], LAYOUT)
    split = [text.decode().split("\t") for text in lines]
    assert rows.labels_M.tolist() == [int(fields[0][0]) for fields in split]
    assert rows.integers_NM.T.tolist() == [
        [int(x.partition(".")[0]) if x else MISSING_INTEGER for x in f[INTEGERS]] for f in split
    ]
    assert rows.categories_FM.T.tolist() == [
        [int(x, 16) if x else MISSING_CATEGORY for x in f[CATEGORIES]] for f in split
    ]


def test_decimal_ids_are_read_as_they_are(tmp_path):
    path = write(tmp_path, line(categories=("0", "19", "2999999999")), line(categories=("9.0", "007", "0.00")))
    assert read_tsv([path], IDS).categories_FM.tolist() == [[0, 9], [19, 7], [2999999999, 0]]


def test_several_files_are_one_sequence(tmp_path):
    paths = [write(tmp_path, line(integers=(str(i), "0")), GOOD, name=f"day_{i}") for i in (3, 1, 2)]
    assert read_tsv(paths, LAYOUT).integers_NM[0].tolist() == [3, 1, 1, 1, 2, 1]


def test_a_last_row_without_newline_counts(tmp_path):
    path = tmp_path / "day.tsv"
    path.write_bytes(GOOD + b"\n" + GOOD)
    assert len(read_tsv([str(path)], LAYOUT)) == 2


BAD_FIELDS = [
    ("label", line(label="2"), "is '2', must be 0 or 1"),
    ("label", line(label=""), "is '', must be 0 or 1"),
    ("label", line(label="0.5"), "is '0.5', must be 0 or 1"),
    ("label", line(label="2.0"), "is '2.0', must be 0 or 1"),
    ("label", line(label=" 1"), "is ' 1', must be 0 or 1"),
    ("label", line(label='"1"'), "is '\"1\"', must be 0 or 1"),
    ("int_0", line(integers=("1.5", "2")), "is '1.5', not an integer"),
    ("int_0", line(integers=("+5", "2")), "is '+5', not an integer"),
    ("int_0", line(integers=("1e3", "2")), "is '1e3', not an integer"),
    ("int_0", line(integers=("5.", "2")), "is '5.', not an integer"),
    ("int_0", line(integers=(".0", "2")), "is '.0', not an integer"),
    ("int_1", line(integers=("5", "-.0")), "is '-.0', not an integer"),
    ("int_1", line(integers=("5", "2.0.0")), "is '2.0.0', not an integer"),
    ("int_1", line(integers=("5", "2." + 19 * "0")), "is '2.0000000000000000000', not an integer"),
    ("int_1", line(integers=("1", "-")), "is '-', not an integer"),
    ("int_1", line(integers=("1", "--1")), "is '--1', not an integer"),
    ("int_1", line(integers=("1", "0x1f")), "is '0x1f', not an integer"),
    ("int_0", line(integers=("nan", "2")), "is 'nan', which is not finite"),
    ("int_1", line(integers=("1", "-Inf")), "is '-Inf', which is not finite"),
    ("int_1", line(integers=("", "infinity")), "is 'infinity', which is not finite"),
    ("int_0", line(integers=("9" * 19, "2")), f"is '{'9' * 19}', out of range: not a finite integer"),
    ("int_0", line(integers=("-" + "9" * 400, "2")), f"is '-{'9' * 35}...', out of range: not a finite integer"),
    ("cat_0", line(categories=("xyz", "b", "c")), "is 'xyz', not a category of 1 to 8 hexadecimal digits"),
    ("cat_0", line(categories=("68.0", "b", "c")), "is '68.0', not a category of 1 to 8 hexadecimal digits"),
    ("cat_1", line(categories=("a", "-1", "c")), "is '-1', not a category of 1 to 8 hexadecimal digits"),
    ("cat_2", line(categories=("a", "b", "68fd1e640")), "is '68fd1e640', longer than 8 hexadecimal digits (32 bits)"),
    ("cat_2", line(categories=("a", "b", "c ")), "is 'c ', not a category of 1 to 8 hexadecimal digits"),
    ("cat_0", line(categories=("a\0b", "b", "c")), "is 'a\\x00b', not a category"),
    ("cat_1", GOOD.replace(b"b", b"\xff\xfe"), "is '\\xff\\xfe', not a category"),
    ("cat_1", GOOD.replace(b"b", "é".encode()), "is 'é', not a category"),
    ("cat_1", GOOD.replace(b"b", "\u2028".encode()), "is '\\u2028', not a category"),
    ("cat_1", GOOD.replace(b"b", b"\r"), "is '\\r', not a category"),
]


@pytest.mark.parametrize(("column", "bad", "words"), BAD_FIELDS, ids=[f"{c}-{w[:24]}" for c, _, w in BAD_FIELDS])
def test_a_malformed_field_is_named_with_row_column_and_value(tmp_path, column, bad, words):
    error = raised(tmp_path, GOOD, GOOD, bad, GOOD)
    assert (error.row, error.column) == (3, column)
    assert f"row 3, column {column}: {words}" in str(error)
    assert error.hint


@pytest.mark.parametrize(
    ("column", "categories", "words"),
    [
        ("cat_0", ("10", "0", "0"), "is '10', outside of its table's ids 0 .. 9"),
        ("cat_1", ("9", "-1", "0"), "is '-1', outside of its table's ids 0 .. 19"),
        ("cat_2", ("9", "19", "3000000000"), "is '3000000000', outside of its table's ids 0 .. 2999999999"),
        ("cat_2", ("9", "19", "9" * 30), f"is '{'9' * 30}', outside of its table's ids"),
        ("cat_1", ("9", "a", "0"), "is 'a', not a decimal id (0 .. 19)"),
        ("cat_0", ("", "0", "0"), "is '', but every id must be given (0 .. 9)"),
    ],
)
def test_an_id_that_its_table_does_not_have_is_named(tmp_path, column, categories, words):
    error = raised(tmp_path, line(categories=("0", "1", "2")), line(categories=categories), layout=IDS)
    assert f"row 2, column {column}: {words}" in str(error)


def test_a_row_with_too_few_columns_is_named(tmp_path):
    wide = Layout(num_dense=13, num_sparse=26)
    good = b"\t".join([b"1"] + [b""] * 39)
    error = raised(tmp_path, good, good.removesuffix(b"\t"), good, layout=wide)
    assert (error.row, error.column) == (2, None)
    assert "row has 39 columns, expected 40 (label, int_0 .. int_12, cat_0 .. cat_25); it starts with '1\\t" in str(
        error
    )


def test_a_row_with_too_many_columns_is_named(tmp_path):
    assert "row 2: row has 7 columns, expected 6" in str(raised(tmp_path, GOOD, GOOD + b"\t"))


@pytest.mark.parametrize(
    ("lines", "row"), [([b""], 1), ([b"", b""], 1), ([GOOD, b"", GOOD], 2), ([GOOD, GOOD, b""], 3), ([GOOD, b"  "], 2)]
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_a_blank_row_is_named(tmp_path, lines, row, end):
    error = raised(tmp_path, *lines, end=end)
    assert (error.row, error.problem) == (row, "the row is blank")


WIDE = Layout(num_dense=13, num_sparse=26)
NAMES = ["label", *(f"I{i}" for i in range(13)), *(f"C{i}" for i in range(26))]
VALUES = ["0", *["1"] * 13, *["0a1b"] * 26]
COMMAS = "fields are separated by commas (40 of them), not by tabs: convert the file"


@pytest.mark.parametrize(
    ("first", "hint"),
    [
        (",".join(VALUES), COMMAS),
        (",".join(NAMES), COMMAS + ", and leave out the header in its first line"),
        (";".join(VALUES), COMMAS.replace("commas", "semicolons")),
        ("|".join(VALUES), COMMAS.replace("commas", "bars")),
        (" ".join(VALUES), COMMAS.replace("commas", "spaces")),
        ("\x01".join(VALUES), COMMAS.replace("commas", r"Hive's \x01")),
        (
            ",".join(VALUES[:5]),
            COMMAS.replace("40", "5") + " (data.num_dense and data.num_sparse say how many there are)",
        ),
        ("click:0 price:0.5 1:17 2:4", 'the fields are slots "name:value" (4 of them): write the values as columns'),
        ("1 3:0.5 7:1", 'the fields are slots "name:value" (2 of them)'),  # LIBSVM
        ("\t".join(["label:0", *["x:1"] * 39]), 'the fields are slots "name:value" (40 of them)'),
        ('{"label": 0, "price": 0.5}', "rows are JSON objects"),
        ("\t".join(VALUES) + "\r" + "\t".join(VALUES), "rows end with a carriage return alone"),
        ("\t".join(VALUES[1:]), "is the label missing? Rows without labels"),
        ("yes\t" + "\t".join(VALUES[1:]), "mend or remove the row"),
    ],
)
def test_another_kind_of_file_is_called_what_it_is(tmp_path, first, hint):
    error = raised(tmp_path, first.encode(), "\t".join(VALUES).encode(), layout=WIDE)
    assert error.row == 1
    assert error.hint.startswith(hint)
    assert "header" in hint or "header" not in error.hint


@pytest.mark.parametrize("kept", [39, 38, 14, 2])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("row", [1, 2])
def test_a_row_whose_end_was_cut_off_is_not_taken_for_one_without_label(tmp_path, kept, end, row):
    good, cut = ("\t".join(VALUES[:count]).encode() for count in (40, kept))
    error = raised(tmp_path, *[good] * (row - 1), cut, good, layout=WIDE, end=end)
    assert (error.row, error.column) == (row, None)
    assert f"row has {kept} columns, expected 40" in error.problem
    assert error.hint.startswith("was its end cut off, as by a program that strips tabs? Give all 39 tabs")


def test_utf_16_without_a_mark_is_called_so(tmp_path):
    path = tmp_path / "day.tsv"
    path.write_bytes((GOOD + b"\n").decode().encode("utf-16-le"))
    with pytest.raises(DataError) as caught:
        read_tsv([str(path)], LAYOUT)
    assert caught.value.hint == "the file is UTF-16: save it as plain ASCII or UTF-8"


@pytest.mark.parametrize("header", [line("label", ("i1", "i2"), ("c1", "c2", "c3")), b"id\tlabel\ti1\ti2\tc1\tc2\tc3"])
def test_a_header_is_explained(tmp_path, header):
    error = raised(tmp_path, header, GOOD)
    assert error.row == 1
    assert error.hint == "the file must have no header: remove its first line"


def test_a_label_column_called_label_is_shown(tmp_path):
    error = raised(tmp_path, line(label="label"), GOOD)
    assert "row 1, column label: is 'label', must be 0 or 1; the file must have no header" in str(error)


def test_a_file_without_labels_is_explained(tmp_path):
    assert "label missing?" in raised(tmp_path, GOOD.partition(b"\t")[2]).hint


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_explained(tmp_path, encoding):
    path = tmp_path / "day.tsv"
    path.write_bytes(GOOD.decode().encode(encoding) + b"\n")
    with pytest.raises(DataError) as caught:
        read_tsv([str(path)], LAYOUT)
    assert (caught.value.row, caught.value.column) == (1, "label")
    assert "byte order mark" in caught.value.hint


@pytest.mark.parametrize("seed", range(5))
def test_binary_junk_is_an_error_of_one_line(tmp_path, seed):
    path = tmp_path / "junk"
    path.write_bytes(b"\x01" + random.Random(seed).randbytes(100_000))
    with pytest.raises(DataError) as caught:
        read_tsv([str(path)], LAYOUT)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()


def test_of_several_problems_the_first_row_and_in_it_the_first_column_is_reported(tmp_path):
    two_bad = line(integers=("1", "x"), categories=("a", "zz", "c"))
    error = raised(tmp_path, GOOD, two_bad, line(label="7"), b"short")
    assert (error.row, error.column) == (2, "int_1")
    error = raised(tmp_path, GOOD, b"short", two_bad)
    assert (error.row, error.column) == (2, None)


def test_the_row_is_that_of_its_own_file(tmp_path):
    first = write(tmp_path, GOOD, GOOD, name="day_0")
    second = write(tmp_path, GOOD, line(label="9"), name="day_1")
    with pytest.raises(DataError, match="day_1, row 2, column label"):
        read_tsv([first, second], LAYOUT)


def test_errors_survive_the_journey_to_another_rank(tmp_path):
    error = raised(tmp_path, GOOD, line(label="9"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def problem_and_rows(path) -> tuple[tuple[int | None, str | None] | None, int]:
    try:
        return None, len(read_tsv([str(path)], LAYOUT))
    except DataError as error:
        return (error.row, error.column), 0


@pytest.mark.parametrize("block_bytes", [32, 1 << 20])
def test_any_damage_is_found_where_regular_expressions_find_it(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(tsv_file, "BLOCK_BYTES", block_bytes)
    rng = random.Random(1)
    path = tmp_path / "day.tsv"
    found = 0
    for _ in range(400):
        data = bytearray(b"".join(random_line(rng) + b"\n" for _ in range(rng.randrange(1, 8))))
        for _ in range(rng.randrange(3)):
            position = rng.randrange(len(data))
            data[position : position + rng.randrange(2)] = rng.choice(
                [b"\t", b"\n", b"-", b"9", b"g", b"\r", b"\0", b"", b"\xff", b".", b".0"]
            )
        path.write_bytes(data)
        problem, rows = problem_and_rows(path)
        assert problem == first_problem(bytes(data))
        assert problem is not None or rows == data.removesuffix(b"\n").count(b"\n") + 1
        found += problem is not None
    assert 100 < found < 390  # both outcomes were seen


def test_parsed_arrays_have_the_documented_types():
    rows = parse_lines(GOOD + b"\n", LAYOUT, path="day", first_row=1)
    assert (rows.labels_M.dtype, rows.labels_M.shape) == (np.uint8, (1,))
    assert (rows.integers_NM.dtype, rows.integers_NM.shape) == (np.int64, (2, 1))
    assert (rows.categories_FM.dtype, rows.categories_FM.shape) == (np.int64, (3, 1))
