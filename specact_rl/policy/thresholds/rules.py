"""Rules that promise nothing of new rows: by accept rate, utility, cost, and Chow's rule.

They do best on the rows they are given, or, Chow's, if the probabilities are right.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    as_labels,
    as_probabilities,
    as_scores,
    check_fraction,
    check_lengths,
)
from specact_rl.policy.thresholds.cuts import Cuts, ThresholdChoice, choice_at, cuts_of

SAME = 1e-9
"""Sums over rows that differ by less than this are equal on paper."""


def choose_by_accept_rate(
    p_accept: ArrayLike, acceptable: ArrayLike, *, accept_rate: float
) -> ThresholdChoice:
    """The threshold whose accept rate is nearest to the one asked for; of two, the smaller.

    Rows of equal probability cannot be told apart, so the rate may not be met; `feasible` is False
    when it is off by more than one row.
    """
    check_fraction(accept_rate, "accept_rate")
    cuts = cuts_of(p_accept, acceptable)
    counts = np.append(0, cuts.counts)
    chosen = int(np.argmin(np.abs(counts - accept_rate * cuts.n))) - 1
    count = int(counts[chosen + 1])
    feasible = abs(count - accept_rate * cuts.n) <= 1.0
    got = f"accepts {count} of {cuts.n} rows ({count / cuts.n:.1%}), {accept_rate:.1%} asked for"
    why = "" if feasible else "; rows of equal probability cannot be told apart"
    return choice_at(
        cuts,
        chosen,
        "accept_rate",
        {"accept_rate": accept_rate},
        feasible=feasible,
        message=got + why,
    )


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
    _check_not_negative(cost_weight=cost_weight, fallback_cost=fallback_cost)
    cuts = cuts_of(p_accept, acceptable)
    gain = _gain(cuts, fallback_acceptable) + cost_weight * fallback_cost
    totals = np.append(0.0, cuts.at_cuts(gain))
    # The last of equal sums accepts the most.
    chosen = int(np.flatnonzero(totals >= totals.max() - SAME)[-1]) - 1
    return choice_at(
        cuts,
        chosen,
        "utility",
        {"cost_weight": cost_weight, "fallback_cost": fallback_cost},
        feasible=True,
        message=(
            f"best is to {_say_cut(cuts, chosen)}: {totals.max() / cuts.n:+.4f} per row over "
            "never accepting"
        ),
    )


def choose_by_cost(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    fallback_acceptable: ArrayLike | float,
    *,
    budget: float,
    overhead: float,
    fallback_cost: ArrayLike | float,
) -> ThresholdChoice:
    """The threshold of highest accuracy whose mean cost per row is within the budget.

    A row costs `overhead`, and its fallback too where it is rejected, so a budget is a least
    accept rate. Of equal accuracies the cheaper is taken. The budget is kept on these rows; on
    new ones on average.

    Args:
        p_accept: Calibrated probabilities, shape (n,).
        acceptable: Labels of the proposals, shape (n,).
        fallback_acceptable: Labels of the fallback's actions, shape (n,), or its accuracy.
        budget: Highest mean cost per row.
        overhead: Cost of proposing and verifying, paid on each row.
        fallback_cost: Of one fallback call, in the same unit; shape (n,) where it differs.

    Returns:
        With a budget below the overhead nothing is within it: everything is accepted, which costs
        least, and `feasible` is False.
    """
    _check_not_negative(budget=budget, overhead=overhead)
    cuts = cuts_of(p_accept, acceptable)
    if isinstance(fallback_cost, int | float):
        of_fallback = np.full(cuts.n, float(fallback_cost))
    else:
        of_fallback = as_scores(fallback_cost, "fallback_cost")
        check_lengths(fallback_cost=of_fallback, acceptable=cuts.order)
        of_fallback = of_fallback[cuts.order]
    _check_not_negative(fallback_cost=float(of_fallback.min()))
    spent = overhead + (of_fallback.sum() - np.append(0.0, cuts.at_cuts(of_fallback))) / cuts.n
    totals = np.append(0.0, cuts.at_cuts(_gain(cuts, fallback_acceptable)))
    within = spent <= budget + SAME
    feasible = bool(within.any())
    if feasible:
        # Whatever accepts more costs no more, so the last is within the budget, too.
        best = np.flatnonzero(totals >= totals[within].max() - SAME)[-1]
    else:
        best = np.int64(totals.size - 1)
    chosen = int(best) - 1
    cost = f"at {spent[best]:.4g} per row, budget {budget:g}"
    if feasible:
        message = f"most accurate within the budget is to {_say_cut(cuts, chosen)}, {cost}"
    else:
        message = f"no threshold is within the budget: accepting everything is {cost}"
    arguments = {
        "budget": budget,
        "overhead": overhead,
        "fallback_cost": float(of_fallback.mean()),
    }
    return choice_at(cuts, chosen, "cost", arguments, feasible=feasible, message=message)


def chow_accepts(
    p_accept: ArrayLike,
    p_fallback: ArrayLike | float,
    *,
    cost_weight: float,
    fallback_cost: float,
) -> BoolArray:
    """Chow's rule with costs: accept iff P(C|x) >= P(S|x) - cost_weight x fallback_cost.

    No gate has a higher mean of accuracy - cost_weight x cost if both probabilities are right.

    Args:
        p_accept: Probability that the proposal is acceptable, shape (n,).
        p_fallback: That the fallback's action is, shape (n,) or one number for all rows. A
            verifier that is trained on the proposals' labels alone does not estimate it.
        cost_weight: Accuracy that one unit of cost is worth (lambda).
        fallback_cost: Cost of one fallback call.

    Source: Chow (1970); with a second model as the way to reject, Jitkrittum et al. (2023).
    """
    accepted: BoolArray = (
        _chow_gain(p_accept, p_fallback, cost_weight=cost_weight, fallback_cost=fallback_cost)
        >= -SAME
    )
    return accepted


def choose_by_chow(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    p_fallback: ArrayLike | float,
    *,
    cost_weight: float,
    fallback_cost: float,
) -> ThresholdChoice:
    """The cut on P(C|x) alone that is nearest to Chow's rule with costs, `chow_accepts`.

    With one P(S|x) for all rows the rule is such a cut, at P(S) - cost_weight x fallback_cost.
    With one per row it is one exactly if the rows it accepts are those of highest P(C|x): an equal
    P(S|x) suffices for that and is not needed. Where it is none, `feasible` is False, and the cut
    is the one of highest expected utility, for which the message says what it loses.

    Labels choose nothing here; they only count the accepted and the wrong among them.

    Args:
        p_accept: Calibrated probabilities, shape (n,).
        acceptable: Labels, shape (n,).
        p_fallback: As for `chow_accepts`.
        cost_weight: As for `chow_accepts`.
        fallback_cost: As for `chow_accepts`.
    """
    cuts = cuts_of(p_accept, acceptable)
    gain = _chow_gain(p_accept, p_fallback, cost_weight=cost_weight, fallback_cost=fallback_cost)
    arguments = {"cost_weight": cost_weight, "fallback_cost": fallback_cost}
    if isinstance(p_fallback, int | float):
        # The rule's own number and not a place between rows, for it depends on no row.
        at = float(p_fallback) - cost_weight * fallback_cost
        accepted = np.flatnonzero(gain[cuts.order[cuts.counts - 1]] >= -SAME)
        chosen = int(accepted[-1]) if accepted.size else -1
        found = choice_at(
            cuts,
            chosen,
            "chow",
            {**arguments, "p_fallback": float(p_fallback)},
            feasible=True,
            message=f"the rule cuts at {at:.4g}: {_say_cut(cuts, chosen)}",
        )
        return replace(found, threshold=max(at - SAME, 0.0))
    totals = np.append(0.0, cuts.at_cuts(gain[cuts.order]))
    chosen = int(np.flatnonzero(totals >= totals.max() - SAME)[-1]) - 1
    lost = float(gain[gain > 0.0].sum() - totals[chosen + 1]) / cuts.n
    exact = lost <= SAME
    message = (
        f"a cut on the probability alone is the rule: {_say_cut(cuts, chosen)}"
        if exact
        else f"no cut on the probability alone is the rule; the best, to {_say_cut(cuts, chosen)}, "
        f"is expected to lose {lost:.4f} per row against it"
    )
    return choice_at(cuts, chosen, "chow", arguments, feasible=exact, message=message)


def _chow_gain(
    p_accept: ArrayLike,
    p_fallback: ArrayLike | float,
    *,
    cost_weight: float,
    fallback_cost: float,
) -> FloatArray:
    """Expected utility of accepting over asking the fallback, per row."""
    _check_not_negative(cost_weight=cost_weight, fallback_cost=fallback_cost)
    p = as_probabilities(p_accept)
    if isinstance(p_fallback, int | float):
        s = np.full(p.size, check_fraction(float(p_fallback), "p_fallback"))
    else:
        s = as_probabilities(p_fallback, "p_fallback")
        check_lengths(p_accept=p, p_fallback=s)
    gain: FloatArray = p - s + cost_weight * fallback_cost
    return gain


def _gain(cuts: Cuts, fallback_acceptable: ArrayLike | float) -> FloatArray:
    """Accuracy that accepting gains over the fallback, per sorted row."""
    if isinstance(fallback_acceptable, int | float):
        fallback = np.full(cuts.n, check_fraction(fallback_acceptable, "fallback_acceptable"))
    else:
        labels = as_labels(fallback_acceptable, "fallback_acceptable")
        check_lengths(fallback_acceptable=labels, acceptable=cuts.order)
        fallback = labels[cuts.order].astype(np.float64)
    gain: FloatArray = (~cuts.wrong).astype(np.float64) - fallback
    return gain


def _say_cut(cuts: Cuts, chosen: int) -> str:
    count = int(cuts.counts[chosen]) if chosen >= 0 else 0
    return {0: "accept nothing", cuts.n: "accept everything"}.get(
        count, f"accept {count} of {cuts.n} rows ({count / cuts.n:.1%})"
    )


def _check_not_negative(**values: float) -> None:
    if min(values.values()) < 0.0:
        told = ", ".join(f"{name} = {value!r}" for name, value in values.items())
        raise ValueError(f"{' and '.join(values)} must not be negative, got {told}")
