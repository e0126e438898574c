"""Balancing of verifier rows: of the training splits only, by weights or by leaving rows out.

Calibration and test keep the natural share of acceptable proposals, as a gate meets it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

TRAIN_SPLITS = ("train_proposer", "train_verifier")


def class_weights(labels: Sequence[bool]) -> dict[bool, float]:
    """Loss weight by label that gives both labels the same total; the mean over rows is 1.

    As scikit-learn's class_weight="balanced": n / (2 n_label).

    Raises:
        ValueError: One of the two labels is missing.
    """
    counts = _counts(labels)
    return {label: len(labels) / (2 * counts[label]) for label in (False, True)}


def subsample(
    rows: Sequence[Mapping[str, Any]], *, positive_fraction: float, seed: int
) -> list[dict[str, Any]]:
    """The largest part of the rows with this share of label True, in their order.

    Which rows go depends on the seed and their `proposal_id` alone, not on the order.

    Args:
        rows: Verifier rows (`label`, `split`, `proposal_id`).
        positive_fraction: Share of acceptable rows afterwards, in (0, 1), up to rounding.
        seed: Another seed leaves out others.

    Raises:
        ValueError: A row of another split than the training ones, a label that is missing, or a
            fraction outside (0, 1).
    """
    if not 0.0 < positive_fraction < 1.0:
        raise ValueError(f"positive_fraction must be in (0, 1), got {positive_fraction!r}")
    for row in rows:
        if row["split"] not in TRAIN_SPLITS:
            raise ValueError(
                f"only rows of {TRAIN_SPLITS!r} are balanced, row {row['proposal_id']!r} is of "
                f"split {row['split']!r}, which keeps its natural prevalence"
            )
    counts = _counts([row["label"] for row in rows])
    odds = positive_fraction / (1.0 - positive_fraction)
    quota = {
        True: min(counts[True], max(1, math.floor(counts[False] * odds + 0.5))),
        False: min(counts[False], max(1, math.floor(counts[True] / odds + 0.5))),
    }
    kept: set[int] = set()
    for label in (True, False):
        ranked = sorted(
            (_rank(seed, row["proposal_id"]), i)
            for i, row in enumerate(rows)
            if row["label"] is label
        )
        kept |= {i for _, i in ranked[: quota[label]]}
    return [dict(row) for i, row in enumerate(rows) if i in kept]


def _counts(labels: Sequence[bool]) -> Counter[bool]:
    counts = Counter(labels)
    if not counts[True] or not counts[False]:
        raise ValueError(
            f"both labels must be there to balance, got {counts[True]} acceptable and "
            f"{counts[False]} unacceptable rows"
        )
    return counts


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
