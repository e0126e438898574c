"""What each gate's verifier could promise: certified thresholds, and what they come to on the test.

Thresholds are chosen on the half of the calibration tasks that chose the gate's own, with the
gate's calibrator, which was fitted on the other half. The test split is only measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.eval.columns import StepTable
from specact_rl.eval.joined import Outcomes
from specact_rl.eval.labelled import known
from specact_rl.eval.replay import SystemRun
from specact_rl.metrics.resampling import cluster_codes
from specact_rl.metrics.selective import gate_errors
from specact_rl.metrics.selective_intervals import risk_areas, risk_coverage_band
from specact_rl.metrics.task_loss import RiskOf, TaskCounts
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray
from specact_rl.policy.fitting import selecting
from specact_rl.policy.gates import Gate, decide
from specact_rl.policy.systems import System
from specact_rl.policy.thresholds import TargetCertificates, ThresholdChoice, certify

TARGETS = (0.01, 0.02, 0.05, 0.1, 0.2)
DELTA = 0.1
"""Chance that one of the promises with confidence is broken; each stands by itself."""
NUM_POINTS = 20
"""Of the risk-coverage band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """Proposals that one verifier has scored, of which the labels are known; n of them."""

    p_accept: FloatArray
    """Calibrated; NaN where nothing could be scored, which no threshold accepts."""
    acceptable: BoolArray
    codes: IntArray
    """Task number."""

    @classmethod
    def of(cls, run: SystemRun, codes: IntArray, rows: BoolArray) -> Judgements:
        """The chosen steps of a gated system's run."""
        return cls(
            p_accept=run.p_accept[rows],
            acceptable=run.offered[rows] == 1.0,
            codes=codes[rows],
        )

    @classmethod
    def of_scores(
        cls, gate: Gate, outcomes: Outcomes, verifier: str, *, selects: bool = False
    ) -> Judgements:
        """What a verifier says of the cheap model's first proposals, where there is no system.

        Args:
            gate: Its calibrator is used.
            outcomes: Of one split.
            verifier: Key of its scores.
            selects: Of the rows of `selecting` alone, for the calibration split.
        """
        labels = outcomes.columns["cheap"].acceptable[:, 0]
        codes, _ = cluster_codes(outcomes.table.task_ids, labels.size)
        rows = known(labels) & selecting(gate, codes) if selects else known(labels)
        return cls(
            p_accept=gate.p_accept(outcomes.judged[verifier, "cheap"].log_odds[:, 0])[rows],
            acceptable=labels[rows] == 1.0,
            codes=codes[rows],
        )

    @property
    def scored(self) -> Judgements:
        """Those with a score."""
        rows = ~np.isnan(self.p_accept)
        return Judgements(
            p_accept=self.p_accept[rows],
            acceptable=self.acceptable[rows],
            codes=self.codes[rows],
        )


def certificate_rows(
    calibration_runs: Mapping[str, SystemRun],
    calibration_table: StepTable,
    runs: Mapping[str, SystemRun],
    table: StepTable,
    gates: Mapping[str, Gate],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """A row per gated system: ranking, what is feasible, and certificates by target.

    Args:
        calibration_runs: Of the gated systems and of A, on what the gates were fitted on.
        calibration_table: Its steps.
        runs: The same systems on the test split.
        table: Its steps.
        gates: By system; each names the seed of its halves.
        rng: Only a generator spawned from it is used, for the bands.

    Raises:
        ConfigError: The calibration rows are not those that a gate was fitted on.
    """
    own = rng.spawn(1)[0]
    then, _ = cluster_codes(calibration_table.task_ids, len(calibration_table.steps))
    now, _ = cluster_codes(table.task_ids, len(table.steps))
    strong_then = calibration_runs["A"].acceptable
    rows = []
    for name, after in runs.items():
        if name not in gates:
            continue
        gate, before = gates[name], calibration_runs[name]
        row = certificate_row(
            after.system,
            gate,
            Judgements.of(before, then, selecting(gate, then) & known(before.offered, strong_then)),
            Judgements.of(after, now, known(after.offered)),
            own,
        )
        rows += [row] if row is not None else []
    return rows


def certificate_row(
    system: System,
    gate: Gate,
    chosen_on: Judgements,
    measured_on: Judgements,
    rng: np.random.Generator,
) -> dict[str, Any] | None:
    """Certificates of one gated system as JSON; None where there is nothing to go by.

    Args:
        system: Whose gate it is.
        gate: As it stands.
        chosen_on: What thresholds are chosen on: the rows of `selecting` with a label.
        measured_on: What they are measured on; chooses nothing.
        rng: Of the band of the risk-coverage curve.

    Raises:
        ConfigError: `chosen_on` is not what the gate's threshold was chosen on.
    """
    _check_same_rows(system.name, gate, chosen_on)
    if not chosen_on.scored.codes.size or not measured_on.scored.codes.size:
        return None
    return {
        "system": system.name,
        "verifier": system.verifier,
        "proposer": system.proposer,
        "delta": DELTA,
        **certificates(chosen_on, measured_on, gate, rng),
    }


def certificates(
    chosen_on: Judgements, measured_on: Judgements, gate: Gate, rng: np.random.Generator
) -> dict[str, Any]:
    """What one verifier could promise, and what it comes to; arguments as `certificate_row`."""
    select, test = chosen_on.scored, measured_on.scored
    areas = risk_areas(test.p_accept, test.acceptable, test.codes)
    own = gate_errors(
        decide(measured_on.p_accept, gate.threshold), measured_on.acceptable, measured_on.codes
    )
    # A draw of the gate's own, so that a threshold depends on what it was chosen on and no more.
    promised = certify(
        select.p_accept,
        select.acceptable,
        select.codes,
        TARGETS,
        delta=DELTA,
        rng=np.random.default_rng([gate.seed, 1]),
    )
    return {
        "calibration": _counts(chosen_on),
        "test": _counts(measured_on),
        "aurc": areas.aurc,
        "e_aurc": areas.e_aurc,
        "augrc": areas.augrc,
        "false_accept_rate": own.false_accept_rate,
        "false_reject_rate": own.false_reject_rate,
        "risk_coverage": _band(test, rng),
        "targets": [_target(found, chosen_on, measured_on) for found in promised],
    }


def _target(
    found: TargetCertificates, chosen_on: Judgements, measured_on: Judgements
) -> dict[str, Any]:
    able = found.feasibility

    def row(method: str, choice: ThresholdChoice, of: RiskOf) -> dict[str, Any]:
        now = measured_on
        counts = TaskCounts.of(decide(now.p_accept, choice.threshold), now.acceptable, now.codes)
        return {
            "method": method,
            "controls": choice.controls,
            "message": choice.message,
            "threshold": choice.threshold,
            "calibration_accept_rate": float(decide(chosen_on.p_accept, choice.threshold).mean()),
            "accept_rate": counts.accept_rate(),
            "selective_risk": counts.selective_risk(),
            "controlled_risk": counts.risk(of),
        }

    return {
        "target": able.target_risk,
        "base_risk": able.base_risk,
        "oracle_accept_rate": able.oracle_accept_rate,
        "met_accept_rate": able.met_accept_rate,
        "certified_accept_rate": able.certified_accept_rate,
        "more_tasks": able.more_tasks,
        "message": able.message,
        "certificates": [
            row("exact", able.choice, "one_step"),
            row("task", found.task, "wrong_among_accepted"),
            row("conformal", found.conformal, "wrong_share"),
        ],
    }


def _band(test: Judgements, rng: np.random.Generator) -> list[dict[str, float]]:
    if cluster_codes(test.codes, test.codes.size)[1] < 2:
        return []
    band = risk_coverage_band(
        test.p_accept, test.acceptable, test.codes, rng=rng, num_points=NUM_POINTS
    )
    columns = ("threshold", "coverage", "risk", "low", "high")
    values = np.stack([getattr(band, column) for column in columns], axis=1)
    return [dict(zip(columns, row, strict=True)) for row in values.tolist()]


def _counts(rows: Judgements) -> dict[str, int]:
    scored = rows.scored.codes
    return {
        "n": rows.codes.size,
        "num_scored": scored.size,
        "num_tasks": cluster_codes(scored, scored.size)[1],
    }


def _check_same_rows(name: str, gate: Gate, chosen_on: Judgements) -> None:
    expected, found = gate.counts.get("num_select"), chosen_on.scored.codes.size
    one_per_task = cluster_codes(chosen_on.scored.codes, found)[
        1
    ]  # of a gate that was itself certified
    if expected not in (found, one_per_task):
        raise ConfigError(
            f"gate of {name} chose its threshold on {expected} steps, but the calibration outcomes "
            f"have {found} of {one_per_task} tasks there: they are not what it was fitted on; "
            "calibrate again"
        )
