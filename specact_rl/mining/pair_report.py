"""What pairs are like, in numbers and in words: where rollouts part, how far apart, how long.

The words go where a user looks first: the README of a data set and the page of `specact check`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from specact_rl.mining.pairs import group_by_task
from specact_rl.mining.rows import LengthGap
from specact_rl.mining.trajectory_pairs import first_difference
from specact_rl.types import Rollout

FIRST_USER, LATER_USER = "first_user_message", "later_user_message"
ACTION, NOWHERE, NO_STEPS = "action", "nowhere", "no_steps"
_OTHERS = {
    "tool_result": "part at a tool's result",
    "start": "start differently",
    "different_tools": "have different tools",
    NOWHERE: "never part",
    NO_STEPS: "have no steps in the log",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """How far apart the histories of some pairs are: 0 the same words, 1 none in common."""

    num_pairs: int
    smallest: float
    median: float
    largest: float


def count_partings(rollouts: Sequence[Rollout]) -> dict[str, dict[str, int]]:
    """Pairs of a success and a failure on one task, by category and by where they part.

    Only where they part at an action can a pair of steps have one history; with a simulated user
    nearly all part at its words.
    """
    places: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for task in group_by_task(rollouts):
        for success, failure in task.contrasts(Counter()):
            places[success.family][_place(success, failure)] += 1
    return {family: dict(counts) for family, counts in sorted(places.items())}


def _place(success: Rollout, failure: Rollout) -> str:
    if not success.steps or not failure.steps:
        return NO_STEPS
    if success.tools != failure.tools:
        return "different_tools"
    at = first_difference(success, failure)
    if at is None:
        return NOWHERE
    roles = {success.messages[at]["role"], failure.messages[at]["role"]}
    if "user" in roles:
        earlier = any(message["role"] == "user" for message in success.messages[:at])
        return LATER_USER if earlier else FIRST_USER
    if "tool" in roles:
        return "tool_result"
    return ACTION if roles == {"assistant"} else "start"


def total_places(partings: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The counts of all categories together."""
    total: Counter[str] = Counter()
    for places in partings.values():
        total.update(places)
    return dict(total)


def partings_in_words(places: Mapping[str, int]) -> str:
    """Two or three sentences; "" without a success and a failure on one task."""
    total = sum(places.values())
    if not total:
        return ""
    first, action = places.get(FIRST_USER, 0), places.get(ACTION, 0)
    user = first + places.get(LATER_USER, 0)
    at_first = f" ({first:,} of them at the first one)" if user else ""
    parts = [
        f"{user:,} part at a user's message{at_first}",
        f"{action:,} at an action of the agent",
    ]
    parts += [f"{places[key]:,} {words}" for key, words in _OTHERS.items() if places.get(key)]
    text = f"Of {total:,} pairs of a success and a failure on one task, {', '.join(parts)}."
    if user:
        left = f"has only the {action:,} left" if action else "finds nothing"
        text += (
            f" What follows a user's other words has another history, so that `divergence` {left}. "
            "`approx_prefix` compares them after the same calls instead, and is another thing: the "
            "two actions were not due in one situation."
        )
    return text


def distances_of(values: Sequence[float]) -> Distances | None:
    """Spread of some distances; None without any."""
    if not values:
        return None
    return Distances(
        num_pairs=len(values),
        smallest=float(np.min(values)),
        median=float(np.median(values)),
        largest=float(np.max(values)),
    )


def distances_in_words(found: Distances | None, num_too_distant: int) -> str:
    """One sentence on the pairs of `approx_prefix`."""
    further = f"; {num_too_distant:,} more lie too far apart" if num_too_distant else ""
    if found is None:
        return f"`approx_prefix` finds no pair{further}."
    return (
        f"`approx_prefix`: {found.num_pairs:,} pairs, whose histories differ by {found.median:.2f} "
        f"in the median, {found.smallest:.2f} to {found.largest:.2f} (0: the same words, 1: none "
        f"in common){further}."
    )


def lengths_in_words(
    gaps: Mapping[str, LengthGap],
    *,
    max_length_ratio: float | None,
    max_turn_gap: int | None,
) -> Iterator[str]:
    """Whether the two sides are of like length and number of turns, a sentence each."""
    turns = "" if max_turn_gap is None else f" and at most {max_turn_gap} more or fewer messages"
    if max_length_ratio is not None:
        yield (
            "The two sides are matched in length: the longer one has at most "
            f"{max_length_ratio:g} times the tokens of the other{turns}."
        )
    else:
        yield (
            "The two sides are not matched in length (--max-length-ratio)"
            f"{f'; they have{turns[4:]}' if turns else ''}: what is trained on them may learn "
            "length."
        )
    for name, gap in gaps.items():
        yield (
            f"`{name}`: chosen is the longer side in {100 * gap.share_chosen_longer:.1f} % of "
            f"{gap.num_pairs:,} pairs (ties count half), by {gap.mean_tokens:+.1f} tokens and "
            f"{gap.mean_turns:+.1f} messages in the mean."
        )
