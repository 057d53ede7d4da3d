"""Wukong against its definition in float64."""

import numpy as np
import pytest
import torch

from dlrm.config.model import WukongModel
from dlrm.schema import Schema
from tests.unit.models.helpers import assert_logits_by_hand, cpu_model, mlp_by_hand

SIZES = {
    "embedding_dim": 4,
    "layers": 3,
    "fm_vectors": 2,
    "linear_vectors": 3,
    "fm_rank": 2,
    "fm_mlp": (7,),
    "dense_mlp": (6,),
    "top_mlp": (8, 5),
    "embedding_init_bound": 1.0,
}


def norm_by_hand(x, weights, name):
    mean, variance = x.mean(), ((x - x.mean()) ** 2).mean()
    return (x - mean) / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def layer_by_hand(x_VD, weights, name):
    vectors, dim = x_VD.shape
    products_VV = np.array([[sum(a * b) for b in x_VD] for a in x_VD])
    if f"{name}.fm.weight.weight" in weights:
        y_VK = weights[f"{name}.fm.weight.weight"].T
    else:
        compressed_KD = weights[f"{name}.fm.compress.weight"] @ x_VD
        y_VK = mlp_by_hand(compressed_KD.T.flatten(), weights, f"{name}.fm.attention").reshape(vectors, -1)
    fm = norm_by_hand((products_VV @ y_VK).flatten(), weights, f"{name}.fm_norm")
    fmb = mlp_by_hand(fm, weights, f"{name}.fm_mlp").reshape(-1, dim)
    lcb = weights[f"{name}.linear.weight"] @ x_VD
    residual = weights[f"{name}.residual.weight"] @ x_VD if f"{name}.residual.weight" in weights else x_VD
    whole = np.concatenate([fmb, lcb]) + residual
    return np.stack([norm_by_hand(row, weights, f"{name}.norm") for row in whole])


def by_hand(weights, dense_N, pooled):
    x_VD = np.stack(pooled)
    if len(dense_N):
        x_VD = np.concatenate([mlp_by_hand(dense_N, weights, "dense_mlp")[None], x_VD])
    for layer in range(SIZES["layers"]):
        x_VD = layer_by_hand(x_VD, weights, f"stack.{layer}")
    return mlp_by_hand(x_VD.flatten(), weights, "top_mlp")


@pytest.mark.parametrize("num_dense", [3, 0])
@pytest.mark.parametrize("attention", [(), (6,)])
def test_logits_are_those_of_the_definition(num_dense, attention):
    config = WukongModel(**SIZES, attention_mlp=attention)
    model = assert_logits_by_hand(config, by_hand, num_dense=num_dense)
    assert model.groups == [*(["dense_mlp"] if num_dense else []), "stack", "top_mlp"]
    assert isinstance(model.stack[0].residual, torch.nn.Linear)  # 3 or 4 vectors become 5
    assert isinstance(model.stack[1].residual, torch.nn.Identity)


def test_norms_start_with_weight_1_and_bias_0():
    model = cpu_model(WukongModel(**SIZES), Schema.numbered(1, (5, 6)))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * SIZES["layers"]
    for norm in norms:
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_dropout_of_the_layers_is_not_the_same():
    model = cpu_model(WukongModel(**SIZES, dropout=0.5), Schema.numbered(1, (5, 6)))
    keys = {layer.fm_mlp.dropouts[0].key for layer in model.stack} | {model.top_mlp.dropouts[0].key}
    assert len(keys) == SIZES["layers"] + 1
