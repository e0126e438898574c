"""Labels of actions at logged steps, from the environment the rollout ran in or from a reference.

In the environment an action is acceptable if it brings the expert's goal one step nearer, so that
an equally good action counts as much as the expert's own. A foreign log has no environment: there
an action is acceptable if it is the step's reference action, and unknown where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from time import perf_counter

from specact_rl.actions.matching import match_level, reaches
from specact_rl.envs.base import Environment
from specact_rl.envs.episodes import lowers_cost, turn_messages
from specact_rl.envs.workspace.environment import TASK_ID, Workspace
from specact_rl.errors import EnvironmentFault
from specact_rl.types import Action, MatchLevel, Message, Rollout

LABEL_SOURCE = "cost_to_go"
MATCH_SOURCE = "reference_match"
NO_SOURCE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionLabel:
    """What is known of one action at one step."""

    match_level: MatchLevel
    """Against the reference there, in an environment the expert's action; "none" without one."""
    same_state: bool | None
    """Whether it leads to the same state as the expert's action; None without an environment."""
    acceptable: bool | None
    """None where the goal was out of reach already, or nothing can tell."""
    label_source: str
    """`LABEL_SOURCE`, `MATCH_SOURCE`, or `NO_SOURCE` where nothing can tell."""
    tool_seconds: float | None = None
    """Wall seconds that the environment took to execute the action, measured once; None without
    one."""


def label_in(env: Environment, action: Action | None) -> ActionLabel:
    """Judge an action by executing it where `env` stands, and by executing the expert's.

    Args:
        env: Not at its end; it is put back to where it was.
        action: None stands for text that could not be parsed.
    """
    here, before, reference = env.snapshot(), env.cost_to_go(), env.expert_action()
    started = perf_counter()
    env.step(action)
    tool_seconds = perf_counter() - started
    acceptable, outcome = lowers_cost(before, env.cost_to_go()), env.outcome()
    env.restore(here)
    env.step(reference)
    same_state = env.outcome() == outcome
    env.restore(here)
    return ActionLabel(
        match_level=match_level(action, reference, env.tools),
        same_state=same_state,
        acceptable=acceptable,
        label_source=LABEL_SOURCE,
        tool_seconds=tool_seconds,
    )


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
        return label_in(self.environment_at(index), action)


class ReferenceLabeller:
    """Judges actions at the steps of a rollout by the reference actions that its log names.

    Stricter than an environment: an equally good action that is not the reference counts as wrong.
    """

    def __init__(self, rollout: Rollout) -> None:
        """Take the rollout's references."""
        self._tools = rollout.tools
        self._references = [record.reference for record in rollout.steps]

    def label(self, index: int, action: Action | None) -> ActionLabel:
        """Judge an action at step `index`; None stands for text that could not be parsed."""
        reference = self._references[index]
        if reference is None:
            return ActionLabel(
                match_level="none", same_state=None, acceptable=None, label_source=NO_SOURCE
            )
        level = match_level(action, reference, self._tools)
        return ActionLabel(
            match_level=level,
            same_state=None,
            acceptable=reaches(level, "arguments"),
            label_source=MATCH_SOURCE,
        )


def labeller_of(rollout: Rollout) -> StepLabeller | ReferenceLabeller:
    """The environment's labeller where the task is one of its own, else the references'.

    Raises:
        EnvironmentFault: The log is not what the environment makes of the executed actions.
    """
    inside = TASK_ID.fullmatch(rollout.task_id)
    return StepLabeller(rollout) if inside else ReferenceLabeller(rollout)


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
