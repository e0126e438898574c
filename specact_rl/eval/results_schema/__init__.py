"""What results.json holds: every key with its unit and what null means.

`docs/results-schema.json` is made from these classes. Shares are in [0, 1]; a difference of shares
is, too, and not in points. Keys that are not here are kept by readers and named by
`undocumented_keys`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from specact_rl.errors import ConfigError
from specact_rl.eval.results_schema.parts import Metric, Nothing, NullBand, Part
from specact_rl.eval.results_schema.sections import (
    Calibration,
    CertificateRow,
    CostRow,
    Frontier,
    Latency,
    Sensitivity,
    Value,
)

RESULTS_SCHEMA_VERSION = 1
"""Goes up when a key changes its meaning or goes; new keys leave it as it is."""


class Machine(Part):
    """Where it ran."""

    processor: str
    """Name of the processor."""
    cores: int | None
    """Logical cores; null: not known."""
    memory_gb: float | None
    """Memory in GiB; null: not known."""
    python: str
    """Version."""
    torch: str
    """Version and build."""


class StageTime(Part):
    """One stage of the run."""

    name: str
    """Of the stage."""
    seconds: float
    """Wall time of all attempts together."""
    complete: bool | None = None
    """false: an attempt was killed, whose seconds are lost; null: not recorded."""
    skipped: bool | None = None
    """true: it was finished before and not done again; null: not recorded."""


class EvaluatedTable(Part):
    """The table that `specact evaluate` read, and what it made of it."""

    path: str
    """As it was given; or the folder of the run that the table was made from."""
    num_rows: int
    """Rows of all splits."""
    models: dict[str, str]
    """Name in the table by role."""
    verifier: str
    """Of D and E."""
    verifiers: list[str]
    """All whose scores were read."""
    num_resamples: int
    """Draws of each bootstrap interval."""
    no_gate: dict[str, str]
    """By system: why it has no gate and is left out."""
    ignored_columns: list[str]
    """That mean nothing here."""
    seconds_of_evaluate: dict[str, float]
    """By part of the evaluation."""


class Meta(Part):
    """What the run was, and what it takes to do it again."""

    preset: str | None = None
    """Name of the preset; null: a study or a table."""
    bases: list[str] | None = None
    """Models that training started from: cheap, strong, verifier; null as `preset`."""
    study: dict[str, Any] | None = None
    """The log, its models and doubts about its labels; null: not a study."""
    table: EvaluatedTable | None = None
    """null: not an evaluation of a table."""
    seed: int
    """Of tasks, training, sampling and intervals."""
    command: str
    """As it was typed."""
    code_version: str
    """Of the package."""
    source_hash: str | None = None
    """Of the package's code; null: not recorded."""
    metrics_version: int
    """Numbers of different versions are not comparable."""
    machine: Machine
    """Where it ran."""
    wall_seconds: float
    """Of all stages."""
    stages: list[StageTime] = Field(default_factory=list)
    """In order."""
    label: str
    """What counts as acceptable, in words."""
    calibration_rule: str
    """How thresholds were chosen, in words."""
    num_params: dict[str, float] = Field(default_factory=dict)
    """Parameters by role; of a server's model they are not known, and not here."""
    server_notes: list[str] = Field(default_factory=list)
    """What is otherwise, or left out, since models were behind servers, a line each."""


class Split(Part):
    """Size of one split of the tasks."""

    num_tasks: int
    """Tasks; no task is in two splits."""
    num_steps: int | None
    """Logged steps; null: a task is one step here."""
    families: list[str]
    """Task families, in alphabetical order."""
    steps_hash: str | None = None
    """Of the split's rollouts and how long each is; null: not recorded."""


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


class Equivalence(Part):
    """Two one-sided tests against system A."""

    difference: float
    """Of shares."""
    standard_error: float
    """Clustered by task."""
    margin: float
    """Within which two systems count as equivalent, as a share."""
    p_value: float
    """Of both tests; small means equivalent."""
    p_not_worse: float
    """Of the one that asks for no more than not being worse."""
    verdict: Literal["equivalent", "different", "inconclusive"]
    """At level 0.05."""
    num_clusters: int
    """Tasks."""


class ByType(Part):
    """One system at steps whose reference has one action type."""

    n: int
    """Steps."""
    accept_rate: float
    """Share of steps."""
    acceptable: float | None
    """Share of steps; null: no label is known."""
    strong_acceptable: float | None
    """Likewise, of system A."""


class Family(Part):
    """One system on task families that were trained on, or on others."""

    n: int
    """Steps."""
    acceptable: Metric
    """Share of steps."""
    accept_rate: Metric | None = None
    """Share of steps; null: system A."""
    difference_from_a: Metric | None = None
    """Difference of shares; null: system A."""


class SystemRow(Part):
    """One system over the replayed steps of families that were trained on."""

    name: str
    """Of the system."""
    title: str
    """In words."""
    proposer: str | None
    """Role; null: the strong model is asked at once."""
    num_proposals: int
    """Per step."""
    fallback: bool
    """Whether a rejected step goes to the strong model."""
    n: int
    """Steps."""
    num_unlabelled: int
    """Steps whose outcome has no label, left out of shares."""
    acceptable: Metric
    """Share of steps whose executed action is acceptable."""
    same_state: Metric
    """Share of steps that end in the reference's state."""
    type: Metric | None
    """Share of steps with the reference's action type; null: there are no references."""
    tool: Metric | None
    """Likewise, tool."""
    arguments: Metric | None
    """Likewise, arguments."""
    strong_calls: float | None = None
    """Share of steps that call the strong model; null: it is one of a panel, or not recorded."""
    mflops_per_step: float | None
    """Million forward FLOPs, attention included; null: tokens or sizes are not known."""
    relative_flops: Metric | None
    """Relative to A; null: not known."""
    ms_per_step: float | None
    """Milliseconds as measured when outcomes were collected in batches; null: not known."""
    relative_seconds: Metric | None = None
    """Relative to A; null: not known."""
    price_per_step: float | None = None
    """US dollars; null: not known."""
    relative_price: Metric | None = None
    """Relative to A; null: not known."""
    assumed_cost: float | None
    """In strong calls, with the source report's constants; null: other models propose."""
    num_distinct: float
    """Distinct parsable proposals per step."""
    difference_from_a: Metric
    """Difference of shares acceptable, paired by step."""
    by_type: dict[str, ByType]
    """By action type of the reference."""
    families: dict[str, Family] = Field(default_factory=dict)
    """in_family and out_of_family; empty: no family was held out."""
    equivalence: Equivalence | None = None
    """null: system A, or fewer than two tasks."""
    not_worse_than_a: bool | None = None
    """At level 0.05 within the margin; null as `equivalence`."""
    accept_rate: Metric | None = None
    """Share of steps whose proposal is executed; null: no proposer."""
    selective_risk: Metric | None = None
    """Share not acceptable among the executed proposals; null: no proposer."""
    skill: Metric | None = None
    """Share acceptable above a random gate of the same accept rate; null: no gate or no label."""
    skill_among_parsed: Metric | None = None
    """Likewise, random among the proposals that parse."""
    parse_rate: float | None = None
    """Share of steps whose offered proposal parses; null as `skill`."""
    random_gate: float | None = None
    """Share acceptable that a random gate of the same accept rate expects; null as `skill`."""
    random_gate_among_parsed: float | None = None
    """Likewise, random among the proposals that parse."""
    oracle_gate: float | None = None
    """The best that any gate of this accept rate could reach."""
    worst_gate: float | None = None
    """The worst."""
    peak_oracle: float | None = None
    """Share of steps at which proposal or fallback is right."""
    over_accept_what_parses: Metric | None = None
    """Difference of shares from executing all that parses; null: no gate."""
    threshold: float | None = None
    """Frozen; null: accepts nothing, or no gate."""
    gate_id: str | None = None
    """Hash of the frozen gate; null: no gate."""


class ContrastRow(Part):
    """One comparison that was declared before the run."""

    name: str
    """The hypothesis."""
    better: str
    """System that is to be right more often."""
    worse: str
    """The other, or a reference gate."""
    level: str
    """acceptable, or a level of agreement with the reference."""
    difference: Metric
    """Of shares, paired by step."""
    p_value: float | None = None
    """Sign flips of whole tasks, two-sided; null: a reference gate, or no labels."""
    p_holm: float | None = None
    """After Holm's correction over the rows that have one."""


class ExampleRow(Part):
    """One test step and what D did there."""

    step_id: str
    """Of the step."""
    request: str
    """First message of the user."""
    last: str
    """Last message before the step."""
    proposal: str
    """Text of the cheap model."""
    accepted: bool
    """By D."""
    acceptable: bool
    """The proposal."""
    p_accept: float | None
    """null: not scored."""
    fallback: str
    """Text of the strong model."""
    fallback_acceptable: bool | None
    """null: unknown."""
    reference: str | None
    """null: none."""


class Curve(Part):
    """One gated system over thresholds, strictest first; lists are of one length.

    Thresholds but the frozen one lie at quantiles of test probabilities: for looking at, not for
    choosing.
    """

    system: str
    """Of the systems table."""
    n: int
    """Steps."""
    frozen: int
    """Place of the frozen threshold in the lists, from 0; there the numbers are the system's."""
    threshold: list[float | None]
    """null: accepts nothing."""
    num_accepted: list[int]
    """Steps."""
    accept_rate: list[float]
    """Share of steps."""
    selective_risk: list[float | None]
    """Share not acceptable among the accepted; null: nothing accepted has a label."""
    acceptable: list[float | None]
    """Share of steps; null: no label."""
    strong_calls: list[float]
    """Share of steps."""
    relative_flops: list[float] | None
    """Relative to A; null: not known."""
    assumed_cost: list[float] | None
    """As in the systems table."""
    random_gate: list[float] | None
    """Share acceptable of a random gate of this accept rate; null: no label."""
    oracle_gate: list[float] | None
    """Of the best."""
    worst_gate: list[float] | None
    """Of the worst."""


class MistakeRow(Part):
    """A test step at which the headline system's gate was sure, and wrong."""

    system: str
    """D, or the first with a gate."""
    kind: Literal["accepted_wrong", "rejected_right"]
    """What went wrong."""
    p_accept: float
    """The gate's probability."""
    step_id: str
    """Of the step."""
    task_id: str
    """Of its task."""
    action_type: str | None
    """Of the proposal; null: it does not parse."""
    request: str
    """First message of the user; this and the texts below are cut to 400 characters."""
    last: str
    """Last message before the step."""
    proposal: str
    """Text that was put before the gate."""
    fallback: str
    """Text of the strong model."""
    fallback_acceptable: bool | None
    """null: unknown."""
    reference: str | None
    """null: none."""


class Replay(Part):
    """Single test steps with their logged histories."""

    num_steps: int
    """Test steps of families that were trained on."""
    num_out_of_reach: int | None = None
    """Test steps left out because nothing is known to be right there; null: not recorded."""
    proposers: list[Proposer]
    """Models by themselves, all test steps."""
    ranking: list[Ranking] = Field(default_factory=list)
    """Empty: not done."""
    baselines: list[Baseline] = Field(default_factory=list)
    """Empty: not done."""
    verifiers: list[Verifier] = Field(default_factory=list)
    """One for each gated system of one proposal."""
    systems: list[SystemRow] = Field(default_factory=list)
    """A first. Empty: a study of one model."""
    references: list[SystemRow] = Field(default_factory=list)
    """Executing all that parses, for each kind of proposals."""
    contrasts: list[ContrastRow] = Field(default_factory=list)
    """In their declared order."""
    examples: list[ExampleRow] = Field(default_factory=list)
    """A few of each kind."""
    curves: list[Curve] = Field(default_factory=list)
    """One for each gated system."""
    mistakes: list[MistakeRow] = Field(default_factory=list)
    """The surest first, by kind."""
    value: Value | None = None
    """What verification is worth; null: written before it was measured, as all below."""
    frontier: Frontier | None = None
    """Cost against accuracy."""
    costs: list[CostRow] = Field(default_factory=list)
    """One for each system whose costs have a price."""
    sensitivity: list[Sensitivity] = Field(default_factory=list)
    """One for each unit in which costs are known."""
    latency: Latency | Nothing | None = None
    """Schedules; an empty object: the strong model's seconds, or all others', are not known."""
    calibration: Calibration | Nothing | None = None
    """Trust in probabilities; an empty object: no gate has rows with score and label."""
    certificates: list[CertificateRow] = Field(default_factory=list)
    """One for each gated system with rows to go by. Empty: the calibration split was not given."""


class LiveRow(Part):
    """One system acting alone in whole episodes."""

    name: str
    """Of the system."""
    title: str
    """In words."""
    n: int
    """Test tasks, one episode each."""
    success: Metric
    """Share of tasks completed."""
    num_steps: Metric | float
    """Mean per episode."""
    excess_steps: Metric | float | None
    """Mean over the expert's, completed tasks alone; null: none was completed."""
    accept_rate: Metric | None
    """Share of steps; null: no proposer."""
    unparsable_rate: float | None = None
    """Share of steps without an executable action; null: not recorded."""
    mflops_per_task: float | None
    """Million forward FLOPs; null: a server's model took part."""
    relative_flops: Metric | None
    """Relative to A; null: it cannot be told."""
    price_per_task: float | None = None
    """US dollars paid to servers; null: nobody was paid, or it is not known."""
    seconds_per_task: float
    """Wall time, models' answers to the same prompt charged to each system."""
    relative_seconds: Metric | None = None
    """Relative to A; null: not recorded."""
    difference_from_a: Metric
    """Of shares of tasks, paired by task."""


class PairRow(Part):
    """Preference pairs of one mining strategy."""

    strategy: str
    """Its name."""
    count: int
    """Pairs."""
    dropped: dict[str, int]
    """Candidates that gave no pair, by reason."""
    precision: dict[str, Any] | None
    """`better` (share whose chosen side is better, branched in the environment) and counts of
    num_ties, num_worse, num_unmeasured; null: not measured."""
    gaps: dict[str, float | None] | None = None
    """Chosen less rejected: num_pairs, mean_tokens, median_tokens, mean_turns, and the share with
    a longer chosen side; null: no pairs."""


class TrainingRow(Part):
    """One recipe."""

    recipe: str
    """Its name."""
    model: str
    """Role of what it trained."""
    rows: int
    """Training rows."""
    seconds: float
    """Wall time."""
    first_loss: float | None
    """null: none was logged."""
    last_loss: float | None
    """null: none was logged."""
    rows_sha256: str | None = None
    """Of the file of training rows; null: not recorded."""
    options_hash: str | None = None
    """Of the recipe's settings; null: not recorded."""


class Results(Part):
    """All of results.json."""

    schema_version: int | None = None
    """Of this schema; null: written before it had one."""
    meta: Meta
    """What the run was."""
    splits: dict[str, Split]
    """By name."""
    replay: Replay
    """Single steps."""
    live: list[LiveRow] = Field(default_factory=list)
    """Whole episodes. Empty: not done."""
    pairs: list[PairRow] = Field(default_factory=list)
    """Empty: none mined."""
    training: list[TrainingRow] = Field(default_factory=list)
    """Empty: nothing trained."""
    unseen: list[dict[str, Any]] = Field(default_factory=list)
    """Of a study: verifiers on models whose family they never saw. Empty: not done."""


def check_version(results: Mapping[str, Any], where: str) -> None:
    """Refuse results of a schema that this code does not know.

    Args:
        results: What results.json holds; without a version they are older than the schema.
        where: Its path, for errors.

    Raises:
        ConfigError: The version is later than ours, or none.
    """
    version = results.get("schema_version")
    if version is not None and version not in range(1, RESULTS_SCHEMA_VERSION + 1):
        raise ConfigError(
            f"{where} has schema version {version!r}, this code reads up to "
            f"{RESULTS_SCHEMA_VERSION}; use the version of specact that wrote it"
        )


def check_results(results: Mapping[str, Any], where: str) -> Results:
    """The results, read and checked key by key; arguments as of `check_version`.

    Raises:
        ConfigError: A key is missing or has another type, or as `check_version`.
    """
    check_version(results, where)
    try:
        return Results.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{where} must be results of a run, but {place}: {first['msg']} "
            f"({error.error_count()} problems)"
        ) from error


def undocumented_keys(part: Any, path: str = "") -> Iterator[str]:
    """Paths of keys that no class above describes."""
    if isinstance(part, Part):
        yield from (f"{path}.{key}" for key in part.model_extra or {})
        for name in type(part).model_fields:
            yield from undocumented_keys(getattr(part, name), f"{path}.{name}")
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from undocumented_keys(value, f"{path}.{key}")
    elif isinstance(part, list):
        for value in part:
            yield from undocumented_keys(value, f"{path}[]")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of results.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"results.json, version {RESULTS_SCHEMA_VERSION}",
        **{k: v for k, v in Results.model_json_schema().items() if k != "title"},
    }
