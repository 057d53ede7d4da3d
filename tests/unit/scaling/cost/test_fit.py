"""Factors that correct the model, on steps that are made up of its terms."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import nnls

from dlrm.scaling.cost.fit import fitted_factors, median_error, refit, spread_of
from dlrm.scaling.cost.microbenchmarks import non_negative
from dlrm.scaling.cost.rates import TERMS
from dlrm.scaling.cost.step import step_cost
from tests.unit.scaling.cost.machines import machine
from tests.unit.scaling.cost.test_step import KINDS, RATES, whole


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(6, 4), (15, 15), (30, 8), (3, 6)])
def test_non_negative_least_squares_are_those_of_scipy(shape, seed):
    generator = np.random.default_rng(seed)
    a_NK, b_N = generator.random(shape), generator.normal(size=shape[0])
    found_K, (best_K, residual) = non_negative(a_NK, b_N, sweeps=5_000), nnls(a_NK, b_N)
    assert (found_K >= 0).all()
    assert np.linalg.norm(a_NK @ found_K - b_N) == pytest.approx(residual, abs=1e-4)
    if shape[0] >= 2 * shape[1]:  # one solution, and not a flat valley
        assert found_K == pytest.approx(best_K, abs=1e-3)


def test_no_gradient_points_down_where_the_search_ends():
    """Karush-Kuhn-Tucker: 0 where a coefficient is positive, upwards where it is 0."""
    generator = np.random.default_rng(7)
    a_NK = generator.random((20, 6)) * [1, 1e-3, 1e3, 1, 1, 1]  # of very different sizes
    b_N = a_NK @ [2, 0, 1e-3, -1, 1, 0] + generator.normal(size=20)
    x_K = non_negative(a_NK, b_N, sweeps=20_000)
    slope_K = a_NK.T @ (a_NK @ x_K - b_N) / np.linalg.norm(a_NK, axis=0)
    assert np.abs(slope_K[x_K > 0]).max(initial=0.0) < 1e-6
    assert (slope_K > -1e-6).all()
    assert 0 < (x_K > 0).sum() < 6


def test_a_column_of_nothing_gets_nothing():
    assert non_negative(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([2.0, 4.0])) == pytest.approx([3.0, 0.0])


def steps_of(factors, number, seed=0):
    """Terms of made-up steps, each of which has some larger than others; and their times."""
    generator = np.random.default_rng(seed)
    terms_s = [{term: float(generator.exponential()) for term in factors} for _ in range(number)]
    return terms_s, [sum(factors[term] * step[term] for term in factors) for step in terms_s]


def test_factors_of_steps_that_follow_the_model_are_found():
    true = {term: 0.4 + 0.15 * i for i, term in enumerate(TERMS)}
    terms_s, measured_s = steps_of(true, 200)
    assert fitted_factors(terms_s, measured_s, drawn=1e-4) == pytest.approx(true, rel=1e-2)
    held = fitted_factors(terms_s, measured_s)
    assert all(abs(held[term] - true[term]) < 0.35 * abs(1 - true[term]) + 0.05 for term in TERMS)


def test_terms_that_no_step_has_stay_as_they_are():
    true = {"products": 3.0, "lookup": 0.5}
    terms_s, measured_s = steps_of(true, 50)
    found = fitted_factors(terms_s, measured_s)
    assert {found[term] for term in TERMS if term not in true} == {1.0}
    assert found["products"] == pytest.approx(3.0, abs=0.3)
    assert found["lookup"] == pytest.approx(0.5, abs=0.2)


def test_one_step_moves_what_it_is_made_of_and_the_model_where_it_agrees():
    terms = {"products": 0.9, "lookup": 0.1}
    assert fitted_factors([terms], [1.0]) == pytest.approx(dict.fromkeys(TERMS, 1.0))
    found = fitted_factors([terms], [2.0], drawn=0.2)
    assert 2.0 > found["products"] > found["lookup"] > 1.0
    assert found["copy"] == 1.0
    # Long steps count as short ones do: by their relative errors.
    scaled = fitted_factors([{term: 1e3 * value for term, value in terms.items()}], [2e3], drawn=0.2)
    assert scaled == pytest.approx(found)


@pytest.mark.parametrize("kind", ["cores", "devices"])
def test_the_whole_model_recovers_the_factors_its_steps_were_made_with(kind):
    true = {"products": 2.0, "lookup": 0.5, "update": 3.0}
    amounts = itertools.product((0.3, 1.0, 4.0), (0.3, 1.0, 4.0), (0.3, 1.0, 4.0))
    machines = [
        machine(**RATES | KINDS[kind] | {
            "flops_per_s": {"float32": 1e9 / a}, "lookup_s": (0.0, b * 1e-5, 0.0, 0.0),
            "update_s": (0.0, c * 1e-5, 0.0, 0.0),
        }) for a, b, c in amounts
    ]  # fmt: skip

    def costs(factors):
        return [step_cost(whole(), replace(one, factors=factors)) for one in machines]

    measured_s = [cost.step_s for cost in costs(true)]
    found = refit(lambda factors: [cost.terms_s for cost in costs(factors)], measured_s, rounds=5, drawn=1e-3)
    assert {term: found[term] for term in true} == pytest.approx(true, rel=0.05)
    predicted_s = [cost.step_s for cost in costs(found)]
    assert median_error(predicted_s, measured_s) < 0.01
    assert spread_of(predicted_s, measured_s) < 0.02
    plain_s = [cost.step_s for cost in costs({})]
    assert spread_of(plain_s, measured_s) > 10 * spread_of(predicted_s, measured_s)


def test_a_term_that_steps_have_nothing_of_stays_small_in_the_next_round():
    """A factor of 0 would take the term out of the next round, which would draw it to 1 again."""
    model = machine(cores=8.0, step_s=0.1, lookup_s=(0.02, 0.0, 0.0, 0.0))

    def terms(factors):
        return [step_cost(whole(), replace(model, factors=factors)).terms_s]

    measured_s = [1e-2]  # a tenth of what the model has
    factors = [refit(terms, measured_s, rounds=rounds, drawn=1e-3)["step"] for rounds in (1, 2, 3, 4)]
    assert factors == pytest.approx([factors[0]] * 4, rel=1e-3)


def test_errors_by_hand():
    assert spread_of([1.0, 1.0], [2.0, 0.5]) == pytest.approx(math.log(2))
    assert spread_of([3.0], [3.0]) == 0
    assert median_error([1.1, 2.0, 5.0], [1.0, 2.0, 4.0]) == pytest.approx(0.1)
