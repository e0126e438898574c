"""What a set of calls of one model costs, where a call reads on from the last one.

A step's call is charged for reading its prompt from the end of the last call of the same rollout
on, and for writing. So what a call costs depends on which calls were made before it, and the cost
of a gate is no sum over steps: with few calls each of them has more to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from specact_rl.metrics.cost import Count
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray


def num_cached(prompt_tokens: Count, before: Count) -> Count:
    """How many of a prompt's tokens a model has read already.

    A rollout's prompts extend one another. A prompt that is shorter than what was read last does
    not extend it, and is read anew.

    Args:
        prompt_tokens: Length of the prompt, one number or an array.
        before: Length of the prompt at the model's last call in the rollout; 0 if there is none.
    """
    cached: Count = before * (prompt_tokens >= before)
    return cached


def catch_up_tokens(prompt_tokens: IntArray, rollouts: IntArray, called: BoolArray) -> IntArray:
    """Prompt tokens a model has to read at each step where it is called, shape (n,).

    What it read at its last call in the same rollout is cached (`num_cached`); a model that is
    seldom called has more to catch up on when it is. 0 where not called.
    """
    tokens = np.zeros_like(prompt_tokens)
    positions = np.flatnonzero(called)
    prompt, before = prompt_tokens[positions], np.zeros(positions.size, dtype=np.int64)
    same = rollouts[positions[1:]] == rollouts[positions[:-1]]
    before[1:] = np.where(same, prompt[:-1], 0)
    tokens[positions] = prompt - num_cached(prompt, before)
    return tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCosts:
    """Of a call at each step, by what it reads and what it writes; arrays of shape (n,).

    What is read adds up to the prompt at the last call of each rollout; and, where the next prompt
    is shorter and is read anew, to the one before it, too.
    """

    reading: FloatArray
    """Of the whole prompt, nothing cached."""
    writing: FloatArray
    """Of the completion behind it."""
    rollouts: IntArray
    """Rollout number, ascending."""

    def at(self, here: BoolArray) -> CallCosts:
        """Of some of the steps only, as if the rollouts had no others."""
        return CallCosts(
            reading=self.reading[here], writing=self.writing[here], rollouts=self.rollouts[here]
        )

    def totals(self, codes: IntArray, num_codes: int, groups: IntArray | None = None) -> FloatArray:
        """Cost of all calls if the steps of codes below c make one, by c from 0 to num_codes.

        Args:
            codes: Below num_codes; -1 for a step that always calls, shape (n,).
            num_codes: How many codes there are from 0 on.
            groups: Number of each step's group, the same for all of a rollout, shape (n,); None is
                one group.

        Returns:
            Shape (num_codes + 1,), or (groups, num_codes + 1).
        """
        num_groups = 1 if groups is None else int(groups.max(initial=-1)) + 1
        width = num_codes + 2
        start = np.zeros(codes.size, dtype=np.int64) if groups is None else width * groups

        def changes(
            steps: BoolArray | IntArray | slice, codes: IntArray, costs: FloatArray
        ) -> FloatArray:
            """Costs of the steps, by the number from which on they count."""
            found = np.bincount(start[steps] + codes + 1, costs[steps], num_groups * width)
            return found.astype(np.float64, copy=False)

        later = _least_later(codes, self.rollouts, num_codes)
        # A step makes the last call of its rollout for every c above its own code and up to the
        # least code behind it.
        is_last = later > codes
        change = changes(is_last, codes[is_last], self.reading)
        change -= changes(is_last, later[is_last], self.reading)
        change += changes(slice(None), codes, self.writing)
        for first, below, above in _read_anew(codes, self.reading, self.rollouts, num_codes):
            change += changes(first, below, self.reading)
            change -= changes(first, above, self.reading)
        sums = np.cumsum(change.reshape(num_groups, width), axis=1)[:, : num_codes + 1]
        return np.asarray(sums[0] if groups is None else sums, dtype=np.float64)


def _read_anew(
    codes: IntArray, reading: FloatArray, rollouts: IntArray, none: int
) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """Pairs of calls that follow one another in a rollout, the second with the shorter prompt.

    Yields, for each distance of the two: places of the first, and codes such that they follow one
    another for every c above the first and up to the second of them. Nothing where prompts grow.
    """
    shrinks = (rollouts[1:] == rollouts[:-1]) & (reading[1:] < reading[:-1])
    if not shrinks.any():
        return
    first = np.arange(codes.size - 1)
    between = np.full(first.size, none, dtype=np.int64)  # least code between the two
    distance = 1
    while first.size:
        second = first + distance
        inside = second < codes.size
        inside[inside] &= rollouts[second[inside]] == rollouts[first[inside]]
        first, second, between = first[inside], second[inside], between[inside]
        below = np.maximum(codes[first], codes[second])
        pairs = (below < between) & (reading[second] < reading[first])
        yield first[pairs], below[pairs], between[pairs]
        between = np.minimum(between, codes[second])
        seen = between > codes[first]  # for some c none of those between is a call
        first, between = first[seen], between[seen]
        distance += 1


def _least_later(codes: IntArray, rollouts: IntArray, none: int) -> IntArray:
    """The least code among the later steps of the same rollout, `none` where there is none."""
    # Going backwards rollout numbers fall, so that with them on top a running minimum starts anew
    # at each rollout.
    span = none + 2
    keyed = codes + 1 + span * rollouts
    running = np.minimum.accumulate(keyed[::-1])[::-1]
    later = np.full(codes.shape, none, dtype=np.int64)
    same = rollouts[1:] == rollouts[:-1]
    later[:-1][same] = (running[1:] - span * rollouts[1:] - 1)[same]
    return later
