import json

import numpy as np
import pytest
from scipy import optimize, special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from specact_rl.errors import ConfigError
from specact_rl.policy.calibrators import (
    CALIBRATORS,
    BetaCalibrator,
    HistogramCalibrator,
    IsotonicCalibrator,
    PlattCalibrator,
    PriorShiftCalibrator,
    TemperatureCalibrator,
    calibrator_from_json,
)


def scored_rows(seed, n=600, slope=0.5, shift=1.0):
    rng = np.random.default_rng(seed)
    z = rng.normal(0.0, 3.0, size=n)
    return z, rng.random(n) < special.expit(slope * z + shift)


class RawScore(ClassifierMixin, BaseEstimator):
    """Hands its one feature on as the decision value."""

    def fit(self, x, y):
        self.classes_ = np.array([False, True])
        return self

    def decision_function(self, x):
        return x[:, 0]

    def predict(self, x):
        return x[:, 0] > 0


def test_platt_is_scikit_learns_sigmoid_calibration():
    z, y = scored_rows(0)
    peer = CalibratedClassifierCV(FrozenEstimator(RawScore().fit(None, None)), method="sigmoid")
    peer.fit(z[:, None], y)
    ours = PlattCalibrator.fit(z, y)
    assert ours.predict(z) == pytest.approx(peer.predict_proba(z[:, None])[:, 1], abs=1e-5)


def test_platt_recovers_slope_and_shift():
    fitted = PlattCalibrator.fit(*scored_rows(1, n=40_000))
    assert (fitted.slope, fitted.intercept) == pytest.approx((0.5, 1.0), abs=0.03)


def test_temperature_recovers_its_temperature():
    fitted = TemperatureCalibrator.fit(*scored_rows(2, n=40_000, slope=0.4, shift=0.0))
    assert fitted.temperature == pytest.approx(2.5, rel=0.05)


def test_temperature_is_a_root_of_the_likelihoods_slope():
    z, y = scored_rows(3, shift=0.0)
    targets = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))

    def slope(inverse):
        return np.sum((special.expit(inverse * z) - targets) * z)

    expected = 1.0 / optimize.brentq(slope, 1e-3, 10.0)
    assert TemperatureCalibrator.fit(z, y).temperature == pytest.approx(expected, rel=1e-4)


def test_isotonic_is_scikit_learns_within_its_bounds():
    z, y = scored_rows(4)
    z = z.round(1)  # ties
    peer = IsotonicRegression(out_of_bounds="clip").fit(z, y.astype(float))
    grid = np.linspace(-12, 12, 481)
    expected = np.clip(peer.predict(grid), 1 / 602, 601 / 602)
    # Between two knots of which one is bounded the lines differ by less than the bound.
    assert IsotonicCalibrator.fit(z, y).predict(grid) == pytest.approx(expected, abs=2 / 602)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_predictions_are_probabilities_that_never_fall(name):
    fitted = CALIBRATORS[name].fit(*scored_rows(5))
    p = fitted.predict(np.array([-np.inf, -1e9, -5.0, 0.0, 0.1, 5.0, 1e9, np.inf]))
    assert np.all((p >= 0.0) & (p <= 1.0))
    assert np.all(np.diff(p) >= 0.0)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_json_round_trip_predicts_the_same_bits(name):
    z, y = scored_rows(6)
    fitted = CALIBRATORS[name].fit(z, y)
    again = calibrator_from_json(json.loads(json.dumps(fitted.to_json(), allow_nan=False)))
    assert again == fitted
    assert np.array_equal(again.predict(z), fitted.predict(z))


@pytest.mark.parametrize("name", CALIBRATORS)
def test_an_unscored_row_stays_unscored(name):
    p = CALIBRATORS[name].fit(*scored_rows(7)).predict([None, 0.5, float("nan")])
    assert np.isnan(p).tolist() == [True, False, True]


@pytest.mark.parametrize("name", CALIBRATORS)
@pytest.mark.parametrize("label", [True, False])
def test_one_class_is_refused_with_advice(name, label):
    with pytest.raises(ValueError, match="acceptable and unacceptable rows"):
        CALIBRATORS[name].fit([0.1, 0.2], [label, label])


@pytest.mark.parametrize("name", CALIBRATORS)
def test_separable_rows_have_a_finite_fit_that_is_not_certain(name):
    z = np.concatenate([np.linspace(-4, -2, 60), np.linspace(2, 4, 60)])
    p = CALIBRATORS[name].fit(z, z > 0).predict(z)
    assert np.all(p[z > 0] > 0.8)
    assert np.all(p[z < 0] < 0.2)
    assert p.max() < 1.0
    assert p.min() > 0.0


@pytest.mark.parametrize("name", ["platt", "isotonic", "beta", "histogram"])
def test_scores_that_point_the_wrong_way_become_the_base_rate(name):
    z, y = scored_rows(8)
    p = CALIBRATORS[name].fit(-z, y).predict(z)
    assert np.ptp(p) < 0.1
    assert p.mean() == pytest.approx(y.mean(), abs=0.02)


@pytest.mark.parametrize("name", ["platt", "isotonic", "beta", "histogram"])
def test_constant_scores_become_the_base_rate(name):
    p = CALIBRATORS[name].fit([2.0] * 400, [1, 1, 1, 0] * 100).predict([2.0])
    assert p[0] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_fitting_refuses_unscored_and_unlabelled_rows(name):
    with pytest.raises(ValueError, match="log_odds must be finite"):
        CALIBRATORS[name].fit([0.1, None, 0.3], [1, 0, 1])
    with pytest.raises(ValueError, match="unknown label"):
        CALIBRATORS[name].fit([0.1, 0.2, 0.3], [1, None, 0])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"kind": "magic"}, "kind must be one of"),
        ({"kind": "platt", "slope": 1.0}, "intercept must be a number, got None"),
        ({"kind": "platt", "slope": -1.0, "intercept": 0.0}, "slope"),
        ({"kind": "temperature", "temperature": 0}, "positive"),
        ({"kind": "isotonic", "knots": [0.0, 1.0], "probabilities": [0.7, 0.2]}, "must not fall"),
        ({"kind": "isotonic", "knots": [0.0], "probabilities": []}, "as many"),
        ({"kind": "beta", "a": 1.0, "b": -1.0, "c": 0.0}, "not negative"),
        ({"kind": "beta", "a": 1.0, "b": 1.0}, "c must be a number"),
        ({"kind": "histogram", "edges": [0.0], "probabilities": [0.7, 0.2]}, "must not fall"),
        ({"kind": "histogram", "edges": [1.0, 1.0], "probabilities": [0, 0.5, 1]}, "must rise"),
        ({"kind": "histogram", "edges": [1.0], "probabilities": [0.5]}, "one probability more"),
        ({"kind": "prior_shift", "train_prior": 0.0, "deploy_prior": 0.5}, "train_prior"),
        ({"kind": "isotonic", "knots": "0", "probabilities": []}, "must be a list"),
    ],
)
def test_an_edited_calibrator_is_refused(data, match):
    with pytest.raises(ConfigError, match=match):
        calibrator_from_json(data)


def test_prior_shift_undoes_balancing():
    # Trained half and half, used where 20 % are acceptable: even odds become 1 to 4.
    shift = PriorShiftCalibrator(train_prior=0.5, deploy_prior=0.2)
    assert shift.predict([0.0, None])[0] == pytest.approx(0.2)
    back = PriorShiftCalibrator(train_prior=0.2, deploy_prior=0.5)
    there = special.logit(shift.predict([1.0, -2.0]))
    assert special.logit(back.predict(there)) == pytest.approx([1.0, -2.0])


def test_prior_shift_of_a_balanced_verifier_is_calibrated():
    # p(z | y) as in N(+-1, 1): with balanced rows the log-odds are 2 z, with one in ten it shifts.
    rng = np.random.default_rng(0)
    y = rng.random(50_000) < 0.1
    z = 2.0 * (rng.normal(size=y.size) + np.where(y, 1.0, -1.0))
    p = PriorShiftCalibrator.fit(z, y).predict(z)
    platt = PlattCalibrator.fit(z, y).predict(z)
    assert p == pytest.approx(platt, abs=0.03)


def bent_rows(seed, n=2000):
    """Labels of a beta map: steep on one side of z = 0, flat on the other."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0.0, 2.0, size=n)
    logit = -1.5 * np.logaddexp(0.0, -z) + 0.3 * np.logaddexp(0.0, z) + 0.7
    return z, rng.random(n) < special.expit(logit)


def test_beta_is_scikit_learns_logistic_regression_on_its_two_features():
    z, y = bent_rows(0)
    q = special.expit(z)
    features = np.stack([np.log(q), -np.log1p(-q)], axis=1)
    high, low = (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2)
    target = np.where(y, high, low)
    # A target between 0 and 1 is a row of each label, weighted.
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(
        np.tile(features, (2, 1)),
        np.repeat([1, 0], y.size),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    ours = BetaCalibrator.fit(z, y)
    assert (ours.a, ours.b) == pytest.approx(tuple(peer.coef_[0]), abs=2e-3)
    assert ours.c == pytest.approx(peer.intercept_[0], abs=2e-3)
    assert ours.a > 2 * ours.b > 0


def test_beta_never_turns_a_verifier_round():
    # The best unbounded a or b is negative here; ours stops at 0.
    z, y = scored_rows(9, n=2000)
    fitted = BetaCalibrator.fit(z, y ^ (z > 2))
    assert min(fitted.a, fitted.b) == 0.0
    with pytest.raises(ConfigError, match="not negative"):
        BetaCalibrator(a=1.0, b=-0.1, c=0.0)


def test_histogram_by_hand():
    # 120 rows, four bins of 30 scores: 3, 12, 9 and 27 of 30 acceptable. The middle two fall and
    # are pooled: 21 of 60. Edges half-way between scores.
    z = np.arange(120.0)
    y = np.concatenate([np.arange(30) < k for k in (3, 12, 9, 27)])
    order = np.random.default_rng(0).permutation(120)
    fitted = HistogramCalibrator.fit(z[order], y[order])
    assert fitted.edges == (29.5, 89.5)
    assert fitted.probabilities == pytest.approx((0.1, 0.35, 0.9))
    assert fitted.predict([-5.0, 29.5, 89.4, 500.0]) == pytest.approx([0.1, 0.35, 0.35, 0.9])


def test_histogram_never_parts_equal_scores_and_makes_few_bins_of_few_rows():
    few = HistogramCalibrator.fit(np.arange(59.0), np.arange(59) % 3 == 0)
    assert few.edges == ()
    assert few.probabilities == pytest.approx((20 / 59,))
    z = np.repeat([0.0, 1.0], [140, 10])
    tied = HistogramCalibrator.fit(z, np.arange(150) % 2 == 0)
    assert len(tied.edges) <= 1
    assert all(0.0 < edge <= 1.0 for edge in tied.edges)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_shuffling_rows_changes_no_calibrator(name):
    z, y = scored_rows(10)
    z = z.round(1)
    order = np.random.default_rng(0).permutation(z.size)
    grid = np.linspace(-10, 10, 101)
    one = CALIBRATORS[name].fit(z, y).predict(grid)
    assert CALIBRATORS[name].fit(z[order], y[order]).predict(grid) == pytest.approx(one, abs=1e-6)
