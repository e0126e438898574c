"""Formulas for the time that speculation saves, as bounds and as checks of the simulator.

p: chance that a guess of the next action is right; A, B, C: the speculator, the real call beside
it, and the call that follows, which a right guess starts early. Times are independent of each
other and of the hits, which in traces they are not: `simulator` is what numbers are read from.

Source of what is called the paper's: Ye et al. (2025), "Speculative Actions", arXiv:2510.04371.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.values import FloatArray, check_fraction


def expected_hits(p: float, num_steps: int) -> float:
    """Right guesses in an episode, where the step after a right guess is not guessed itself.

    S_n = p (1 + S_{n-2}) + (1 - p) S_{n-1} over the n = num_steps - 1 steps that have a next one,
    solved: np/(1+p) + p²/(1+p)² (1 - (-p)^n).
    """
    check_fraction(p, "p")
    n = _check_steps(num_steps) - 1
    return n * p / (1.0 + p) + (p / (1.0 + p)) ** 2 * (1.0 - (-p) ** n)


def exponential_saving(
    p: float,
    speculator_rate: float,
    call_rate: float,
    num_steps: int | None = None,
    *,
    commit: bool = True,
) -> float:
    """Share of the sequential time saved when all times are exponential.

    Args:
        p: Chance that one of the guesses is right.
        speculator_rate: Of A, per second.
        call_rate: Of B and C, per second.
        num_steps: Of an episode; None for endless ones.
        commit: True: what was started early is committed when the real call has confirmed it, so
            that a right guess saves min(C, B - A). False: it saves B - A, however short C is: the
            paper's proposition 1, twice as much, and a bound.
    """
    in_time = _rate(speculator_rate) / (speculator_rate + _rate(call_rate))
    # B - A, given that it is positive, is as long as a call on average, as is C; the shorter of
    # two such takes half of that.
    return _hits_per_step(p, num_steps) * in_time * (0.5 if commit else 1.0)


def deterministic_saving(
    p: float, speculator: float, call: float, num_steps: int | None = None
) -> float:
    """Share saved when every speculator call and every real call take the same time.

    The bound of the paper is exact here: C is never shorter than B - A.
    """
    return _hits_per_step(p, num_steps) * _gain(speculator, call)


def deep_saving(p: float, speculator: float, call: float, num_steps: int) -> float:
    """Share saved when any number of steps may be ahead of the confirmed one; same fixed times.

    Every right guess but the last step's saves `call - speculator` (the paper's theorem 6).
    """
    check_fraction(p, "p")
    steps = _check_steps(num_steps)
    return (steps - 1) / steps * p * _gain(speculator, call)


def relative_extra_calls(
    p: float, num_guesses: float, speculator_rate: float, call_rate: float, num_steps: int
) -> float:
    """Calls beyond the sequential ones, per sequential call (the paper's theorem 4).

    Every guessed step starts `num_guesses` distinct next calls, none of them cancelled; a right
    guess that comes before the real call saves one.
    """
    in_time = _rate(speculator_rate) / (speculator_rate + _rate(call_rate))
    hits = expected_hits(p, num_steps)
    return num_guesses - (num_guesses + in_time) * hits / num_steps


def coverage_curve(hits: ArrayLike) -> FloatArray:
    """Share of the steps at which one of the first 1, 2, … guesses is right, shape (m,).

    Args:
        hits: Whether each guess is right, shape (n, m). Counted, not computed from a chance for
            each guess: guesses of one model are alike, so that later ones add less.
    """
    rights = np.asarray(hits, dtype=np.bool_)
    if rights.ndim != 2 or not rights.size:
        raise ValueError(f"hits must have shape (n, m) with n, m >= 1, got {rights.shape!r}")
    return np.asarray(np.logical_or.accumulate(rights, axis=1).mean(axis=0), dtype=np.float64)


def effective_draws(coverage: float, single: float) -> float | None:
    """How many independent guesses the guesses of a step are worth.

    ln(1 - coverage) / ln(1 - single); None where either is 0 or 1, which any number fits.
    """
    check_fraction(coverage, "coverage")
    check_fraction(single, "single")
    if min(coverage, single) <= 0.0 or max(coverage, single) >= 1.0:
        return None
    return math.log1p(-coverage) / math.log1p(-single)


def worthwhile_breadth(coverage: Sequence[float] | FloatArray, saving: float, cost: float) -> int:
    """How many guesses to launch: as long as what one more covers is worth its cost.

    The paper's corollary 5 with a counted coverage curve in place of independent guesses.

    Args:
        coverage: As of `coverage_curve`.
        saving: Worth of the time that a right guess saves.
        cost: Of launching one guess, in the same unit.

    Returns:
        0 when not even the first one is worth it.
    """
    added = np.diff(np.asarray(coverage, dtype=np.float64), prepend=0.0)
    worth = (added > 0.0) & (added * saving >= cost)
    return int(added.size if worth.all() else worth.argmin())


def _hits_per_step(p: float, num_steps: int | None) -> float:
    if num_steps is None:
        return check_fraction(p, "p") / (1.0 + p)
    return expected_hits(p, num_steps) / num_steps


def _gain(speculator: float, call: float) -> float:
    """Share of a call that a right guess takes off, where no time varies."""
    if not 0.0 <= speculator < math.inf or not 0.0 < call < math.inf:
        raise ValueError(f"times must be positive, got speculator={speculator!r}, call={call!r}")
    return max(0.0, 1.0 - speculator / call)


def _check_steps(num_steps: int) -> int:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps!r}")
    return num_steps


def _rate(rate: float) -> float:
    if not 0.0 < rate < math.inf:
        raise ValueError(f"rates must be positive, got {rate!r}")
    return rate
