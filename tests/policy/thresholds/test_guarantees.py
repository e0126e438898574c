"""Monte Carlo: promises are kept as often as they say, and broken where what they assume is not so.

A world draws tasks of several steps. The chance that a step is right depends on its score and on
the luck of its task, which all of its steps share. The true loss at a threshold is that of a
population of tasks that is drawn once; a promise is broken where it lies above the target.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import special

from specact_rl.policy.thresholds import (
    choose_by_conformal_risk,
    choose_by_target_risk,
    choose_by_task_risk,
)
from specact_rl.policy.thresholds.certificates import task_loss_path
from specact_rl.policy.thresholds.cuts import cuts_of

TARGET, DELTA = 0.1, 0.1
POPULATION = 60_000
"""Tasks; the true loss is known to about 0.001."""


@dataclass(frozen=True)
class World:
    size: int = 8
    """Steps of a task."""
    luck: float = 2.0
    """Standard deviation, in log-odds; 0 makes steps independent."""
    mean: float = 2.0
    shift: float = 0.0
    """Added to every log-odds of being right."""

    def draw(self, rng, num_tasks):
        """Probabilities as a verifier would give them, labels, task ids."""
        tasks = np.repeat(np.arange(num_tasks), self.size)
        z = rng.normal(self.mean, 2.0, size=tasks.size)
        luck = rng.normal(scale=self.luck, size=num_tasks)[tasks]
        return (
            special.expit(z),
            rng.random(tasks.size) < special.expit(z + luck + self.shift),
            tasks,
        )


@functools.cache
def population(world, of):
    """Thresholds, strictest first, and the true loss at each."""
    p, y, tasks = world.draw(np.random.default_rng(123), POPULATION)
    cuts = cuts_of(p, y)
    if of == "step":
        return cuts.thresholds, cuts.errors / cuts.counts
    path = task_loss_path(cuts, tasks, POPULATION, of)
    return cuts.thresholds, path.total / path.units


def true_loss(world, of, threshold):
    """0 where nothing is accepted."""
    if threshold is None:
        return 0.0
    thresholds, losses = population(world, of)
    return float(losses[min(np.searchsorted(-thresholds, -threshold), losses.size - 1)])


def breaks(world, of, choose, num_tasks, repeats, seed, elsewhere=None):
    """Share of calibrations whose threshold breaks the promise, and that certify something."""
    rng = np.random.default_rng(seed)
    choices = [choose(*world.draw(rng, num_tasks), rng) for _ in range(repeats)]
    losses = [true_loss(elsewhere or world, of, choice.threshold) for choice in choices]
    return np.mean(np.array(losses) > TARGET), np.mean([choice.feasible for choice in choices])


def at_most(repeats):
    """Delta, and 3 standard errors of the share of `repeats` draws."""
    return DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / repeats)


def exact_rows(p, y, tasks, rng):
    return choose_by_target_risk(p, y, target_risk=TARGET, delta=DELTA)


def exact_one_per_task(p, y, tasks, rng):
    return choose_by_target_risk(p, y, target_risk=TARGET, delta=DELTA, clusters=tasks, rng=rng)


def of_tasks(loss):
    def choose(p, y, tasks, rng):
        return choose_by_task_risk(p, y, tasks, target_risk=TARGET, delta=DELTA, loss=loss)

    return choose


INDEPENDENT = World(size=1, luck=0.0, mean=1.0)
DEPENDENT = World()
KEPT = {
    "rows that are independent": (INDEPENDENT, "step", exact_rows, 500),
    "one row per task": (DEPENDENT, "step", exact_one_per_task, 500),
    "tasks, wrong among accepted": (
        DEPENDENT,
        "wrong_among_accepted",
        of_tasks("wrong_among_accepted"),
        500,
    ),
    "tasks, share accepted and wrong": (
        World(mean=0.5),
        "wrong_share",
        of_tasks("wrong_share"),
        300,
    ),
    "tasks, any accepted and wrong": (DEPENDENT, "any_wrong", of_tasks("any_wrong"), 300),
}


@pytest.mark.parametrize("name", KEPT)
def test_the_promise_is_kept(name):
    world, of, choose, num_tasks = KEPT[name]
    broken, certified = breaks(world, of, choose, num_tasks, repeats=300, seed=0)
    assert broken <= at_most(300)
    assert certified > 0.7  # it is not kept by promising nothing


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_the_promise_is_kept_in_many_draws(name):
    world, of, choose, num_tasks = KEPT[name]
    broken, certified = breaks(world, of, choose, num_tasks, repeats=4000, seed=1)
    assert broken <= at_most(4000)
    assert certified > 0.7


def test_taking_the_steps_of_a_task_for_independent_breaks_it():
    world = World(size=25, luck=3.0, mean=4.0)
    broken, certified = breaks(world, "step", exact_rows, 40, repeats=300, seed=2)
    assert broken > at_most(300) + 0.1
    assert certified > broken
    # The same tasks, one row of each: too few to promise anything rather than a false promise.
    broken, _ = breaks(world, "step", exact_one_per_task, 40, repeats=300, seed=2)
    assert broken <= at_most(300)


@pytest.mark.parametrize("name", ["rows that are independent", "tasks, wrong among accepted"])
def test_tasks_that_are_not_like_those_of_calibration_break_it(name):
    world, of, choose, num_tasks = KEPT[name]
    harder = World(size=world.size, luck=world.luck, mean=world.mean, shift=-1.0)
    broken, _ = breaks(world, of, choose, num_tasks, repeats=100, seed=3, elsewhere=harder)
    assert broken > 0.7


def mean_conformal_loss(world, loss, num_tasks, repeats, seed, choose):
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(repeats):
        choice = choose(*world.draw(rng, num_tasks))
        losses.append(true_loss(world, loss, choice.threshold))
    return np.mean(losses), 3 * np.std(losses) / np.sqrt(repeats)


@pytest.mark.parametrize("loss", ["wrong_share", "any_wrong"])
def test_conformal_risk_is_kept_on_average_and_not_wasted(loss):
    world, n = World(mean=0.5), 60
    mean, error = mean_conformal_loss(
        world,
        loss,
        n,
        600,
        4,
        lambda p, y, tasks: choose_by_conformal_risk(
            p, y, target_risk=TARGET, tasks=tasks, loss=loss
        ),
    )
    assert mean <= TARGET + error
    # It is above the target less 2 / (n + 1) for a loss that does not jump (any_wrong: by 1 / n).
    assert mean >= TARGET - 2 / (n + 1) - error


def test_conformal_risk_without_its_correction_is_broken_on_average():
    world, n = World(size=1, luck=0.0, mean=0.5), 15
    kept = mean_conformal_loss(
        world,
        "any_wrong",
        n,
        2000,
        5,
        lambda p, y, tasks: choose_by_conformal_risk(p, y, target_risk=TARGET),
    )

    def plug_in(p, y, tasks):
        # The laxest threshold whose observed loss is within the target.
        return choose_by_conformal_risk(p, y, target_risk=(n * TARGET + 1) / (n + 1))

    broken = mean_conformal_loss(world, "any_wrong", n, 2000, 5, plug_in)
    assert kept[0] <= TARGET + kept[1]
    assert broken[0] > TARGET + broken[1]


def test_rows_of_a_task_break_conformal_risk_when_tasks_differ_in_size():
    # A mean over rows is not one over tasks: many right steps of long tasks hide short ones.
    def tasks_of_two_kinds(rng, num_tasks):
        long = rng.random(num_tasks) < 0.5
        tasks = np.repeat(np.arange(num_tasks), np.where(long, 20, 1))
        p = rng.random(tasks.size)
        return p, rng.random(tasks.size) < np.where(long[tasks], 0.99, 0.6), tasks

    rng = np.random.default_rng(6)
    p, y, tasks = tasks_of_two_kinds(rng, 20_000)
    cuts = cuts_of(p, y)
    path = task_loss_path(cuts, tasks, 20_000, "wrong_share")
    losses = path.total / path.units

    def loss_at(threshold):
        return losses[min(np.searchsorted(-cuts.thresholds, -threshold), losses.size - 1)]

    of_rows, by_task = [], []
    for _ in range(200):
        p, y, tasks = tasks_of_two_kinds(rng, 100)
        of_rows.append(loss_at(choose_by_conformal_risk(p, y, target_risk=0.1).threshold))
        by_task.append(
            loss_at(choose_by_conformal_risk(p, y, target_risk=0.1, tasks=tasks).threshold)
        )
    assert np.mean(of_rows) > 0.15
    assert np.mean(by_task) <= 0.1 + 3 * np.std(by_task) / np.sqrt(200)
