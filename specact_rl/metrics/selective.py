"""What is wrong among the accepted: risk against coverage, its areas, and the errors of one gate.

Intervals of areas and curves are in `selective_intervals`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.resampling import Clusters, cluster_codes
from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    IntArray,
    MetricValue,
    as_labels,
    as_scores,
    check_lengths,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCoverage:
    """One point per distinct confidence, from the strictest threshold to accepting all rows."""

    threshold: FloatArray
    """Accept iff confidence >= threshold; decreasing."""
    num_accepted: IntArray
    coverage: FloatArray
    """Share accepted (the accept rate), in (0, 1]."""
    risk: FloatArray
    """Share not acceptable among the accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateErrors:
    """What one gate did to labelled proposals."""

    accept_rate: MetricValue
    selective_risk: MetricValue
    """Share not acceptable among the accepted; None when nothing is accepted."""
    false_accept_rate: MetricValue
    """Share accepted among the unacceptable; None when all are acceptable."""
    false_reject_rate: MetricValue
    """Share rejected among the acceptable; None when none is acceptable."""
    num_false_accepts: int
    num_false_rejects: int


def risk_coverage(confidence: ArrayLike, acceptable: ArrayLike) -> RiskCoverage:
    """Selective risk at every threshold that can be told apart.

    Args:
        confidence: Higher is more confident, shape (n,); probabilities or log-odds.
        acceptable: Labels, shape (n,).
    """
    s, wrong, last_of_tie = _sorted(confidence, acceptable)
    accepted = last_of_tie + 1
    return RiskCoverage(
        threshold=s[last_of_tie],
        num_accepted=accepted,
        coverage=accepted / s.size,
        risk=np.cumsum(wrong)[last_of_tie] / accepted,
    )


def aurc(confidence: ArrayLike, acceptable: ArrayLike) -> float:
    """Area under risk-coverage: the mean of the risk over k = 1..n accepted; lower is better.

    Rows of equal confidence are averaged over all their orders, so a constant score has the
    base risk.

    Source: Geifman and El-Yaniv (2017).
    """
    s, wrong, last_of_tie = _sorted(confidence, acceptable)
    tie_sizes = np.diff(last_of_tie, prepend=-1)
    tie_starts = last_of_tie - tie_sizes + 1
    # The expected error of each place within a tie is the tie's mean error.
    expected = np.repeat(np.add.reduceat(wrong, tie_starts) / tie_sizes, tie_sizes)
    return float(np.mean(np.cumsum(expected) / np.arange(1, s.size + 1)))


def e_aurc(confidence: ArrayLike, acceptable: ArrayLike) -> float:
    """AURC above that of a perfect ranking at the same risk r, r + (1-r) ln(1-r); >= about 0.

    The perfect area is the limit of many rows; on few rows a perfect ranking can come out
    slightly off zero.

    Source: Geifman et al. (2019).
    """
    risk = 1.0 - float(as_labels(acceptable).mean())
    perfect = 1.0 if risk == 1.0 else risk + (1.0 - risk) * float(np.log1p(-risk))
    return aurc(confidence, acceptable) - perfect


def augrc(confidence: ArrayLike, acceptable: ArrayLike) -> float:
    """Area under the share accepted *and* wrong against coverage; lower is better, 1/2 at most.

    Half the risk that a mistake gets through when the coverage is drawn at random. Unlike AURC it
    does not weigh the few most confident rows above all others: by AUROC and accuracy a it is
    (1 - AUROC) a (1 - a) + (1 - a)^2 / 2. Trapezoids, so ties are averaged over their orders.

    Source: Traub et al. (2024), arXiv 2407.01032.
    """
    _, wrong, last_of_tie = _sorted(confidence, acceptable)
    missed = np.append(0.0, np.cumsum(wrong)[last_of_tie])
    return float(np.trapezoid(missed, np.append(0, last_of_tie + 1))) / wrong.size**2


def gate_errors(
    accepted: ArrayLike, acceptable: ArrayLike, clusters: Clusters | None = None
) -> GateErrors:
    """Accept rate, selective risk, false accepts and false rejects of a gate's decisions.

    Args:
        accepted: The decisions, shape (n,).
        acceptable: Labels, shape (n,).
        clusters: Task id per row; with them the shares have `cluster_rate`'s 95 % intervals.
    """
    g, y = as_labels(accepted, "accepted"), as_labels(acceptable)
    check_lengths(accepted=g, acceptable=y)
    codes = None if clusters is None else cluster_codes(clusters, g.size)[0]
    return GateErrors(
        accept_rate=_share(g, np.ones_like(g), "no rows", codes),
        selective_risk=_share(~y, g, "nothing accepted", codes),
        false_accept_rate=_share(g, ~y, "every proposal is acceptable", codes),
        false_reject_rate=_share(~g, y, "no proposal is acceptable", codes),
        num_false_accepts=int((g & ~y).sum()),
        num_false_rejects=int((~g & y).sum()),
    )


def selective_risk(p_accept: ArrayLike, acceptable: ArrayLike, threshold: float) -> MetricValue:
    """Share not acceptable among rows with p_accept >= threshold; None when there are none."""
    return gate_errors(as_scores(p_accept, "p_accept") >= threshold, acceptable).selective_risk


def _share(event: BoolArray, among: BoolArray, note: str, codes: IntArray | None) -> MetricValue:
    n = int(among.sum())
    if n == 0:
        return MetricValue(value=None, n=0, note=note)
    if codes is not None:
        return cluster_rate(event[among], codes[among])
    return MetricValue(value=float((event & among).sum() / n), n=n)


def _sorted(
    confidence: ArrayLike, acceptable: ArrayLike
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Confidences from high to low, their errors (0. or 1.), and the last index of each tie."""
    s, y = as_scores(confidence, "confidence"), as_labels(acceptable)
    check_lengths(confidence=s, acceptable=y)
    order = np.argsort(-s, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(s[order])), s.size - 1)
    return s[order], (~y[order]).astype(np.float64), last_of_tie.astype(np.int64)
