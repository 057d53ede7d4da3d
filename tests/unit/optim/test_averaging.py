import pytest
import torch

from dlrm.optim.averaging import ExponentialAverage


def test_the_average_is_the_recurrence_of_the_docstring_in_float64():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, generator=generator)
    by_hand = weight.double()
    average = ExponentialAverage([weight], decay=0.9)
    for n in range(1, 200):
        weight += torch.randn(5, 3, generator=generator) * 0.1
        average.update()
        d = min(0.9, n / (n + 10))
        by_hand = d * by_hand + (1 - d) * weight.double()
    with average.applied():
        torch.testing.assert_close(weight.double(), by_hand, rtol=1e-5, atol=1e-6)


def test_weights_are_their_own_again_after_the_average_was_applied_even_after_an_error():
    weights = [torch.arange(4.0), torch.ones(2, 2)]
    before = [weight.clone() for weight in weights]
    average = ExponentialAverage(weights, decay=0.5)
    for weight in weights:
        weight += 1
    average.update()

    def fail_inside():
        with average.applied():
            assert not torch.equal(weights[0], before[0] + 1)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    for weight, old in zip(weights, before, strict=True):
        assert torch.equal(weight, old + 1)
