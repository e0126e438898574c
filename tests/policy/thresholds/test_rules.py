"""Rules without a promise, against trying every cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.errors import ConfigError
from specact_rl.policy.gates import decide
from specact_rl.policy.thresholds import (
    ThresholdRequest,
    choose_by_chow,
    choose_by_cost,
    choose_by_utility,
    chow_accepts,
)

ROWS = st.lists(
    st.tuples(st.integers(0, 10), st.booleans(), st.booleans(), st.integers(1, 4)),
    min_size=1,
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, budget=st.sampled_from([0.2, 0.5, 1.0, 1.7, 5.0]), each=st.booleans())
def test_cost_threshold_is_the_most_accurate_within_the_budget(rows, budget, each):
    p, c, s, cost = (np.array([r[i] for r in rows]) for i in range(4))
    p, cost = p / 10, cost if each else np.ones(len(rows))

    def spent(threshold):
        return 0.25 + np.mean(np.where(decide(p, threshold), 0.0, cost))

    def accuracy(threshold):
        return np.mean(np.where(decide(p, threshold), c, s))

    choice = choose_by_cost(
        p, c, s, budget=budget, overhead=0.25, fallback_cost=cost if each else 1.0
    )
    within = [t for t in [None, *np.unique(p)] if spent(t) <= budget + 1e-9]
    assert choice.feasible == bool(within)
    if within:
        assert spent(choice.threshold) <= budget + 1e-9
        assert accuracy(choice.threshold) == pytest.approx(max(map(accuracy, within)))
    else:
        assert choice.threshold == 0.0
        assert "no threshold is within the budget" in choice.message


def test_of_equal_accuracies_the_cheaper_is_taken():
    choice = choose_by_cost(
        [0.9, 0.5, 0.1], [1, 1, 0], [1, 1, 1], budget=2.0, overhead=0.0, fallback_cost=1.0
    )
    assert choice.num_accepted == 2


def test_chow_accepts_where_the_gain_is_worth_the_call():
    # .80 - .02 x 1: what is above is accepted, and what equals it.
    accepted = chow_accepts([0.9, 0.78, 0.7], 0.8, cost_weight=0.02, fallback_cost=1.0)
    assert accepted.tolist() == [True, True, False]
    each = chow_accepts([0.9, 0.5], [0.95, 0.4], cost_weight=0.02, fallback_cost=1.0)
    assert each.tolist() == [False, True]


def test_no_gate_beats_chow_when_both_probabilities_are_right():
    rng = np.random.default_rng(0)
    p, q = rng.random(2000), rng.random(2000)
    accepted = chow_accepts(p, q, cost_weight=0.1, fallback_cost=1.0)

    def utility(g):
        return np.where(g, p, q - 0.1).mean()

    best = utility(accepted)
    assert all(utility(rng.random(2000) < 0.5) < best for _ in range(20))
    assert all(utility(p >= t) < best for t in np.linspace(0, 1, 21))
    assert utility(p >= q - 0.1) == pytest.approx(best)


@pytest.mark.parametrize("fallback", [0.0, 0.3, 0.62, 0.9, 1.0])
def test_with_one_fallback_probability_the_cut_is_the_rule(fallback):
    rng = np.random.default_rng(1)
    p, y = rng.random(300).round(2), rng.random(300) < 0.5
    choice = choose_by_chow(p, y, fallback, cost_weight=0.02, fallback_cost=1.0)
    expected = chow_accepts(p, fallback, cost_weight=0.02, fallback_cost=1.0)
    assert choice.feasible
    assert (decide(p, choice.threshold) == expected).all()
    assert choice.num_accepted == expected.sum()
    # The cut is the rule's own: it does not move with the rows.
    assert choice.threshold == pytest.approx(max(fallback - 0.02, 0.0), abs=1e-6)


def test_labels_do_not_move_chow():
    p = np.linspace(0, 1, 50)
    one, other = (
        choose_by_chow(p, np.full(50, y), 0.5, cost_weight=0.1, fallback_cost=1.0) for y in (0, 1)
    )
    assert one.threshold == other.threshold
    assert (one.num_errors, other.num_errors) == (one.num_accepted, 0)


def test_a_fallback_that_is_good_at_the_same_rows_leaves_no_cut_that_is_the_rule():
    p, q = np.array([0.9, 0.6, 0.3]), np.array([0.95, 0.4, 0.1])
    choice = choose_by_chow(p, [1, 1, 0], q, cost_weight=0.0, fallback_cost=1.0)
    assert not choice.feasible
    assert choice.threshold == 0.0  # -.05 + .2 + .2 is the best of the sums
    assert "lose 0.0167 per row" in choice.message  # (.4 - .35) / 3


def test_a_fallback_that_differs_by_row_can_leave_the_cut_the_rule():
    p, q = np.array([0.9, 0.6, 0.3]), np.array([0.7, 0.5, 0.8])
    choice = choose_by_chow(p, [1, 1, 0], q, cost_weight=0.0, fallback_cost=1.0)
    assert choice.feasible
    assert choice.num_accepted == 2
    assert choice.threshold == pytest.approx(0.45)


def test_chow_is_the_utility_rule_when_probabilities_are_right_and_rows_many():
    rng = np.random.default_rng(2)
    p = rng.random(200_000)
    y = rng.random(200_000) < p
    chow = choose_by_chow(p, y, 0.7, cost_weight=0.1, fallback_cost=1.0)
    utility = choose_by_utility(p, y, 0.7, cost_weight=0.1, fallback_cost=1.0)
    assert chow.threshold == pytest.approx(0.6, abs=1e-6)
    assert utility.threshold == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rule": "accept_rate"},
        {"rule": "cost", "budget": 1.0},
        {"rule": "target_risk", "accept_rate": 0.2},
        {"rule": "utility", "fallback_accuracy": 1.2},
        {"rule": "nearest"},
        {"target_risk": 0.0},
        {"rule": "conformal_risk", "loss": "wrong_among_accepted"},
        {"rule": "cost", "budget": -1.0, "fallback_accuracy": 0.5},
    ],
)
def test_a_request_that_no_rule_can_meet_is_refused(arguments):
    with pytest.raises(ConfigError):
        ThresholdRequest(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rule": "target_risk"},
        {"rule": "task_risk", "loss": "any_wrong"},
        {"rule": "conformal_risk"},
        {"rule": "accept_rate", "accept_rate": 0.3},
        {"rule": "utility", "fallback_accuracy": 0.5},
        {"rule": "chow", "fallback_accuracy": 0.5},
        {"rule": "cost", "fallback_accuracy": 0.5, "budget": 1.0},
    ],
)
def test_every_rule_can_be_asked_for_by_name(arguments):
    rng = np.random.default_rng(3)
    p = rng.random(400)
    choice = ThresholdRequest(**arguments).choose(
        p, rng.random(400) < p, np.repeat(np.arange(100), 4), rng
    )
    assert choice.rule == arguments["rule"]
    assert choice.num_rows in (100, 400)
    promises = arguments["rule"] in ("target_risk", "task_risk", "conformal_risk")
    assert (choice.controls is not None) == promises
