from dataclasses import replace

import pytest

from dlrm.data.in_memory import InMemorySource
from dlrm.lookups.plan import lookups_of, with_table_rows
from dlrm.memory import ID_MAPS
from dlrm.optim.tables.build import table_optimizer
from dlrm.schema import Schema
from dlrm.sharding.growing.id_map import map_bytes
from dlrm.sharding.memory import Piece, exchange_bytes
from dlrm.train.memory import Shapes, account, batch_bytes, model_bytes, process_bytes, reserve
from tests.support.training import tiny_dataset
from tests.unit.sharding.plans import config_of, task_of, world_of

ROWS = (100, 300, 50)
TABLES = sum(ROWS) * 16 * 4  # bytes
LARGEST = 300 * 16 * 4


def reserved(*options, ranks, device="cpu", rows=ROWS):
    """What is kept free of tables, and the number of weights outside of them."""
    config, schema, world = config_of(*options), Schema.numbered(3, rows), world_of(ranks, device=device)
    shapes = Shapes.of(task_of(config, schema), config, schema, world, scored=0)
    return reserve(config, shapes, table_optimizer(config.optim.sparse), world), shapes.dense_weights


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("ranks", [1, 2])
def test_averages_of_tables_and_their_copies_are_kept_free(ranks, saved):
    options = [f"checkpoint.enabled={saved}"]
    without, dense_weights = reserved(*options, ranks=ranks)
    averaged, _ = reserved(*options, "train.average_decay=0.9", ranks=ranks)
    dense = dense_weights * 4
    copies = (dense + TABLES) // ranks if saved else 0
    # One more of the largest while it changes place with its average: of the dense part, of the tables that a rank has.
    kept = dense + dense + TABLES // ranks + min(LARGEST, TABLES // ranks)
    assert abs(averaged.host - without.host - kept - copies) <= 8
    assert averaged.copies - without.copies == (TABLES // ranks if saved else 0)
    assert averaged.device == without.device == 0


def test_tables_of_unlike_widths_are_copied_as_wide_as_they_are():
    options = ["model.tables.cat_0.embedding_dim=4", "model.interaction.kind=cat", "checkpoint.enabled=true"]
    found, _ = reserved(*options, ranks=1, rows=(1000, 10))
    assert found.copies == 2 * 4 * (1000 * 4 + 10 * 16)


@pytest.mark.parametrize(("batch", "ranks", "read"), [(6, 1, 6), (8000, 1, 4096), (16000, 2, 4096), (7000, 2, 3500)])
def test_what_the_process_takes_is_measured_with_small_batches_of_training(monkeypatch, batch, ranks, read):
    config = config_of(f"train.global_batch_size={batch}", "train.read_threads=2", "evaluation.global_batch_size=50000")
    dataset, sizes, of_source = tiny_dataset(40000), [], InMemorySource.read
    monkeypatch.setattr(InMemorySource, "read", lambda source, rows: sizes.append(len(rows)) or of_source(source, rows))
    assert process_bytes(config, dataset, world_of(ranks)) > 0
    assert sizes == [read] * 2


def test_parts_of_a_table_that_does_not_grow_have_no_map_of_ids():
    growing = "model.embedding={kind: growing, rows: 500}"
    parted = "model.tables.cat_1.embedding={kind: quotient_remainder, ids_per_row: 4, operation: add}"
    full = "model.tables.cat_1.embedding={kind: full}"
    maps = {}
    for of_cat_1 in (parted, full):
        config = config_of(growing, of_cat_1, "checkpoint.enabled=false")
        schema, world = with_table_rows(config.model, Schema.numbered(3, ROWS)), world_of(1)
        task = task_of(config, schema)
        shapes = Shapes.of(task, config, task.model.lookups.schema, world, scored=0)
        maps[of_cat_1] = account(config, shapes, (), table_optimizer(config.optim.sparse), world).parts[ID_MAPS].host
    one = config_of(growing).model.embedding
    assert maps == dict.fromkeys((parted, full), 2 * map_bytes(one, 1))


@pytest.mark.parametrize("bytes_of_weight", [4, 2])
def test_a_model_has_the_bytes_of_its_dense_weights_its_tables_and_its_maps_of_ids(bytes_of_weight):
    growing = "model.tables.cat_1.embedding={kind: growing, rows: 500}"
    config = config_of(growing, "model.tables.cat_0.embedding_dim=6", "model.interaction.kind=cat")
    lookups = lookups_of(config.model, with_table_rows(config.model, Schema.numbered(3, ROWS)))
    optimizer = table_optimizer(config.optim.sparse, weight_bytes=bytes_of_weight)
    grows = config.model.tables["cat_1"].embedding
    slots = grows.buckets * grows.ways  # an id, how often it was seen, when last
    expected = 4 * 1000 + bytes_of_weight * (100 * 6 + 500 * 16 + 50 * 16) + slots * (8 + 4 + 4)
    assert model_bytes(config.model, lookups, optimizer, 1000) == expected


def test_weights_of_ids_are_exchanged_and_wait_in_batches_with_them():
    plain = Schema.numbered(3, ROWS, (1, 2, 4))
    weighted = replace(plain, sparse=(replace(plain.sparse[0], weights="w"), *plain.sparse[1:]))
    piece = Piece(100, 16, "row_wise", "fused", 0.2, primary=True, hotness=7)
    exchanged = [exchange_bytes([piece], schema, columns=16, samples=10, ranks=2) for schema in (plain, weighted)]
    assert exchanged[1] - exchanged[0] == 2 * 10 * 7 * 4  # of two batches
    assert batch_bytes(weighted, 10) - batch_bytes(plain, 10) == 10 * 7 * 4
    assert (plain.bytes_per_id(), weighted.bytes_per_id(), weighted.bytes_per_id(8)) == (4, 8, 12)
