"""The layers under autocast to bfloat16, against autograd's own graph there and against float64."""

import pytest
import torch

from dlrm.layers.dropout import SampleDropout
from dlrm.layers.interaction import DotInteraction

EPS = torch.finfo(torch.bfloat16).eps  # 2^-7: rounding to nearest is off by half of it at the most, of the value


def gradients(products, dense_BD, pooled_BX, upstream):
    """Of both inputs, and the output; the forward pass under autocast, the backward pass after it."""
    inputs = [dense_BD.clone().requires_grad_(), pooled_BX.clone().requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16):
        output = products(*inputs)
    output.backward(upstream.to(output.dtype))
    return output, [tensor.grad for tensor in inputs]


def plain(dim, vectors, self_interaction):
    """The definition in operators of torch, whose gradient is autograd's."""
    first_P, second_P = torch.triu_indices(vectors, vectors, offset=0 if self_interaction else 1)

    def forward(dense_BD, pooled_BX):
        vectors_BVD = torch.cat((dense_BD, pooled_BX), dim=1).view(-1, vectors, dim)
        products_BVV = torch.bmm(vectors_BVD, vectors_BVD.transpose(1, 2))
        return torch.cat((dense_BD, products_BVV[:, first_P, second_P]), dim=1)

    return forward


@pytest.mark.parametrize("samples", [64, 1, 0])
@pytest.mark.parametrize("dense_dim", [8, 0])
@pytest.mark.parametrize("self_interaction", [True, False])
def test_the_gradient_of_dot_in_bf16_is_that_of_autograds_graph(self_interaction, dense_dim, samples):
    generator = torch.Generator().manual_seed(1)
    vectors = 6 + (dense_dim > 0)
    module = DotInteraction(8, vectors, dense_dim=dense_dim, self_interaction=self_interaction)
    dense_BD = torch.randn(samples, dense_dim, generator=generator).bfloat16()  # as the bottom MLP returns it
    pooled_BX = torch.randn(samples, 48, generator=generator)
    upstream = torch.randn(samples, module.out_features, generator=generator).bfloat16()
    dense_BD = dense_BD if dense_dim else dense_BD.float()
    output, found = gradients(module, dense_BD, pooled_BX, upstream)
    expected_output, expected = gradients(plain(8, vectors, self_interaction), dense_BD, pooled_BX, upstream)
    assert output.dtype == (torch.bfloat16 if dense_dim else torch.float32)
    assert torch.equal(output.float(), expected_output.float())  # what is multiplied is rounded once in both
    exact = [dense_BD.double().requires_grad_(), pooled_BX.bfloat16().double().requires_grad_()]
    plain(8, vectors, self_interaction)(*exact).backward(upstream.double())
    # A gradient is the sum of V products of bf16 numbers, here rounded once and by autograd at each of its two halves:
    # the bound is a rounding of the largest sum of absolute values, times two.
    scale = sum(tensor.abs().max().item() if tensor.numel() else 0.0 for tensor in (dense_BD, pooled_BX))
    bound = EPS * vectors * scale * (upstream.abs().max().item() if samples else 0.0)
    for here, autograd, right, tensor in zip(found, expected, exact, (dense_BD, pooled_BX), strict=True):
        assert here.dtype == tensor.dtype
        torch.testing.assert_close(here.double(), right.grad, rtol=EPS, atol=bound)
        torch.testing.assert_close(here, autograd, rtol=2 * EPS, atol=bound)
        if samples == 64 and tensor.numel():  # on the whole not further from the exact gradient than autograd's own
            errors = [(of.double() - right.grad).square().mean().item() for of in (here, autograd)]
            assert errors[0] <= 1.5 * errors[1] + 1e-12


def test_evaluation_in_bf16_gives_the_products_of_training():
    module = DotInteraction(16, 27, dense_dim=16)
    dense_BD, pooled_BX = torch.randn(5, 16).bfloat16(), torch.randn(5, 26 * 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.train()(dense_BD, pooled_BX), module.eval()(dense_BD, pooled_BX))


@pytest.mark.parametrize("share", [0.3, 0.1])
def test_dropout_of_bf16_scales_as_that_of_float32(share):
    hidden_BH = torch.randn(40, 16).bfloat16().requires_grad_()
    found = SampleDropout(share, key=1)(hidden_BH)
    assert torch.equal(found, SampleDropout(share, key=1)(hidden_BH.float()))
    found.sum().backward()
    assert hidden_BH.grad.dtype == torch.bfloat16
