"""Logged steps put back into the environment they came from, a few rollouts at a time."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from specact_rl.envs.base import Environment
from specact_rl.envs.labels import StepLabeller
from specact_rl.types import Action, Rollout, Step

_MAX_REPLAYED = 64


class Replays:
    """Environments at the steps of some rollouts; replays are kept while in use."""

    def __init__(self, rollouts: Iterable[Rollout]) -> None:
        """Remember the rollouts; each is replayed when first asked for."""
        by_id = {rollout.rollout_id: rollout for rollout in rollouts}
        self._labeller = lru_cache(maxsize=_MAX_REPLAYED)(lambda name: StepLabeller(by_id[name]))

    def environment_at(self, step: Step) -> Environment:
        """The environment when the step's action was due, until the next call for its rollout.

        Raises:
            EnvironmentFault: The rollout cannot be replayed.
        """
        return self._labeller(step.rollout_id).environment_at(step.index)

    def is_acceptable(self, step: Step, action: Action) -> bool | None:
        """The environment's label of an action at a step; None where the goal is out of reach.

        Raises:
            EnvironmentFault: The rollout cannot be replayed.
        """
        return self._labeller(step.rollout_id).label(step.index, action).acceptable
