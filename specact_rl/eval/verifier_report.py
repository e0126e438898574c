"""How well a verifier tells right from wrong proposals, and what it adds to the free ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.labelled import known
from specact_rl.eval.replay import Judged
from specact_rl.metrics.calibration import (
    ReliabilityCurve,
    bin_numbers,
    brier_skill_interval,
    debiased_ece,
    expected_calibration_error,
    reliability_curve,
)
from specact_rl.metrics.discrimination import (
    auroc_difference,
    auroc_interval,
    within_group_auroc,
)
from specact_rl.metrics.null_bands import calibration_null_band, consistency_band
from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.resampling import cluster_codes
from specact_rl.metrics.selective import aurc, e_aurc, risk_coverage
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray, MetricValue
from specact_rl.policy.gates import Gate
from specact_rl.types import ACTION_TYPES

MIN_ROWS_OF_A_TYPE = 30
"""Fewer labelled proposals of an action type than this are not given an AUROC of their own."""
NUM_CURVE_POINTS = 60
NUM_BINS = 10
"""Of the reliability curve, of equal mass."""


def verifier_report(
    name: str,
    table: StepTable,
    proposer: ProposalColumns,
    judged: Judged,
    gate: Gate,
    free: dict[str, Judged],
    rng: np.random.Generator,
    num_resamples: int = 10_000,
) -> dict[str, Any]:
    """One row of the verifiers table, as JSON, on the greedy proposals that could be judged.

    `auroc_same_step` alone is on all samples that it judged.

    Args:
        name: Key of the verifier.
        table: The test steps.
        proposer: Whose proposals were judged.
        judged: The verifier's scores.
        gate: Its gate, whose calibrator gives the probabilities.
        free: Verifiers that cost nothing, to compare with, by key.
        rng: Of the intervals.
        num_resamples: Draws of each; an AUROC's has none.
    """
    scores, labels = judged.log_odds[:, 0], proposer.acceptable[:, 0]
    scored, labelled = ~np.isnan(scores), known(labels)
    rows = np.flatnonzero(scored & labelled)
    z, y = scores[rows], labels[rows] == 1.0
    tasks, _ = cluster_codes(table.task_ids[rows], rows.size)  # numbers are sorted faster
    types = proposer.action_types[rows, 0]
    report: dict[str, Any] = {
        "name": name,
        "verifier_id": judged.verifier_id,
        "num_params": None if judged.size is None else judged.size.num_params,
        "n": int(rows.size),
        "num_unparsable": int((~scored).sum()),
        "num_unlabelled": int((scored & ~labelled).sum()),
        "base_rate": cluster_rate(y, tasks),
        "auroc": auroc_interval(z, y, tasks),
        "auroc_within_types": _within_types(z, y, types, tasks),
        "auroc_same_type": within_group_auroc(z, y, types, tasks),
        "auroc_same_step": _same_step(table, proposer, judged),
        "gain_over": _gains_over(
            {other: j for other, j in free.items() if other != name}, rows, z, y, tasks
        ),
        "calibrator": gate.calibrator.kind,
        "threshold": gate.threshold,
        "gate_message": gate.message,
    }
    p = gate.p_accept(z)
    curve = reliability_curve(p, y, NUM_BINS, "equal_mass")
    band = calibration_null_band(
        p, y, rng=rng, statistic="debiased_ece", binning="equal_mass", num_draws=1000
    )
    report |= {
        "brier_skill": brier_skill_interval(p, y, tasks, rng=rng, num_resamples=num_resamples),
        "ece": expected_calibration_error(curve),
        "debiased_ece": debiased_ece(curve),
        "null_band": band,
        "aurc": aurc(p, y),
        "e_aurc": e_aurc(p, y),
        "reliability": _reliability_rows(curve, p, y, tasks, rng.spawn(1)[0]),
        "risk_coverage": _risk_rows(p, y),
        "accepted": _accepted(p, y, tasks, gate),
    }
    return report


def _gains_over(
    free: dict[str, Judged],
    rows: IntArray,
    scores: FloatArray,
    labels: BoolArray,
    tasks: IntArray,
) -> dict[str, MetricValue]:
    """AUROC less that of each other verifier, on the rows that both scored; none without such."""
    found = {}
    for other, judged in free.items():
        others = judged.log_odds[rows, 0]
        both = ~np.isnan(others)
        if both.any():
            found[other] = auroc_difference(scores[both], others[both], labels[both], tasks[both])
    return found


def _same_step(
    table: StepTable,
    proposer: ProposalColumns,
    judged: Judged,
) -> MetricValue | None:
    """AUROC over pairs of distinct proposals of one step; None if it judged one sample only.

    What choosing among several proposals needs. A verifier that only knows how hard a step is has
    a high AUROC over all rows and 0.5 here.
    """
    scores = np.where(proposer.first_of_its_kind, judged.log_odds, np.nan)
    if np.isnan(judged.log_odds[:, 1:]).all():
        return None
    steps, samples = np.nonzero(~np.isnan(scores) & known(proposer.acceptable))
    return within_group_auroc(
        scores[steps, samples],
        proposer.acceptable[steps, samples] == 1.0,
        steps,
        table.task_ids[steps],
    )


def _accepted(p: FloatArray, y: BoolArray, tasks: np.ndarray, gate: Gate) -> dict[str, Any] | None:
    """Are the probabilities right where they count? None when nothing is accepted."""
    here = gate.decide(p)
    if not here.any():
        return None
    return {
        "n": int(here.sum()),
        "mean_p_accept": float(p[here].mean()),
        "acceptable": cluster_rate(y[here], tasks[here]),
    }


def _within_types(
    z: FloatArray,
    y: BoolArray,
    types: np.ndarray,
    tasks: np.ndarray,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for action_type in ACTION_TYPES:
        here = types == action_type
        if here.sum() >= MIN_ROWS_OF_A_TYPE:
            found[action_type] = auroc_interval(z[here], y[here], tasks[here])
    return found


def _reliability_rows(
    curve: ReliabilityCurve,
    p: FloatArray,
    y: BoolArray,
    tasks: IntArray,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Bins with the interval of what was observed, and where a calibrated bin would be."""
    bins = bin_numbers(p, NUM_BINS, "equal_mass")
    low, high = consistency_band(p, rng=rng, n_bins=NUM_BINS, binning="equal_mass")
    rows: list[dict[str, Any]] = []
    for i, number in enumerate(np.unique(bins).tolist()):
        here = bins == number
        observed = cluster_rate(y[here], tasks[here])
        rows.append(
            {
                "p_accept": float(curve.mean_predicted[i]),
                "acceptable": float(curve.fraction_acceptable[i]),
                "low": observed.low,
                "high": observed.high,
                "n": int(curve.count[i]),
                "num_tasks": observed.num_clusters,
                "calibrated_low": float(low[i]),
                "calibrated_high": float(high[i]),
            }
        )
    return rows


def _risk_rows(p: np.ndarray, y: np.ndarray) -> list[dict[str, float]]:
    curve = risk_coverage(p, y)
    keep = np.unique(np.linspace(0, curve.coverage.size - 1, NUM_CURVE_POINTS).round().astype(int))
    return [{"coverage": float(curve.coverage[i]), "risk": float(curve.risk[i])} for i in keep]
