from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.selective import (
    augrc,
    aurc,
    e_aurc,
    gate_errors,
    risk_coverage,
    selective_risk,
)


def test_aurc_by_hand():
    # Sorted: right, wrong, right -> r_k = 0, 1/2, 1/3 -> mean 5/18
    assert aurc([0.9, 0.8, 0.1], [1, 0, 1]) == pytest.approx(5 / 18)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_aurc_is_the_mean_over_the_orders_of_ties(rows):
    confidence, y = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    values = []
    for order in permutations(range(len(rows))):
        order = np.array(order)
        if np.all(np.diff(confidence[order]) <= 0):
            wrong = ~y[order]
            values.append(np.mean(np.cumsum(wrong) / np.arange(1, len(rows) + 1)))
    assert aurc(confidence, y) == pytest.approx(np.mean(values))


def test_a_constant_score_has_the_base_risk_at_every_coverage():
    assert aurc([0.5] * 8, [1, 0, 0, 1, 1, 0, 1, 1]) == pytest.approx(3 / 8)


def test_e_aurc_of_a_perfect_ranking_vanishes_with_many_rows():
    y = np.arange(20_000) < 15_000
    assert e_aurc(-np.arange(20_000.0), y) == pytest.approx(0.0, abs=1e-4)
    assert e_aurc(np.arange(20_000.0), y) > 0.3


def test_e_aurc_at_the_ends():
    assert e_aurc([0.1, 0.2], [1, 1]) == 0.0
    assert e_aurc([0.1, 0.2], [0, 0]) == pytest.approx(0.0)  # risk 1 whatever the order


def test_risk_coverage_has_one_point_per_distinct_confidence():
    curve = risk_coverage([0.5, 0.9, 0.5, 0.1], [1, 1, 0, 0])
    assert curve.threshold.tolist() == [0.9, 0.5, 0.1]
    assert curve.num_accepted.tolist() == [1, 3, 4]
    assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk == pytest.approx([0.0, 1 / 3, 0.5])


def test_gate_errors_by_hand():
    errors = gate_errors([1, 1, 1, 0, 0], [1, 0, 1, 1, 0])
    assert errors.accept_rate.value == 0.6
    assert errors.selective_risk.value == pytest.approx(1 / 3)
    assert errors.false_accept_rate.value == 0.5
    assert errors.false_reject_rate.value == pytest.approx(1 / 3)
    assert (errors.num_false_accepts, errors.num_false_rejects) == (1, 1)


def test_selective_risk_of_nothing_accepted_is_none_not_zero():
    result = selective_risk([0.1, 0.2], [1, 0], threshold=0.5)
    assert result.value is None
    assert result.n == 0
    assert "nothing accepted" in result.note


def test_a_row_at_the_threshold_is_accepted():
    assert selective_risk([0.5, 0.4], [0, 1], threshold=0.5).value == 1.0


def test_augrc_by_hand():
    # Right, wrong, right: share accepted and wrong 0, 0, 1/3, 1/3 at coverages 0, 1/3, 2/3, 1.
    assert augrc([0.9, 0.8, 0.1], [1, 0, 1]) == pytest.approx(1 / 3 * (1 / 6 + 1 / 3))


@pytest.mark.parametrize("decimals", [3, 1, 0])
def test_augrc_is_what_the_paper_says_of_auroc_and_accuracy(decimals):
    rng = np.random.default_rng(0)
    confidence = rng.random(300).round(decimals)
    y = rng.random(300) < 0.3 + 0.5 * confidence
    a = y.mean()
    expected = (1 - roc_auc_score(y, confidence)) * a * (1 - a) + (1 - a) ** 2 / 2
    assert augrc(confidence, y) == pytest.approx(expected)


def test_gate_errors_over_tasks_are_shares_with_intervals():
    rng = np.random.default_rng(1)
    tasks = np.repeat([f"t{i}" for i in range(40)], 5)
    g, y = rng.random(200) < 0.5, rng.random(200) < 0.6
    errors = gate_errors(g, y, tasks)
    assert errors.false_accept_rate == cluster_rate(g[~y], tasks[~y])
    assert errors.false_reject_rate == cluster_rate(~g[y], tasks[y])
    assert errors.selective_risk == cluster_rate(~y[g], tasks[g])
    assert errors.accept_rate == cluster_rate(g, tasks)
    assert gate_errors(g, y).false_accept_rate.value == errors.false_accept_rate.value


def test_error_rates_of_one_class_are_undefined_with_a_note():
    errors = gate_errors([1, 0], [1, 1], ["a", "b"])
    assert errors.false_accept_rate.value is None
    assert "every proposal is acceptable" in errors.false_accept_rate.note
