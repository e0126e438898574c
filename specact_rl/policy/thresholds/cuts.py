"""Every place where a threshold can separate rows, and the record of the one that was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    IntArray,
    as_labels,
    as_probabilities,
    check_lengths,
)

ThresholdRule = Literal[
    "accept_rate", "utility", "cost", "chow", "target_risk", "task_risk", "conformal_risk"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdChoice:
    """A threshold, the rule that chose it, and what it does on the rows it was chosen on."""

    threshold: float | None
    """Accept iff p_accept >= threshold. 0.0 accepts every scored row; None accepts nothing."""
    rule: ThresholdRule
    arguments: dict[str, float] = field(default_factory=dict)
    """What the rule was asked for, by name."""
    num_rows: int
    """Rows the choice was made on."""
    num_accepted: int
    num_errors: int
    """Accepted rows that are not acceptable."""
    feasible: bool
    """False: the rule could not be met. For a risk, `threshold` is then None."""
    message: str
    """The verdict in plain words."""
    controls: str | None = None
    """What the rule promises of new rows or tasks, in words; None where it promises nothing."""

    @property
    def accept_rate(self) -> float:
        """Share of the rows that it accepts."""
        return self.num_accepted / self.num_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Rows from high to low, and each place where a threshold can separate them."""

    n: int
    order: IntArray
    wrong: BoolArray
    """Per sorted row."""
    counts: IntArray
    """Rows accepted at each cut, increasing; the last is n."""
    errors: IntArray
    thresholds: FloatArray

    def at_cuts(self, values: FloatArray | BoolArray) -> FloatArray:
        """Sum of the values of the accepted rows at each cut; `values` is per sorted row."""
        sums: FloatArray = np.cumsum(values, dtype=np.float64)[self.counts - 1]
        return sums


def cuts_of(p_accept: ArrayLike, acceptable: ArrayLike) -> Cuts:
    """The cuts of labelled rows.

    Raises:
        ValueError: Rows without a probability or a label among them, or none at all.
    """
    p, y = as_probabilities(p_accept), as_labels(acceptable)
    check_lengths(p_accept=p, acceptable=y)
    order = np.argsort(-p)
    ranked, wrong = p[order], ~y[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), p.size - 1)
    above, below = ranked[last[:-1]], ranked[last[:-1] + 1]
    # Half-way between neighbours: a probability that comes out one rounding step lower in
    # another batch size is still on the same side. Where no number lies between, the upper one.
    middle = (above + below) / 2.0
    thresholds = np.append(np.where(middle > below, middle, above), 0.0)
    return Cuts(
        n=p.size,
        order=order,
        wrong=wrong,
        counts=(last + 1).astype(np.int64),
        errors=np.cumsum(wrong)[last].astype(np.int64),
        thresholds=thresholds,
    )


def choice_at(
    cuts: Cuts,
    chosen: int,
    rule: ThresholdRule,
    arguments: dict[str, float],
    *,
    feasible: bool,
    message: str,
    controls: str | None = None,
) -> ThresholdChoice:
    """The cut at index `chosen`; -1 accepts nothing."""
    nothing = chosen < 0
    return ThresholdChoice(
        threshold=None if nothing else float(cuts.thresholds[chosen]),
        rule=rule,
        arguments=arguments,
        num_rows=cuts.n,
        num_accepted=0 if nothing else int(cuts.counts[chosen]),
        num_errors=0 if nothing else int(cuts.errors[chosen]),
        feasible=feasible,
        message=message,
        controls=controls,
    )
