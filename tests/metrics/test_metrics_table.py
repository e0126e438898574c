import numpy as np
import pytest

from specact_rl.metrics import METRICS, METRICS_VERSION


def test_version_is_raised_with_the_values():
    # The values below are those of version 1: change them only together with the version.
    p = np.array([0.1, 0.4, 0.6, 0.8, 0.9, 0.2])
    y = np.array([0, 1, 0, 1, 1, 0])
    got = {name: METRICS[name].compute(p, y).value for name in ("auroc", "brier", "aurc")}
    # 8 of 9 pairs in order; (.01+.36+.36+.04+.01+.04)/6; r_k = 0, 0, 1/3, 1/4, 2/5, 1/2
    expected = {"auroc": 8 / 9, "brier": 0.82 / 6, "aurc": (1 / 3 + 1 / 4 + 2 / 5 + 1 / 2) / 6}
    assert got == pytest.approx(expected)
    assert METRICS_VERSION == 1


@pytest.mark.parametrize("name", METRICS)
def test_better_probabilities_have_the_better_value(name):
    rng = np.random.default_rng(0)
    truth = rng.random(2000)
    y = rng.random(2000) < truth
    good = METRICS[name].compute(truth, y).value
    # The sweep is blind to a score that points the wrong way: its frequencies do not rise.
    worse = truth**3 if name == "ece_sweep" else np.clip(1.0 - truth, 0.0, 1.0)
    bad = METRICS[name].compute(worse, y).value
    assert (good > bad) == METRICS[name].higher_is_better


@pytest.mark.parametrize("name", METRICS)
def test_shuffling_rows_changes_no_metric(name):
    rng = np.random.default_rng(1)
    p = rng.random(300).round(2)
    y = rng.random(300) < p
    order = rng.permutation(300)
    one, other = METRICS[name].compute(p, y), METRICS[name].compute(p[order], y[order])
    assert one.value == pytest.approx(other.value)
    assert one.n == 300
