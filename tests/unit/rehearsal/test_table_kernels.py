"""The rehearsal's lookups and updates of tables, against torch's own modules and optimizers."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import embedding_bag

from scripts.rehearse_cuda.arithmetic import host_view
from scripts.rehearse_cuda.table_kernels import KERNELS, by_name

ROWS, DIMS, SAMPLES = (6, 5), (4, 8), 3
LENGTHS = ((2, 0, 1), (1, 3, 2))
LR, EPS = 0.5, 0.1


def arguments(**more):
    """Of fbgemm's operators, for two tables of which the second is in managed memory; ids occur more than once."""
    generator = torch.Generator().manual_seed(0)
    sizes = [rows * dim for rows, dim in zip(ROWS, DIMS, strict=True)]
    ids = [
        torch.randint(0, rows, (sum(lengths),), generator=generator)
        for rows, lengths in zip(ROWS, LENGTHS, strict=True)
    ]
    return SimpleNamespace(
        dev_weights=torch.randn(sizes[0], generator=generator),
        uvm_weights=torch.randn(sizes[1], generator=generator),
        weights_placements=torch.tensor([0, 1], dtype=torch.int32),
        weights_offsets=torch.tensor([0, 0]),
        D_offsets=torch.tensor([0, DIMS[0], sum(DIMS)], dtype=torch.int32),
        indices=torch.cat(ids),
        offsets=torch.tensor([0, *LENGTHS[0], *LENGTHS[1]]).cumsum(0),
        pooling_mode=0,
        output_dtype=0,
        grad_output=torch.randn(SAMPLES, sum(DIMS), generator=generator),
        learning_rate_tensor=torch.tensor(LR),
        eps=EPS,
        **more,
    )


def tables(given, prefix="", dims=DIMS):
    parts = (given.dev_weights, given.uvm_weights) if not prefix else (given.momentum1_dev, given.momentum1_uvm)
    return [part.clone().double().view(-1, dim) for part, dim in zip(parts, dims, strict=True)]


def pooled(given, weights):
    lengths = torch.tensor(LENGTHS)
    ids = given.indices.split([int(row.sum()) for row in lengths])
    bags = [
        embedding_bag(of, weight, lengths_B.cumsum(0) - lengths_B, mode="sum")
        for of, weight, lengths_B in zip(ids, weights, lengths, strict=True)
    ]
    return torch.cat(bags, dim=1)


def state(elements):
    return {
        "momentum1_dev": torch.full((elements[0],), 0.25),
        "momentum1_uvm": torch.full((elements[1],), 0.75),
        "momentum1_placements": torch.tensor([0, 1], dtype=torch.int32),
        "momentum1_offsets": torch.tensor([0, 0]),
    }


def gradients(given):
    weights = [weight.requires_grad_() for weight in tables(given)]
    pooled(given, weights).backward(given.grad_output.double())
    return [weight.grad for weight in weights]


def run(name, given):
    return KERNELS[f"fbgemm::split_embedding_{name}_unweighted_pt2_wrapper"](given)


def test_bags_are_summed():
    given = arguments()
    torch.testing.assert_close(
        run("codegen_forward", given).double(), pooled(given, tables(given)), rtol=1e-6, atol=1e-6
    )


def test_means_are_refused():
    given = arguments()
    given.pooling_mode = 1
    with pytest.raises(NotImplementedError):
        run("codegen_forward", given)


def test_sgd():
    given = arguments()
    expected = [weight - LR * gradient for weight, gradient in zip(tables(given), gradients(given), strict=True)]
    run("backward_codegen_sgd", given)
    torch.testing.assert_close(tables(given), expected, rtol=1e-6, atol=1e-6)


def test_replicated_tables_are_looked_up_and_get_a_gradient():
    given = arguments()
    whole = SimpleNamespace(**vars(given))
    del whole.weights_placements, whole.uvm_weights
    whole.dev_weights = torch.cat([given.dev_weights, given.uvm_weights])
    whole.weights_offsets = torch.tensor([0, given.dev_weights.numel()])
    found = KERNELS["fbgemm::dense_embedding_codegen_forward_unweighted_cuda"](whole)
    torch.testing.assert_close(found.double(), pooled(given, tables(given)), rtol=1e-6, atol=1e-6)
    gradient = KERNELS["fbgemm::split_embedding_backward_codegen_dense_unweighted_exact_cuda"](whole)
    expected = torch.cat([part.flatten() for part in gradients(given)])
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("by_row", [False, True])
def test_adagrad(by_row):
    dims = (1, 1) if by_row else DIMS
    given = arguments(**state([rows * dim for rows, dim in zip(ROWS, dims, strict=True)]))
    expected, sums = [], []
    before = tables(given, "momentum1", dims)
    for weight, gradient, sum_RD in zip(tables(given), gradients(given), before, strict=True):
        squares = gradient.square()
        sums.append(sum_RD + (squares.mean(1, keepdim=True) if by_row else squares))
        expected.append(weight - LR * gradient / (sums[-1].sqrt() + EPS))
    run("backward_codegen_rowwise_adagrad" if by_row else "backward_codegen_adagrad", given)
    torch.testing.assert_close(tables(given), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(tables(given, "momentum1", dims), sums, rtol=1e-6, atol=1e-6)


def test_adam_is_that_of_torch_for_the_rows_that_are_touched():
    elements = [rows * dim for rows, dim in zip(ROWS, DIMS, strict=True)]
    moments = {name: torch.zeros(sum(elements)) for name in ("momentum2_dev", "momentum2_uvm")}
    places = {
        f"momentum2_{name}": value
        for name, value in (("placements", torch.tensor([0, 1])), ("offsets", torch.zeros(2)))
    }
    given = arguments(**state(elements), **moments, **places, beta1=0.9, beta2=0.99, iter=1)
    given.momentum1_dev.zero_()
    given.momentum1_uvm.zero_()
    weights = [weight.requires_grad_() for weight in tables(given)]
    optimizer = torch.optim.Adam(weights, lr=LR, betas=(0.9, 0.99), eps=EPS)
    pooled(given, weights).backward(given.grad_output.double())
    optimizer.step()  # what has no gradient stays as it is in the first step
    run("backward_codegen_adam", given)
    torch.testing.assert_close(tables(given), [weight.detach() for weight in weights], rtol=1e-5, atol=1e-6)


def test_arguments_are_known_by_the_names_of_the_schema():
    schema = torch.ops.aten.add.Tensor._schema
    given = by_name(schema, (1,), {"other": 2})
    assert (given.self, given.other, given.alpha) == (1, 2, 1)


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bfloat16])
def test_a_host_view_is_the_same_memory(kind):
    whole = torch.arange(24).to(kind).view(4, 6)
    part = whole[1:, ::2].t()
    view = host_view(part)
    assert view.shape == part.shape
    assert view.stride() == part.stride()
    view.fill_(7)
    assert torch.equal(part, torch.full_like(part, 7))
    assert whole[0, 0] == 0


def test_a_host_view_of_nothing_is_empty():
    assert host_view(torch.empty(0, 3)).shape == (0, 3)
