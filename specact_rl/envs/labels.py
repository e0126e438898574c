"""Labels of actions at logged steps, from the environment the rollout ran in.

An action is acceptable if it brings the expert's goal one step nearer, so that an equally good
action counts as much as the expert's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from specact_rl.actions.matching import match_level
from specact_rl.envs.base import Environment
from specact_rl.envs.episodes import lowers_cost
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import EnvironmentFault
from specact_rl.types import Action, MatchLevel, Rollout

LABEL_SOURCE = "cost_to_go"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLabel:
    """What the environment says of one action at one step."""

    match_level: MatchLevel
    """Against the expert's action there."""
    same_state: bool
    """Whether it leads to the same state as the expert's action."""
    acceptable: bool | None
    """None where the goal was out of reach already."""


class StepLabeller:
    """Replays one rollout and judges actions at any of its steps."""

    def __init__(self, rollout: Rollout) -> None:
        """Replay the rollout.

        Raises:
            EnvironmentFault: The environment ends or answers otherwise than it was logged.
        """
        self._rollout = rollout
        self._env = Workspace.from_task_id(rollout.task_id)
        self._snapshots: list[object] = []
        for record in rollout.steps:
            if self._env.done:
                raise EnvironmentFault(
                    f"{rollout.rollout_id}: the environment ended before step {record.index}; the "
                    "rollout was made with another version of it"
                )
            self._snapshots.append(self._env.snapshot())
            observation = self._env.step(record.executed)
            logged = rollout.messages[record.message_index + 1 :][:1]
            if observation.content and logged and logged[0]["content"] != observation.content:
                raise EnvironmentFault(
                    f"{rollout.rollout_id}, step {record.index}: the environment says "
                    f"{observation.content!r}, the log {logged[0]['content']!r}; the rollout was "
                    "made with another version of it"
                )

    def environment_at(self, index: int) -> Environment:
        """The environment as it was before step `index`; the next call of any method moves it."""
        self._env.restore(self._snapshots[index])
        return self._env

    def label(self, index: int, action: Action | None) -> ActionLabel:
        """Judge an action at step `index`; None stands for text that could not be parsed."""
        env = self._env
        env.restore(self._snapshots[index])
        before = env.cost_to_go()
        reference = env.expert_action()
        env.step(action)
        acceptable = lowers_cost(before, env.cost_to_go())
        outcome = env.outcome()
        env.restore(self._snapshots[index])
        env.step(reference)
        return ActionLabel(
            match_level=match_level(action, reference, env.tools),
            same_state=env.outcome() == outcome,
            acceptable=acceptable,
        )
