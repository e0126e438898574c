"""Pair precision: how often chosen is really better than rejected, asked of an environment.

Both sides are taken from the same state and what follows is compared: the expert's cost-to-go,
or episodes that a noisy expert plays to their end.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from specact_rl.envs.base import Environment
from specact_rl.envs.episodes import Episode, Policy
from specact_rl.metrics.paired import wilson_interval
from specact_rl.metrics.values import MetricValue
from specact_rl.mining.task_tables import Pair, Side
from specact_rl.types import Step

DISCOUNT = 0.97
"""Value of a success per step it took: a success is worth more than a failure, a short one more
than a long one. Steps of workspace episodes are 3 to 25, so every success is worth at least .47."""

EnvironmentAt = Callable[[Step], Environment]
"""The environment as it was when a step's action was due."""
Value = Callable[[Environment, Side], float]
"""How good it is to take a side in the environment's state; moves the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPrecision:
    """Both sides of the pairs of one strategy, compared in the environment."""

    better: MetricValue
    """Share of pairs whose chosen side is better; ties count against it."""
    num_ties: int
    num_worse: int
    """Pairs whose rejected side is better."""
    num_unmeasured: int
    """Trajectories, which have no state in common to start from."""


def cost_value(env: Environment, side: Side) -> float:
    """Minus the expert's cost-to-go after the side's action; minus infinity after a failure."""
    env.step(side.action)
    cost = env.cost_to_go()
    return -float("inf") if cost is None else -float(cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationValue:
    """Mean discounted success over episodes played on from the side's action."""

    make_policy: Callable[[random.Random], Policy]
    """Plays on, by looking into the environment: the history it is shown is not kept up. With
    some noise, or most pairs tie."""
    num_episodes: int
    seed: int = 0

    def __call__(self, env: Environment, side: Side) -> float:
        """The value, in [0, 1]. Both sides of a pair meet the same random numbers."""
        env.step(side.action)
        start = env.snapshot()
        total = 0.0
        for i in range(self.num_episodes):
            env.restore(start)
            policy = self.make_policy(random.Random(f"{self.seed}/{env.task_id}/{i}"))
            total += _play(env, policy)
        return total / self.num_episodes


def _play(env: Environment, policy: Policy) -> float:
    """Discounted success of one episode played to its end."""
    num_steps = 0
    step = Episode(env, "continuation", 0).current_step()
    while not env.done:
        env.step(policy(env, step))
        num_steps += 1
    return DISCOUNT**num_steps if env.success else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """How many pairs of one strategy came out how; those of different tasks add up."""

    num_better: int = 0
    num_ties: int = 0
    num_worse: int = 0
    num_unmeasured: int = 0
    num_tasks: int = 0

    def __add__(self, other: Verdicts) -> Verdicts:
        """The verdicts on the pairs of both, which have no task in common."""
        return Verdicts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def precision(self) -> PairPrecision:
        """Shares, with an interval."""
        better = replace(
            wilson_interval(self.num_better, self.num_better + self.num_ties + self.num_worse),
            num_clusters=self.num_tasks,
            note="Wilson interval, which takes pairs of one task as independent",
        )
        return PairPrecision(
            better=better,
            num_ties=self.num_ties,
            num_worse=self.num_worse,
            num_unmeasured=self.num_unmeasured,
        )


def pair_precision(
    pairs: Sequence[Pair], environment_at: EnvironmentAt, value: Value = cost_value
) -> dict[str, PairPrecision]:
    """Precision by strategy, sorted by name; see `pair_verdicts`."""
    verdicts = pair_verdicts(pairs, environment_at, value)
    return {name: found.precision() for name, found in verdicts.items()}


def pair_verdicts(
    pairs: Sequence[Pair], environment_at: EnvironmentAt, value: Value = cost_value
) -> dict[str, Verdicts]:
    """Compare both sides of each pair; verdicts by strategy, sorted by name.

    Args:
        pairs: Mined from rollouts of the environment.
        environment_at: Restores the state of a pair's step; called once a side.
        value: `cost_value` is exact for the expert, and says nothing new of pairs whose labels
            came from it; a `ContinuationValue` is an estimate for a weaker player, whose noise
            pulls the precision towards one half.
    """
    of_strategy: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        of_strategy[pair.strategy].append(pair)
    return {
        name: _verdicts(group, environment_at, value) for name, group in sorted(of_strategy.items())
    }


def _verdicts(pairs: Sequence[Pair], environment_at: EnvironmentAt, value: Value) -> Verdicts:
    found: Counter[int] = Counter()
    steps = [pair for pair in pairs if not pair.is_trajectory]
    for pair in steps:
        chosen = value(environment_at(pair.step), pair.chosen)
        rejected = value(environment_at(pair.step), pair.rejected)
        found[(chosen > rejected) - (chosen < rejected)] += 1
    return Verdicts(
        num_better=found[1],
        num_ties=found[0],
        num_worse=found[-1],
        num_unmeasured=len(pairs) - len(steps),
        num_tasks=len({pair.task_id for pair in steps}),
    )
