"""Gates on what a proposal gains over the fallback, calibrated to (1 + E[C - S]) / 2."""

import numpy as np
import pytest

from specact_rl.metrics.frontier import gated_accuracy
from specact_rl.policy.fitting import fit_gate


def draw(seed, n=4000):
    """E[C - S] rises with z; being right falls with it: the fallback fails where z is high."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    high = 1.0 / (1.0 + np.exp(-2.0 * z))
    cheap = rng.random(n) < 0.8 - 0.3 * high
    strong = rng.random(n) < 0.95 - 0.9 * high
    return z, cheap, strong, 0.6 * high - 0.15


def gate_of(z, cheap, strong, **arguments):
    return fit_gate(
        z,
        cheap,
        strong,
        np.arange(z.size),
        verifier_id="v",
        proposer_id="p",
        calibration_hash="h",
        seed=0,
        **arguments,
    )


def test_calibrated_score_is_half_of_one_plus_the_mean_difference():
    z, cheap, strong, difference = draw(0)
    p = gate_of(z, cheap, strong, of_difference=True).p_accept(z)
    # 2,000 rows of variance below 1/2 fit a curve of two parameters: error of about .02 in C - S.
    assert np.sqrt(np.mean((2.0 * p - 1.0 - difference) ** 2)) < 0.05


def test_gate_on_the_difference_accepts_where_the_fallback_fails():
    z, cheap, strong, _ = draw(1)
    by_difference = gate_of(z, cheap, strong, of_difference=True)
    by_right = gate_of(-z, cheap, strong)  # the same score, turned to rank by being right
    new_z, new_cheap, new_strong, _ = draw(2, 40_000)
    accuracies = [
        gated_accuracy(gate.decide(gate.p_accept(scores)), new_cheap, new_strong)
        for gate, scores in ((by_difference, new_z), (by_right, -new_z))
    ]
    # Accepting all is best by -z, .65; by z where .6 h > .13, .676. Paired error: below .003.
    assert accuracies[0] > accuracies[1] + 0.015


def test_gate_on_the_difference_needs_a_fallback():
    z, cheap, _, _ = draw(0, 200)
    with pytest.raises(ValueError, match="needs a fallback"):
        gate_of(z, cheap, None, of_difference=True)
