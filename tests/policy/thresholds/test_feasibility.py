import numpy as np
import pytest
from scipy import special

from specact_rl.policy.gates import decide
from specact_rl.policy.thresholds import (
    certify,
    choose_by_conformal_risk,
    choose_by_target_risk,
    choose_by_task_risk,
    feasibility,
    max_errors_allowed,
)


def test_numbers_by_hand():
    # 100 rows, the first 40 right, then 20 wrong, then 40 right: risk 20/60 at 60, 20/100 at all.
    p = np.linspace(1, 0, 100)
    y = np.repeat([1, 0, 1], [40, 20, 40])
    found = feasibility(p, y, target_risk=0.1)
    assert found.base_risk == pytest.approx(0.2)
    # (1 - .2) / (1 - .1): all 80 right rows and 8.9 wrong ones.
    assert found.oracle_accept_rate == pytest.approx(8 / 9)
    assert found.met_accept_rate == pytest.approx(0.44)  # 4 of 44 are wrong, 5 of 45 are not met
    # P(Bin(41, .1) <= 1) = .074, P(Bin(42, .1) <= 2) = .19
    assert found.choice.num_accepted == 41
    assert "certified at 41 % accepted" in found.message
    assert "at most 44 % can be accepted at an observed 10 %" in found.message
    assert "a perfect verifier could accept 88.9 %" in found.message
    assert found.tasks_needed is None


def test_a_verifier_cannot_beat_the_perfect_one():
    rng = np.random.default_rng(0)
    for target in (0.01, 0.05, 0.2):
        y = rng.random(300) < 0.7
        perfect = feasibility(y * 0.9, y, target_risk=target)
        assert perfect.met_accept_rate <= perfect.oracle_accept_rate + 1e-9
        random = feasibility(rng.random(300), y, target_risk=target)
        assert random.met_accept_rate <= random.oracle_accept_rate + 1e-9


def test_the_tasks_it_asks_for_certify_in_about_four_of_five_draws():
    rng = np.random.default_rng(1)

    def draw(n):
        p = special.expit(rng.normal(0.5, 2.0, size=n))
        return p, rng.random(n) < p

    needed = []
    while len(needed) < 41:  # draws that are too small to certify
        found = feasibility(*draw(300), target_risk=0.05)
        if not found.choice.feasible:
            needed.append(found.tasks_needed or np.inf)
    enough = int(np.median(needed))
    assert enough > 300
    certified = [
        choose_by_target_risk(*draw(enough), target_risk=0.05).feasible for _ in range(200)
    ]
    # A size that is estimated from too few rows is right to a factor.
    assert 0.55 < np.mean(certified) < 0.97


def test_the_tasks_it_asks_for_certify_when_tasks_have_several_steps():
    # The walk has to pass every stricter threshold, too: a number that passes one threshold's test
    # in four of five draws certified in 57 % here.
    rng = np.random.default_rng(7)

    def draw(num_tasks, steps):
        tasks = np.repeat(np.arange(num_tasks), steps)
        alike = 0.5 * rng.normal(size=num_tasks)[tasks]
        z = rng.normal(size=tasks.size) + alike
        right = rng.random(tasks.size) < special.expit(1.8 + 1.2 * z + alike)
        return special.expit(z), right, tasks

    certified = []
    while len(certified) < 600:
        p, y, tasks = draw(120, 4)
        found = feasibility(p, y, target_risk=0.05, clusters=tasks, rng=rng)
        if found.tasks_needed is None:
            continue
        for _ in range(15):
            new_p, new_y, _ = draw(found.tasks_needed, 1)
            choice = choose_by_target_risk(new_p, new_y, target_risk=0.05)
            certified.append(choice.feasible)
    # 40 tables: their spread gives a standard error of about 0.05.
    assert 0.66 < np.mean(certified) < 0.95


def test_what_is_missing_is_said_in_words():
    y = np.arange(100) < 60
    y[3] = False  # 1 of 60 wrong: below the target, and too few to say so
    found = feasibility(np.linspace(1, 0, 100), y, target_risk=0.05)
    assert not found.choice.feasible
    assert found.message.startswith("no threshold certifies 5 % wrong among the accepted")
    assert "if the observed shares are the true ones" in found.message
    assert found.more_tasks is not None
    assert f"about {found.more_tasks} more tasks would certify one" in found.message


def test_a_hopeless_verifier_is_not_told_to_collect_more_tasks():
    rng = np.random.default_rng(3)
    found = feasibility(rng.random(2000), np.arange(2000) % 2, target_risk=0.05)
    assert found.tasks_needed is None
    assert found.more_tasks is None
    assert "more tasks would hardly help: no threshold that accepts a tenth" in found.message


def test_thresholds_that_accept_almost_nothing_promise_no_number_of_tasks():
    # The nine rows scored highest are right, and of every ten and more a fifth is wrong.
    y = np.arange(200) >= 0
    y[9:50:2] = False
    y[50::5] = False
    found = feasibility(np.linspace(1, 0, 200), y, target_risk=0.1)
    assert found.met_accept_rate == pytest.approx(0.055)  # 1 of 11
    assert found.tasks_needed is None


def test_few_tasks_are_told_how_many_it_takes_without_a_mistake():
    tasks = np.arange(60) // 10
    found = feasibility(
        np.linspace(0, 1, 60),
        np.ones(60),
        target_risk=0.05,
        clusters=tasks,
        rng=np.random.default_rng(0),
    )
    assert found.num_tasks == 6
    assert found.met_accept_rate == 1.0
    assert "without a mistake it takes 45 tasks, there are 6" in found.message
    assert found.tasks_needed > 45  # no mistake in 60 rows is not none ever
    assert max_errors_allowed(45, 0.05, 0.1) == 0
    assert max_errors_allowed(44, 0.05, 0.1) == -1


def test_certify_is_each_rule_by_itself():
    rng = np.random.default_rng(4)
    tasks = np.repeat(np.arange(600), 3)
    p = special.expit(rng.normal(1.5, 2.0, size=1800))
    y = rng.random(1800) < p
    for found in certify(p, y, tasks, [0.05, 0.2], rng=np.random.default_rng(9)):
        target = found.feasibility.target_risk
        able = feasibility(p, y, target_risk=target, clusters=tasks, rng=np.random.default_rng(9))
        assert found.feasibility == able
        assert found.task == choose_by_task_risk(p, y, tasks, target_risk=target)
        assert found.conformal == choose_by_conformal_risk(p, y, target_risk=target, tasks=tasks)
        assert decide(p, found.task.threshold).sum() == found.task.num_accepted


def test_few_tasks_without_a_good_cut_are_not_told_that_more_are_no_use():
    found = feasibility(np.linspace(0, 1, 20), np.arange(20) % 2, target_risk=0.05)
    assert found.tasks_needed is None
    assert "without a mistake it takes 45 tasks, there are 20" in found.message
    assert "hardly" not in found.message


def test_the_certified_share_is_of_all_rows_not_of_the_ones_drawn():
    # 60 tasks of a surely right and a surely wrong row. One row of each task is tested, about half
    # of them right; what the threshold accepts is told of all 120, of which it is just half.
    p, y = np.tile([0.99, 0.01], 60), np.tile([True, False], 60)
    tasks = np.repeat(np.arange(60), 2)
    found = feasibility(p, y, target_risk=0.1, clusters=tasks, rng=np.random.default_rng(1))
    assert found.choice.feasible
    assert found.choice.accept_rate != 0.5
    assert found.certified_accept_rate == 0.5
    assert "certified at 50 % accepted" in found.message


def test_the_certified_share_is_what_its_threshold_accepts():
    # Thresholds lie between the rows that were drawn, where others of the rows may lie, too.
    rng = np.random.default_rng(5)
    p = rng.random(900)
    y = rng.random(900) < p**0.3
    tasks = np.repeat(np.arange(180), 5)
    for found in certify(p, y, tasks, (0.1, 0.2, 0.3), rng=rng):
        able = found.feasibility
        assert able.choice.feasible
        accepted = decide(p, able.choice.threshold).mean()
        assert able.certified_accept_rate == pytest.approx(accepted)
