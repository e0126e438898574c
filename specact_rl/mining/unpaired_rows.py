"""Single actions with a value each: what is learnt from without pairs.

Equal actions after equal prompts are one row, whoever took them. It keeps how many they were, so
that rows of a model's own samples still stand for its distribution.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from specact_rl.actions.matching import match_level, reaches
from specact_rl.mining.rows import prompt_keys, step_ids
from specact_rl.mining.task_tables import (
    Side,
    TaskTables,
    action_side,
    executed_side,
    reference_side,
    text_side,
)
from specact_rl.rendering import Renderer
from specact_rl.types import Action, MatchLevel, Proposal, Rollout, Step, StepRecord

Judge = Literal["label", "match", "outcome", "score"]
"""What an action's value is. label: 1 if acceptable, else 0. match: 1 if it reaches a match level
with the step's reference. outcome: 1 if its rollout succeeded. score: what a verifier or reward
model said of it, as it is."""

ActionSource = Literal["proposals", "executed", "reference"]
"""Whose actions: the proposals tables', the logged policies', or the known right ones."""
ACTION_SOURCES: tuple[ActionSource, ...] = get_args(ActionSource)

JUDGED_SOURCES: dict[Judge, tuple[ActionSource, ...]] = {
    "label": ACTION_SOURCES,
    "match": ACTION_SOURCES,
    "outcome": ("executed",),
    "score": ("proposals",),
}
"""Of which actions each judge knows anything."""

UNPARSABLE = "unparsable"
"""In place of the action type where the completion is text that could not be parsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Which actions become rows, and what their values are."""

    judged_by: Judge = "label"
    sources: tuple[ActionSource, ...] = ("proposals",)
    level: MatchLevel = "arguments"
    """Only for "match"."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """By proposal; only for "score"."""

    def __post_init__(self) -> None:
        """Check that the sources can be judged."""
        known = JUDGED_SOURCES.get(self.judged_by)
        if known is None:
            raise ValueError(
                f"judged_by must be one of {list(JUDGED_SOURCES)!r}, got {self.judged_by!r}"
            )
        if not self.sources or not set(self.sources) <= set(known):
            raise ValueError(
                f"judged_by {self.judged_by!r} needs sources among {list(known)!r}, got "
                f"{list(self.sources)!r}"
            )

    def of_proposal(self, proposal: Proposal, step: Step) -> float | None:
        """Value of a proposal; None when unknown."""
        if self.judged_by == "score":
            return self.scores.get(proposal.proposal_id)
        if self.judged_by == "label":
            return _number(proposal.acceptable)
        # Without a reference the level is "none" and says nothing.
        return None if step.reference is None else _number(self._reaches(proposal.match_level))

    def of_executed(self, rollout: Rollout, record: StepRecord) -> float | None:
        """Value of a logged action; None when unknown.

        A failure that is not the policy's own (`info.fault`) has no outcome.
        """
        if self.judged_by == "label":
            return _number(record.acceptable)
        if self.judged_by == "outcome":
            faulty = rollout.success is False and rollout.info.get("fault")
            return None if faulty else _number(rollout.success)
        if record.reference is None:
            return None
        return _number(self._reaches(match_level(record.executed, record.reference, rollout.tools)))

    def _reaches(self, level: MatchLevel) -> bool:
        return reaches(level, self.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAction:
    """One action after one prompt, with its value."""

    step: Step
    side: Side
    value: float
    key: bytes
    """Equal for equal actions after equal prompts."""
    order: tuple[int, str, str]
    """Which of equal ones is written: the smallest."""


@dataclass(slots=True)
class _Copies:
    first: tuple[int, str, str]
    num: int = 0
    total: float = 0.0
    values: set[float] = field(default_factory=set)


class Copies:
    """Equal actions by key: the first one, how many there are, and what they are worth.

    Rows are large, so keys go through here first, in any order, and what is chosen is rendered in a
    second round.
    """

    def __init__(self) -> None:
        """No actions yet."""
        self._of: dict[bytes, _Copies] = {}

    def add(self, action: JudgedAction) -> None:
        """One more action."""
        copies = self._of.setdefault(action.key, _Copies(first=action.order))
        copies.first = min(copies.first, action.order)
        copies.num += 1
        copies.total += action.value
        copies.values.add(action.value)

    def is_first(self, action: JudgedAction) -> bool:
        """Whether this one is written for all of its copies."""
        return self._of[action.key].first == action.order

    def number(self, action: JudgedAction) -> int:
        """How many copies there are."""
        return self._of[action.key].num

    def mean(self, action: JudgedAction) -> float:
        """Mean value of the copies."""
        copies = self._of[action.key]
        return copies.total / copies.num

    def agree(self, action: JudgedAction) -> bool:
        """Whether all copies have one value."""
        return len(self._of[action.key].values) == 1

    @property
    def num_duplicates(self) -> int:
        """Actions that are no row of their own."""
        return sum(copies.num - 1 for copies in self._of.values())


def judged_actions(
    task: TaskTables, judgement: Judgement, dropped: Counter[str]
) -> Iterator[JudgedAction]:
    """Every action of a task whose value is known.

    Args:
        task: Its rollouts and proposals.
        judgement: Which actions, and what their values are.
        dropped: Counts the others, by reason.

    Raises:
        ValueError: A score that is no finite number.
    """
    prompts = {
        step.step_id: (step, key, rollout, record)
        for rollout in task.rollouts
        for step, key, record in zip(
            rollout.each_step(), prompt_keys(rollout), rollout.steps, strict=True
        )
    }
    for rank, source in enumerate(judgement.sources):
        if source == "proposals":
            for proposal in task.proposals:
                step, key, *_ = prompts[proposal.step_id]
                side = _proposal_side(proposal, step, dropped)
                value = judgement.of_proposal(proposal, step)
                yield from _judged(step, key, side, value, rank, dropped)
            continue
        for step, key, rollout, record in prompts.values():
            if source == "reference":
                side = reference_side(step)
                dropped["no_reference"] += side is None
                yield from _judged(step, key, side, 1.0, rank, dropped)
            else:
                side = _executed_side(rollout, record, dropped)
                value = judgement.of_executed(rollout, record)
                yield from _judged(step, key, side, value, rank, dropped)


def _judged(
    step: Step,
    prompt_key: bytes,
    side: Side | None,
    value: float | None,
    rank: int,
    dropped: Counter[str],
) -> Iterator[JudgedAction]:
    if side is None:
        return
    if value is None:
        dropped["unknown_value"] += 1
        return
    if not abs(value) < float("inf"):
        raise ValueError(f"the value of {side.source_id!r} must be a finite number, got {value!r}")
    yield JudgedAction(
        step=step,
        side=side,
        value=value,
        key=hashlib.sha256(prompt_key + side.key.encode()).digest()[:16],
        order=(rank, step.step_id, side.source_id),
    )


def _proposal_side(proposal: Proposal, step: Step, dropped: Counter[str]) -> Side | None:
    """What a model sampled; None where that can be no completion."""
    if proposal.mode != "generate":
        dropped["ranked"] += 1  # chosen from a list: no sample of the model
    elif not proposal.finished:
        dropped["cut_off"] += 1  # a row would end it with a stop token that was never written
    elif proposal.action is not None:
        return action_side(proposal.action, step.tools, proposal.model_id, proposal.proposal_id)
    elif proposal.actions:
        dropped["several_actions"] += 1
    elif not proposal.text.strip():
        dropped["empty_text"] += 1
    else:
        return text_side(proposal.text, proposal.model_id, proposal.proposal_id)
    return None


def _executed_side(rollout: Rollout, record: StepRecord, dropped: Counter[str]) -> Side | None:
    if not record.finished:
        dropped["cut_off"] += 1
        return None
    side = executed_side(rollout, record)
    dropped["empty_text"] += side is None
    return side


def unpaired_row(
    judged: JudgedAction, renderer: Renderer, num_samples: int, **columns: Any
) -> dict[str, Any]:
    """A TRL prompt/completion row.

    Args:
        judged: The action that is written.
        renderer: That of the model to be trained.
        num_samples: How many equal ones it stands for.
        **columns: Its label or reward.
    """
    side = judged.side
    return {
        **renderer.prompt_fields(judged.step),
        "completion": side.messages,
        "num_completion_tokens": len(renderer.message_completion_ids(side.messages[0])),
        **columns,
        "num_samples": num_samples,
        **step_ids(judged.step),
        "action_type": _type(side.action),
        "action_hash": side.key,
        "source": side.source,
        "source_id": side.source_id,
    }


def _type(action: Action | None) -> str:
    return UNPARSABLE if action is None else action.type


def _number(known: bool | None) -> float | None:
    return None if known is None else float(known)
