"""An unknown label is left out, and the number says so."""

import numpy as np
import pytest

from specact_rl.eval.labelled import known, mean_of_known, paired_difference, rate
from specact_rl.metrics.rates import cluster_rate

NAN = float("nan")
TASKS = np.repeat(np.arange(4), 2)
LABELS = np.array([1.0, 0.0, NAN, 1.0, 0.0, NAN, 1.0, 1.0])


def test_rate_is_that_of_the_labelled_steps_and_counts_the_others():
    here = known(LABELS)
    found = rate(LABELS, TASKS)
    expected = cluster_rate(LABELS[here] == 1.0, TASKS[here])
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)
    assert found.n == 6
    assert found.note == "2 of 8 steps have no label and are left out"
    assert mean_of_known(LABELS) == pytest.approx(4 / 6)


def test_rate_of_labelled_steps_alone_says_nothing_of_labels():
    assert rate(np.ones(8, dtype=bool), np.arange(8)).note is None


def test_difference_is_over_steps_where_both_are_labelled():
    other = np.array([NAN, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    # Both known at steps 1, 3, 4, 6 and 7: differences 0, 1, -1, 0, 1.
    found = paired_difference(LABELS, other, TASKS, np.random.default_rng(0))
    assert found.value == pytest.approx(1 / 5)
    assert found.n == 5
    assert "3 of 8 steps" in found.note


def test_nothing_is_said_of_steps_without_any_label():
    nothing = np.full(8, NAN)
    assert rate(nothing, TASKS).value is None
    assert "none of the 8 steps" in rate(nothing, TASKS).note
    assert paired_difference(nothing, LABELS, TASKS, np.random.default_rng(0)).value is None
    assert mean_of_known(nothing) is None
