"""A gate's accuracy along its thresholds, beside that of random gates, the oracle and the worst.

C and S: the cheap proposal and the strong fallback are right (0/1 per row).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.call_costs import CallCosts
from specact_rl.metrics.resampling import (
    SAME,
    Clusters,
    bootstrap_value,
    cluster_codes,
)
from specact_rl.metrics.values import (
    FloatArray,
    IntArray,
    MetricValue,
    as_labels,
    as_scores,
    check_fraction,
    check_lengths,
)

NUM_GROUPS = 400
"""Groups of clusters that are drawn for the intervals of a gate's curve."""
ORACLE_STEP = np.array([1, 2, 0, 1])
"""When the oracle accepts a row of 2C + S: first where only the proposal is right."""
WORST_STEP = 2 - ORACLE_STEP
"""When the worst gate does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSums:
    """All that a gate's curves need of the rows; of one sample, or of several along axis 0.

    Shapes below are those of one sample.
    """

    rows: FloatArray
    """Rows by the first of m thresholds that accepts them, strict to lax (m: none does), and by
    2C + S, shape (m + 1, 4)."""
    gate_calls: FloatArray
    """Summed costs of the fallbacks at each point of the gate's curve, shape (m + 2,)."""
    oracle_calls: FloatArray
    """Those of the oracle's curve, shape (4,)."""
    worst_calls: FloatArray
    """Those of the worst gates' curve, shape (4,)."""
    proposal_cost: FloatArray
    """Summed costs of proposing and judging, which every row pays, shape ()."""

    def weighted(self, weights: FloatArray) -> GateSums:
        """The sum of the samples along axis 0, each as often as it weighs.

        Args:
            weights: Shape (samples,), or (d, samples) for d sums.
        """
        return GateSums(
            rows=np.tensordot(weights, self.rows, axes=1),
            gate_calls=weights @ self.gate_calls,
            oracle_calls=weights @ self.oracle_calls,
            worst_calls=weights @ self.worst_calls,
            proposal_cost=weights @ self.proposal_cost,
        )

    @property
    def by_class(self) -> FloatArray:
        """Shares of the rows with 2C + S of 0 to 3, shape (4,)."""
        total = self.rows.sum(axis=-2)
        shares: FloatArray = total / total.sum(axis=-1, keepdims=True)
        return shares

    @property
    def cheap(self) -> FloatArray:
        """E C."""
        return _of_array(self.by_class[..., 2:].sum(axis=-1))

    @property
    def strong(self) -> FloatArray:
        """E S."""
        return _of_array(self.by_class[..., [1, 3]].sum(axis=-1))

    def gate_curve(self) -> Curve:
        """The gate at every threshold, from never accepting to accepting all rows.

        The last point accepts what no threshold does, too: the proposer alone, unjudged.
        """
        return self._curve(self.rows, self.gate_calls)

    def oracle_curve(self) -> Curve:
        """The best gate of each rate: first where only the proposal is right, last the opposite."""
        return self._by_class(ORACLE_STEP, self.oracle_calls)

    def worst_curve(self) -> Curve:
        """The worst gate of each rate."""
        return self._by_class(WORST_STEP, self.worst_calls)

    def random_curve(self) -> Curve:
        """Random gates: the straight line between the two ends."""
        return self._by_class(np.zeros(4, dtype=np.int64), self.gate_calls[..., [0, -1]])

    def _by_class(self, step: IntArray, calls: FloatArray) -> Curve:
        member = step == np.arange(step.max() + 1)[:, None]
        return self._curve(self.rows.sum(axis=-2)[..., None, :] * member, calls)

    def _curve(self, rows: FloatArray, calls: FloatArray) -> Curve:
        n = rows.sum(axis=(-2, -1))[..., None]
        return Curve(
            accept_rate=_running(rows.sum(axis=-1)) / n,
            accuracy=self.strong[..., None] + _running(rows[..., 2] - rows[..., 1]) / n,
            cost=(self.proposal_cost[..., None] + calls) / n,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Gates from never accepting to always, along the last axis.

    Between two points a coin is flipped for each rollout, which of them decides in it.
    """

    accept_rate: FloatArray
    """From 0 to 1."""
    accuracy: FloatArray
    cost: FloatArray
    """Mean per row, falling."""

    def area(self) -> FloatArray:
        """Integral of the accuracy over cost."""
        return _of_array(-np.trapezoid(self.accuracy, self.cost, axis=-1))


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTable:
    """A gate's sums, and those of resampled clusters.

    Clusters are dealt into groups, and groups are drawn: with up to `NUM_GROUPS` clusters that is
    the cluster bootstrap, and with more its interval is a little less certain, for a table that
    does not grow with the rows.
    """

    thresholds: FloatArray
    """Strict to lax: descending."""
    sums: GateSums
    draws: GateSums
    """Of every draw, along axis 0."""
    n: int
    num_clusters: int

    @classmethod
    def of(
        cls,
        p_accept: ArrayLike,
        cheap_correct: ArrayLike,
        strong_correct: ArrayLike,
        clusters: Clusters,
        *,
        thresholds: ArrayLike,
        proposal_costs: ArrayLike | float,
        calls: CallCosts,
        rng: np.random.Generator,
        num_resamples: int = 1000,
    ) -> GateTable:
        """Sum up.

        Args:
            p_accept: What the gate decides on, shape (n,); NaN where it may not accept.
            cheap_correct: Whether the proposal is right, shape (n,).
            strong_correct: Whether the fallback is, shape (n,).
            clusters: One id per row.
            thresholds: Chosen without these rows.
            proposal_costs: Paid at every row, shape (n,) or one number; not negative.
            calls: What the fallbacks cost; each rollout in one cluster.
            rng: Deals the clusters into groups, and draws those.
            num_resamples: Number of draws.
        """
        c = as_labels(cheap_correct, "cheap_correct")
        s = as_labels(strong_correct, "strong_correct")
        p = np.asarray(p_accept, dtype=np.float64)
        paid = np.broadcast_to(np.asarray(proposal_costs, dtype=np.float64), c.shape)
        check_lengths(p_accept=p, cheap_correct=c, strong_correct=s, calls=calls.rollouts)
        costs = {"proposal_costs": paid, "reading": calls.reading, "writing": calls.writing}
        for name, values in costs.items():
            if not (np.isfinite(values).all() and (values >= 0.0).all()):
                raise ValueError(f"{name} must be finite and not negative at every row")
        cuts = np.sort(as_scores(thresholds, "thresholds"))
        codes, num_clusters = cluster_codes(clusters, c.size)
        num_groups = min(NUM_GROUPS, num_clusters)
        group = (rng.permutation(num_clusters) % num_groups)[codes]
        # The first of the descending thresholds with p >= t, from how many of them p reaches.
        place = cuts.size - np.searchsorted(cuts, np.nan_to_num(p, nan=-np.inf), side="right")
        kind = 2 * c + s

        def calls_along(step: IntArray, num_steps: int) -> FloatArray:
            """Of each group, where rows are accepted in the order of their steps."""
            by_least = calls.totals(num_steps - 1 - step, num_steps, group)
            return by_least[:, ::-1]

        shape = (num_groups, cuts.size + 1, 4)
        index = np.ravel_multi_index((group, place, kind), shape)
        groups = GateSums(
            rows=_sums(index, np.ones(c.size), int(np.prod(shape))).reshape(shape),
            gate_calls=calls_along(place, cuts.size + 1),
            oracle_calls=calls_along(ORACLE_STEP[kind], 3),
            worst_calls=calls_along(WORST_STEP[kind], 3),
            proposal_cost=_sums(group, paid, num_groups),
        )
        weights = rng.multinomial(num_groups, np.full(num_groups, 1.0 / num_groups), num_resamples)
        return cls(
            thresholds=cuts[::-1],
            sums=groups.weighted(np.ones(num_groups)),
            draws=groups.weighted(weights.astype(np.float64)),
            n=c.size,
            num_clusters=num_clusters,
        )

    def statistic(
        self, compute: Callable[[GateSums], FloatArray], *, level: float = 0.95
    ) -> MetricValue:
        """A number of the curves with a percentile interval over the draws; NaN is undefined."""
        value = float(compute(self.sums))
        if np.isnan(value):
            return MetricValue(
                value=None, n=self.n, num_clusters=self.num_clusters, note="undefined on these rows"
            )
        return bootstrap_value(
            value, compute(self.draws), n=self.n, num_clusters=self.num_clusters, level=level
        )


def envelope_share(sums: GateSums) -> FloatArray:
    """Where a gate's curve lies between random and oracle, as areas over cost.

    1: at the oracle's curve throughout; 0: no better than random gates on the whole; below 0 worse
    than those. The oracle knows what is right, not what is dear, so that a gate that rejects where
    calls are cheap can come above 1. NaN where the oracle's curve is the random one's, or where
    falling back is free.
    """
    random, oracle = sums.random_curve().area(), sums.oracle_curve().area()
    above, whole = sums.gate_curve().area() - random, oracle - random
    return _ratio(above, whole, whole > SAME * np.maximum(1.0, oracle))


def recovered_gap(
    accuracy: FloatArray | float, cheap: FloatArray | float, strong: FloatArray | float
) -> FloatArray:
    """PGR: (accuracy - cheap) / (strong - cheap); NaN where the strong model is no better.

    With strong < cheap the sign would turn: the higher the number, the worse the system.

    Source: Ong et al. (2024), RouteLLM, arXiv 2406.18665, for this and the next two.
    """
    gap = _of_array(strong - cheap)
    return _ratio(accuracy - cheap, gap, gap > SAME)


def average_recovered_gap(sums: GateSums) -> FloatArray:
    """APGR: PGR averaged over the share of strong calls; 1/2 is a random gate. NaN as PGR."""
    curve = sums.gate_curve()
    mean = np.trapezoid(curve.accuracy, curve.accept_rate, axis=-1)
    return recovered_gap(mean, sums.cheap, sums.strong)


def call_share_for_gap(sums: GateSums, gap: float) -> FloatArray:
    """CPT(gap): the smallest share of strong calls with a PGR of at least `gap`; NaN as PGR.

    Read off this very curve: it says what the score could do, and chooses no threshold.
    """
    curve = sums.gate_curve()
    whole = sums.strong - sums.cheap
    above = curve.accuracy - (sums.cheap + check_fraction(gap, "gap") * whole)[..., None]
    # The last point that reaches it, as never accepting does, and the way to the next one.
    size = above.shape[-1]
    last = size - 1 - np.argmax(above[..., ::-1] >= -SAME, axis=-1)
    after = np.minimum(last + 1, size - 1)

    def at(values: FloatArray, place: IntArray) -> FloatArray:
        return np.take_along_axis(values, place[..., None], axis=-1)[..., 0]

    left = np.maximum(0.0, at(above, last))
    fall = left - at(above, after)
    onwards = np.nan_to_num(_ratio(left, fall, (fall > 0.0) & (after > last)))
    rate = at(curve.accept_rate, last)
    accepted = rate + onwards * (at(curve.accept_rate, after) - rate)
    return _ratio(1.0 - accepted, np.ones_like(accepted), whole > SAME)


def why_no_gap(difference: MetricValue) -> str | None:
    """Why PGR, APGR and CPT mean nothing, in words, or what to mind; None when all is well.

    Args:
        difference: Accuracy of the strong model minus that of the cheap one, with its interval.
    """
    if difference.value is None:
        return "whether the strong model is better than the cheap one is not known"
    if difference.value <= 0.0:
        turned = "" if difference.value == 0.0 else ", and its sign would turn"
        return (
            "undefined: the strong model is no better than the cheap one here, so there is no gap "
            f"to recover{turned}; read the area over cost instead"
        )
    if difference.low is None or difference.low <= 0.0:
        return (
            "it is not shown that the strong model is better than the cheap one: the gap that this "
            "is a share of may be 0 or of the other sign"
        )
    return None


def _running(values: FloatArray) -> FloatArray:
    """Running sums along the last axis, from 0 on."""
    start = np.zeros((*values.shape[:-1], 1))
    return np.concatenate([start, np.cumsum(values, axis=-1)], axis=-1)


def _ratio(above: ArrayLike, below: ArrayLike, defined: ArrayLike) -> FloatArray:
    """NaN where it is not defined."""
    a, b = np.broadcast_arrays(above, below)
    result: FloatArray = np.divide(
        a, b, out=np.full(a.shape, np.nan), where=np.broadcast_to(defined, a.shape)
    )
    return result


def _of_array(value: ArrayLike) -> FloatArray:
    return np.asarray(value, dtype=np.float64)


def _sums(places: IntArray, weights: FloatArray, size: int) -> FloatArray:
    return np.bincount(places, weights=weights, minlength=size).astype(np.float64)
