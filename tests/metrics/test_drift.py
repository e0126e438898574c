import numpy as np
import pytest
import statsmodels.api as sm
from scipy import special

from specact_rl.metrics import drift
from specact_rl.metrics.drift import LabelledRows, calibration_lines, line_difference


def place(seed, *, tasks=60, per_task=8, slope=1.0, shift=0.0, first=0):
    """Labels of log-odds shift + slope * logit(p); the steps of a task share a part of p."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(first, first + tasks), per_task)
    z = rng.normal(0, 1, tasks)[ids - first] + rng.normal(0, 1, ids.size)
    y = rng.random(ids.size) < special.expit(shift + slope * z)
    return LabelledRows(p_accept=special.expit(z), acceptable=y, clusters=ids)


def line_of(rows, seed=0, **how):
    return calibration_lines({"here": rows}, rng=np.random.default_rng(seed), **how)["here"]


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.4, 1.5), (2.0, -1.0)])
def test_slope_and_intercept_are_statsmodels(slope, shift):
    rows = place(1, slope=slope, shift=shift)
    fitted = sm.Logit(rows.acceptable, sm.add_constant(special.logit(rows.p_accept))).fit(disp=0)
    found = line_of(rows)
    assert (found.intercept.value, found.slope.value) == pytest.approx(fitted.params, abs=1e-6)
    assert found.gap.value == pytest.approx(rows.acceptable.mean() - rows.p_accept.mean())
    assert (found.slope.n, found.slope.num_clusters) == (480, 60)


def test_intervals_are_those_of_fits_to_resampled_tasks():
    rows = place(2, slope=0.7, shift=0.5)
    z, rng, draws = special.logit(rows.p_accept), np.random.default_rng(0), []
    for _ in range(400):
        picked = (rng.integers(60, size=60)[:, None] * 8 + np.arange(8)).ravel()
        y = rows.acceptable[picked]
        intercept, slope = sm.Logit(y, sm.add_constant(z[picked])).fit(disp=0).params
        draws.append((np.mean(y - rows.p_accept[picked]), slope, intercept))
    found = line_of(rows, num_resamples=4000)
    expected = np.quantile(draws, [0.025, 0.975], axis=0)
    for j, name in enumerate(("gap", "slope", "intercept")):
        value = getattr(found, name)
        # An end of 400 draws has a standard error of about 0.03 widths, and one step is not a fit.
        width = expected[1, j] - expected[0, j]
        assert (value.low, value.high) == pytest.approx(expected[:, j], abs=0.12 * width)


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (1.5, 3.0)])
def test_draws_spread_as_statsmodels_clustered_errors_say(slope, shift):
    rows = place(8, tasks=500, slope=slope, shift=shift)
    design = sm.add_constant(special.logit(rows.p_accept))
    fitted = sm.Logit(rows.acceptable, design).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": rows.clusters, "use_correction": False}
    )
    found = np.cov(line_of(rows, num_resamples=8000).draws[:, [2, 1]].T)
    # A variance of 8,000 draws has a standard error of 1.6 %; resampling also varies the curvature.
    spread = np.sqrt(np.outer(*[np.diag(fitted.cov_params())] * 2))
    assert found / spread == pytest.approx(fitted.cov_params() / spread, abs=0.08)


def test_totals_of_many_tasks_are_drawn_as_if_the_tasks_were(monkeypatch):
    places = {"a": place(3, tasks=400), "b": place(4, tasks=400, slope=0.8)}
    one = calibration_lines(places, rng=np.random.default_rng(0), num_resamples=8000)
    monkeypatch.setattr(drift, "MANY_CLUSTERS", 100)
    other = calibration_lines(places, rng=np.random.default_rng(0), num_resamples=8000)
    expected = np.cov(np.concatenate([one["a"].draws, one["b"].draws], axis=1).T)
    found = np.cov(np.concatenate([other["a"].draws, other["b"].draws], axis=1).T)
    # A correlation of 8,000 draws has a standard error of at most 0.011.
    spread = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert found / spread == pytest.approx(expected / spread, abs=0.06)


def test_intervals_cover_the_truth_as_often_as_they_say():
    covered = np.zeros(3)
    for seed in range(300):
        found = line_of(place(seed, tasks=80), seed, num_resamples=300)
        for j, (name, truth) in enumerate((("gap", 0), ("slope", 1), ("intercept", 0))):
            value = getattr(found, name)
            covered[j] += value.low <= truth <= value.high
    # 0.95 less 3 standard errors of 0.013; a percentile interval of 80 tasks is a little short.
    assert np.all(covered / 300 > 0.90)
    assert np.all(covered / 300 < 0.99)


def test_the_same_rows_in_two_places_do_not_differ():
    rows = place(3)
    lines = calibration_lines({"a": rows, "b": rows}, rng=np.random.default_rng(0))
    difference = line_difference(lines["a"], lines["b"])
    assert difference.slope.value == 0.0
    assert "the same in every draw" in difference.slope.note


def test_places_of_shared_tasks_are_paired():
    # b has the labels of a, but for a few: the paired interval is much shorter than that of two
    # separate sets of draws.
    a = place(4)
    flipped = a.acceptable.copy()
    flipped[::40] = ~flipped[::40]
    b = LabelledRows(p_accept=a.p_accept, acceptable=flipped, clusters=a.clusters)
    paired = calibration_lines({"a": a, "b": b}, rng=np.random.default_rng(0))
    short = line_difference(paired["a"], paired["b"]).gap
    long = line_difference(line_of(a, 1), line_of(b, 2)).gap
    assert short.value == pytest.approx(long.value)
    assert short.high - short.low < 0.5 * (long.high - long.low)


def test_drift_of_other_tasks_is_found_and_named():
    lines = calibration_lines(
        {"then": place(5, tasks=300), "now": place(6, tasks=300, slope=0.5, shift=1.0, first=300)},
        rng=np.random.default_rng(0),
    )
    found = line_difference(lines["then"], lines["now"])
    assert found.slope.low < -0.5 < found.slope.high < 0
    assert found.intercept.low < 1.0 < found.intercept.high
    assert found.intercept.low > 0
    assert found.gap.low > 0


def test_shuffling_rows_changes_no_line():
    rows = place(7)
    order = np.random.default_rng(0).permutation(480)
    other = LabelledRows(
        p_accept=rows.p_accept[order],
        acceptable=rows.acceptable[order],
        clusters=rows.clusters[order],
    )
    one, two = line_of(rows), line_of(other)
    assert one.slope.value == pytest.approx(two.slope.value)
    assert one.draws == pytest.approx(two.draws)


@pytest.mark.parametrize(
    ("p", "y", "why"),
    [
        ([0.2, 0.4, 0.6], [1, 1, 1], "one class"),
        ([0.4, 0.4, 0.4], [1, 0, 1], "is the same"),
        ([0.2, 0.4, 0.6], [0, 0, 1], "part the labels"),
        ([0.2, 0.4, 0.6], [1, 0, 0], "part the labels"),
        ([0.4], [1], "one class"),
    ],
)
def test_without_a_slope_there_is_a_gap_and_a_reason(p, y, why):
    found = line_of(LabelledRows(p_accept=p, acceptable=y, clusters=np.arange(len(p))))
    assert found.gap.value == pytest.approx(np.mean(y) - np.mean(p))
    assert (found.slope.value, found.intercept.value) == (None, None)
    assert why in found.slope.note
    other = line_of(place(0))
    assert why in line_difference(other, found).slope.note


def test_certain_probabilities_are_taken_as_nearly_so():
    rows = LabelledRows(
        p_accept=[0.0, 1.0, 0.5, 0.5], acceptable=[1, 1, 0, 1], clusters=np.arange(4)
    )
    assert np.isfinite(line_of(rows).slope.value)


def test_no_places_have_no_lines():
    assert calibration_lines({}, rng=np.random.default_rng(0)) == {}
