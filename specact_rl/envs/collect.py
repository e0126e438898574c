"""Rolling policies out over seeded tasks, in shards that a killed run finds again.

Scripted policies act here; what a model does is handed in as a `RollOut`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from specact_rl.envs import ENVIRONMENTS
from specact_rl.envs.base import Environment
from specact_rl.envs.corpus import FIRST_CORPUS_SEED
from specact_rl.envs.episodes import NoisyExpert, Policy, Progress, expert_policy, run_episode
from specact_rl.errors import ConfigError
from specact_rl.store import append_shard, done_shards, read_shards
from specact_rl.types import Rollout

SHARD_EPISODES = 256
"""Episodes that are saved together, and lost together when a run is killed."""

EXPERT = "expert"
NOISY_PREFIX = "noisy:"
MODEL_PREFIX = "model:"


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
    """As `policy_name` has it."""
    trial: int

    def environment_at_start(self) -> Environment:
        """The task's environment, in its initial state."""
        return ENVIRONMENTS[self.environment](self.seed, held_out=self.held_out)


RollOut = Callable[[Sequence[EpisodePlan], Progress | None], list[Rollout]]
"""Rolls out what is planned, in that order, and tells the progress of it."""


def policy_name(policy: str) -> str:
    """What rollouts call a policy: "model:NAME" for "model:path/to/NAME", any other as it is.

    "model:URL#OWNER/NAME", a server's, is "model:NAME", too.

    Raises:
        ConfigError: A model without a folder, or a server without a model.
    """
    if not policy.startswith(MODEL_PREFIX):
        return policy
    folder = policy.removeprefix(MODEL_PREFIX)
    if "://" in folder:
        name = folder.rpartition("#")[2].rpartition("/")[2] if "#" in folder else ""
    else:
        name = Path(folder).resolve().name if folder else ""
    if not name:
        raise ConfigError(
            f"policy {policy!r} must name a checkpoint folder, such as model:runs/demo/models/cheap"
            ", or a server's model, such as model:http://localhost:8000/v1#Qwen/Qwen3-8B"
        )
    return f"{MODEL_PREFIX}{name}"


def scripted_policy(name: str, rng: random.Random) -> Policy:
    """The policy called "expert", or "noisy:P", the expert with a share P of random actions.

    Raises:
        ConfigError: Another name, or a share outside [0, 1].
    """
    if name == EXPERT:
        return expert_policy
    if name.startswith(NOISY_PREFIX):
        return NoisyExpert(noise=_noise(name), rng=rng)
    raise ConfigError(
        "policy must be 'expert', 'noisy:P' such as 'noisy:0.15', or 'model:FOLDER' of a "
        f"checkpoint (or 'model:URL#NAME' of a server) that was loaded, got {name!r}"
    )


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
    greedy_models: bool = False,
    environment: str = "workspace",
) -> list[EpisodePlan]:
    """Every policy on every task, each trial; who leaves nothing to chance, as the expert, once.

    Args:
        policies: "expert", "noisy:P", "model:FOLDER" or "model:URL#NAME".
        seeds: Of the tasks.
        held_out_seeds: Of tasks from the families kept out of training.
        trials: Repeats of a policy on a task.
        greedy_models: Models leave nothing to chance either.
        environment: Name in `ENVIRONMENTS`.

    Raises:
        ConfigError: Nothing to do, a policy twice, two models of one name, an unknown environment,
            or a seed that belongs to the pretraining corpus.
    """
    if environment not in ENVIRONMENTS:
        raise ConfigError(f"environment must be one of {list(ENVIRONMENTS)!r}, got {environment!r}")
    names = [policy_name(policy) for policy in policies]
    if not policies or len(set(policies)) < len(policies) or trials < 1:
        raise ConfigError(
            f"policies must be distinct and trials at least 1, got {list(policies)!r}, {trials!r}"
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ConfigError(
            "model folders must differ in their last part, which names the policy in the rollouts; "
            f"{list(policies)!r} has {twice[0]!r} twice. Rename one, or collect it in a run of its "
            "own"
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
        for policy in names
        for trial in range(1 if _is_certain(policy, greedy_models) else trials)
    ]


def _is_certain(policy: str, greedy_models: bool) -> bool:
    return policy == EXPERT or (greedy_models and policy.startswith(MODEL_PREFIX))


def scripted_rollouts(
    plans: Sequence[EpisodePlan], progress: Progress | None = None
) -> list[Rollout]:
    """Episodes of scripted policies; chance depends on environment, task, policy and trial alone.

    Raises:
        ConfigError: A policy that is not scripted.
    """
    rollouts = []
    for plan in plans:
        env = plan.environment_at_start()
        rng = random.Random(f"{plan.environment}/{env.task_id}/{plan.policy}/{plan.trial}")
        policy = scripted_policy(plan.policy, rng)
        rollouts.append(run_episode(env, policy, plan.policy, plan.trial))
        if progress is not None:
            progress(1)
    return rollouts


def collect_episodes(
    folder: Path,
    plans: Sequence[EpisodePlan],
    roll_out: RollOut = scripted_rollouts,
    progress: Progress | None = None,
) -> list[Rollout]:
    """Roll out what is planned, in that order, keeping shards in `folder` as it goes.

    Shards that are there are not rolled out again, so they must be of the same plans, and of the
    same policies.
    """
    done = set(done_shards(folder))
    for index, start in enumerate(range(0, len(plans), SHARD_EPISODES)):
        shard = plans[start : start + SHARD_EPISODES]
        if index not in done:
            append_shard(folder, index, roll_out(shard, progress))
        elif progress is not None:
            progress(len(shard))
    return read_shards(folder, Rollout)


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
