import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController, precision
from mapie.risk_control.fwer_control import FWERFixedSequenceTesting
from scipy import special, stats

from specact_rl.metrics.resampling import cluster_codes
from specact_rl.metrics.task_loss import TaskCounts
from specact_rl.policy.gates import decide
from specact_rl.policy.thresholds import (
    binomial_p_values,
    choose_by_accept_rate,
    choose_by_conformal_risk,
    choose_by_target_risk,
    choose_by_task_risk,
    choose_by_utility,
    default_start_count,
    hoeffding_bentkus_p_values,
    max_errors_allowed,
    min_certifiable_count,
    one_row_per_cluster,
)
from specact_rl.policy.thresholds.certificates import CONTROLS, task_loss_path
from specact_rl.policy.thresholds.cuts import cuts_of

ROWS = st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, rate=st.floats(0, 1))
def test_the_threshold_accepts_what_the_choice_says(rows, rate):
    p, y = np.array([r[0] / 10 for r in rows]), np.array([r[1] for r in rows])
    choice = choose_by_accept_rate(p, y, accept_rate=rate)
    accepted = decide(p, choice.threshold)
    assert accepted.sum() == choice.num_accepted
    assert (accepted & ~y).sum() == choice.num_errors
    # No other place to cut is nearer to the rate.
    counts = [0, *((p >= value).sum() for value in np.unique(p))]
    nearest = min(abs(count - rate * p.size) for count in counts)
    assert abs(choice.num_accepted - rate * p.size) == pytest.approx(nearest)


def test_accept_rate_ends_are_nothing_and_everything():
    p, y = [0.2, 0.4, 0.9], [0, 1, 1]
    assert choose_by_accept_rate(p, y, accept_rate=0.0).threshold is None
    everything = choose_by_accept_rate(p, y, accept_rate=1.0)
    assert everything.threshold == 0.0
    assert everything.num_errors == 1


def test_threshold_lies_between_neighbours_so_rounding_moves_no_row():
    choice = choose_by_accept_rate([0.2, 0.4, 0.9], [0, 1, 1], accept_rate=1 / 3)
    assert choice.threshold == pytest.approx(0.65)


def test_neighbours_without_a_number_between_are_still_parted():
    low = 0.5
    high = np.nextafter(low, 1.0)
    choice = choose_by_accept_rate([low, high], [0, 1], accept_rate=0.5)
    assert decide(np.array([low, high]), choice.threshold).tolist() == [False, True]


def test_equal_probabilities_make_a_rate_infeasible_and_it_says_why():
    choice = choose_by_accept_rate([0.5] * 10, [1] * 10, accept_rate=0.4)
    assert not choice.feasible
    assert choice.num_accepted == 0
    assert "cannot be told apart" in choice.message


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 10), st.booleans(), st.booleans()), min_size=1, max_size=25
    ),
    cost_weight=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
)
def test_utility_threshold_is_the_best_of_all(rows, cost_weight):
    p, c, s = (np.array([r[i] for r in rows]) for i in range(3))
    p = p / 10

    def utility(threshold):
        g = decide(p, threshold)
        return np.mean(np.where(g, c, s) - cost_weight * ~g)

    choice = choose_by_utility(p, c, s, cost_weight=cost_weight, fallback_cost=1.0)
    best = max(utility(t) for t in [None, *np.unique(p)])
    assert utility(choice.threshold) == pytest.approx(best)


def test_a_weaker_fallback_is_never_asked():
    # The source report's case: proposals right half the time, the fallback less often.
    p, y = [0.1, 0.3, 0.6, 0.9], [0, 1, 0, 1]
    choice = choose_by_utility(p, y, 0.0, cost_weight=0.0, fallback_cost=1.0)
    assert choice.threshold == 0.0
    assert "accept everything" in choice.message


def test_a_perfect_free_fallback_is_asked_where_the_proposal_is_wrong():
    p, y = [0.9, 0.8, 0.7, 0.1], [1, 1, 0, 0]
    choice = choose_by_utility(p, y, 1.0, cost_weight=0.0, fallback_cost=1.0)
    assert choice.num_accepted == 2
    never = choose_by_utility([0.9], [0], 1.0, cost_weight=0.0, fallback_cost=1.0)
    assert never.threshold is None


def test_size_guide_of_the_exact_test():
    assert min_certifiable_count(0.1, 0.1) == 22
    assert min_certifiable_count(0.05, 0.05) == 59
    assert max_errors_allowed(21, 0.1, 0.1) == -1
    assert max_errors_allowed(22, 0.1, 0.1) == 0
    assert max_errors_allowed(200, 0.1, 0.1) == 14
    assert max_errors_allowed(500, 0.1, 0.1) == 40


def test_the_walk_starts_where_half_the_target_may_go_wrong():
    start = default_start_count(1000, 0.1, 0.1)
    assert start == 100  # a tenth of the rows
    start = default_start_count(700, 0.1, 0.1)
    assert max_errors_allowed(start, 0.1, 0.1) >= start * 0.05
    assert default_start_count(30, 0.1, 0.1) == 22


def test_certified_threshold_passes_the_exact_test():
    rng = np.random.default_rng(0)
    q = special.expit(rng.normal(1, 2, size=1000))
    y = rng.random(1000) < q
    choice = choose_by_target_risk(q, y, target_risk=0.1)
    assert choice.feasible
    accepted = decide(q, choice.threshold)
    assert accepted.sum() == choice.num_accepted > 250
    tail = stats.binom.cdf(choice.num_errors, choice.num_accepted, 0.1)
    assert tail <= 0.1
    assert "certified at" in choice.message


def test_the_promise_is_kept_as_often_as_it_says():
    rng = np.random.default_rng(1)
    grid = np.linspace(-9, 11, 4001)
    density = np.exp(-((grid - 1) ** 2) / 8)
    broken = certified = 0
    for _ in range(300):
        z = rng.normal(1, 2, size=500)
        y = rng.random(500) < special.expit(z)
        choice = choose_by_target_risk(special.expit(z), y, target_risk=0.1, delta=0.1)
        if choice.threshold is not None:
            certified += 1
            weight = density * (special.expit(grid) >= choice.threshold)
            true_risk = (weight * (1 - special.expit(grid))).sum() / weight.sum()
            broken += true_risk > 0.1
    assert broken / 300 <= 0.1 + 2 * np.sqrt(0.09 / 300)
    assert certified / 300 > 0.8


def test_a_walk_from_a_single_row_certifies_nothing():
    y = np.ones(500, dtype=bool)
    p = np.linspace(1, 0, 500)
    assert not choose_by_target_risk(p, y, target_risk=0.1, start_count=1).feasible
    assert choose_by_target_risk(p, y, target_risk=0.1).num_accepted == 500


def test_too_few_rows_are_infeasible_in_plain_words():
    choice = choose_by_target_risk([0.9] * 20, [1] * 20, target_risk=0.1)
    assert not choice.feasible
    assert choice.threshold is None
    assert "at least 22 accepted rows" in choice.message
    assert "there are 20" in choice.message


def test_a_hopeless_score_is_infeasible_in_plain_words():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2 == 0
    choice = choose_by_target_risk(rng.random(400), y, target_risk=0.1)
    assert choice.threshold is None
    assert choice.num_accepted == 0
    # (.5 - .1) / .9 = 44.4 %
    assert "even a perfect verifier would have to reject 44.4%" in choice.message


def test_dependent_rows_are_cut_to_one_per_task():
    y = np.ones(400, dtype=bool)
    clusters = np.repeat(np.arange(10), 40)
    p = np.linspace(0.5, 1, 400)
    choice = choose_by_target_risk(
        p, y, target_risk=0.1, clusters=clusters, rng=np.random.default_rng(0)
    )
    assert not choice.feasible  # ten tasks say nothing of 90 %
    assert choice.num_rows == 10
    assert "10 clusters" in choice.message
    with pytest.raises(ValueError, match="rng is needed"):
        choose_by_target_risk(p, y, target_risk=0.1, clusters=clusters)


def test_one_row_per_cluster_draws_each_row_alike():
    clusters = ["a", "b", "b", "a", "a"]
    rng = np.random.default_rng(0)
    draws = np.array([one_row_per_cluster(clusters, 5, rng) for _ in range(3000)])
    shares = np.bincount(draws[:, 0], minlength=5) / 3000
    assert shares == pytest.approx([1 / 3, 0, 0, 1 / 3, 1 / 3], abs=0.03)
    assert set(draws[:, 1]) == {1, 2}


@pytest.mark.parametrize("arguments", [{"target_risk": 0.0}, {"target_risk": 0.1, "delta": 1.0}])
def test_impossible_targets_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        choose_by_target_risk([0.5], [1], **arguments)


TASK_ROWS = st.lists(
    st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 4)), min_size=1, max_size=30
)


@settings(max_examples=80, deadline=None)
@given(rows=TASK_ROWS, loss=st.sampled_from(["wrong_among_accepted", "wrong_share", "any_wrong"]))
def test_losses_of_tasks_at_every_cut_are_those_of_a_loop(rows, loss):
    p, y, tasks = (np.array([r[i] for r in rows]) for i in range(3))
    p = p / 6
    codes, num_tasks = cluster_codes(tasks, p.size)
    path = task_loss_path(cuts_of(p, y), codes, num_tasks, loss)
    for k, threshold in enumerate(np.unique(p)[::-1]):
        total, units = 0.0, 0
        for task in range(num_tasks):
            mine = codes == task
            accepted, wrong = mine & (p >= threshold), mine & (p >= threshold) & (y == 0)
            if loss == "wrong_among_accepted":
                units += accepted.any()
                total += wrong.sum() / max(accepted.sum(), 1)
            else:
                units += 1
                total += wrong.sum() / mine.sum() if loss == "wrong_share" else wrong.any()
        assert path.total[k] == pytest.approx(total, abs=1e-9)
        assert path.units[k] == units


def some_tasks(rng, num_tasks=400, size=4, shift=1.5):
    z = rng.normal(shift, 2, size=num_tasks * size)
    return special.expit(z), rng.random(z.size) < special.expit(z), np.arange(z.size) // size


@pytest.mark.parametrize("loss", ["wrong_among_accepted", "wrong_share", "any_wrong"])
def test_a_certified_task_risk_passes_its_test_and_a_laxer_cut_was_not_to_be_had(loss):
    p, y, tasks = some_tasks(np.random.default_rng(0))
    choice = choose_by_task_risk(p, y, tasks, target_risk=0.1, loss=loss, num_steps=10_000)
    counts = TaskCounts.of(decide(p, choice.threshold), y, tasks)
    units = np.sum(counts.accepted > 0) if loss == "wrong_among_accepted" else 400
    test = binomial_p_values if loss == "any_wrong" else hoeffding_bentkus_p_values
    mean = counts.risk(loss).value
    assert test(mean * units, units, 0.1) <= 0.1
    below = np.sort(p[p < choice.threshold])[-1]
    next_counts = TaskCounts.of(p >= below, y, tasks)
    assert test(next_counts.risk(loss).value * units, units, 0.1) > 0.1
    assert CONTROLS[loss] in choice.controls
    assert f"mean loss {mean:.4f}" in choice.message


def test_task_ids_of_one_row_each_make_the_two_ways_ask_for_the_same():
    # Hoeffding-Bentkus knows less than the exact test of counts: it accepts less, and not nothing.
    p, y, tasks = some_tasks(np.random.default_rng(1), num_tasks=1500, size=1)
    exact = choose_by_target_risk(p, y, target_risk=0.1)
    tasks_too = choose_by_task_risk(p, y, tasks, target_risk=0.1)
    assert 0.8 * exact.num_accepted < tasks_too.num_accepted <= exact.num_accepted


def test_too_few_tasks_certify_no_task_risk():
    choice = choose_by_task_risk([0.9] * 60, [1] * 60, np.arange(60) // 3, target_risk=0.1)
    assert choice.threshold is None
    assert "at least 22 tasks, there are 20" in choice.message


def test_a_hopeless_score_certifies_no_task_risk():
    rng = np.random.default_rng(2)
    p, tasks = rng.random(800), np.arange(800) // 4
    choice = choose_by_task_risk(p, np.arange(800) % 2, tasks, target_risk=0.1)
    assert choice.threshold is None
    assert choice.num_accepted == 0
    assert "strictest threshold tested; the gate accepts nothing" in choice.message


def test_conformal_risk_is_kept_with_the_correction_for_the_next_task():
    # Errors at places 1 and 3 of 9 rows, sorted: (errors + 1) / 10 <= 0.2 up to the third row.
    p, y = np.linspace(0.9, 0.1, 9), np.array([1, 0, 1, 0, 1, 1, 1, 1, 1])
    choice = choose_by_conformal_risk(p, y, target_risk=0.2)
    assert choice.num_accepted == 3
    assert choice.num_errors == 1
    assert choice.threshold == pytest.approx(0.65)
    everything = choose_by_conformal_risk(p, y, target_risk=0.3)
    assert everything.threshold == 0.0


def test_conformal_risk_of_tasks_counts_tasks():
    p, y, tasks = some_tasks(np.random.default_rng(3))
    for loss in ("wrong_share", "any_wrong"):
        choice = choose_by_conformal_risk(p, y, target_risk=0.05, tasks=tasks, loss=loss)
        mean = TaskCounts.of(decide(p, choice.threshold), y, tasks).risk(loss).value
        assert (400 * mean + 1) / 401 <= 0.05
    below = np.sort(p[p < choice.threshold])
    lax = TaskCounts.of(p >= below[-4], y, tasks).risk("any_wrong").value
    assert (400 * lax + 1) / 401 > 0.05


def test_conformal_risk_with_too_few_rows_accepts_nothing_and_says_how_many_it_takes():
    choice = choose_by_conformal_risk([0.9] * 8, [1] * 8, target_risk=0.1)
    assert choice.threshold is None
    assert "takes at least 9 of them, there are 8" in choice.message
    assert choose_by_conformal_risk([0.9] * 9, [1] * 9, target_risk=0.1).num_accepted == 9


def test_conformal_risk_refuses_a_loss_that_can_fall():
    with pytest.raises(ValueError, match="never falls"):
        choose_by_conformal_risk(
            [0.5], [1], target_risk=0.1, tasks=["a"], loss="wrong_among_accepted"
        )


def test_shuffling_rows_moves_no_task_certificate():
    rng = np.random.default_rng(4)
    p, y, tasks = some_tasks(rng)
    p, order = p.round(2), rng.permutation(p.size)
    for choose in (
        lambda o: choose_by_task_risk(p[o], y[o], tasks[o], target_risk=0.1),
        lambda o: choose_by_conformal_risk(p[o], y[o], target_risk=0.05, tasks=tasks[o]),
    ):
        assert choose(order).threshold == choose(np.arange(p.size)).threshold


@pytest.mark.filterwarnings("ignore:Fixed sequence testing requires")
def test_mapie_certifies_the_same_threshold():
    # Its p-value for counts is the smaller of Hoeffding's and the exact one, which is ours.
    rng = np.random.default_rng(5)
    p = special.expit(rng.normal(1, 2, size=1200))
    y = (rng.random(1200) < p).astype(int)
    grid = np.sort(p)[::-1][np.linspace(119, 1199, 40).astype(int)]
    controller = BinaryClassificationController(
        predict_function=lambda x: np.column_stack([1 - x[:, 0], x[:, 0]]),
        risk=precision,
        target_level=0.9,
        confidence_level=0.9,
        list_predict_params=grid,
        fwer_method=FWERFixedSequenceTesting(),
    ).calibrate(p[:, None], y)
    cuts = cuts_of(p, y)
    choice = choose_by_target_risk(p, y, target_risk=0.1, start_count=120, num_steps=40)
    assert controller.valid_predict_params.min() == pytest.approx(
        p[cuts.order[choice.num_accepted - 1]]
    )
