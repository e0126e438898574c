"""What gates are worth: value and frontier of the replay.

Accuracy is the share of steps whose executed action is acceptable. Relative costs are in steps of
system A, the strong model alone.
"""

from __future__ import annotations

from typing import Literal

from specact_rl.eval.results_schema.parts import Metric, Part


class SkillParts(Part):
    """A gate's accuracy over a random gate of its accept rate, split in two ways.

    skill = discrimination + complementarity
    = best_discrimination + best_complementarity + best_rate - calibration_loss.
    """

    skill: Metric
    """Difference of shares."""
    discrimination: Metric
    """Covariance of accepting and of the proposal's being right."""
    complementarity: Metric
    """Less the covariance of accepting and of the fallback's being right."""
    calibration_loss: Metric
    """Net accuracy lost to the frozen threshold against the best one, cross-fitted over tasks; may
    be below 0; undefined with one task."""
    in_sample_loss: float
    """The same against the threshold that is best on these very steps; at least 0."""
    best_discrimination: Metric
    """As `discrimination`, of the best threshold; undefined with one task, as the next two."""
    best_complementarity: Metric
    """As `complementarity`, of the best threshold."""
    best_rate: Metric
    """What accepting at the best threshold's rate is worth more to a random gate."""
    best_accept_rate: float | None
    """Share of steps; null: there is one task."""
    net_value: Metric
    """Accuracy and saved calls over never accepting."""


class Envelope(Part):
    """What gates of one accept rate can reach."""

    accept_rate: float
    """Share of steps."""
    accuracy: float
    """Of this gate."""
    random: float
    """Accuracy of a random gate of that rate."""
    oracle: float
    """Of the best."""
    worst: float
    """Of the worst."""
    efficiency: Metric
    """1 is the best gate, 0 a random one; undefined where the two are the same."""


class EqualRate(Part):
    """A gate against accepting as many steps by a verifier that costs nothing."""

    gain: Metric
    """Difference of shares, paired by step."""
    more_tasks: int | None
    """Further tasks after which such a difference would be shown, at power 0.8; 0: it is; null: no
    interval, or no difference."""


class ValueRow(Part):
    """What the verifier of one gated system is worth."""

    name: str
    """Of the system."""
    verifier: str
    """Key of the verifier."""
    proposer: str
    """Role of the judged model."""
    n: int
    """Steps at which proposal and fallback are labelled."""
    call_worth: float
    """Accuracy that a saved strong call was worth when the threshold was chosen."""
    parts: SkillParts
    """Its skill, split."""
    envelope: Envelope
    """Bounds at its accept rate."""
    at_equal_rate: dict[str, EqualRate]
    """By key of the free verifier. Empty: several proposals a step, all or nothing is accepted, or
    no free verifier judges them."""


class Joint(Part):
    """How often D's proposal and the strong model are right together and alone; sums to 1."""

    n: int
    """Steps at which both are labelled."""
    both: float
    """Share of steps."""
    only_cheap: float
    """Share of steps."""
    only_strong: float
    """Share of steps."""
    neither: float
    """Share of steps."""


class BreakEvenRow(Part):
    """What a verifier in D's place needs to beat both A and B, at one price list."""

    costs: Literal["assumed", "flops"]
    """The source report's constants, or as measured."""
    call_worth: float
    """Accuracy that a strong call is worth."""
    proposal_cost: float
    """Of a step, in strong calls."""
    verifier_cost: float
    """Of a step, in strong calls."""
    accept_rate: float
    """Share of steps that have to be accepted to pay for proposing and verifying."""
    possible: bool
    """Whether a verifier that knows what is right would do."""
    none_below: float | None
    """AUROC below which no verifier does; null: not even a perfect one does."""
    binormal: float | None
    """AUROC needed if scores are normal, of one variance; null as above."""
    all_above: float | None
    """AUROC above which every verifier does; null as above."""
    message: str
    """In words."""


class SecondRuns(Part):
    """One model's first answer or another of its own, and the oracle over both models."""

    role: str
    """Of the model."""
    num_runs: int
    """Samples per step."""
    first: Metric
    """Share of steps at which the first is right."""
    second_run: Metric
    """Share at which the first or another is."""
    oracle: Metric | None = None
    """Share at which the first or the strong model is; null: it is the strong model, or nothing is
    labelled."""
    oracle_over_second_run: Metric | None = None
    """Difference of shares, paired by step; null as `oracle`."""


class DifferenceTarget(Part):
    """A verifier trained on proposal less fallback beside one trained on the proposal alone."""

    better: str
    """System of the former."""
    worse: str
    """System of the latter."""
    accept_rates: list[float]
    """Shares of steps, in this order."""
    call_worth: float
    """Accuracy that a strong call is worth."""
    difference: Metric
    """Difference of shares acceptable, paired by step."""
    net_difference: Metric
    """Likewise, less what the strong calls are worth that it makes more."""


class Value(Part):
    """What verification is worth."""

    systems: list[ValueRow]
    """Of each gated system."""
    joint: Joint | None
    """null: D has no gate, or nothing is labelled."""
    break_even: list[BreakEvenRow]
    """Empty as `joint`; costs as measured only where they are known."""
    second_runs: list[SecondRuns]
    """Models with several samples a step."""
    difference_target: list[DifferenceTarget]
    """Empty: there is no such verifier."""


class FrontierSystem(Part):
    """One system as a point of cost and accuracy."""

    name: str
    """Of the system."""
    cost: float
    """In the frontier's `cost`."""
    acceptable: float
    """Accuracy."""
    pareto: bool
    """No other is cheaper and at least as right, or as cheap and more right."""
    hull: bool
    """Nor is a mixture of two others by lot."""


class FrontierPoint(Part):
    """A gate at one threshold."""

    threshold: float | None
    """null: the ends of the curve, which accept nothing or all."""
    accept_rate: float
    """Share of steps."""
    acceptable: float
    """Accuracy."""
    cost: float
    """In the frontier's `cost`."""


class GateFrontier(Part):
    """One gate over all thresholds; the numbers choose none."""

    name: str
    """Of the system."""
    n: int
    """Steps at which proposal and fallback are labelled."""
    envelope_share: Metric
    """Area over cost: 1 is the oracle's curve, 0 that of random gates."""
    recovered_gap: float | None
    """PGR of the frozen threshold: 0 is the proposer alone, 1 the strong model; null: the strong
    model is no better."""
    average_recovered_gap: Metric
    """APGR over the share of strong calls; 0.5 is a random gate; undefined as PGR."""
    calls_for_gap: dict[str, Metric]
    """CPT: share of strong calls that recovers 0.5, 0.8, 0.95 of the gap; undefined as PGR."""
    curve: list[FrontierPoint]
    """Over a grid of thresholds that looks at no test row."""


class Frontier(Part):
    """Which systems are worth having, and where gates lie between the bounds."""

    cost: Literal["relative_flops", "strong_calls"]
    """Relative to A, or the share of steps that call the strong model where FLOPs are not known."""
    systems: list[FrontierSystem]
    """Those whose cost and accuracy are known, but panels."""
    cost_range: list[float] | None = None
    """Cheapest and dearest; null: no system."""
    quality: Metric | None
    """Mean accuracy along the hull over that range; null: no system."""
    quality_ungated: Metric | None
    """The same of A and B alone; null: neither is there."""
    gap: Metric | None
    """Accuracy of the strong model less that of D's proposer; null: D has no gate."""
    gap_note: str | None
    """Why shares of the gap mean nothing, or what to mind; null: all is well."""
    gates: list[GateFrontier]
    """Of each gated system."""
