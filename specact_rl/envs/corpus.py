"""Workspace text for pretraining tiny bases: episodes of an expert who is steady or clumsy.

Seeds start far above those that pipelines draw tasks from, so that no base has seen a task that
it is later trained, calibrated or tested on; names of held-out tools never occur.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from specact_rl.envs.episodes import NoisyExpert, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.types import Rollout

FIRST_CORPUS_SEED = 10_000_000
"""Pipelines must draw task seeds below this."""
NOISE_LEVELS = (0.0, 0.0, 0.1, 0.25)
"""Share of random actions; one level is drawn per episode."""


def corpus_rollouts(count: int, *, first: int = 0) -> Iterator[Rollout]:
    """Episodes number `first` to `first + count - 1` of the corpus, the same in every process."""
    for seed in range(FIRST_CORPUS_SEED + first, FIRST_CORPUS_SEED + first + count):
        rng = random.Random(f"corpus/{seed}")
        policy = NoisyExpert(noise=rng.choice(NOISE_LEVELS), rng=rng)
        yield run_episode(Workspace(seed), policy, "scripted")
