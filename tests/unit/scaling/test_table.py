"""Medians and spreads of a table, and its columns."""

import numpy as np
import pytest

from dlrm.jobs.table import as_arrow
from dlrm.scaling.experiments.results import columns_of
from dlrm.scaling.table import Row, Spread, spreads


def row(value, *, point="a", repeat=0, source="measured", rank=None, status="done", low=None, high=None):
    return Row(
        "e",
        point,
        repeat,
        status,
        "",
        1,
        2,
        8,
        source,
        "step_ms" if value is not None else "",
        "",
        rank,
        value,
        low,
        high,
    )


def test_a_spread_is_over_the_repeats_that_have_a_figure():
    values = [5.0, 3.0, 4.0, 9.0]
    rows = [row(value, repeat=number) for number, value in enumerate(values)]
    rows += [row(None, repeat=4, status="failed"), row(1.0, point="b"), row(7.0, rank=1)]
    found = spreads(rows)
    assert found["a", "measured", "step_ms", "", None] == Spread(np.median(values), min(values), max(values))
    assert found["b", "measured", "step_ms", "", None] == Spread(1.0, 1.0, 1.0)
    assert found["a", "measured", "step_ms", "", 1].value == 7.0
    assert len(found) == 3


def test_a_prediction_keeps_its_band():
    (found,) = spreads([row(4.0, source="predicted", repeat=None, low=3.0, high=6.0)]).values()
    assert found == Spread(4.0, 3.0, 6.0)


@pytest.mark.parametrize(
    ("levels", "expected", "kind"),
    [
        ((1, 2), [1, 2, None], "int64"),
        ((1, 2.5), [1.0, 2.5, None], "double"),
        ((True, False), [True, False, None], "bool"),
        (("rows", "tables"), ["rows", "tables", None], "string"),
        ((16, "auto"), ["16", "auto", None], "string"),
        ((True, 2), ["true", "2", None], "string"),
    ],
)
def test_a_column_of_levels_has_one_type_and_is_empty_where_a_point_lacks_the_factor(levels, expected, kind):
    first, second = levels
    rows = [row(1.0, point="a"), row(1.0, point="b"), row(1.0, point="c")]
    table = as_arrow(Row, rows, columns_of(rows, {"a": {"f": first}, "b": {"f": second}, "c": {}}))
    assert table.column("f").to_pylist() == expected
    assert str(table.schema.field("f").type) == kind


def test_without_rows_the_columns_are_there():
    table = as_arrow(Row, [], columns_of([], {"a": {"f": 1}}))
    assert table.num_rows == 0
    assert table.column_names[:3] == ["experiment", "point", "repeat"]
    assert table.column_names[-1] == "f"
