"""Rolling scripted policies out over seeded tasks, in shards that a killed run finds again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from specact_rl.envs import ENVIRONMENTS
from specact_rl.envs.corpus import FIRST_CORPUS_SEED
from specact_rl.envs.episodes import NoisyExpert, Policy, expert_policy, run_episode
from specact_rl.errors import ConfigError
from specact_rl.store import append_shard, done_shards, read_shards
from specact_rl.types import Rollout

SHARD_EPISODES = 256
"""Episodes that are saved together, and lost together when a run is killed."""

EXPERT = "expert"
NOISY_PREFIX = "noisy:"

PolicyMaker = Callable[[str, random.Random], Policy]
"""A policy by its name; the generator is its only source of chance."""
Progress = Callable[[int], None]
"""Called with the number of episodes just finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodePlan:
    """One episode to be rolled out."""

    environment: str
    """Name in `ENVIRONMENTS`."""
    seed: int
    """Of the task."""
    held_out: bool
    """From the families kept out of training."""
    policy: str
    trial: int


def scripted_policy(name: str, rng: random.Random) -> Policy:
    """The policy called "expert", or "noisy:P", the expert with a share P of random actions.

    Raises:
        ConfigError: Another name, or a share outside [0, 1].
    """
    if name == EXPERT:
        return expert_policy
    if name.startswith(NOISY_PREFIX):
        return NoisyExpert(noise=_noise(name), rng=rng)
    raise ConfigError(f"policy must be 'expert' or 'noisy:P' such as 'noisy:0.15', got {name!r}")


def _noise(name: str) -> float:
    try:
        noise = float(name.removeprefix(NOISY_PREFIX))
    except ValueError:
        noise = -1.0
    if not 0.0 <= noise <= 1.0:
        raise ConfigError(f"the share of random actions must be in [0, 1], got policy {name!r}")
    return noise


def plan_episodes(
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    held_out_seeds: Sequence[int] = (),
    trials: int = 1,
    environment: str = "workspace",
) -> list[EpisodePlan]:
    """Every policy on every task, each trial; the expert, who leaves nothing to chance, once.

    Raises:
        ConfigError: Nothing to do, a policy twice, an unknown environment, or a seed that belongs
            to the pretraining corpus.
    """
    if environment not in ENVIRONMENTS:
        raise ConfigError(f"environment must be one of {list(ENVIRONMENTS)!r}, got {environment!r}")
    if not policies or len(set(policies)) < len(policies) or trials < 1:
        raise ConfigError(
            f"policies must be distinct and trials at least 1, got {list(policies)!r}, {trials!r}"
        )
    tasks = [(seed, False) for seed in seeds] + [(seed, True) for seed in held_out_seeds]
    outside = [seed for seed, _ in tasks if not 0 <= seed < FIRST_CORPUS_SEED]
    if not tasks or outside:
        raise ConfigError(
            f"task seeds must be in [0, {FIRST_CORPUS_SEED}), above which tiny bases are "
            f"pretrained, got {outside[:3] if outside else 'none'}"
        )
    return [
        EpisodePlan(
            environment=environment, seed=seed, held_out=held_out, policy=policy, trial=trial
        )
        for seed, held_out in tasks
        for policy in policies
        for trial in range(1 if policy == EXPERT else trials)
    ]


def collect_episodes(
    folder: Path,
    plans: Sequence[EpisodePlan],
    make_policy: PolicyMaker = scripted_policy,
    progress: Progress | None = None,
) -> list[Rollout]:
    """Roll out what is planned, in that order, keeping shards in `folder` as it goes.

    Shards that are there are not rolled out again, so they must be of the same plans. Chance
    depends on environment, task, policy and trial alone.
    """
    done = set(done_shards(folder))
    for index, start in enumerate(range(0, len(plans), SHARD_EPISODES)):
        shard = plans[start : start + SHARD_EPISODES]
        if index not in done:
            append_shard(folder, index, _episodes(shard, make_policy))
        if progress is not None:
            progress(len(shard))
    return read_shards(folder, Rollout)


def _episodes(plans: Sequence[EpisodePlan], make_policy: PolicyMaker) -> Iterator[Rollout]:
    for plan in plans:
        env = ENVIRONMENTS[plan.environment](plan.seed, held_out=plan.held_out)
        rng = random.Random(f"{plan.environment}/{env.task_id}/{plan.policy}/{plan.trial}")
        yield run_episode(env, make_policy(plan.policy, rng), plan.policy, plan.trial)


def parse_seeds(text: str) -> range:
    """The seeds of "START:STOP" (stop not included), or "COUNT" from 0.

    Raises:
        ConfigError: Neither.
    """
    first, colon, last = text.partition(":")
    try:
        return range(int(first), int(last)) if colon else range(int(first))
    except ValueError as error:
        raise ConfigError(f"seeds must be START:STOP or COUNT, got {text!r}") from error
