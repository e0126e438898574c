"""One row of the systems table: accuracy, acceptance, cost, and how it stands beside A."""

from __future__ import annotations

from typing import Any

import numpy as np

from specact_rl.eval.columns import LEVELS, StepTable
from specact_rl.eval.replay import SystemRun
from specact_rl.metrics.cost import AssumedCosts, gated_cost
from specact_rl.metrics.frontier import agreement_rates, oracle_gate, random_gate, worst_gate
from specact_rl.metrics.paired import (
    cluster_bootstrap_mean,
    paired_cluster_bootstrap,
    tost_equivalence,
)
from specact_rl.metrics.resampling import cluster_codes, percentile_interval, resampled_sums
from specact_rl.metrics.values import BoolArray, FloatArray, MetricValue
from specact_rl.types import ACTION_TYPES

MARGIN = 0.02
"""Accuracy within which a system counts as no worse than the strong model alone."""
NUM_RESAMPLES = 10_000


def system_report(
    run: SystemRun,
    table: StepTable,
    strong_only: SystemRun,
    proposed: BoolArray | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """A system's row as JSON.

    Args:
        run: What the system did.
        table: The test steps.
        strong_only: System A on the same steps.
        proposed: Whether the proposal that was offered is acceptable, shape (n,); None for A.
        rng: Of the intervals.
    """
    tasks = table.task_ids
    row: dict[str, Any] = {
        "name": run.system.name,
        "title": run.system.title,
        "fallback": run.system.fallback,
        "n": len(table.steps),
        "acceptable": _mean(run.acceptable, tasks, rng),
        "same_state": _mean(run.same_state, tasks, rng),
        **{level: _mean(run.levels[level], tasks, rng) for level in LEVELS},
        "mflops_per_step": float(run.flops.mean()) / 1e6,
        "relative_flops": ratio_of_totals(run.flops, strong_only.flops, tasks, rng),
        "ms_per_step": float(run.seconds.mean()) * 1e3,
        "assumed_cost": _assumed_cost(run),
        "num_distinct": float(run.num_distinct.mean()),
        "difference_from_a": paired_cluster_bootstrap(
            run.acceptable, strong_only.acceptable, tasks, rng=rng, num_resamples=NUM_RESAMPLES
        ),
        "by_type": _by_type(run, table, strong_only),
    }
    if run is not strong_only:
        test = tost_equivalence(run.acceptable, strong_only.acceptable, tasks, margin=MARGIN)
        row["equivalence"] = test
        # One-sided at 5 %: 1.645 standard errors, from some hundreds of tasks.
        row["not_worse_than_a"] = test.difference - 1.645 * test.standard_error > -MARGIN
    if proposed is not None:
        row["accept_rate"] = _mean(run.accepted, tasks, rng)
        row["selective_risk"] = _selective_risk(run.accepted, proposed, tasks, rng)
    if run.system.gated and proposed is not None:
        row |= _against_reference_gates(run, proposed, strong_only.acceptable, tasks, rng)
    return row


def _against_reference_gates(
    run: SystemRun, proposed: BoolArray, strong: BoolArray, tasks: np.ndarray, rng: Any
) -> dict[str, Any]:
    rates = agreement_rates(proposed, strong)
    a = run.accept_rate
    return {
        "skill": gate_skill_interval(run.accepted, proposed, strong, tasks, rng),
        "random_gate": random_gate(rates, a),
        "oracle_gate": oracle_gate(rates, a),
        "worst_gate": worst_gate(rates, a),
        "peak_oracle": rates.peak_oracle,
    }


def gate_skill_interval(
    accepted: BoolArray, cheap: BoolArray, strong: BoolArray, tasks: np.ndarray, rng: Any
) -> MetricValue:
    """Accuracy above the random gate of the same accept rate, Cov(g, C - S), clusters resampled."""
    gain = cheap.astype(np.float64) - strong
    columns = np.stack([accepted * gain, accepted.astype(np.float64), gain, np.ones(gain.size)], 1)
    codes, num_clusters = cluster_codes(tasks, gain.size)
    sums = np.zeros((num_clusters, 4))
    np.add.at(sums, codes, columns)

    def covariance(totals: FloatArray) -> FloatArray:
        both, g, d, n = totals.T
        result: FloatArray = both / n - (g / n) * (d / n)
        return result

    interval = percentile_interval(covariance(resampled_sums(sums, NUM_RESAMPLES, rng)), 0.95)
    return MetricValue(
        value=float(covariance(sums.sum(axis=0)[None])[0]),
        low=interval.low,
        high=interval.high,
        n=gain.size,
        num_clusters=num_clusters,
    )


def ratio_of_totals(a: FloatArray, b: FloatArray, tasks: np.ndarray, rng: Any) -> MetricValue:
    """Total of a over total of b, clusters resampled."""
    codes, num_clusters = cluster_codes(tasks, a.size)
    sums = np.stack([np.bincount(codes, a), np.bincount(codes, b)], axis=1).astype(np.float64)
    draws = resampled_sums(sums, NUM_RESAMPLES, rng)
    interval = percentile_interval(draws[:, 0] / draws[:, 1], 0.95)
    return MetricValue(
        value=float(a.sum() / b.sum()),
        low=interval.low,
        high=interval.high,
        n=a.size,
        num_clusters=num_clusters,
    )


def _mean(values: BoolArray, tasks: np.ndarray, rng: Any) -> MetricValue:
    return cluster_bootstrap_mean(values, tasks, rng=rng, num_resamples=NUM_RESAMPLES)


def _selective_risk(
    accepted: BoolArray, proposed: BoolArray, tasks: np.ndarray, rng: Any
) -> MetricValue:
    if not accepted.any():
        return MetricValue(value=None, n=0, note="nothing is accepted")
    return _mean(~proposed[accepted], tasks[accepted], rng)


def _assumed_cost(run: SystemRun) -> float:
    """With the source report's constants (cheap 0.15, verifier 0.10, strong 1), fallback paid."""
    costs = AssumedCosts()
    if run.system.proposer is None:
        return costs.strong
    scored = float(run.num_distinct.mean()) if run.system.verifier is not None else 0.0
    return gated_cost(
        costs,
        run.accept_rate,
        num_proposals=max(run.system.num_proposals, run.system.num_compared),
        num_scored=scored,
        fallback=run.system.fallback,
    )


def _by_type(run: SystemRun, table: StepTable, strong_only: SystemRun) -> dict[str, Any]:
    """Per action type of the expert's action: steps, accept rate and accuracies."""
    rows: dict[str, Any] = {}
    for action_type in ACTION_TYPES:
        here = table.reference_types == action_type
        if here.any():
            rows[action_type] = {
                "n": int(here.sum()),
                "accept_rate": float(run.accepted[here].mean()),
                "acceptable": float(run.acceptable[here].mean()),
                "strong_acceptable": float(strong_only.acceptable[here].mean()),
            }
    return rows
