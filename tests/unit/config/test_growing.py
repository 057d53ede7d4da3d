import pytest
from pydantic import ValidationError

from dlrm.config import load_config
from dlrm.config.model.growing import AdmitSeen, GrowingEmbedding
from dlrm.errors import ConfigError
from dlrm.lookups.plan import lookups_of, with_table_rows
from dlrm.lookups.shared import growing_tables
from dlrm.schema import Schema


@pytest.mark.parametrize(
    ("rows", "fallback_rows", "buckets", "ways", "shared"),
    [(1_000_000, 1, 7812, 128, 64), (300, 1, 2, 149, 2), (2, 1, 1, 1, 1), (100, 40, 1, 60, 40), (129, 1, 1, 128, 1)],
)
def test_buckets_take_all_rows_but_those_that_are_shared_and_what_is_left_over(
    rows, fallback_rows, buckets, ways, shared
):
    found = GrowingEmbedding(rows=rows, fallback_rows=fallback_rows)
    assert (found.buckets, found.ways, found.rows - found.own_rows) == (buckets, ways, shared)
    assert found.candidate_ways == 0
    with_candidates = GrowingEmbedding(rows=rows, fallback_rows=fallback_rows, admission=AdmitSeen())
    assert with_candidates.candidate_ways == ways


@pytest.mark.parametrize(("rows", "fallback_rows"), [(1, 1), (5, 5), (2**41, 1)])
def test_sizes_that_leave_no_row_or_are_too_large_are_refused(rows, fallback_rows):
    with pytest.raises(ValidationError):
        GrowingEmbedding(rows=rows, fallback_rows=fallback_rows)


def test_a_table_may_grow_where_the_others_do_not_and_the_other_way_round():
    growing, schema = "{kind: growing, rows: 50}", Schema.numbered(1, (10, 2**63 - 1, 30))
    one = load_config(None, [f"model.tables.cat_1.embedding={growing}"]).model
    assert [feature.rows for feature in with_table_rows(one, schema).sparse] == [10, 50, 30]
    assert [table.rows for table in lookups_of(one, with_table_rows(one, schema)).tables] == [10, 50, 30]
    rest = load_config(None, [f"model.embedding={growing}", "model.tables.cat_0.embedding.kind=full"]).model
    assert [feature.rows for feature in with_table_rows(rest, schema).sparse] == [10, 50, 50]


def test_ids_without_bounds_in_a_table_that_does_not_grow_are_refused_with_what_to_do():
    schema = Schema.numbered(1, (10, 2**63 - 1))
    with pytest.raises(ConfigError, match=r"cat_1.*model\.tables\.cat_1\.embedding: \{kind: growing"):
        lookups_of(load_config(None).model, schema)


@pytest.mark.parametrize("key", ["model.embedding", "model.tables.items.embedding"])
def test_a_table_of_several_features_does_not_grow(key):
    config = load_config(None, ["model.shared_tables={items: [cat_0, cat_1]}", f"{key}={{kind: growing, rows: 50}}"])
    with pytest.raises(ConfigError, match=r"model\.shared_tables\.items: is shared and would grow"):
        lookups_of(config.model, Schema.numbered(1, (10, 20, 30)))


def test_features_of_a_full_table_do_not_grow_where_the_rest_does():
    options = [
        "model.embedding={kind: growing, rows: 50}",
        "model.shared_tables={items: [cat_0, cat_1]}",
        "model.tables={items: {embedding: {kind: full}}}",
    ]
    schema, model = Schema.numbered(1, (10, 20, 2**63 - 1)), load_config(None, options).model
    assert list(growing_tables(model, schema)) == ["cat_2"]
    looked_up = with_table_rows(model, schema)
    assert [feature.rows for feature in looked_up.sparse] == [10, 20, 50]
    assert {table.name: table.rows for table in lookups_of(model, looked_up).tables} == {"items": 20, "cat_2": 50}
