"""What a score table's calibration came to: the record, as JSON and as a Markdown page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from specact_rl.metrics import METRICS_VERSION, MetricValue
from specact_rl.metrics.calibration import ReliabilityCurve
from specact_rl.metrics.null_bands import NullBand
from specact_rl.metrics.selective import RiskCoverage
from specact_rl.policy.calibrators import Calibrator
from specact_rl.policy.thresholds import Feasibility, ThresholdChoice

ScoreScale = Literal["log_odds", "probability"]
PartName = Literal["fit", "select", "test"]

NOT_LIVE = (
    "None of this carries over to live episodes, in which an accepted mistake changes the steps "
    "that follow."
)
NUM_CURVE_ROWS = 20
"""Points of the risk-coverage curve that are written out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCounts:
    """Size of one part of the split."""

    num_rows: int
    num_clusters: int
    num_acceptable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTableReport:
    """Everything `calibrate_scores` found; all values but the first block are on the test part."""

    seed: int
    scale: ScoreScale
    num_rows: int
    """Rows given, dropped ones included."""
    dropped: dict[str, int]
    """Rows left out, by reason."""
    parts: dict[PartName, PartCounts]
    cv_log_loss: dict[str, float]
    """Cross-validated log loss in nats of each calibrator, within the fit part; lowest wins."""
    calibrator: Calibrator
    choice: ThresholdChoice
    notes: list[str]

    auroc: MetricValue
    brier: float
    brier_skill: MetricValue
    log_loss: float
    ece: float
    debiased_ece: MetricValue
    null_band: NullBand
    """Of the debiased ECE."""
    reliability: ReliabilityCurve
    risk_coverage: RiskCoverage
    aurc: MetricValue
    e_aurc: MetricValue
    augrc: MetricValue
    accept_rate: MetricValue
    selective_risk: MetricValue
    false_accept_rate: MetricValue
    false_reject_rate: MetricValue
    feasibility: list[Feasibility]
    """By target risk; on the select part, as the threshold."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: no NaN, arrays as lists, curves thinned to a few points."""
        body = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        body["calibrator"] = self.calibrator.to_json()
        body["risk_coverage"] = _plain(_thinned(self.risk_coverage))
        return {"metrics_version": METRICS_VERSION, **body}

    def to_markdown(self) -> str:
        """The report as a Markdown page."""
        return "\n".join(_markdown_lines(self)) + "\n"


def _thinned(curve: RiskCoverage) -> RiskCoverage:
    last = curve.coverage.size - 1
    rows = np.unique(np.linspace(0, last, NUM_CURVE_ROWS).round().astype(np.int64))
    return RiskCoverage(
        threshold=curve.threshold[rows],
        num_accepted=curve.num_accepted[rows],
        coverage=curve.coverage[rows],
        risk=curve.risk[rows],
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _markdown_lines(report: ScoreTableReport) -> Iterator[str]:
    dropped = ", ".join(f"{name}={count}" for name, count in report.dropped.items() if count)
    yield "# Calibration of a score table"
    yield ""
    yield f"{report.num_rows} rows, dropped: {dropped or 'none'}. Seed {report.seed}."
    yield ""
    yield from _table(
        ["part", "rows", "clusters", "acceptable"],
        [
            [name, str(c.num_rows), str(c.num_clusters), str(c.num_acceptable)]
            for name, c in report.parts.items()
        ],
    )
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in report.cv_log_loss.items())
    yield f"Calibrator: **{report.calibrator.kind}**, lowest cross-validated log loss ({losses})."
    yield ""
    cut = "accepts nothing" if report.choice.threshold is None else f"{report.choice.threshold:.4f}"
    yield f"Threshold on the probability: **{cut}**. {report.choice.message}."
    yield ""
    if report.choice.feasible and report.choice.controls is not None:
        yield f"Promised of new tasks like these: {report.choice.controls}."
        yield ""
    confidence = 1.0 - report.feasibility[0].delta
    yield (
        f"What could be promised of a row drawn from each cluster, with confidence {confidence:g} "
        "for each line by itself:"
    )
    yield ""
    yield from (f"- {found.message}." for found in report.feasibility)
    yield ""
    yield NOT_LIVE
    yield ""
    for note in report.notes:
        yield f"Note: {note}."
        yield ""
    yield "## On the test part"
    yield ""
    yield from _table(["metric", "value", "95 % interval", "note"], _metric_rows(report))
    yield "## Reliability"
    yield ""
    r = report.reliability
    yield from _table(
        ["probability", "rows", "mean probability", "acceptable"],
        [
            [f"{r.low[i]:.3f} to {r.high[i]:.3f}", str(r.count[i])]
            + [f"{r.mean_predicted[i]:.3f}", f"{r.fraction_acceptable[i]:.3f}"]
            for i in range(r.count.size)
        ],
    )
    yield "## Risk against coverage"
    yield ""
    c = _thinned(report.risk_coverage)
    yield from _table(
        ["threshold", "accepted", "accept rate", "selective risk"],
        [
            [f"{c.threshold[i]:.4f}", str(c.num_accepted[i])]
            + [f"{c.coverage[i]:.3f}", f"{c.risk[i]:.3f}"]
            for i in range(c.coverage.size)
        ],
    )


def _metric_rows(report: ScoreTableReport) -> list[list[str]]:
    band = report.null_band
    null = (
        f"if calibrated: {band.low:.4f} to {band.high:.4f}, p = {band.p_value:.3f}"
        if band.low is not None and band.high is not None and band.p_value is not None
        else ""
    )
    return [
        _metric_row("AUROC (raw score)", report.auroc),
        _metric_row("Brier skill", report.brier_skill),
        ["Brier score", f"{report.brier:.4f}", "", ""],
        ["log loss (nats)", f"{report.log_loss:.4f}", "", ""],
        _metric_row("debiased ECE", report.debiased_ece, null),
        ["plug-in ECE", f"{report.ece:.4f}", "", "biased upwards"],
        _metric_row("AURC", report.aurc),
        _metric_row("E-AURC", report.e_aurc),
        _metric_row("AUGRC", report.augrc),
        _metric_row("accept rate", report.accept_rate),
        _metric_row("selective risk", report.selective_risk),
        _metric_row("false accept rate", report.false_accept_rate),
        _metric_row("false reject rate", report.false_reject_rate),
    ]


def _metric_row(name: str, metric: MetricValue, note: str = "") -> list[str]:
    value = "undefined" if metric.value is None else f"{metric.value:.4f}"
    interval = ""
    if metric.low is not None and metric.high is not None:
        interval = f"{metric.low:.4f} to {metric.high:.4f}"
    return [name, value, interval, "; ".join(part for part in (note, metric.note) if part)]


def _table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""
