import csv
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlrm.errors import DataError
from dlrm.scaling.report.points import points_of
from dlrm.scaling.report.read import of_rows, read_results
from tests.support.scaling_tables import Tables, weak


def small():
    tables = Tables(repeats=1)
    tables.point("a", 2, 64, factors={"sharding.kind": "x", "model.dim": 16, "train.rate": 0.5, "data.shuffled": True})
    tables.point("b", 4, 128, factors={"sharding.kind": "y"})
    tables.failed("c", 8, 256, 'no, it\nfailed, "here"', factors={"sharding.kind": "y"})
    return tables


def test_parquet_and_csv_and_rows_are_the_same_table(tmp_path):
    tables = small()
    parquet = read_results(tables.write(tmp_path / "results.parquet"))
    text = read_results(tables.write(tmp_path / "results.csv"))
    rows = of_rows(tables.rows, tables.factors)
    assert parquet.rows == text.rows == rows.rows == tables.rows
    assert parquet.factors == text.factors
    assert parquet.factors[tables.experiment, "a"] == {
        "sharding.kind": "x",
        "model.dim": "16",
        "train.rate": "0.5",
        "data.shuffled": "true",
    }
    assert points_of(parquet) == points_of(text) == points_of(rows)


def test_a_folder_is_its_table(tmp_path):
    small().write(tmp_path / "results.csv")
    assert read_results(tmp_path).path == tmp_path / "results.csv"
    small().write(tmp_path / "results.parquet")
    assert read_results(tmp_path).path == tmp_path / "results.parquet"


def test_figures_that_are_no_numbers_count_as_none(tmp_path):
    tables = small()
    path = tables.write(tmp_path / "results.parquet")
    table = pq.read_table(path)
    at = table.column_names.index("value")
    bad = [float("nan"), float("inf"), *table["value"].to_pylist()[2:]]
    pq.write_table(table.set_column(at, "value", pa.array(bad)), path)
    found = read_results(path).rows
    assert [row.value for row in found[:2]] == [None, None]
    assert found[2:] == tables.rows[2:]


def changed(tables, **changes):
    """The table's columns with other values."""
    columns = tables._columns()
    for name, value in changes.items():
        if value is None:
            del columns[name]
        else:
            columns[name] = [value, *columns[name][1:]]
    return columns


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"value": None}, "results.csv: lacks the column value; "),
        ({"point": None, "repeat": None}, "results.csv: lacks the columns point, repeat; "),
        ({"value": "fast"}, "results.csv, column value: holds string, not double"),
        ({"source": "guessed"}, "results.csv, row 1, column source: is 'guessed', must be one of measured, predicted,"),
    ],
)
def test_a_table_of_something_else_is_one_line(tmp_path, changes, problem):
    columns = changed(small(), **changes)
    with (tmp_path / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    with pytest.raises(DataError) as caught:
        read_results(tmp_path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("results.parquet", b"", "is no table that can be read"),
        ("results.parquet", b"PAR1 and then nothing", "is no table that can be read"),
        ("results.csv", b"", "is no table that can be read"),
        ("results.csv", b"\xff\xfe\x00\x01", "is no table that can be read"),
        ("results.csv", b"a,b\n1,2\n", "lacks the columns experiment, point"),
        ("results.csv", b"a,b\n1,2,3\n", "is no table that can be read"),
        ("notes.txt", b"nothing to see", "is no table that can be read"),
        (None, b"", "does not exist"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path, name, content, problem):
    path = tmp_path / (name or "results.parquet")
    if name:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_results(path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_without_rows_and_a_folder_without_a_table_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"holds no results\.parquet and no results\.csv"):
        read_results(tmp_path)
    path = small().write(tmp_path / "results.parquet")
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match="has no rows"):
        read_results(path)


def test_a_report_needs_no_torch(tmp_path):
    weak(most_ranks=2).write(tmp_path / "results.parquet")
    program = (
        "import sys; from dlrm.command.arguments import parse; from dlrm.config.scaling_report import ReportConfig;"
        f"from dlrm.scaling.report.job import run_report; run_report(parse(['report', {str(tmp_path)!r}]).config());"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "report.html").exists()
