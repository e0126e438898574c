"""Steps, proposals and pairs to TRL's rows, through the renderer and nothing else.

A verifier's rows hold parsed proposals only: a gate rejects unparsable text before any verifier
sees it. A preference row may have unparsable text as its rejected side, as the model wrote it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from specact_rl.actions.canonical import action_hash
from specact_rl.mining.task_tables import Pair, Side
from specact_rl.rendering import Renderer
from specact_rl.store import content_hash
from specact_rl.types import Action, Proposal, Rollout, Step

SftTarget = Literal["reference", "successes"]
"""What is imitated: known right actions, or what was done in rollouts that succeeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Training rows, all with the same keys, and what became of the rest."""

    rows: list[dict[str, Any]]
    dropped: dict[str, int]
    """By reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthGap:
    """How much longer the chosen sides of one strategy are than the rejected ones."""

    num_pairs: int
    mean_tokens: float
    """Of chosen minus rejected; DPO learns length where this is far from 0."""
    median_tokens: float
    share_chosen_longer: float
    """Ties count half."""
    mean_turns: float
    """Of chosen minus rejected, in messages."""


def sft_rows(
    rollouts: Sequence[Rollout], renderer: Renderer, *, target: SftTarget = "reference"
) -> Rows:
    """One prompt/completion row per step with a known target; of equal ones the first."""
    dropped: Counter[str] = Counter()
    targets: dict[tuple[str, str], tuple[Step, Action]] = {}
    for rollout in sorted(rollouts, key=lambda r: r.rollout_id):
        for step in rollout.each_step():
            action = _sft_action(rollout, step, target, dropped)
            if action is None:
                continue
            found = (step, action)
            if targets.setdefault(_row_key(step, action), found) is not found:
                dropped["duplicate"] += 1
    rows = [
        renderer.training_row(step, action, **_ids(step), **_action_ids(action, step))
        for step, action in targets.values()
    ]
    return Rows(rows=rows, dropped=dict(dropped))


def _sft_action(
    rollout: Rollout, step: Step, target: SftTarget, dropped: Counter[str]
) -> Action | None:
    if target == "reference":
        if step.reference is None:
            dropped["no_reference"] += 1
        return step.reference
    if rollout.success is not True:
        dropped["not_a_success" if rollout.success is False else "unknown_success"] += 1
        return None
    if step.executed is None:
        dropped["unparsable"] += 1
    return step.executed


def verifier_rows(
    proposals: Sequence[Proposal], steps: Mapping[str, Step], renderer: Renderer
) -> Rows:
    """One prompt/completion/label row per distinct parsed proposal with a known label.

    Distinct by prompt and canonical action, whatever model made it; where the labels of such
    copies differ, none is used.

    Args:
        proposals: At any of the steps.
        steps: By id.
        renderer: That of the verifier.

    Raises:
        ValueError: A proposal at a step that is not there.
    """
    dropped: Counter[str] = Counter()
    first: dict[tuple[str, str], tuple[Step, Action, Proposal]] = {}
    contradictory: set[tuple[str, str]] = set()
    for proposal in sorted(proposals, key=lambda p: p.proposal_id):
        step = steps.get(proposal.step_id)
        if step is None:
            raise ValueError(
                f"proposal {proposal.proposal_id!r} must be made at one of the steps, "
                f"step {proposal.step_id!r} is not among them"
            )
        if proposal.action is None:
            dropped["unparsable"] += 1
        elif proposal.acceptable is None:
            dropped["unknown_label"] += 1
        else:
            found = (step, proposal.action, proposal)
            key = _row_key(step, proposal.action)
            kept = first.setdefault(key, found)
            if kept is not found:
                dropped["duplicate"] += 1
            if kept[2].acceptable != proposal.acceptable:
                contradictory.add(key)
    if contradictory:
        dropped["contradictory_label"] += len(contradictory)
    rows = [
        _verifier_row(step, action, proposal, renderer)
        for key, (step, action, proposal) in first.items()
        if key not in contradictory
    ]
    return Rows(rows=rows, dropped=dict(dropped))


def _verifier_row(
    step: Step, action: Action, proposal: Proposal, renderer: Renderer
) -> dict[str, Any]:
    return renderer.training_row(
        step,
        action,
        label=proposal.acceptable,
        **_ids(step),
        **_action_ids(action, step),
        proposal_id=proposal.proposal_id,
        model_id=proposal.model_id,
        mode=proposal.mode,
        match_level=proposal.match_level,
        label_source=proposal.label_source,
    )


def preference_rows(
    pairs: Sequence[Pair],
    renderer: Renderer,
    *,
    allow_unparsable: bool = True,
    max_length_ratio: float | None = None,
    max_turn_gap: int | None = None,
) -> Rows:
    """One prompt/chosen/rejected row per pair.

    Args:
        pairs: Of one kind, steps or trajectories: a data set holds rows of one shape.
        renderer: That of the model to be trained.
        allow_unparsable: False for a reward model, which will never see unparsable text.
        max_length_ratio: The longer side has at most this many times the other's tokens; None:
            any number.
        max_turn_gap: One side has at most so many messages more than the other; None: any number.

    Raises:
        ValueError: Steps and trajectories together, or a bound that no pair can meet.
    """
    if max_length_ratio is not None and not max_length_ratio >= 1.0:
        raise ValueError(f"max_length_ratio must be at least 1, got {max_length_ratio!r}")
    if max_turn_gap is not None and max_turn_gap < 0:
        raise ValueError(f"max_turn_gap must be at least 0, got {max_turn_gap!r}")
    if len({pair.is_trajectory for pair in pairs}) > 1:
        raise ValueError("pairs must be steps or trajectories, not both: build two data sets")
    dropped: Counter[str] = Counter()
    rows = []
    for pair in pairs:
        if pair.rejected.action is None and not pair.is_trajectory and not allow_unparsable:
            dropped["unparsable_rejected"] += 1
        elif max_turn_gap is not None and abs(pair.turn_gap) > max_turn_gap:
            dropped["turns_not_matched"] += 1
        else:
            row = _preference_row(pair, renderer)
            shorter, longer = sorted((row["num_chosen_tokens"], row["num_rejected_tokens"]))
            if max_length_ratio is not None and longer > max_length_ratio * shorter:
                dropped["length_not_matched"] += 1
            else:
                rows.append(row)
    return Rows(rows=rows, dropped=dict(dropped))


def _preference_row(pair: Pair, renderer: Renderer) -> dict[str, Any]:
    return {
        **renderer.prompt_fields(pair.step),
        "chosen": pair.chosen.messages,
        "rejected": pair.rejected.messages,
        "num_chosen_tokens": _num_tokens(pair.step, pair.chosen, renderer),
        "num_rejected_tokens": _num_tokens(pair.step, pair.rejected, renderer),
        "turn_gap": pair.turn_gap,
        "strategy": pair.strategy,
        "distance": pair.distance,
        **_ids(pair.step),
        "chosen_hash": pair.chosen.key,
        "chosen_source": pair.chosen.source,
        "chosen_source_id": pair.chosen.source_id,
        "rejected_hash": pair.rejected.key,
        "rejected_source": pair.rejected.source,
        "rejected_source_id": pair.rejected.source_id,
    }


def length_gaps(rows: Sequence[Mapping[str, Any]]) -> dict[str, LengthGap]:
    """Length gaps of preference rows by strategy."""
    of_strategy: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        of_strategy[row["strategy"]].append(row)
    return {name: _length_gap(group) for name, group in sorted(of_strategy.items())}


def _length_gap(rows: Sequence[Mapping[str, Any]]) -> LengthGap:
    tokens = np.array([row["num_chosen_tokens"] - row["num_rejected_tokens"] for row in rows])
    return LengthGap(
        num_pairs=len(rows),
        mean_tokens=float(tokens.mean()),
        median_tokens=float(np.median(tokens)),
        share_chosen_longer=float(((tokens > 0) + 0.5 * (tokens == 0)).mean()),
        mean_turns=float(np.mean([row["turn_gap"] for row in rows])),
    )


def longest_row(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """Tokens of the longest row, prompt and its longer side together; 0 without rows."""
    sides = ("num_completion_tokens", "num_chosen_tokens", "num_rejected_tokens")
    return max(
        (
            row["num_prompt_tokens"] + max(row.get(side, 0) for side in sides)
            for rows in splits.values()
            for row in rows
        ),
        default=0,
    )


def _num_tokens(step: Step, side: Side, renderer: Renderer) -> int:
    if len(side.messages) == 1:
        return len(renderer.message_completion_ids(side.messages[0]))
    conversation = Rollout(
        rollout_id=step.rollout_id,
        task_id=step.task_id,
        family=step.family,
        policy=side.source,
        trial=0,
        messages=[*step.history, *side.messages],
        tools=step.tools,
        steps=[],
    )
    return len(renderer.conversation_ids(conversation)) - len(renderer.prompt_ids(step))


def _row_key(step: Step, action: Action) -> tuple[str, str]:
    """Equal for rows with the same prompt and canonical action, found without rendering them."""
    tools = [[tool.name, tool.description, tool.parameters] for tool in step.tools]
    return content_hash([step.history, tools]), action_hash(action, step.tools)


def _ids(step: Step) -> dict[str, str]:
    return {
        "task_id": step.task_id,
        "rollout_id": step.rollout_id,
        "step_id": step.step_id,
        "family": step.family,
        "split": step.split or "",
    }


def _action_ids(action: Action, step: Step) -> dict[str, str]:
    return {"action_type": action.type, "action_hash": action_hash(action, step.tools)}
