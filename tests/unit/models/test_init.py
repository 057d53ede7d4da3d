import itertools
import math

import pytest
import torch

from dlrm.config.model import DlrmModel
from dlrm.models import build_model
from dlrm.models.init import fill_table_block, initialise_dense
from dlrm.schema import Schema
from tests.unit.models.helpers import cpu_model

SCHEMA = Schema.numbered(50, rows=[300, 20])
SIZES = {"embedding_dim": 16, "bottom_mlp": (300, 16), "top_mlp": (200, 1)}


def whole(
    rows: int,
    dim: int,
    *,
    seed: int = 0,
    name: str = "cat_0",
    row_start: int = 0,
    row_stop: int | None = None,
    col_start: int = 0,
    col_stop: int | None = None,
    bound: float | None = None,
    **options,
) -> torch.Tensor:
    row_stop, col_stop = row_stop or rows, col_stop or dim
    out = torch.empty(row_stop - row_start, col_stop - col_start, **options)
    fill_table_block(out, seed, name, rows=rows, dim=dim, row_start=row_start, col_start=col_start, bound=bound)
    return out


def assert_normal(values: torch.Tensor, std: float) -> None:
    """Moments of N(0, std) within four of their own standard deviations."""
    count = values.numel()
    z = values.detach().double() / std
    assert abs(z.mean()) < 4 / math.sqrt(count)
    assert abs(z.square().mean() - 1) < 4 * math.sqrt(2 / count)
    assert abs(z.pow(4).mean() - 3) < 4 * math.sqrt(96 / count)


def test_linear_layers_have_the_papers_moments():
    model = cpu_model(DlrmModel(**SIZES), SCHEMA)
    first = model.bottom_mlp.linears[0]
    assert_normal(first.weight, math.sqrt(2 / (300 + 50)))
    assert_normal(first.bias, math.sqrt(1 / 300))
    top = model.top_mlp.linears[0]
    assert_normal(top.weight, math.sqrt(2 / (200 + top.in_features)))
    assert_normal(top.bias, math.sqrt(1 / 200))


def test_cross_layers_are_xavier_normal_with_bias_zero():
    model = cpu_model(DlrmModel(**SIZES, interaction={"kind": "dcn", "layers": 2, "rank": 100}), SCHEMA)
    net = model.interaction.crossnet
    for kernel in [*net.W_kernels, *net.V_kernels]:
        assert_normal(kernel, math.sqrt(2 / (100 + 48)))
    assert all((bias == 0).all() for bias in net.bias)
    assert not torch.equal(net.V_kernels[0], net.V_kernels[1])


def test_projections_are_initialised_like_mlps():
    options = {"kind": "projection", "branch1": [96], "branch2": [160]}
    model = cpu_model(DlrmModel(**SIZES, interaction=options), SCHEMA)
    assert_normal(model.interaction.branch1.linears[0].weight, math.sqrt(2 / (96 + 48)))
    assert_normal(model.interaction.branch2.linears[0].bias, math.sqrt(1 / 160))


def test_each_expert_and_each_gate_is_initialised_like_a_layer_of_its_own():
    schema = Schema.numbered(50, rows=[300, 20], tasks=("click", "like"))
    model = cpu_model(DlrmModel(**SIZES, heads={"kind": "mmoe", "experts": 100}), schema)
    experts, gates = model.top_mlp.experts.layers[0], model.top_mlp.gates
    width = experts.weight.shape[2]
    assert_normal(experts.weight, math.sqrt(2 / (200 + width)))
    assert_normal(experts.bias, math.sqrt(1 / 200))
    assert_normal(gates.weight, math.sqrt(2 / (100 + width)))
    assert not torch.equal(experts.weight[0], experts.weight[1])


def test_no_parameter_keeps_what_torch_drew():
    def parameters() -> list[torch.Tensor]:
        model = cpu_model(DlrmModel(**SIZES, interaction={"kind": "dcn"}, dropout=0.1), SCHEMA)
        return [parameter.clone() for parameter in model.parameters()]

    torch.manual_seed(1)
    first = parameters()
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, parameters(), strict=True))


def test_weights_depend_on_the_seed_and_on_the_name_only():
    small = build_model(DlrmModel(**SIZES), SCHEMA, seed=0)
    other_seed = build_model(DlrmModel(**SIZES), SCHEMA, seed=1)
    other_data = build_model(DlrmModel(**SIZES, dropout=0.3), Schema.numbered(50, rows=[5] * 9), seed=0)
    weight = small.bottom_mlp.linears[0].weight
    assert torch.equal(weight, other_data.bottom_mlp.linears[0].weight)
    assert not torch.equal(weight, other_seed.bottom_mlp.linears[0].weight)
    assert not torch.equal(small.bottom_mlp.linears[1].weight[:, :200], small.top_mlp.linears[0].weight[:16, :200])


def test_a_parameter_without_a_rule_is_refused():
    model = build_model(DlrmModel(**SIZES), SCHEMA, seed=0)
    model.extra = torch.nn.BatchNorm1d(3)
    with pytest.raises(TypeError, match=r"extra\.weight"):
        initialise_dense(model, 0)


@pytest.mark.parametrize("configured", [None, 0.25])
def test_tables_are_uniform_within_the_papers_bound_or_the_configured_one(configured):
    rows, dim = 4000, 32
    bound = configured or math.sqrt(1 / rows)
    u = whole(rows, dim, bound=configured).double() / bound
    count = rows * dim
    assert u.min() >= -1
    assert u.max() <= 1
    assert abs(u.mean()) < 4 * math.sqrt(1 / 3 / count)
    assert abs(u.square().mean() - 1 / 3) < 4 * math.sqrt(4 / 45 / count)
    shares = torch.histc(u, bins=16, min=-1, max=1) / count
    assert (shares - 1 / 16).abs().max() < 5 * math.sqrt(1 / 16 / count)


def test_tables_on_a_device_are_initialised_with_the_configured_bound():
    model = cpu_model(DlrmModel(**SIZES, embedding_init_bound=0.5), SCHEMA, seed=7)
    for name, rows in (("cat_0", 300), ("cat_1", 20)):
        weight = model.tables.embedding_bags[name].weight
        assert torch.equal(weight, whole(rows, 16, seed=7, name=name, bound=0.5))
    assert not torch.equal(whole(20, 16, name="cat_0"), whole(20, 16, name="cat_1"))
    assert not torch.equal(whole(20, 16, seed=0), whole(20, 16, seed=1))


@pytest.mark.parametrize("row_cuts", [[0, 103], [0, 1, 50, 103], [0, 26, 52, 78, 103]])
@pytest.mark.parametrize("col_cuts", [[0, 12], [0, 4, 8, 12], [0, 5, 12]])
def test_the_shards_of_any_split_are_the_blocks_of_the_whole_table(row_cuts, col_cuts):
    rows, dim = 103, 12
    table = whole(rows, dim)
    for top, bottom in itertools.pairwise(row_cuts):
        for left, right in itertools.pairwise(col_cuts):
            shard = whole(rows, dim, row_start=top, row_stop=bottom, col_start=left, col_stop=right)
            assert torch.equal(shard, table[top:bottom, left:right])


@pytest.mark.parametrize("chunk", [1, 12, 100, 1 << 20])
def test_chunks_do_not_change_the_numbers(chunk):
    out = torch.empty(103, 12)
    fill_table_block(out, 0, "cat_0", rows=103, dim=12, row_start=0, col_start=0, chunk_weights=chunk)
    assert torch.equal(out, whole(103, 12))


def test_a_block_may_be_a_view_of_other_memory_and_need_gradients():
    memory = torch.nn.Parameter(torch.zeros(50, 24))
    fill_table_block(memory[10:20, 4:12], 0, "cat_0", rows=103, dim=12, row_start=90, col_start=2)
    assert torch.equal(memory[10:20, 4:12], whole(103, 12)[90:100, 2:10])
    assert memory.detach().count_nonzero() == 80


def test_half_precision_is_the_rounded_single_precision():
    assert torch.equal(whole(103, 12, dtype=torch.float16), whole(103, 12).half())


def test_the_last_rows_of_the_largest_tables_differ_from_the_first():
    last = whole(40_000_000, 128, row_start=39_999_998, row_stop=40_000_000)
    first = whole(40_000_000, 128, row_start=0, row_stop=2)
    assert not torch.equal(last, first)
    assert 0 < last.abs().max() <= math.sqrt(1 / 40_000_000)


def test_a_shard_without_rows_is_left_alone():
    fill_table_block(torch.empty(0, 12), 0, "cat_0", rows=103, dim=12, row_start=103, col_start=0)


@pytest.mark.parametrize("left", [8, 12, 16])
def test_columns_beyond_the_table_are_zeros(left):
    block = whole(103, 12, row_start=50, row_stop=60, col_start=left, col_stop=20)
    expected = torch.zeros(10, 20 - left)
    expected[:, : max(0, 12 - left)] = whole(103, 12)[50:60, left:]
    assert torch.equal(block, expected)


def test_rows_beyond_the_table_are_refused():
    with pytest.raises(ValueError, match="cat_0 \\(103 x 12\\)"):
        whole(103, 12, row_start=100, row_stop=104)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_the_same_numbers_to_the_last_bit():
    options = {"row_start": 39_990_000, "row_stop": 40_000_000, "col_start": 32, "col_stop": 64, "bound": 0.7}
    blocks = [whole(40_000_000, 128, device=device, **options) for device in ("cpu", "cuda")]
    assert torch.equal(blocks[0], blocks[1].cpu())
