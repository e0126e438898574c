"""What verification is worth and where each gate lies between the bounds, as rows of the results.

Thresholds are the frozen ones; curves run over a fixed grid of calibrated probabilities, so that no
threshold is a quantile of the rows it is valued on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from specact_rl.eval.joined import STRONG, Outcomes
from specact_rl.eval.labelled import known
from specact_rl.eval.replay import Judged, SystemRun, offered_proposals, run_system
from specact_rl.eval.threshold_curves import fallback_costs
from specact_rl.metrics.call_costs import CallCosts
from specact_rl.metrics.cost import AssumedCosts
from specact_rl.metrics.frontier import agreement_rates, convex_hull, hull_quality, pareto_set
from specact_rl.metrics.gate_curves import (
    GateTable,
    average_recovered_gap,
    call_share_for_gap,
    envelope_share,
    recovered_gap,
    why_no_gap,
)
from specact_rl.metrics.resampling import cluster_codes
from specact_rl.metrics.value import (
    break_even_auroc,
    envelope,
    gain_at_equal_rate,
    linear_values,
    more_clusters_to_settle,
    self_oracle,
    skill_parts,
)
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray, MetricValue
from specact_rl.policy.fitting import COST_WEIGHT
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import PANEL

THRESHOLDS = np.linspace(0.0, 1.0, 101)
"""Calibrated probabilities at which curves are computed."""
SHOWN_EVERY = 5
"""Of which every fifth stands in the results."""
GAPS = (0.5, 0.8, 0.95)
"""Shares of the gap between the two models at which CPT is given."""
DIFFERENCE_TARGETS = {"D-diff": "D", "D-diff-half": "D-half"}
"""Systems whose verifiers learn C - S, and those whose learn C, by the same models of the same
answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts(Outcomes):
    """What systems are joined from on the steps that are measured, and what they did there."""

    runs: Mapping[str, SystemRun]
    gates: Mapping[str, Gate]

    @property
    def strong(self) -> SystemRun:
        """The strong model alone."""
        return self.runs["A"]

    def gated(self) -> dict[str, SystemRun]:
        """Runs of systems with a gate of their own, at which something is labelled."""
        return {
            name: run
            for name, run in self.runs.items()
            if name in self.gates and known(run.offered, self.strong.acceptable).any()
        }

    def judged_of(self, run: SystemRun) -> Judged:
        """What its verifier said."""
        return self.judged[str(run.system.verifier), str(run.system.proposer)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The steps at which proposal and fallback of a system are labelled."""

    here: BoolArray
    accepted: BoolArray
    cheap: BoolArray
    strong: BoolArray
    codes: IntArray

    @classmethod
    def of(cls, run: SystemRun, parts: Parts, codes: IntArray) -> Rows:
        """Of one gated run; `codes` number the tasks of all steps."""
        here = known(run.offered, parts.strong.acceptable)
        return cls(
            here=here,
            accepted=run.accepted[here],
            cheap=run.offered[here] == 1.0,
            strong=parts.strong.acceptable[here] == 1.0,
            codes=codes[here],
        )


def value_report(parts: Parts, free: Collection[str], rng: np.random.Generator) -> dict[str, Any]:
    """`replay.value`: skill in parts, equal rates, break-even and second runs, as JSON.

    Args:
        parts: Of the test steps.
        free: Keys of verifiers that cost nothing.
        rng: A generator of this report's own.
    """
    codes, _ = cluster_codes(parts.table.task_ids, len(parts.table.steps))
    systems = []
    for name, run in parts.gated().items():
        rows = Rows.of(run, parts, codes)
        systems.append(
            {
                "name": name,
                "verifier": run.system.verifier,
                "proposer": run.system.proposer,
                "n": int(rows.here.sum()),
                "call_worth": _call_worth(parts.gates[name]),
                **_skill(run, rows, parts, rng),
                "at_equal_rate": _at_equal_rate(run, rows, parts, free),
            }
        )
    return {
        "systems": systems,
        "joint": _joint(parts),
        "break_even": _break_even(parts),
        "second_runs": _second_runs(parts, codes),
        "difference_target": _difference_target(parts, codes),
    }


def _call_worth(gate: Gate) -> float:
    """Accuracy that a saved strong call was worth when its threshold was chosen."""
    return float(gate.rule_arguments.get("cost_weight", COST_WEIGHT))


def _skill(run: SystemRun, rows: Rows, parts: Parts, rng: np.random.Generator) -> dict[str, Any]:
    offer = offered_proposals(
        run.system, parts.columns[str(run.system.proposer)], parts.judged_of(run)
    )
    scores = np.where(np.isnan(run.p_accept), np.nan, offer.log_odds)
    found = skill_parts(
        rows.accepted,
        scores[rows.here],
        rows.cheap,
        rows.strong,
        rows.codes,
        call_worth=_call_worth(parts.gates[run.system.name]),
        rng=rng,
    )
    bounds = envelope(rows.accepted, rows.cheap, rows.strong, rows.codes)
    return {"parts": asdict(found), "envelope": asdict(bounds)}


def _at_equal_rate(
    run: SystemRun, rows: Rows, parts: Parts, free: Collection[str]
) -> dict[str, Any]:
    """Points over accepting as many by each free verifier, and the tasks that would settle it."""
    system = run.system
    if system.num_proposals > 1 or rows.accepted.all() or not rows.accepted.any():
        return {}
    found: dict[str, Any] = {}
    for (key, role), judged in parts.judged.items():
        if role != system.proposer or key == system.verifier or key not in free:
            continue
        gain = gain_at_equal_rate(
            rows.accepted, judged.log_odds[rows.here, 0], rows.cheap, rows.strong, rows.codes
        )
        found[key] = {"gain": gain, "more_tasks": more_clusters_to_settle(gain)}
    return found


def _joint(parts: Parts) -> dict[str, Any] | None:
    """How often D's proposer and the strong model are right together and alone."""
    cheap = _first_of_d(parts)
    if cheap is None:
        return None
    here = known(cheap, parts.strong.acceptable)
    c, s = cheap[here] == 1.0, parts.strong.acceptable[here] == 1.0
    return {
        "n": int(here.sum()),
        "both": float((c & s).mean()),
        "only_cheap": float((c & ~s).mean()),
        "only_strong": float((~c & s).mean()),
        "neither": float((~c & ~s).mean()),
    }


def _difference_target(parts: Parts, codes: IntArray) -> list[dict[str, Any]]:
    """A verifier trained on C - S beside the one on C: accuracy, and net of strong calls."""
    found = []
    same_models = DIFFERENCE_TARGETS
    if "D-trees" in parts.runs:  # D's verifier is of another make
        same_models = {"D-diff": "D-trees"}
    for better, worse in same_models.items():
        if better not in parts.gated() or worse not in parts.gated():
            continue
        a, b = parts.runs[better], parts.runs[worse]
        worth = _call_worth(parts.gates[better])
        calls = a.called.astype(np.float64) - b.called
        found.append(
            {
                "better": better,
                "worse": worse,
                "accept_rates": [a.accept_rate, b.accept_rate],
                "call_worth": worth,
                "difference": _mean(a.acceptable - b.acceptable, codes),
                "net_difference": _mean(a.acceptable - b.acceptable - worth * calls, codes),
            }
        )
    return found


def _first_of_d(parts: Parts) -> FloatArray | None:
    """Labels of the proposals that D is offered; None where it has no gate, or nothing labelled."""
    run = parts.gated().get("D")
    return None if run is None else run.offered


def _break_even(parts: Parts) -> list[dict[str, Any]]:
    """What a verifier of D's place needs, at assumed and at measured costs."""
    cheap = _first_of_d(parts)
    if cheap is None:
        return []
    here = known(cheap, parts.strong.acceptable)
    rates = agreement_rates(cheap[here] == 1.0, parts.strong.acceptable[here] == 1.0)
    worth = _call_worth(parts.gates["D"])
    assumed = AssumedCosts()
    costs = {"assumed": (assumed.cheap / assumed.strong, assumed.verifier / assumed.strong)}
    tried, proposed = _before_fallback(parts.runs["D"], parts), parts.runs.get("B")
    total = parts.strong.flops.sum()
    if proposed is not None and np.isfinite(total + tried.sum() + proposed.flops.sum()) and total:
        of_proposals = float(proposed.flops.sum() / total)
        costs["flops"] = (of_proposals, max(0.0, float(tried.sum() / total) - of_proposals))
    return [
        {
            "costs": basis,
            "call_worth": worth,
            "proposal_cost": proposal,
            "verifier_cost": verifier,
            "accept_rate": proposal + verifier,
            **asdict(
                break_even_auroc(
                    rates, call_worth=worth, proposal_cost=proposal, verifier_cost=verifier
                )
            ),
        }
        for basis, (proposal, verifier) in costs.items()
    ]


def _before_fallback(run: SystemRun, parts: Parts) -> FloatArray:
    """FLOPs of proposing and judging at each step, shape (n,); NaN where not known."""
    role = str(run.system.proposer)
    return run_system(
        replace(run.system, fallback=False),
        parts.table,
        parts.columns[STRONG],
        parts.sizes[STRONG],
        parts.columns[role],
        parts.sizes[role],
        parts.judged_of(run),
    ).flops


def _second_runs(parts: Parts, codes: IntArray) -> list[dict[str, Any]]:
    """Each model's first answer or another of its own, beside the oracle over both models."""
    strong = parts.strong.acceptable
    found = []
    for role, columns in parts.columns.items():
        if columns.acceptable.shape[1] < 2 or role in (PANEL, "peers"):
            continue
        first = columns.acceptable[:, 0]
        second = self_oracle(columns.acceptable, codes, first_apart=True)
        if second.value is None:
            continue
        here = known(first, strong) & (~np.isnan(columns.acceptable[:, 1:])).any(axis=1)
        row: dict[str, Any] = {
            "role": role,
            "num_runs": columns.acceptable.shape[1],
            "first": _mean(first, codes),
            "second_run": second,
        }
        if role != STRONG and here.any():
            either = np.maximum(first, strong)[here]
            again = _with_another(columns.acceptable[here])
            row["oracle"] = _mean(np.maximum(first, strong), codes)
            row["oracle_over_second_run"] = _mean(either - again, codes[here])
        found.append(row)
    return found


def _with_another(runs: FloatArray) -> FloatArray:
    """Chance that the first run or another, drawn by lot, is right, shape (n,)."""
    return np.maximum(runs[:, 0], np.nanmean(runs[:, 1:], axis=1))


def _mean(values: FloatArray, codes: IntArray) -> MetricValue:
    here = ~np.isnan(values)
    if not here.any():
        return MetricValue(value=None, n=0, note="no step has a label")
    codes, num_clusters = cluster_codes(codes[here], int(here.sum()))
    return linear_values({"": values[here]}, codes, num_clusters)[""]


def frontier_report(
    parts: Parts, reports: Sequence[Mapping[str, Any]], rng: np.random.Generator
) -> dict[str, Any]:
    """`replay.frontier`: Pareto set, hull and its area, and each gate's curve, as JSON.

    Args:
        parts: Of the test steps.
        reports: Rows of the systems table.
        rng: A generator of this report's own.
    """
    codes, num_tasks = cluster_codes(parts.table.task_ids, len(parts.table.steps))
    key = "relative_flops"
    if not any(report[key] for report in reports):
        key = "strong_calls"
    gap = None
    if (cheap := _first_of_d(parts)) is not None:
        gap = _mean(parts.strong.acceptable - cheap, codes)
    return {
        "cost": key,
        **_hull(reports, key),
        "gap": gap,
        "gap_note": None if gap is None else why_no_gap(gap),
        "gates": [
            _curve_row(name, run, Rows.of(run, parts, codes), parts, key, rng)
            for name, run in parts.gated().items()
        ],
    }


def _hull(reports: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Which systems are worth having, and the mean accuracy along their hull."""
    points = []
    for report in reports:
        cost, accuracy = _value(report[key]), _value(report["acceptable"])
        if cost is not None and accuracy is not None and report["proposer"] != PANEL:
            points.append((str(report["name"]), cost, accuracy))
    if not points:
        return {"systems": [], "quality": None, "quality_ungated": None}
    names, costs, accuracies = (list(column) for column in zip(*points, strict=True))
    kept, hull = set(pareto_set(costs, accuracies)), set(convex_hull(costs, accuracies))
    ungated = [i for i, name in enumerate(names) if name in ("A", "B")]
    spread = (min(costs), max(costs))
    return {
        "systems": [
            {
                "name": name,
                "cost": cost,
                "acceptable": accuracy,
                "pareto": i in kept,
                "hull": i in hull,
            }
            for i, (name, cost, accuracy) in enumerate(points)
        ],
        "cost_range": spread,
        "quality": hull_quality(costs, accuracies),
        "quality_ungated": (
            hull_quality(
                [costs[i] for i in ungated],
                [accuracies[i] for i in ungated],
                cost_range=spread,
            )
            if ungated
            else None
        ),
    }


def _value(metric: Any) -> float | None:
    """Of a MetricValue or a bare number."""
    found = getattr(metric, "value", metric)
    return None if found is None else float(found)


def _curve_row(
    name: str, run: SystemRun, rows: Rows, parts: Parts, key: str, rng: np.random.Generator
) -> dict[str, Any]:
    proposal_costs, calls = _costs(run, rows, parts, key)
    table = GateTable.of(
        run.p_accept[rows.here],
        rows.cheap,
        rows.strong,
        rows.codes,
        thresholds=THRESHOLDS,
        proposal_costs=proposal_costs,
        calls=calls,
        rng=rng,
    )
    accuracy = float(np.where(rows.accepted, rows.cheap, rows.strong).mean())
    gap = float(recovered_gap(accuracy, table.sums.cheap, table.sums.strong))
    no_room = "the two models are right on the same steps, or a fallback costs nothing"
    no_gap = "undefined: the strong model is right no more often than these proposals"
    return {
        "name": name,
        "n": int(rows.here.sum()),
        "envelope_share": _with_reason(table.statistic(envelope_share), no_room),
        "recovered_gap": None if np.isnan(gap) else gap,
        "average_recovered_gap": _with_reason(table.statistic(average_recovered_gap), no_gap),
        "calls_for_gap": {
            f"{gap:g}": _with_reason(table.statistic(partial(call_share_for_gap, gap=gap)), no_gap)
            for gap in GAPS
        },
        "curve": _points(table),
    }


def _with_reason(metric: MetricValue, reason: str) -> MetricValue:
    return replace(metric, note=reason) if metric.value is None else metric


def _costs(run: SystemRun, rows: Rows, parts: Parts, key: str) -> tuple[FloatArray, CallCosts]:
    """At the labelled steps: proposing and judging, and fallbacks; in mean strong-only steps."""
    n = int(rows.here.sum())
    rollouts = parts.table.rollouts[rows.here]
    judge_answers = parts.judged_of(run).shares_strong
    calls = fallback_costs(parts.columns[STRONG], parts.sizes[STRONG], parts.table.rollouts)
    if key != "relative_flops" or calls is None or not np.isfinite(run.flops).all():
        each = np.full(n, float(judge_answers))
        return each, CallCosts(reading=np.zeros(n), writing=1.0 - each, rollouts=rollouts)
    calls = calls.at(rows.here)
    unit = calls.totals(np.zeros(n, dtype=np.int64), 1)[1] / n  # all steps call
    worth = 0.0 if judge_answers else 1.0 / unit
    return _before_fallback(run, parts)[rows.here] / unit, CallCosts(
        reading=worth * calls.reading, writing=worth * calls.writing, rollouts=rollouts
    )


def _points(table: GateTable) -> list[dict[str, float | None]]:
    """The ends of the curve, and every `SHOWN_EVERY`th threshold between them."""
    curve = table.sums.gate_curve()
    thresholds: list[float | None] = [None, *map(float, table.thresholds), None]
    kept = [0, *range(1, len(thresholds) - 1, SHOWN_EVERY), len(thresholds) - 1]
    return [
        {
            "threshold": thresholds[i],
            "accept_rate": float(curve.accept_rate[i]),
            "acceptable": float(curve.accuracy[i]),
            "cost": float(curve.cost[i]),
        }
        for i in kept
    ]
