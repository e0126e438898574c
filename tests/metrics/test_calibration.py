import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from specact_rl.metrics.calibration import (
    brier_decomposition,
    brier_score,
    brier_skill,
    brier_skill_interval,
    debiased_ece,
    debiased_squared_calibration_error,
    expected_calibration_error,
    log_loss,
    reliability_curve,
)
from specact_rl.metrics.null_bands import calibration_null_band


def calibrated_rows(n, seed):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return p, rng.random(n) < p


def test_ece_of_two_bins():
    # bin [0, .5): p = .1, .1, none acceptable -> |.1 - 0| = .1, weight 2/4
    # bin [.5, 1]: p = .9, .9, one of two      -> |.9 - .5| = .4, weight 2/4   => ECE = .25
    curve = reliability_curve([0.1, 0.1, 0.9, 0.9], [False, False, True, False], n_bins=2)
    assert expected_calibration_error(curve) == pytest.approx(0.25)


def test_equal_width_curve_is_scikit_learns_away_from_edges():
    p, y = calibrated_rows(500, seed=1)
    fraction, mean = calibration_curve(y, p, n_bins=10)
    curve = reliability_curve(p, y)
    assert curve.fraction_acceptable == pytest.approx(fraction)
    assert curve.mean_predicted == pytest.approx(mean)
    assert curve.n == 500


def test_a_probability_on_an_inner_edge_goes_to_the_upper_bin():
    curve = reliability_curve([0.3, 1.0], [True, True], n_bins=10)
    assert curve.low.tolist() == [0.3, 0.9]
    assert curve.high.tolist() == [0.4, 1.0]


def test_equal_mass_bins_have_equal_counts_without_ties():
    p, y = calibrated_rows(100, seed=2)
    curve = reliability_curve(p, y, n_bins=10, binning="equal_mass")
    assert curve.count.tolist() == [10] * 10
    assert np.all(curve.low[1:] > curve.high[:-1])


def test_equal_mass_bins_never_part_equal_probabilities():
    # Six rows in three bins of two, but the four .5 have mean rank 2 -> all in the middle bin.
    curve = reliability_curve(
        [0.1, 0.5, 0.5, 0.5, 0.5, 0.9], [0, 0, 1, 0, 1, 1], n_bins=3, binning="equal_mass"
    )
    assert curve.count.tolist() == [1, 4, 1]
    assert curve.fraction_acceptable.tolist() == [0.0, 0.5, 1.0]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40),
    seed=st.integers(0, 10),
    binning=st.sampled_from(["equal_width", "equal_mass"]),
)
def test_shuffling_rows_changes_no_curve(rows, seed, binning):
    p, y = np.array([r[0] / 20 for r in rows]), np.array([r[1] for r in rows])
    order = np.random.default_rng(seed).permutation(p.size)
    one = reliability_curve(p, y, 5, binning)
    other = reliability_curve(p[order], y[order], 5, binning)
    assert one.count.tolist() == other.count.tolist()
    assert one.fraction_acceptable == pytest.approx(other.fraction_acceptable)
    assert one.mean_predicted == pytest.approx(other.mean_predicted)


def test_debiased_squared_error_by_hand():
    # One bin, p = .5 each, 3 of 4 acceptable: (.5 - .75)^2 - .75 * .25 / 3 = .0625 - .0625 = 0.
    curve = reliability_curve([0.5] * 4, [1, 1, 1, 0], n_bins=1)
    assert debiased_squared_calibration_error(curve).value == pytest.approx(0.0)
    # 4 of 4: (.5 - 1)^2 - 0 = .25, root .5.
    curve = reliability_curve([0.5] * 4, [1, 1, 1, 1], n_bins=1)
    assert debiased_ece(curve).value == pytest.approx(0.5)


def test_debiased_squared_error_is_unbiased_where_the_plug_in_is_not():
    errors = [
        debiased_squared_calibration_error(reliability_curve(*calibrated_rows(200, seed))).value
        for seed in range(400)
    ]
    standard_error = np.std(errors) / 20
    assert abs(np.mean(errors)) < 4 * standard_error
    plug_in = [
        expected_calibration_error(reliability_curve(*calibrated_rows(500, seed)))
        for seed in range(200)
    ]
    # A bin's gap is about normal with variance p(1-p)/50: E|gap| = sqrt(2/pi) sqrt(p(1-p)/50),
    # and sqrt(p(1-p)) has mean pi/8 over uniform p.
    bias = np.sqrt(2 / np.pi) * np.pi / 8 / np.sqrt(50)
    assert np.mean(plug_in) == pytest.approx(bias, abs=0.003)


def test_debiased_ece_is_clipped_at_zero():
    # (.5 - .5)^2 - .25 / 1 < 0
    curve = reliability_curve([0.5, 0.5], [1, 0], n_bins=1)
    assert debiased_squared_calibration_error(curve).value == pytest.approx(-0.25)
    assert debiased_ece(curve).value == 0.0


def test_debiased_ece_leaves_out_single_row_bins_and_says_so():
    curve = reliability_curve([0.1, 0.9, 0.9], [1, 1, 1], n_bins=2)
    result = debiased_ece(curve)
    assert result.value == pytest.approx(0.1)
    assert result.n == 2
    assert "1 bins with one row" in result.note
    alone = debiased_ece(reliability_curve([0.1, 0.9], [0, 1], n_bins=2))
    assert alone.value is None
    assert alone.note


@pytest.mark.parametrize("statistic", ["ece", "debiased_ece"])
def test_null_band_rejects_calibrated_rows_as_often_as_it_says(statistic):
    rng = np.random.default_rng(0)
    bands = [
        calibration_null_band(
            *calibrated_rows(200, seed), rng=rng, statistic=statistic, num_draws=99
        )
        for seed in range(200)
    ]
    assert np.mean([band.p_value <= 0.1 for band in bands]) == pytest.approx(0.1, abs=0.06)
    assert np.mean([band.low <= band.observed <= band.high for band in bands]) > 0.89


@pytest.mark.parametrize("statistic", ["ece", "debiased_ece"])
def test_null_band_leaves_out_a_miscalibrated_score(statistic):
    p, y = calibrated_rows(400, seed=3)
    rng = np.random.default_rng(0)
    band = calibration_null_band(p**3, y, rng=rng, statistic=statistic, num_draws=200)
    assert band.observed > band.high
    assert band.p_value == pytest.approx(1 / 201)


def test_null_band_mean_is_the_bias_of_the_plug_in_ece():
    # With p = .5 in one bin of 4 rows, |K/4 - 1/2| has mean (2 * .5 + 8 * .25) / 16 = .1875.
    band = calibration_null_band(
        [0.5] * 4, [1, 1, 0, 0], rng=np.random.default_rng(0), num_draws=4000, n_bins=1
    )
    assert band.mean == pytest.approx(0.1875, abs=0.01)


def test_brier_and_log_loss_are_scikit_learns():
    p, y = calibrated_rows(300, seed=4)
    assert brier_score(p, y) == pytest.approx(brier_score_loss(y, p))
    assert log_loss(p, y) == pytest.approx(sklearn_log_loss(y, p))


def test_log_loss_of_one_certain_mistake_is_finite():
    assert log_loss([1.0], [False]) == pytest.approx(-np.log(1e-15), rel=1e-2)


def test_brier_skill_of_the_base_rate_is_zero_and_of_the_truth_one():
    y = [1, 1, 1, 0]
    assert brier_skill([0.75] * 4, y).value == pytest.approx(0.0)
    assert brier_skill(y, y).value == 1.0
    # Against a given base rate of .5: 1 - .1875 / .25.
    assert brier_skill([0.75] * 4, y, base_rate=0.5).value == pytest.approx(0.25)


def test_brier_skill_is_undefined_with_one_class():
    result = brier_skill([0.5, 0.6], [1, 1])
    assert result.value is None
    assert "one class" in result.note


def test_interval_of_the_brier_skill_is_that_of_resampled_tasks():
    p, y = calibrated_rows(200, seed=5)
    rng = np.random.default_rng(0)
    found = brier_skill_interval(p, y, np.repeat(np.arange(40), 5), rng=rng)
    draws = []
    for _ in range(2000):
        rows = (rng.integers(40, size=40)[:, None] * 5 + np.arange(5)).ravel()
        draws.append(brier_skill(p[rows], y[rows]).value)
    assert found.value == brier_skill(p, y).value
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
@pytest.mark.parametrize("seed", range(5))
def test_five_brier_terms_are_an_identity(binning, seed):
    p, y = calibrated_rows(101, seed)
    d = brier_decomposition(p**2, y, 7, binning)
    total = d.reliability - d.resolution + d.uncertainty + d.within_variance - d.within_covariance
    assert total == pytest.approx(d.brier, abs=1e-12)
    assert d.brier == pytest.approx(brier_score(p**2, y))
    assert d.within_variance > 0.0


def test_brier_terms_by_hand():
    # Bins {.2, .2} with labels 0, 1 and {.8, .8} with 1, 1; base .75.
    # REL = .5 (.2 - .5)^2 + .5 (.8 - 1)^2 = .065; RES = .5 (.25^2 + .25^2) = .0625; UNC = .1875
    d = brier_decomposition([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 1], n_bins=2)
    assert (d.reliability, d.resolution, d.uncertainty) == pytest.approx((0.065, 0.0625, 0.1875))
    assert (d.within_variance, d.within_covariance) == pytest.approx((0.0, 0.0))


@pytest.mark.parametrize(
    ("p", "y", "match"),
    [
        ([1.2], [1], "must lie in"),
        ([float("nan")], [1], "must be finite"),
        ([0.5], [None], "unknown label"),
        ([0.5], [2], "True/False"),
        ([0.5, 0.5], [1], "one entry per row"),
        ([], [], "shape"),
        ([None], [1], "finite|without None"),
    ],
)
def test_rows_that_are_not_labelled_probabilities_are_refused(p, y, match):
    with pytest.raises(ValueError, match=match):
        brier_score(p, y)
