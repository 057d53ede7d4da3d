"""DIN against hand-written float64, and what it refuses."""

import copy
from dataclasses import replace

import pytest
import torch

from dlrm.config import load_config
from dlrm.data.batch import make_batch
from dlrm.errors import ConfigError
from dlrm.lookups.plan import with_table_rows
from dlrm.lookups.shared import growing_tables
from dlrm.models.activations import activations
from dlrm.models.build import build_model
from dlrm.models.task import TrainTask
from dlrm.schema import Schema
from tests.support.histories import SCHEMA, HistorySource

DIM = 8


def model_config(*options):
    return load_config(None, ["model.kind=din", f"model.embedding_dim={DIM}", "model.top_mlp=12,1", *options]).model


def batch_of(samples, size=None):
    return make_batch(
        HistorySource(samples).read(torch.arange(samples)),
        SCHEMA,
        size=size or samples,
        global_samples=samples,
        world_size=1,
    )


def mlp_by_hand(linears, x):
    for number, linear in enumerate(linears):
        x = linear.weight.double() @ x + linear.bias.double()
        x = x.clamp(min=0) if number + 1 < len(linears) else x
    return x


def logits_by_hand(model, samples):
    """Figure 2 of arXiv:1706.06978, one sample after the other."""
    rows = {name: weight.detach().double() for name, weight in model.table_weights.items()}
    of = {"item": "item", "shop": "shop", "clicked": "item", "bought": "item", "visited": "shop"}
    logits = []
    for dense_N, ids_S, lengths_F in zip(samples.dense_BN, samples.ids_BS, samples.lengths_BF, strict=True):
        bags, at = {}, 0
        for feature, length in zip(SCHEMA.sparse, lengths_F.tolist(), strict=True):
            bags[feature.name] = rows[of.get(feature.name, feature.name)][ids_S[at : at + length]]
            at += feature.hotness
        vectors = [bags["item"][0], bags["shop"][0]]
        for unit, name in zip(model.attention.units, ("clicked", "bought", "visited"), strict=True):
            candidate, total = bags[of[name]][0], torch.zeros(DIM, dtype=torch.float64)
            for row in bags[name]:
                pair = torch.cat((row, candidate, candidate - row, candidate * row))
                total = total + mlp_by_hand(unit.weigh.linears, pair) * row
            vectors.append(total)
        vectors += [bags["user"].sum(0), bags["tags"].sum(0), dense_N.double()]
        logits.append(mlp_by_hand(model.top_mlp.linears, torch.cat(vectors)))
    return torch.stack(logits)


def test_logits_are_those_of_a_computation_by_hand_in_float64():
    model = build_model(model_config("model.attention.hidden=6,5"), SCHEMA, seed=3, tables_device="cpu")
    samples = HistorySource(40).read(torch.arange(40))
    assert (samples.lengths_BF[:, 4:] == 0).any()  # some histories are empty
    batch = batch_of(40, size=44)  # four of padding
    torch.testing.assert_close(
        model(batch.dense, batch.sparse)[:40].double(), logits_by_hand(model, samples), rtol=1e-5, atol=1e-6
    )


def test_a_history_has_the_rows_of_its_candidate_s_table_and_both_learn():
    model = build_model(model_config(), SCHEMA, seed=0, tables_device="cpu")
    tables = {table.name: (table.lookups, table.pooled) for table in model.lookups.tables}
    assert tables == {
        "user": (("user",), True),
        "item": (("item", "clicked", "bought"), False),
        "shop": (("shop", "visited"), False),
        "tags": (("tags",), True),
    }
    assert set(model.table_weights) == {"user", "item", "shop", "tags"}
    batch = batch_of(40)
    model(batch.dense, batch.sparse).square().sum().backward()
    touched = set(batch.sparse["item"].values().tolist())
    touched |= {id_ for name in ("clicked", "bought") for id_ in batch.sparse[name].values().tolist()}
    changed = model.table_weights["item"].grad.any(1).nonzero().flatten().tolist()
    assert set(changed) == touched


def test_a_model_that_sums_histories_has_a_table_for_each():
    config = load_config(None, ["model.kind=deepfm", f"model.embedding_dim={DIM}", "model.deep_mlp=4"]).model
    model = build_model(config, SCHEMA, seed=0, tables_device="cpu")
    assert model.sequence_tables is None
    assert list(model.table_weights) == [feature.name for feature in SCHEMA.sparse]


def test_candidate_and_history_are_hashed_to_the_same_rows():
    config = model_config("model.tables={item: {embedding: {kind: hashed, rows: 7}}}")
    model = build_model(config, SCHEMA, seed=0, tables_device="cpu")
    assert len(model.table_weights["item"]) == 7
    rules = {lookup.name: lookup.rule for lookup in model.lookups.lookups}
    assert rules["item"] == rules["clicked"] == rules["bought"] != rules["visited"]


def test_rows_of_a_width_that_is_padded_are_looked_up_without_the_padding():
    config = model_config("model.embedding_dim=6", "model.attention.hidden=6,5")
    model = build_model(config, SCHEMA, seed=3, tables_device="cpu")
    assert model.table_weights["item"].shape == (30, 8)
    batch = batch_of(40)
    logits = model(batch.dense, batch.sparse)
    for weight in model.table_weights.values():
        weight.data[:, 6:] = torch.nan  # nothing looks at it
    assert torch.equal(model(batch.dense, batch.sparse), logits)


def test_frozen_candidates_have_gradients_of_zeros_and_others_their_own():
    model = build_model(model_config(), SCHEMA, seed=0, tables_device="cpu")
    model.freeze(["item", "attention"])
    batch = batch_of(40)
    model(batch.dense, batch.sparse).square().sum().backward()
    moved = {name for name, weight in model.table_weights.items() if weight.grad.any()}
    assert moved == {"user", "shop", "tags"}
    assert {parameter.requires_grad for parameter in model.attention.parameters()} == {False}


@pytest.mark.parametrize("heads", ["{kind: mmoe, experts: 2}", "{kind: ple, levels: 1}", "{tower: [4]}"])
def test_several_tasks_have_heads_of_every_kind(heads):
    schema = replace(SCHEMA, tasks=("click", "like"))
    model = build_model(model_config(f"model.heads={heads}"), schema, seed=0, tables_device="cpu")
    batch = batch_of(40)
    assert model(batch.dense, batch.sparse).shape == (40, 2)
    assert model.groups == ["attention", "top_mlp", "heads"]


def test_groups_are_those_outside_of_tables():
    assert build_model(model_config(), SCHEMA, seed=0).groups == ["attention", "top_mlp"]
    assert build_model(model_config("model.attention.kind=sum"), SCHEMA, seed=0).groups == ["top_mlp"]


def test_the_memory_of_a_step_is_found_without_memory_and_grows_with_histories():
    task = TrainTask(build_model(model_config(), SCHEMA, seed=0))
    longer = copy.deepcopy(SCHEMA)
    longer = Schema(longer.dense, tuple(_longer(feature) for feature in longer.sparse))
    found, more = (activations(task, schema, 100, torch.device("cpu")) for schema in (SCHEMA, longer))
    assert (found.unknown, more.unknown) == ("", "")
    assert more.peak > 1.5 * found.peak


def _longer(feature):
    return replace(feature, hotness=feature.hotness * (3 if feature.history_of else 1))


def with_item(**facts):
    return replace(SCHEMA, sparse=tuple(replace(f, **facts) if f.name == "item" else f for f in SCHEMA.sparse))


@pytest.mark.parametrize(
    ("options", "schema", "said"),
    [
        ([], Schema.numbered(2, (5, 6)), "model.kind: is din, which needs a history"),
        (["model.tables={shop: {embedding_dim: 4}}"], SCHEMA, "model.tables.shop.embedding_dim: is 4"),
        (
            ["model.tables={clicked: {pooling: mean}}"],
            SCHEMA,
            "model.tables.clicked.pooling: clicked is looked up row by",
        ),
        (["model.tables={clicked: {embedding_dim: 8}}"], SCHEMA, "model.tables.clicked: its table is item, which it"),
        (
            ["model.shared_tables={all: [item, tags]}"],
            SCHEMA,
            "model.shared_tables.all: item and its histories share a",
        ),
        (["model.shared_tables={all: [user, clicked]}"], SCHEMA, "model.shared_tables.all: clicked and item share a"),
        (
            ["model.embedding={kind: hashed, rows: 9, functions: 2}"],
            SCHEMA,
            "model.embedding: is hashed, and table item",
        ),
        (
            ["model.embedding={kind: mixed_dim, temperature: 0.9}"],
            SCHEMA,
            "model.embedding: is mixed_dim, and table item",
        ),
        (
            [
                "model.tables={item: {embedding: {kind: quotient_remainder, ids_per_row: 6, operation: add, min_rows: 1}}}"
            ],
            SCHEMA,
            "model.tables.item.embedding: is quotient_remainder, and table item is looked up row by row",
        ),
        (
            ["model.tables={item: {embedding: {kind: growing, rows: 20}}}"],
            SCHEMA,
            "model.tables.item.embedding: is growing, and table item is looked up row by row",
        ),
        (
            ["model.embedding={kind: growing, rows: 20}"],
            SCHEMA,
            "model.embedding: is growing, and table shop is looked up",
        ),
        ([], with_item(weights="price"), "data.id_weights.item: gives item weights"),
        (
            [],
            replace(SCHEMA, sparse=SCHEMA.sparse[1:3] + SCHEMA.sparse[4:]),
            "data: has candidates and histories alone",
        ),
    ],
)
def test_what_it_cannot_be_built_of_is_refused_by_its_option(options, schema, said):
    with pytest.raises(ConfigError) as refused:
        build_model(model_config(*options), schema, seed=0)
    assert said in str(refused.value)


def test_tables_that_are_summed_grow_beside_those_whose_rows_are_looked_up_one_by_one():
    full = "{embedding: {kind: full}}"
    config = model_config("model.embedding={kind: growing, rows: 20}", f"model.tables={{item: {full}, shop: {full}}}")
    assert list(growing_tables(config, SCHEMA)) == ["user", "tags"]
    schema = with_table_rows(config, SCHEMA)
    assert [feature.rows for feature in schema.sparse] == [20, 30, 3, 20, 30, 30, 3]
    rows = {table.name: (table.rows, table.pooled) for table in build_model(config, schema, seed=0).lookups.tables}
    assert rows == {"user": (20, True), "item": (30, False), "shop": (3, False), "tags": (20, True)}
