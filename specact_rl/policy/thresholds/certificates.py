"""Thresholds with a promise about new rows or tasks, or a plain word why there is none.

| rule | loss of | promise |
|---|---|---|
| `choose_by_target_risk` | a row, or one row per task | risk among accepted, with confidence |
| `choose_by_task_risk` | a whole task, all of its rows | mean loss of tasks, with confidence |
| `choose_by_conformal_risk` | a row or a task | mean loss in expectation |

The rows of one task are not exchangeable with those of another, so with tasks of several rows the
unit is the task, or one row of it. All promises are about new rows or tasks like these, replayed
as they were logged: a live episode in which an accepted mistake changes what comes next is not one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.resampling import Clusters, cluster_codes
from specact_rl.metrics.task_loss import TaskLoss, check_task_loss, places_within
from specact_rl.metrics.values import FloatArray, IntArray, as_labels, as_probabilities
from specact_rl.policy.thresholds.bounds import (
    PValues,
    binomial_p_values,
    conformal_step,
    default_start_count,
    fixed_sequence,
    hoeffding_bentkus_p_values,
    max_errors_allowed,
    min_certifiable_count,
)
from specact_rl.policy.thresholds.cuts import Cuts, ThresholdChoice, choice_at, cuts_of

CONTROLS: dict[TaskLoss, str] = {
    "wrong_among_accepted": "the share wrong among the accepted steps of a task, averaged over "
    "tasks that have one",
    "wrong_share": "the share of a task's steps that are accepted and wrong, averaged over tasks",
    "any_wrong": "the share of tasks with an accepted step that is wrong",
}
"""What a promise about tasks is about."""
OF_ROWS = "the share wrong among accepted steps, each independent of the others"
OF_ONE_ROW = "the share wrong among accepted steps, one step drawn from each task"
OF_ROWS_JOINTLY = "the share of steps that are accepted and wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPath:
    """What is lost at each cut of a score, from the strictest to accepting everything."""

    total: FloatArray
    """Summed over the units, shape (cuts,)."""
    units: IntArray
    """Rows or tasks that the loss is averaged over, shape (cuts,); never falls."""


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
    p, y, whole = as_probabilities(p_accept), as_labels(acceptable), None
    if clusters is not None:
        if rng is None:
            raise ValueError("rng is needed with clusters: it draws one row per cluster")
        rows = one_row_per_cluster(clusters, p.size, rng)
        p, y, whole = p[rows], y[rows], p.size
    return target_risk_choice(
        cuts_of(p, y),
        target_risk,
        delta,
        drawn_from=whole,
        start_count=start_count,
        num_steps=num_steps,
    )


def target_risk_choice(
    cuts: Cuts,
    target_risk: float,
    delta: float,
    *,
    drawn_from: int | None = None,
    start_count: int | None = None,
    num_steps: int = 50,
) -> ThresholdChoice:
    """`choose_by_target_risk` on sorted rows.

    Args:
        cuts: Of independent rows.
        target_risk: As there.
        delta: As there.
        drawn_from: How many rows there were before one per task was drawn; None if it was not.
        start_count: As there.
        num_steps: As there.
    """
    _check_levels(target_risk=target_risk, delta=delta)
    drawn, controls = "", OF_ROWS
    if drawn_from is not None and drawn_from > cuts.n:
        drawn = f" (one row drawn from each of {cuts.n} clusters, {drawn_from} rows in all)"
        controls = OF_ONE_ROW
    path = LossPath(total=cuts.errors.astype(np.float64), units=cuts.counts)
    start = default_start_count(cuts.n, target_risk, delta) if start_count is None else start_count
    steps = _walk_steps(cuts, path, start, num_steps)
    chosen = _walk(path, steps, binomial_p_values, target_risk, delta)
    promise = f"risk <= {target_risk:g} with confidence {1.0 - delta:g}"
    if chosen >= 0:
        count, errors = int(cuts.counts[chosen]), int(cuts.errors[chosen])
        message = (
            f"{promise}: certified at {count} of {cuts.n} rows accepted "
            f"({count / cuts.n:.1%}), {errors} of them wrong ({errors / count:.1%})"
        )
    else:
        message = _why_infeasible(cuts, steps, start, promise, target_risk, delta)
    return choice_at(
        cuts,
        chosen,
        "target_risk",
        {"target_risk": target_risk, "delta": delta},
        feasible=chosen >= 0,
        message=message + drawn,
        controls=f"{controls}, is at most {target_risk:g} with confidence {1.0 - delta:g}",
    )


def choose_by_task_risk(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    tasks: Clusters,
    *,
    target_risk: float,
    delta: float = 0.1,
    loss: TaskLoss = "wrong_among_accepted",
    start_count: int | None = None,
    num_steps: int = 50,
) -> ThresholdChoice:
    """The laxest threshold whose mean loss of a task is at most the target, with confidence.

    Uses all rows of each task and takes only tasks as independent. Learn then test as
    `choose_by_target_risk`; the test is the exact binomial for a loss of 0 or 1 ("any_wrong") and
    Hoeffding-Bentkus for the others, which knows no more of a loss than that it lies in [0, 1].

    Args:
        p_accept: Calibrated probabilities, shape (n,).
        acceptable: Labels, shape (n,).
        tasks: Task id per row.
        target_risk: Highest mean loss of a task, in (0, 1).
        delta: Chance, over draws of these tasks, that the promise is broken.
        loss: Of a task; see `CONTROLS` for what is promised. "wrong_among_accepted" leaves tasks
            out of which nothing is accepted.
        start_count: Tasks with an accepted row at the first step; None takes
            `default_start_count`. The other losses are over all tasks at any threshold, so their
            walk starts at the strictest one.
        num_steps: Most thresholds tested, spread evenly over the counts of accepted rows.

    Source: Angelopoulos et al. (2021), arXiv 2110.01052.
    """
    check_task_loss(loss)
    cuts = cuts_of(p_accept, acceptable)
    codes, num_tasks = cluster_codes(tasks, cuts.n)
    path = task_loss_path(cuts, codes, num_tasks, loss)
    return task_risk_choice(cuts, path, num_tasks, loss, target_risk, delta, start_count, num_steps)


def task_risk_choice(
    cuts: Cuts,
    path: LossPath,
    num_tasks: int,
    loss: TaskLoss,
    target_risk: float,
    delta: float,
    start_count: int | None = None,
    num_steps: int = 50,
) -> ThresholdChoice:
    """`choose_by_task_risk` along a path of that loss."""
    _check_levels(target_risk=target_risk, delta=delta)
    p_values: PValues = binomial_p_values if loss == "any_wrong" else hoeffding_bentkus_p_values
    start = (
        default_start_count(num_tasks, target_risk, delta, p_values)
        if start_count is None
        else start_count
    )
    steps = _walk_steps(cuts, path, start, num_steps)
    chosen = _walk(path, steps, p_values, target_risk, delta)
    promise = f"task risk <= {target_risk:g} with confidence {1.0 - delta:g}"
    if chosen >= 0:
        message = f"{promise}: certified at {_say_path(cuts, path, chosen)}"
    elif not steps.size:
        needed = max(min_certifiable_count(target_risk, delta), start)
        message = (
            f"{promise} cannot be certified: it takes at least {needed} tasks, there are "
            f"{num_tasks}"
        )
    else:
        message = (
            f"{promise} cannot be certified: at {_say_path(cuts, path, int(steps[0]))}, the "
            f"strictest threshold tested; {NOTHING}"
        )
    return choice_at(
        cuts,
        chosen,
        "task_risk",
        {"target_risk": target_risk, "delta": delta},
        feasible=chosen >= 0,
        message=message,
        controls=f"{CONTROLS[loss]}, is at most {target_risk:g} with confidence {1.0 - delta:g}",
    )


def choose_by_conformal_risk(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    *,
    target_risk: float,
    tasks: Clusters | None = None,
    loss: TaskLoss = "wrong_share",
) -> ThresholdChoice:
    """The laxest threshold at which a new step is accepted and wrong at most so often on average.

    Conformal risk control. It bounds how often a mistake gets through among *all* steps, accepted
    or not: a gate that accepts little keeps it with a high share of wrong ones among the accepted.
    And it bounds an expectation over calibration sets as well as new steps, without confidence
    for the set at hand. Any threshold keeps a target above the share of wrong rows.

    Args:
        p_accept: Calibrated probabilities, shape (n,).
        acceptable: Labels, shape (n,).
        target_risk: Highest expected loss, in (0, 1).
        tasks: Task id per row, so that tasks are what is exchangeable; None takes rows to be.
        loss: Of a task: "wrong_share" or "any_wrong". No use without tasks.

    Raises:
        ValueError: "wrong_among_accepted", which can fall when more is accepted.

    Source: Angelopoulos et al. (2024), arXiv 2208.02814.
    """
    check_task_loss(loss)
    if loss == "wrong_among_accepted":
        raise ValueError(
            "conformal risk control needs a loss that never falls when more is accepted, "
            "'wrong_share' or 'any_wrong', got 'wrong_among_accepted'"
        )
    cuts = cuts_of(p_accept, acceptable)
    if tasks is None:
        return conformal_choice(cuts, cuts.errors.astype(np.float64), None, loss, target_risk)
    codes, units = cluster_codes(tasks, cuts.n)
    total = task_loss_path(cuts, codes, units, loss).total
    return conformal_choice(cuts, total, units, loss, target_risk)


def conformal_choice(
    cuts: Cuts, total: FloatArray, num_tasks: int | None, loss: TaskLoss, target_risk: float
) -> ThresholdChoice:
    """`choose_by_conformal_risk` with the summed loss at each cut; `num_tasks` None is of rows."""
    _check_levels(target_risk=target_risk)
    units = cuts.n if num_tasks is None else num_tasks
    controls = OF_ROWS_JOINTLY if num_tasks is None else CONTROLS[loss]
    chosen = conformal_step(total / units, units, target_risk=target_risk)
    promise = f"accepted and wrong <= {target_risk:g} in expectation"
    if chosen >= 0:
        message = (
            f"{promise}: kept at {int(cuts.counts[chosen])} of {cuts.n} rows accepted "
            f"({cuts.counts[chosen] / cuts.n:.1%}), mean loss {total[chosen] / units:.4f} over "
            f"{units} {'rows' if num_tasks is None else 'tasks'}"
        )
    elif 1.0 / (units + 1) > target_risk:
        least = int(np.ceil(1.0 / target_risk)) - 1
        message = f"{promise} takes at least {least} of them, there are {units}; {NOTHING}"
    else:
        message = (
            f"{promise} cannot be kept: the {int(cuts.counts[0])} rows scored highest already "
            f"lose {total[0] / units:.4f}; {NOTHING}"
        )
    return choice_at(
        cuts,
        chosen,
        "conformal_risk",
        {"target_risk": target_risk},
        feasible=chosen >= 0,
        message=message,
        controls=f"{controls}, is at most {target_risk:g} in expectation",
    )


NOTHING = "the gate accepts nothing"


def task_loss_path(cuts: Cuts, codes: IntArray, num_tasks: int, loss: TaskLoss) -> LossPath:
    """The summed loss of tasks at every cut, in O(n log n).

    Args:
        cuts: Of the rows.
        codes: Task number per row, 0 to num_tasks - 1, in the order the rows were given.
        num_tasks: How many there are.
        loss: Of a task.
    """
    of_row = codes[cuts.order]
    every = np.full(cuts.counts.size, num_tasks, dtype=np.int64)
    if loss == "wrong_share":
        sizes = np.bincount(codes, minlength=num_tasks)
        return LossPath(total=cuts.at_cuts(cuts.wrong / sizes[of_row]), units=every)
    if loss == "any_wrong":
        wrong = np.flatnonzero(cuts.wrong)
        _, first = np.unique(of_row[wrong], return_index=True)
        is_first = np.zeros(cuts.n, dtype=np.bool_)
        is_first[wrong[first]] = True  # a task is lost from its highest-scored wrong row on
        return LossPath(total=cuts.at_cuts(is_first), units=every)
    place, wrong_before = places_within(of_row, cuts.wrong)
    # A task's share of wrong rows moves from wrong_before / place to (wrong_before + wrong) /
    # (place + 1) when its next row is accepted; the moves add up to the sum of shares.
    moves = (wrong_before + cuts.wrong) / (place + 1) - wrong_before / np.maximum(place, 1)
    return LossPath(
        total=np.maximum(cuts.at_cuts(moves), 0.0),
        units=cuts.at_cuts(place == 0).round().astype(np.int64),
    )


def one_row_per_cluster(clusters: Clusters, num_rows: int, rng: np.random.Generator) -> IntArray:
    """Index of one uniformly drawn row of each cluster, in sorted order of the cluster ids."""
    codes, _ = cluster_codes(clusters, num_rows)
    shuffled = rng.permutation(num_rows)
    _, first = np.unique(codes[shuffled], return_index=True)
    return shuffled[first].astype(np.int64)


def _walk(
    path: LossPath, steps: IntArray, p_values: PValues, target_risk: float, delta: float
) -> int:
    """Index of the cut that the walk ends at; -1 when it does not start."""
    if not steps.size:
        return -1
    found = p_values(path.total[steps], path.units[steps], target_risk)
    last = fixed_sequence(found, delta)
    return -1 if last < 0 else int(steps[last])


def _walk_steps(cuts: Cuts, path: LossPath, start: int, num_steps: int) -> IntArray:
    """Indices of the cuts to test, from the first with `start` units on."""
    if start < 1 or num_steps < 1:
        raise ValueError(
            f"start_count and num_steps must be at least 1, got {start!r}, {num_steps!r}"
        )
    first = int(np.searchsorted(path.units, start))
    if first == path.units.size:
        return np.empty(0, dtype=np.int64)
    wanted = np.linspace(cuts.counts[first], cuts.counts[-1], num_steps)
    return np.unique(np.searchsorted(cuts.counts, np.floor(wanted))).astype(np.int64)


def _say_path(cuts: Cuts, path: LossPath, at: int) -> str:
    count, units = int(cuts.counts[at]), int(path.units[at])
    return (
        f"{count} of {cuts.n} rows accepted ({count / cuts.n:.1%}), mean loss "
        f"{path.total[at] / units:.4f} over {units} tasks"
    )


def _why_infeasible(
    cuts: Cuts,
    steps: IntArray,
    start: int,
    promise: str,
    target_risk: float,
    delta: float,
) -> str:
    needed = min_certifiable_count(target_risk, delta)
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
    return f"{message}; {NOTHING}"


def _check_levels(**levels: float) -> None:
    for name, value in levels.items():
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} must be in (0, 1), got {value!r}")
