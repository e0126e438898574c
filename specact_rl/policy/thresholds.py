"""Choosing where to cut: accept iff p_accept >= threshold.

Thresholds come from calibration rows that the calibrator was not fitted on, never from the rows
that are reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from specact_rl.metrics.resampling import Clusters, cluster_codes
from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    IntArray,
    as_labels,
    as_probabilities,
    check_fraction,
    check_lengths,
)

ThresholdRule = Literal["accept_rate", "utility", "target_risk"]


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
    """False: the rule could not be met. For a target risk, `threshold` is then None."""
    message: str
    """The verdict in plain words."""


def choose_by_accept_rate(
    p_accept: ArrayLike, acceptable: ArrayLike, *, accept_rate: float
) -> ThresholdChoice:
    """The threshold whose accept rate is nearest to the one asked for; of two, the smaller.

    Rows of equal probability cannot be told apart, so the rate may not be met; `feasible` is False
    when it is off by more than one row.
    """
    check_fraction(accept_rate, "accept_rate")
    cuts = _cuts(p_accept, acceptable)
    counts = np.append(0, cuts.counts)
    chosen = int(np.argmin(np.abs(counts - accept_rate * cuts.n))) - 1
    count = int(counts[chosen + 1])
    feasible = abs(count - accept_rate * cuts.n) <= 1.0
    got = f"accepts {count} of {cuts.n} rows ({count / cuts.n:.1%}), {accept_rate:.1%} asked for"
    why = "" if feasible else "; rows of equal probability cannot be told apart"
    return _choice(cuts, chosen, "accept_rate", {"accept_rate": accept_rate}, feasible, got + why)


def choose_by_utility(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    fallback_acceptable: ArrayLike | float,
    *,
    cost_weight: float,
    fallback_cost: float,
) -> ThresholdChoice:
    """The threshold with the highest mean of accuracy - cost_weight x cost; of two, the laxer.

    Args:
        p_accept: Calibrated probabilities, shape (n,).
        acceptable: Labels of the proposals, shape (n,).
        fallback_acceptable: Labels of the fallback's actions on the same rows, shape (n,), or
            its accuracy when rows are not known.
        cost_weight: Accuracy that one unit of cost is worth (lambda), not negative.
        fallback_cost: Cost of one fallback call; proposing and verifying is paid on each row
            anyway and moves no threshold.
    """
    if cost_weight < 0.0 or fallback_cost < 0.0:
        raise ValueError(
            f"cost_weight and fallback_cost must not be negative, got {cost_weight!r}, "
            f"{fallback_cost!r}"
        )
    cuts = _cuts(p_accept, acceptable)
    if isinstance(fallback_acceptable, int | float):
        fallback = np.full(cuts.n, check_fraction(fallback_acceptable, "fallback_acceptable"))
    else:
        labels = as_labels(fallback_acceptable, "fallback_acceptable")
        check_lengths(fallback_acceptable=labels, acceptable=cuts.order)
        fallback = labels[cuts.order].astype(np.float64)
    gain = (~cuts.wrong).astype(np.float64) - fallback + cost_weight * fallback_cost
    totals = np.append(0.0, np.cumsum(gain)[cuts.counts - 1])
    # Rounded, so that sums which are equal on paper tie; the last of them accepts the most.
    chosen = int(np.flatnonzero(np.isclose(totals, totals.max(), rtol=0.0, atol=1e-9))[-1]) - 1
    count = int(cuts.counts[chosen]) if chosen >= 0 else 0
    verdict = {0: "accept nothing", cuts.n: "accept everything"}.get(
        count, f"accept {count} of {cuts.n} rows ({count / cuts.n:.1%})"
    )
    return _choice(
        cuts,
        chosen,
        "utility",
        {"cost_weight": cost_weight, "fallback_cost": fallback_cost},
        True,
        f"best is to {verdict}: {totals.max() / cuts.n:+.4f} per row over never accepting",
    )


def choose_by_target_risk(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    *,
    target_risk: float,
    delta: float = 0.1,
    clusters: Clusters | None = None,
    rng: np.random.Generator | None = None,
    start_count: int | None = None,
    num_steps: int = 50,
) -> ThresholdChoice:
    """The laxest threshold whose selective risk is at most the target, with confidence 1 - delta.

    Learn then test: from a strict threshold on, each step tests "risk > target" by the exact
    binomial tail of the errors among the accepted, and the walk ends at the first that does not
    reject. The promise holds for new independent rows like these, not for live episodes, in which
    an accepted mistake changes what comes next.

    Args:
        p_accept: Calibrated probabilities, shape (n,).
        acceptable: Labels, shape (n,).
        target_risk: Highest share of unacceptable rows among the accepted, in (0, 1).
        delta: Chance, over draws of these rows, that the promise is broken.
        clusters: Task ids. Steps of one task are not independent, so one row per task is drawn
            and the test runs on those; None takes all rows as independent.
        rng: Draws that row; needed with clusters.
        start_count: Accepted rows at the first step; None takes `default_start_count`. Fixed
            without looking at labels.
        num_steps: Most thresholds tested, spread evenly over the counts.

    Source: Angelopoulos et al. (2021), arXiv 2110.01052, fixed-sequence testing.
    """
    for name, value in (("target_risk", target_risk), ("delta", delta)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} must be in (0, 1), got {value!r}")
    p, y = as_probabilities(p_accept), as_labels(acceptable)
    check_lengths(p_accept=p, acceptable=y)
    drawn = ""
    if clusters is not None:
        if rng is None:
            raise ValueError("rng is needed with clusters: it draws one row per cluster")
        rows = one_row_per_cluster(clusters, p.size, rng)
        if rows.size < p.size:
            drawn = f" (one row drawn from each of {rows.size} clusters, {p.size} rows in all)"
        p, y = p[rows], y[rows]
    cuts = _cuts(p, y)
    needed = min_certifiable_count(target_risk, delta)
    start = default_start_count(cuts.n, target_risk, delta) if start_count is None else start_count
    steps = _walk_steps(cuts.counts, start, num_steps)
    chosen = -1
    for step in steps:
        tail = stats.binom.cdf(cuts.errors[step], cuts.counts[step], target_risk)
        if tail > delta:
            break
        chosen = int(step)
    promise = f"risk <= {target_risk:g} with confidence {1.0 - delta:g}"
    if chosen >= 0:
        count, errors = int(cuts.counts[chosen]), int(cuts.errors[chosen])
        message = (
            f"{promise}: certified at {count} of {cuts.n} rows accepted "
            f"({count / cuts.n:.1%}), {errors} of them wrong ({errors / count:.1%})"
        )
    else:
        message = _why_infeasible(cuts, steps, needed, start, promise, target_risk, delta)
    arguments = {"target_risk": target_risk, "delta": delta}
    return _choice(cuts, chosen, "target_risk", arguments, chosen >= 0, message + drawn)


def min_certifiable_count(target_risk: float, delta: float) -> int:
    """Fewest accepted rows, all acceptable, that certify the target: (1 - target)^n <= delta."""
    return math.ceil(math.log(delta) / math.log1p(-target_risk))


def max_errors_allowed(num_accepted: int, target_risk: float, delta: float) -> int:
    """Most errors among `num_accepted` that still certify the target; -1 when even 0 is too many.

    The exact test of `choose_by_target_risk`: P(Bin(num_accepted, target) <= errors) <= delta.
    """
    tails = stats.binom.cdf(np.arange(num_accepted + 1), num_accepted, target_risk)
    return int(np.searchsorted(tails, delta, side="right")) - 1


def default_start_count(num_rows: int, target_risk: float, delta: float) -> int:
    """Where the walk of `choose_by_target_risk` starts, from the sizes alone.

    A tenth of the rows, but enough that half the target may go wrong: a walk that starts where a
    single error ends it mostly certifies nothing. On few rows, a quarter of them, or what passes
    without an error.
    """
    needed, quarter = min_certifiable_count(target_risk, delta), num_rows // 4
    counts = np.arange(needed, quarter + 1)
    tails = stats.binom.cdf(np.ceil(counts * target_risk / 2.0), counts, target_risk)
    tolerant = np.append(counts[tails <= delta], quarter)[0]
    return max(needed, min(quarter, max(int(tolerant), math.ceil(num_rows / 10))))


def one_row_per_cluster(clusters: Clusters, num_rows: int, rng: np.random.Generator) -> IntArray:
    """Index of one uniformly drawn row of each cluster, in sorted order of the cluster ids."""
    codes, _ = cluster_codes(clusters, num_rows)
    shuffled = rng.permutation(num_rows)
    _, first = np.unique(codes[shuffled], return_index=True)
    return shuffled[first].astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cuts:
    """Rows from high to low, and each place where a threshold can separate them."""

    n: int
    order: IntArray
    wrong: BoolArray
    """Per sorted row."""
    counts: IntArray
    """Rows accepted at each cut, increasing; the last is n."""
    errors: IntArray
    thresholds: FloatArray


def _cuts(p_accept: ArrayLike, acceptable: ArrayLike) -> _Cuts:
    p, y = as_probabilities(p_accept), as_labels(acceptable)
    check_lengths(p_accept=p, acceptable=y)
    order = np.argsort(-p, kind="stable")
    ranked, wrong = p[order], ~y[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), p.size - 1)
    above, below = ranked[last[:-1]], ranked[last[:-1] + 1]
    # Half-way between neighbours: a probability that comes out one rounding step lower in
    # another batch size is still on the same side. Where no number lies between, the upper one.
    middle = (above + below) / 2.0
    thresholds = np.append(np.where(middle > below, middle, above), 0.0)
    return _Cuts(
        n=p.size,
        order=order,
        wrong=wrong,
        counts=(last + 1).astype(np.int64),
        errors=np.cumsum(wrong)[last].astype(np.int64),
        thresholds=thresholds,
    )


def _choice(
    cuts: _Cuts,
    chosen: int,
    rule: ThresholdRule,
    arguments: dict[str, float],
    feasible: bool,
    message: str,
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
    )


def _walk_steps(counts: IntArray, start: int, num_steps: int) -> IntArray:
    """Indices of the cuts to test, from `start` accepted rows on."""
    if start < 1 or num_steps < 1:
        raise ValueError(
            f"start_count and num_steps must be at least 1, got {start!r}, {num_steps!r}"
        )
    first = int(np.searchsorted(counts, start))
    if first == counts.size:
        return np.empty(0, dtype=np.int64)
    wanted = np.linspace(counts[first], counts[-1], num_steps)
    return np.unique(np.searchsorted(counts, np.floor(wanted))).astype(np.int64)


def _why_infeasible(
    cuts: _Cuts,
    steps: IntArray,
    needed: int,
    start: int,
    promise: str,
    target_risk: float,
    delta: float,
) -> str:
    if not steps.size:
        return (
            f"{promise} cannot be certified: it takes at least {max(needed, start)} accepted rows "
            f"({needed} if none is wrong), there are {cuts.n}"
        )
    count, errors = int(cuts.counts[steps[0]]), int(cuts.errors[steps[0]])
    allowed = max_errors_allowed(count, target_risk, delta)
    message = (
        f"{promise} cannot be certified: of the {count} rows scored highest {errors} are wrong, "
        f"at most {max(allowed, 0)} may be"
    )
    base_risk = float(cuts.wrong.mean())
    if base_risk > target_risk:
        reject = (base_risk - target_risk) / (1.0 - target_risk)
        message += (
            f"; {base_risk:.1%} of all rows are wrong, so even a perfect verifier would have to "
            f"reject {reject:.1%}"
        )
    return message + "; the gate accepts nothing"
