"""The tests and bounds behind certified thresholds: losses in, p-values or a place on a path out.

A path is a sequence of decisions from the strictest to the laxest, for instance thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from specact_rl.metrics.values import FloatArray, as_scores

PValues = Callable[[ArrayLike, ArrayLike, float], FloatArray]
"""(summed loss, number of units, target) -> p-value of "the mean loss is above the target"."""

ROUNDING = 1e-9
"""Taken off a sum of losses before it is rounded up, so that 3.0000000001 is 3."""


def binomial_p_values(num_errors: ArrayLike, num_units: ArrayLike, target: float) -> FloatArray:
    """P(Bin(n, target) <= errors): the exact test of "risk > target" for a loss of 0 or 1."""
    p_values: FloatArray = np.asarray(
        stats.binom.cdf(np.asarray(num_errors), np.asarray(num_units), target), dtype=np.float64
    )
    return p_values


def hoeffding_bentkus_p_values(
    total_loss: ArrayLike, num_units: ArrayLike, target: float
) -> FloatArray:
    """p-value of "mean loss > target" for independent losses in [0, 1]; holds for every n.

    Args:
        total_loss: Summed over the units.
        num_units: How many units, n.
        target: In (0, 1).

    Source: Bates et al. (2021), used in Angelopoulos et al. (2021), arXiv 2110.01052: the smaller
    of exp(-n KL(mean, target)), for means below the target, and e P(Bin(n, target) <= ceil(sum)).
    """
    total, n = np.asarray(total_loss, dtype=np.float64), np.asarray(num_units, dtype=np.float64)
    mean = np.minimum(total / n, target)
    divergence = special.rel_entr(mean, target) + special.rel_entr(1.0 - mean, 1.0 - target)
    bentkus = math.e * stats.binom.cdf(np.ceil(total - ROUNDING), n, target)
    p_values: FloatArray = np.minimum(np.exp(-n * divergence), np.minimum(bentkus, 1.0))
    return p_values


def fixed_sequence(p_values: ArrayLike, delta: float) -> int:
    """Index of the last step before the first whose p-value exceeds delta; -1 when that is step 0.

    Tests in an order fixed beforehand, so that all may use the whole delta: with probability
    1 - delta no step that is walked over is one where the mean loss is above the target.

    Source: Angelopoulos et al. (2021), arXiv 2110.01052.
    """
    passed = np.asarray(p_values, dtype=np.float64) <= delta
    return int(np.append(passed, False).argmin()) - 1


def conformal_step(
    mean_losses: ArrayLike, num_units: int, *, target_risk: float, bound: float = 1.0
) -> int:
    """Index of the laxest step that conformal risk control allows; -1 when it allows none.

    The expected loss of a new unit, exchangeable with these, is then at most the target: on
    average over draws of these units, not with high probability given them. It takes a loss that
    does not fall along the path, such as accepted-and-wrong, or what a shrinking retrieval misses.
    It does not take selective risk, which is a ratio.

    Args:
        mean_losses: Of the n units at each step, shape (steps,).
        num_units: n.
        target_risk: Highest expected loss, in (0, bound).
        bound: Highest loss that a unit can have.

    Raises:
        ValueError: A loss that falls along the path, or lies outside [0, bound].

    Source: Angelopoulos et al. (2024), arXiv 2208.02814: n/(n+1) mean + bound/(n+1) <= target.
    """
    losses = as_scores(mean_losses, "mean_losses")
    if losses.min() < -ROUNDING or losses.max() > bound + ROUNDING:
        raise ValueError(
            f"mean_losses must lie in [0, {bound:g}], got {losses.min():g} to {losses.max():g}"
        )
    falls = np.flatnonzero(np.diff(losses) < -ROUNDING)
    if falls.size:
        raise ValueError(
            "mean_losses must not fall along the path for conformal risk control, but step "
            f"{falls[0] + 1} has {losses[falls[0] + 1]:g} after {losses[falls[0]]:g}"
        )
    allowed = (num_units * losses + bound) / (num_units + 1) <= target_risk + 1e-12
    return int(allowed.sum()) - 1


def min_certifiable_count(target_risk: float, delta: float) -> int:
    """Fewest units, all without loss, that certify the target: (1 - target)^n <= delta."""
    return math.ceil(math.log(delta) / math.log1p(-target_risk))


def max_errors_allowed(num_accepted: int, target_risk: float, delta: float) -> int:
    """Most errors among `num_accepted` that still certify the target; -1 when even 0 is too many.

    The exact test: P(Bin(num_accepted, target) <= errors) <= delta.
    """
    return int(_max_errors(np.array([num_accepted]), target_risk, delta)[0])


def default_start_count(
    num_units: int, target_risk: float, delta: float, p_values: PValues = binomial_p_values
) -> int:
    """Units at which a walk along thresholds starts, from the sizes alone.

    A tenth of the units, but enough that half the target may go wrong: a walk that starts where a
    single error ends it mostly certifies nothing. With few units, a quarter of them, or what
    passes without a loss.

    Args:
        num_units: Rows, or tasks.
        target_risk: Of the walk.
        delta: Of the walk.
        p_values: Its test.
    """
    needed, quarter = min_certifiable_count(target_risk, delta), num_units // 4
    counts = np.arange(needed, quarter + 1)
    half = np.ceil(counts * target_risk / 2.0)
    tolerant = np.append(counts[p_values(half, counts, target_risk) <= delta], quarter)[0]
    return max(needed, min(quarter, max(int(tolerant), math.ceil(num_units / 10))))


def accepted_needed(
    risk: ArrayLike, target_risk: float, delta: float, *, power: float = 0.8
) -> FloatArray:
    """About how many accepted rows certify the target if so many of them are wrong.

    The number at which the exact test passes with probability `power`, to within the saw teeth of
    the binomial.

    Args:
        risk: True shares of wrong rows, any shape.
        target_risk: To be certified.
        delta: Of the test.
        power: Chance that it passes.

    Returns:
        As `risk`; infinite where it is not below the target, or within a thousandth of it.
    """
    share = np.atleast_1d(np.asarray(risk, dtype=np.float64))
    reachable = share < target_risk * 0.999
    low = np.full(share.shape, min_certifiable_count(target_risk, delta) - 1, dtype=np.int64)
    high = low + 1

    def passes(n: np.ndarray) -> np.ndarray:
        allowed = _max_errors(n, target_risk, delta)
        return np.asarray(stats.binom.cdf(allowed, n, share) >= power)

    short = reachable & ~passes(high)
    while short.any():
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
        short = reachable & ~passes(high)
    while (wide := reachable & (high - low > 1)).any():
        middle = (low + high) // 2
        enough = passes(middle)
        high = np.where(wide & enough, middle, high)
        low = np.where(wide & ~enough, middle, low)
    needed = np.where(reachable, high.astype(np.float64), np.inf)
    return needed.reshape(np.shape(risk))


def _max_errors(num_accepted: np.ndarray, target_risk: float, delta: float) -> np.ndarray:
    # The smallest count that the tail reaches delta at; allowed itself only where it equals it.
    reached = stats.binom.ppf(delta, num_accepted, target_risk)
    over = stats.binom.cdf(reached, num_accepted, target_risk) > delta
    return np.asarray(reached - over, dtype=np.int64)
