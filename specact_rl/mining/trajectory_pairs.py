"""Pairs from successes and failures of one task: whole, where they part, and nearly there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from specact_rl.mining.task_tables import (
    MiningOptions,
    Pair,
    Side,
    TaskTables,
    call_keys,
    executed_side,
)
from specact_rl.store import canonical_json, content_hash
from specact_rl.types import Message, Rollout, StepRecord

_PARTS_AT = {"user": "parts_at_user_message", "tool": "parts_at_tool_result"}


def outcome_pairs(task: TaskTables, options: MiningOptions, dropped: Counter[str]) -> list[Pair]:
    """Whole trajectories after the same first messages, a success before a failure.

    One with a turn that was cut off is on no side: a row would end that turn with a stop token
    that was never written.
    """
    pairs = []
    for success, failure in task.contrasts(dropped):
        if not success.steps or not failure.steps:
            dropped["no_steps"] += 1
            continue
        start = success.steps[0].message_index
        if failure.messages[:start] != success.messages[:start] or failure.tools != success.tools:
            dropped["different_start"] += 1
            continue
        if not all(record.finished for record in [*success.steps, *failure.steps]):
            dropped["cut_off"] += 1
            continue
        chosen, rejected = _trajectory(success, start), _trajectory(failure, start)
        if not chosen.messages or not rejected.messages:
            dropped["no_steps"] += 1
        elif chosen.key == rejected.key:
            dropped["same_actions"] += 1
        else:
            pairs.append(
                Pair(strategy="outcome", step=success.step(0), chosen=chosen, rejected=rejected)
            )
    return pairs


def _trajectory(rollout: Rollout, start: int) -> Side:
    """The conversation from `start` to its last assistant message."""
    messages = rollout.messages[start:]
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    sides = (executed_side(rollout, record) for record in rollout.steps)
    return Side(
        messages=messages,
        action=None,
        key=content_hash([_key(side) for side in sides]),
        source=rollout.policy,
        source_id=rollout.rollout_id,
    )


def divergence_pairs(task: TaskTables, options: MiningOptions, dropped: Counter[str]) -> list[Pair]:
    """The one step where a success and a failure part after a byte-identical history."""
    pairs = []
    for success, failure in task.contrasts(dropped):
        found = _parting(success, failure)
        if isinstance(found, str):
            dropped[found] += 1
            continue
        chosen_record, rejected_record = found
        pair = _step_pair("divergence", success, chosen_record, failure, rejected_record)
        if isinstance(pair, str):
            dropped[pair] += 1
        else:
            pairs.append(pair)
    return pairs


def _parting(success: Rollout, failure: Rollout) -> tuple[StepRecord, StepRecord] | str:
    """The two records at the first message that differs, or why there is no such step."""
    if success.tools != failure.tools:
        return "different_tools"
    at = first_difference(success, failure)
    if at is None:
        return "never_parts"
    roles = {success.messages[at]["role"], failure.messages[at]["role"]}
    if roles != {"assistant"}:
        others = sorted(roles & set(_PARTS_AT))
        return _PARTS_AT[others[0]] if others else "different_start"
    records = [
        next((r for r in rollout.steps if r.message_index == at), None)
        for rollout in (success, failure)
    ]
    if records[0] is None or records[1] is None:
        return "parts_outside_steps"
    return records[0], records[1]


def first_difference(ours: Rollout, theirs: Rollout) -> int | None:
    """Index of the first message that differs; None where one conversation begins the other."""
    both = zip(ours.messages, theirs.messages, strict=False)
    return next((i for i, (a, b) in enumerate(both) if _bytes(a) != _bytes(b)), None)


def _bytes(message: Message) -> str:
    return canonical_json(message)


def _step_pair(
    strategy: str,
    success: Rollout,
    chosen_record: StepRecord,
    failure: Rollout,
    rejected_record: StepRecord,
    distance: float = 0.0,
) -> Pair | str:
    """The pair of two executed actions after the success's history, or why there is none."""
    if _several_calls(success, chosen_record) or _several_calls(failure, rejected_record):
        return "several_calls"  # no single action, and as text it would teach another format
    chosen = executed_side(success, chosen_record)
    rejected = executed_side(failure, rejected_record)
    if chosen is None or chosen.action is None:
        return "unparsable_chosen"
    if not rejected_record.finished:  # a row would end it with a stop token never written
        return "cut_off"
    if rejected is None:
        return "no_text"
    if chosen.key == rejected.key:
        return "parts_in_wording"
    return Pair(
        strategy=strategy,
        step=success.step(chosen_record.index),
        chosen=chosen,
        rejected=rejected,
        distance=distance,
    )


def _several_calls(rollout: Rollout, record: StepRecord) -> bool:
    done = rollout.messages[record.message_index : record.message_index + 1]
    return any(len(message.get("tool_calls") or ()) > 1 for message in done)


def approx_prefix_pairs(
    task: TaskTables, options: MiningOptions, dropped: Counter[str]
) -> list[Pair]:
    """Steps with the same canonical calls behind them, though the conversations differ.

    Each rollout is seen as the sequence of its calls; what it says between two calls is skipped,
    so the step of a state is the last one in it. Compared at the first state that the two leave
    differently, by a call on one side at least; the prompt is the success's.
    """
    pairs = []
    for success, failure in task.contrasts(dropped):
        if success.tools != failure.tools:
            dropped["different_tools"] += 1
            continue
        found = _first_left_differently(success, failure)
        if found is None:
            dropped["same_calls"] += 1
            continue
        ours, theirs = found
        our_history = success.messages[: ours.message_index]
        their_history = failure.messages[: theirs.message_index]
        distance = history_distance(our_history, their_history)
        if our_history == their_history:
            dropped["identical_history"] += 1
        elif distance > options.max_distance:
            dropped["too_distant"] += 1
        else:
            pair = _step_pair("approx_prefix", success, ours, failure, theirs, distance)
            if isinstance(pair, str):
                dropped[pair] += 1
            else:
                pairs.append(pair)
    return pairs


def _first_left_differently(
    success: Rollout, failure: Rollout
) -> tuple[StepRecord, StepRecord] | None:
    theirs = _leaving_steps(failure)
    for state, ours in _leaving_steps(success).items():
        other = theirs.get(state)
        if other is None:
            return None
        left, right = executed_side(success, ours), executed_side(failure, other)
        if (_is_call(left) or _is_call(right)) and _key(left) != _key(right):
            return ours, other
    return None


def _is_call(side: Side | None) -> bool:
    return side is not None and side.action is not None and side.action.tool is not None


def _key(side: Side | None) -> str:
    return side.key if side else ""


def _leaving_steps(rollout: Rollout) -> dict[tuple[str, ...], StepRecord]:
    """The last step in each tool-call state, in the order of the states."""
    leaving: dict[tuple[str, ...], StepRecord] = {}
    state: tuple[str, ...] = ()
    end = 0
    for record in rollout.steps:
        state += call_keys(rollout.messages[end : record.message_index], rollout.tools)
        end = record.message_index
        leaving[state] = record
    return leaving


def history_distance(ours: Sequence[Message], theirs: Sequence[Message]) -> float:
    """1 minus the Dice coefficient of the two conversations' words, counted with repeats.

    0 for the same words in any order, 1 for none in common. System messages are left out: as long
    and equal as they are, they would make all histories look alike.
    """
    words = [
        Counter(word for m in messages if m["role"] != "system" for word in _bytes(m).split())
        for messages in (ours, theirs)
    ]
    total = words[0].total() + words[1].total()
    return 1.0 - 2 * (words[0] & words[1]).total() / total if total else 0.0
