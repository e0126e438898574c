"""What a verifier is worth: its gate's skill in parts, and how good it would have to be.

C and S: proposal and fallback are right (0/1 per row), D = C - S; g: the gate accepts, a = E g;
w: the accuracy that one saved fallback call is worth (Chow's lambda times its cost).

**Skill in parts.** The accuracy of a gated system is E[gC + (1-g)S] = E S + E[gD]; that of a
random gate of the same rate is E S + a E D. So

    skill = E[gD] - a E D = Cov(g, D) = Cov(g, C) - Cov(g, S).

*Discrimination*, Cov(g, C), is what accepting where the proposal is right would buy if the fallback
were as good everywhere. *Complementarity*, -Cov(g, S), is what the fallback's own errors add to
that, mostly less than 0: where the proposal is right the fallback tends to be right as well.

**Calibration loss.** The net value of a gate over never accepting is V(g) = E[g(D + w)], which is
a(E D + w) + skill. Among all thresholds on its score z some g* has the most, and

    loss = V(g*) - V(g) >= 0 in the population,
    skill = Cov(g*, C) - Cov(g*, S) + (a* - a)(E D + w) - loss,

since V(g) = V(g*) - loss and V(g*) = a*(E D + w) + Cov(g*, D). The third term is what two random
gates of the two rates differ by. So skill plus loss is what the score could have had over this
gate's random gate, had its threshold been right.

**How g* is found.** Accept where the isotonic regression (PAV) of D on z is at least -w. That is
the Bayes decision of a score along which E[D | z] rises, and it is the threshold with the largest
sum of D + w above it, so that no regression has to be run. Chosen and valued on the same rows it is
too good; here each fold's rows are decided by the threshold of the other folds (whole clusters),
which is too modest by what choosing costs and may fall below the frozen threshold: the loss is then
negative. `in_sample_loss` is the other end, and the truth lies between them in expectation.

Intervals: every number here is a smooth function of means. Student's with the cluster-robust
standard error of its linearisation, g* as it was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from specact_rl.metrics.frontier import AgreementRates, agreement_rates, oracle_gate, worst_gate
from specact_rl.metrics.resampling import SAME, Clusters, cluster_codes
from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    IntArray,
    MetricValue,
    as_labels,
    check_lengths,
)

NUM_FOLDS = 5
_LARGEST = 1e300
NO_HEADROOM = 1e-9
"""A best possible gate that is this near to a random one leaves nothing to be efficient at."""
BY_DEFINITION = "0 by definition: the gate accepts {which}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillParts:
    """A gate's skill, split two ways. Accuracy in [-1, 1]; more is better but for the losses.

    skill = discrimination + complementarity, and
    skill = best_discrimination + best_complementarity + best_rate - calibration_loss.
    """

    skill: MetricValue
    discrimination: MetricValue
    """Cov(g, C)."""
    complementarity: MetricValue
    """-Cov(g, S)."""
    calibration_loss: MetricValue
    """Cross-fitted; may be negative. None with fewer than two clusters."""
    in_sample_loss: float
    """The same against the threshold that is best on these very rows; never negative."""
    best_discrimination: MetricValue
    """Cov(g*, C) of the cross-fitted threshold; the next two likewise."""
    best_complementarity: MetricValue
    best_rate: MetricValue
    """(a* - a)(E D + w)."""
    best_accept_rate: float | None
    net_value: MetricValue
    """V(g), over never accepting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What gates of one accept rate can reach, and where this one lies."""

    accept_rate: float
    accuracy: float
    random: float
    oracle: float
    worst: float
    efficiency: MetricValue
    """(accuracy - random) / (oracle - random): 1 is the best possible, 0 a random gate, below 0
    worse than that. None where the best gate of this rate is no better than a random one."""


def skill_parts(
    accepted: ArrayLike,
    scores: ArrayLike,
    cheap_correct: ArrayLike,
    strong_correct: ArrayLike,
    clusters: Clusters,
    *,
    call_worth: float,
    rng: np.random.Generator,
    level: float = 0.95,
) -> SkillParts:
    """Skill in its parts, see the module.

    Args:
        accepted: The gate's decisions, shape (n,).
        scores: What it decided on, higher is better, shape (n,); NaN where no gate may accept.
        cheap_correct: Whether the proposal is right, shape (n,).
        strong_correct: Whether the fallback is, shape (n,).
        clusters: One id per row.
        call_worth: w, the accuracy that a saved fallback call is worth; not negative.
        rng: Deals the clusters into folds.
        level: Of the intervals.
    """
    if call_worth < 0.0:
        raise ValueError(f"call_worth must not be negative, got {call_worth!r}")
    g, c, s = _rows(accepted, cheap_correct, strong_correct)
    z = _open_scores(scores, g.size)
    codes, num_clusters = cluster_codes(clusters, g.size)
    gain = c.astype(np.float64) - s
    worth = gain + call_worth
    best, best_in_sample = _best_gates(z, worth, codes, num_clusters, rng)
    mean_worth = float(worth.mean())
    columns = {
        "skill": _covariance(g, gain),
        "discrimination": _covariance(g, c),
        "complementarity": -_covariance(g, s),
        "net_value": g * worth,
    }
    if best is not None:
        # The last is (a* - a) E[D + w], linearised.
        columns |= {
            "calibration_loss": (best.astype(np.float64) - g) * worth,
            "best_discrimination": _covariance(best, c),
            "best_complementarity": -_covariance(best, s),
            "best_rate": (best.astype(np.float64) - g) * mean_worth
            + (best.mean() - g.mean()) * (worth - mean_worth),
        }
    found = linear_values(columns, codes, num_clusters, level)
    constant = _constant(g)
    if constant is not None:
        for name in ("skill", "discrimination", "complementarity"):
            note = BY_DEFINITION.format(which=constant)
            found[name] = MetricValue(value=0.0, n=g.size, num_clusters=num_clusters, note=note)
    missing = MetricValue(
        value=None,
        n=g.size,
        num_clusters=num_clusters,
        note="a threshold cannot be chosen on other clusters: there is one only",
    )
    return SkillParts(
        skill=found["skill"],
        discrimination=found["discrimination"],
        complementarity=found["complementarity"],
        calibration_loss=found.get("calibration_loss", missing),
        in_sample_loss=max(0.0, float(((best_in_sample.astype(np.float64) - g) * worth).mean())),
        best_discrimination=found.get("best_discrimination", missing),
        best_complementarity=found.get("best_complementarity", missing),
        best_rate=found.get("best_rate", missing),
        best_accept_rate=None if best is None else float(best.mean()),
        net_value=found["net_value"],
    )


def envelope(
    accepted: ArrayLike,
    cheap_correct: ArrayLike,
    strong_correct: ArrayLike,
    clusters: Clusters,
    *,
    level: float = 0.95,
) -> Envelope:
    """Random, oracle and worst gate of this gate's accept rate, and its efficiency.

    Efficiency is skill / H with H = min(a, p10) - max(0, a - 1 + p01) - a(p10 - p01), where p10 and
    p01 are the shares on which only the proposal, or only the fallback, is right.

    H has kinks, at a = p10 and a = 1 - p01, where it comes out too low and the efficiency too high
    by the order of its standard error: simulated with a = p10, 95 % intervals cover .83, .92 and
    .94 at 50, 200 and 2,000 independent rows (1,000 tables each).
    """
    g, c, s = _rows(accepted, cheap_correct, strong_correct)
    codes, num_clusters = cluster_codes(clusters, g.size)
    rates, a = agreement_rates(c, s), float(g.mean())
    p10, p01 = rates.only_cheap, rates.only_strong
    random = a * rates.cheap + (1.0 - a) * rates.strong
    oracle = oracle_gate(rates, a)
    headroom = oracle - random
    gain = c.astype(np.float64) - s
    skill = float((g * gain).mean() - a * gain.mean())
    if headroom < NO_HEADROOM:
        why = "the two models are right on the same rows" if p10 + p01 == 0.0 else "of this rate"
        efficiency = MetricValue(
            value=None,
            n=g.size,
            num_clusters=num_clusters,
            note="undefined: no gate could do better than a random one, "
            + (why if why.startswith("the") else "all gates of this accept rate are alike"),
        )
    else:
        # H by the chain rule; at a kink one side's slope is taken.
        beyond = float(a > 1.0 - p01)
        of_headroom = (
            (float(a < p10) - beyond - (p10 - p01)) * (g - a)
            + (float(a >= p10) - a) * ((gain > 0.0) - p10)
            + (a - beyond) * ((gain < 0.0) - p01)
        )
        ratio = skill / headroom
        column = ratio + (_covariance(g, gain) - skill - ratio * of_headroom) / headroom
        efficiency = linear_values({"": column}, codes, num_clusters, level)[""]
    return Envelope(
        accept_rate=a,
        accuracy=float(np.where(g, c, s).mean()),
        random=random,
        oracle=oracle,
        worst=worst_gate(rates, a),
        efficiency=efficiency,
    )


def gain_at_equal_rate(
    accepted: ArrayLike,
    other_scores: ArrayLike,
    cheap_correct: ArrayLike,
    strong_correct: ArrayLike,
    clusters: Clusters,
    *,
    level: float = 0.95,
) -> MetricValue:
    """Accuracy of a gate minus that of accepting as many rows by another score.

    Rows of equal score at the cut are accepted in part, which is the mean over drawing them by lot.
    The cut looks at no label. Where the other score leaves too few rows to accept (NaN), the rest
    is taken from among those without one.

    Args:
        accepted: The gate's decisions, shape (n,).
        other_scores: Higher is accepted first, shape (n,); NaN last.
        cheap_correct: Whether the proposal is right, shape (n,).
        strong_correct: Whether the fallback is, shape (n,).
        clusters: One id per row.
        level: Of the interval.
    """
    g, c, s = _rows(accepted, cheap_correct, strong_correct)
    z = _open_scores(other_scores, g.size)
    codes, num_clusters = cluster_codes(clusters, g.size)
    share, cut = _accept_share(z, int(g.sum()))
    gain = c.astype(np.float64) - s
    # Moving the rate trades rows at the cut, whose mean gain is that of the rows around it.
    near = gain[cut].mean() if cut.any() else gain.mean()
    difference = g - share
    value = float((difference * gain).mean())
    column = value + difference * (gain - near) - (difference * (gain - near)).mean()
    return linear_values({"": column}, codes, num_clusters, level)[""]


def self_oracle(
    correct: ArrayLike, clusters: Clusters, *, first_apart: bool = False, level: float = 0.95
) -> MetricValue:
    """Share of rows on which at least one of two runs of the same model is right.

    What an oracle over two models has to be held against: part of its headroom is luck of a second
    try. Of k runs of a row, c of them right, two drawn without replacement hold a right one with
    chance 1 - (k-c)(k-c-1) / (k(k-1)).

    Args:
        correct: Runs that are alike (trials, or samples of one temperature), 1 or 0, NaN where
            unknown, shape (n, k). A row with fewer than two known runs takes no part.
        clusters: One id per row.
        first_apart: The first run is of another kind (greedy, the others drawn), so that only the
            pairs with it count; rows without it take no part.
        level: Of the interval.

    Returns:
        None with a note where no row has two runs.

    Source: Chen et al. (2021), arXiv 2107.03374, the unbiased pass@k at k = 2.
    """
    runs = np.asarray(correct, dtype=np.float64)
    if runs.ndim != 2 or runs.shape[0] == 0:
        raise ValueError(f"correct must have shape (n, k) with n >= 1, got {runs.shape!r}")
    if not np.isin(runs[~np.isnan(runs)], (0.0, 1.0)).all():
        raise ValueError("correct must be 1, 0 or NaN")
    codes, _ = cluster_codes(clusters, runs.shape[0])
    k = (~np.isnan(runs)).sum(axis=1).astype(np.float64)
    here = (k >= 2) & ~(first_apart & np.isnan(runs[:, 0]))
    if not here.any():
        return MetricValue(value=None, n=0, note="no row has two runs")
    runs, k = runs[here], k[here]
    if first_apart:
        either = np.maximum(runs[:, 0], np.nansum(runs[:, 1:], axis=1) / (k - 1.0))
    else:
        wrong = k - np.nansum(runs, axis=1)
        either = 1.0 - wrong * (wrong - 1.0) / (k * (k - 1.0))
    codes, num_clusters = cluster_codes(codes[here], int(here.sum()))
    return linear_values({"": either}, codes, num_clusters, level)[""]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """How well a verifier would have to rank C for its system to beat A and B.

    All three are AUROCs against "the proposal is right", and all suppose that the score knows of
    the fallback's errors only through the proposal's: g independent of S given C.
    """

    possible: bool
    """Whether a verifier that knows C would do."""
    none_below: float | None
    """No score whose ROC curve is concave breaks even below it, whatever its shape; None where
    even a perfect one does not."""
    binormal: float | None
    """What it takes if the scores of right and of wrong proposals are normal with one variance."""
    all_above: float | None
    """Every score above it breaks even at its best threshold; 1 where only a perfect one does."""
    message: str


def break_even_auroc(
    rates: AgreementRates,
    *,
    call_worth: float,
    proposal_cost: float,
    verifier_cost: float,
) -> BreakEven:
    """AUROC that a verifier needs for D at its best threshold to beat A and B, net of costs.

    Costs are in strong calls and turned into accuracy by w, `call_worth`. With h and f, the shares
    of right and wrong proposals that a gate accepts,

        D - A = h alpha - f beta - k,   alpha = p10 + w c, beta = p01 - w(1 - c),
        B - A = alpha - beta - w c_p,   k = w(c_p + c_v), c = E C,

    so D has to reach h alpha - f beta > G = k + max(0, B - A). A perfect verifier has
    alpha, which must exceed G. Otherwise the ROC curve has to rise above the line
    h = (G + f beta) / alpha:

    - The area below that line and below 1 is the most that a ROC curve can have which never crosses
      it: above it, every score breaks even (`all_above`).
    - A concave curve through one of its points (f, h) has at least (1 + h - f) / 2, which along the
      line is least at one of its ends: below it, none does (`none_below`). Any curve becomes
      concave by flipping a coin between thresholds.
    - Binormal: h = Phi(m - t), f = Phi(-t), AUROC = Phi(m / sqrt 2), best at
      t = m/2 + ln(beta / alpha) / m; the m at which the best just reaches G.

    Args:
        rates: How often the two models are right, and right alone.
        call_worth: w, accuracy that one strong call is worth; not negative.
        proposal_cost: c_p, all of a step's proposals, in strong calls.
        verifier_cost: c_v, all of its verifications.
    """
    for name, cost in (
        ("call_worth", call_worth),
        ("proposal_cost", proposal_cost),
        ("verifier_cost", verifier_cost),
    ):
        if not 0.0 <= cost < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {cost!r}")
    w, c = call_worth, rates.cheap
    alpha, beta = rates.only_cheap + w * c, rates.only_strong - w * (1.0 - c)
    b_over_a = alpha - beta - w * proposal_cost
    goal = w * (proposal_cost + verifier_cost) + max(0.0, b_over_a)
    rival = "B, the proposer alone" if b_over_a > 0.0 else "A, the strong model alone"
    if alpha <= goal + SAME:
        if b_over_a > 0.0:
            why = "accepting the wrong proposals too loses no more than verifying costs"
        else:
            why = "proposing and verifying cost more than accepting all right proposals gains"
        return BreakEven(
            possible=False,
            none_below=None,
            binormal=None,
            all_above=None,
            message=f"no verifier can beat {rival}: {why}",
        )
    # beta > 0 here: with beta <= 0, B over A is at least alpha - w c_p, and G at least alpha.
    f_end = min(1.0, (alpha - goal) / beta)
    h_end = (goal + f_end * beta) / alpha
    ends = (0.5 * (1.0 + goal / alpha), 0.5 * (1.0 + h_end - f_end))
    area = f_end * (goal / alpha + h_end) / 2.0 + (1.0 - f_end)
    binormal = _binormal_auroc(alpha, beta, goal)
    return BreakEven(
        possible=True,
        none_below=max(0.5, min(ends)),
        binormal=binormal,
        all_above=area,
        message=(
            f"to beat {rival}, a verifier needs an AUROC of about {binormal:.3f} (binormal scores)"
        ),
    )


def _binormal_auroc(alpha: float, beta: float, goal: float) -> float:
    def short(separation: float) -> float:
        cut = separation / 2.0 + math.log(beta / alpha) / separation
        hits, false = stats.norm.cdf(separation - cut), stats.norm.cdf(-cut)
        return float(hits * alpha - false * beta - goal)

    low, high = 1e-4, 40.0
    if short(low) >= -SAME:  # free verification: any ranking at all is enough
        return 0.5
    if short(high) <= 0.0:
        return 1.0
    return float(stats.norm.cdf(optimize.brentq(short, low, high) / math.sqrt(2.0)))


def more_clusters_to_settle(value: MetricValue, *, power: float = 0.8) -> int | None:
    """Further clusters after which a difference of this size would exclude 0 with this power.

    From the error that these clusters gave, which falls with the root of their number. 0 when the
    interval excludes 0 already; None where there is no interval, or no difference to be found.
    """
    m = value
    if m.value is None or m.low is None or m.high is None or not m.num_clusters:
        return None
    if m.low > 0.0 or m.high < 0.0:
        return 0
    if abs(m.value) < SAME:
        return None
    z = float(stats.norm.ppf(0.975))
    error = (m.high - m.low) / (2.0 * z)
    wanted = ((z + float(stats.norm.ppf(power))) * error / m.value) ** 2
    return max(1, math.ceil(m.num_clusters * (wanted - 1.0)))


def linear_values(
    columns: Mapping[str, FloatArray], codes: IntArray, num_clusters: int, level: float = 0.95
) -> dict[str, MetricValue]:
    """Means of linearised rows, with Student's interval at num_clusters - 1 degrees of freedom.

    No interval, and a note, with one cluster, or where all rows have the same value.
    """
    found = {}
    quantile = float(stats.t.ppf((1.0 + level) / 2.0, max(1, num_clusters - 1)))
    for name, column in columns.items():
        mean, n = float(column.mean()), column.size
        sums = np.bincount(codes, weights=column - mean, minlength=num_clusters)
        if num_clusters < 2 or np.ptp(column) < SAME:
            cause = "one cluster only" if num_clusters < 2 else "every row has the same value"
            note = f"no interval: {cause}"
            found[name] = MetricValue(value=mean, n=n, num_clusters=num_clusters, note=note)
            continue
        error = math.sqrt(float(sums @ sums) * num_clusters / (num_clusters - 1)) / n
        found[name] = MetricValue(
            value=mean,
            low=mean - quantile * error,
            high=mean + quantile * error,
            n=n,
            num_clusters=num_clusters,
        )
    return found


def _best_gates(
    scores: FloatArray,
    worth: FloatArray,
    codes: IntArray,
    num_clusters: int,
    rng: np.random.Generator,
) -> tuple[BoolArray | None, BoolArray]:
    """Decisions of the best threshold: cross-fitted (None with one cluster), and in sample."""
    order = np.argsort(-scores, kind="stable")
    order = order[: int((~np.isnan(scores)).sum())]
    ranked = scores[order]
    last = np.flatnonzero(np.diff(ranked, append=np.nan) != 0.0).astype(np.int64)  # of each tie
    num_folds = min(NUM_FOLDS, num_clusters)
    fold = (rng.permutation(num_clusters) % num_folds)[codes[order]]
    crossed = np.zeros(scores.size, dtype=np.bool_)
    for k in range(num_folds):
        held_out = fold == k
        size = _best_count(np.where(held_out, 0.0, worth[order]), last)
        crossed[order[:size][held_out[:size]]] = True
    in_sample = np.zeros(scores.size, dtype=np.bool_)
    in_sample[order[: _best_count(worth[order], last)]] = True
    return (crossed if num_clusters > 1 else None), in_sample


def _best_count(worth: FloatArray, last: IntArray) -> int:
    """How many of the ranked rows to accept, ties whole: the largest sum, the most rows of equals.

    Rows of worth 0 (held out) after the last that counts are accepted too: the threshold lies just
    above the next row that it could see.
    """
    if not worth.size:
        return 0
    totals = np.append(0.0, np.cumsum(worth)[last])
    best = int(np.flatnonzero(totals >= totals.max() - 1e-9)[-1])
    return 0 if best == 0 else int(last[best - 1]) + 1


def _accept_share(scores: FloatArray, count: int) -> tuple[FloatArray, BoolArray]:
    """Share in [0, 1] of each row that is accepted when `count` are, best first; rows at the cut.

    Rows at the cut: those of the score where it falls, and where that is one row, its neighbours.
    """
    n = scores.size
    ranks = np.where(np.isnan(scores), -np.inf, scores)
    share = np.zeros(n)
    near = np.zeros(n, dtype=np.bool_)
    if count == 0:
        return share, near
    order = np.argsort(-ranks, kind="stable")
    at = ranks[order[count - 1]]
    above, tied = ranks > at, ranks == at
    share[above] = 1.0
    share[tied] = (count - above.sum()) / tied.sum()
    width = max(5, round(math.sqrt(n)) // 2)
    near[order[max(0, count - width) : count + width]] = True
    return share, near | tied


def _covariance(x: BoolArray, y: FloatArray | BoolArray) -> FloatArray:
    """Linearised rows of Cov(x, y), whose mean it is."""
    rows: FloatArray = (x - x.mean()) * (y - y.mean())
    return rows


def _constant(g: BoolArray) -> str | None:
    if not g.any():
        return "nothing"
    return "every proposal" if g.all() else None


def _rows(
    accepted: ArrayLike, cheap: ArrayLike, strong: ArrayLike
) -> tuple[BoolArray, BoolArray, BoolArray]:
    g = as_labels(accepted, "accepted")
    c, s = as_labels(cheap, "cheap_correct"), as_labels(strong, "strong_correct")
    check_lengths(accepted=g, cheap_correct=c, strong_correct=s)
    return g, c, s


def _open_scores(scores: ArrayLike, n: int) -> FloatArray:
    """Scores, NaN where there is none."""
    z = np.asarray(scores, dtype=np.float64)
    if z.shape != (n,):
        raise ValueError(f"scores must have shape ({n},), got {z.shape!r}")
    return np.clip(z, -_LARGEST, _LARGEST)  # so that infinite ones can be told apart and tied
