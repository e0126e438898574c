import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from specact_rl.metrics.paired import (
    cluster_bootstrap_mean,
    clustered_standard_error,
    detectable_difference,
    holm,
    mcnemar_exact,
    minimum_detectable_difference,
    paired_cluster_bootstrap,
    sample_size_paired,
    sign_flip_test,
    tango_interval,
    tost_equivalence,
    wilson_interval,
)


def clustered_rows(seed, num_clusters=40, size=5, binary=True):
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(num_clusters), size)
    level = np.repeat(rng.normal(size=num_clusters), size) + rng.normal(size=num_clusters * size)
    return (level > 0 if binary else level), clusters, rng


@pytest.mark.parametrize(
    ("successes", "low", "high"), [(80, 0.335, 0.469), (102, 0.441, 0.578), (43, 0.164, 0.277)]
)
def test_wilson_intervals_of_the_source_report(successes, low, high):
    result = wilson_interval(successes, 200)
    assert result.value == successes / 200
    assert (result.low, result.high) == pytest.approx((low, high), abs=5e-4)


def test_wilson_of_no_rows_is_undefined():
    assert wilson_interval(0, 0).value is None


@pytest.mark.parametrize(("only_a", "only_b"), [(9, 2), (5, 5), (0, 7), (0, 0), (1, 0)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    a = np.array([1] * only_a + [0] * only_b + [1, 0] * 10)
    b = np.array([0] * only_a + [1] * only_b + [1, 0] * 10)
    result = mcnemar_exact(a, b, np.arange(a.size))
    discordant = only_a + only_b
    expected = stats.binomtest(only_a, discordant, 0.5).pvalue if discordant else 1.0
    assert result.p_value == pytest.approx(expected)
    assert result.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert (result.only_a, result.only_b) == (only_a, only_b)
    # (b+c-(b-c)^2/n)/n^2 is the plain variance of the paired difference over n.
    assert result.standard_error == pytest.approx(np.std(a - b) / np.sqrt(a.size))


def test_mid_p_by_hand():
    # 1 against 5: P(X <= 1) = 7/64, P(X = 1) = 6/64 -> p = 14/64, mid-p = 8/64
    result = mcnemar_exact([1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1], range(6))
    assert result.p_value == pytest.approx(14 / 64)
    assert result.mid_p_value == pytest.approx(8 / 64)


@pytest.mark.parametrize(("only_a", "only_b"), [(9, 2), (3, 14), (6, 6)])
def test_mcnemar_is_that_of_statsmodels(only_a, only_b):
    a = np.array([1] * only_a + [0] * only_b + [1, 0] * 10)
    b = np.array([0] * only_a + [1] * only_b + [1, 0] * 10)
    peer = mcnemar([[10, only_a], [only_b, 10]], exact=True)
    assert mcnemar_exact(a, b, np.arange(a.size)).p_value == pytest.approx(peer.pvalue)


def test_mcnemar_refuses_steps_of_one_task():
    with pytest.raises(ValueError, match=r"4 rows of 3 items \(row 1 is of one") as error:
        mcnemar_exact([1, 0, 1, 1], [0, 0, 1, 1], ["a", "b", "b", "c"])
    assert "sign_flip_test" in str(error.value)


def score_statistic(difference, only_a, only_b, n):
    """Score of the true difference, the nuisance parameter found by maximising the likelihood."""
    both = n - only_a - only_b

    def minus_log_likelihood(share_b):
        shares = np.array([share_b + difference, share_b, 1 - 2 * share_b - difference])
        return -(np.array([only_a, only_b, both]) @ np.log(np.maximum(shares, 1e-300)))

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    found = optimize.minimize_scalar(
        minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    variance = n * (2 * found.x + difference - difference**2)
    return (only_a - only_b - n * difference) / np.sqrt(variance)


@pytest.mark.parametrize(
    ("only_a", "only_b", "n"), [(12, 2, 50), (1, 7, 30), (5, 5, 12), (3, 0, 9)]
)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_ends_of_tangos_interval_are_just_not_rejected_by_the_score_test(only_a, only_b, n, level):
    found, z = tango_interval(only_a, only_b, n, level), stats.norm.ppf((1 + level) / 2)
    assert -1 < found.low < (only_a - only_b) / n < found.high < 1
    for end, side in ((found.low, 1.0), (found.high, -1.0)):
        assert score_statistic(end, only_a, only_b, n) == pytest.approx(side * z, abs=1e-4)


@pytest.mark.parametrize(("share_a", "share_b"), [(0.15, 0.05), (0.03, 0.03), (0.4, 0.3)])
def test_tangos_interval_of_few_items_covers_where_walds_does_not(share_a, share_b):
    # Exact, over all outcomes of 30 items.
    n, covered, by_wald = 30, 0.0, 0.0
    chance = stats.multinomial(n, [share_a, share_b, 1 - share_a - share_b])
    for only_a in range(n + 1):
        for only_b in range(n + 1 - only_a):
            weight = chance.pmf([only_a, only_b, n - only_a - only_b])
            if weight < 1e-9:
                continue
            found = tango_interval(only_a, only_b, n)
            covered += weight * (found.low <= share_a - share_b <= found.high)
            error = np.sqrt(only_a + only_b - (only_a - only_b) ** 2 / n) / n
            by_wald += weight * (abs((only_a - only_b) / n - share_a + share_b) <= 1.96 * error)
    assert 0.93 < covered < 0.99
    assert by_wald < covered


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 0), (0, 5)])
def test_tangos_interval_has_a_width_where_all_items_differ_alike(only_a, only_b):
    found, n = tango_interval(only_a, only_b, 5), 5
    for end, side in ((found.low, 1.0), (found.high, -1.0)):
        if -1.0 < end < 1.0:
            assert score_statistic(end, only_a, only_b, n) == pytest.approx(side * 1.959964)
    # By hand, with z^2 = 3.8415: r = z^2 / (5 + z^2) = .4345.
    assert found.high - found.low == pytest.approx(2 * 0.4345, abs=1e-4)


def test_tango_of_impossible_counts_is_refused():
    with pytest.raises(ValueError, match="only_a"):
        tango_interval(3, 3, 5)


@pytest.mark.parametrize("binary", [True, False])
def test_bootstrap_of_the_mean_is_that_of_resampled_tasks(binary):
    x, clusters, rng = clustered_rows(1, binary=binary)
    fast = cluster_bootstrap_mean(x, clusters, rng=rng, num_resamples=10_000)
    by_task = np.asarray(x, dtype=float).reshape(40, 5)
    slow = [by_task[rng.integers(40, size=40)].mean() for _ in range(4000)]
    width = np.quantile(slow, 0.975) - np.quantile(slow, 0.025)
    expected = np.quantile(slow, [0.025, 0.975])
    assert (fast.low, fast.high) == pytest.approx(expected, abs=0.06 * width)
    assert fast.value == pytest.approx(by_task.mean())


def test_bootstrap_weights_rows_equally_when_tasks_differ_in_length():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), rng.integers(1, 9, size=60))
    x = rng.normal(size=clusters.size)
    fast = cluster_bootstrap_mean(x, clusters, rng=rng)
    groups = [x[clusters == c] for c in range(60)]
    slow = [np.concatenate([groups[i] for i in rng.integers(60, size=60)]) for _ in range(4000)]
    expected = np.quantile([s.mean() for s in slow], [0.025, 0.975])
    assert (fast.low, fast.high) == pytest.approx(expected, abs=0.03)


def test_paired_bootstrap_is_antisymmetric():
    x, clusters, _ = clustered_rows(2)
    y, _, _ = clustered_rows(3)
    ab = paired_cluster_bootstrap(x, y, clusters, rng=np.random.default_rng(7))
    ba = paired_cluster_bootstrap(y, x, clusters, rng=np.random.default_rng(8))
    assert ab.value == -ba.value
    assert (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low), abs=0.01)


def test_bootstrap_of_one_cluster_or_of_equal_rows_has_no_interval():
    rng = np.random.default_rng(0)
    one = cluster_bootstrap_mean([0, 1, 1], ["a", "a", "a"], rng=rng)
    assert one.low is None
    assert "one cluster" in one.note
    same = cluster_bootstrap_mean([1, 1, 1], ["a", "b", "c"], rng=rng)
    assert (same.value, same.high) == (1.0, None)
    assert "same value" in same.note


def tango_z(difference, only_a, only_b, n):
    """Score statistic of a true difference, as Tango (1998) has it."""
    b = -only_a - only_b + (2 * n - only_a + only_b) * difference
    c = -only_b * difference * (1 - difference)
    q = (np.sqrt(b**2 - 8 * n * c) - b) / (4 * n)
    return (only_a - only_b - n * difference) / np.sqrt(n * (2 * q + difference * (1 - difference)))


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 1), (1, 0), (0, 1)])
def test_verdicts_that_never_differ_otherwise_have_tangos_interval(a, b):
    n = 25
    found = paired_cluster_bootstrap(
        np.full(n, a), np.full(n, b), np.arange(n), rng=np.random.default_rng(0)
    )
    assert found.value == a - b
    assert -1.0 <= found.low <= found.value <= found.high <= 1.0
    for end, side in ((found.low, 1.0), (found.high, -1.0)):
        if -1.0 < end < 1.0:
            z = tango_z(end, n * max(a - b, 0), n * max(b - a, 0), n)
            assert z == pytest.approx(side * 1.959964, abs=1e-6)


def test_verdicts_that_agree_everywhere_are_as_uncertain_as_their_tasks_are_few():
    same, rng = np.ones(80, dtype=bool), np.random.default_rng(0)
    few = paired_cluster_bootstrap(same, same, np.repeat(np.arange(10), 8), rng=rng)
    many = paired_cluster_bootstrap(same, same, np.arange(80), rng=rng)
    assert few.high > 3 * many.high
    assert few.low == -few.high
    assert "each task as one row" in few.note
    one = paired_cluster_bootstrap(same, same, np.zeros(80), rng=rng)
    assert one.low is None
    assert "one cluster" in one.note


def test_numbers_that_are_no_verdicts_get_no_interval_without_spread():
    found = paired_cluster_bootstrap([2.5, 3.5], [2.0, 3.0], [0, 1], rng=np.random.default_rng(0))
    assert (found.value, found.low) == (0.5, None)


def test_few_clusters_are_noted():
    rng = np.random.default_rng(0)
    assert "only 3 clusters" in cluster_bootstrap_mean([0, 1, 1], [0, 1, 2], rng=rng).note


def test_clustered_error_of_single_rows_is_the_textbook_one():
    x = np.random.default_rng(0).normal(size=30)
    assert clustered_standard_error(x, np.arange(30)) == pytest.approx(stats.sem(x))


def test_repeating_every_row_within_its_task_adds_no_information():
    x = np.random.default_rng(0).normal(size=30)
    repeated = clustered_standard_error(np.repeat(x, 4), np.repeat(np.arange(30), 4))
    assert repeated == pytest.approx(stats.sem(x))
    assert clustered_standard_error([1.0, 2.0], [0, 0]) is None


def test_sign_flip_enumerates_few_clusters():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12))
    clusters = np.repeat(np.arange(6), 2)
    sums = (a - b).reshape(6, 2).sum(axis=1)
    totals = [abs(np.dot(signs, sums)) for signs in itertools.product([-1, 1], repeat=6)]
    result = sign_flip_test(a, b, clusters, rng=rng)
    assert result.exact
    assert result.p_value == pytest.approx(np.mean(np.array(totals) >= abs(sums.sum()) - 1e-12))


def test_sign_flip_of_independent_verdicts_is_mcnemar():
    a = np.array([1] * 20 + [0] * 8 + [1] * 30)
    b = np.array([0] * 20 + [1] * 8 + [1] * 30)
    rng = np.random.default_rng(0)
    result = sign_flip_test(a, b, np.arange(58), rng=rng, num_flips=40_000)
    assert not result.exact
    assert result.p_value == pytest.approx(mcnemar_exact(a, b, np.arange(58)).p_value, abs=0.004)


@pytest.mark.parametrize("shift", [0.0, 0.04])
def test_sign_flip_of_many_different_clusters_is_the_normal_test(shift):
    # Sums of 3,000 tasks that all differ: the flipped total is normal with variance sum s^2.
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(2, 3000)) + np.array([[shift], [0.0]])
    found = sign_flip_test(a, b, np.arange(3000), rng=rng, num_flips=20_000)
    expected = 2 * stats.norm.sf(abs((a - b).sum()) / np.sqrt(((a - b) ** 2).sum()))
    assert 0.03 < expected < 0.97
    tolerance = 4 * np.sqrt(expected * (1 - expected) / 20_000)
    assert found.p_value == pytest.approx(expected, abs=tolerance)


def test_memory_of_sign_flips_is_bounded():
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=(2, 20_000))
    tracemalloc.start()
    sign_flip_test(a, b, np.arange(20_000), rng=rng, num_flips=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # all signs at once would be 320 MB


def test_sign_flip_of_no_difference_is_one():
    rng = np.random.default_rng(0)
    assert sign_flip_test([1, 0, 1], [1, 0, 1], [0, 1, 2], rng=rng).p_value == 1.0


def test_sign_flip_keeps_its_level_on_dependent_steps_where_mcnemar_does_not():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(25), 8)
    hits = {"sign_flip": 0, "mcnemar": 0}
    for _ in range(300):
        # Whole tasks lean to one side or the other; on average no difference.
        lean = np.repeat(rng.random(25) < 0.5, 8)
        a = rng.random(200) < np.where(lean, 0.8, 0.3)
        b = rng.random(200) < np.where(lean, 0.3, 0.8)
        flips = sign_flip_test(a, b, clusters, rng=rng, num_flips=500)
        hits["sign_flip"] += flips.p_value <= 0.05
        hits["mcnemar"] += mcnemar_exact(a, b, np.arange(200)).p_value <= 0.05
    assert hits["sign_flip"] / 300 < 0.09
    assert hits["mcnemar"] / 300 > 0.2


def test_tost_of_independent_rows_is_two_t_tests():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 50))
    result = tost_equivalence(a, b, np.arange(50), margin=0.5)
    above = stats.ttest_1samp(a - b, -0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(a - b, 0.5, alternative="less").pvalue
    assert result.p_value == pytest.approx(max(above, below))


def test_tost_of_tasks_of_one_size_is_statsmodels_of_their_means():
    rng = np.random.default_rng(13)
    a, b = rng.normal(size=(2, 200)) + np.repeat(rng.normal(size=(2, 40)), 5, axis=1)
    found = tost_equivalence(a, b, np.repeat(np.arange(40), 5), margin=0.6)
    means = [x.reshape(40, 5).mean(axis=1) for x in (a, b)]
    p_value, above, _ = ttost_paired(*means, -0.6, 0.6)
    assert (found.p_value, found.p_not_worse) == pytest.approx((p_value, above[1]))


def test_tost_verdicts():
    rng = np.random.default_rng(2)
    a, clusters = rng.normal(size=400), np.arange(400)
    near = tost_equivalence(a, a + 0.1 * rng.normal(size=400), clusters, margin=0.05)
    assert near.verdict == "equivalent"
    far = tost_equivalence(a, a + 1 + 0.1 * rng.normal(size=400), clusters, margin=0.05)
    assert far.verdict == "different"
    vague = tost_equivalence(a, rng.permutation(a), clusters, margin=0.05)
    assert vague.verdict == "inconclusive"


def test_no_discordant_row_among_few_does_not_prove_equality():
    # 20 tasks without a difference have chance .9^20 = .12 at a true difference of .1
    same = np.ones(20)
    result = tost_equivalence(same, same, np.arange(20), margin=0.1)
    assert result.p_value == pytest.approx(0.9**20)
    assert result.verdict == "inconclusive"


def test_not_worse_is_one_side_of_the_equivalence_test():
    rng = np.random.default_rng(3)
    a = rng.normal(size=200) + 1.0
    b, clusters = np.zeros(200), np.arange(200)
    better = tost_equivalence(a, b, clusters, margin=0.1)
    assert better.verdict == "different"
    expected = stats.ttest_1samp(a, -0.1, alternative="greater").pvalue
    assert better.p_not_worse == pytest.approx(expected)
    assert better.p_not_worse < 0.001 < better.p_value


def test_no_discordant_row_among_few_does_not_prove_not_worse():
    # A true difference of -.1 leaves 20 tasks without one with chance .9^20 = .12
    result = tost_equivalence(np.ones(20), np.ones(20), np.arange(20), margin=0.1)
    assert result.p_not_worse == pytest.approx(0.9**20)


def test_tost_refuses_one_cluster_and_no_margin():
    with pytest.raises(ValueError, match="two clusters"):
        tost_equivalence([1, 0], [0, 1], [0, 0], margin=0.1)
    with pytest.raises(ValueError, match="margin"):
        tost_equivalence([1, 0], [0, 1], [0, 1], margin=0.0)


def test_holm_by_hand():
    # Sorted .01, .03, .04 -> .03, .06, max(.06, .04) = .06
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_is_that_of_statsmodels():
    p = np.random.default_rng(14).random(9) ** 3
    p[3] = p[7]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_one_false_positive_among_five_is_held_to_the_level_by_holm():
    # Four nulls that share their data, and one true difference.
    rng = np.random.default_rng(15)
    wrong = {"raw": 0, "holm": 0}
    for _ in range(600):
        x = rng.normal(size=(40, 5)) + 0.5 * rng.normal(size=(40, 1))
        x[:, 0] += 1.0
        p = stats.ttest_1samp(x, 0.0).pvalue
        wrong["raw"] += (p[1:] <= 0.05).any()
        wrong["holm"] += min(holm(p)[1:]) <= 0.05
    # Three standard errors of a share of .05 in 600 runs are .027.
    assert wrong["holm"] / 600 < 0.05 + 0.027
    assert wrong["raw"] / 600 > 0.05 + 0.027


@pytest.mark.parametrize(("difference", "discordance", "n"), [(0.02, 0.17, 3328), (0.05, 0.2, 621)])
def test_sample_size_of_known_cases(difference, discordance, n):
    assert sample_size_paired(difference, discordance) == n
    assert minimum_detectable_difference(n, discordance) == pytest.approx(difference, rel=1e-3)


def test_sample_size_refuses_an_impossible_difference():
    with pytest.raises(ValueError, match="discordance"):
        sample_size_paired(0.3, 0.2)


def test_clusters_must_cover_the_rows():
    with pytest.raises(ValueError, match="clusters must have shape"):
        clustered_standard_error([1.0, 2.0], [0])


def test_a_design_effect_is_worth_as_many_pairs():
    assert sample_size_paired(0.05, 0.2, design_effect=3.0) == pytest.approx(3 * 621, abs=3)
    clustered = minimum_detectable_difference(1863, 0.2, design_effect=3.0)
    assert clustered == pytest.approx(minimum_detectable_difference(621, 0.2))


def leaning_pairs(rng, num_clusters, size, difference=0.0):
    """Verdicts of two systems whose differences lean with the task; their mean is `difference`."""
    lean = np.repeat(rng.choice([-0.4, 0.4], size=num_clusters), size)
    a = rng.random(lean.size) < 0.5 + lean / 2 + difference / 2
    b = rng.random(lean.size) < 0.5 - lean / 2 - difference / 2
    return a, b, np.repeat(np.arange(num_clusters), size)


def test_detectable_difference_of_independent_rows_is_that_of_the_plan():
    rng = np.random.default_rng(16)
    a, b, _ = leaning_pairs(rng, 2000, 1)
    found = detectable_difference(a, b, np.arange(2000))
    planned = minimum_detectable_difference(2000, float((a != b).mean()))
    assert found.difference == pytest.approx(planned, rel=0.01)
    assert found.design_effect == pytest.approx(1.0)


def test_the_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(17)
    a, b, clusters = leaning_pairs(rng, 2000, 10)
    # One error of 2,000 tasks is that of 80 tasks over 5.
    many = detectable_difference(a, b, clusters)
    assert many.design_effect > 2.5
    size = 5 * many.difference
    found = np.zeros(2)
    for _ in range(400):
        pairs = leaning_pairs(rng, 80, 10, size)
        found[0] += sign_flip_test(*pairs, rng=rng, num_flips=400).p_value <= 0.05
        as_if_independent = minimum_detectable_difference(800, float((a != b).mean()))
        pairs = leaning_pairs(rng, 80, 10, as_if_independent)
        found[1] += sign_flip_test(*pairs, rng=rng, num_flips=400).p_value <= 0.05
    # Three standard errors of a share of .8 in 400 runs are .06.
    assert found[0] / 400 == pytest.approx(0.8, abs=0.06)
    assert found[1] / 400 < 0.5


def test_four_times_the_tasks_show_half_the_difference():
    rng = np.random.default_rng(18)
    found = detectable_difference(*leaning_pairs(rng, 50, 4))
    assert found.clusters_needed(found.difference) == 50
    assert found.clusters_needed(-found.difference / 2) == 200
    with pytest.raises(ValueError, match="difference of 0"):
        found.clusters_needed(0.0)


def test_rows_that_never_differ_leave_the_detectable_difference_unknown():
    same = detectable_difference([1, 0, 1], [1, 0, 1], [0, 1, 2])
    assert (same.difference, same.design_effect, same.standard_error) == (None, None, 0.0)
    assert same.clusters_needed(0.1) is None
    one = detectable_difference([1, 0], [0, 0], ["a", "a"])
    assert (one.difference, one.standard_error) == (None, None)


def test_cluster_bootstrap_covers_dependent_rows_and_a_row_bootstrap_does_not():
    rng = np.random.default_rng(19)
    covered = {"clusters": 0, "rows": 0}
    for _ in range(400):
        a, b, clusters = leaning_pairs(rng, 80, 8)
        for name, by in (("clusters", clusters), ("rows", np.arange(640))):
            found = paired_cluster_bootstrap(a, b, by, rng=rng, num_resamples=400)
            covered[name] += found.low <= 0.0 <= found.high
    # Three standard errors of a share of .95 in 400 runs are .033; 80 clusters and 400 draws take
    # another .01.
    assert covered["clusters"] / 400 == pytest.approx(0.95, abs=0.043)
    assert covered["rows"] / 400 < 0.8


def test_tost_at_the_margin_errs_no_more_often_than_its_level():
    rng = np.random.default_rng(20)
    wrong = {"clusters": 0, "rows": 0}
    for _ in range(500):
        a, b, clusters = leaning_pairs(rng, 100, 8, 0.1)
        for name, by in (("clusters", clusters), ("rows", np.arange(800))):
            wrong[name] += tost_equivalence(a, b, by, margin=0.1).p_value <= 0.05
    # Three standard errors of a share of .05 in 500 runs are .029.
    assert wrong["clusters"] / 500 < 0.05 + 0.029
    assert wrong["rows"] / 500 > 0.1
