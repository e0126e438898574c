import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from specact_rl.metrics.frontier import (
    agreement_rates,
    gate_skill,
    gate_skill_interval,
    gated_accuracy,
)
from specact_rl.metrics.value import (
    break_even_auroc,
    envelope,
    gain_at_equal_rate,
    more_clusters_to_settle,
    self_oracle,
    skill_parts,
)
from specact_rl.metrics.values import MetricValue

NAN = float("nan")


def draw(seed, num_clusters=200, rows_per_cluster=5, signal=1.0):
    """Clustered C and S that depend on how hard a row is, and a score of C."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(num_clusters), rows_per_cluster)
    hard = rng.normal(size=num_clusters)[clusters] + rng.normal(size=clusters.size)
    c, s = hard + rng.normal(size=hard.size) < 0.0, hard + rng.normal(size=hard.size) < 0.6
    z = signal * c + rng.normal(size=hard.size)
    return z, c, s, clusters


def parts_of(gate, z, c, s, clusters, call_worth=0.02, seed=0):
    return skill_parts(
        gate, z, c, s, clusters, call_worth=call_worth, rng=np.random.default_rng(seed)
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("call_worth", [0.0, 0.02, 0.3])
def test_parts_add_up_to_the_skill(seed, call_worth):
    z, c, s, clusters = draw(seed)
    gate = z > 1.0
    parts = parts_of(gate, z, c, s, clusters, call_worth)
    assert parts.skill.value == pytest.approx(gate_skill(gate, c, s), abs=1e-12)
    own = parts.discrimination.value + parts.complementarity.value
    assert own == pytest.approx(parts.skill.value, abs=1e-12)
    best = parts.best_discrimination.value + parts.best_complementarity.value
    rest = parts.best_rate.value - parts.calibration_loss.value
    assert best + rest == pytest.approx(parts.skill.value, abs=1e-12)


def test_parts_are_what_they_are_called():
    # Rows: C 1101, S 0101, gate 1100: a = 1/2.
    c, s, gate = np.array([1, 1, 0, 1]), np.array([0, 1, 0, 1]), np.array([1, 1, 0, 0])
    parts = parts_of(gate, [4.0, 3.0, 2.0, 1.0], c, s, np.arange(4), call_worth=0.1)
    assert parts.discrimination.value == pytest.approx(1 / 2 - 1 / 2 * 3 / 4)
    assert parts.complementarity.value == pytest.approx(-(1 / 4 - 1 / 2 * 1 / 2))
    # Two accepted at 0.1 each and one answer gained: over never accepting.
    assert parts.net_value.value == pytest.approx((1 + 0.2) / 4)
    # In sample every row is worth accepting: the third loses nothing and saves a call.
    assert parts.in_sample_loss == pytest.approx(0.2 / 4)


@pytest.mark.parametrize("seed", range(4))
def test_best_threshold_is_where_isotonic_regression_crosses_what_a_call_is_worth(seed):
    # 0.0317 is no share of few rows, so that no block of the regression lies on it.
    z, c, s, _ = draw(seed, 60, 1)
    gain = c.astype(float) - s
    bayes = IsotonicRegression().fit(z, gain).predict(z) + 0.0317 >= 0.0
    never = np.zeros(z.size, dtype=bool)
    parts = parts_of(never, z, c, s, np.arange(z.size), call_worth=0.0317)
    assert parts.in_sample_loss == pytest.approx((bayes * (gain + 0.0317)).mean())


def test_no_threshold_is_better_in_sample_than_the_best_one():
    z, c, s, clusters = draw(3, 40, 2)
    worth = c.astype(float) - s + 0.05
    values = [((z >= t) * worth).mean() for t in [*z, np.inf]]
    parts = parts_of(z > 0.3, z, c, s, clusters, call_worth=0.05)
    achieved = ((z > 0.3) * worth).mean()
    assert parts.in_sample_loss == pytest.approx(max(values) - achieved)


def test_true_loss_lies_between_the_cross_fitted_and_the_in_sample_one_in_the_mean():
    # Scores 0 to 4 with E[D | z] = -.2, -.1, 0, .1, .2 and w = 0: the best gate accepts from z = 2
    # or 3 on, and V* = (.1 + .2) / 5 = .06. The frozen gate accepts z = 4 alone: loss .02.
    rng = np.random.default_rng(0)
    crossed, in_sample = [], []
    for _ in range(300):
        z = rng.integers(0, 5, size=400)
        c = rng.random(400) < 0.5 + 0.1 * (z - 2)
        s = rng.random(400) < 0.5
        parts = parts_of(z == 4, z, c, s, np.arange(400), call_worth=0.0, seed=int(z[0]))
        crossed.append(parts.calibration_loss.value)
        in_sample.append(parts.in_sample_loss)
    # Means of 300 draws with sd of about .02: error .0012.
    assert np.mean(crossed) < 0.02 + 0.003
    assert np.mean(in_sample) > 0.02 - 0.003
    assert np.mean(in_sample) - np.mean(crossed) < 0.02


def test_rows_in_another_order_change_nothing():
    z, c, s, clusters = draw(1)
    order = np.random.default_rng(9).permutation(z.size)
    gate = z > 0.5
    one = parts_of(gate, z, c, s, clusters)
    two = parts_of(gate[order], z[order], c[order], s[order], clusters[order])
    for name in ("skill", "discrimination", "calibration_loss", "net_value"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12)


def test_random_gates_skill_is_0_within_its_interval_at_the_nominal_rate():
    # 400 draws at 95 %: all but 20 +- 9 (two standard errors) intervals hold 0.
    misses = {"skill": 0, "discrimination": 0, "complementarity": 0}
    for seed in range(400):
        _, c, s, clusters = draw(seed, 60, 4)
        gate = np.random.default_rng(1000 + seed).random(c.size) < 0.4
        parts = parts_of(gate, gate.astype(float), c, s, clusters)
        for name in misses:
            m = getattr(parts, name)
            misses[name] += not m.low <= 0.0 <= m.high
    assert all(8 <= missed <= 32 for missed in misses.values())


def test_intervals_are_those_of_the_bootstrap():
    z, c, s, clusters = draw(2, 300, 4)
    gate = z > 0.7
    ours = parts_of(gate, z, c, s, clusters).skill
    theirs = gate_skill_interval(gate, c, s, clusters, rng=np.random.default_rng(0))
    # The ends of 10,000 draws are known to 3 % of the width, the normal shape to some more.
    assert (ours.low, ours.high) == pytest.approx(
        (theirs.low, theirs.high), abs=0.06 * (ours.high - ours.low)
    )


@pytest.mark.parametrize("everything", [True, False])
def test_gate_that_decides_nothing_has_no_skill_by_definition(everything):
    z, c, s, clusters = draw(0, 20, 2)
    parts = parts_of(np.full(z.size, everything), z, c, s, clusters)
    for m in (parts.skill, parts.discrimination, parts.complementarity):
        assert (m.value, m.low) == (0.0, None)
        assert "by definition" in m.note


def test_one_task_gives_parts_without_intervals_and_no_cross_fitted_loss():
    z, c, s, _ = draw(0, 10, 1)
    parts = parts_of(z > 0.5, z, c, s, np.zeros(10))
    assert parts.skill.low is None
    assert parts.calibration_loss.value is None
    assert "one only" in parts.calibration_loss.note
    alone = parts_of([1], [0.3], [1], [0], [0])
    assert alone.skill.value == 0.0


def test_rows_without_a_score_are_never_accepted_by_the_best_gate():
    c, s = np.ones(40), np.zeros(40)
    z = np.where(np.arange(40) < 30, 1.0, NAN)
    parts = parts_of(np.zeros(40), z, c, s, np.arange(40))
    assert parts.best_accept_rate == pytest.approx(30 / 40)
    none = parts_of(np.zeros(40), np.full(40, NAN), c, s, np.arange(40))
    assert none.best_accept_rate == 0.0


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="not be negative"):
        parts_of([1, 0], [1.0, 0.0], [1, 0], [0, 1], [0, 1], call_worth=-1.0)
    with pytest.raises(ValueError, match="scores must have shape"):
        parts_of([1, 0], [1.0], [1, 0], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="cheap_correct"):
        parts_of([1, 0], [1.0, 0.0], [1, None], [0, 1], [0, 1])


# Envelopes ----------------------------------------------------------------------------------------


def test_envelope_bounds_every_gate_and_efficiency_is_1_at_the_oracle():
    c, s = np.array([1, 1, 0, 0, 1, 0]), np.array([0, 1, 1, 1, 1, 0])
    for num in range(1, 6):
        found = []
        for picked in itertools.combinations(range(6), num):
            gate = np.isin(np.arange(6), picked)
            e = envelope(gate, c, s, np.arange(6))
            assert e.worst - 1e-12 <= e.accuracy <= e.oracle + 1e-12
            assert e.accuracy == pytest.approx(gated_accuracy(gate, c, s))
            found.append(e.efficiency.value)
        assert max(found) == pytest.approx(1.0)
        assert np.mean(found) == pytest.approx(0.0, abs=1e-12)


def test_efficiency_without_headroom_is_undefined_and_says_why():
    same = envelope([1, 0, 1], [1, 0, 1], [1, 0, 1], [0, 1, 2])
    assert same.efficiency.value is None
    assert "right on the same rows" in same.efficiency.note
    everything = envelope([1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 2])
    assert everything.efficiency.value is None
    assert "all gates of this accept rate are alike" in everything.efficiency.note


def test_interval_of_the_efficiency_covers_at_the_nominal_rate():
    # The truth by one large draw; its error is a tenth of that of the draws.
    z, c, s, clusters = draw(10_000, 40_000, 4)
    truth = envelope(z > 0.8, c, s, clusters).efficiency.value
    misses = 0
    for seed in range(300):
        z, c, s, clusters = draw(seed, 100, 4)
        m = envelope(z > 0.8, c, s, clusters).efficiency
        misses += not m.low <= truth <= m.high
    assert 4 <= misses <= 28  # 15 +- 3.4 standard errors


# Equal rates --------------------------------------------------------------------------------------


def test_gain_at_equal_rate_is_the_difference_of_two_gates_that_accept_as_many():
    c, s = np.array([1, 0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 0, 1])
    gate = np.array([1, 0, 0, 0, 1, 0])
    other = np.array([0.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    rival = np.array([0, 1, 1, 0, 0, 0])
    m = gain_at_equal_rate(gate, other, c, s, np.arange(6))
    assert m.value == pytest.approx(gated_accuracy(gate, c, s) - gated_accuracy(rival, c, s))
    constant = gain_at_equal_rate(gate, np.zeros(6), c, s, np.arange(6))
    assert constant.value == pytest.approx(gate_skill(gate, c, s))
    itself = gain_at_equal_rate(gate, gate.astype(float), c, s, np.arange(6))
    assert (itself.value, itself.low) == (0.0, None)


def test_gain_at_equal_rate_takes_rows_without_a_score_last():
    c, s = np.array([1, 0, 0]), np.array([0, 0, 1])
    m = gain_at_equal_rate([1, 1, 0], [NAN, 1.0, NAN], c, s, np.arange(3))
    # The other takes row 1 and half of rows 0 and 2, which come to nothing.
    assert m.value == pytest.approx(1 / 3)


def test_interval_of_the_gain_covers_at_the_nominal_rate():
    def two(seed, num_clusters):
        z, c, s, clusters = draw(seed, num_clusters, 4, signal=1.5)
        other = 0.7 * c + np.random.default_rng(seed + 5000).normal(size=c.size)
        return gain_at_equal_rate(z > 1.2, other, c, s, clusters)

    truth = two(77_777, 40_000).value
    misses = sum(not m.low <= truth <= m.high for m in (two(seed, 100) for seed in range(300)))
    assert 4 <= misses <= 28  # 15 +- 3.4 standard errors


# Break-even AUROC ---------------------------------------------------------------------------------


def rates_of(p11, p10, p01, p00, n=1000):
    counts = np.round(np.array([p11, p10, p01, p00]) * n).astype(int)
    c = np.repeat([1, 1, 0, 0], counts)
    s = np.repeat([1, 0, 1, 0], counts)
    return agreement_rates(c, s)


JOINTS = [(0.40, 0.10, 0.30, 0.20), (0.30, 0.25, 0.15, 0.30), (0.50, 0.05, 0.20, 0.25)]


@pytest.mark.parametrize("joint", JOINTS)
@pytest.mark.parametrize("call_worth", [0.05, 0.15])
def test_binormal_verifier_of_the_break_even_auroc_just_breaks_even(joint, call_worth):
    """Simulated: a million rows with S drawn given C, the score normal given C."""
    found = break_even_auroc(
        rates_of(*joint), call_worth=call_worth, proposal_cost=0.15, verifier_cost=0.1
    )
    assert found.possible
    rng = np.random.default_rng(4)
    n = 1_000_000
    kind = rng.choice(4, size=n, p=joint)
    c, s = kind < 2, (kind == 0) | (kind == 2)
    separation = math.sqrt(2.0) * norm.ppf(found.binormal)
    z = rng.normal(size=n) + separation * c
    assert roc_auc_score(c[:50_000], z[:50_000]) == pytest.approx(found.binormal, abs=0.008)
    order = np.argsort(-z)
    gains = np.append(0.0, np.cumsum((c.astype(float) - s + call_worth)[order])) / n
    d = gains.max() - call_worth * (0.15 + 0.1)
    b = c.mean() - s.mean() + call_worth * (1.0 - 0.15)
    # The mean gain has a standard error of below .7 / 1000.
    assert d == pytest.approx(max(0.0, b), abs=0.0025)


@pytest.mark.parametrize("joint", JOINTS)
@pytest.mark.parametrize("call_worth", [0.01, 0.05, 0.15])
@pytest.mark.parametrize("costs", [(0.15, 0.1), (0.0, 0.0), (0.3, 0.02)])
def test_bounds_without_a_model_enclose_the_binormal_answer(joint, call_worth, costs):
    found = break_even_auroc(
        rates_of(*joint), call_worth=call_worth, proposal_cost=costs[0], verifier_cost=costs[1]
    )
    if found.possible:
        assert 0.5 <= found.none_below <= found.binormal + 1e-9
        assert found.binormal <= found.all_above + 1e-9 <= 1.0 + 2e-9


def test_bounds_hold_for_piecewise_linear_roc_curves():
    """Concave curves drawn at random: below the one bound none wins, above the other all do."""
    rates, w, cost_p, cost_v = rates_of(0.40, 0.10, 0.30, 0.20), 0.1, 0.15, 0.1
    found = break_even_auroc(rates, call_worth=w, proposal_cost=cost_p, verifier_cost=cost_v)
    alpha, beta = 0.10 + w * 0.5, 0.30 - w * 0.5
    rng = np.random.default_rng(0)
    below = above = 0
    for _ in range(4000):
        steps = rng.gamma(rng.choice([0.1, 0.5, 1.0]), size=(2, 4)) + 1e-12
        steps /= steps.sum(axis=1, keepdims=True)
        steps = steps[:, np.argsort(-steps[1] / steps[0])]
        f, h = np.cumsum(np.insert(steps, 0, 0.0, axis=1), axis=1)
        auroc = np.trapezoid(h, f)
        wins = (h * alpha - f * beta).max() > w * (cost_p + cost_v) + 1e-12
        below += auroc < found.none_below
        above += auroc > found.all_above
        if auroc < found.none_below:
            assert not wins
        if auroc > found.all_above:
            assert wins
    assert min(below, above) > 100


def test_bounds_are_attained():
    # w = 0, B worse than A: G = 0, alpha = .1, beta = .3. Any ranking that finds one right answer
    # without a wrong one wins, so nothing is needed; the line h = 3 f up to 1 holds 5/6.
    found = break_even_auroc(
        rates_of(0.40, 0.10, 0.30, 0.20), call_worth=0.0, proposal_cost=0.15, verifier_cost=0.1
    )
    assert found.none_below == pytest.approx(0.5)
    assert found.binormal == pytest.approx(0.5, abs=1e-3)
    assert found.all_above == pytest.approx(5 / 6)


def test_source_reports_like_case_no_verifier_pays_when_wrong_proposals_lose_nothing():
    # The fallback is never right where the proposal is wrong.
    found = break_even_auroc(
        rates_of(0.4, 0.1, 0.0, 0.5), call_worth=0.02, proposal_cost=0.15, verifier_cost=0.1
    )
    assert not found.possible
    assert "B, the proposer alone" in found.message
    dear = break_even_auroc(
        rates_of(0.4, 0.01, 0.3, 0.29), call_worth=0.02, proposal_cost=2.0, verifier_cost=1.0
    )
    assert not dear.possible
    assert "A, the strong model alone" in dear.message


def test_dearer_verification_needs_a_better_verifier():
    found = [
        break_even_auroc(
            rates_of(0.40, 0.10, 0.30, 0.20),
            call_worth=0.1,
            proposal_cost=0.15,
            verifier_cost=cost,
        ).binormal
        for cost in (0.0, 0.1, 0.2, 0.4)
    ]
    assert found == sorted(found)
    with pytest.raises(ValueError, match="verifier_cost"):
        break_even_auroc(
            rates_of(0.4, 0.1, 0.3, 0.2), call_worth=0.1, proposal_cost=0.1, verifier_cost=-1.0
        )


# Self-oracle --------------------------------------------------------------------------------------


def test_self_oracle_is_the_mean_over_pairs_of_runs():
    runs = np.array([[1, 0, 0], [0, 0, NAN], [1, 1, NAN], [0, 0, 0], [1, NAN, NAN]])
    pairs = {0: 2 / 3, 1: 0.0, 2: 1.0, 3: 0.0}  # of row 0 two of the three pairs hold the right one
    m = self_oracle(runs, np.arange(5))
    assert m.value == pytest.approx(np.mean(list(pairs.values())))
    assert m.n == 4


def test_self_oracle_of_a_first_run_apart_pairs_it_with_each_other_one():
    runs = np.array([[0, 1, 0], [1, 0, 0], [0, 1, NAN], [NAN, 1, 1], [0, NAN, NAN]])
    m = self_oracle(runs, np.arange(5), first_apart=True)
    assert m.value == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert m.n == 3


def test_one_run_has_no_self_oracle():
    m = self_oracle(np.ones((3, 1)), np.arange(3))
    assert m.value is None
    assert "two runs" in m.note
    with pytest.raises(ValueError, match="shape"):
        self_oracle(np.ones(3), np.arange(3))


# More tasks ---------------------------------------------------------------------------------------


def test_tasks_that_settle_a_difference_are_those_of_the_power_formula():
    # Difference 1, error 1, 100 tasks: the error has to fall to 1 / 2.8016.
    z = 1.959964
    m = MetricValue(value=1.0, low=1.0 - z, high=1.0 + z, n=500, num_clusters=100)
    assert more_clusters_to_settle(m) == math.ceil(100 * ((z + 0.841621) ** 2 - 1.0))


def test_settled_and_unsettleable_differences():
    settled = MetricValue(value=1.0, low=0.5, high=1.5, n=9, num_clusters=9)
    assert more_clusters_to_settle(settled) == 0
    nothing = MetricValue(value=0.0, low=-0.5, high=0.5, n=9, num_clusters=9)
    assert more_clusters_to_settle(nothing) is None
    assert more_clusters_to_settle(MetricValue(value=0.1, n=9)) is None
