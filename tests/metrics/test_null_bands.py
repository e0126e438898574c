import numpy as np
import pytest
from mapie.metrics.calibration import spiegelhalter_p_value, spiegelhalter_statistic
from scipy import stats

from specact_rl.metrics import METRICS, null_bands
from specact_rl.metrics.calibration import reliability_curve
from specact_rl.metrics.null_bands import (
    VARIANTS,
    all_null_bands,
    calibration_null_band,
    clustered_calibration_test,
    consistency_band,
    residual_correlation,
    spiegelhalter_test,
)


def rows(n, seed=0, power=1.0):
    rng = np.random.default_rng(seed)
    p = rng.beta(0.8, 0.6, n)
    return p, rng.random(n) < p**power


@pytest.fixture
def in_lots(monkeypatch):
    """Draw as for more rows than can be drawn one by one."""
    monkeypatch.setattr(null_bands, "EXACT_LABELS", 0)


@pytest.mark.parametrize("name", VARIANTS)
def test_bands_are_those_of_a_plain_loop(name):
    p, y = rows(300)
    p = p.round(2)  # ties
    rng = np.random.default_rng(5)
    null = [METRICS[name].compute(p, rng.random(p.size) < p).value for _ in range(200)]
    statistic, binning = VARIANTS[name]
    band = calibration_null_band(
        p,
        y,
        rng=np.random.default_rng(5),
        statistic=statistic,
        binning=binning,
        num_draws=200,
    )
    observed = METRICS[name].compute(p, y).value
    assert band.observed == pytest.approx(observed, abs=1e-12)
    assert band.mean == pytest.approx(np.mean(null), abs=1e-12)
    assert (band.low, band.high) == pytest.approx(np.quantile(null, [0.025, 0.975]), abs=1e-12)
    assert band.p_value == (1 + np.sum(np.array(null) >= observed - 1e-12)) / 201
    assert band.note is None


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("decimals", [2, 12])
def test_bands_drawn_in_lots_are_those_drawn_row_by_row(name, decimals, monkeypatch):
    p, y = rows(3000, power=1.1)
    p = p.round(decimals)
    rng = np.random.default_rng(0)
    statistic, binning = VARIANTS[name]
    how = {"statistic": statistic, "binning": binning, "num_draws": 4000, "rng": rng}
    exact = calibration_null_band(p, y, **how)
    monkeypatch.setattr(null_bands, "EXACT_LABELS", 0)
    lots = calibration_null_band(p, y, **how)
    assert "total variation" in lots.note
    assert lots.observed == pytest.approx(exact.observed, abs=1e-3)
    # The standard error of a mean or quantile of 4,000 draws is below 0.07 of the band's width.
    width = exact.high - exact.low
    for end in ("mean", "low", "high"):
        assert getattr(lots, end) == pytest.approx(getattr(exact, end), abs=0.07 * width)
    assert lots.p_value == pytest.approx(exact.p_value, abs=0.04)


@pytest.mark.usefixtures("in_lots")
def test_lots_of_unequal_rows_do_not_vary_too_much(monkeypatch):
    # In one lot a row of p = 0 and one of p = 1 would be Bin(2, 1/2); single draws never vary.
    # Two lots part them, and the bound says which of the two it was.
    for num_lots, bound, high in ((1, 1 / 1.5, 0.5), (2, 0.0, 0.0)):
        monkeypatch.setattr(null_bands, "NUM_LOTS", num_lots)
        band = calibration_null_band(
            [0.0, 1.0], [0, 1], rng=np.random.default_rng(0), n_bins=1, num_draws=500
        )
        # ((0 - 1/2)^2 + (1 - 1/2)^2) / (3 * 1/4) = 2/3.
        assert f"at most {bound:.1g} from" in band.note
        assert band.high == high


@pytest.mark.parametrize("lots", [False, True])
def test_bands_hold_at_their_nominal_rate(lots, monkeypatch):
    if lots:
        monkeypatch.setattr(null_bands, "EXACT_LABELS", 0)
    rng = np.random.default_rng(1)
    found = [all_null_bands(*rows(250, seed), rng=rng, num_draws=99) for seed in range(300)]
    # 0.1 of 300 by design, +- 3 standard errors of 0.017. One-sided tests of a discrete statistic
    # may reject less often.
    for name in VARIANTS:
        share = np.mean([bands[name].p_value <= 0.1 for bands in found])
        assert share == pytest.approx(0.1, abs=0.052)


@pytest.mark.parametrize("name", VARIANTS)
def test_bands_leave_out_overconfident_probabilities(name):
    p, y = rows(800)
    band = all_null_bands(p**3, y, rng=np.random.default_rng(0), num_draws=200)[name]
    assert band.observed > band.high
    assert band.p_value == pytest.approx(1 / 201)


def test_shuffling_rows_changes_nothing_but_the_draws():
    p, y = rows(400)
    order = np.random.default_rng(1).permutation(400)
    one = all_null_bands(p, y, rng=np.random.default_rng(0), num_draws=3000)
    other = all_null_bands(p[order], y[order], rng=np.random.default_rng(0), num_draws=3000)
    for name in VARIANTS:
        assert one[name].observed == pytest.approx(other[name].observed, abs=1e-12)
        assert one[name].high == pytest.approx(other[name].high, abs=0.004)


def test_certain_probabilities_and_single_rows_have_a_defined_answer():
    rng = np.random.default_rng(0)
    right = calibration_null_band([0.0, 1.0, 1.0], [0, 1, 1], rng=rng, num_draws=50)
    assert (right.observed, right.high, right.p_value) == (0.0, 0.0, 1.0)
    assert "every probability is 0 or 1" in right.note
    wrong = calibration_null_band([0.0, 1.0, 1.0], [0, 1, 0], rng=rng, num_draws=50)
    assert wrong.p_value == pytest.approx(1 / 51)
    alone = all_null_bands([0.4], [1], rng=rng, num_draws=50)
    assert alone["ece"].observed == pytest.approx(0.6)
    assert alone["debiased_ece"].observed is None
    assert alone["debiased_ece"].note


def test_a_constant_at_the_base_rate_is_calibrated():
    bands = all_null_bands([0.75] * 40, [1, 1, 1, 0] * 10, rng=np.random.default_rng(0))
    assert all(band.observed == pytest.approx(0.0, abs=1e-12) for band in bands.values())
    assert all(band.p_value == 1.0 for band in bands.values())


@pytest.mark.parametrize("lots", [False, True])
def test_consistency_band_of_constant_bins_is_binomial(lots, monkeypatch):
    if lots:
        monkeypatch.setattr(null_bands, "EXACT_LABELS", 0)
    p = np.repeat([0.15, 0.75], [200, 80])
    low, high = consistency_band(p, rng=np.random.default_rng(0), n_bins=2, num_draws=20_000)
    expected = [stats.binom.ppf([0.025, 0.975], n, q) / n for n, q in ((200, 0.15), (80, 0.75))]
    assert np.stack([low, high], axis=1) == pytest.approx(np.array(expected), abs=0.013)
    curve = reliability_curve(p, p > 0.5, n_bins=2)
    assert low.size == curve.count.size


def test_spiegelhalter_is_mapies():
    for power in (1.0, 1.3):
        p, y = rows(500, seed=3, power=power)
        found = spiegelhalter_test(p, y)
        assert found.statistic == pytest.approx(spiegelhalter_statistic(y.astype(int), p))
        upper = spiegelhalter_p_value(y.astype(int), p)  # of one side
        assert found.p_value == pytest.approx(2 * min(upper, 1 - upper))


def test_correlation_and_spiegelhalter_of_clusters_by_hand():
    # p = 1/5 throughout: s = 2/5, residuals 4/5 or -1/5. One cluster of two right, one of two
    # wrong: ordered pairs 2 * 16/25 + 2 * 1/25 = 34/25, over 4 * 4/25: cut at 1.
    p, clusters = [0.2] * 4, ["a", "a", "b", "b"]
    assert residual_correlation(p, [1, 1, 0, 0], clusters) == 1.0
    # Right and wrong in each: 4 * -4/25 < 0.
    assert residual_correlation(p, [1, 0, 1, 0], clusters) == 0.0
    # A third row in a, wrong: a has (7/5)^2 - 33/25 = 16/25, b 2/25, of 6 * 4/25 and 2 * 4/25.
    p, clusters, y = [0.2] * 5, ["a", "a", "a", "b", "b"], [1, 1, 0, 0, 0]
    correlation = residual_correlation(p, y, clusters)
    assert correlation == pytest.approx(18 / 32)
    # z = (.8 + .8 - .2 * 3) * .6 over variance .36 * .16 * (5 (1 - r) + r (9 + 4)).
    found = spiegelhalter_test(p, y, clusters)
    variance = 0.36 * 0.16 * (5 * 14 / 32 + 13 * 18 / 32)
    assert found.statistic == pytest.approx(0.6 / np.sqrt(variance))
    assert (found.num_clusters, found.n, found.correlation) == (2, 5, correlation)


def test_tests_of_clusters_of_one_row_are_those_of_independent_rows():
    p, y = rows(400, power=1.2)
    each = np.arange(400)
    assert residual_correlation(p, y, each) == 0.0
    assert spiegelhalter_test(p, y, each).statistic == spiegelhalter_test(p, y).statistic
    band = calibration_null_band(
        p, y, rng=np.random.default_rng(0), binning="equal_mass", num_draws=4000
    )
    found = clustered_calibration_test(p, y, each, rng=np.random.default_rng(1), num_draws=4000)
    assert found.statistic == pytest.approx(band.observed)
    assert found.p_value == pytest.approx(band.p_value, abs=0.03)


@pytest.mark.parametrize(
    ("p", "clusters", "why"),
    [
        ([0.5, 0.5], None, "0, 1/2 or 1"),
        ([0.0, 1.0], ["a", "b"], "0, 1/2 or 1"),
        ([0.2, 0.4], ["a", "a"], "one cluster"),
    ],
)
def test_spiegelhalter_says_why_it_is_undefined(p, clusters, why):
    found = spiegelhalter_test(p, [0, 1], clusters)
    assert (found.statistic, found.p_value) == (None, None)
    assert why in found.note


def dependent_rows(seed):
    """60 tasks of 8 steps; in half of the tasks one draw decides the labels of all steps."""
    rng = np.random.default_rng(seed)
    p = np.repeat(rng.random(60), 8)
    tasks = np.repeat(np.arange(60), 8)
    one, each = rng.random(60)[tasks], rng.random(480)
    return p, np.where(tasks % 2, one, each) < p, tasks


def test_clustered_tests_hold_their_level_where_that_of_independent_rows_does_not():
    rng = np.random.default_rng(0)
    data = [dependent_rows(seed) for seed in range(400)]
    clustered = [clustered_calibration_test(*d, rng=rng, num_draws=500).p_value for d in data]
    plain = [
        calibration_null_band(d[0], d[1], rng=rng, binning="equal_mass", num_draws=200).p_value
        for d in data
    ]
    z = [spiegelhalter_test(*d).p_value for d in data]
    # 0.05 +- 3 standard errors of 0.011.
    assert np.mean(np.array(clustered) <= 0.05) == pytest.approx(0.05, abs=0.033)
    assert np.mean(np.array(z) <= 0.05) == pytest.approx(0.05, abs=0.033)
    assert np.mean(np.array(plain) <= 0.05) > 0.5
    # p-values of a true hypothesis are uniform: 1/2 +- 3 standard errors of 0.015.
    assert np.mean(clustered) == pytest.approx(0.5, abs=0.045)
    assert np.mean(z) == pytest.approx(0.5, abs=0.045)


def test_clustered_test_finds_overconfidence_and_needs_two_clusters():
    p, y, tasks = dependent_rows(1)
    rng = np.random.default_rng(0)
    assert clustered_calibration_test(p**3, y, tasks, rng=rng).p_value < 0.01
    alone = clustered_calibration_test(p, y, np.zeros(480), rng=rng)
    assert alone.p_value is None
    assert "one cluster" in alone.note
