"""How good a gate could be, how good it is, and which systems are worth their cost.

C and S: the cheap proposal and the strong fallback are right (0/1 per row); g: the gate accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.resampling import (
    Clusters,
    bootstrap_value,
    cluster_codes,
    resampled_sums,
)
from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    MetricValue,
    as_labels,
    as_scores,
    check_fraction,
    check_lengths,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRates:
    """How often the cheap and the strong model are right, and right alone."""

    cheap: float
    strong: float
    only_cheap: float
    """P(C=1, S=0): the most that accepting can gain."""
    only_strong: float
    """P(C=0, S=1): the most that accepting can lose."""

    @property
    def peak_oracle(self) -> float:
        """Accuracy when either model's right answer could always be picked: 1 - P(C=S=0)."""
        return self.strong + self.only_cheap


def agreement_rates(cheap_correct: ArrayLike, strong_correct: ArrayLike) -> AgreementRates:
    """Marginal and exclusive accuracies of the two models on the same rows."""
    c, s = _pair(cheap_correct, strong_correct)
    return AgreementRates(
        cheap=float(c.mean()),
        strong=float(s.mean()),
        only_cheap=float((c & ~s).mean()),
        only_strong=float((~c & s).mean()),
    )


def random_gate(rates: AgreementRates, accept_rate: float) -> float:
    """Expected accuracy of accepting at random: a C + (1-a) S."""
    a = check_fraction(accept_rate, "accept_rate")
    return a * rates.cheap + (1.0 - a) * rates.strong


def oracle_gate(rates: AgreementRates, accept_rate: float) -> float:
    """Best accuracy any gate can have at this accept rate."""
    a = check_fraction(accept_rate, "accept_rate")
    gain, loss = rates.only_cheap, rates.only_strong
    return rates.strong + min(a, gain) - max(0.0, a - (1.0 - loss))


def worst_gate(rates: AgreementRates, accept_rate: float) -> float:
    """Worst accuracy any gate can have at this accept rate."""
    a = check_fraction(accept_rate, "accept_rate")
    gain, loss = rates.only_cheap, rates.only_strong
    return rates.strong - min(a, loss) + max(0.0, a - (1.0 - gain))


def peak_oracle(cheap_correct: ArrayLike, strong_correct: ArrayLike) -> float:
    """Share of rows on which at least one of the two is right.

    Partly luck of a second try: show the strong model's oracle against its own second run beside
    it where trials exist.
    """
    return agreement_rates(cheap_correct, strong_correct).peak_oracle


def gated_accuracy(
    accepted: ArrayLike, cheap_correct: ArrayLike, strong_correct: ArrayLike
) -> float:
    """Accuracy of the system: the cheap verdict where accepted, the strong one elsewhere."""
    g = as_labels(accepted, "accepted")
    c, s = _pair(cheap_correct, strong_correct)
    check_lengths(accepted=g, cheap_correct=c)
    return float(np.where(g, c, s).mean())


def gate_skill(
    accepted: ArrayLike,
    cheap_correct: ArrayLike,
    strong_correct: ArrayLike,
    eligible: ArrayLike | None = None,
) -> float:
    """Accuracy above a random gate of the same accept rate: Cov(g, C - S); 0 is no skill.

    Args:
        accepted: The gate's decisions, shape (n,).
        cheap_correct: Whether the proposal is right, shape (n,).
        strong_correct: Whether the fallback is, shape (n,).
        eligible: Rows among which the random gate draws, every accepted one among them, for
            instance those whose proposal parses; None means all. With V for them the skill is
            P(V) Cov(g, C - S | V), and what it falls short of the skill among all rows is what
            the choice of V is worth at this accept rate, P(g) / P(V) Cov(V, C - S).
    """
    return float(_skill(_skill_rows(accepted, cheap_correct, strong_correct, eligible).sum(0)))


def gate_skill_interval(
    accepted: ArrayLike,
    cheap_correct: ArrayLike,
    strong_correct: ArrayLike,
    clusters: Clusters,
    *,
    rng: np.random.Generator,
    eligible: ArrayLike | None = None,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> MetricValue:
    """`gate_skill` with a percentile interval over resampled clusters.

    Exactly 0, without an interval, for a gate that accepts all eligible rows or none: it decides
    nothing, whatever the rows.
    """
    rows = _skill_rows(accepted, cheap_correct, strong_correct, eligible)
    codes, num_clusters = cluster_codes(clusters, rows.shape[0])
    num_accepted, num_eligible = rows[:, 1].sum(), rows[:, 3].sum()
    if num_accepted in (0, num_eligible):
        which = "nothing" if num_accepted == 0 else "every proposal that it may accept"
        return MetricValue(
            value=0.0,
            n=rows.shape[0],
            num_clusters=num_clusters,
            note=f"0 by definition: the gate accepts {which}",
        )
    sums = np.zeros((num_clusters, rows.shape[1]))
    np.add.at(sums, codes, rows)
    return bootstrap_value(
        float(_skill(rows.sum(0))),
        _skill(resampled_sums(sums, num_resamples, rng)),
        n=rows.shape[0],
        num_clusters=num_clusters,
        level=level,
    )


def _skill_rows(
    accepted: ArrayLike, cheap: ArrayLike, strong: ArrayLike, eligible: ArrayLike | None
) -> FloatArray:
    """Columns g (C - S), g, V (C - S), V and 1, whose sums give the skill, shape (n, 5)."""
    g = as_labels(accepted, "accepted")
    c, s = _pair(cheap, strong)
    v = np.ones(g.shape, dtype=np.bool_) if eligible is None else as_labels(eligible, "eligible")
    check_lengths(accepted=g, cheap_correct=c, eligible=v)
    if (g & ~v).any():
        raise ValueError(
            f"accepted rows must be eligible, got {int((g & ~v).sum())} that are not: the random "
            "gate could not have accepted them"
        )
    gain = c.astype(np.float64) - s
    return np.stack([g * gain, g, v * gain, v, np.ones(g.size)], axis=1)


def _skill(totals: FloatArray) -> FloatArray:
    """Skill from the totals of `_skill_rows` in the last axis; NaN without an eligible row."""
    gained, accepted, eligible_gain, eligible, n = np.moveaxis(totals, -1, 0)
    share = np.divide(
        accepted, eligible, out=np.full(np.shape(eligible), np.nan), where=eligible > 0
    )
    result: FloatArray = (gained - share * eligible_gain) / n
    return result


def break_even_accept_rate(proposal_cost: float, verifier_cost: float, strong_cost: float) -> float:
    """Accept rate above which proposing is cheaper than the strong model alone.

    (proposals + verifications) / strong; for several proposals pass their summed costs. Above 1
    no gate saves anything.
    """
    if strong_cost <= 0.0:
        raise ValueError(f"strong_cost must be positive, got {strong_cost!r}")
    return (proposal_cost + verifier_cost) / strong_cost


def implied_strong_accuracy_on_accepted(
    *, system: float, accept_rate: float, accepted: float, strong: float
) -> float:
    """What a reported row implies of the strong model on the accepted steps.

    From system = a·accepted + (1-a)·rejected and strong = a·x + (1-a)·rejected. A result outside
    [0, 1] shows that the reported numbers cannot all be true.

    Args:
        system: Reported accuracy of the gated system.
        accept_rate: Reported accept rate a, in (0, 1].
        accepted: Reported accuracy of the proposals that were accepted.
        strong: Reported accuracy of the strong model on all steps.
    """
    if not 0.0 < accept_rate <= 1.0:
        raise ValueError(f"accept_rate must be in (0, 1], got {accept_rate!r}")
    return accepted + (strong - system) / accept_rate


def pareto_set(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Indices of systems that no other beats on cost and accuracy, by rising cost.

    Equal systems are all kept.
    """
    cost, accuracy = _cost_accuracy(costs, accuracies)
    kept = []
    for i in range(cost.size):
        as_good = (cost <= cost[i]) & (accuracy >= accuracy[i])
        better = (cost < cost[i]) | (accuracy > accuracy[i])
        if not (as_good & better).any():
            kept.append(i)
    return sorted(kept, key=lambda i: (float(cost[i]), i))


def convex_hull(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Indices of the upper convex hull, from the cheapest to the most accurate system.

    Every point on the line between two neighbours is attainable by flipping a coin between them,
    so a Pareto system below the hull is still not worth having.
    """
    cost, accuracy = _cost_accuracy(costs, accuracies)
    hull: list[int] = []
    for i in pareto_set(costs, accuracies):
        if hull and cost[hull[-1]] == cost[i]:
            continue
        while len(hull) > 1:
            first, second = hull[-2], hull[-1]
            run, rise = cost[i] - cost[first], accuracy[i] - accuracy[first]
            # The middle point stays only if it lies strictly above the line from first to i.
            if (accuracy[second] - accuracy[first]) * run > rise * (cost[second] - cost[first]):
                break
            hull.pop()
        hull.append(i)
    return hull


def hull_quality(
    costs: Sequence[float],
    accuracies: Sequence[float],
    *,
    cost_range: tuple[float, float] | None = None,
) -> MetricValue:
    """AIQ: mean accuracy of the non-decreasing convex hull over a range of costs.

    At each cost the best mixture of systems that costs no more. What lies beyond the most accurate
    system is flat; nothing can be had below the cheapest one.

    Args:
        costs: Of the systems.
        accuracies: Likewise.
        cost_range: Where to average, for comparing sets of systems; None is from the cheapest to
            the dearest of these.

    Returns:
        None with a note where the range is a point, or begins below the cheapest system.

    Source: Hu et al. (2024), RouterBench, arXiv 2403.12031, average improvement in quality.
    """
    cost, accuracy = _cost_accuracy(costs, accuracies)
    low, high = cost_range or (float(cost.min()), float(cost.max()))
    if not low < high:
        return MetricValue(value=None, n=cost.size, note="undefined: there is one cost only")
    if low < cost.min():
        note = f"undefined: no system costs as little as {low:g}"
        return MetricValue(value=None, n=cost.size, note=note)
    hull = convex_hull(costs, accuracies)
    area = _area(cost[hull], accuracy[hull], low, high)
    return MetricValue(value=area / (high - low), n=cost.size)


def _area(cost: FloatArray, accuracy: FloatArray, low: float, high: float) -> float:
    """Under a rising line of points that is flat beyond its last one, from low to high."""
    inside = (cost > low) & (cost < high)
    x = np.concatenate([[low], cost[inside], [high]])
    return float(np.trapezoid(np.interp(x, cost, accuracy), x))


def _pair(cheap_correct: ArrayLike, strong_correct: ArrayLike) -> tuple[BoolArray, BoolArray]:
    c = as_labels(cheap_correct, "cheap_correct")
    s = as_labels(strong_correct, "strong_correct")
    check_lengths(cheap_correct=c, strong_correct=s)
    return c, s


def _cost_accuracy(
    costs: Sequence[float], accuracies: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    cost, accuracy = as_scores(costs, "costs"), as_scores(accuracies, "accuracies")
    check_lengths(costs=cost, accuracies=accuracy)
    return cost, accuracy
