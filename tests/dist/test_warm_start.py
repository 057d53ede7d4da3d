"""A training that begins with another one's weights: rows by raw value, on any ranks, under every sharding."""

from collections import Counter

import pytest
import torch

from dlrm.checkpoint.paths import open_one
from dlrm.checkpoint.patience import Patience
from dlrm.checkpoint.reader import open_reader
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.config import load_config
from dlrm.data.build import build_dataset
from dlrm.errors import CheckpointMismatchError
from dlrm.train.checkpointing.load import load_weights
from dlrm.train.checkpointing.warm_start import start_warm
from dlrm.train.engine import build_engine
from tests.support.command import run_command
from tests.support.ranks import run_ranks
from tests.support.training import this_world
from tests.support.whole_state import gather_state

MODEL = [
    *("data.kind=criteo_tsv", "data.num_dense=2", "data.split={validation: 10, test: 10}"),
    *("model.embedding_dim=8", "model.bottom_mlp=8,8", "model.top_mlp=8,1", "train.global_batch_size=32"),
    *("optim.sparse={kind: rowwise_adagrad, lr: 0.1}", "optim.dense={kind: adam, lr: 0.01}"),
]
WORLDS = [
    (1, ["table_wise"]),
    (2, ["row_wise", "data_parallel", "table_wise"]),
    (4, ["column_wise", "row_wise", "table_row_wise"]),
]


def write_rows(path, values_of_column, *, rows=200, seed=0):
    """A file of Criteo's format whose categories are of these values, in an uneven way; its training categories."""
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for values in values_of_column:
        places = (torch.rand(rows, generator=generator) ** 2 * len(values)).long().tolist()
        columns.append([values[place] for place in places])
    numbers = torch.randint(0, 50, (rows, 3), generator=generator).tolist()
    with path.open("w") as file:
        for (label, one, other), *categories in zip(numbers, *columns, strict=True):
            file.write(f"{label % 2}\t{one}\t{other}\t" + "\t".join(map("{:08x}".format, categories)) + "\n")
    return [column[: rows - 20] for column in columns]


def rows_by_value(train):
    """The row of each value, by descending count and ascending value, from 2 on."""
    return {value: row for row, (value, _) in enumerate(sorted(Counter(train).items(), key=lambda v: (-v[1], v[0])), 2)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three columns whose newest checkpoint is a delta; other data with a fourth column and other values."""
    folder = tmp_path_factory.mktemp("warm")
    before = write_rows(folder / "before.tsv", [range(10, 40), range(100, 106), range(5000, 5080)])
    after = write_rows(folder / "after.tsv", [range(20, 60), range(100, 106), range(5040, 5200), range(7)], seed=1)
    words = [*MODEL, "data.num_sparse=3", f"data.paths={folder / 'before.tsv'}", "train.average_decay=0.5"]
    (outcome,) = run_command(
        [
            "train",
            *words,
            f"run.dir={folder}",
            "checkpoint.every_steps=1",
            "checkpoint.full_every=8",
            "preflight.enabled=false",
        ]
    )
    assert outcome.exit_code == 0, outcome.stderr
    checkpoint, _ = open_one(str(folder / "run"))
    reader = open_reader(checkpoint)
    assert len(reader.members) > 1
    saved = {}
    for name, record in reader.tensors.items():
        saved[name] = torch.empty(record.shape, dtype=record.torch_dtype)
    reader.prepare([GlobalTensor.of(name, value) for name, value in saved.items()])()
    return folder, saved, before, after


def states(rank, world_size, folder, types, variants):
    """The state of a new engine, and after each warm start; the lines of each."""
    found = {}
    for name, (sparse, words) in {"cold": (4, []), **variants}.items():
        tables = [f"sharding.tables.cat_{i}.types={types[i % len(types)]}" for i in range(sparse)]
        path = folder / ("after.tsv" if sparse == 4 else "before.tsv")
        given = [*MODEL, f"data.num_sparse={sparse}", f"data.paths={path}", *tables, *words]
        if name != "cold":
            given.append(f"warm_start.checkpoint={folder / 'run'}")
        config = load_config(None, given)
        world, dataset = this_world(), build_dataset(config.data)
        engine = build_engine(config, dataset.schema, world)
        try:
            start = start_warm(config, engine, dataset.train, world, Patience(0.0, print))
        except CheckpointMismatchError as error:
            found[name] = list(error.differences), {}
        else:
            found[name] = start.lines, gather_state(engine, world.collectives)
    return found


def averaged_weights(rank, world_size, folder):
    """What scoring a checkpoint takes for the averaged weights."""
    config = load_config(None, [*MODEL, "data.num_sparse=3", f"data.paths={folder / 'before.tsv'}"])
    world, schema = this_world(), build_dataset(config.data).schema
    engine = build_engine(config, schema, world)
    load_weights(engine, open_one(str(folder / "run"))[0], world.collectives, averaged=True)
    return gather_state(engine, world.collectives)


def test_averages_that_a_delta_does_not_hold_are_scored_as_they_were(trained):
    folder, saved, _, _ = trained
    (state,) = run_ranks(averaged_weights, 1, folder)
    weights = [name for name in state if ".optimizer." not in name]
    assert not [name for name in weights if not torch.equal(state[name], saved[f"average.{name}"])]


VARIANTS = {
    "strict": (4, []),
    "by value": (4, ["warm_start.strict=false", "warm_start.optimizer=true"]),
    "by number": (4, ["warm_start.strict=false", "warm_start.rows=ids"]),
    "averaged": (3, ["warm_start.average=true", "train.average_decay=0.9"]),
}


def test_rows_are_those_of_the_same_value_on_any_ranks_and_under_every_sharding(trained):
    folder, saved, before, after = trained
    variants = dict(VARIANTS)
    write_rows(folder / "fewer.tsv", [range(10, 40), range(100, 106)])
    variants["fewer"] = (2, ["warm_start.strict=false", f"data.paths={folder / 'fewer.tsv'}"])
    results = [run_ranks(states, ranks, folder, types, variants)[0] for ranks, types in WORLDS]
    for found in results[1:]:
        for name, (lines, state) in results[0].items():
            assert found[name][0] == lines, name
            differing = [key for key in state if not torch.equal(state[key], found[name][1][key])]
            assert list(state) == list(found[name][1]), name
            assert not differing, (name, differing)

    cold, strict = results[0]["cold"][1], results[0]["strict"][0]
    assert [line.partition(" ")[0] for line in strict] == ["top_mlp.linears.0.weight"]  # of one more pair of vectors

    lines, state = results[0]["by value"]
    assert any(line.startswith("begins as a new model does: top_mlp.linears.0.weight has shape") for line in lines)
    for column in range(3):
        old, new = rows_by_value(before[column]), rows_by_value(after[column])
        rows = torch.full((len(new) + 2,), -1)
        rows[:2] = torch.tensor([0, 1])  # missing, unseen
        for value, row in new.items():
            rows[row] = old.get(value, -1)
        assert (rows >= 0).sum() > 3
        for part in ("weight", "optimizer.sum"):
            key = f"tables.cat_{column}.{part}"
            expected = cold[key].clone()
            expected[rows >= 0] = saved[key][rows[rows >= 0]]
            assert torch.equal(state[key], expected), key
    assert torch.equal(state["tables.cat_3.weight"], cold["tables.cat_3.weight"])
    for key in (
        "bottom_mlp.linears.0.weight",
        "bottom_mlp.linears.0.weight.optimizer.exp_avg",
        "top_mlp.linears.1.bias",
    ):
        assert torch.equal(state[key], saved[key]), key
    assert torch.equal(state["top_mlp.linears.0.weight"], cold["top_mlp.linears.0.weight"])

    state = results[0]["by number"][1]
    shared = min(len(state["tables.cat_2.weight"]), len(saved["tables.cat_2.weight"]))
    assert torch.equal(state["tables.cat_2.weight"][:shared], saved["tables.cat_2.weight"][:shared])
    assert torch.equal(state["tables.cat_2.weight"][shared:], cold["tables.cat_2.weight"][shared:])
    assert torch.equal(state["tables.cat_0.optimizer.sum"], cold["tables.cat_0.optimizer.sum"])

    state = results[0]["averaged"][1]  # the same data, so that every row has its own number again
    for key in ("tables.cat_1.weight", "bottom_mlp.linears.1.bias"):
        assert torch.equal(state[key], saved[f"average.{key}"]), key
        assert torch.equal(state[f"average.{key}"], saved[f"average.{key}"]), key

    assert "left behind: 1 table that are not here: cat_2" in results[0]["fewer"][0]
