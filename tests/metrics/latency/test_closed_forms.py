"""Formulas for the time that speculation saves: anchors, recursions, edges."""

import numpy as np
import pytest

from specact_rl.metrics.latency.closed_forms import (
    coverage_curve,
    deep_saving,
    deterministic_saving,
    effective_draws,
    expected_hits,
    exponential_saving,
    relative_extra_calls,
    worthwhile_breadth,
)

CHESS = {1: 0.313, 2: 0.413, 3: 0.547}
"""Share of next moves guessed with so many guesses, arXiv:2510.04371."""


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 11])
def test_expected_hits_solve_their_recursion(p, num_steps):
    hits = [0.0, 0.0]  # of -1 and 0 steps that have a next one
    for _ in range(num_steps - 1):
        hits.append(p * (1.0 + hits[-2]) + (1.0 - p) * hits[-1])
    assert expected_hits(p, num_steps) == pytest.approx(hits[-1])


def test_endless_episodes_are_the_limit_of_long_ones():
    assert exponential_saving(0.4, 2.0, 1.0, 10**7) == pytest.approx(
        exponential_saving(0.4, 2.0, 1.0), abs=1e-6
    )
    assert exponential_saving(0.4, 2.0, 1.0, commit=False) == pytest.approx(0.4 / 1.4 * 2 / 3)


@pytest.mark.parametrize(("k", "reported"), [(1, 0.118), (2, 0.150), (3, 0.195)])
def test_chess_as_reported_saves_about_half_of_what_instant_guesses_would(k, reported):
    bound = exponential_saving(CHESS[k], 1e9, 1.0, commit=False)
    assert bound == pytest.approx(CHESS[k] / (1 + CHESS[k]))
    assert 0.49 < reported / bound < 0.56


@pytest.mark.parametrize(("k", "draws"), [(1, 1.0), (2, 1.42), (3, 2.11)])
def test_guesses_at_chess_are_alike(k, draws):
    assert effective_draws(CHESS[k], CHESS[1]) == pytest.approx(draws, abs=0.005)


def test_effective_draws_of_independent_guesses_are_their_number():
    assert effective_draws(1 - 0.8**3, 0.2) == pytest.approx(3.0)
    assert effective_draws(0.0, 0.0) is None
    assert effective_draws(1.0, 0.4) is None
    assert effective_draws(0.4, 1.0) is None


def test_saving_with_instant_perfect_guesses_is_a_quarter_when_committed():
    assert exponential_saving(1.0, 1e12, 1.0) == pytest.approx(0.25)
    assert deterministic_saving(1.0, 0.0, 5.0) == pytest.approx(0.5)


def test_a_speculator_slower_than_the_call_saves_nothing_when_times_are_fixed():
    assert deterministic_saving(0.9, 6.0, 5.0) == 0.0
    assert deep_saving(0.9, 6.0, 5.0, 10) == 0.0


def test_one_step_has_nothing_to_speculate_on():
    assert exponential_saving(1.0, 1.0, 1.0, 1) == 0.0
    assert deep_saving(1.0, 0.0, 1.0, 1) == 0.0
    # Its guesses are made all the same.
    assert relative_extra_calls(0.5, 2.0, 1.0, 1.0, 1) == 2.0


def test_coverage_is_counted():
    hits = [[True, False, True], [False, True, False], [False, False, False], [False, False, True]]
    assert coverage_curve(hits).tolist() == [0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="shape"):
        coverage_curve(np.zeros((0, 3)))


def test_breadth_ends_where_one_more_guess_is_not_worth_its_cost():
    coverage = [0.313, 0.413, 0.547]  # adds .313, .100, .134
    assert worthwhile_breadth(coverage, saving=10.0, cost=4.0) == 0
    assert worthwhile_breadth(coverage, saving=10.0, cost=1.2) == 1
    assert worthwhile_breadth(coverage, saving=10.0, cost=0.9) == 3
    assert worthwhile_breadth([0.3, 0.3, 0.4], saving=10.0, cost=0.0) == 1
    assert worthwhile_breadth([0.0, 0.0], saving=0.0, cost=0.0) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_hits(1.2, 3), "p must be in"),
        (lambda: expected_hits(0.2, 0), "num_steps must be at least 1"),
        (lambda: exponential_saving(0.2, 0.0, 1.0), "rates must be positive"),
        (lambda: deterministic_saving(0.2, 1.0, 0.0), "times must be positive"),
        (lambda: deterministic_saving(0.2, float("nan"), 1.0), "times must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
