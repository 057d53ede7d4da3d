"""Target attention against loops in float64."""

import pytest
import torch
from torchrec.sparse.jagged_tensor import JaggedTensor

from dlrm.config.model import LocalActivation, SumPooling
from dlrm.layers.attention import AttendedHistories, LocalActivationUnit, spread, sums_by_sample

LENGTHS = [3, 0, 1, 5, 0]
DIM = 4


def rows_of(lengths, *, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(lengths), DIM, generator=generator, dtype=torch.float64)


def by_hand(unit: LocalActivationUnit, candidate_D: torch.Tensor, rows_LD: torch.Tensor) -> torch.Tensor:
    """Equation 3 for one sample."""
    total_D = torch.zeros(DIM, dtype=torch.float64)
    for row_D in rows_LD:
        hidden = torch.cat((row_D, candidate_D, candidate_D - row_D, candidate_D * row_D))
        *layers, last = unit.weigh.linears
        for layer in layers:
            hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
        weight = last.weight @ hidden + last.bias
        total_D = total_D + weight * row_D
    return total_D


def test_each_row_is_weighed_by_itself_and_the_candidate_and_nothing_is_normalised():
    torch.manual_seed(0)
    unit = LocalActivationUnit(DIM, LocalActivation(hidden=(6, 3))).double()
    candidate_BD, rows_RD = rows_of([1] * 5, seed=1).requires_grad_(), rows_of(LENGTHS, seed=2).requires_grad_()
    expected_BD = torch.stack(
        [by_hand(unit, c_D, rows) for c_D, rows in zip(candidate_BD, rows_RD.split(LENGTHS), strict=True)]
    )
    weights = [candidate_BD, rows_RD, *unit.parameters()]
    expected = torch.autograd.grad(expected_BD.square().sum(), weights)
    found_BD = unit(candidate_BD, rows_RD, torch.tensor(LENGTHS))
    torch.testing.assert_close(found_BD, expected_BD)
    torch.testing.assert_close(torch.autograd.grad(found_BD.square().sum(), weights), expected)
    assert not found_BD[[1, 4]].any()  # no history, no vector


def test_a_sample_s_vector_does_not_depend_on_the_samples_beside_it():
    torch.manual_seed(0)
    unit = LocalActivationUnit(DIM, LocalActivation())
    candidate_BD, rows_RD = rows_of([1] * 5, seed=1).float(), rows_of(LENGTHS, seed=2).float()
    together_BD = unit(candidate_BD, rows_RD, torch.tensor(LENGTHS, dtype=torch.int32))
    for b, rows in enumerate(rows_RD.split(LENGTHS)):
        alone_D = unit(candidate_BD[b : b + 1], rows, torch.tensor([LENGTHS[b]]))[0]
        torch.testing.assert_close(alone_D, together_BD[b], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0], [2]])
def test_sums_and_spreads_are_each_other_s_gradient(lengths):
    lengths_B = torch.tensor(lengths)
    rows_RD, values_BD = rows_of(lengths, seed=3).requires_grad_(), rows_of([1] * len(lengths), seed=4).requires_grad_()
    sums_BD = sums_by_sample(rows_RD, lengths_B)
    torch.testing.assert_close(sums_BD, torch.stack([part.sum(0) for part in rows_RD.split(lengths)]))
    assert torch.autograd.gradcheck(lambda rows: sums_by_sample(rows, lengths_B), rows_RD)
    spread_RD = spread(values_BD, lengths_B, sum(lengths))
    assert torch.equal(spread_RD, values_BD.repeat_interleave(lengths_B, dim=0))
    assert torch.autograd.gradcheck(lambda values: spread(values, lengths_B, sum(lengths)), values_BD)


def test_candidates_come_first_and_histories_follow_with_a_unit_each():
    torch.manual_seed(0)
    histories = {"clicked": "item", "bought": "item", "seen": "shop"}
    module = AttendedHistories(["item", "shop"], histories, DIM, LocalActivation()).double()
    lengths = {"item": [1, 1, 0, 2, 1], "shop": [1] * 5, "clicked": LENGTHS, "bought": [0, 2, 1, 0, 0], "seen": [1] * 5}
    rows = {
        name: JaggedTensor(values=rows_of(counts, seed=i), lengths=torch.tensor(counts))
        for i, (name, counts) in enumerate(lengths.items())
    }
    found = dict(zip(["item", "shop", *histories], module(rows).split(DIM, dim=1), strict=True))
    for name in ("item", "shop"):  # an absent candidate is zeros
        torch.testing.assert_close(
            found[name], torch.stack([part.sum(0) for part in rows[name].values().split(lengths[name])])
        )
    for unit, (name, of) in zip(module.units, histories.items(), strict=True):
        expected = [
            by_hand(unit, candidate_D, part)
            for candidate_D, part in zip(found[of], rows[name].values().split(lengths[name]), strict=True)
        ]
        torch.testing.assert_close(found[name], torch.stack(expected))


def test_a_plain_sum_has_no_weights():
    module = AttendedHistories(["item"], {"clicked": "item"}, DIM, SumPooling())
    assert not list(module.parameters())
    rows = {
        "item": JaggedTensor(values=rows_of([1] * 5, seed=0), lengths=torch.ones(5, dtype=torch.int64)),
        "clicked": JaggedTensor(values=rows_of(LENGTHS, seed=1), lengths=torch.tensor(LENGTHS)),
    }
    sums_BD = torch.stack([part.sum(0) for part in rows["clicked"].values().split(LENGTHS)])
    torch.testing.assert_close(module(rows)[:, DIM:], sums_BD)
