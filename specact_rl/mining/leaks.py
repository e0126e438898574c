"""Does anything stand in two splits? The same task or situation is an error, likeness a rate."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from specact_rl.errors import SplitLeakError
from specact_rl.mining.splits import request_text, situation_key
from specact_rl.types import Rollout, SplitName

NEAR_DUPLICATE_JACCARD = 0.8
"""Requests that share this part of their word 3-grams, or more, count as near-duplicates."""
MAX_SAMPLED = 1000

Grams = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakReport:
    """What the check counted, when it found no leak."""

    num_tasks: dict[SplitName, int]
    num_sampled: int
    """Distinct test requests that were compared with all training requests."""
    near_duplicate_rate: float | None
    """Share of those with a near-duplicate in a training split; None without any of either."""


def check_leaks(rollouts: Sequence[Rollout], *, seed: int = 0) -> LeakReport:
    """Counts by split and the near-duplicate rate between training and test.

    Args:
        rollouts: All with a split.
        seed: Of the sample of test requests (at most 1,000).

    Raises:
        SplitLeakError: A task id, or a canonical request in the same initial state, in two splits.
        ValueError: A rollout without a split.
    """
    tasks: dict[str, Rollout] = {}
    situations: dict[str, Rollout] = {}
    for rollout in rollouts:
        if rollout.split is None:
            raise ValueError(f"rollout {rollout.rollout_id!r} must have a split, got None")
        _refuse_other_split(tasks.setdefault(rollout.task_id, rollout), rollout, "task_id")
        other = situations.setdefault(situation_key(rollout), rollout)
        _refuse_other_split(other, rollout, "request and initial state")
    test = _requests(rollouts, ("test",))
    train = _requests(rollouts, ("train_proposer", "train_verifier"))
    sample = random.Random(seed).sample(test, min(len(test), MAX_SAMPLED))
    return LeakReport(
        num_tasks=dict(Counter(r.split for r in tasks.values() if r.split is not None)),
        num_sampled=len(sample),
        near_duplicate_rate=_near_duplicate_rate(sample, train) if sample and train else None,
    )


def _refuse_other_split(first: Rollout, second: Rollout, what: str) -> None:
    if first.split != second.split:
        raise SplitLeakError(
            f"the same {what} must not be in two splits: task {first.task_id!r} (rollout "
            f"{first.rollout_id!r}) is in {first.split!r}, task {second.task_id!r} (rollout "
            f"{second.rollout_id!r}) in {second.split!r}. Split all rollouts together, once, at "
            "import."
        )


def _requests(rollouts: Iterable[Rollout], splits: Sequence[SplitName]) -> list[str]:
    return sorted({request_text(rollout) for rollout in rollouts if rollout.split in splits})


def _near_duplicate_rate(sample: Sequence[str], train: Sequence[str]) -> float:
    train_grams = [word_grams(text) for text in train]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, grams in enumerate(train_grams):
        for gram in grams:
            holders[gram].append(i)
    near = sum(_has_near_duplicate(word_grams(text), train_grams, holders) for text in sample)
    return near / len(sample)


def _has_near_duplicate(
    grams: Grams,
    others: Sequence[Grams],
    holders: Mapping[tuple[str, ...], Sequence[int]],
) -> bool:
    shared = Counter(i for gram in grams for i in holders.get(gram, ()))
    return any(
        count / (len(grams) + len(others[i]) - count) >= NEAR_DUPLICATE_JACCARD
        for i, count in shared.items()
    )


def word_grams(text: str) -> Grams:
    """The word 3-grams of a text; a text of fewer words is one gram."""
    words = text.split()
    return frozenset(tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2)))
