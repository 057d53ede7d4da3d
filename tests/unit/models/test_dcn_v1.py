"""DCN's first version by hand in float64, and its cross layers against torchrec's."""

import numpy as np
import pytest
import torch
from torchrec.modules.crossnet import VectorCrossNet

from dlrm.config.model import DcnV1Model
from dlrm.layers.cross import VectorCross
from tests.unit.models.helpers import assert_logits_by_hand, copy_parameters, mlp_by_hand


def by_hand(weights, dense_N, pooled):
    x0 = x = np.concatenate([dense_N, *pooled])
    for layer in range(3):
        w, b = weights[f"cross.kernels.{layer}"], weights[f"cross.bias.{layer}"]
        x = np.array([x0[i] * sum(x * w[:, 0]) + b[i, 0] + x[i] for i in range(len(x))])
    return weights["cross_logits.weight"] @ x + mlp_by_hand(x0, weights, "deep_mlp")


@pytest.mark.parametrize("num_dense", [3, 0])
def test_logits_are_those_of_the_definition(num_dense):
    tables = {"cat_1": {"embedding_dim": 8}}
    config = DcnV1Model(embedding_dim=4, cross_layers=3, deep_mlp=(6, 4), tables=tables)
    model = assert_logits_by_hand(config, by_hand, num_dense=num_dense)
    assert model.groups == ["cross", "cross_logits", "deep_mlp"]
    assert all((bias == 0).all() for bias in model.cross.bias)


def test_cross_layers_compute_what_torchrecs_do():
    torch.manual_seed(0)
    theirs, ours = VectorCrossNet(7, 4).double(), VectorCross(7, 4).double()
    for bias in theirs.bias:
        torch.nn.init.normal_(bias)
    copy_parameters(theirs, ours)
    x_BX = torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x_BX), theirs(x_BX))
