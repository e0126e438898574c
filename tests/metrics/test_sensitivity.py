"""Prices at which systems change places: by hand, by search over a grid, and by laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.metrics.cost import AssumedCosts, system_cost
from specact_rl.metrics.frontier import pareto_set
from specact_rl.metrics.sensitivity import (
    Crossing,
    best_stretches,
    cost_at,
    crossing,
    pareto_stretches,
    resampled_crossings,
    shares_over_draws,
    tornado,
)

CHEAP, VERIFIER, STRONG = range(3)
A, B, D = (0.0, 0.0, 1.0), (0.15, 0.0, 0.0), (0.15, 0.10, 0.785)
"""The source report's constants, with D's accept rate of 21.5 % and its fallback paid."""


def test_the_source_reports_d_becomes_cheaper_than_a_by_hand():
    # 0.15 x + 0.10 + 0.785 < 1 below x = 0.115 / 0.15, and so on.
    assert crossing(D, A, CHEAP) == Crossing(cheaper="below", at=pytest.approx(0.115 / 0.15))
    assert crossing(D, A, VERIFIER) == Crossing(cheaper="below", at=pytest.approx(0.65))
    # 0.25 + 0.785 x < x above x = 0.25 / 0.215: where the strong call is as dear as that.
    assert crossing(D, A, STRONG) == Crossing(cheaper="above", at=pytest.approx(0.25 / 0.215))
    assert crossing(A, D, STRONG) == Crossing(cheaper="below", at=pytest.approx(0.25 / 0.215))
    costs = AssumedCosts(cheap=0.115)
    assert system_cost("D", costs, accept_rate=0.215) == pytest.approx(1.0)


def test_lines_that_do_not_meet_never_change_places():
    assert crossing(B, D, STRONG) == Crossing(cheaper="always", at=None)
    assert crossing(D, B, CHEAP) == Crossing(cheaper="never", at=None)
    assert crossing(A, A, STRONG) == Crossing(cheaper="never", at=None)
    # A dearer verifier than a whole strong call: no price of the proposer makes up for it.
    assert crossing((0.15, 1.2, 0.5), A, CHEAP) == Crossing(cheaper="never", at=None)


def test_pareto_sets_of_the_source_report():
    # A .400, B .510, D .510: B is cheaper than A until x = 1 / 0.15, and D never beats B.
    found = pareto_stretches([0.40, 0.51, 0.51], [A, B, D], CHEAP)
    assert [(s.low, s.high, s.systems) for s in found] == [
        (0.0, pytest.approx(1 / 0.15), (1,)),
        (pytest.approx(1 / 0.15), None, (0, 1)),
    ]


def test_the_best_system_is_the_upper_envelope_of_utilities():
    # At a proposer's price of x: u_A = .6, u_B = .6 - .1 x, u_E = .67 - .05 x; E and A meet at 1.4.
    found = best_stretches([0.7, 0.6, 0.72], [A, (1.0, 0, 0), (0.5, 0, 0.5)], CHEAP, 0.1)
    assert [(pytest.approx(s.low), s.systems) for s in found] == [(0.0, (2,)), (1.4, (0,))]
    # At a strong price of x: u_A = .7 - .1 x, u_B = .5, u_E = .67 - .05 x; they cross at .6 and 3.4
    found = best_stretches([0.7, 0.6, 0.72], [A, (1.0, 0, 0), (0.5, 0, 0.5)], STRONG, 0.1)
    assert [(pytest.approx(s.low), s.systems) for s in found] == [
        (0.0, (0,)),
        (0.6, (2,)),
        (3.4, (1,)),
    ]
    assert found[-1].high is None


def tables(rng, m):
    costs = rng.choice([0.0, 0.1, 0.15, 0.3, 0.5, 1.0], size=(m, 3))
    costs[0] = A
    return rng.choice([0.4, 0.5, 0.51, 0.6], size=m), costs


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0, 1, 2]))
def test_stretches_agree_with_asking_at_many_prices(seed, m, role):
    rng = np.random.default_rng(seed)
    accuracy, costs = tables(rng, m)
    sets, best = pareto_stretches(accuracy, costs, role), best_stretches(accuracy, costs, role, 0.3)
    for stretches in (sets, best):
        assert stretches[0].low == 0.0
        assert stretches[-1].high is None
        pairs = list(zip(stretches, stretches[1:], strict=False))
        assert all(left.high == right.low for left, right in pairs)
        assert all(left.systems != right.systems for left, right in pairs)
    for factor in np.exp(rng.uniform(-4, 4, 40)):
        cost = cost_at(costs, role, factor)
        here, top = (
            next(s for s in stretches if s.low <= factor and (s.high is None or factor < s.high))
            for stretches in (sets, best)
        )
        assert set(here.systems) == set(pareto_set(cost, accuracy))
        utility = accuracy - 0.3 * cost
        assert utility[top.systems[0]] == pytest.approx(utility.max(), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2]))
def test_at_a_crossing_both_cost_the_same_and_its_side_is_the_cheaper_one(seed, role):
    rng = np.random.default_rng(seed)
    one, other = rng.exponential(size=(2, 3))
    found = crossing(one, other, role)
    for factor in (1e-9, 1e9) if found.at is None else (found.at * 0.9, found.at * 1.1):
        first, second = cost_at([one, other], role, factor)
        below = found.at is not None and factor < found.at
        expected = {"always": True, "never": False, "below": below, "above": not below}
        assert (first < second) == expected[found.cheaper]
    if found.at is not None:
        assert np.ptp(cost_at([one, other], role, found.at)) == pytest.approx(0.0, abs=1e-9)
        draws = resampled_crossings(one[None], other[None], role, found.cheaper)
        assert draws == pytest.approx([found.at])


def test_draws_in_which_a_system_is_always_or_never_cheaper_have_a_place():
    always, never = (0.1, 0.0, 0.2), (0.1, 0.0, 1.2)
    cost, other = np.array([D, never, always]), np.array([A, A, A])
    below = resampled_crossings(cost, other, CHEAP, "below")
    assert below.tolist() == pytest.approx([0.115 / 0.15, 0.0, 8.0])
    above = resampled_crossings(cost, other, STRONG, "above")
    assert above.tolist() == pytest.approx([0.25 / 0.215, np.inf, 0.125])
    free = np.array([[0.0, 0.0, 0.5]])
    assert resampled_crossings(free, other[:1], CHEAP, "below").tolist() == [np.inf]
    assert resampled_crossings(free, other[:1], STRONG, "above").tolist() == [0.0]


def test_a_tornado_moves_one_price_at_a_time():
    ends = tornado([A, D])
    assert ends.shape == (2, 3, 2)
    assert ends[0].tolist() == [[1.0, 1.0], [1.0, 1.0], [0.5, 2.0]]
    assert ends[1] == pytest.approx(np.array([[0.96, 1.185], [0.985, 1.135], [0.6425, 1.82]]))


def test_shares_over_draws_count_the_pareto_sets_and_the_best():
    rng = np.random.default_rng(0)
    m, draws, factors = 4, 200, [0.3, 1.0, 4.0]
    accuracy = rng.choice([0.5, 0.6, 0.7], size=(draws, m))
    costs = rng.choice([0.1, 0.4, 0.8], size=(draws, m, 3))
    on_set, best = shares_over_draws(accuracy, costs, STRONG, factors, 0.2)
    for g, factor in enumerate(factors):
        counts, firsts = np.zeros(m), np.zeros(m)
        for draw in range(draws):
            cost = cost_at(costs[draw], STRONG, factor).round(12)
            counts[pareto_set(cost, accuracy[draw])] += 1
            plain = cost_at(costs[draw], STRONG, factor)
            firsts[np.argmax(accuracy[draw] - 0.2 * plain)] += 1
        assert on_set[g].tolist() == pytest.approx((counts / draws).tolist())
        assert best[g].tolist() == pytest.approx((firsts / draws).tolist())


def test_a_table_that_is_none_is_refused():
    with pytest.raises(ValueError, match="shape"):
        cost_at([0.1, 0.2], CHEAP, 1.0)
    with pytest.raises(ValueError, match="finite and at least 0"):
        crossing((0.1, np.nan, 0.0), A, CHEAP)
    with pytest.raises(ValueError, match="each of 2 systems needs an accuracy"):
        pareto_stretches([0.4], [A, B], CHEAP)


def test_dominated_system_of_equal_cost_is_not_let_in_by_rounding():
    # .6 + .3 is below .5 + .4 in floating point; on paper both cost .9 beside .8 x.
    accuracies, costs = [0.1, 0.8], [[0.8, 0.6, 0.3], [0.8, 0.5, 0.4]]
    assert [stretch.systems for stretch in pareto_stretches(accuracies, costs, 0)] == [(1,)]
    on_set, _ = shares_over_draws(np.array([accuracies]), np.array([costs]), 0, [0.2, 1.0], 0.0)
    assert on_set.tolist() == [[0.0, 1.0], [0.0, 1.0]]
