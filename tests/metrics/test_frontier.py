import itertools

import numpy as np
import pytest

from specact_rl.metrics.frontier import (
    AgreementRates,
    agreement_rates,
    break_even_accept_rate,
    convex_hull,
    gate_skill,
    gate_skill_interval,
    gated_accuracy,
    hull_quality,
    implied_strong_accuracy_on_accepted,
    oracle_gate,
    pareto_set,
    peak_oracle,
    random_gate,
    worst_gate,
)

CHEAP = np.array([1, 1, 0, 0, 1, 0, 1])
STRONG = np.array([0, 1, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("num_accepted", range(8))
def test_envelopes_are_those_of_all_gates_of_that_rate(num_accepted):
    accuracies = []
    for picked in itertools.combinations(range(7), num_accepted):
        gate = np.isin(np.arange(7), picked)
        accuracies.append(gated_accuracy(gate, CHEAP, STRONG))
    rates = agreement_rates(CHEAP, STRONG)
    assert oracle_gate(rates, num_accepted / 7) == pytest.approx(max(accuracies))
    assert worst_gate(rates, num_accepted / 7) == pytest.approx(min(accuracies))
    assert random_gate(rates, num_accepted / 7) == pytest.approx(np.mean(accuracies))


def test_skill_is_accuracy_above_the_random_gate():
    rng = np.random.default_rng(0)
    c, s, g = rng.random((3, 200)) < 0.5
    rates = agreement_rates(c, s)
    above = gated_accuracy(g, c, s) - random_gate(rates, float(g.mean()))
    assert gate_skill(g, c, s) == pytest.approx(above)
    assert gate_skill(g, c, s) == pytest.approx(np.cov(g, c.astype(int) - s, ddof=0)[0, 1])


def test_a_gate_that_accepts_all_or_nothing_has_no_skill():
    for gate in (np.ones(7), np.zeros(7)):
        assert gate_skill(gate, CHEAP, STRONG) == pytest.approx(0.0)


@pytest.mark.parametrize("num_accepted", range(1, 6))
def test_skill_among_eligible_rows_is_what_random_gates_on_them_miss(num_accepted):
    # Rows 0, 1, 3, 4 and 6 are eligible; the gate takes the first of them.
    eligible = np.array([0, 1, 3, 4, 6])
    gate = np.isin(np.arange(7), eligible[:num_accepted])
    others = [
        gated_accuracy(np.isin(np.arange(7), picked), CHEAP, STRONG)
        for picked in itertools.combinations(eligible, num_accepted)
    ]
    skill = gate_skill(gate, CHEAP, STRONG, np.isin(np.arange(7), eligible))
    assert skill == pytest.approx(gated_accuracy(gate, CHEAP, STRONG) - np.mean(others))


def test_skill_is_the_eligible_rows_part_and_the_gates_own():
    rng = np.random.default_rng(1)
    c, s, v, g = rng.random((4, 300)) < 0.5
    g &= v
    gain = c.astype(float) - s
    choice = g.mean() / v.mean() * np.cov(v, gain, ddof=0)[0, 1]
    assert gate_skill(g, c, s) == pytest.approx(gate_skill(g, c, s, v) + choice)
    own = v.mean() * np.cov(g[v], gain[v], ddof=0)[0, 1]
    assert gate_skill(g, c, s, v) == pytest.approx(own)


def test_gate_that_accepts_what_is_not_eligible_is_refused():
    with pytest.raises(ValueError, match="1 that are not"):
        gate_skill([1, 1], [1, 0], [0, 0], [1, 0])


@pytest.mark.parametrize("with_eligible", [False, True])
def test_interval_of_the_skill_is_that_of_resampled_tasks(with_eligible):
    rng = np.random.default_rng(2)
    c, s, g, v = rng.random((4, 200)) < 0.5
    v = (v | g) if with_eligible else np.ones(200, dtype=bool)
    tasks = np.repeat(np.arange(40), 5)
    eligible = v if with_eligible else None
    found = gate_skill_interval(g, c, s, tasks, rng=rng, eligible=eligible)
    draws = []
    for _ in range(2000):
        rows = (rng.integers(40, size=40)[:, None] * 5 + np.arange(5)).ravel()
        draws.append(gate_skill(g[rows], c[rows], s[rows], v[rows]))
    assert found.value == pytest.approx(gate_skill(g, c, s, eligible))
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)


@pytest.mark.parametrize("accepts", [False, True])
def test_gate_that_decides_nothing_has_skill_zero_by_definition(accepts):
    v = np.array([1, 1, 0, 1, 0, 1, 1], dtype=bool)
    found = gate_skill_interval(
        v & accepts, CHEAP, STRONG, np.arange(7), rng=np.random.default_rng(0), eligible=v
    )
    assert (found.value, found.low) == (0.0, None)
    assert "by definition" in found.note


def test_peak_oracle_counts_rows_with_any_right_answer():
    assert peak_oracle(CHEAP, STRONG) == pytest.approx(6 / 7)
    rates = agreement_rates(CHEAP, STRONG)
    assert oracle_gate(rates, rates.only_cheap) == pytest.approx(6 / 7)


def test_break_even_of_the_source_constants():
    assert break_even_accept_rate(0.15, 0.10, 1.0) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="strong_cost"):
        break_even_accept_rate(0.1, 0.1, 0.0)


def test_reported_row_d_is_impossible():
    # Accepted and rejected equally good (.51), D = .51, A = .40, 21.5 % accepted.
    implied = implied_strong_accuracy_on_accepted(
        system=0.51, accept_rate=0.215, accepted=0.51, strong=0.400
    )
    assert implied == pytest.approx((0.400 - 0.785 * 0.51) / 0.215)
    assert implied == pytest.approx(-0.0016, abs=5e-5)


def test_an_uninformative_gate_at_the_reported_rates():
    rates = AgreementRates(cheap=0.51, strong=0.4, only_cheap=0.3, only_strong=0.19)
    assert random_gate(rates, 0.215) == pytest.approx(0.4237, abs=5e-5)


def test_pareto_set_of_the_corrected_source_report():
    # A, B, C, D, E with the fallback paid: B alone is worth having.
    costs, accuracies = [1.0, 0.15, 1.25, 1.035, 1.535], [0.400, 0.510, 0.400, 0.4237, 0.420]
    assert pareto_set(costs, accuracies) == [1]


def test_pareto_set_keeps_equal_systems_and_sorts_by_cost():
    assert pareto_set([2.0, 1.0, 1.0, 3.0], [0.7, 0.5, 0.5, 0.6]) == [1, 2, 0]


def test_hull_leaves_out_what_a_coin_between_two_others_beats():
    # (2, .55) is Pareto, but half-way between (1, .5) and (3, .7) is .6.
    costs, accuracies = [1.0, 2.0, 3.0, 4.0], [0.5, 0.55, 0.7, 0.65]
    assert pareto_set(costs, accuracies) == [0, 1, 2]
    assert convex_hull(costs, accuracies) == [0, 2]
    assert convex_hull([1.0, 2.0, 3.0], [0.5, 0.65, 0.7]) == [0, 1, 2]


def test_hull_is_concave_and_above_all_points():
    rng = np.random.default_rng(1)
    cost, accuracy = rng.random((2, 40))
    hull = convex_hull(list(cost), list(accuracy))
    slopes = np.diff(accuracy[hull]) / np.diff(cost[hull])
    assert np.all(np.diff(slopes) < 0)
    assert np.all(slopes > 0)
    inside = cost >= cost[hull[0]]
    assert np.all(np.interp(cost[inside], cost[hull], accuracy[hull]) >= accuracy[inside] - 1e-12)


# Area under the hull ------------------------------------------------------------------------------


def test_hull_quality_is_the_area_by_hand():
    # Hull (0, .2), (1, .6), (4, .8); (2, .5) lies below it, (5, .7) beyond the most accurate.
    costs, accuracies = [0.0, 1.0, 2.0, 4.0, 5.0], [0.2, 0.6, 0.5, 0.8, 0.7]
    area = 0.4 + 3 * 0.7 + 0.8
    assert hull_quality(costs, accuracies).value == pytest.approx(area / 5)


def test_hull_quality_over_a_part_of_the_costs_and_without_any():
    costs, accuracies = [0.0, 1.0], [0.2, 0.6]
    half = hull_quality(costs, accuracies, cost_range=(0.5, 2.0))
    assert half.value == pytest.approx((0.5 * 0.5 + 0.6) / 1.5)
    assert hull_quality([1.0, 1.0], [0.2, 0.3]).value is None
    assert hull_quality([1.0], [0.2]).value is None
    below = hull_quality(costs, accuracies, cost_range=(-1.0, 1.0))
    assert "no system costs as little" in below.note


def test_a_further_system_never_lowers_the_hull():
    rng = np.random.default_rng(0)
    for _ in range(50):
        costs, accuracies = rng.random(6), rng.random(6)
        spread = (float(costs[:5].min()), float(costs[:5].max()))
        few = hull_quality(costs[:5], accuracies[:5], cost_range=spread).value
        kept = [*range(5), 5] if costs[5] >= spread[0] else [*range(5)]
        more = hull_quality(costs[kept], accuracies[kept], cost_range=spread).value
        assert more >= few - 1e-12
