"""The smallest mix within a budget, against all mixes by brute force."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from sklearn.metrics import log_loss

from dlrm.errors import ConfigError
from dlrm.inference.quantise import budget as search
from dlrm.inference.quantise.budget import smallest_mix
from dlrm.inference.quantise.knapsack import smallest_choice
from dlrm.inference.quantise.mixes import MixScorer, choices, table_bytes
from dlrm.inference.quantise.scores import one_thread

VARIED = (0, 2, 3)
"""Tables of the tiny run of 40, 300 and 20 rows."""


@pytest.mark.parametrize("seed", range(30))
def test_the_smallest_choice_is_that_of_brute_force(seed):
    random = np.random.default_rng(seed)
    costs = [[0.0, *random.integers(0, 400, 3)] for _ in range(5)]
    sizes = [sorted(random.integers(1, 1000, 4).tolist(), reverse=True) for _ in range(5)]
    limit = 400.0  # steps are a tenth: nothing is rounded
    found = smallest_choice(costs, sizes, limit)
    assert found is not None

    def total(numbers: list[list[float]], items: tuple[int, ...]) -> float:
        return sum(group[item] for group, item in zip(numbers, items, strict=True))

    fitting = [items for items in product(range(4), repeat=5) if total(costs, items) <= limit]
    assert total(costs, found) <= limit
    assert total(sizes, found) == min(total(sizes, items) for items in fitting)


def test_no_choice_and_no_limit():
    assert smallest_choice([[2.0, 3.0]], [[1, 1]], 1.0) is None
    assert smallest_choice([[0.0, 1e-9], [0.0, 0.0]], [[9, 1], [9, 1]], 0.0) == (0, 1)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def scorer(tiny_variants, tiny_validation):
    return MixScorer(tiny_variants, "fp32", tiny_validation)


@pytest.fixture
def three_tables(monkeypatch):
    """The 64 mixes in which three tables differ; the other two stay in float32."""

    def some(manifest):
        return [found if number in VARIED else ("fp32",) for number, found in enumerate(choices(manifest))]

    monkeypatch.setattr(search, "choices", some)


@pytest.fixture(scope="module")
def rises(tiny_variants, tiny_validation):
    possible = [found if n in VARIED else ("fp32",) for n, found in enumerate(choices(tiny_variants.folder.manifest))]
    return brute_force(tiny_variants, tiny_validation, possible)


def brute_force(variants, scored, possible) -> dict[tuple[str, ...], float]:
    """The rise of the log loss of each mix: a predictor each, scikit-learn's log loss in float64."""
    labels = scored.labels_RT[:, 0].numpy()

    def loss(predictor) -> float:
        logits = predictor.logits(scored.features)[:, 0].double().numpy()
        return float(log_loss(labels, 1 / (1 + np.exp(-logits))))

    reference = loss(variants.base)
    return {mix: loss(variants.predictor(mix, "fp32")) - reference for mix in product(*possible)}


@pytest.mark.parametrize("share", [0.15, 0.8])
def test_the_smallest_mix_of_three_tables_is_that_of_brute_force(scorer, tiny_variants, three_tables, rises, share):
    manifest = tiny_variants.folder.manifest
    budget = float(np.quantile([rise for rise in rises.values() if rise > 0], share))
    smallest = min(table_bytes(manifest, mix) for mix, rise in rises.items() if rise <= budget)
    found = smallest_mix(scorer, manifest, budget, tell=lambda _: None)
    assert table_bytes(manifest, found.mix) == smallest
    assert found.rise == pytest.approx(rises[found.mix], abs=1e-9)
    assert {mix[1] for mix in rises} == {"fp32"}


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_many_tables_keep_the_budget_together_and_are_nearly_as_small_as_can_be(
    scorer, tiny_variants, monkeypatch, share
):
    manifest = tiny_variants.folder.manifest
    four = [*choices(manifest)[:-1], ("fp32",)]
    monkeypatch.setattr(search, "choices", lambda _: four)
    monkeypatch.setattr(search, "MOST_MIXES", 1)
    mixes = list(product(*four))
    costs = dict(zip(mixes, scorer.costs(mixes), strict=True))
    budget = float(np.quantile([cost.rise for cost in costs.values() if cost.rise > 0], share))
    smallest = min(table_bytes(manifest, mix) for mix, cost in costs.items() if cost.rise <= budget)
    found = smallest_mix(scorer, manifest, 1.0, tell=lambda _: None)
    assert found.mix == tuple(precisions[-1] for precisions in four)
    found = smallest_mix(scorer, manifest, budget, tell=lambda _: None)
    assert costs[found.mix].rise <= budget
    assert table_bytes(manifest, found.mix) <= 1.1 * smallest


def test_divergences_of_tables_add_up(scorer, tiny_variants):
    """What the search stands on; the tables' errors have nothing to do with each other."""
    manifest = tiny_variants.folder.manifest
    lowest = tuple(precisions[-1] for precisions in choices(manifest))
    alone = [(*scorer.plain[:i], lowest[i], *scorer.plain[i + 1 :]) for i in range(len(lowest))]
    together, *parts = [cost.divergence for cost in scorer.costs([lowest, *alone])]
    assert min(parts) > 0
    assert together == pytest.approx(sum(parts), rel=0.3)


def test_a_dense_part_that_costs_more_than_the_budget_is_an_error(tiny_variants, tiny_validation):
    scorer = MixScorer(tiny_variants, "int8", tiny_validation)
    (plain,) = scorer.costs([scorer.plain])
    with pytest.raises(ConfigError, match="the dense part alone raises the log loss by"):
        smallest_mix(scorer, tiny_variants.folder.manifest, plain.rise - 1e-6, tell=lambda _: None)


def test_samples_without_a_label_decide_nothing(tiny_variants, tiny_validation):
    unlabelled = replace(tiny_validation, weights_RT=0 * tiny_validation.weights_RT)
    with pytest.raises(ConfigError, match=r"data: has no label in 512 samples of .*: give data with labels"):
        MixScorer(tiny_variants, "fp32", unlabelled)
    one = unlabelled.weights_RT.clone()
    one[7] = 1
    MixScorer(tiny_variants, "fp32", replace(tiny_validation, weights_RT=one))
