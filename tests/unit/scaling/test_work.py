"""Work by formula, against counts by hand."""

import itertools
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dlrm.config import load_config
from dlrm.config.model import DlrmModel
from dlrm.lookups.plan import lookups_of
from dlrm.optim.tables.build import table_optimizer
from dlrm.scaling.work import Product, TableUse, ids_per_sample, products_of, work_per_sample
from dlrm.schema import Schema
from dlrm.train.precision import DTYPES, lower_dense
from tests.unit.models.helpers import cpu_model, ragged_ids


def products(options, schema, samples):
    model = cpu_model(load_config(None, options).model, schema, seed=1)
    sparse = ragged_ids(schema, samples=samples, longest=2)
    with products_of(model) as found:
        model(torch.randn(samples, len(schema.dense)), sparse).sum().backward()
    return found


def mlp_flops(sizes, *, first_input_has_a_gradient):
    """2 m n for each of the three products of a layer."""
    layers = [2 * before * after for before, after in itertools.pairwise(sizes)]
    return 3 * sum(layers) - (0 if first_input_has_a_gradient else layers[0])


def test_the_paper_s_single_device_model():
    config = load_config("configs/paper_single_device.yaml")
    schema = Schema.numbered(512, [9] * 8)  # the formula knows nothing of the number of rows
    options = ["model.embedding_dim=64", "model.bottom_mlp=512,512,64", "model.top_mlp=1024,1024,1024,1"]
    assert load_config(None, options).model == config.model
    found = products(options, schema, samples=3)
    vectors, pairs = 9, 9 * 8 // 2
    flops = mlp_flops([512, 512, 512, 64], first_input_has_a_gradient=False)
    flops += mlp_flops([64 + pairs, 1024, 1024, 1024, 1], first_input_has_a_gradient=True)
    flops += 2 * (2 * vectors * vectors * 64)
    weights = 512 * 512 * 2 + 512 * 64 + 512 + 512 + 64 + 100 * 1024 + 2 * 1024 * 1024 + 1024 + 3 * 1024 + 1
    tables = [TableUse(64, 1.0)] * 8
    work = work_per_sample(
        found,
        tables,
        table_optimizer(config.optim.sparse),
        samples=3,
        ranks=2,
        dense_features=512,
        dense_weights=weights,
        dense_state=0,
        bytes_per_id=8,
    )
    assert work.flops == flops
    assert work.row_bytes == 8 * 3 * 64 * 4  # read, read again and written; SGD keeps nothing
    assert work.exchanged_bytes == (2 * 8 * 64 * 4 + 8 * 8 + 8 * 4) / 2
    assert len(found) == 3 * 3 - 1 + 4 * 3 + 2


def test_a_tiny_model_s_bytes():
    layer = [Product(2, 5, 3), Product(3, 2, 5)]  # two samples, a layer from 5 to 3, whose input needs no gradient
    assert [p.flops for p in layer] == [60, 60]
    adagrad = table_optimizer(load_config(None, ["optim.sparse.kind=adagrad", "optim.sparse.lr=0.1"]).optim.sparse)
    work = work_per_sample(
        layer,
        [TableUse(4, 1.5)],
        adagrad,
        samples=2,
        ranks=1,
        dense_features=5,
        dense_weights=18,
        dense_state=1,
        bytes_per_id=4,
    )
    assert work.flops == 60
    assert work.row_bytes == 1.5 * (3 * 4 + 2 * 4) * 4  # row read twice and written, its sums read and written
    numbers = (2 * 5 + 5 * 3 + 2 * 3) + (3 * 2 + 2 * 5 + 3 * 5)
    optimizer = 18 * (3 + 2)
    assert work.streamed_bytes == (numbers + optimizer) * 4 / 2 + 2 * 4 * 4 + (5 * 4 + 1.5 * 4)
    assert work.exchanged_bytes == 0


@pytest.mark.parametrize(
    ("interaction", "width", "flops"),
    [
        ("kind: cat", 16, 0),
        ("kind: dcn, layers: 2, rank: 3", 16, 2 * 3 * (2 * 2 * 16 * 3)),
        # V = 4 vectors of 4; branches of 8 numbers are 2 vectors each; their product is (2, 4) x (4, 2), three times
        (
            "kind: projection, branch1: 8, branch2: 8",
            4 + 4,
            2 * mlp_flops([16, 8], first_input_has_a_gradient=True) + 3 * 2 * 2 * 4 * 2,
        ),
        ("kind: dot, self_interaction: true", 4 + 10, 2 * 2 * 4 * 4 * 4),
    ],
)
def test_interactions(interaction, width, flops):
    schema = Schema.numbered(3, (5, 9, 7))
    options = ["model.embedding_dim=4", "model.bottom_mlp=6,4", "model.top_mlp=5,1"]
    found = products([*options, f"model.interaction={{{interaction}}}"], schema, samples=2)
    mlps = mlp_flops([3, 6, 4], first_input_has_a_gradient=False)
    mlps += mlp_flops([width, 5, 1], first_input_has_a_gradient=True)
    assert sum(product.flops for product in found) / 2 == mlps + flops


class Multiplied(TorchDispatchMode):
    """Operations and bytes of the matrix products that torch really does, by type."""

    def __init__(self):
        super().__init__()
        self.flops, self.bytes = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm):
            left, right = args[-2:]
            assert left.dtype == right.dtype == out.dtype
            self.flops[out.dtype] += 2 * left.numel() * right.shape[-1]
            self.bytes[out.dtype] += sum(tensor.numel() * tensor.element_size() for tensor in (left, right, out))
        return out


@pytest.mark.parametrize("dense", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        ["model.interaction.kind=dot"],
        ["model.interaction={kind: dcn, layers: 2, rank: 3}"],
        ["model.interaction={kind: projection, branch1: 8, branch2: 8}"],
        ["model.interaction.kind=cat", "model.heads.tower=3"],
    ],
)
def test_products_have_the_types_that_torch_computes_them_in(options, dense):
    schema = Schema.numbered(3, (5, 9, 7))
    small = ["model.embedding_dim=4", "model.bottom_mlp=6,4", "model.top_mlp=5,1", f"precision.dense={dense}"]
    config = load_config(None, [*small, *options])
    model = cpu_model(config.model, schema, seed=1)
    lower_dense(model, config.precision, torch.device("cpu"))
    sparse = ragged_ids(schema, samples=16, longest=2)
    with Multiplied() as real, products_of(model, DTYPES[dense]) as found:
        model(torch.randn(16, 3), sparse).sum().backward()
    for dtype in {torch.float32, DTYPES[dense]}:  # the logits' layer is float32 in any case
        of_type = [product for product in found if product.dtype == dtype]
        assert sum(product.flops for product in of_type) == real.flops[dtype] > 0
        twice = sum(product.batch * product.m * product.k * dtype.itemsize for product in of_type if product.square)
        assert sum(product.bytes for product in of_type) + twice == real.bytes[dtype]
    assert real.flops.keys() == {torch.float32, DTYPES[dense]}


def test_models_without_a_bottom_mlp_and_with_towers():
    schema = Schema.numbered(0, (5, 9), tasks=("a", "b"))
    found = products(["model.embedding_dim=4", "model.top_mlp=6,1", "model.heads.tower=3"], schema, samples=2)
    expected = mlp_flops([1, 6], first_input_has_a_gradient=True)
    expected += 2 * mlp_flops([6, 3, 1], first_input_has_a_gradient=True) + 2 * (2 * 2 * 2 * 4)
    assert sum(product.flops for product in found) / 2 == expected
    assert products(["model.kind=deepfm", "model.embedding_dim=4", "model.deep_mlp=6"], schema, samples=2)


def test_what_is_looked_up_is_counted_by_table():
    schema = Schema.numbered(0, (5, 9))

    class OfBatch:
        sparse = ragged_ids(schema, samples=8, longest=3)

    first, second = OfBatch.sparse.lengths().view(2, 8).double().mean(1).tolist()
    for options, expected in (
        ({}, [first, second]),
        ({"shared_tables": {"both": ["cat_0", "cat_1"]}}, [first + second]),
        ({"embedding": {"kind": "hashed", "rows": 6, "functions": 3}}, [first, 3 * second]),
    ):
        config = DlrmModel(embedding_dim=4, bottom_mlp=(4,), **options)
        assert ids_per_sample(OfBatch, lookups_of(config, schema)) == pytest.approx(expected)
