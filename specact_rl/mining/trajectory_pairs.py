"""Pairs from successes and failures of one task: whole, where they part, and nearly there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, count, repeat
from typing import Any

from pydantic_core import to_json

from specact_rl.mining.task_tables import (
    MiningOptions,
    Pair,
    Side,
    TaskTables,
    call_keys,
    executed_side,
)
from specact_rl.store import content_hash
from specact_rl.types import Message, Rollout, StepRecord

_State = tuple[str, ...]
"""Canonical hashes of the calls so far."""

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
    return next((i for i, (a, b) in enumerate(both) if not _same_json(a, b)), None)


def _same_json(ours: Any, theirs: Any) -> bool:
    """Whether the canonical JSON of two values is equal: 1, 1.0 and True differ, order does not."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(
            _same_json(value, theirs[key]) for key, value in ours.items()
        )
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(_same_json, ours, theirs))
    return bool(ours == theirs)


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
    # A rollout is in many contrasts.
    conversations = {rollout.rollout_id: _Conversation(rollout) for rollout in task.rollouts}
    for success, failure in task.contrasts(dropped):
        if success.tools != failure.tools:
            dropped["different_tools"] += 1
            continue
        left, right = conversations[success.rollout_id], conversations[failure.rollout_id]
        found = _first_left_differently(left, right)
        if found is None:
            dropped["same_calls"] += 1
            continue
        ours, theirs = found
        our_history = success.messages[: ours.message_index]
        their_history = failure.messages[: theirs.message_index]
        distance = _distance(left.words(ours.message_index), right.words(theirs.message_index))
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


class _Conversation:
    """What is compared of a rollout, found when asked for: most contrasts part early.

    Kept for all the contrasts that the rollout is in.
    """

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self._coming = _leaving_steps(rollout)
        self._leaving: list[tuple[_State, StepRecord]] = []
        self._words_of: list[list[str]] = []
        """By message."""
        self._sides: dict[int, Side | None] = {}
        self._counts: dict[int, Counter[str]] = {}

    def leaving(self, number: int) -> tuple[_State, StepRecord] | None:
        """The state at a place in the order of the states, and the last step in it."""
        while len(self._leaving) <= number:
            found = next(self._coming, None)
            if found is None:
                return None
            self._leaving.append(found)
        return self._leaving[number]

    def side(self, number: int) -> Side | None:
        """What was done in the last step of that state."""
        if number not in self._sides:
            self._sides[number] = executed_side(self._rollout, self._leaving[number][1])
        return self._sides[number]

    def words(self, end: int) -> Counter[str]:
        """Words before a message, counted."""
        if end not in self._counts:
            for message in self._rollout.messages[len(self._words_of) : end]:
                self._words_of.append([] if message["role"] == "system" else _words(message))
            self._counts[end] = Counter(chain.from_iterable(self._words_of[:end]))
        return self._counts[end]


def _first_left_differently(
    success: _Conversation, failure: _Conversation
) -> tuple[StepRecord, StepRecord] | None:
    theirs = 0
    for ours in count():
        found = success.leaving(ours)
        if found is None:
            return None
        state, record = found
        # States only grow: the other's, if it has this one, is its first that is as long.
        while (other := failure.leaving(theirs)) is not None and len(other[0]) < len(state):
            theirs += 1
        if other is None or other[0] != state:
            return None
        left, right = success.side(ours), failure.side(theirs)
        if (_is_call(left) or _is_call(right)) and _key(left) != _key(right):
            return record, other[1]
    raise AssertionError("count() does not end")


def _is_call(side: Side | None) -> bool:
    return side is not None and side.action is not None and side.action.tool is not None


def _key(side: Side | None) -> str:
    return side.key if side else ""


def _leaving_steps(rollout: Rollout) -> Iterator[tuple[_State, StepRecord]]:
    """The last step in each tool-call state, in the order of the states."""
    state: _State = ()
    last: StepRecord | None = None
    end = 0
    for record in rollout.steps:
        made = call_keys(rollout.messages[end : record.message_index], rollout.tools)
        if made and last is not None:
            yield state, last
        state += made
        end = record.message_index
        last = record
    if last is not None:
        yield state, last


def history_distance(ours: Sequence[Message], theirs: Sequence[Message]) -> float:
    """1 minus the Dice coefficient of the two conversations' words, counted with repeats.

    0 for the same words in any order, 1 for none in common. System messages are left out: as long
    and equal as they are, they would make all histories look alike.
    """
    return _distance(*(_count_words(messages) for messages in (ours, theirs)))


def _count_words(messages: Sequence[Message]) -> Counter[str]:
    return Counter(word for m in messages if m["role"] != "system" for word in _words(m))


def _words(message: Message) -> list[str]:
    """Words of a message's JSON, keys in one order."""
    return to_json(_sorted(message)).decode().split()  # many times as fast as json


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: item if type(item) is str else _sorted(item) for key, item in sorted(value.items())
        }
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _distance(ours: Counter[str], theirs: Counter[str]) -> float:
    total = ours.total() + theirs.total()
    if len(ours) > len(theirs):
        ours, theirs = theirs, ours
    common = sum(map(min, ours.values(), map(theirs.get, ours, repeat(0))))
    return 1.0 - 2 * common / total if total else 0.0
