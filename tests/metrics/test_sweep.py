import numpy as np
import pytest

from specact_rl.metrics.sweep import sweep_ece


def naive_sweep(p, y):
    """Algorithm 1 of Roelofs et al. (2022) on rows without ties, a bin at a time."""
    order = np.argsort(p)
    p, y, n = p[order], y[order], p.size

    def bins(b):
        number = np.floor((np.arange(n) + 0.5) * b / n)
        return [np.flatnonzero(number == k) for k in range(b) if (number == k).any()]

    chosen = bins(1)
    for b in range(2, n + 1):
        rows = bins(b)
        if np.any(np.diff([y[r].mean() for r in rows]) < 0):
            break
        chosen = rows
    return sum(abs(p[r].sum() - y[r].sum()) for r in chosen) / n, len(chosen)


@pytest.mark.parametrize("seed", range(20))
def test_sweep_is_that_of_the_algorithm_as_written(seed):
    rng = np.random.default_rng(seed)
    n = [5, 60, 400][seed % 3]
    p = rng.random(n)
    y = rng.random(n) < p**2
    expected, num_bins = naive_sweep(p, y)
    found = sweep_ece(p, y)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.note.startswith(f"{num_bins} bins" if num_bins > 1 else "one bin")


def test_sweep_by_hand():
    # Two bins: 1/2, 1/2. Three: {0}, {1, 0}, {1}: 0, 1/2, 1. Four: 0, 1, 0, 1 falls.
    # So three: (|.1 - 0| + |.5 - 1| + |.4 - 1|) / 4.
    found = sweep_ece([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1])
    assert found.value == pytest.approx(0.3)
    assert found.note == "3 bins"


def test_equal_probabilities_share_a_bin():
    # Two distinct values, one bin each: (|.2 * 3 - 0| + |.8 * 2 - 2|) / 5.
    found = sweep_ece([0.8, 0.2, 0.2, 0.8, 0.2], [1, 0, 0, 1, 0])
    assert found.value == pytest.approx(0.2)
    assert found.note == "2 bins"


def test_a_score_that_points_the_wrong_way_is_left_with_one_bin_and_a_warning():
    p = np.linspace(0.05, 0.95, 50)
    found = sweep_ece(p, p < 0.5)
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert "cancel" in found.note


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_and_constant_probabilities_have_an_answer(label):
    # Every gap has the same sign, so that the bins do not matter: |mean p - label|.
    p = np.linspace(0.1, 0.5, 4000)
    assert sweep_ece(p, np.full(4000, label)).value == pytest.approx(abs(0.3 - label))
    alone = sweep_ece([0.3], [label])
    assert (alone.value, alone.note) == (pytest.approx(abs(0.3 - label)), "one bin")
    assert sweep_ece([0.25] * 8, [1, 0] * 4).value == pytest.approx(0.25)
