"""What a configuration has looked up, against the definitions."""

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dlrm.config.model import CatInteraction, DlrmModel
from dlrm.errors import ConfigError
from dlrm.lookups.jagged import RowsLookedUp
from dlrm.lookups.plan import lookups_of
from dlrm.schema import Schema


def model(dim=8, **options):
    return DlrmModel(embedding_dim=dim, bottom_mlp=(dim,), interaction=CatInteraction(), **options)


def rows_of(config, ids, rows=(1000,), hotness=None):
    """The rows of each lookup, by name, of one-hot or ragged ids of each feature."""
    schema = Schema.numbered(0, rows, hotness)
    lookups = lookups_of(config, schema)
    values = torch.tensor([one for of_feature in ids for bag in of_feature for one in bag])
    lengths = torch.tensor([len(bag) for of_feature in ids for bag in of_feature], dtype=torch.int32)
    keys = [feature.name for feature in schema.sparse]
    found = RowsLookedUp(lookups)(KeyedJaggedTensor(keys=keys, values=values, lengths=lengths))
    return {lookup.name: found[lookup.name].to_dense() for lookup in lookups.lookups}, lookups


def test_quotients_and_remainders_are_exact_beyond_the_numbers_of_float64():
    rows, ids = 2**40 - 87, [2**40 - 88, 2**40 - 89, 2**33 + 1, 0]
    kind = {"kind": "quotient_remainder", "ids_per_row": 2**20, "operation": "add"}
    found, lookups = rows_of(model(embedding=kind), [[[one] for one in ids]], (rows,))
    size = -(-rows // 2**20)
    assert [int(row) for row in found["cat_0_quotient"]] == [one // size for one in ids]
    assert [int(row) for row in found["cat_0_remainder"]] == [one % size for one in ids]
    pairs = set(zip(map(int, found["cat_0_quotient"]), map(int, found["cat_0_remainder"]), strict=True))
    assert len(pairs) == len(ids)
    assert [(table.rows, table.dim) for table in lookups.tables] == [(-(-rows // size), 8), (size, 8)]


def test_every_pair_of_quotient_and_remainder_belongs_to_one_id():
    found, lookups = rows_of(model(embedding={"kind": "quotient_remainder"}), [[[one] for one in range(1000)]])
    quotient, remainder = (torch.cat(found[f"cat_0_{part}"]) for part in ("quotient", "remainder"))
    assert len(set(zip(quotient.tolist(), remainder.tolist(), strict=True))) == 1000
    for name, rows in (("quotient", quotient), ("remainder", remainder)):
        (table,) = (table for table in lookups.tables if table.name == f"cat_0_{name}")
        assert (int(rows.min()), int(rows.max())) == (0, table.rows - 1)


def test_hashes_spread_ids_evenly_and_differ_between_functions():
    kind = {"kind": "hashed", "rows": 50, "functions": 2}
    found, lookups = rows_of(model(embedding=kind), [[[one] for one in range(1000)]])
    pairs_N2 = torch.stack(found["cat_0"])
    counts = pairs_N2.flatten().bincount(minlength=50)
    assert counts.min() > 15
    assert counts.max() < 75  # 40 in the mean
    assert len({tuple(pair) for pair in pairs_N2.tolist()}) > 750  # of 1000 ids and 2500 pairs
    assert lookups.schema.sparse[0].hotness == 2
    modulo, _ = rows_of(model(embedding={"kind": "hashed", "rows": 50, "hash": "modulo"}), [[[49], [50], [999]]])
    assert torch.cat(modulo["cat_0"]).tolist() == [49, 0, 49]


def test_frequent_ids_keep_their_rows_and_others_share_the_tail():
    kind = {"kind": "frequency_capped", "rows": 10, "tail_rows": 3}
    found, lookups = rows_of(model(embedding=kind), [[[one] for one in range(1000)]])
    rows = torch.cat(found["cat_0"])
    assert rows[:10].tolist() == list(range(10))
    assert set(rows[10:].tolist()) == {10, 11, 12}
    assert lookups.tables[0].rows == 13


@pytest.mark.parametrize("rows", [5, 50])
@pytest.mark.parametrize(
    "kind",
    [
        {"kind": "hashed", "rows": 50},
        {"kind": "quotient_remainder", "min_rows": 51},
        {"kind": "frequency_capped", "rows": 50},
        {"kind": "mixed_dim", "temperature": 0},
    ],
)
def test_small_tables_are_left_as_they_are(kind, rows):
    _, lookups = rows_of(model(embedding=kind), [[[0]]], (rows,))
    assert lookups.are_ids
    assert [(table.rows, table.dim) for table in lookups.tables] == [(rows, 8)]


def test_widths_follow_the_power_rule():
    rows = (10, 160, 1000, 10**6)
    for powers, expected in ((False, [16, 8, 5, 1]), (True, [16, 8, 4, 1])):
        kind = {"kind": "mixed_dim", "temperature": 0.25, "powers_of_two": powers}
        lookups = lookups_of(model(16, embedding=kind), Schema.numbered(0, rows))
        assert list(lookups.widths.values()) == expected  # 16 * (10 / rows)^0.25 = 16, 8, 5.06, 0.9
        assert all(field.dim == 16 for field in lookups.fields)


def test_features_share_a_table_of_the_rows_that_one_of_them_needs():
    config = model(shared_tables={"items": ["cat_0", "cat_2"]}, tables={"items": {"embedding_dim": 5}})
    lookups = lookups_of(config, Schema.numbered(0, (7, 20, 9)))
    assert [(t.name, t.rows, t.dim, t.lookups) for t in lookups.tables] == [
        ("items", 9, 5, ("cat_0", "cat_2")),
        ("cat_1", 20, 8, ("cat_1",)),
    ]
    assert [feature.table for feature in lookups.schema.sparse] == ["items", "cat_1", "items"]


def test_bags_have_a_row_for_each_id_and_function_and_weights_come_along():
    schema = Schema.numbered(0, (100, 300), (3, 1))
    kinds = {
        "cat_0": {"embedding": {"kind": "hashed", "rows": 9, "functions": 2}},
        "cat_1": {"embedding": {"kind": "quotient_remainder"}},
    }
    ids = KeyedJaggedTensor(
        keys=["cat_0", "cat_1"],
        values=torch.tensor([1, 2, 3, 299], dtype=torch.int32),
        lengths=torch.tensor([2, 1, 0, 1], dtype=torch.int32),
        weights=torch.tensor([0.5, 2.0, 3.0, 4.0]),
    )
    found = RowsLookedUp(lookups_of(model(tables=kinds), schema))(ids)
    assert found.lengths().tolist() == [4, 2, 0, 1, 0, 1]
    assert found.weights().tolist() == [0.5, 0.5, 2, 2, 3, 3, 4, 1]  # 4 * quotient times remainder
    assert found.values()[-2:].tolist() == [299 // 75, 299 % 75]
    assert found.values().dtype == torch.int32


REFUSED = {
    "model.embedding.operation: is mult, and cat_1 has up to 2 ids": {"embedding": {"kind": "quotient_remainder"}},
    "model.tables.cat_0.embedding.dim: is 9": {"tables": {"cat_0": {"embedding": {"kind": "mixed_dim", "dim": 9}}}},
    "model.shared_tables.s: cat_0 has table r": {"shared_tables": {"r": ["cat_0", "cat_1"], "s": ["cat_0", "cat_2"]}},
    "model.shared_tables.s: the data has no sparse feature cat_9": {"shared_tables": {"s": ["cat_0", "cat_9"]}},
    "model.shared_tables.cat_1: is a feature": {"shared_tables": {"cat_1": ["cat_0", "cat_2"]}},
    "model.tables.cat_0: its table is s": {
        "shared_tables": {"s": ["cat_0", "cat_2"]},
        "tables": {"cat_0": {"embedding_dim": 4}},
    },
    "model.tables.s.pooling": {"shared_tables": {"s": ["cat_0", "cat_2"]}, "tables": {"s": {"pooling": "mean"}}},
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_what_does_not_fit_is_one_line_with_the_option(message):
    with pytest.raises(ConfigError) as caught:
        lookups_of(model(**REFUSED[message]), Schema.numbered(0, (300, 300, 300), (1, 2, 1)))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_tables_that_would_have_the_name_of_another_are_refused():
    schema = Schema.numbered(0, (300, 300))
    renamed = (schema.sparse[0], type(schema.sparse[1])("cat_0_quotient", 300))
    with pytest.raises(ConfigError, match="second table cat_0_quotient"):
        lookups_of(model(tables={"cat_0": {"embedding": {"kind": "quotient_remainder"}}}), Schema((), renamed))
