"""The bounds against scipy and MAPIE, and against draws at the edge of what they allow."""

import numpy as np
import pytest
from mapie.risk_control.fwer_control import FWERFixedSequenceTesting
from mapie.risk_control.methods import (
    compute_hoeffding_bentkus_p_value,
    find_best_predict_param,
    get_r_hat_plus,
)
from scipy import stats

from specact_rl.policy.thresholds import (
    accepted_needed,
    binomial_p_values,
    conformal_step,
    default_start_count,
    fixed_sequence,
    hoeffding_bentkus_p_values,
    max_errors_allowed,
    min_certifiable_count,
)


def test_binomial_p_values_are_those_of_the_exact_test():
    for errors, n in ((0, 22), (3, 40), (14, 200), (40, 40)):
        expected = stats.binomtest(errors, n, 0.1, alternative="less").pvalue
        assert binomial_p_values(errors, n, 0.1) == pytest.approx(expected)


def test_hoeffding_bentkus_agrees_with_mapie():
    # Means that MAPIE does not take above 1, which no p-value is.
    rng = np.random.default_rng(0)
    n = 400
    means = np.append(0.0, rng.random(30) * 0.15)
    expected = compute_hoeffding_bentkus_p_value(means, n, 0.1)[:, 0]
    found = hoeffding_bentkus_p_values(means * n, np.full(31, n), 0.1)
    assert found == pytest.approx(np.minimum(expected, 1.0), rel=1e-9)


def test_a_sum_that_is_whole_on_paper_is_not_rounded_up():
    total = sum([0.1] * 30)  # 3 and a rounding error more
    assert total > 3.0
    assert hoeffding_bentkus_p_values(total, 100, 0.1) == hoeffding_bentkus_p_values(3, 100, 0.1)


@pytest.mark.parametrize("spread", ["0 or 1", "even", "narrow"])
def test_hoeffding_bentkus_rejects_a_true_hypothesis_at_most_delta_often(spread):
    rng = np.random.default_rng(1)
    size = (4000, 60)
    losses = {
        "0 or 1": lambda: rng.random(size) < 0.2,
        "even": lambda: rng.random(size) * 0.4,
        "narrow": lambda: rng.beta(20, 80, size),
    }[spread]()
    rejected = hoeffding_bentkus_p_values(losses.sum(axis=1), np.full(4000, 60), 0.2) <= 0.1
    # The mean loss is the target itself; 3 standard errors of 4,000 draws.
    assert rejected.mean() <= 0.1 + 3 * np.sqrt(0.09 / 4000)


@pytest.mark.parametrize("seed", range(20))
def test_fixed_sequence_walks_as_mapie_does(seed):
    rng = np.random.default_rng(seed)
    p_values = np.sort(rng.random(12) * 0.2) if seed % 2 else rng.random(12) * 0.2
    expected = FWERFixedSequenceTesting().run(p_values, 0.1)
    assert fixed_sequence(p_values, 0.1) == (expected[-1] if expected.size else -1)


def test_fixed_sequence_ends():
    assert fixed_sequence([], 0.1) == -1
    assert fixed_sequence([0.2, 0.0], 0.1) == -1
    assert fixed_sequence([0.1, 0.05, 0.2, 0.0], 0.1) == 1
    assert fixed_sequence([0.0, 0.0], 0.1) == 1


@pytest.mark.parametrize("seed", range(20))
def test_conformal_step_is_where_mapie_stops(seed):
    rng = np.random.default_rng(seed)
    n, steps = 37, 25
    losses = np.sort(rng.random((n, steps)), axis=1) * rng.random()
    alpha = float(rng.uniform(0.05, 0.5))
    grid = np.arange(steps, dtype=float)
    mean, bound = get_r_hat_plus(losses, grid, "crc", None, None, None)
    found = conformal_step(mean, n, target_risk=alpha)
    if bound[0] >= alpha:  # MAPIE gives the first step with a warning
        assert found == -1
    else:
        assert found == find_best_predict_param(grid, bound, np.array([alpha]))[0]


def test_conformal_step_takes_a_bound_other_than_one():
    # (9 * mean + 2) / 10 <= 0.5 up to a mean of 1/3.
    means = [0.0, 0.2, 1 / 3, 0.34, 1.5]
    assert conformal_step(means, 9, target_risk=0.5, bound=2.0) == 2


def test_conformal_step_refuses_a_loss_that_falls_or_leaves_its_bound():
    with pytest.raises(ValueError, match="must not fall"):
        conformal_step([0.1, 0.3, 0.2], 50, target_risk=0.2)
    with pytest.raises(ValueError, match="must lie in"):
        conformal_step([0.1, 1.3], 50, target_risk=0.2)


@pytest.mark.parametrize("target", [0.01, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("n", [1, 10, 22, 59, 200, 2000])
def test_errors_allowed_are_the_most_that_pass(target, n):
    allowed = max_errors_allowed(n, target, 0.1)
    assert allowed < 0 or binomial_p_values(allowed, n, target) <= 0.1
    assert binomial_p_values(allowed + 1, n, target) > 0.1


def test_a_walk_of_tasks_starts_where_half_the_target_may_be_lost():
    start = default_start_count(4000, 0.1, 0.1, hoeffding_bentkus_p_values)
    assert start == 400
    start = default_start_count(1000, 0.1, 0.1, hoeffding_bentkus_p_values)
    assert hoeffding_bentkus_p_values(np.ceil(start * 0.05), start, 0.1) <= 0.1
    # That takes more of them than the exact test of counts.
    assert start > default_start_count(1000, 0.1, 0.1)


@pytest.mark.parametrize("risk", [0.0, 0.02, 0.05, 0.08])
def test_accepted_rows_needed_have_the_power_they_are_said_to(risk):
    needed = int(accepted_needed(risk, 0.1, 0.1, power=0.8))

    def power(n):
        return stats.binom.cdf(max_errors_allowed(n, 0.1, 0.1), n, risk)

    assert power(needed) >= 0.8
    if risk == 0.0:
        assert needed == min_certifiable_count(0.1, 0.1) == 22
    else:
        assert power(int(needed * 0.7)) < 0.8  # a saw tooth is narrower


def test_a_risk_at_the_target_is_never_certified_by_more_rows():
    assert np.isinf(accepted_needed([0.1, 0.3], 0.1, 0.1)).all()
