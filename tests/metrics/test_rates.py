import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from specact_rl.metrics.paired import wilson_interval
from specact_rl.metrics.rates import cluster_rate, wilson_at
from specact_rl.metrics.resampling import effective_clusters

Z2 = 1.959964**2


@pytest.mark.parametrize("hits", [0, 1, 7, 20])
def test_rate_of_single_rows_has_the_plain_wilson_interval(hits):
    rows = np.arange(20) < hits
    found, expected = cluster_rate(rows, np.arange(20)), wilson_interval(hits, 20)
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert found.note is None


def test_no_hit_in_a_hundred_tasks_is_bounded_as_by_one_row_per_task():
    # Wilson's upper end of 0 of n is z^2 / (n + z^2).
    found = cluster_rate(np.zeros(800, dtype=bool), np.repeat(np.arange(100), 8))
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(Z2 / (100 + Z2))
    assert "each task as one row" in found.note


def test_all_hits_are_no_hits_mirrored():
    clusters = np.repeat(np.arange(30), 3)
    none, every = (cluster_rate(np.full(90, hit), clusters) for hit in (False, True))
    assert every.high == 1.0
    assert every.low == pytest.approx(1.0 - none.high)


def test_clusters_of_unequal_size_are_worth_less_than_their_number():
    # Sizes 1, 1 and 4: 6^2 / (1 + 1 + 16) = 2
    assert effective_clusters(np.array([0, 1, 2, 2, 2, 2]), 3) == pytest.approx(2.0)


def test_repeating_every_row_within_its_task_adds_no_information():
    hits = np.random.default_rng(0).random(60) < 0.3
    once = cluster_rate(hits, np.arange(60))
    thrice = cluster_rate(np.repeat(hits, 3), np.repeat(np.arange(60), 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=0.005)


def test_rows_that_cancel_out_within_tasks_are_never_worth_more_than_they_are():
    # Each task has one hit and one miss, so that the clustered error is 0: 40 rows stay 40 rows.
    found = cluster_rate(np.tile([True, False], 20), np.repeat(np.arange(20), 2))
    rows = 40 * (stats.t.ppf(0.975, 39) / stats.t.ppf(0.975, 19)) ** 2
    expected = wilson_at(0.5, rows)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_rate_of_one_cluster_has_no_interval():
    found = cluster_rate([True, False], ["a", "a"])
    assert (found.value, found.low, found.high) == (0.5, None, None)
    assert "one cluster" in found.note


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=40).filter(
        lambda rows: len({task for _, task in rows}) > 1
    )
)
def test_interval_holds_the_share_and_stays_within_0_and_1(rows):
    hits, clusters = zip(*rows, strict=True)
    found = cluster_rate(hits, clusters)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.low < found.high


@pytest.mark.parametrize(("share", "at_least"), [(0.004, 0.92), (0.02, 0.86), (0.3, 0.92)])
def test_interval_covers_a_rare_and_a_common_rate_of_alike_rows(share, at_least):
    # The chance is itself drawn per task (beta with intra-cluster correlation 1/2). A percentile
    # bootstrap covers .56, .81 and .97 of the time here.
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(80), 6)
    covered = 0
    for _ in range(300):
        chance = rng.beta(share, 1.0 - share, size=80).repeat(6)
        found = cluster_rate(rng.random(480) < chance, clusters)
        covered += found.low <= share <= found.high
    assert covered / 300 > at_least
