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


class CachingKernel:
    """What fbgemm does with a table in host memory: rows are looked up and trained in a cache in front of it."""

    def __init__(self, table_RD):
        self.table_RD, self.cached = table_RD, {}

    def look_up(self, row):
        return self.cached.setdefault(row, self.table_RD[row].clone())

    def train(self, row, change):
        self.look_up(row).add_(change)

    def flush(self):
        for row, values_D in self.cached.items():
            self.table_RD[row] = values_D

    def purge(self):
        self.cached.clear()


def test_rows_that_a_kernel_trains_in_its_cache_are_averaged_and_replaced_like_others():
    table_RD = torch.arange(6.0).view(3, 2)
    kernel = CachingKernel(table_RD)
    by_hand = weight = table_RD[1].double()
    average = ExponentialAverage([table_RD], decay=0.9, cache=kernel)
    for n in range(1, 50):
        kernel.train(1, 0.25)
        weight = weight + 0.25
        average.update()
        d = min(0.9, n / (n + 10))
        by_hand = d * by_hand + (1 - d) * weight
    with average.applied():
        torch.testing.assert_close(kernel.look_up(1).double(), by_hand, rtol=1e-5, atol=1e-6)
    assert torch.equal(kernel.look_up(1).double(), weight)
    assert torch.equal(kernel.look_up(0), torch.tensor([0.0, 1.0]))
    kernel.train(1, 0.25)
    average.start_from_weights()
    with average.applied():
        assert torch.equal(kernel.look_up(1).double(), weight + 0.25)


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
