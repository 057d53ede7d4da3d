"""A program as a plain function gives the bits that the module which torch makes of it gives."""

import pytest
import torch
from torch import nn

from dlrm.inference.export.dense_program import export_dense
from dlrm.inference.exported.program import as_function


class Dense(nn.Module):
    """Weights at several depths, one of them used twice, a buffer, and an input that goes straight to the end."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6))
        self.shared = nn.Linear(6, 6)
        self.register_buffer("places", torch.tensor([3, 0, 0]))

    def forward(self, dense_BN, pooled_BX):
        x = self.shared(self.shared(self.layers(dense_BN)) + pooled_BX.float())
        return torch.cat([x.index_select(1, self.places), pooled_BX], dim=1)


@pytest.mark.parametrize("rows", [1, 32, 1000])
def test_a_function_of_a_program_gives_the_bits_of_its_module(rows):
    part = Dense()
    program = export_dense(part, dense_features=5, pooled_columns=6)
    dense_BN, pooled_BX = torch.randn(rows, 5), torch.randn(rows, 6)
    with torch.no_grad():
        found = as_function(program)(dense_BN, pooled_BX)
        assert torch.equal(found, program.module(check_guards=False)(dense_BN, pooled_BX))
        torch.testing.assert_close(found, part(dense_BN, pooled_BX), rtol=0, atol=1e-6)


def test_a_programs_weights_are_not_copied():
    program = export_dense(Dense(), dense_features=5, pooled_columns=6)
    dense = as_function(program)
    with torch.no_grad():
        dense_BN, pooled_BX = torch.randn(2, 5), torch.randn(2, 6)
        before = dense(dense_BN, pooled_BX)
        program.state_dict["shared.bias"].add_(1)
        assert not torch.equal(dense(dense_BN, pooled_BX), before)
