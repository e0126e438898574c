"""Labels of actions at logged steps, from the environment the rollout ran in.

An action is acceptable if it brings the expert's goal one step nearer, so that an equally good
action counts as much as the expert's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from specact_rl.actions.matching import match_level
from specact_rl.envs.base import Environment
from specact_rl.envs.episodes import lowers_cost, turn_messages
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import EnvironmentFault
from specact_rl.types import Action, MatchLevel, Message, Rollout

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
            EnvironmentFault: The log is not what the environment makes of the executed actions.
        """
        self._env = Workspace.from_task_id(rollout.task_id)
        self._snapshots: list[object] = []
        messages = self._env.first_messages()
        if rollout.tools != self._env.tools:
            raise _fault(rollout, "at the start", "tools", self._env.tools, rollout.tools)
        for record in rollout.steps:
            where = f"before step {record.index}"
            if self._env.done:
                raise _fault(rollout, where, "end of the episode", True, False)
            _compare(rollout, where, messages, rollout.messages[: record.message_index])
            self._snapshots.append(self._env.snapshot())
            observation = self._env.step(record.executed)
            messages += turn_messages(record.executed, record.executed_text, observation)
        _compare(rollout, "at the end", messages, rollout.messages)
        if rollout.success not in (None, self._env.success):
            raise _fault(rollout, "at the end", "success", self._env.success, rollout.success)

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


def _compare(
    rollout: Rollout, where: str, expected: Sequence[Message], logged: Sequence[Message]
) -> None:
    for ours, theirs in zip_longest(expected, logged):
        if ours != theirs:
            raise _fault(rollout, where, "message", ours, theirs)


def _fault(
    rollout: Rollout, where: str, what: str, expected: object, logged: object
) -> EnvironmentFault:
    return EnvironmentFault(
        f"{rollout.rollout_id}, {where}: the log must be what the environment makes of its "
        f"actions, but {what} is {expected!r} there and {logged!r} in the log. The rollout was "
        "edited, or made with another version of the environment: roll out again"
    )
