"""Value, frontier, costs, latency, calibration and certificates of the replay.

Accuracy is the share of steps whose executed action is acceptable. Relative costs are in steps of
system A, the strong model alone.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from specact_rl.eval.results_schema.parts import Metric, Nothing, NullBand, Part

# --- replay.value


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


# --- replay.frontier


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


# --- replay.costs and replay.sensitivity


class Cost(Part):
    """What a system takes in one unit, relative to A, by who is paid."""

    relative: Metric
    """All together."""
    proposer: float
    """Its part."""
    verifier: float
    """Its part."""
    strong: float
    """Its part."""
    wasted: Metric | None = None
    """Share of the cost that went into proposals that were not executed; null: none is made."""


class CostRow(Part):
    """One system in all units; a unit is null where it is not known."""

    name: str
    """Of the system."""
    n: int
    """Steps."""
    assumed: Cost | None = None
    """The source report's price list; null: other models propose."""
    flops: Cost | None = None
    """Forward FLOPs."""
    seconds: Cost | None = None
    """As measured when outcomes were collected in batches."""
    price: Cost | None = None
    """US dollars."""


class CallPrices(Part):
    """Price of one call at a factor of 1, in strong calls of A."""

    proposer: float | None
    """Of a proposal; null: not known."""
    verifier: float | None
    """Of a judgement; null: not known, or nothing is paid."""
    strong: float | None
    """1 by definition."""


class Tornado(Part):
    """Cost relative to A when one role's price is halved, and when it is doubled."""

    proposer: list[float]
    """Two numbers, in this order."""
    verifier: list[float]
    """Likewise."""
    strong: list[float]
    """Likewise."""


class PricedSystem(Part):
    """One system at the given prices."""

    name: str
    """Of the system."""
    acceptable: float
    """Accuracy where all systems' labels are known."""
    proposer: float
    """Cost relative to A."""
    verifier: float
    """Likewise."""
    strong: float
    """Likewise."""
    tornado: Tornado
    """At other prices."""


class ParetoStretch(Part):
    """A range of factors in which the Pareto set is the same."""

    from_: float = Field(alias="from")
    """Factor of the price."""
    to: float | None
    """null: all above."""
    systems: list[str]
    """By rising cost."""


class BestStretch(Part):
    """A range of factors in which one system has the most accuracy less the worth of its cost."""

    from_: float = Field(alias="from")
    """Factor of the price."""
    to: float | None
    """null: all above."""
    system: str
    """Its name."""


class AgainstA(Part):
    """At which factors of a price a system is cheaper than A."""

    system: str
    """Its name."""
    cheaper: Literal["below", "above", "always", "never"]
    """On which side of `at`."""
    at: Metric | None
    """The factor; null: always or never."""


class PriceAxis(Part):
    """What changes when the price of one role is multiplied."""

    role: Literal["proposer", "verifier", "strong"]
    """Whose price."""
    pareto: list[ParetoStretch]
    """From factor 0 up."""
    best: list[BestStretch]
    """From factor 0 up."""
    against_a: list[AgainstA]
    """Of each other system."""
    factors: list[float]
    """At which resamples were counted. Empty: no system pays this role."""
    on_pareto: dict[str, list[float]]
    """By system, share of resamples in which it is on the Pareto set, at each factor; those that
    never are, are left out."""
    best_share: dict[str, list[float]]
    """Likewise, in which it is the best."""


class Sensitivity(Part):
    """At which prices the order of the systems turns, in one unit of cost."""

    unit: Literal["assumed", "flops", "price"]
    """As in the rows of `costs`."""
    cost_weight: float
    """Accuracy that a strong call is worth where one system is called the best."""
    n: int
    """Steps at which every system's label is known."""
    num_clusters: int
    """Tasks."""
    note: str | None
    """What to mind of intervals; null: nothing."""
    num_resamples: int
    """Draws of tasks."""
    base: CallPrices
    """What is multiplied."""
    systems: list[PricedSystem]
    """Those whose cost is known, but oracles and panels."""
    axes: list[PriceAxis]
    """By role."""


# --- replay.latency


class Schedule(Part):
    """One system in one schedule, simulated from measured seconds: models', and tools' if known."""

    system: str
    """Its name."""
    mode: Literal["sequential", "parallel", "speculative"]
    """The strong model after a rejection, beside the proposal, or behind guesses acted on."""
    depth: int | None
    """Steps that speculation may be ahead; null: it does not speculate."""
    effects: list[str] | None
    """Effects of actions that it may cause; null as `depth`."""
    breadth: int | None
    """Guesses at once; null: one."""
    n: int
    """Steps."""
    relative_seconds: Metric
    """Relative to A, one step after the other."""
    speed_up: Metric
    """Its inverse."""
    relative_cost: Metric
    """Relative to A, in `cost_unit`; undefined where not known."""
    strong_calls: float
    """Per step, cancelled ones by the part that had run."""
    wasted_runs: float
    """Actions per step that were executed on a wrong guess."""
    independent: float | None
    """Relative seconds if hits were dealt to steps at random; null: undefined."""
    over_promise: Metric
    """Relative seconds less `independent`: what independence would promise too much."""
    call_ms_on_hits: float | None
    """Mean milliseconds of the strong call where a guess is right or accepted; null: nowhere."""
    call_ms_on_misses: float | None
    """Likewise, elsewhere."""
    launch_rate: float | None = None
    """Share of steps at which something is launched; null: it does not speculate."""
    hit_rate: float | None = None
    """Share of steps at which a launched guess is right; null as `launch_rate`."""
    formula_saving: float | None = None
    """Share of the time that the published formula promises at this hit rate; null: more than one
    step ahead, or a time is 0."""
    formula_saving_committed: float | None = None
    """The same if actions wait for the commit; null likewise."""


class Breadth(Part):
    """B with several guesses at once, one step ahead; lists are by number of guesses, from 1."""

    coverage: list[float]
    """Share of steps at which one of them is right and may be launched."""
    effective_draws: list[float | None]
    """Independent guesses that would cover as much; null: coverage is 0 or 1."""
    num_distinct: list[float]
    """Mean number that differ and may be launched."""
    saved_per_second_run: list[float | None]
    """Seconds saved by one guess more, per second that calls cancelled for it ran; null: none."""
    rows: list[Schedule]
    """Their schedules."""


class Latency(Part):
    """What the measured steps would take in other schedules."""

    effects: dict[str, float]
    """Share of B's first guesses with each effect. Empty: B takes no part, or no rollout has
    two steps."""
    cost_unit: Literal["flops", "seconds"]
    """Of `relative_cost`."""
    ms_per_step: float
    """Mean milliseconds of A's calls."""
    seconds_per_episode: float
    """Mean seconds of A over the logged steps of a rollout, tools included where known."""
    tool_ms_per_step: float | None = None
    """Mean milliseconds that executing A's actions took; null: not known, and in no schedule."""
    tool_note: str | None = None
    """Why the tools' seconds are in no schedule; null: they are, or it was written before they were
    measured."""
    rows: list[Schedule]
    """One guess at once."""
    breadth: Breadth | Nothing
    """Several; an empty object: one sample a step, or one step a rollout."""


# --- replay.calibration


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


# --- replay.certificates


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
