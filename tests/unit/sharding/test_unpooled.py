import pytest

from dlrm.config import load_config
from dlrm.errors import ConfigError
from dlrm.models.build import build_model
from dlrm.models.task import TrainTask
from dlrm.optim.tables.build import fuse_optimizer, table_optimizer
from dlrm.sharding.planner import make_plan
from tests.support.histories import SCHEMA
from tests.unit.sharding.plans import blocks_of, tables_in, world_of

DIN = ["model.kind=din", "model.embedding_dim=24", "optim.sparse={kind: adagrad, lr: 0.1}"]


def plan_of(*options, ranks=2):
    config = load_config(None, [*DIN, *options])
    model, optimizer = build_model(config.model, SCHEMA, seed=0), table_optimizer(config.optim.sparse)
    fuse_optimizer(model.table_weights, optimizer, config.optim)
    return make_plan(
        TrainTask(model),
        config=config.sharding,
        optimizer=optimizer,
        lookups=model.lookups,
        world=world_of(ranks),
        rank_batch_size=8,
    )


def test_a_candidate_s_table_has_a_type_that_torchrec_has_for_it_and_others_what_they_may_have():
    plan = tables_in(plan_of("sharding.types=table_row_wise,row_wise"))
    assert {plan[name].sharding_type for name in ("item", "shop")} == {"row_wise"}
    assert sum(block[3] for block in blocks_of(plan["item"])) == 30
    with pytest.raises(ConfigError, match=r"sharding\.types: has table_row_wise only, and torchrec has no such type"):
        plan_of("sharding.types=table_row_wise")


@pytest.mark.parametrize(("width", "columns"), [(4, 4), (8, 8), (16, 24), (12, 12)])
def test_column_shards_of_candidates_tables_are_of_one_width_as_torchrec_takes_them_to_be(width, columns):
    plan = tables_in(plan_of("sharding.types=column_wise", f"sharding.min_column_width={width}"))
    assert {block[4] for name in ("item", "shop") for block in blocks_of(plan[name])} == {columns}
