"""Intervals of AURC, E-AURC and AUGRC against leaving rows out, a bootstrap and the truth."""

import numpy as np
import pytest
from scipy import special

from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.selective import augrc, aurc, e_aurc
from specact_rl.metrics.selective_intervals import area_influences, risk_areas, risk_coverage_band

AREAS = {"aurc": aurc, "e_aurc": e_aurc, "augrc": augrc}


def dependent_rows(rng, num_tasks=100, size=6, decimals=None):
    """Confidence, labels and task ids; the steps of a task are right or wrong together."""
    tasks = np.repeat(np.arange(num_tasks), size)
    z = rng.normal(1, 1.5, size=tasks.size) + rng.normal(size=num_tasks)[tasks]
    luck = rng.normal(scale=1.5, size=num_tasks)[tasks]
    y = rng.random(tasks.size) < special.expit(z + luck)
    return (z if decimals is None else z.round(decimals)), y, tasks


@pytest.mark.parametrize("decimals", [None, 0])
def test_values_are_those_of_the_metrics(decimals):
    s, y, tasks = dependent_rows(np.random.default_rng(0), decimals=decimals)
    found = risk_areas(s, y, tasks)
    for name, metric in AREAS.items():
        assert getattr(found, name).value == pytest.approx(metric(s, y), abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_an_influence_is_what_leaving_the_row_out_changes(decimals):
    # (n - 1) (area of all - area without row i), up to terms that vanish as n grows.
    s, y, _ = dependent_rows(np.random.default_rng(1), decimals=decimals)
    found = area_influences(s, y)
    for metric, influence in ((aurc, found.of_aurc), (augrc, found.of_augrc)):
        assert influence.sum() == pytest.approx(0.0, abs=1e-8)
        without = np.array([metric(np.delete(s, i), np.delete(y, i)) for i in range(s.size)])
        left_out = (s.size - 1) * (metric(s, y) - without)
        left_out -= left_out.mean()
        assert np.corrcoef(influence, left_out)[0, 1] > 0.999
        assert influence.std() == pytest.approx(left_out.std(), rel=0.02)


def test_intervals_are_as_wide_as_a_bootstrap_of_tasks():
    rng = np.random.default_rng(2)
    s, y, tasks = dependent_rows(rng, num_tasks=150)
    rows = tasks.reshape(150, -1)
    rows = np.arange(tasks.size).reshape(rows.shape)
    draws = [rows[rng.integers(150, size=150)].ravel() for _ in range(1000)]
    found = risk_areas(s, y, tasks)
    for name, metric in AREAS.items():
        value = getattr(found, name)
        spread = np.std([metric(s[d], y[d]) for d in draws])
        # 1,000 draws give their spread to 2.2 %; the rest is the linearisation.
        assert (value.high - value.low) / (2 * 1.976) == pytest.approx(spread, rel=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    s, y, _ = dependent_rows(rng, num_tasks=100_000)
    truth = {name: metric(s, y) for name, metric in AREAS.items()}
    hits = dict.fromkeys(AREAS, 0)
    for _ in range(500):
        found = risk_areas(*dependent_rows(rng))
        for name in AREAS:
            value = getattr(found, name)
            hits[name] += value.low <= truth[name] <= value.high
    # 500 draws at 95 %: 3 standard errors are 2.9 points; small samples may take 2 more.
    for name, count in hits.items():
        assert 0.90 <= count / 500 <= 0.98, name


def test_taking_dependent_rows_for_independent_covers_too_seldom():
    rng = np.random.default_rng(4)
    s, y, _ = dependent_rows(rng, num_tasks=100_000)
    truth, hits = augrc(s, y), 0
    for _ in range(300):
        s, y, tasks = dependent_rows(rng)
        value = risk_areas(s, y, np.arange(tasks.size)).augrc
        hits += value.low <= truth <= value.high
    # Nominal less 3 standard errors of 300 draws.
    assert hits / 300 < 0.91


@pytest.mark.parametrize("label", [True, False])
def test_one_class_has_values_and_no_intervals(label):
    found = risk_areas([0.1, 0.5, 0.9], [label] * 3, [0, 1, 2])
    assert found.aurc.value == (0.0 if label else 1.0)
    assert found.e_aurc.value == pytest.approx(0.0)
    assert found.aurc.low is None
    assert "same label" in found.augrc.note


def test_one_task_has_no_interval():
    found = risk_areas([0.1, 0.5], [1, 0], ["a", "a"])
    assert found.aurc.low is None
    assert "one cluster only" in found.aurc.note


def test_shuffling_rows_changes_nothing():
    rng = np.random.default_rng(5)
    s, y, tasks = dependent_rows(rng, decimals=0)
    order = rng.permutation(s.size)
    one, other = risk_areas(s, y, tasks), risk_areas(s[order], y[order], tasks[order])
    for name in AREAS:
        assert getattr(other, name).low == pytest.approx(getattr(one, name).low, abs=1e-10)
    band = risk_coverage_band(s, y, tasks)
    shuffled = risk_coverage_band(s[order], y[order], tasks[order])
    assert shuffled.high == pytest.approx(band.high)


def test_a_point_of_the_band_is_the_share_with_its_interval():
    s, y, tasks = dependent_rows(np.random.default_rng(6), num_tasks=200)
    band = risk_coverage_band(s, y, tasks, num_points=10)
    assert band.coverage == pytest.approx(np.arange(1, 11) / 10)
    for i, threshold in enumerate(band.threshold):
        rows = s >= threshold
        share = cluster_rate(~y[rows], tasks[rows])
        assert band.risk[i] == pytest.approx(share.value)
        assert band.low[i] == pytest.approx(share.low, abs=0.01)
        assert band.high[i] == pytest.approx(share.high, abs=0.01)


def test_the_band_holds_everywhere_at_once_and_its_points_alone_do_not():
    rng = np.random.default_rng(7)
    s, y, _ = dependent_rows(rng, num_tasks=100_000)
    order = np.argsort(-s)
    ranked, risks = -s[order], np.cumsum(~y[order]) / np.arange(1, s.size + 1)
    inside = {"at once": 0, "each": 0}
    for _ in range(300):
        rows = dependent_rows(rng, num_tasks=150)
        for name, draws in (("at once", rng), ("each", None)):
            band = risk_coverage_band(*rows, rng=draws, num_points=12, num_draws=2000)
            truth = risks[np.searchsorted(ranked, -band.threshold, side="right") - 1]
            inside[name] += ((band.low <= truth) & (truth <= band.high)).all()
    # 3 standard errors of 300 draws at 95 % are 3.8 points.
    assert inside["at once"] / 300 > 0.91
    assert inside["each"] / 300 < 0.88


def test_a_band_of_one_task_is_refused():
    with pytest.raises(ValueError, match="at least two clusters"):
        risk_coverage_band([0.1, 0.2], [0, 1], ["a", "a"])


def test_a_band_over_equal_scores_has_one_point():
    band = risk_coverage_band([0.5] * 6, [1, 1, 1, 1, 1, 1], np.arange(6))
    assert band.coverage.tolist() == [1.0]
    assert band.risk.tolist() == [0.0]
    assert 0.0 < band.high[0] < 1.0
