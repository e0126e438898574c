"""Seconds of a step under different schedules."""

from __future__ import annotations

from typing import Literal

from specact_rl.eval.results_schema.parts import Metric, Nothing, Part


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
