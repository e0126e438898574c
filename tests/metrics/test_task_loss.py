import numpy as np
import pytest
from scipy import special

from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.task_loss import TaskCounts, check_task_loss, places_within

LOSSES = ("wrong_among_accepted", "wrong_share", "any_wrong", "one_step")


def test_losses_by_hand():
    # Task a: three steps, two accepted, one of them wrong. b: one step, accepted, right. c: two
    # steps, none accepted.
    counts = TaskCounts.of([1, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 1], list("aaabcc"))
    assert counts.accept_rate().value == pytest.approx(3 / 6)
    assert counts.selective_risk().value == pytest.approx(1 / 3)
    assert counts.risk("wrong_among_accepted").value == pytest.approx((1 / 2 + 0) / 2)
    assert counts.risk("wrong_share").value == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert counts.risk("any_wrong").value == pytest.approx(1 / 3)
    # One step of each: accepted with probability 2/3, 1, 0; accepted and wrong with 1/3, 0, 0.
    assert counts.risk("one_step").value == pytest.approx((1 / 3) / (2 / 3 + 1))
    assert [counts.risk(of).n for of in LOSSES] == [3, 6, 3, 3]


def test_nothing_accepted_is_undefined_among_the_accepted_and_no_loss_among_all():
    counts = TaskCounts.of([0, 0, 0], [0, 1, 0], ["a", "a", "b"])
    for of in ("wrong_among_accepted", "one_step"):
        assert counts.risk(of).value is None
        assert "nothing accepted" in counts.risk(of).note
    assert counts.selective_risk().value is None
    assert counts.risk("wrong_share").value == 0.0
    assert counts.risk("any_wrong").value == 0.0
    assert counts.accept_rate().value == 0.0


def test_one_task_has_no_interval():
    counts = TaskCounts.of([1, 1], [0, 1], ["a", "a"])
    assert counts.selective_risk().value == 0.5
    assert counts.selective_risk().low is None


def test_shares_of_steps_are_those_of_cluster_rate():
    rng = np.random.default_rng(0)
    tasks = rng.integers(60, size=400)
    g, y = rng.random(400) < 0.6, rng.random(400) < 0.5 + 0.4 * (tasks % 2)
    counts = TaskCounts.of(g, y, tasks)
    for found, expected in (
        (counts.accept_rate(), cluster_rate(g, tasks)),
        (counts.selective_risk(), cluster_rate(~y[g], tasks[g])),
    ):
        assert (found.value, found.n) == pytest.approx((expected.value, expected.n))
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-3)


def draw(rng, num_tasks, threshold=1.0):
    """Tasks of 1 to 8 steps with a luck of their own."""
    tasks = np.repeat(np.arange(num_tasks), rng.integers(1, 9, size=num_tasks))
    z = rng.normal(1, 1.5, size=tasks.size)
    luck = rng.normal(scale=1.5, size=num_tasks)[tasks]
    return z >= threshold, rng.random(tasks.size) < special.expit(z + luck), tasks


@pytest.mark.parametrize("of", LOSSES)
def test_intervals_cover_the_true_loss_of_a_task(of):
    rng = np.random.default_rng(1)
    truth = TaskCounts.of(*draw(rng, 200_000)).risk(of).value
    hits = 0
    for _ in range(500):
        value = TaskCounts.of(*draw(rng, 80)).risk(of)
        hits += value.low <= truth <= value.high
    # 3 standard errors of 500 draws at 95 % are 2.9 points.
    assert hits / 500 > 0.92


def test_one_step_is_the_risk_of_drawing_one_step_per_task():
    rng = np.random.default_rng(2)
    g, y, tasks = draw(rng, 3000)
    starts = np.flatnonzero(np.diff(tasks, prepend=-1))
    sizes = np.diff(np.append(starts, tasks.size))
    picks = (starts + rng.random((400, 3000)) * sizes).astype(int)
    risk = (g & ~y)[picks].sum() / g[picks].sum()
    # 400 draws of 3,000: a standard error below 0.001, as draws share their tasks' steps.
    assert TaskCounts.of(g, y, tasks).risk("one_step").value == pytest.approx(risk, abs=0.003)


def test_places_within_against_a_loop():
    rng = np.random.default_rng(3)
    codes, hits = rng.integers(5, size=40), rng.random(40) < 0.5
    place, num_hits = places_within(codes, hits)
    for i in range(40):
        before = codes[:i] == codes[i]
        assert place[i] == before.sum()
        assert num_hits[i] == hits[:i][before].sum()


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="must be one of"):
        check_task_loss("share")
