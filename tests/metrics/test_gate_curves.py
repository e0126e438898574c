import numpy as np
import pytest

from specact_rl.metrics.call_costs import CallCosts
from specact_rl.metrics.frontier import gated_accuracy
from specact_rl.metrics.gate_curves import (
    GateTable,
    average_recovered_gap,
    call_share_for_gap,
    envelope_share,
    recovered_gap,
    why_no_gap,
)
from specact_rl.metrics.values import MetricValue


def each_by_itself(costs):
    """Calls that cost the same whatever was called before."""
    return CallCosts(reading=np.zeros(costs.size), writing=costs, rollouts=np.arange(costs.size))


def table_of(p, c, s, clusters=None, thresholds=None, proposal=0.25, fallback=1.0, draws=1000):
    return GateTable.of(
        p,
        c,
        s,
        np.arange(len(c)) if clusters is None else clusters,
        thresholds=np.linspace(0.0, 1.0, 101) if thresholds is None else thresholds,
        proposal_costs=proposal,
        calls=each_by_itself(np.broadcast_to(np.asarray(fallback, dtype=float), (len(c),))),
        rng=np.random.default_rng(0),
        num_resamples=draws,
    )


def many(seed, n=400, signal=1.0):
    rng = np.random.default_rng(seed)
    c, s = rng.random(n) < 0.5, rng.random(n) < 0.65
    p = 1.0 / (1.0 + np.exp(-(signal * (c - 0.5) + rng.normal(size=n))))
    return p, c, s, np.repeat(np.arange(n // 4), 4)


def test_gate_curve_is_every_thresholds_accuracy_and_cost():
    rng = np.random.default_rng(1)
    p, c, s, clusters = many(0)
    p[rng.random(p.size) < 0.1] = np.nan
    fallback, proposal = rng.random(p.size), rng.random(p.size)
    thresholds = [0.0, 0.3, 0.55, 0.8]
    table = table_of(p, c, s, clusters, thresholds, proposal, fallback)
    curve = table.sums.gate_curve()
    gates = [np.zeros(p.size, dtype=bool)]
    gates += [np.nan_to_num(p, nan=-1.0) >= t for t in thresholds[::-1]]
    gates += [np.ones(p.size, dtype=bool)]
    for i, gate in enumerate(gates):
        assert curve.accept_rate[i] == pytest.approx(gate.mean())
        assert curve.accuracy[i] == pytest.approx(gated_accuracy(gate, c, s))
        assert curve.cost[i] == pytest.approx((proposal + ~gate * fallback).mean())


def test_a_fallback_reads_what_was_said_since_the_last_one():
    # Two rollouts of two steps; prompts of 10 and 25 to read, 1 to write. C only right, S only
    # right, both, S only right.
    calls = CallCosts(
        reading=np.array([10.0, 25.0, 10.0, 25.0]),
        writing=np.ones(4),
        rollouts=np.array([0, 0, 1, 1]),
    )
    table = GateTable.of(
        [0.9, 0.8, 0.3, np.nan],
        [1, 0, 1, 0],
        [0, 1, 1, 1],
        [0, 0, 1, 1],
        thresholds=[0.2, 0.5, 0.85],
        proposal_costs=2.0,
        calls=calls,
        rng=np.random.default_rng(0),
    )
    # All call: 25 + 25 and 4; without the first the second reads all 25; without the first two
    # 25 and 2; then only the last, 25 and 1; then none.
    assert table.sums.gate_curve().cost * 4 == pytest.approx([62, 61, 35, 34, 8])
    # The oracle accepts the first step, then the third, then those that only S has right.
    assert table.sums.oracle_curve().cost * 4 == pytest.approx([62, 61, 60, 8])
    # The worst gates accept the second and the fourth, then the third, then the first.
    assert table.sums.worst_curve().cost * 4 == pytest.approx([62, 30, 19, 8])
    assert table.sums.random_curve().cost * 4 == pytest.approx([62, 8])


def test_envelope_share_is_1_at_the_oracle_0_at_random_and_never_outside_the_worst():
    p, c, s, clusters = many(2)
    gain = c.astype(float) - s
    oracle = table_of((gain + 1) / 2, c, s, clusters)
    assert envelope_share(oracle.sums) == pytest.approx(1.0)
    assert envelope_share(table_of(np.full(c.size, 0.5), c, s).sums) == pytest.approx(0.0)
    worst = table_of((1 - gain) / 2, c, s, clusters)
    area = worst.sums.worst_curve().area()
    assert worst.sums.gate_curve().area() == pytest.approx(area)
    assert envelope_share(worst.sums) <= envelope_share(table_of(p, c, s).sums) <= 1.0


def test_envelope_share_weighs_by_real_cost():
    # Rows 0 and 1: D = 1 and -1; falling back costs 3 on the one and 1 on the other, 2 in the mean.
    # The oracle accepts row 0 first: (2, .5), (.5, 1), (0, .5); random is straight from end to end.
    table = table_of(
        [0.9, 0.1], [1, 0], [0, 1], thresholds=[0.5], proposal=0.0, fallback=[3.0, 1.0]
    )
    assert table.sums.oracle_curve().area() == pytest.approx(1.5 * 0.75 + 0.5 * 0.75)
    assert table.sums.random_curve().area() == pytest.approx(2 * 0.5)
    assert envelope_share(table.sums) == pytest.approx(1.0)


def test_envelope_share_is_undefined_where_the_models_never_differ_or_falling_back_is_free():
    same = table_of([0.1, 0.9, 0.5], [1, 0, 1], [1, 0, 1])
    assert np.isnan(envelope_share(same.sums))
    free = table_of([0.1, 0.9, 0.5], [1, 0, 1], [0, 1, 1], fallback=0.0)
    assert np.isnan(envelope_share(free.sums))
    assert free.statistic(envelope_share).value is None


def test_interval_of_the_share_covers_at_the_nominal_rate():
    truth = float(envelope_share(table_of(*many(99_999, 200_000)).sums))
    misses = 0
    for seed in range(100):
        m = table_of(*many(seed), draws=300).statistic(envelope_share)
        misses += not m.low <= truth <= m.high
    assert 1 <= misses <= 12  # 5, standard error 2.2


def test_interval_of_a_mean_is_the_cluster_bootstraps():
    # The accuracy of never accepting is the mean of S, of 4 rows a cluster that are alike.
    s = np.repeat(np.random.default_rng(3).random(60) < 0.6, 4)
    clusters = np.repeat(np.arange(60), 4)
    m = table_of(np.full(240, 0.5), ~s, s, clusters).statistic(lambda sums: sums.strong)
    error = s.std() / np.sqrt(60)
    # Ends of 1,000 draws are known to about a tenth of the error.
    assert (m.low, m.high) == pytest.approx(
        (m.value - 1.96 * error, m.value + 1.96 * error), abs=0.25 * error
    )


def test_share_of_calls_has_an_interval_within_0_and_1():
    m = table_of(*many(4)).statistic(lambda sums: call_share_for_gap(sums, 0.95))
    assert 0.0 <= m.low <= m.value <= m.high <= 1.0


def test_one_cluster_has_no_interval():
    p, c, s, _ = many(0, 40)
    m = table_of(p, c, s, np.zeros(40)).statistic(average_recovered_gap)
    assert m.value is not None
    assert m.low is None
    assert "one cluster" in m.note


# RouteLLM's numbers -------------------------------------------------------------------------------


def test_recovered_gap_and_what_a_random_gate_recovers():
    assert recovered_gap(0.55, 0.5, 0.6) == pytest.approx(0.5)
    # One block: the curve is the straight line from strong to cheap.
    c, s = np.array([1, 0, 0, 1, 0]), np.array([1, 1, 0, 1, 1])
    table = table_of(np.full(5, 0.5), c, s)
    assert average_recovered_gap(table.sums) == pytest.approx(0.5)
    assert call_share_for_gap(table.sums, 0.8) == pytest.approx(0.8)


def test_call_share_by_hand():
    # Sorted by p, D is 0, 0, -1, -1: half of the calls recover everything, a quarter half of it.
    table = table_of([0.9, 0.8, 0.3, 0.2], [1, 0, 0, 0], [1, 0, 1, 1])
    assert call_share_for_gap(table.sums, 1.0) == pytest.approx(0.5)
    assert call_share_for_gap(table.sums, 0.5) == pytest.approx(0.25)
    assert call_share_for_gap(table.sums, 0.0) == pytest.approx(0.0)
    # Over accept rates 0, 1/4, 1/2, 3/4, 1 it recovers 1, 1, 1, 1/2, 0.
    assert average_recovered_gap(table.sums) == pytest.approx(0.5 + 0.25 * 0.75 + 0.25 * 0.25)


def test_call_share_may_reach_the_gap_with_fewer_calls_than_a_dip_suggests():
    # Accuracy .5, .25, .5, .75, .5 at accept rates 0 to 1, and cheap .5 < strong is false: refused.
    table = table_of([0.9, 0.8, 0.7, 0.1], [0, 1, 1, 0], [1, 0, 0, 1])
    assert np.isnan(call_share_for_gap(table.sums, 0.5))
    assert np.isnan(average_recovered_gap(table.sums))
    # A fifth row that the strong model alone has right makes the gap 1/5.
    table = table_of([0.9, 0.8, 0.7, 0.1, 0.05], [0, 1, 1, 0, 0], [1, 0, 0, 1, 1])
    # Gains 0, -1, 0, 1, 0, -1 of 5; all of the gap again until four rows are accepted.
    assert call_share_for_gap(table.sums, 1.0) == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (MetricValue(value=-0.02, low=-0.05, high=0.01, n=9), "sign would turn"),
        (MetricValue(value=0.0, low=-0.05, high=0.05, n=9), "no better than the cheap one here"),
        (MetricValue(value=0.02, low=-0.01, high=0.05, n=9), "not shown"),
        (MetricValue(value=0.02, n=9), "not shown"),
        (MetricValue(value=None, n=0), "not known"),
    ],
)
def test_refusal_of_the_recovered_gap_is_in_words(difference, words):
    assert words in why_no_gap(difference)


def test_a_gap_that_is_shown_needs_no_words():
    assert why_no_gap(MetricValue(value=0.02, low=0.01, high=0.05, n=9)) is None
    assert np.isnan(recovered_gap(0.5, 0.6, 0.6))
    assert np.isnan(recovered_gap(0.5, 0.6, 0.5))


def test_costs_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="writing must be finite"):
        table_of([0.5], [1], [0], fallback=[np.nan])
