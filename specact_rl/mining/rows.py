"""Steps, proposals and pairs to TRL's rows, through the renderer and nothing else.

A verifier's rows hold parsed proposals only: a gate rejects unparsable text before any verifier
sees it. A preference row may have unparsable text as its rejected side, as the model wrote it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from specact_rl.actions.canonical import action_hash
from specact_rl.mining.pairs import group_by_task
from specact_rl.mining.task_tables import Pair, Side, TaskTables
from specact_rl.rendering import Renderer
from specact_rl.store import canonical_json
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


class FirstRows:
    """Of all rows with equal keys the first, of those that were labelled both ways none.

    Rows are many and large, so they are not made to be thrown away: their keys go through here
    first, in any order, and what is chosen is rendered in a second round.
    """

    def __init__(self) -> None:
        """No rows yet."""
        self._first: dict[bytes, tuple[Any, bool | None]] = {}
        self._contradictory: set[bytes] = set()
        self._num_rows = 0

    def add(self, key: bytes, order: Any, label: bool | None = None) -> None:
        """One more row; the smallest `order` is the first."""
        self._num_rows += 1
        first, known = self._first.setdefault(key, (order, label))
        if order < first:
            self._first[key] = order, known
        if label != known:
            self._contradictory.add(key)

    def has(self, key: bytes, order: Any) -> bool:
        """Whether this row is the one to write."""
        return self._first[key][0] == order and key not in self._contradictory

    def dropped(self) -> dict[str, int]:
        """Rows that are not written, by reason, zeros left out."""
        reasons = {
            "duplicate": self._num_rows - len(self._first),
            "contradictory_label": len(self._contradictory),
        }
        return {reason: count for reason, count in reasons.items() if count}


def sft_rows(
    rollouts: Sequence[Rollout], renderer: Renderer, *, target: SftTarget = "reference"
) -> Rows:
    """One prompt/completion row per step with a known target; of equal ones the first."""
    dropped: Counter[str] = Counter()
    first = FirstRows()
    for rollout in rollouts:
        note_sft_rows(rollout, target, first, dropped)
    rows = [
        row
        for rollout in sorted(rollouts, key=lambda r: r.rollout_id)
        for row in first_sft_rows(rollout, renderer, target, first)
    ]
    return Rows(rows=rows, dropped={**dropped, **first.dropped()})


def note_sft_rows(
    rollout: Rollout, target: SftTarget, first: FirstRows, dropped: Counter[str]
) -> None:
    """The first round of `sft_rows`, for one rollout."""
    for step, key, _ in _sft_targets(rollout, target, dropped):
        first.add(key, (rollout.rollout_id, step.index))


def first_sft_rows(
    rollout: Rollout, renderer: Renderer, target: SftTarget, first: FirstRows
) -> list[dict[str, Any]]:
    """The second round of `sft_rows`, for one rollout."""
    return [
        renderer.training_row(step, action, **step_ids(step), **_action_ids(action, step))
        for step, key, action in _sft_targets(rollout, target, Counter())
        if first.has(key, (rollout.rollout_id, step.index))
    ]


def sft_step_indices(rollout: Rollout, target: SftTarget, first: FirstRows) -> list[int]:
    """Which steps of a rollout `first_sft_rows` makes rows of."""
    return [
        step.index
        for step, key, _ in _sft_targets(rollout, target, Counter())
        if first.has(key, (rollout.rollout_id, step.index))
    ]


def _sft_targets(
    rollout: Rollout, target: SftTarget, dropped: Counter[str]
) -> Iterator[tuple[Step, bytes, Action]]:
    """Each step with a known target: the step, its row's key, the target."""
    keys = prompt_keys(rollout)
    for step, prompt_key in zip(rollout.each_step(), keys, strict=True):
        action = _sft_action(rollout, step, target, dropped)
        if action is not None:
            yield step, _row_key(prompt_key, action, step), action


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
    proposals: Sequence[Proposal], rollouts: Sequence[Rollout], renderer: Renderer
) -> Rows:
    """One prompt/completion/label row per distinct parsed proposal with a known label.

    Distinct by prompt and canonical action, whatever model made it; where the labels of such
    copies differ, none is used.

    Args:
        proposals: At any steps of the rollouts.
        rollouts: Of any number of tasks.
        renderer: That of the verifier.

    Raises:
        ValueError: A proposal at a step that is not there.
    """
    dropped: Counter[str] = Counter()
    first = FirstRows()
    tasks = group_by_task(rollouts, proposals)
    for task in tasks:
        note_verifier_rows(task, first, dropped)
    rows = [row for task in tasks for row in first_verifier_rows(task, renderer, first)]
    rows.sort(key=lambda row: row["proposal_id"])
    return Rows(rows=rows, dropped={**dropped, **first.dropped()})


def note_verifier_rows(task: TaskTables, first: FirstRows, dropped: Counter[str]) -> None:
    """The first round of `verifier_rows`, for one task."""
    for _, key, _, proposal in _labelled(task, dropped):
        first.add(key, proposal.proposal_id, proposal.acceptable)


def first_verifier_rows(
    task: TaskTables, renderer: Renderer, first: FirstRows
) -> Iterator[dict[str, Any]]:
    """The second round of `verifier_rows`, for one task."""
    for step, key, action, proposal in _labelled(task, Counter()):
        if first.has(key, proposal.proposal_id):
            yield _verifier_row(step, action, proposal, renderer)


def _labelled(
    task: TaskTables, dropped: Counter[str]
) -> Iterator[tuple[Step, bytes, Action, Proposal]]:
    """Each proposal that can be a row: its step, the row's key, its action."""
    steps = {
        step.step_id: (step, key)
        for rollout in task.rollouts
        for step, key in zip(rollout.each_step(), prompt_keys(rollout), strict=True)
    }
    for proposal in task.proposals:
        if proposal.action is None:
            dropped["unparsable"] += 1
        elif proposal.acceptable is None:
            dropped["unknown_label"] += 1
        else:
            step, prompt_key = steps[proposal.step_id]
            yield step, _row_key(prompt_key, proposal.action, step), proposal.action, proposal


def _verifier_row(
    step: Step, action: Action, proposal: Proposal, renderer: Renderer
) -> dict[str, Any]:
    return renderer.training_row(
        step,
        action,
        label=proposal.acceptable,
        **step_ids(step),
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
        **step_ids(pair.step),
        "chosen_hash": pair.chosen.key,
        "chosen_source": pair.chosen.source,
        "chosen_source_id": pair.chosen.source_id,
        "rejected_hash": pair.rejected.key,
        "rejected_source": pair.rejected.source,
        "rejected_source_id": pair.rejected.source_id,
    }


def length_gaps(rows: Iterable[Mapping[str, Any]]) -> dict[str, LengthGap]:
    """Length gaps of preference rows by strategy; iterates once and keeps two numbers a row."""
    gaps: defaultdict[str, tuple[array[int], array[int]]] = defaultdict(
        lambda: (array("q"), array("q"))
    )
    for row in rows:
        tokens, turns = gaps[row["strategy"]]
        tokens.append(row["num_chosen_tokens"] - row["num_rejected_tokens"])
        turns.append(row["turn_gap"])
    return {name: _length_gap(*found) for name, found in sorted(gaps.items())}


def _length_gap(token_gaps: array[int], turn_gaps: array[int]) -> LengthGap:
    tokens = np.array(token_gaps)
    return LengthGap(
        num_pairs=len(tokens),
        mean_tokens=float(tokens.mean()),
        median_tokens=float(np.median(tokens)),
        share_chosen_longer=float(((tokens > 0) + 0.5 * (tokens == 0)).mean()),
        mean_turns=float(np.mean(turn_gaps)),
    )


def longest_row(splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> int:
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


def prompt_keys(rollout: Rollout) -> list[bytes]:
    """Per step, a key that is equal for equal prompts, found without rendering them.

    Each message is hashed once, however many steps have it in their history.
    """
    tools = [[tool.name, tool.description, tool.parameters] for tool in rollout.tools]
    running = hashlib.sha256(canonical_json(tools).encode())
    hashed = 0
    keys = []
    for record in rollout.steps:
        if record.message_index < hashed:  # a log whose steps go back: start again
            running, hashed = hashlib.sha256(canonical_json(tools).encode()), 0
        for message in rollout.messages[hashed : record.message_index]:
            running.update(b"\n" + canonical_json(message).encode())
        hashed = record.message_index
        keys.append(running.digest())
    return keys


def _row_key(prompt_key: bytes, action: Action, step: Step) -> bytes:
    """Equal for rows with the same prompt and canonical action."""
    both = prompt_key + action_hash(action, step.tools).encode()
    return hashlib.sha256(both).digest()[:16]


def step_ids(step: Step) -> dict[str, str]:
    """Ids of a step as columns of its row."""
    return {
        "task_id": step.task_id,
        "rollout_id": step.rollout_id,
        "step_id": step.step_id,
        "family": step.family,
        "split": step.split or "",
    }


def _action_ids(action: Action, step: Step) -> dict[str, str]:
    return {"action_type": action.type, "action_hash": action_hash(action, step.tools)}
