import torch
from torchrec.modules.mlp import MLP as TorchrecMLP  # noqa: N811

from dlrm.layers.mlp import MLP
from tests.unit.models.helpers import copy_parameters


def test_with_relu_last_it_is_torchrecs_mlp():
    mlp, reference = MLP(5, [7, 3], relu_last=True), TorchrecMLP(5, [7, 3], activation="relu")
    copy_parameters(mlp, reference)
    x = torch.randn(9, 5)
    assert torch.equal(mlp(x), reference(x))


def test_without_relu_last_outputs_may_be_negative():
    mlp = MLP(5, [7, 1], relu_last=False)
    x = torch.randn(9, 5)
    expected = mlp.linears[1](torch.relu(mlp.linears[0](x)))
    assert torch.equal(mlp(x), expected)
    assert mlp.out_features == 1


def test_a_single_layer_is_a_linear_map():
    mlp = MLP(5, [1], relu_last=False, dropout=0.9)
    x = torch.randn(4, 5)
    assert torch.equal(mlp(x), mlp.linears[0](x))


def test_dropout_acts_on_hidden_layers_in_training_only_and_leaves_parameter_names_alone():
    plain = MLP(5, [64, 64, 1], relu_last=False)
    dropping = MLP(5, [64, 64, 1], relu_last=False, dropout=0.5)
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in dropping.named_parameters()]
    copy_parameters(plain, dropping)
    x = torch.randn(8, 5)
    assert torch.equal(dropping.eval()(x), plain(x))
    assert not torch.equal(dropping.train()(x), plain(x))


def test_each_hidden_layer_drops_other_units():
    first, second = MLP(5, [64, 64, 1], relu_last=False, dropout=0.5).dropouts
    ones = torch.ones(8, 64)
    assert not torch.equal(first(ones), second(ones))
