"""What ranks send each other in fewer bits: which bytes, how far off, the same on every rank, and resumed to the bit."""

import json
import math
import os

import pytest
import torch
import torch.distributed as dist

from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.train.engine import build_engine
from tests.support.command import run_command
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source

SMALL = [
    *("model.bottom_mlp=16,8", "model.embedding_dim=8", "model.top_mlp=16,1", "train.global_batch_size=64"),
    *("optim.sparse={kind: sgd, lr: 1.0}", "optim.dense={kind: sgd, lr: 1.0}"),
]
ROWS = (7, 50, 300, 40)
SENDING = ("all_to_all_single", "reduce_scatter", "reduce_scatter_tensor", "all_gather", "all_gather_into_tensor")
UNITS = {"fp16": 2.0**-11, "bf16": 2.0**-8}  # of rounding to nearest
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def first_step(rank, world_size, options, ranks_per_host=None):
    """Floating-point collectives of one step, pooled embeddings, and how far weights have moved (all of this rank)."""
    if ranks_per_host:
        os.environ.update(LOCAL_WORLD_SIZE=str(ranks_per_host), LOCAL_RANK=str(rank % ranks_per_host))
    sent, pooled = [], []
    source = tiny_source(64, rows=ROWS)
    engine = build_engine(load_config(None, [*SMALL, *options]), source.schema, this_world())
    for name in SENDING:
        setattr(dist, name, recording(getattr(dist, name), name, sent))
    model = engine.model.module.model
    model.pooling.register_forward_hook(lambda module, inputs, output: pooled.append(output.detach().clone()))
    before = local(engine)
    loader = BatchLoader(source, SampleOrder(64, global_batch_size=64), rank=rank, world_size=world_size)
    for _ in engine.stepper.train(loader.batches(0, 0, 1), first_step=1):
        pass
    moved = {name: weight - before[name] for name, weight in local(engine).items()}
    return sent, pooled[0], moved


def recording(function, name, sent):
    def record(*args, **kwargs):
        named = [kwargs[word] for word in ("input", "input_tensor", "input_list", "tensor") if word in kwargs]
        given = named[0] if named else args[1]
        for tensor in given if isinstance(given, list) else [given]:
            if tensor.is_floating_point():
                sent.append((name, tensor.dtype, tensor.numel()))
        return function(*args, **kwargs)

    return record


def local(engine):
    parts = {}
    for name, value in engine.model.state_dict().items():
        shards = [shard.tensor for shard in value.local_shards()] if hasattr(value, "local_shards") else [value]
        parts |= {f"{name}/{i}": tensor.detach().clone() for i, tensor in enumerate(shards)}
    return parts


def exchange(forward, backward):
    return [f"precision.exchange.forward={forward}", f"precision.exchange.backward={backward}"]


@pytest.fixture(scope="module")
def in_float32():
    return {}


def of_float32(kept, sharding, ranks_per_host):
    key = sharding, ranks_per_host
    if key not in kept:
        kept[key] = run_ranks(first_step, 2, [f"sharding.types={sharding}"], ranks_per_host)
    return kept[key]


@pytest.mark.parametrize(
    ("sharding", "ranks_per_host"),
    [
        *(
            ("table_wise", None),
            ("row_wise", None),
            ("table_row_wise", None),
            ("column_wise", None),
            ("grid_shard", None),
        ),
        ("table_row_wise", 1),  # two hosts: an all-to-all between them
    ],
)
@pytest.mark.parametrize(("forward", "backward"), [("fp16", "bf16"), ("bf16", "bf16")])
def test_every_sharding_type_exchanges_half_the_bytes_and_is_off_by_a_rounding(
    in_float32, sharding, ranks_per_host, forward, backward
):
    whole = of_float32(in_float32, sharding, ranks_per_host)
    options = [f"sharding.types={sharding}", *exchange(forward, backward)]
    found = run_ranks(first_step, 2, options, ranks_per_host)
    for (sent, pooled_BX, _), (in_32, expected_BX, _) in zip(found, whole, strict=True):
        assert [(name, count) for name, _, count in sent] == [(name, count) for name, _, count in in_32]
        assert {kind for _, kind, _ in in_32} == {torch.float32}
        assert len(sent) >= 2
        half = len(sent) // 2  # the forward pass, then the backward pass
        assert {kind for _, kind, _ in sent[:half]} == {TYPES[forward]}
        assert {kind for _, kind, _ in sent[half:]} == {TYPES[backward]}
        # Bags of one id: of the partial sums of a table that is cut by rows all but one are zero.
        bound_BX = UNITS[forward] * expected_BX.abs() + 2.0**-25  # below fp16's normal numbers the error is absolute
        assert ((pooled_BX - expected_BX).abs() <= bound_BX).all()
        assert not torch.equal(pooled_BX, expected_BX)


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_gradients_of_tables_that_are_sent_in_bf16_are_off_by_a_rounding(in_float32, sharding):
    found = run_ranks(first_step, 2, [f"sharding.types={sharding}", *exchange("fp32", "bf16")])
    whole = of_float32(in_float32, sharding, None)
    for (sent, pooled_BX, moved), (_, expected_BX, right) in zip(found, whole, strict=True):
        assert {kind for _, kind, _ in sent} == {torch.float32, torch.bfloat16}
        assert torch.equal(pooled_BX, expected_BX)
        for name, by in moved.items():
            if ".embedding_bags." not in name:
                assert torch.equal(by, right[name]), name  # the gradients of the rest are not concerned
            elif by.numel() > 500:  # large tables: a row has few samples, whose gradients hardly cancel
                error = (by - right[name]).norm() / right[name].norm()
                assert 0 < error <= 2 * UNITS["bf16"], name


def test_data_parallel_tables_exchange_nothing():
    options = ["sharding.types=data_parallel"]
    (whole, *_), (found, *_) = (run_ranks(first_step, 2, [*options, *more]) for more in ([], exchange("bf16", "bf16")))
    assert found[0] == whole[0] == []
    assert all(torch.equal(found[2][name], by) for name, by in whole[2].items())


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_gradients_that_are_summed_in_fewer_bits_are_the_same_on_every_rank_and_off_by_roundings(kind, world_size):
    options = ["sharding.types=data_parallel"]
    whole = run_ranks(first_step, world_size, options)
    found = run_ranks(first_step, world_size, [*options, f"precision.all_reduce={kind}"])
    for name, by in whole[0][2].items():
        here = found[0][2][name]
        assert all(torch.equal(other[2][name], here) for other in found), name
        if ".embedding_bags." in name:
            assert torch.equal(here, by), name  # data-parallel tables are no dense parameters
            continue
        # Each rank rounds twice (its gradient, and that divided by the ranks), each sum once. Gradients of ranks may cancel
        # in the sum, so the bound is on the whole tensor.
        bound = (world_size + 1) * UNITS[kind] * by.norm() + 2.0**-24 * math.sqrt(by.numel())
        assert (here - by).norm() <= bound, name
        assert not torch.equal(here, by), name


EVERYTHING = [*exchange("fp16", "bf16"), "precision.dense=bf16", "precision.all_reduce=bf16"]
RUN = [
    "train",
    *("data.kind=random", "data.rows=7,50,300", "data.num_dense=3", "data.train_samples=330", "data.test_samples=90"),
    *("model.bottom_mlp=16,8", "model.embedding_dim=8", "model.top_mlp=16,8,1", "model.dropout=0.2"),
    *("train.global_batch_size=50", "logging.every_steps=1", "logging.tensorboard=false", "logging.progress=false"),
]


def run(folder, name, *options, world_size=3):
    """Losses by step and the test's scores; the summary; what was said."""
    outcomes = run_command([*RUN, f"run.dir={folder}", f"run.name={name}", *options], world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
    entries = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    losses = {entry["step"]: entry["loss"] for entry in entries if entry["kind"] == "train"}
    scores = [(entry["auc"], entry["log_loss"]) for entry in entries if entry["kind"] == "test"]
    return (losses, scores[-1]), json.loads((folder / name / "summary.json").read_text()), outcomes[0].stdout


def test_a_run_in_fewer_bits_that_is_stopped_and_resumed_equals_one_that_is_not_to_the_bit(tmp_path):
    whole, summary, said = run(tmp_path, "whole", "train.epochs=2", *EVERYTHING)
    assert summary["precision"]["exchange"] == {"forward": "fp16", "backward": "bf16"}
    assert "precision: dense bf16, exchange.forward fp16, exchange.backward bf16, all_reduce bf16" in said
    run(tmp_path, "parts", "train.epochs=2", "train.max_steps=5", *EVERYTHING)
    found, _, said = run(tmp_path, "parts", "train.epochs=2", "--resume", "auto", *EVERYTHING)
    assert found == whole
    assert "changed since: precision" not in said
    assert len(whole[0]) == 14


def test_a_resumed_run_says_that_it_goes_on_in_other_formats(tmp_path):
    run(tmp_path, "a", "train.max_steps=2", world_size=1)
    _, summary, said = run(tmp_path, "a", "train.max_steps=4", "--resume", "auto", "precision.dense=bf16", world_size=1)
    assert "changed since: precision.dense 'fp32' -> 'bf16'" in said
    assert summary["precision"]["dense"] == "bf16"
