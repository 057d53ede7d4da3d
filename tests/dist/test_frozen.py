"""What optim.frozen names stays as it is, weights and optimizer state of tables, and the rest is trained."""

import pytest
import torch

from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.errors import ConfigError
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.engine import build_engine
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_dataset
from tests.support.whole_state import gather_state

SMALL = ["model.bottom_mlp=8,8", "model.embedding_dim=8", "model.top_mlp=8,1", "train.global_batch_size=32"]
DENSE = "optim.dense={kind: adamw, lr: 0.01, weight_decay: 0.1}"
TABLES = {"cat_0": "table_wise", "cat_1": "row_wise", "cat_2": "column_wise", "cat_3": "data_parallel"}
CASES = {
    "rowwise_adagrad": [
        "optim.sparse={kind: rowwise_adagrad, lr: 0.1}",
        "optim.frozen=bottom_mlp,cat_0,cat_1,cat_2,cat_3",
    ],
    "adagrad": ["optim.sparse={kind: adagrad, lr: 0.1}", "optim.frozen=top_mlp,cat_1,cat_3"],
    "sgd": ["optim.sparse={kind: sgd, lr: 0.1}", "optim.frozen=cat_0,cat_2", "model.pooling=mean"],
    "no dense parameter is trained": ["optim.frozen=bottom_mlp,top_mlp,cat_2", "optim.clip_norm=1"],
}


def before_and_after(rank, world_size, cases):
    found = {}
    for case, words in cases.items():
        types = [f"sharding.tables.{table}.types={kind}" for table, kind in TABLES.items()]
        world, dataset = this_world(), tiny_dataset(96)
        engine = build_engine(load_config(None, [*SMALL, DENSE, *types, *words]), dataset.schema, world)
        for tensor in engine_tensors(engine):  # as after a long training
            for shard in tensor.shards:
                if tensor.name.endswith(".optimizer.sum"):
                    shard.tensor.fill_(0.3)
        after_load(engine)
        states = [gather_state(engine, world.collectives)]
        loader = BatchLoader(dataset.train, SampleOrder(96, global_batch_size=32), rank=rank, world_size=world_size)
        losses = []
        for output in engine.stepper.train(loader.batches(0, 0, 3), first_step=1):
            loss = output.loss.double() / world_size
            world.collectives.all_reduce_sum_(loss)
            losses.append(loss.item())
        found[case] = (losses, *states, gather_state(engine, world.collectives))
    return found


def test_what_is_frozen_stays_and_the_rest_is_trained_alike_on_any_ranks():
    of_ranks = [run_ranks(before_and_after, ranks, CASES)[0] for ranks in (1, 2)]
    for case, words in CASES.items():
        frozen = next(word for word in words if word.startswith("optim.frozen=")).partition("=")[2].split(",")
        losses, _, after = of_ranks[0][case]
        assert of_ranks[1][case][0] == pytest.approx(losses, rel=1e-5), case
        for _, first, last in (found[case] for found in of_ranks):
            assert list(first) == list(last)
            for name, value in last.items():
                part = name.split(".")[1] if name.startswith("tables.") else name.split(".")[0]
                same = torch.equal(value, first[name])
                assert same if part in frozen else not same, (case, name)
        states = [name for name in after if ".optimizer." in name and not name.startswith("tables.")]
        assert not any(name.split(".")[0] in frozen for name in states), case  # none is kept for what is not trained


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.frozen=cat_9,top_mlp"], "optim.frozen.0: cat_9 is no group of parameters; did you mean cat_"),
        (["optim.frozen=cat_0,cat_1,cat_2,cat_3,bottom_mlp,top_mlp"], "optim.frozen: names every group and table"),
    ],
)
def test_what_cannot_be_frozen_is_named(words, said):
    (message,) = run_ranks(refusal, 1, words)
    assert said in message


def refusal(rank, world_size, words):
    with pytest.raises(ConfigError) as caught:
        build_engine(load_config(None, [*SMALL, *words]), tiny_dataset(32).schema, this_world())
    return str(caught.value)
