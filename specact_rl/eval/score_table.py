"""The easiest door: a table of scores and labels in, an honest calibration report and a gate out.

Rows are split by cluster into three parts. The first fits the calibrators and picks one of them
by cross-validation, the second chooses the threshold, the third is only reported on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import special

from specact_rl.errors import ConfigError, DegenerateResultError
from specact_rl.eval.score_reader import ScoreTable, read_score_table
from specact_rl.eval.score_report import PartCounts, PartName, ScoreScale, ScoreTableReport
from specact_rl.metrics.calibration import (
    brier_score,
    brier_skill_interval,
    debiased_ece,
    expected_calibration_error,
    log_loss,
    reliability_curve,
)
from specact_rl.metrics.discrimination import auroc_interval
from specact_rl.metrics.null_bands import calibration_null_band
from specact_rl.metrics.resampling import Clusters, cluster_codes
from specact_rl.metrics.selective import gate_errors, risk_coverage
from specact_rl.metrics.selective_intervals import risk_areas
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray, check_lengths
from specact_rl.policy.fitting import cluster_folds, cross_validated_log_loss, fit_lowest
from specact_rl.policy.gates import Gate, decide
from specact_rl.policy.thresholds import ThresholdRequest, certify
from specact_rl.store import content_hash, file_hash

__all__ = [
    "ScoreTable",
    "ScoreTableReport",
    "as_log_odds",
    "calibrate_scores",
    "read_score_table",
    "table_gate",
]


TARGETS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Risks of which the report says what could be promised, beside the one that was asked for."""
ASKED = ThresholdRequest()


def calibrate_scores(
    scores: Sequence[float | None] | FloatArray,
    labels: Sequence[bool | None] | BoolArray,
    clusters: Clusters | None,
    *,
    seed: int,
    scale: ScoreScale = "log_odds",
    asked: ThresholdRequest = ASKED,
    n_bins: int = 10,
    num_resamples: int = 2000,
) -> ScoreTableReport:
    """Calibrate, choose a threshold and report, each on a third of the clusters.

    Args:
        scores: Higher is better; None (unscored) rows are dropped and counted.
        labels: True where acceptable; None (unknown) rows are dropped and counted.
        clusters: Task id per row, so that no task is in two parts; None takes each row as its own.
        seed: Of the split and of the bootstrap.
        scale: "log_odds" for any real score; "probability" for scores in [0, 1], which are turned
            into log-odds first.
        asked: How the threshold is chosen; the default is a target risk of 0.1 with confidence
            0.9, exact, from one row per task.
        n_bins: Bins of equal mass of the reliability curve and the ECEs.
        num_resamples: Bootstrap draws (AUROC, Brier skill), and draws of the null band.

    Raises:
        ConfigError: Too few clusters, or a fit part with one class only.
        DegenerateResultError: All scores are the same.
        ValueError: Lengths differ, a score is NaN or infinite, or out of its scale.
    """
    table = _Rows.of(scores, labels, clusters, scale)
    rng = np.random.default_rng(seed)
    parts = _split(table, rng)
    fit, select, test = parts["fit"], parts["select"], parts["test"]
    cv = cross_validated_log_loss(fit.log_odds, fit.labels, fit.codes, rng)
    calibrator = fit_lowest(cv, fit.log_odds, fit.labels)
    p_select = calibrator.predict(select.log_odds)
    # A copy draws the same row of each task, so that a threshold and what is said of its target
    # are of the same rows.
    same_draw = deepcopy(rng)
    choice = asked.choose(p_select, select.labels, select.codes, rng)
    targets = sorted({*TARGETS, asked.target_risk})
    promised = certify(
        p_select, select.labels, select.codes, targets, delta=asked.delta, rng=same_draw
    )

    p, y = calibrator.predict(test.log_odds), test.labels
    accepted = decide(p, choice.threshold)
    errors = gate_errors(accepted, y, test.codes)
    areas = risk_areas(p, y, test.codes)
    curve = reliability_curve(p, y, n_bins, "equal_mass")
    return ScoreTableReport(
        seed=seed,
        scale=scale,
        num_rows=table.num_given,
        dropped=table.dropped,
        parts={name: part.counts for name, part in parts.items()},
        cv_log_loss=cv,
        calibrator=calibrator,
        choice=choice,
        notes=_notes(table, clusters, scale),
        # Of the raw score: a calibrator with flat stretches can only lose order.
        auroc=auroc_interval(test.log_odds, y, test.codes),
        brier=brier_score(p, y),
        brier_skill=brier_skill_interval(p, y, test.codes, rng=rng, num_resamples=num_resamples),
        log_loss=log_loss(p, y),
        ece=expected_calibration_error(curve),
        debiased_ece=debiased_ece(curve),
        null_band=calibration_null_band(
            p,
            y,
            rng=rng,
            statistic="debiased_ece",
            n_bins=n_bins,
            binning="equal_mass",
            num_draws=num_resamples,
        ),
        reliability=curve,
        risk_coverage=risk_coverage(p, y),
        aurc=areas.aurc,
        e_aurc=areas.e_aurc,
        augrc=areas.augrc,
        accept_rate=errors.accept_rate,
        selective_risk=errors.selective_risk,
        false_accept_rate=errors.false_accept_rate,
        false_reject_rate=errors.false_reject_rate,
        feasibility=[found.feasibility for found in promised],
    )


def as_log_odds(scores: FloatArray, scale: ScoreScale) -> FloatArray:
    """Scores as calibrators and gates take them: log-odds as they are, logit(p) of probabilities.

    Raises:
        ValueError: A probability outside [0, 1].
    """
    if scale == "log_odds":
        return scores
    if scores.min() < 0.0 or scores.max() > 1.0:
        raise ValueError(
            f"scores on the scale 'probability' must lie in [0, 1], got "
            f"{float(scores.min())!r} to {float(scores.max())!r}"
        )
    # Clipped, so that a certain 0 or 1 stays finite.
    log_odds: FloatArray = special.logit(np.clip(scores, 1e-9, 1.0 - 1e-9))
    return log_odds


def table_gate(
    report: ScoreTableReport, path: Path, *, score: str, label: str, cluster: str | None
) -> Gate:
    """The report's calibrator and threshold as a gate, bound to the table they come from.

    It takes log-odds, whatever the table has: those of `as_log_odds` with the report's scale. A
    table does not say which models it is of, so the ids name its columns and content instead, and
    `verifier_id` says what to put in: "COLUMN@HASH", or "logit(COLUMN)@HASH" of probabilities.

    Args:
        report: Of this table.
        path: The table.
        score: Its column with the scores.
        label: Its column with the labels.
        cluster: Its column with the task ids; None where each row was a task.
    """
    table_hash = file_hash(path)
    column = score if report.scale == "log_odds" else f"logit({score})"
    calibration = {
        "table": table_hash,
        "columns": [score, label, cluster],
        "scale": report.scale,
        "seed": report.seed,  # which decides whose rows were fitted on
    }
    return Gate.from_choice(
        report.calibrator,
        report.choice,
        verifier_id=f"{column}@{table_hash[:16]}",
        proposer_id=f"table@{table_hash[:16]}",
        calibration_hash=content_hash(calibration),
        num_fit_rows=report.parts["fit"].num_rows,
        seed=report.seed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Scored and labelled rows."""

    log_odds: FloatArray
    labels: BoolArray
    codes: IntArray
    num_given: int
    dropped: dict[str, int]

    @classmethod
    def of(
        cls,
        scores: Sequence[float | None] | FloatArray,
        labels: Sequence[bool | None] | BoolArray,
        clusters: Clusters | None,
        scale: ScoreScale,
    ) -> _Rows:
        unknown = np.array([label is None for label in labels], dtype=np.bool_)
        unscored = np.array([score is None for score in scores], dtype=np.bool_)
        check_lengths(scores=unscored, labels=unknown)
        kept = np.flatnonzero(~unknown & ~unscored)
        if not kept.size:
            raise ConfigError(
                f"no row has both a score and a label: {unscored.size} rows, {unscored.sum()} "
                f"without a score, {unknown.sum()} without a label"
            )
        z = np.array([scores[i] for i in kept.tolist()], dtype=np.float64)
        if not np.isfinite(z).all():
            bad = int(kept[np.flatnonzero(~np.isfinite(z))[0]])
            raise ValueError(f"scores must be finite or None, got {scores[bad]!r} at row {bad}")
        if z.min() == z.max():
            raise DegenerateResultError(
                f"all {z.size} scores are {float(z[0])!r}: a verifier that says the same of "
                "everything cannot gate; check its prompt and end token"
            )
        ids: Clusters = np.arange(unknown.size) if clusters is None else clusters
        codes, _ = cluster_codes(ids, unknown.size)
        return cls(
            log_odds=as_log_odds(z, scale),
            labels=np.array([bool(labels[i]) for i in kept.tolist()], dtype=np.bool_),
            codes=codes[kept],
            num_given=unknown.size,
            dropped={
                "no_label": int((unknown & ~unscored).sum()),
                "no_score": int((unscored & ~unknown).sum()),
                "no_score_and_no_label": int((unknown & unscored).sum()),
            },
        )

    def take(self, rows: BoolArray) -> _Rows:
        return dataclasses.replace(
            self, log_odds=self.log_odds[rows], labels=self.labels[rows], codes=self.codes[rows]
        )

    @property
    def counts(self) -> PartCounts:
        return PartCounts(
            num_rows=self.labels.size,
            num_clusters=np.unique(self.codes).size,
            num_acceptable=int(self.labels.sum()),
        )


def _split(table: _Rows, rng: np.random.Generator) -> dict[PartName, _Rows]:
    """Thirds of the clusters, by lot; which one a cluster gets does not depend on row order."""
    fold = cluster_folds(table.codes, 3, rng)
    parts: dict[PartName, _Rows] = {
        "fit": table.take(fold == 0),
        "select": table.take(fold == 1),
        "test": table.take(fold == 2),
    }
    for name, part in parts.items():
        counts = part.counts
        one_class = counts.num_acceptable in (0, counts.num_rows)
        if not counts.num_rows or (name == "fit" and one_class):
            raise ConfigError(
                f"the {name} part must have {'both labels' if counts.num_rows else 'rows'}, got "
                f"{counts.num_rows} rows of {counts.num_clusters} clusters, "
                f"{counts.num_acceptable} acceptable: the table is too small, or one-sided"
            )
    return parts


def _notes(table: _Rows, clusters: Clusters | None, scale: ScoreScale) -> list[str]:
    notes = []
    if clusters is None:
        notes.append("no cluster column: rows are taken as independent, intervals may be too short")
    if scale == "log_odds" and table.log_odds.min() >= 0.0 and table.log_odds.max() <= 1.0:
        notes.append("all scores lie in [0, 1] but are read as log-odds: are they probabilities?")
    return notes
