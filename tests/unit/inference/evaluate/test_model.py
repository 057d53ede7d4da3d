import pytest

from dlrm.config.load import load_config
from dlrm.distributed.world import described_world
from dlrm.inference.evaluate.columns import find_columns
from dlrm.inference.evaluate.model import untrained, with_possible_copies
from dlrm.inference.evaluate.sliced import slice_bytes
from dlrm.optim.tables.build import table_optimizer
from tests.unit.inference.evaluate.test_slicing import SCHEMA


def config_of(*words):
    return load_config(None, words)


def test_what_only_training_needs_is_left_out_and_the_plan_s_inputs_stay():
    config = config_of(
        "train.average_decay=0.9", "optim.dense.kind=adam", "optim.dense.lr=1", "train.global_batch_size=512"
    )
    asked = untrained(config)
    assert table_optimizer(asked.optim.sparse).state_shapes(5, 4) == {}
    assert (asked.train.average_decay, asked.checkpoint.enabled) == (0.0, False)
    assert (asked.model, asked.sharding, asked.train.global_batch_size) == (config.model, config.sharding, 512)


def test_tables_that_an_optimizer_keeps_from_being_data_parallel_stay_so():
    config = config_of("optim.sparse.kind=adam", "optim.sparse.lr=1", "sharding.types=table_wise,data_parallel")
    assert untrained(config).sharding.types == ("table_wise",)
    alone = config_of("optim.sparse.kind=adam", "optim.sparse.lr=1", "sharding.types=data_parallel")
    assert untrained(alone).sharding.types == ("data_parallel",)


@pytest.mark.parametrize(
    ("ranks", "device", "kept"),
    [(8, "H100", True), (4, "H100", True), (6, "H100", False), (1, "", False), (4, "", True)],
)
def test_copies_of_tables_that_these_ranks_cannot_have_become_one_and_a_line_says_so(ranks, device, kept):
    config = config_of("sharding.group_size=4")
    found, line = with_possible_copies(config, described_world(ranks, ranks, device))
    assert found.sharding.group_size == (4 if kept else None)
    assert bool(line) != kept
    assert kept or f"sharding.group_size is 4, which {ranks} rank(s)" in line


def test_the_memory_of_slices_grows_with_slices_and_tasks_and_with_rows_where_these_are_many():
    columns = find_columns(("item", "price"), SCHEMA)
    one = slice_bytes(columns, 1, values=3, buckets=4)
    assert slice_bytes(columns, 2, values=3, buckets=4) == 2 * one
    assert one == 8 * slice_bytes(find_columns(("price",), SCHEMA), 1, values=9, buckets=1)
    assert slice_bytes(columns, 1, values=100, buckets=4) == slice_bytes(columns, 1, values=50, buckets=4)
