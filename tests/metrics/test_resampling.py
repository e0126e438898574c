import numpy as np
import pytest
from scipy import stats

from specact_rl.metrics import resampling
from specact_rl.metrics.resampling import (
    MANY_CLUSTERS,
    _poisson,
    bca_interval,
    cluster_bootstrap,
    cluster_codes,
    draw_cluster_weights,
    resampled_sums,
)


@pytest.mark.parametrize("ids", [["b", "b", "a", "b", "c", "c"], [3, 3, 1, 3, 9, 9]])
def test_codes_number_the_ids_in_sorted_order(ids):
    codes, num_clusters = cluster_codes(ids, 6)
    assert codes.tolist() == [1, 1, 0, 1, 2, 2]
    assert num_clusters == 3


def all_weights(num_clusters, num_resamples, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate(list(draw_cluster_weights(num_clusters, num_resamples, rng)))


@pytest.mark.parametrize("num_clusters", [1, 7, MANY_CLUSTERS - 1, MANY_CLUSTERS, 5000])
def test_each_draw_picks_as_many_clusters_as_there_are(num_clusters):
    weights = all_weights(num_clusters, 300)
    assert weights.shape == (300, num_clusters)
    assert (weights.sum(axis=1, dtype=np.int64) == num_clusters).all()


@pytest.mark.parametrize("num_clusters", [50, MANY_CLUSTERS, 3000])
def test_a_cluster_is_picked_as_often_as_the_binomial_says(num_clusters):
    draws = 4_000_000 // num_clusters
    counts = np.bincount(all_weights(num_clusters, draws).ravel(), minlength=8)
    chances = stats.binom.pmf(np.arange(6), num_clusters, 1 / num_clusters)
    expected = np.append(chances, 1.0 - chances.sum()) * draws * num_clusters
    found = np.append(counts[:6], counts[6:].sum())
    # Weights of one draw are a little dependent, which makes the statistic no larger.
    assert stats.chisquare(found, expected).pvalue > 0.001


def test_poisson_numbers_are_the_quantiles_of_their_random_bits():
    class EveryBitPattern:
        def integers(self, high, size, dtype):
            return np.append(np.arange(2**16, dtype=np.uint16), np.zeros(4, np.uint16)).view(dtype)

        def random(self, size):
            return np.full(size, 0.5)

    drawn = _poisson(0.9, (1, 2**16), EveryBitPattern())
    assert (drawn[0] == stats.poisson.ppf((np.arange(2**16) + 0.5) / 2**16, 0.9)).all()


def test_draws_that_pick_too_many_are_made_anew(monkeypatch):
    # Without a margin half of the draws of Poisson weights exceed K.
    monkeypatch.setattr(resampling, "SPARE", 0.0)
    weights = all_weights(2000, 1500)
    assert (weights.sum(axis=1, dtype=np.int64) == 2000).all()
    assert weights[:, ::2].sum(axis=1, dtype=np.int64).var() == pytest.approx(500, rel=0.15)


@pytest.mark.parametrize("num_clusters", [50, MANY_CLUSTERS])
def test_two_clusters_of_a_draw_crowd_each_other_out_as_in_a_multinomial(num_clusters):
    # Halves of the clusters: their totals are binomial, so the variance is K / 4. Independent
    # Poisson weights would give K / 2. The variance of 20,000 draws is known to 1 %.
    halves = [
        weights[:, ::2].sum(axis=1, dtype=np.int64)
        for weights in draw_cluster_weights(num_clusters, 20_000, np.random.default_rng(1))
    ]
    variance = np.concatenate(halves).var()
    assert variance == pytest.approx(num_clusters / 4, rel=4 * np.sqrt(2 / 20_000))


def sums_of_kind(kind, num_clusters, rng):
    counts = rng.integers(1, 30, size=(num_clusters, 3)).astype(float)
    if kind == "few kinds":
        return counts[:, :2] % 2
    if kind == "counts":
        return counts
    return np.column_stack([counts, rng.lognormal(20.0, 2.0, size=(num_clusters, 2))])


@pytest.mark.parametrize("num_clusters", [60, 2000])
@pytest.mark.parametrize("kind", ["few kinds", "counts", "counts and FLOPs"])
def test_totals_are_those_of_picked_clusters(kind, num_clusters):
    rng = np.random.default_rng(2)
    sums = sums_of_kind(kind, num_clusters, rng)
    found = resampled_sums(sums, 4000, rng)
    slow = np.stack(
        [sums[rng.integers(num_clusters, size=num_clusters)].sum(axis=0) for _ in range(4000)]
    )
    for column in range(sums.shape[1]):
        assert stats.ks_2samp(found[:, column], slow[:, column]).pvalue > 0.001
    assert np.corrcoef(found.T) == pytest.approx(np.corrcoef(slow.T), abs=0.07)


def test_totals_of_counts_are_whole_and_those_of_seconds_are_precise():
    rng = np.random.default_rng(3)
    counts, seconds = rng.integers(9, size=3000), rng.random(3000)
    tokens = rng.integers(10**9, size=3000)
    sums = np.column_stack([counts, seconds, tokens])
    found = resampled_sums(sums, 50, np.random.default_rng(4))
    weights = all_weights(3000, 50, seed=4).astype(float)
    assert (found[:, 0] == weights @ counts).all()
    assert (found[:, 2] == weights @ tokens).all()
    assert found[:, 1] == pytest.approx(weights @ seconds, rel=1e-13)


def test_statistics_of_one_set_are_paired():
    rng = np.random.default_rng(5)
    tasks = np.repeat(np.arange(2000), 3)
    right = rng.random(6000) < 0.6
    columns = {"a": right, "b": right, "n": np.ones(6000)}
    shared = cluster_bootstrap(columns, tasks, rng=rng, num_resamples=500)
    difference = shared.value(lambda t: t["a"] / t["n"] - t["b"] / t["n"], n=6000)
    assert (difference.value, difference.low) == (0.0, None)
    share = shared.value(lambda t: t["a"] / t["n"], n=6000)
    assert share.value == right.mean()
    # Three independent rows a task: the plain standard error, to the 10 % of 500 draws.
    error = np.sqrt(0.6 * 0.4 / 6000)
    assert share.high - share.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_a_statistic_that_no_row_defines_is_none_and_says_so():
    rng = np.random.default_rng(0)
    columns = {"wrong": [0, 0, 1], "accepted": [0, 0, 0], "some": [1, 0, 0]}
    shared = cluster_bootstrap(columns, [0, 1, 2], rng=rng, num_resamples=300)
    found = shared.value(lambda t: t["wrong"] / t["accepted"], n=0)
    assert (found.value, found.low) == (None, None)
    assert found.note == "undefined"
    partly = shared.value(lambda t: t["wrong"] / t["some"], n=3)
    assert partly.value == 1.0
    assert "of 300 draws" in partly.note


def test_columns_are_checked():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="right must be finite"):
        cluster_bootstrap({"right": [1.0, np.nan]}, [0, 1], rng=rng)
    with pytest.raises(ValueError, match="one entry per row"):
        cluster_bootstrap({"a": [1.0], "b": [1.0, 2.0]}, [0], rng=rng)
    with pytest.raises(ValueError, match="at least one column"):
        cluster_bootstrap({}, [0], rng=rng)
    shared = cluster_bootstrap({"a": [1.0, 2.0]}, [0, 1], rng=rng, num_resamples=10)
    with pytest.raises(ValueError, match="one number for each"):
        shared.value(lambda t: t["a"].sum(), n=2)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_of_independent_rows_is_scipys(method):
    # A ratio of skewed totals, where the two methods differ by far more than the tolerance.
    rng = np.random.default_rng(6)
    a, b = rng.lognormal(0.0, 1.5, size=60), rng.gamma(2.0, size=60)
    shared = cluster_bootstrap({"a": a, "b": b}, np.arange(60), rng=rng, num_resamples=40_000)
    found = shared.value(lambda t: t["a"] / t["b"], n=60, method=method)
    peer = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.sum(axis=axis) / y.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=40_000,
        method="BCa" if method == "bca" else method,
        rng=rng,
    ).confidence_interval
    # An end of 40,000 draws has a standard error of about 1 % of the width.
    assert (found.low, found.high) == pytest.approx(
        (peer.low, peer.high), abs=0.03 * (peer.high - peer.low)
    )


def test_bca_with_bias_alone_by_hand():
    # Three fifths of the draws are below the value: z0 = .2533, and the ends of a 90 % interval
    # are at the shares Phi(2 z0 - 1.6449) = .1275 and Phi(2 z0 + 1.6449) = .9843.
    draws = np.linspace(0.0, 1.0, 100_001)
    found = bca_interval(0.6, draws, np.array([0.5, 0.6, 0.7]), 0.9)
    assert (found.low, found.high) == pytest.approx((0.1275, 0.9843), abs=1e-4)


def test_bca_without_bias_or_skewness_is_the_percentile_interval():
    draws = np.linspace(-1.0, 1.0, 2001)
    found = bca_interval(0.0, draws, np.linspace(-1.0, 1.0, 31), 0.9)
    assert (found.low, found.high) == pytest.approx((-0.9, 0.9))
