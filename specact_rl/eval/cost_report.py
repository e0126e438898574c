"""What each system costs by who is paid, what of it was for nothing, and at which prices it turns.

Four units beside each other: the source report's assumed price list, FLOPs, seconds and dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from specact_rl.eval.joined import Outcomes
from specact_rl.eval.labelled import known
from specact_rl.eval.replay import SystemRun, forward_flops
from specact_rl.metrics.cost import AssumedCosts
from specact_rl.metrics.resampling import (
    SAME,
    bootstrap_value,
    cluster_codes,
    few_clusters_note,
)
from specact_rl.metrics.sensitivity import (
    best_stretches,
    crossing,
    pareto_stretches,
    resampled_crossings,
    shares_over_draws,
    tornado,
)
from specact_rl.metrics.values import FloatArray, IntArray, MetricValue
from specact_rl.policy.fitting import COST_WEIGHT
from specact_rl.policy.systems import PANEL, PEERS

ROLES = ("proposer", "verifier", "strong")
Unit = Literal["assumed", "flops", "seconds", "price"]
UNITS: tuple[Unit, ...] = ("assumed", "flops", "seconds", "price")
WITH_SENSITIVITY: tuple[Unit, ...] = ("assumed", "flops", "price")
"""Not seconds, which are not bought."""
NUM_RESAMPLES = 1_000
"""Joint draws of all systems' accuracies and costs."""
FACTORS = tuple(float(f) for f in 2.0 ** np.arange(-4.0, 4.5, 0.5))
"""Of a price, at which shares of resamples are counted: a sixteenth to sixteen times."""
STRONG_ONLY = "A"


def cost_rows(sums: CostSums, draws: FloatArray) -> dict[str, list[dict[str, Any]]]:
    """The parts "costs" and "sensitivity" of the replay's results.

    `costs`: one row per system, with what it takes in each unit relative to A, by role, and the
    share of it that went into proposing and verifying at steps whose proposal was not executed (of
    several proposals those that were not picked at an accepted step are not in it).
    `sensitivity`: one row per unit in which costs are known, over the factors that each role's
    price is multiplied by.

    Args:
        sums: Of all systems.
        draws: Its columns' totals over resampled tasks, shape (resamples, columns).
    """
    costs = [
        {"name": name, "n": sums.num_rows}
        | {unit: _cost(sums, draws, name, unit) for unit in UNITS if (name, unit) in sums.places}
        for name in sums.names
    ]
    found = (_sensitivity(sums, draws, unit) for unit in WITH_SENSITIVITY)
    return {"costs": costs, "sensitivity": [row for row in found if row is not None]}


def _priceless(run: SystemRun, parts: Outcomes) -> bool:
    system = run.system
    if system.proposer == PANEL:
        return True
    judged = parts.judged.get((str(system.verifier), str(system.proposer)))
    return judged is not None and judged.knows_labels


def role_costs(run: SystemRun, unit: Unit, parts: Outcomes) -> FloatArray | None:
    """What a system paid to its proposer, verifier and strong model at each step, shape (n, 3).

    None where it is not known at every step. A strong model that judges reads the history for its
    own action; only the proposals that it reads beyond are the verifier's.
    """
    n, system = len(parts.table.steps), run.system
    if unit == "assumed":
        return _assumed(run)
    total = {"flops": run.flops, "seconds": run.seconds, "price": run.price}[unit]
    if not np.isfinite(total).all():
        return None
    strong = parts.columns["strong"]
    if unit == "flops":
        fallback = forward_flops(
            parts.sizes["strong"], parts.table, strong, run.called, run.called[:, None]
        )
    else:
        fallback = np.where(run.called, getattr(strong, unit)[:, 0], 0.0)
    proposing = np.zeros(n)
    if system.proposer is not None:
        columns, drawn = parts.columns[system.proposer], _drawn(run)
        if unit == "flops":
            every = np.ones(n, dtype=np.bool_)
            proposing = forward_flops(
                parts.sizes[system.proposer],
                parts.table,
                columns,
                every,
                np.ones((n, drawn), dtype=np.bool_),
            )
        else:
            proposing = getattr(columns, unit)[:, :drawn].sum(axis=1)
    rest = np.maximum(total - fallback - proposing, 0.0)  # below 0 by rounding only
    return np.stack([proposing, rest, fallback], axis=1)


def _drawn(run: SystemRun) -> int:
    return max(run.system.num_proposals, run.system.num_compared)


def _assumed(run: SystemRun) -> FloatArray | None:
    n, system, costs = run.accepted.size, run.system, AssumedCosts()
    if system.proposer == PEERS:
        return None  # other models than the price list has
    table = np.zeros((n, len(ROLES)))
    if system.proposer is not None:
        table[:, 0] = costs.cheap * _drawn(run)
        table[:, 1] = costs.verifier * run.num_distinct if system.verifier is not None else 0.0
    if system.fallback:
        table[:, 2] = np.where(run.accepted, 0.0, costs.strong)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSums:
    """Totals of each task, so that a resample is one product of matrices."""

    table: FloatArray
    """Shape (tasks, columns)."""
    total: FloatArray
    """Over all tasks, shape (columns,)."""
    names: tuple[str, ...]
    places: dict[tuple[str, str], int]
    """First column of a system's accuracy ("right": one column) or unit (four: the roles, and
    what was paid for proposing and verifying where no proposal was executed)."""
    num_rows: int
    num_labelled: int
    """Steps at which every system's label is known."""

    @classmethod
    def of(cls, runs: Mapping[str, SystemRun], parts: Outcomes) -> CostSums:
        """Of all runs, "A" among them, but oracles and panels of all models.

        There is no price for what those do.
        """
        runs = {name: run for name, run in runs.items() if not _priceless(run, parts)}
        tasks = parts.table.task_ids
        codes, num_tasks = cluster_codes(tasks, tasks.size)
        here = known(*(run.acceptable for run in runs.values()))
        columns = [_per_task(here.astype(np.float64), codes, num_tasks)]
        places: dict[tuple[str, str], int] = {("", "labelled"): 0}
        for name, run in runs.items():
            places[name, "right"] = len(columns)
            columns.append(_per_task(np.where(here, run.acceptable, 0.0), codes, num_tasks))
            for unit in UNITS:
                paid = role_costs(run, unit, parts)
                if paid is None:
                    continue
                places[name, unit] = len(columns)
                columns += [_per_task(paid[:, role], codes, num_tasks) for role in range(3)]
                tried = np.where(run.accepted, 0.0, paid[:, 0] + paid[:, 1])
                columns.append(_per_task(tried, codes, num_tasks))
        table = np.stack(columns, axis=1)
        return cls(
            table=table,
            total=table.sum(axis=0),
            names=tuple(runs),
            places=places,
            num_rows=tasks.size,
            num_labelled=int(here.sum()),
        )

    def roles(self, totals: FloatArray, name: str, unit: Unit) -> FloatArray:
        """What a system paid each role, relative to A's cost, shape (..., 3)."""
        own, whole = self.places[name, unit], self.places[STRONG_ONLY, unit]
        of_a = totals[..., whole : whole + 3].sum(axis=-1, keepdims=True)
        return np.asarray(totals[..., own : own + 3] / of_a, dtype=np.float64)

    def accuracies(self, totals: FloatArray, names: list[str]) -> FloatArray:
        """Share acceptable where every label is known, shape (..., systems)."""
        right = np.stack([totals[..., self.places[name, "right"]] for name in names], axis=-1)
        return np.asarray(right / totals[..., :1], dtype=np.float64)

    def value(self, value: float, draws: FloatArray) -> MetricValue:
        """With its interval; draws that are not finite leave it out."""
        return bootstrap_value(value, draws, n=self.num_rows, num_clusters=self.table.shape[0])


def _per_task(values: FloatArray, codes: IntArray, num_tasks: int) -> FloatArray:
    return np.bincount(codes, values, minlength=num_tasks).astype(np.float64)


def _cost(sums: CostSums, draws: FloatArray, name: str, unit: Unit) -> dict[str, Any] | None:
    total = sums.total
    if not _paid_for(sums, unit):
        return None
    shares, drawn = sums.roles(total, name, unit), sums.roles(draws, name, unit)
    row: dict[str, Any] = {
        "relative": sums.value(float(shares.sum()), drawn.sum(axis=1))
        if name != STRONG_ONLY
        else MetricValue(value=1.0, n=sums.num_rows, note="by definition"),
        **dict(zip(ROLES, map(float, shares), strict=True)),
    }
    place = sums.places[name, unit]
    if shares[0] > 0.0:
        paid = total[place : place + 3].sum()
        wasted = draws[:, place + 3] / np.maximum(draws[:, place : place + 3].sum(axis=1), 1e-300)
        row["wasted"] = sums.value(float(total[place + 3] / paid), wasted)
    return row


def _paid_for(sums: CostSums, unit: Unit) -> bool:
    place = sums.places.get((STRONG_ONLY, unit))
    return place is not None and float(sums.total[place : place + 3].sum()) > 0.0


def _sensitivity(sums: CostSums, draws: FloatArray, unit: Unit) -> dict[str, Any] | None:
    """None where the unit, or the accuracy, is not known."""
    total = sums.total
    names = [name for name in sums.names if (name, unit) in sums.places]
    if not sums.num_labelled or not _paid_for(sums, unit) or len(names) < 2:
        return None
    draws = draws[(draws[:, 0] > 0) & (draws[:, sums.places[STRONG_ONLY, unit] + 2] > 0)]
    accuracy = sums.accuracies(total, names)
    costs = np.stack([sums.roles(total, name, unit) for name in names])
    drawn = (
        sums.accuracies(draws, names),
        np.stack([sums.roles(draws, name, unit) for name in names], axis=1),
    )
    ends = tornado(costs)
    ends /= ends[names.index(STRONG_ONLY)]  # at each price A pays it, too
    return {
        "unit": unit,
        "cost_weight": COST_WEIGHT,
        "n": sums.num_labelled,
        "num_clusters": sums.table.shape[0],
        "note": few_clusters_note(sums.table.shape[0]),
        "num_resamples": len(draws),
        "base": _base(costs, names, unit),
        "systems": [
            {
                "name": name,
                "acceptable": float(accuracy[i]),
                **dict(zip(ROLES, map(float, costs[i]), strict=True)),
                "tornado": {
                    role: [float(end) for end in ends[i, j]] for j, role in enumerate(ROLES)
                },
            }
            for i, name in enumerate(names)
        ],
        "axes": [
            _axis(sums, role, names, accuracy, costs, drawn, is_used=bool(costs[:, role].any()))
            for role in range(len(ROLES))
        ],
    }


def _base(costs: FloatArray, names: list[str], unit: Unit) -> dict[str, float | None]:
    """Price of one call at a factor of 1, in strong calls of A.

    Measured units take one step of B for a proposal, and of D's verifier for a score.
    """
    if unit == "assumed":
        assumed = AssumedCosts()
        return {"proposer": assumed.cheap, "verifier": assumed.verifier, "strong": assumed.strong}

    def of(name: str, role: int) -> float | None:
        paid = float(costs[names.index(name), role]) if name in names else 0.0
        return paid if paid > 0.0 else None

    return {"proposer": of("B", 0), "verifier": of("D", 1), "strong": 1.0}


def _axis(
    sums: CostSums,
    role: int,
    names: list[str],
    accuracy: FloatArray,
    costs: FloatArray,
    drawn: tuple[FloatArray, FloatArray],
    *,
    is_used: bool,
) -> dict[str, Any]:
    on_set, best = (
        shares_over_draws(*drawn, role, FACTORS, COST_WEIGHT) if is_used else (np.empty(0),) * 2
    )
    a = names.index(STRONG_ONLY)

    def told(share: FloatArray) -> dict[str, list[float]]:
        return {
            name: [round(float(s), 3) for s in share[:, i]]
            for i, name in enumerate(names)
            if share.size and share[:, i].any()
        }

    return {
        "role": ROLES[role],
        "pareto": [
            {"from": s.low, "to": s.high, "systems": [names[i] for i in s.systems]}
            for s in pareto_stretches(accuracy, costs, role)
        ],
        "best": [
            {"from": s.low, "to": s.high, "system": names[s.systems[0]]}
            for s in best_stretches(accuracy, costs, role, COST_WEIGHT)
        ],
        "against_a": [
            {"system": name, **_against(sums, costs[i], costs[a], drawn[1][:, (i, a)], role)}
            for i, name in enumerate(names)
            if i != a
        ],
        "factors": list(FACTORS) if is_used else [],
        "on_pareto": told(on_set),
        "best_share": told(best),
    }


def _against(
    sums: CostSums, cost: FloatArray, of_a: FloatArray, drawn: FloatArray, role: int
) -> dict[str, Any]:
    """Where a system is cheaper than A, with an interval over resamples."""
    found = crossing(cost, of_a, role)
    if found.cheaper == "always" or found.cheaper == "never":
        return {"cheaper": found.cheaper, "at": None}
    at = resampled_crossings(drawn[:, 0], drawn[:, 1], role, found.cheaper)
    # No interpolation: infinity is a place like any other.
    low, high = map(float, np.quantile(at, [0.025, 0.975], method="inverted_cdf"))
    value = MetricValue(
        value=found.at, low=low, high=high, n=sums.num_rows, num_clusters=sums.table.shape[0]
    )
    if not np.isfinite(high):
        share = 100.0 * float(np.isinf(at).mean())
        value = replace(value, high=None, note=f"not reached in {share:.0f} % of the resamples")
    elif high - low < 1e3 * SAME * high:  # by rounding only
        value = replace(value, low=None, high=None, note="no interval: the same in every draw")
    return {"cheaper": found.cheaper, "at": value}
