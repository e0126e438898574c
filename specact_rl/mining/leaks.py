"""Does anything stand in two splits? The same task or situation is an error, likeness a rate."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


def check_leaks(rollouts: Iterable[Rollout], *, seed: int = 0) -> LeakReport:
    """Counts by split and the near-duplicate rate between training and test.

    Args:
        rollouts: All with a split; iterated over once, and only their requests are kept.
        seed: Of the sample of test requests (at most 1,000).

    Raises:
        SplitLeakError: A task id, or a canonical request in the same initial state, in two splits.
        ValueError: A rollout without a split.
    """
    check = LeakCheck()
    for rollout in rollouts:
        check.add(rollout)
    return check.report(seed)


class LeakCheck:
    """`check_leaks` over one rollout at a time."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._tasks: dict[str, _Seen] = {}
        self._situations: dict[str, _Seen] = {}
        self._test: set[str] = set()
        self._train: set[str] = set()

    def add(self, rollout: Rollout) -> None:
        """Hold one more rollout against those before it.

        Raises:
            SplitLeakError: Something of it is in another split, too.
            ValueError: It has no split.
        """
        if rollout.split is None:
            raise ValueError(f"rollout {rollout.rollout_id!r} must have a split, got None")
        seen = _Seen(rollout.task_id, rollout.rollout_id, rollout.split)
        _refuse_other_split(self._tasks.setdefault(rollout.task_id, seen), seen, "task_id")
        other = self._situations.setdefault(situation_key(rollout), seen)
        _refuse_other_split(other, seen, "request and initial state")
        if rollout.split == "test":
            self._test.add(request_text(rollout))
        elif rollout.split in ("train_proposer", "train_verifier"):
            self._train.add(request_text(rollout))

    def report(self, seed: int = 0) -> LeakReport:
        """What was counted."""
        test = sorted(self._test)
        sample = random.Random(seed).sample(test, min(len(test), MAX_SAMPLED))
        rate = _near_duplicate_rate(sample, self._train) if sample and self._train else None
        return LeakReport(
            num_tasks=dict(Counter(seen.split for seen in self._tasks.values())),
            num_sampled=len(sample),
            near_duplicate_rate=rate,
        )


class _Seen(NamedTuple):
    task_id: str
    rollout_id: str
    split: SplitName


def _refuse_other_split(first: _Seen, second: _Seen, what: str) -> None:
    if first.split != second.split:
        raise SplitLeakError(
            f"the same {what} must not be in two splits: task {first.task_id!r} (rollout "
            f"{first.rollout_id!r}) is in {first.split!r}, task {second.task_id!r} (rollout "
            f"{second.rollout_id!r}) in {second.split!r}. Split all rollouts together, once, at "
            "import."
        )


def _near_duplicate_rate(sample: Sequence[str], train: Iterable[str]) -> float:
    # The grams of all training requests would be many times their texts: one text at a time.
    sample_grams = [word_grams(text) for text in sample]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, grams in enumerate(sample_grams):
        for gram in grams:
            holders[gram].append(i)
    near: set[int] = set()
    for text in train:
        grams = word_grams(text)
        shared = Counter(i for gram in grams for i in holders.get(gram, ()))
        near |= {
            i
            for i, count in shared.items()
            if count / (len(grams) + len(sample_grams[i]) - count) >= NEAR_DUPLICATE_JACCARD
        }
    return len(near) / len(sample)


def word_grams(text: str) -> Grams:
    """The word 3-grams of a text; a text of fewer words is one gram."""
    words = text.split()
    return frozenset(tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2)))
