"""Systems, in single steps and in whole episodes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from specact_rl.eval.results_schema.parts import Metric, Part


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
