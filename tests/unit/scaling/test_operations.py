"""Operators that are found without running them, against those that torch runs on real tensors."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dlrm.config import load_config
from dlrm.distributed.internals import DispatchMode
from dlrm.models.build import build_model
from dlrm.models.task import TrainTask
from dlrm.models.twin import PooledEmbeddings
from dlrm.scaling.operations import Operation, operations, operations_of
from dlrm.scaling.stage_names import ALL_REDUCE, LOSS, OTHER, OUTPUT_DIST
from dlrm.scaling.work import Product, products_of
from dlrm.schema import Schema
from dlrm.train.precision import lower_dense
from tests.support.models import SMALL_MODELS
from tests.unit.models.helpers import random_batch

CPU = torch.device("cpu")
SCHEMA = Schema.numbered(3, (50, 60, 7))
SAMPLES = 6
DLRM = ["model.embedding_dim=8", "model.bottom_mlp=16,8", "model.top_mlp=12,1"]
KINDS = {
    "dot": ([*DLRM, "model.interaction.kind=dot"], SCHEMA),
    "dot of itself": ([*DLRM, "model.interaction={kind: dot, self_interaction: true}"], SCHEMA),
    "cat": ([*DLRM, "model.interaction.kind=cat"], SCHEMA),
    "dcn": ([*DLRM, "model.interaction={kind: dcn, layers: 2, rank: 3}"], SCHEMA),
    "projection": ([*DLRM, "model.interaction={kind: projection, branch1: 16, branch2: 16}"], SCHEMA),
    "towers": ([*DLRM, "model.heads.tower=5"], Schema.numbered(3, (50, 60, 7), tasks=("a", "b"))),
    "mmoe": ([*DLRM, "model.heads={kind: mmoe, experts: 3}"], Schema.numbered(3, (50, 60, 7), tasks=("a", "b"))),
    "ple": ([*DLRM, "model.heads={kind: ple, shared_experts: 3}"], Schema.numbered(3, (50, 60, 7), tasks=("a", "b"))),
    "no dense features": (["model.embedding_dim=8", "model.top_mlp=12,1"], Schema.numbered(0, (50, 60, 7))),
    **{kind: ([f"model={options}"], SCHEMA) for kind, options in SMALL_MODELS.items()},
    "attentive wukong": ([f"model={SMALL_MODELS['wukong']}", "model.attention_mlp=5"], SCHEMA),
}


def task_of(options, schema):
    return TrainTask(build_model(load_config(None, options).model, schema, seed=0, tables_device="cpu"))


def batch_of(schema):
    batch = random_batch(schema, samples=SAMPLES)
    labels_BT = batch.labels.expand(-1, len(schema.tasks)).contiguous()
    return replace(batch, labels=labels_BT, weights=torch.ones_like(labels_BT))


@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_those_that_torch_counts_of_real_tensors(kind):
    options, schema = KINDS[kind]
    task, batch = task_of(options, schema), batch_of(schema)
    with FlopCounterMode(display=False) as counter, products_of(task) as by_formula:
        loss, _ = task(batch)
        loss.backward()
    found = [one.product for one in operations(task, schema, SAMPLES, CPU) if one.product is not None]
    assert sum(product.flops for product in found) == counter.get_total_flops() > 0
    assert sum(product.flops for product in by_formula) == counter.get_total_flops()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SMALL_MODELS])
def test_the_products_are_those_of_the_formula_one_by_one(kind):
    options, schema = KINDS[kind]
    task = task_of(options, schema)
    with products_of(task) as formula:
        task(batch_of(schema))[0].backward()
    found = [one.product for one in operations(task, schema, SAMPLES, CPU) if one.product is not None]

    def shapes(products):
        return Counter((p.batch, *sorted((p.m, p.k, p.n)), p.square) for p in products)

    assert shapes(found) == shapes(formula)


class Ran(DispatchMode):
    """Operators that run on real tensors and do not only give a view."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        views = any(result.alias_info and not result.alias_info.is_write for result in func._schema.returns)
        if not views:
            self.names[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SMALL_MODELS or kind in ("deepfm", "wukong")])
def test_as_many_operators_are_found_as_run_on_real_tensors(kind):
    options, schema = KINDS[kind]
    task = task_of(options, schema)
    found = operations(task, schema, SAMPLES, CPU)
    task.model.tables = PooledEmbeddings(task.model.tables.embedding_bag_configs(), CPU, exchanged=False)
    for parameter in task.parameters():
        parameter.grad = torch.zeros_like(parameter)
    batch = batch_of(schema)
    with Ran() as real:
        task(batch)[0].backward()
    ran = sum(count for name, count in real.names.items() if name not in ("new_empty", "_unsafe_view"))
    copied = real.names["clone"]  # by the stand-in, of the gradient that it is given
    assert ran - copied <= len(found) <= ran


def test_a_small_mlp_by_hand():
    """A layer of 3 to 2 and its ReLU, the interaction a concatenation, a layer to the logit; 4 samples."""
    schema = Schema.numbered(3, (50,))
    options = ["model.embedding_dim=4", "model.bottom_mlp=2", "model.top_mlp=1", "model.interaction.kind=cat"]
    found = operations(task_of(options, schema), schema, 4, CPU)
    f32, hidden, pooled = 4, 4 * 2, 4 * 4
    by_stage = {}
    for one in found:
        by_stage.setdefault(one.stage, []).append(one)

    def elementwise(stage):
        return [one.bytes for one in by_stage.get(stage, []) if one.product is None]

    def products(stage):
        return [(p.m, p.k, p.n) for one in by_stage.get(stage, []) if (p := one.product) is not None]

    assert products("bottom_mlp") == [(4, 3, 2)]
    assert elementwise("bottom_mlp") == [2 * hidden * f32]  # ReLU reads and writes
    assert products("interaction") == []
    assert elementwise("interaction") == [2 * (hidden + pooled) * f32]  # both read, written beside each other
    assert products("top_mlp") == [(4, 6, 1)]
    assert sorted(products("top_mlp backward")) == [(1, 4, 6), (4, 1, 6)]
    assert sorted(products("bottom_mlp backward")) == [(2, 4, 3)]  # the features need no gradient
    # Gradient and result in, gradient out; the gradient of the bias: read, its sums written.
    assert sorted(elementwise("bottom_mlp backward")) == sorted([3 * hidden * f32, (hidden + 2) * f32])
    assert all(one.part == "bottom_mlp" for stage in ("bottom_mlp", "bottom_mlp backward") for one in by_stage[stage])
    # Each gradient is added to what the parameter has: two read, one written.
    sizes = [3 * 2, 2, 6 * 1, 1]
    assert sorted(elementwise(ALL_REDUCE)) == sorted(3 * size * f32 for size in sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_operator_is_of_a_stage_that_the_model_has(kind):
    options, schema = KINDS[kind]
    task = task_of(options, schema)
    found = operations(task, schema, SAMPLES, CPU)
    children = {name for name, _ in task.model.named_children()} - {"tables", "pooling"}
    known = {*children, "model", LOSS, OUTPUT_DIST}
    known |= {f"{stage} backward" for stage in known}
    stages = Counter(one.stage for one in found)
    assert set(stages) <= known | {ALL_REDUCE, OTHER}
    assert stages[OTHER] <= 2  # the gradient that a backward pass starts from
    assert stages[LOSS]
    assert stages[f"{LOSS} backward"]
    assert stages[ALL_REDUCE]
    layers = {name for name, child in task.model.named_children() if name in children and list(child.parameters())}
    assert layers  # of which each computes forward and backward
    for name in layers:
        assert {name, f"{name} backward"} <= stages.keys()
    assert sum(one.stage == ALL_REDUCE for one in found) == len(
        [name for name, _ in task.named_parameters() if ".embedding_bags." not in name]
    )
    first_backward = next(i for i, one in enumerate(found) if one.stage.endswith("backward"))
    assert not any(one.stage in children for one in found[first_backward:])


def test_a_batch_of_twice_the_samples_has_twice_the_flops_and_the_same_operators():
    task = task_of(*KINDS["dcn"])
    once, twice = (operations(task, SCHEMA, samples, CPU) for samples in (8, 16))
    assert [(one.stage, one.product is None) for one in once] == [(one.stage, one.product is None) for one in twice]
    flops = [sum(one.product.flops for one in found if one.product) for found in (once, twice)]
    assert flops[1] == 2 * flops[0]


def test_lowered_operators_move_half_the_bytes():
    task = task_of(*KINDS["dot"])
    for one in operations(task, SCHEMA, SAMPLES, CPU):
        low = one.lowered(torch.bfloat16)
        assert (low.stage, low.part) == (one.stage, one.part)
        assert (2 * low.bytes, 2 * low.made) == (one.bytes, one.made)
        if one.product is None:
            assert low.product is None
        else:
            assert (low.product.flops, 2 * low.product.bytes) == (one.product.flops, one.product.bytes)
            assert low.product.dtype == torch.bfloat16
    assert Operation("s", None, 12, 4).lowered(torch.float32) == Operation("s", None, 12, 4)


def test_the_types_of_low_precision_are_those_that_autocast_computes_in():
    config = load_config(None, [*DLRM, "precision.dense=bf16"])
    task = TrainTask(build_model(config.model, SCHEMA, seed=0, tables_device="cpu"))
    lower_dense(task.model, config.precision, CPU)
    found = [one for one in operations(task, SCHEMA, SAMPLES, CPU) if one.product]
    types = {one.stage: one.product.dtype for one in found}
    assert types["bottom_mlp"] == types["bottom_mlp backward"] == torch.bfloat16

    class Seen(Ran):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func._schema.name in ("aten::mm", "aten::addmm", "aten::bmm"):
                self.names[args[-1].dtype] += 1
            return func(*args, **(kwargs or {}))

    batch = batch_of(SCHEMA)
    with Seen() as seen:
        task(batch)[0].backward()
    assert Counter(one.product.dtype for one in found) == seen.names


def test_the_model_is_left_as_it_was():
    task = task_of(*KINDS["dcn"])
    task.eval()
    before = copy.deepcopy(task.state_dict())
    modules, hooks = list(task.modules()), [len(module._forward_hooks) for module in task.modules()]
    storages = [parameter.data_ptr() for parameter in task.parameters()]
    operations(task, SCHEMA, SAMPLES, CPU)
    assert list(task.modules()) == modules
    assert [len(module._forward_hooks) for module in task.modules()] == hooks
    assert not any(len(module._forward_pre_hooks) for module in task.modules())
    assert not any(module.training for module in task.modules())
    assert all(parameter.grad is None for parameter in task.parameters())
    assert [parameter.data_ptr() for parameter in task.parameters()] == storages
    after = task.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tables_of_any_size_are_neither_made_nor_seen():
    schema = Schema.numbered(3, (2_000_000_000, 60))
    task = TrainTask(build_model(load_config(None, DLRM).model, schema, seed=0))  # tables on meta
    small = Schema.numbered(3, (20, 60))
    assert operations(task, schema, SAMPLES, CPU) == operations(task_of(DLRM, small), small, SAMPLES, CPU)


def test_bytes_of_operators_count_each_tensor_once_and_broadcast_dimensions_not_at_all():
    x_AB, narrow_B = torch.zeros(4, 6), torch.zeros(6)
    (added,) = operations_of(lambda: x_AB + narrow_B, "stage")
    assert added == Operation("stage", None, (24 + 6 + 24) * 4, 24 * 4)
    (spread,) = operations_of(lambda: x_AB + narrow_B[:1].expand(4, 6), "stage")
    assert spread.bytes == (24 + 1 + 24) * 4
    (in_place,) = operations_of(lambda: x_AB.add_(1.0), "stage")
    assert (in_place.bytes, in_place.made) == (2 * 24 * 4, 0)
    assert operations_of(lambda: (x_AB.view(24), x_AB.t(), x_AB[1:], torch.empty(5)), "stage") == []


def test_products_are_told_apart():
    a_MK, b_KN = torch.zeros(2, 3), torch.zeros(3, 5)
    assert operations_of(lambda: a_MK @ b_KN, "s") == [Operation("s", Product(2, 3, 5), 0, 2 * 5 * 4)]
    (squared,) = operations_of(lambda: torch.bmm(a_MK.expand(7, 2, 3), a_MK.expand(7, 2, 3).transpose(1, 2)), "s")
    assert squared.product == Product(2, 3, 2, batch=7, square=True)
    bias_N = torch.zeros(5)
    (biased,) = operations_of(lambda: torch.addmm(bias_N, a_MK, b_KN), "s")
    assert biased.product == Product(2, 3, 5)
