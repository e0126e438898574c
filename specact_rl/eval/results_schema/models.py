"""What models proposed, and how well verifiers judged it."""

from __future__ import annotations

from specact_rl.eval.results_schema.parts import Metric, NullBand, Part


class Proposer(Part):
    """One model's proposals."""

    role: str
    """cheap, strong, cheap_dpo."""
    model_id: str
    """Of checkpoint and renderer, or a server's name."""
    num_params: int | None
    """null: not known."""
    num_unlabelled: int
    """Steps whose first proposal has no label."""
    groups: dict[str, dict[str, Metric]]
    """Share of steps by kind of family (all, in_family, out_of_family) and level (parsed, type,
    tool, arguments, same_state, acceptable)."""
    num_samples: int
    """Proposals per step."""
    num_distinct: float
    """Mean number of distinct parsable ones per step."""
    coverage: list[float | None]
    """Share of steps with an acceptable one among the first 1, 2, ... samples."""
    effective_k: float | None
    """Independent draws that would cover as much; null: undefined at coverage 0 or 1."""


class Ranking(Part):
    """One model's choice among listed candidates; never comparable with free text."""

    role: str
    """Of the model."""
    num_candidates: float
    """Mean per step."""
    chance: float
    """Share that a uniform choice would get."""
    arguments: Metric
    """Share of steps with the reference's arguments."""
    acceptable: Metric
    """Share of steps."""


class Baseline(Part):
    """A predictor without a language model."""

    name: str
    """markov or nearest_neighbour."""
    arguments: Metric
    """Share of steps with the reference's arguments."""
    cheap_minus_baseline: Metric
    """Difference of shares, paired by step."""


class ReliabilityBin(Part):
    """Rows of about the same probability."""

    p_accept: float
    """Mean probability."""
    acceptable: float
    """Share acceptable."""
    low: float | None
    """Lower end of the 95 % interval, clustered by task; null: there is one task."""
    high: float | None
    """Upper end."""
    n: int
    """Rows."""
    num_tasks: int | None = None
    """Behind them; null: not recorded."""
    calibrated_low: float | None = None
    """2.5 % quantile of the share acceptable if the probabilities were right, rows taken as
    independent; null: not recorded."""
    calibrated_high: float | None = None
    """97.5 % quantile; null likewise."""


class RiskPoint(Part):
    """One point of the risk-coverage curve."""

    coverage: float
    """Share accepted of the proposals that could be judged, most probable first."""
    risk: float
    """Share not acceptable among them."""


class Accepted(Part):
    """The proposals that the frozen gate accepts."""

    n: int
    """Proposals."""
    mean_p_accept: float
    """Mean probability."""
    acceptable: Metric
    """Share acceptable."""


class Verifier(Part):
    """One verifier on one proposer's greedy proposals that could be judged."""

    system: str
    """Gated system whose gate it feeds."""
    proposer: str
    """Role of the judged model."""
    name: str
    """Key of the verifier."""
    verifier_id: str
    """Of checkpoint and renderer, or of the fit."""
    num_params: int | None
    """0: no model runs; null: not known."""
    n: int
    """Proposals with score and label."""
    num_unparsable: int
    """Proposals without a score."""
    num_unlabelled: int
    """Proposals with a score and no label."""
    base_rate: Metric
    """Share acceptable."""
    auroc: Metric
    """0.5 is chance."""
    auroc_within_types: dict[str, Metric]
    """By action type of the proposal, where there are enough."""
    auroc_same_type: Metric
    """Over pairs of one action type."""
    auroc_same_step: Metric | None
    """Over pairs of distinct samples of one step; null: it judges one sample only."""
    gain_over: dict[str, Metric]
    """AUROC less that of verifiers that cost nothing, by their key, paired."""
    calibrator: str
    """Kind, chosen on the calibration split."""
    threshold: float | None
    """Accept iff p_accept is at least this; null: nothing is accepted."""
    gate_message: str
    """How the threshold was chosen, in words."""
    brier_skill: Metric
    """1 is perfect, 0 is always saying the base rate."""
    ece: float
    """Expected calibration error, equal-mass bins, biased upwards."""
    debiased_ece: Metric
    """Without that bias; may be below 0."""
    null_band: NullBand
    """What to hold the debiased ECE against."""
    aurc: float
    """Mean selective risk over all accept rates; lower is better."""
    e_aurc: float
    """AURC above that of a perfect ranking."""
    reliability: list[ReliabilityBin]
    """Bins of equal mass, from low to high."""
    risk_coverage: list[RiskPoint]
    """From few accepted to all."""
    accepted: Accepted | None
    """null: nothing is accepted."""
