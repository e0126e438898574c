"""What a verifier could be made to promise, and what stands in the way, in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.resampling import Clusters, cluster_codes
from specact_rl.metrics.values import FloatArray
from specact_rl.policy.thresholds.bounds import (
    accepted_needed,
    min_certifiable_count,
)
from specact_rl.policy.thresholds.certificates import (
    choose_by_target_risk,
    conformal_choice,
    one_row_per_cluster,
    target_risk_choice,
    task_loss_path,
    task_risk_choice,
)
from specact_rl.policy.thresholds.cuts import Cuts, ThresholdChoice, cuts_of

POWER = 0.9
"""Chance that the tasks of `Feasibility.tasks_needed` pass the test at the threshold that takes
fewest. The walk has to pass stricter ones first, and the fewest are of a lucky one: simulated in
four populations, such tasks certified the target in .76 to .94 of new draws, with .8 here in .57
to .79 (17 to 27 tables each, 20 draws of each)."""


LEAST_SHARE = 0.1
"""Of the rows that the threshold accepts which more tasks are to certify."""
MOST_TIMES = 100
"""As many tasks as there are; where it takes more, the share is not told from the target."""
NUM_CUTS = 50
"""Thresholds that are tried for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feasibility:
    """How much can be accepted at one target for the share of wrong among the accepted."""

    target_risk: float
    delta: float
    num_rows: int
    num_tasks: int
    """Of the rows; one row of each is tested."""
    base_risk: float
    """Share of wrong rows among all."""
    oracle_accept_rate: float
    """Most that any verifier can accept: with more, the target is broken even if every right row
    is accepted first."""
    met_accept_rate: float
    """Most that can be accepted with an observed share of wrong rows within the target; 0 for
    nothing. Chosen in hindsight, so what it does on new rows is worse on average."""
    choice: ThresholdChoice
    """The certified one, if there is one."""
    certified_accept_rate: float
    """Share of all rows that its threshold accepts, not of the one row per task that was tested;
    0 without one."""
    tasks_needed: int | None
    """About how many tasks in all would certify some threshold in four of five draws, if the
    observed shares of wrong rows are the true ones; None if it is certified, or no threshold that
    accepts a tenth has a share clearly below the target. Right to a factor: see `POWER`."""
    message: str
    """The verdict in plain words."""

    @property
    def more_tasks(self) -> int | None:
        """Tasks that are missing to `tasks_needed`, to two digits; None where that is."""
        if self.tasks_needed is None:
            return None
        return _rounded(max(0, self.tasks_needed - self.num_tasks))


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCertificates:
    """All that can be promised at one target."""

    feasibility: Feasibility
    """With the exact certificate, from one row per task."""
    task: ThresholdChoice
    """`choose_by_task_risk`, of the share wrong among a task's accepted rows."""
    conformal: ThresholdChoice
    """`choose_by_conformal_risk`, of the share of a task's rows that are accepted and wrong."""


def feasibility(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    *,
    target_risk: float,
    delta: float = 0.1,
    clusters: Clusters | None = None,
    rng: np.random.Generator | None = None,
) -> Feasibility:
    """What can be accepted at a target risk: certified, observed, and by any verifier at all.

    Args:
        p_accept: Calibrated probabilities, shape (n,).
        acceptable: Labels, shape (n,).
        target_risk: Highest share of unacceptable rows among the accepted, in (0, 1).
        delta: Of the certificate, `choose_by_target_risk`.
        clusters: Task ids; None takes each row as a task.
        rng: Draws one row per task for the certificate; needed with clusters.

    Source: the bound (base - target) / (1 - target) on what has to be rejected is arithmetic: the
    accepted hold at most all right rows and target / (1 - target) wrong ones for each of them.
    """
    choice = choose_by_target_risk(
        p_accept, acceptable, target_risk=target_risk, delta=delta, clusters=clusters, rng=rng
    )
    cuts = cuts_of(p_accept, acceptable)
    num_tasks = cuts.n if clusters is None else cluster_codes(clusters, cuts.n)[1]
    return _feasibility(np.asarray(p_accept), cuts, num_tasks, choice, target_risk, delta)


def certify(
    p_accept: ArrayLike,
    acceptable: ArrayLike,
    tasks: Clusters,
    targets: Sequence[float],
    *,
    delta: float = 0.1,
    rng: np.random.Generator,
) -> list[TargetCertificates]:
    """What can be promised at each of several targets, sorting the rows once.

    Each promise holds by itself, not all of them at once.

    Args:
        p_accept: Calibrated probabilities, shape (n,).
        acceptable: Labels, shape (n,).
        tasks: Task id per row.
        targets: Risks, each in (0, 1).
        delta: Of the promises with confidence.
        rng: Draws one row per task, once for all targets.
    """
    cuts = cuts_of(p_accept, acceptable)
    codes, num_tasks = cluster_codes(tasks, cuts.n)
    rows = one_row_per_cluster(codes, cuts.n, rng)
    drawn = cuts_of(np.asarray(p_accept)[rows], np.asarray(acceptable)[rows])
    selective = task_loss_path(cuts, codes, num_tasks, "wrong_among_accepted")
    joint = task_loss_path(cuts, codes, num_tasks, "wrong_share").total
    return [
        TargetCertificates(
            feasibility=_feasibility(
                np.asarray(p_accept),
                cuts,
                num_tasks,
                target_risk_choice(drawn, target, delta, drawn_from=cuts.n),
                target,
                delta,
            ),
            task=task_risk_choice(
                cuts, selective, num_tasks, "wrong_among_accepted", target, delta
            ),
            conformal=conformal_choice(cuts, joint, num_tasks, "wrong_share", target),
        )
        for target in targets
    ]


def _feasibility(
    p: FloatArray,
    cuts: Cuts,
    num_tasks: int,
    choice: ThresholdChoice,
    target_risk: float,
    delta: float,
) -> Feasibility:
    base_risk = float(cuts.errors[-1] / cuts.n)
    met = np.flatnonzero(cuts.errors <= target_risk * cuts.counts)
    found = Feasibility(
        target_risk=target_risk,
        delta=delta,
        num_rows=cuts.n,
        num_tasks=num_tasks,
        base_risk=base_risk,
        oracle_accept_rate=min(1.0, (1.0 - base_risk) / (1.0 - target_risk)),
        met_accept_rate=float(cuts.counts[met[-1]] / cuts.n) if met.size else 0.0,
        choice=choice,
        certified_accept_rate=(
            0.0 if choice.threshold is None else float((p >= choice.threshold).mean())
        ),
        tasks_needed=(
            None if choice.feasible else _tasks_needed(cuts, num_tasks, target_risk, delta)
        ),
        message="",
    )
    return replace(found, message=_say(found))


def _tasks_needed(cuts: Cuts, num_tasks: int, target_risk: float, delta: float) -> int | None:
    """Fewest tasks over thresholds that accept at least a tenth.

    There a walk starts when there are tasks enough; below, shares are of too few rows.
    """
    first = int(np.searchsorted(cuts.counts, LEAST_SHARE * cuts.n))
    wanted = np.linspace(cuts.counts[first], cuts.counts[-1], NUM_CUTS)
    tried = np.unique(np.searchsorted(cuts.counts, np.floor(wanted)))
    # Jeffreys' estimate: the fewest over many cuts of the plain shares asks for several times
    # too few, as the lowest of them are lucky.
    risks = (cuts.errors[tried] + 0.5) / (cuts.counts[tried] + 1.0)
    needed = accepted_needed(risks, target_risk, delta, power=POWER)
    fewest = float((needed / (cuts.counts[tried] / cuts.n)).min())
    return None if fewest > MOST_TIMES * num_tasks else math.ceil(fewest)


def _say(found: Feasibility) -> str:
    target, certified = _percent(found.target_risk), _percent(found.certified_accept_rate)
    parts = [
        f"{target} wrong among the accepted is certified at {certified} accepted"
        if found.choice.feasible
        else f"no threshold certifies {target} wrong among the accepted"
    ]
    if found.met_accept_rate > 0.0:
        most = _percent(found.met_accept_rate)
        parts.append(f"at most {most} can be accepted at an observed {target}")
    else:
        parts.append(f"no threshold reaches {target} on these rows either")
    if found.oracle_accept_rate < 1.0:
        parts.append(f"a perfect verifier could accept {_percent(found.oracle_accept_rate)}")
    if not found.choice.feasible:
        least = min_certifiable_count(found.target_risk, found.delta)
        few = found.num_tasks < least
        if few:
            parts.append(f"without a mistake it takes {least} tasks, there are {found.num_tasks}")
        if not few or found.tasks_needed is not None:  # so few do not say that more are no use
            parts.append(f"if the observed shares are the true ones, {_say_needed(found)}")
    return "; ".join(parts)


def _say_needed(found: Feasibility) -> str:
    if found.tasks_needed is None:
        return (
            "more tasks would hardly help: no threshold that accepts a tenth of the rows is "
            "clearly below the target"
        )
    if not found.more_tasks:
        return "as many tasks as these certify one in four of five draws: this draw was unlucky"
    return f"about {found.more_tasks} more tasks would certify one in four of five draws"


def _rounded(count: int) -> int:
    """To two digits: it is an estimate."""
    unit = int(10 ** max(0, len(str(count)) - 2))
    return math.ceil(count / unit) * unit


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
