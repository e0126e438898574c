import numpy as np
import pytest
import statsmodels.api as sm

from specact_rl.metrics.calibration import brier_score, brier_skill, debiased_ece, reliability_curve
from specact_rl.metrics.discrimination import auroc
from specact_rl.metrics.paired import holm
from specact_rl.metrics.strata import MIN_ROWS, Partition, clustered_mean, strata


def rows(seed=0, n=1200, tasks=120):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return p, rng.random(n) < p, rng.integers(tasks, size=n), rng.integers(-1, 3, size=n)


def parts_of(p, y, tasks, codes, names=("a", "b", "c"), **more):
    partitions = {"kind": Partition(names=names, codes=codes), **more}
    return strata(p, p, y, partitions, tasks, rng=np.random.default_rng(0), num_resamples=200)


def test_a_part_has_the_numbers_of_its_rows_alone():
    p, y, tasks, codes = rows()
    found = parts_of(p, y, tasks, codes)
    assert sorted(part.name for part in found) == ["a", "b", "c"]
    assert [part.n for part in found] == sorted((part.n for part in found), reverse=True)
    for part in found:
        here = codes == "abc".index(part.name)
        assert part.n == here.sum()
        assert part.num_clusters == np.unique(tasks[here]).size
        assert part.prevalence.value == pytest.approx(y[here].mean())
        assert part.mean_p == pytest.approx(p[here].mean())
        assert part.gap.value == pytest.approx(y[here].mean() - p[here].mean())
        assert part.auroc.value == pytest.approx(auroc(p[here], y[here]).value)
        assert part.brier == pytest.approx(brier_score(p[here], y[here]))
        assert part.brier_skill == brier_skill(p[here], y[here])
        curve = reliability_curve(p[here], y[here], binning="equal_mass")
        assert part.null_band.observed == pytest.approx(debiased_ece(curve).value, abs=1e-9)


def test_shuffling_rows_changes_no_part():
    p, y, tasks, codes = rows()
    order = np.random.default_rng(1).permutation(p.size)
    one = parts_of(p, y, tasks, codes)
    other = parts_of(p[order], y[order], tasks[order], codes[order])
    for a, b in zip(one, other, strict=True):
        assert (a.name, a.n) == (b.name, b.n)
        assert a.gap.low == pytest.approx(b.gap.low)
        # Shares of 2,000 draws each; four standard errors of their difference.
        error = np.sqrt(2 * a.p_value * (1 - a.p_value) / 2000)
        assert a.p_value == pytest.approx(b.p_value, abs=4 * error)


def test_small_parts_have_a_note_and_empty_ones_are_left_out():
    p, y, tasks, _ = rows(n=300)
    codes = np.where(np.arange(300) < MIN_ROWS - 1, 0, 2)
    found = parts_of(p, y, tasks, codes)
    assert [(part.name, part.n) for part in found] == [("c", 251), ("a", 49)]
    assert found[0].note is None
    assert (found[1].gap, found[1].p_value) == (None, None)
    assert found[1].note == "fewer than 50 rows"


def test_tests_of_all_partitions_are_adjusted_together():
    p, y, tasks, codes = rows()
    found = parts_of(p, y, tasks, codes, half=Partition(names=("x", "y"), codes=codes % 2))
    expected = holm([part.p_value for part in found])
    assert [part.p_holm for part in found] == pytest.approx(expected)
    assert len(found) == 5
    assert max(part.p_holm / part.p_value for part in found) > 2


def test_the_part_that_is_off_is_found_and_the_others_are_not():
    p, y, tasks, codes = rows(3, n=4000, tasks=400)
    y = np.where(codes == 1, np.random.default_rng(0).random(4000) < p**2, y)
    found = {part.name: part for part in parts_of(p, y, tasks, codes)}
    assert found["b"].p_holm < 0.01
    assert found["b"].gap.high < 0
    assert min(found["a"].p_holm, found["c"].p_holm) > 0.05


def test_one_class_in_a_part_has_a_defined_answer():
    p, _, tasks, codes = rows(n=600)
    part = parts_of(p, np.ones(600, dtype=bool), tasks, codes)[0]
    assert (part.auroc.value, part.brier_skill.value) == (None, None)
    assert part.prevalence.value == 1.0
    assert part.gap.low > 0


def test_clustered_mean_is_statsmodels():
    rng = np.random.default_rng(0)
    tasks = rng.integers(40, size=300)
    x = rng.normal(size=40)[tasks] + rng.normal(size=300)
    fit = sm.OLS(x, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": tasks}, use_t=True)
    found = clustered_mean(x, tasks)
    low, high = fit.conf_int()[0]
    # statsmodels also multiplies the variance by (n - 1) / (n - 1): the same for a mean.
    assert (found.value, found.low, found.high) == pytest.approx((fit.params[0], low, high))


def test_clustered_mean_without_spread_has_a_reason():
    assert "one cluster" in clustered_mean([1.0, 2.0], ["a", "a"]).note
    same = clustered_mean([0.5, 0.5], ["a", "b"])
    assert (same.low, same.value) == (None, 0.5)
    assert "same value" in same.note
