import pytest
import torch

from dlrm.layers.dropout import SampleDropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_is_kept(share):
    output = SampleDropout(share, key=1)(torch.ones(1000, 1000))
    # standard deviations: of the share sqrt(s (1 - s) / 10^6) <= 5e-4, of the mean sqrt(s / (1 - s) / 10^6) <= 3e-3
    assert (output == 0).float().mean().item() == pytest.approx(share, abs=2.5e-3)
    assert output.mean().item() == pytest.approx(1.0, abs=1.5e-2)
    assert len(output.unique()) == 2


def test_the_parts_of_the_ranks_are_the_mask_of_the_whole_batch():
    ones = torch.ones(12, 7)
    whole = SampleDropout(0.5, key=1)
    ranks = [SampleDropout(0.5, key=1, rank=rank) for rank in range(3)]
    for _ in range(3):
        assert torch.equal(torch.cat([rank(ones[:4]) for rank in ranks]), whole(ones))


def test_every_step_drops_other_units_and_a_resumed_run_draws_what_it_would_have():
    ones = torch.ones(4, 16)
    straight = SampleDropout(0.5, key=1)
    first, second = straight(ones), straight(ones)
    assert not torch.equal(first, second)
    stopped = SampleDropout(0.5, key=1)
    stopped(ones)
    resumed = SampleDropout(0.5, key=1)
    resumed.load_state_dict(stopped.state_dict())
    assert torch.equal(resumed(ones), second)


def test_evaluation_changes_nothing_and_is_no_step():
    dropout = SampleDropout(0.5, key=1).eval()
    x = torch.randn(4, 16)
    assert dropout(x) is x
    assert dropout.steps == 0


def test_gradients_pass_where_units_are_kept_only():
    x = torch.ones(8, 32, requires_grad=True)
    output = SampleDropout(0.5, key=1)(x)
    output.sum().backward()
    assert torch.equal(x.grad, output.detach())


def test_almost_everything_may_be_dropped():
    assert torch.isfinite(SampleDropout(0.9999999, key=1)(torch.ones(64, 64))).all()
