"""MLPs by oneDNN, against float64; what it is not given; where it is taken by itself."""

import pytest
import torch
from torch.nn.functional import linear

from dlrm.layers import onednn
from dlrm.layers.mlp import MLP
from dlrm.train.precision import use_onednn
from tests.unit.models.helpers import copy_parameters

CPU = torch.device("cpu")


def pair(sizes, **options):
    """An MLP by oneDNN, and one in float64 with its weights."""
    mlp, exact = MLP(13, sizes, **options), MLP(13, sizes, **options).double()
    copy_parameters(mlp, exact)
    use_onednn(mlp, "onednn", CPU)
    return mlp, exact


def calls(mlp, x):
    with torch.profiler.profile() as profile:
        mlp(x)
    return {event.name for event in profile.events()}


@pytest.mark.parametrize("samples", [300, 1])
@pytest.mark.parametrize("relu_last", [True, False])
@pytest.mark.parametrize("sizes", [(64, 32, 16), (64, 1), (1,)])
def test_outputs_and_gradients_are_those_of_float64(sizes, relu_last, samples):
    torch.manual_seed(3)
    mlp, exact = pair(sizes, relu_last=relu_last)
    x, upstream = torch.randn(samples, 13), torch.randn(samples, sizes[-1])
    inputs = [x.clone().requires_grad_(), x.double().requires_grad_()]
    outputs = [mlp(inputs[0]), exact(inputs[1])]
    assert not outputs[0].is_mkldnn
    for output in outputs:
        output.backward(upstream.to(output.dtype))
    tolerance = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(*outputs, **tolerance)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **tolerance)
    for found, expected in zip(mlp.parameters(), exact.parameters(), strict=True):
        assert found.grad.layout == torch.strided
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-4, check_dtype=False)


def test_it_is_onednn_that_computes():
    mlp, _ = pair((64, 8), relu_last=True)
    x = torch.randn(16, 13)
    assert "aten::mkldnn_linear" in calls(mlp, x)
    assert "aten::mkldnn_linear" not in calls(MLP(13, (64, 8), relu_last=True), x)


def test_no_rows_doubles_and_autocast_are_left_to_torch():
    mlp, exact = pair((64, 8), relu_last=True)
    assert mlp(torch.randn(0, 13)).shape == (0, 8)
    exact.by_onednn = True
    assert exact(torch.randn(4, 13, dtype=torch.float64)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert mlp(torch.randn(4, 13)).dtype == torch.bfloat16


def test_an_mlp_with_dropout_and_one_on_cuda_are_left_as_they_are():
    dropping, plain = MLP(13, (64, 8), relu_last=True, dropout=0.5), MLP(13, (64, 8), relu_last=True)
    use_onednn(dropping, "onednn", CPU)
    use_onednn(plain, "onednn", torch.device("cuda"))
    assert not dropping.by_onednn
    assert not plain.by_onednn


@pytest.mark.parametrize(
    ("capability", "processor", "taken"),
    [
        ("AVX512", "vendor_id\t: AuthenticAMD", True),
        ("AVX512", "vendor_id\t: GenuineIntel", False),
        ("AVX2", "vendor_id\t: AuthenticAMD", False),
    ],
)
def test_auto_takes_it_where_mkl_does_not_use_the_processors_instructions(
    tmp_path, monkeypatch, capability, processor, taken
):
    (tmp_path / "cpuinfo").write_text(processor)
    monkeypatch.setattr(onednn, "_PROCESSORS", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for choice, expected in (("auto", taken), ("mkl", False), ("onednn", True)):
        mlp = MLP(13, (8,), relu_last=True)
        use_onednn(mlp, choice, CPU)
        assert mlp.by_onednn == expected


def test_linear_takes_weights_as_they_are():
    """What :class:`MLP` stands on: only the input is in oneDNN's layout."""
    x, weight, bias = torch.randn(5, 3), torch.randn(4, 3), torch.randn(4)
    torch.testing.assert_close(linear(x.to_mkldnn(), weight, bias).to_dense(), linear(x, weight, bias))
