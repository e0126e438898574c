"""How often is a certified threshold worse than promised, and what does it accept?

    python benchmarks/bench_promises.py

A world draws tasks whose steps share their luck. Each row: so many calibrations (`--repeats`), each
on fresh tasks; promised is at most 10 % wrong among what is accepted, with confidence 90 %. The
truth is that of a population drawn once. A second table takes the same tasks with 1 to 25 steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.progress import track
from scipy import special

from specact_rl.metrics.paired import wilson_interval
from specact_rl.policy.thresholds import (
    ThresholdChoice,
    choose_by_target_risk,
    choose_by_task_risk,
)
from specact_rl.policy.thresholds.certificates import task_loss_path
from specact_rl.policy.thresholds.cuts import cuts_of

TARGET, DELTA = 0.1, 0.1
LOSS = "wrong_among_accepted"
Rng = np.random.Generator
Tasks = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class World:
    """Tasks of `size` steps whose luck has a standard deviation of `luck` in log-odds."""

    size: int = 8
    luck: float = 2.0
    mean: float = 2.0

    def draw(self, rng: Rng, num_tasks: int) -> Tasks:
        """Probabilities as a verifier would give them, labels, task ids."""
        tasks = np.repeat(np.arange(num_tasks), self.size)
        z = rng.normal(self.mean, 2.0, size=tasks.size)
        luck = rng.normal(scale=self.luck, size=num_tasks)[tasks]
        return special.expit(z), rng.random(tasks.size) < special.expit(z + luck), tasks


class Truth:
    """Loss and accept rate at each threshold of a population of 60,000 tasks."""

    def __init__(self, world: World, *, of_tasks: bool) -> None:
        """Draw it, and go through all thresholds once."""
        num_tasks = 60_000
        p, y, tasks = world.draw(np.random.default_rng(123), num_tasks)
        cuts = cuts_of(p, y)
        self.thresholds, self.rates = cuts.thresholds, cuts.counts / p.size
        self.losses = cuts.errors / cuts.counts
        if of_tasks:
            path = task_loss_path(cuts, tasks, num_tasks, LOSS)
            self.losses = path.total / path.units

    def at(self, threshold: float | None) -> tuple[float, float]:
        """Loss and accept rate; 0 and 0 where nothing is accepted."""
        if threshold is None:
            return 0.0, 0.0
        place = min(np.searchsorted(-self.thresholds, -threshold), self.losses.size - 1)
        return float(self.losses[place]), float(self.rates[place])


def all_rows(drawn: Tasks, rng: Rng) -> ThresholdChoice:
    """The exact test, which takes the steps of a task for independent."""
    p, y, _ = drawn
    return choose_by_target_risk(p, y, target_risk=TARGET, delta=DELTA)


def one_per_task(drawn: Tasks, rng: Rng) -> ThresholdChoice:
    """The exact test on one step of each task."""
    p, y, tasks = drawn
    return choose_by_target_risk(p, y, target_risk=TARGET, delta=DELTA, clusters=tasks, rng=rng)


def whole_tasks(drawn: Tasks, rng: Rng) -> ThresholdChoice:
    """Hoeffding-Bentkus on a mean loss per task."""
    return choose_by_task_risk(*drawn, target_risk=TARGET, delta=DELTA, loss=LOSS)


Rule = Callable[[Tasks, Rng], ThresholdChoice]
LUCKY = World(size=25, luck=3.0, mean=4.0)
ROWS: tuple[tuple[str, Rule, World, int], ...] = (
    ("all steps as independent", all_rows, World(size=1, luck=0.0, mean=1.0), 500),
    ("all steps as independent", all_rows, LUCKY, 40),
    ("all steps as independent", all_rows, LUCKY, 200),
    ("one step per task", one_per_task, LUCKY, 40),
    ("one step per task", one_per_task, LUCKY, 200),
    *(
        (name, rule, World(size=size), 500)
        for size in (1, 4, 8, 25)
        for name, rule in (("one step per task", one_per_task), ("whole tasks", whole_tasks))
    ),
)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000, help="calibrations of a row")
    repeats = parser.parse_args().repeats
    lines = []
    for name, rule, world, num_tasks in track(ROWS, "calibrations"):
        truth, rng = Truth(world, of_tasks=rule is whole_tasks), np.random.default_rng(2)
        chosen = [rule(world.draw(rng, num_tasks), rng) for _ in range(repeats)]
        losses, rates = np.array([truth.at(choice.threshold) for choice in chosen]).T
        broken = wilson_interval(int((losses > TARGET).sum()), repeats)
        lines.append(
            f"| {name} | {num_tasks} x {world.size} | {world.luck:g} "
            f"| {broken.value:.3f} [{broken.low:.3f}, {broken.high:.3f}] "
            f"| {rates.mean():.2f} ({rates.std():.2f}) |"
        )
    print(f"n = {repeats:,} calibrations a row; promised: broken in at most {DELTA:g}")
    print()
    print("| calibrated on | tasks x steps | luck | broken [95 %] | accepted, mean (sd) |")
    print("|---|---|---|---|---|")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
