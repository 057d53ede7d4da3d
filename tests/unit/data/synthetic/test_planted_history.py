"""Planted histories: what they do to the true logit is what their module says, and only attention can tell it."""

import pytest
import torch
from pydantic import ValidationError

from dlrm.config.data import PlantedData
from dlrm.data.synthetic.planted import planted_dataset

OPTIONS = {"num_dense": 2, "rows": (20, 5), "validation_samples": 3000}
CONFIG = PlantedData(**OPTIONS, history={"max_length": 8, "items": 60, "interests": 12, "share": 0.5})


@pytest.fixture(scope="module")
def source():
    return planted_dataset(CONFIG).validation


@pytest.fixture(scope="module")
def samples(source):
    return source.read(torch.arange(3000))


def of_history(source, samples):
    """The module's sum, by loops, from what a model sees and the strengths of the items."""
    strength = source._hidden.draw.histories._strength.tolist()
    sums = []
    for ids, length in zip(samples.ids_BS.tolist(), samples.lengths_BF[:, -1].tolist(), strict=True):
        item, history = ids[2], ids[3 : 3 + length]
        sums.append(sum(strength[seen] for seen in history if seen % 12 == item % 12))
    return torch.tensor(sums, dtype=torch.float64)


def test_the_candidate_s_own_interest_decides_which_items_count(source, samples):
    """Besides it the true logit holds what it holds without histories: a regression on both leaves nothing."""
    without = planted_dataset(PlantedData(**OPTIONS)).validation.true_logits(torch.arange(3000))
    parts_B3 = torch.cat((of_history(source, samples)[:, None], without, torch.ones(3000, 1)), dim=1)
    logits_B1 = source.true_logits(torch.arange(3000))
    weights_31 = torch.linalg.lstsq(parts_B3, logits_B1).solution
    torch.testing.assert_close(parts_B3 @ weights_31, logits_B1, rtol=0, atol=1e-4)
    variance = logits_B1.var()
    assert (weights_31[0] ** 2 * parts_B3[:, 0].var() / variance).item() == pytest.approx(0.5, abs=0.05)
    assert variance.sqrt().item() == pytest.approx(CONFIG.signal, rel=0.05)


def test_lengths_are_uniform_from_none_to_the_longest_and_strengths_within_a_half_and_three_halves(source, samples):
    counts = samples.lengths_BF[:, -1].bincount(minlength=9)
    assert len(counts) == 9
    assert ((counts - 3000 / 9).abs() < 5 * (3000 / 9) ** 0.5).all()
    strength = source._hidden.draw.histories._strength
    assert (int(strength.min()), int(strength.max())) == (16, 48)


def test_a_sample_is_the_same_in_whatever_portion_it_is_read(source, samples):
    for start, end in ((0, 1), (1, 700), (700, 3000)):
        part = source.read(torch.arange(start, end))
        for name in ("dense_BN", "ids_BS", "labels_BT", "lengths_BF"):
            assert torch.equal(getattr(part, name), getattr(samples, name)[start:end])


def test_the_features_of_other_planted_data_are_what_they_are_without_histories(samples):
    plain = planted_dataset(PlantedData(**OPTIONS)).validation.read(torch.arange(3000))
    assert torch.equal(samples.ids_BS[:, :2], plain.ids_BS)
    assert torch.equal(samples.dense_BN, plain.dense_BN)
    assert plain.lengths_BF is None


def test_interests_have_as_many_items_each():
    with pytest.raises(ValidationError, match=r"items is 50, which is no multiple of interests \(12\)"):
        PlantedData(history={"items": 50, "interests": 12})
