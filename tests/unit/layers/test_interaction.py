import numpy as np
import pytest
import torch
from torch import nn

from dlrm.config import model as config
from dlrm.layers.interaction import DotInteraction, build_interaction


def vectors(samples: int, *dims: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(samples, dim, dtype=dtype, generator=generator) for dim in dims]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("self_interaction", [True, False])
@pytest.mark.parametrize("dense_dim", [4, 0])
def test_dot_equals_a_loop_over_the_pairs(self_interaction, training, dense_dim):
    dense, *tables = parts = vectors(3, dense_dim, 4, 4)
    module = build_interaction(
        config.DotInteraction(self_interaction=self_interaction), dense_dim=dense_dim, table_dims=[4, 4]
    ).train(training)
    output = module(dense, torch.cat(tables, dim=1)).numpy()
    assert output.shape == (3, module.out_features)
    for sample in range(3):
        rows = [part[sample].numpy() for part in parts]
        expected = list(rows[0])
        rows = rows if dense_dim else rows[1:]
        for i in range(len(rows)):
            for j in range(i if self_interaction else i + 1, len(rows)):
                expected.append(sum(rows[i][d] * rows[j][d] for d in range(4)))
        np.testing.assert_allclose(output[sample], expected, rtol=1e-12)


@pytest.mark.parametrize("dense_dim", [3, 0])
@pytest.mark.parametrize("self_interaction", [True, False])
def test_the_gradient_of_dot_equals_finite_differences(self_interaction, dense_dim):
    vectors_in_all = 3 + (dense_dim > 0)
    module = DotInteraction(3, vectors_in_all, dense_dim=dense_dim, self_interaction=self_interaction)
    dense, pooled = vectors(2, dense_dim, 9)
    assert torch.autograd.gradcheck(module, (dense.requires_grad_(), pooled.requires_grad_()))


def test_training_and_evaluation_give_the_same_products_to_the_last_bit():
    module = DotInteraction(16, 27, dense_dim=16)
    dense, pooled = vectors(5, 16, 26 * 16, dtype=torch.float32)
    assert torch.equal(module.train()(dense, pooled), module.eval()(dense, pooled))


def test_cat_puts_vectors_of_different_widths_side_by_side():
    module = build_interaction(config.CatInteraction(), dense_dim=2, table_dims=[1, 3])
    dense, pooled = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0, 5.0, 6.0]])
    assert module(dense, pooled).tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    assert module.out_features == 6


def test_cross_layers_over_different_widths_follow_their_formula():
    module = build_interaction(config.DcnInteraction(layers=2, rank=3), dense_dim=2, table_dims=[4, 1]).double()
    for bias in module.crossnet.bias:
        nn.init.normal_(bias, generator=torch.Generator().manual_seed(4))
    dense, pooled = vectors(3, 2, 5)
    output = module(dense, pooled).detach().numpy()
    assert module.out_features == output.shape[1] == 7
    net = module.crossnet
    for sample in range(3):
        x0 = x = torch.cat((dense, pooled), dim=1)[sample].numpy()
        for w, v, b in zip(net.W_kernels, net.V_kernels, net.bias, strict=True):
            x = x0 * (w.detach().numpy() @ (v.detach().numpy() @ x) + b.detach().numpy()) + x
        np.testing.assert_allclose(output[sample], x, rtol=1e-12)


def test_projection_announces_the_columns_it_returns():
    options = config.ProjectionInteraction(branch1=(8, 12), branch2=(20,))
    module = build_interaction(options, dense_dim=4, table_dims=[4, 4, 4])
    dense, pooled = vectors(3, 4, 12, dtype=torch.float32)
    assert module(dense, pooled).shape == (3, module.out_features) == (3, 4 + 3 * 5)


def test_the_indices_of_dot_are_in_no_checkpoint():
    assert DotInteraction(4, 3, dense_dim=4).state_dict() == {}
