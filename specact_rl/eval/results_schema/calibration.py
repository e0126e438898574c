"""Calibration of verifiers, and what becomes of it elsewhere."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from specact_rl.eval.results_schema.parts import Metric, NullBand, Part


class BrierParts(Part):
    """brier = reliability - resolution + uncertainty + within_variance - within_covariance."""

    reliability: float
    """Lower is better."""
    resolution: float
    """Higher is better."""
    uncertainty: float
    """Variance of the label."""
    within_variance: float
    """Of probabilities within bins."""
    within_covariance: float
    """Twice that of probability and label within bins."""
    brier: float
    """Mean squared error of the probabilities."""


class CalibrationTest(Part):
    """Test of the hypothesis that all probabilities are right."""

    statistic: float | None
    """null: undefined; `note` says why."""
    p_value: float | None
    """Two-sided for a normal statistic, else of one as large; null as `statistic`."""
    n: int
    """Rows."""
    num_clusters: int | None
    """Tasks; null: rows were taken as independent."""
    correlation: float | None
    """Of two residuals of one task; null as `num_clusters`."""
    note: str | None
    """null: nothing to say."""


class CalibrationLine(Part):
    """Observed against promised."""

    gap: Metric
    """Mean label less mean probability; 0 is right."""
    slope: Metric
    """On log-odds; 1 is right, below 1 probabilities are too extreme."""
    intercept: Metric
    """Log-odds of the label at probability one half; 0 is right."""


class CalibratedVerifier(CalibrationLine):
    """How far one gate's probabilities can be trusted, on test rows with a score and a label."""

    system: str
    """Whose gate it is."""
    name: str
    """Key of the verifier."""
    n: int
    """Proposals."""
    num_tasks: int
    """Behind them."""
    base_rate: float
    """Share acceptable."""
    mean_p_accept: float
    """Mean probability."""
    bands: dict[str, NullBand]
    """By calibration error: ece, ece_equal_mass, ece_sweep, debiased_ece."""
    brier: BrierParts
    """Over bins of equal mass."""
    log_loss: float
    """Mean, in nats."""
    auprc: Metric
    """Average precision; the base rate is chance."""
    spiegelhalter: CalibrationTest
    """z, above 0 where the Brier score is worse than promised."""
    clustered_test: CalibrationTest
    """The equal-mass ECE, tasks' rows depending on each other."""


class CalibrationPart(Part):
    """The main verifier on a part of the rows; null where `note` says why."""

    partition: str
    """action type, tool, step or family."""
    name: str
    """Of the part."""
    n: int
    """Rows."""
    num_clusters: int
    """Tasks."""
    prevalence: Metric | None
    """Share acceptable."""
    mean_p: float | None
    """Mean probability."""
    auroc: Metric | None
    """0.5 is chance."""
    brier: float | None
    """Mean squared error of the probabilities."""
    brier_skill: Metric | None
    """1 is perfect, 0 is always saying the part's base rate."""
    null_band: NullBand | None
    """Of the debiased ECE."""
    gap: Metric | None
    """Mean label less mean probability."""
    p_value: float | None
    """That all probabilities of the part are right."""
    p_holm: float | None
    """After Holm's correction over all parts that were tested."""
    note: str | None
    """null: nothing to say."""


class LeftOut(Part):
    """Parts that are not shown."""

    parts: int
    """How many."""
    rows: int
    """Rows in them."""


class CalibrationParts(Part):
    """One verifier part by part."""

    system: str
    """D, or the first with a gate."""
    min_rows: int
    """Below which a part has no numbers."""
    rows: list[CalibrationPart]
    """By partition; one that has everything in one part is left out."""
    left_out: dict[str, LeftOut]
    """By partition: smaller parts beyond the largest."""


class Drift(Part):
    """One gate's calibration in two places."""

    system: str
    """Whose gate it is."""
    kind: Literal["splits", "policies", "families", "live"]
    """In what the places differ."""
    from_: str = Field(alias="from")
    """The first place, in words."""
    to: str
    """The second."""
    first: CalibrationLine
    """Of the first place."""
    second: CalibrationLine
    """Of the second."""
    difference: CalibrationLine
    """Second less first; 0 is no drift."""


class RecalibrationRow(Part):
    """One kind of calibrator on calibration tasks that it was not fitted on."""

    name: str
    """Of the kind."""
    n: int
    """Rows."""
    log_loss: Metric
    """Mean, in nats."""
    minus_own: Metric | None
    """Log loss less that of the gate's own kind; null: it is that kind."""
    brier: Metric
    """Mean squared error."""
    band: NullBand
    """Of the debiased ECE."""
    p_value: float | None
    """That all probabilities are right, tasks' rows depending on each other; null: undefined."""
    accept_rate: Metric
    """Share accepted at a threshold that was chosen on other tasks, too."""
    selective_risk: Metric
    """Share not acceptable among them; undefined if nothing is accepted."""


class Recalibration(Part):
    """All kinds of calibrators for one gate; fitting, choosing and measuring share no row."""

    system: str
    """Whose gate it is."""
    n: int
    """Rows of the calibration split; of very many, those of tasks drawn by lot."""
    chosen_for_gate: str | None = None
    """Kind that the gate has; null: not compared."""
    rows: list[RecalibrationRow]
    """Empty: not compared, `note` says why."""
    note: str | None
    """null: nothing to say."""


class Calibration(Part):
    """How far the gates' probabilities can be trusted."""

    verifiers: list[CalibratedVerifier]
    """One for each gated system of one proposal."""
    parts: CalibrationParts
    """Of the main one."""
    drift: list[Drift]
    """Between splits, policies and families, and from replay to live episodes of the same tasks,
    where there are two."""
    recalibration: list[Recalibration]
    """Empty: the calibration split was not given."""
