"""What is guaranteed of a gate, from its calibration rows."""

from __future__ import annotations

from typing import Literal

from specact_rl.eval.results_schema.parts import Metric, Part


class Counts(Part):
    """Rows of one split."""

    n: int
    """With a label."""
    num_scored: int
    """Of these with a score."""
    num_tasks: int
    """Behind the scored ones."""


class BandPoint(Part):
    """One point of the risk-coverage curve."""

    threshold: float
    """Accept iff p_accept is at least this."""
    coverage: float
    """Share accepted of the proposals with a score."""
    risk: float
    """Share not acceptable among them."""
    low: float
    """Lower end of a 95 % band for all points at once."""
    high: float
    """Upper end."""


class Certificate(Part):
    """One promise at one target: the threshold, and what it comes to on the test split."""

    method: Literal["exact", "task", "conformal"]
    """Of one step a task, of the share wrong in a task, or in expectation over tasks."""
    controls: str
    """What is promised, in words."""
    message: str
    """How the threshold was found, or why there is none."""
    threshold: float | None
    """null: nothing can be accepted."""
    calibration_accept_rate: float
    """Share of the calibration rows that it accepts."""
    accept_rate: Metric
    """Share of the test rows."""
    selective_risk: Metric
    """Share not acceptable among them; undefined if nothing is accepted."""
    controlled_risk: Metric
    """What was promised, as measured on the test split."""


class Target(Part):
    """What can be promised at one risk."""

    target: float
    """Share of wrong proposals among the accepted."""
    base_risk: float
    """Share wrong of the calibration rows."""
    oracle_accept_rate: float
    """Most that any verifier could accept within the target."""
    met_accept_rate: float
    """Most that this one accepts with an observed share within the target, in hindsight."""
    certified_accept_rate: float | None = None
    """Share of the calibration steps with a score that the exact certificate's threshold accepts; 0
    without one, null: written before it was kept."""
    more_tasks: int | None
    """Calibration tasks missing to a certificate, about; null: it is there, or no number helps."""
    message: str
    """In words."""
    certificates: list[Certificate]
    """By method."""


class CertificateRow(Part):
    """What one gate's verifier could promise; thresholds never saw the test split."""

    system: str
    """Whose gate it is."""
    verifier: str
    """Its key."""
    proposer: str
    """Role of the judged model."""
    delta: float
    """Chance that one promise with confidence is broken."""
    calibration: Counts
    """Half of the calibration split, on which thresholds are chosen."""
    test: Counts
    """What they are measured on."""
    aurc: Metric
    """Mean selective risk over all accept rates; lower is better."""
    e_aurc: Metric
    """AURC above that of a perfect ranking."""
    augrc: Metric
    """Mean share accepted and wrong over all accept rates; lower is better."""
    false_accept_rate: Metric
    """Share accepted by the frozen gate of those not acceptable; undefined if there are none."""
    false_reject_rate: Metric
    """Share rejected of the acceptable ones; undefined if there are none."""
    risk_coverage: list[BandPoint]
    """From few accepted to all. Empty: one task."""
    targets: list[Target]
    """By rising risk."""
