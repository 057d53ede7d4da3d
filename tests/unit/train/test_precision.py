"""The dense parts in bfloat16 against float64; what is kept in float32; what is refused and said."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from dlrm.config import Config, load_config
from dlrm.config.model import (
    CatInteraction,
    DcnInteraction,
    DeepFmModel,
    DlrmModel,
    DotInteraction,
    Mmoe,
    Ple,
    ProjectionInteraction,
    SharedBottom,
)
from dlrm.config.precision import PrecisionConfig
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.errors import ConfigError
from dlrm.models import TrainTask, build_model
from dlrm.models.base import Model
from dlrm.models.tables import build_embedding
from dlrm.optim.tables.build import table_optimizer
from dlrm.schema import Schema
from dlrm.sharding.planner import table_constraints
from dlrm.train.precision import allow_tf32, check_half_tables, lower_dense, precision_lines
from tests.support.models import SMALL_MODELS
from tests.unit.models.helpers import random_batch

CPU = torch.device("cpu")
BF16 = PrecisionConfig(dense="bf16")
UNIT = torch.finfo(torch.bfloat16).eps / 2  # of rounding to nearest
SIZES = {"bottom_mlp": (16, 8), "embedding_dim": 8, "top_mlp": (16, 8, 1)}
MODELS = {
    "dot": DlrmModel(**SIZES),
    "dot of each with itself": DlrmModel(**SIZES, interaction=DotInteraction(self_interaction=True)),
    "cat": DlrmModel(**SIZES, interaction=CatInteraction()),
    "dcn": DlrmModel(**SIZES, interaction=DcnInteraction(layers=2, rank=4)),
    "projection": DlrmModel(**SIZES, interaction=ProjectionInteraction(branch1=(16,), branch2=(8,))),
    "towers and dropout": DlrmModel(**SIZES, heads=SharedBottom(tower=(6,)), dropout=0.2),
    "deepfm": DeepFmModel(embedding_dim=8, deep_mlp=(16, 8)),
    "deepfm with towers": DeepFmModel(embedding_dim=8, deep_mlp=(16, 8), heads=SharedBottom(tower=(6,))),
}
SCHEMA = Schema.numbered(3, [10, 20], tasks=("click", "like"))
PRODUCTS = 8  # matrix products one after the other: no model here has more


def built(config, schema=SCHEMA):
    return build_model(config, schema, seed=1, tables_device="cpu")


def lowered(config, schema=SCHEMA):
    model = built(config, schema)
    lower_dense(model, BF16, CPU)
    return model


@pytest.mark.parametrize("samples", [64, 1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_float32_and_within_the_rounding_of_bf16_of_those_in_float64(name, training, samples):
    batch = random_batch(SCHEMA, samples=samples)
    model, exact, absolute = (make(MODELS[name]).train(training) for make in (lowered, built, built))
    for parameter in absolute.parameters():
        parameter.data.abs_()
    logits_BT = model(batch.dense, batch.sparse)
    expected_BT = exact.double()(batch.dense.double(), batch.sparse)
    # Sums and products of absolute values bound what rounding does, (1 + u)^n - 1 of them for n roundings one after the
    # other (Higham, Accuracy and Stability, 3.1): two inputs and the output of each product. ReLU is 1-Lipschitz.
    largest_BT = absolute.double()(batch.dense.double().abs(), batch.sparse)
    assert logits_BT.dtype == torch.float32
    assert ((logits_BT - expected_BT).abs() <= ((1 + UNIT) ** (3 * PRODUCTS) - 1) * largest_BT).all()
    assert not torch.equal(logits_BT, built(MODELS[name]).train(training)(batch.dense, batch.sparse))  # is it bf16?
    if samples > 1:  # but the last layer is not: else every logit would be a number of bf16
        assert (logits_BT != logits_BT.bfloat16()).float().mean() > 0.5


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_float32_and_close_to_those_in_float64(name):
    batch = random_batch(SCHEMA, samples=16)
    batch.labels = batch.labels.expand(-1, 2)
    batch.weights = batch.weights.expand(-1, 2)
    model, exact = lowered(MODELS[name]), built(MODELS[name]).double()
    loss, (_, _, logits_BT, *_) = TrainTask(model, (1.0, 1.0))(batch)
    loss.backward()
    assert loss.dtype == logits_BT.dtype == torch.float32
    of_64 = exact(batch.dense.double(), batch.sparse)
    losses_BT = binary_cross_entropy_with_logits(of_64, batch.labels.double(), reduction="none") / 16
    parameters = dict(exact.named_parameters())
    of_samples = [torch.autograd.grad(of.sum(), list(parameters.values()), retain_graph=True) for of in losses_BT]
    before = dict(built(MODELS[name]).named_parameters())
    assert before.keys() == dict(model.named_parameters()).keys()
    for (key, parameter), right in zip(model.named_parameters(), zip(*of_samples, strict=True), strict=True):
        assert torch.equal(parameter, before[key]), key
        assert parameter.grad.dtype == torch.float32, key
        error = (parameter.grad - sum(right)).norm()
        # Three roundings a product, forward and backward, of each sample's gradient: these may cancel in the sum.
        assert error <= 3 * PRODUCTS * UNIT * sum(of.norm() for of in right), (key, error)


@pytest.mark.parametrize("heads", [Mmoe(experts=3), Ple(tower=(6,))])
def test_experts_compute_in_bf16_too_and_what_follows_them_in_float32(heads):
    batch = random_batch(SCHEMA, samples=64)
    batch.labels, batch.weights = batch.labels.expand(-1, 2), batch.weights.expand(-1, 2)
    model, exact = lowered(DlrmModel(**SIZES, heads=heads)), built(DlrmModel(**SIZES, heads=heads)).double()
    loss, (_, _, logits_BT, *_) = TrainTask(model, (1.0, 1.0))(batch)
    loss.backward()
    expected_BT = exact(batch.dense.double(), batch.sparse)
    error = (logits_BT - expected_BT).std() / expected_BT.std()
    assert UNIT / 10 < error < 10 * UNIT
    assert (logits_BT != logits_BT.bfloat16()).float().mean() > 0.5
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", [kind for kind in SMALL_MODELS if kind not in ("lr", "fm")])
def test_other_models_lose_little_and_keep_the_layer_of_their_logits_in_float32(kind):
    config, batch = load_config(None, [f"model={SMALL_MODELS[kind]}"]).model, random_batch(SCHEMA, samples=256)
    model, exact = lowered(config), built(config).double()
    logits_BT = model(batch.dense, batch.sparse)
    error_BT = (logits_BT - exact(batch.dense.double(), batch.sparse)).detach()
    assert logits_BT.dtype == torch.float32
    assert 1e-5 < error_BT.std() / logits_BT.std() < 0.02
    assert (logits_BT != logits_BT.bfloat16()).float().mean() > 0.5
    logits_BT.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_without_dense_features_too():
    schema = Schema.numbered(0, [10, 20, 30])
    model, batch = lowered(DlrmModel(embedding_dim=8, top_mlp=(16, 1)), schema), random_batch(schema, samples=9)
    loss, (_, _, logits_BT, *_) = TrainTask(model)(batch)
    loss.backward()
    assert logits_BT.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_padding_changes_neither_loss_nor_gradients():
    schema = Schema.numbered(3, [10, 20])
    results = []
    for size in (7, 16):
        model = lowered(MODELS["dot"], schema)
        loss, _ = TrainTask(model)(random_batch(schema, samples=7, size=size))
        loss.backward()
        results.append((loss, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(results[1][0], results[0][0])
    for padded, alone in zip(results[1][1], results[0][1], strict=True):
        assert (padded - alone).norm() <= UNIT * alone.norm()  # sums of other lengths add up in another order


def test_a_model_that_names_no_parts_is_refused():
    class Whole(Model):
        pass

    schema = Schema.numbered(1, (3,))
    whole = Whole(build_embedding(DlrmModel(), schema, device="cpu"))
    with pytest.raises(ConfigError, match=r"precision.dense: is bf16, but Whole names no part for it"):
        lower_dense(whole, BF16, CPU)
    lower_dense(whole, PrecisionConfig(), CPU)


def test_tf32_is_a_matter_of_cuda_alone():
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for asked in (True, False):
            allow_tf32(PrecisionConfig(tf32=asked), torch.device("cuda"))
            assert torch.backends.cuda.matmul.allow_tf32 is asked
        allow_tf32(PrecisionConfig(tf32=True), CPU)
        assert torch.backends.cuda.matmul.allow_tf32 is False
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def world(ranks):
    return World(RankInfo(0, ranks, 0, ranks), device=CPU, backend="gloo", collectives=OneProcess())


def test_what_is_not_float32_and_what_has_no_effect_is_said():
    assert precision_lines(Config(), world(1)) == []
    exchange = load_config(None, ["precision.exchange.forward=fp16", "precision.dense=bf16"])
    assert precision_lines(exchange, world(2)) == ["precision: dense bf16, exchange.forward fp16"]
    assert "precision.exchange does nothing on one rank" in precision_lines(exchange, world(1))[1]
    said = precision_lines(load_config(None, ["precision.tf32=true"]), world(2))
    assert said == ["precision: tf32 true", "precision.tf32 does nothing on CPU"]


@pytest.mark.parametrize(
    "option", ["dense=fp16", "exchange.forward=int8", "exchange.backward=fp16", "all_reduce=int8", "tables=bf16"]
)
def test_other_formats_are_refused(option):
    with pytest.raises(ConfigError, match=rf"precision\.{option.partition('=')[0]}"):
        load_config(None, [f"precision.{option}"])


@pytest.mark.parametrize(
    ("option", "copies"),
    [
        ("train.average_decay=0.9", 1),
        ("checkpoint={full_every: 3, increment_bits: 8}", 1),
        ("sharding.group_size=1", 2),
    ],
)
def test_what_would_round_float16_tables_once_more_is_refused(option, copies):
    key = option.partition("=")[0].replace("checkpoint", "checkpoint.increment_bits")
    with pytest.raises(ConfigError, match=rf"^{key}: is .* precision\.tables is fp16"):
        check_half_tables(load_config(None, ["precision.tables=fp16", option]), copies=copies)
    check_half_tables(load_config(None, [option]), copies=copies)


def test_float16_tables_are_planned_with_the_kernels_that_round_alike():
    for kind, left in (
        ("rowwise_adagrad", {"table_wise", "row_wise"}),
        ("sgd", {"table_wise", "row_wise", "column_wise"}),
    ):
        config = load_config(None, [f"optim.sparse={{kind: {kind}, lr: 0.1}}"])
        optimizer = table_optimizer(config.optim.sparse, weight_bytes=2)
        assert optimizer.block_bytes(10, 8) == 10 * 8 * 2 + (40 if optimizer.by_row else 0)
        given = load_config(None, ["sharding.types=data_parallel,table_wise,row_wise,column_wise"]).sharding
        constraints = table_constraints(given, optimizer, Schema.numbered(0, (300,)), RankInfo(0, 2, 0, 2))
        assert set(constraints["cat_0"].sharding_types) == left
        alone = load_config(None, ["sharding.types=data_parallel"]).sharding
        with pytest.raises(
            ConfigError, match=r"sharding\.types: data_parallel has no kernel .* precision\.tables fp32"
        ):
            table_constraints(alone, optimizer, Schema.numbered(0, (300,)), RankInfo(0, 2, 0, 2))
