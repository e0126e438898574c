"""One task's rollouts and proposals, and the records that are mined from them.

Strategies see one task at a time, so that no pair can cross tasks and tasks can be mined apart.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from specact_rl.actions.canonical import action_hash
from specact_rl.actions.serialise import action_message
from specact_rl.store import content_hash
from specact_rl.types import Action, Message, Proposal, Rollout, Step, StepRecord, ToolSpec

Judge = Callable[[Step, Action], bool | None]
"""Whether an action is acceptable at a step; None when unknown."""

REFERENCE = "reference"
"""Source of a side that is the step's reference action: off-policy for every model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a pair."""

    messages: list[Message]
    """What follows the prompt: one assistant message, or a trajectory that ends with one."""
    action: Action | None
    """None for text that could not be parsed, and for a trajectory."""
    key: str
    """Equal for sides of equal canonical content."""
    source: str
    """A model id, a policy's name, "reference", or the kind of a made-up action."""
    source_id: str
    """Proposal or rollout it was taken from; the step of a reference or made-up action."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A better and a worse continuation of one prompt."""

    strategy: str
    step: Step
    """Gives the prompt: its history and tools."""
    chosen: Side
    rejected: Side
    distance: float = 0.0
    """Of the two sides' histories, in [0, 1]; 0 where they are byte-identical."""

    @property
    def task_id(self) -> str:
        """Task of both sides."""
        return self.step.task_id

    @property
    def is_trajectory(self) -> bool:
        """Whether the sides are whole trajectories; the chosen side of a step always parses."""
        return self.chosen.action is None

    @property
    def turn_gap(self) -> int:
        """Messages of chosen minus messages of rejected."""
        return len(self.chosen.messages) - len(self.rejected.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningOptions:
    """What strategies are told besides the tables."""

    model_id: str | None = None
    """The current proposer, for `on_policy`."""
    is_acceptable: Judge | None = None
    """Judges made-up actions; None: an action that differs from all known right ones is wrong."""
    max_per_step: int = 1
    max_distance: float = 0.5
    """Histories further apart give no `approx_prefix` pair."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTables:
    """All rows of one task, in the order of their ids."""

    task_id: str
    rollouts: list[Rollout]
    proposals: list[Proposal] = field(default_factory=list)

    def steps(self) -> dict[str, Step]:
        """All steps by id."""
        return {step.step_id: step for r in self.rollouts for step in r.each_step()}

    def contrasts(self, dropped: Counter[str]) -> Iterator[tuple[Rollout, Rollout]]:
        """Every success with every failure; rollouts without a verdict are in none.

        Nor are failures that are not the policy's own (`info.fault`), whatever their verdict.
        """
        successes = [r for r in self.rollouts if r.success is True]
        failed = [r for r in self.rollouts if r.success is False]
        failures = [r for r in failed if not r.info.get("fault")]
        dropped["faulty_failure"] += len(failed) - len(failures)
        if not successes or not failures:
            dropped["task_without_contrast"] += 1
        yield from product(successes, failures)


Strategy = Callable[[TaskTables, MiningOptions, Counter[str]], list[Pair]]
"""Mines one task; counts in the last argument what it drops, by reason."""


def seeded(options: MiningOptions, name: str) -> random.Random:
    """A generator that depends on the seed and a name alone."""
    return random.Random(f"{options.seed}/{name}")


def action_side(action: Action, tools: Sequence[ToolSpec], source: str, source_id: str) -> Side:
    """A side that is one parsed action."""
    return Side(
        messages=[action_message(action)],
        action=action,
        key=action_hash(action, tools),
        source=source,
        source_id=source_id,
    )


def text_side(text: str, source: str, source_id: str) -> Side:
    """A side that is text which could not be parsed, as the model wrote it."""
    return Side(
        messages=[{"role": "assistant", "content": text}],
        action=None,
        key=content_hash(["unparsable", text]),
        source=source,
        source_id=source_id,
    )


def reference_side(step: Step) -> Side | None:
    """The step's reference action; None when it has none."""
    if step.reference is None:
        return None
    return action_side(step.reference, step.tools, REFERENCE, step.step_id)


def executed_side(rollout: Rollout, record: StepRecord) -> Side | None:
    """What a logged policy did at a step; None when nothing of it was kept."""
    if record.executed is not None:
        return action_side(record.executed, rollout.tools, rollout.policy, rollout.rollout_id)
    if record.executed_text is not None and record.executed_text.strip():
        return text_side(record.executed_text, rollout.policy, rollout.rollout_id)
    return None


def call_keys(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[str, ...]:
    """The canonical hashes of all calls in a conversation, in order: its tool-call state."""
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    return tuple(
        # The type is no part of a call's hash.
        action_hash(Action(type="tool_call", tool=c["name"], arguments=c["arguments"]), tools)
        for c in calls
    )


def state_key(step: Step) -> str:
    """Equal for steps of one task with the same calls and as many user messages behind them."""
    num_user_messages = sum(message["role"] == "user" for message in step.history)
    return content_hash([num_user_messages, *call_keys(step.history, step.tools)])
