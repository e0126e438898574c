"""What the measured steps of a replay would take in other schedules, and what hits depend on.

Steps stand in the order of their logged rollout. Seconds are shares of the batches in which
outcomes were collected, not those of a request alone. The environment runs after a decision, for as
long as it took when proposals were labelled; where that is not known of every action, all of this
is the models' time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from specact_rl.eval.columns import ProposalColumns
from specact_rl.eval.cost_report import (
    NUM_RESAMPLES,
    STRONG_ONLY,
    CostSums,
    cost_rows,
    role_costs,
)
from specact_rl.eval.joined import STRONG, Outcomes
from specact_rl.eval.replay import SystemRun, forward_flops
from specact_rl.metrics.latency.closed_forms import (
    coverage_curve,
    effective_draws,
    exponential_saving,
)
from specact_rl.metrics.latency.simulator import (
    SPECULATED,
    Trace,
    gated_seconds,
    may_speculate,
    speculative,
)
from specact_rl.metrics.resampling import bootstrap_value, cluster_codes, resampled_sums
from specact_rl.metrics.values import BoolArray, FloatArray, MetricValue
from specact_rl.policy.systems import PANEL, PEERS

GUESSES = "B"
"""System whose proposals are acted on without a verifier."""
SCHEDULES = ((1, SPECULATED), (3, SPECULATED), (3, ("read", "write")))
"""Steps that speculation may be ahead, and the effects that it may cause."""
SPECULATING = (GUESSES, "D", "D-lin+", "D-trees")
"""Systems whose guesses are also acted on ahead of the strong model: all guesses, and those that
the trained verifier or one on hand features lets pass."""
DEALT_STEPS = 200_000
"""About so many steps are dealt anew to see what independent hits would promise."""
MAX_DEALS = 20
SECONDS, COST = 0, 1
"""Columns of the totals that all rows are held against: of A."""
Mode = Literal["sequential", "parallel", "speculative"]


def cost_and_latency_rows(
    runs: Mapping[str, SystemRun], parts: Outcomes, rng: np.random.Generator
) -> dict[str, Any]:
    """The parts "costs", "sensitivity" and "latency" of the replay's results.

    `latency` has a row per system and schedule. It is empty where the strong model's seconds, or
    all others', are not known.

    Args:
        runs: By name, "A" among them.
        parts: What they were joined from.
        rng: Of resamples, which all rows share, and of hits dealt anew.
    """
    sums, bench = CostSums.of(runs, parts), _Bench.of(runs, parts, rng)
    if bench is None:
        draws = resampled_sums(sums.table, NUM_RESAMPLES, rng)
        return {**cost_rows(sums, draws), "latency": {}}
    width = sums.table.shape[1]
    table = np.hstack([sums.table, *(column[:, None] for column in bench.columns)])
    draws = resampled_sums(table, NUM_RESAMPLES, rng)
    return {**cost_rows(sums, draws[:, :width]), "latency": bench.as_json(draws[:, width:])}


def _takes_part(run: SystemRun, parts: Outcomes) -> bool:
    system = run.system
    if system.proposer in (None, PEERS, PANEL) or not np.isfinite(run.seconds).all():
        return False
    return system.name == GUESSES or system.fallback


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guesses:
    """A proposer's samples as guesses of what the strong model does; all of shape (n, k)."""

    right: BoolArray
    distinct: BoolArray
    """Parsable, and no repetition."""
    effects: np.ndarray

    @classmethod
    def of(cls, columns: ProposalColumns, strong: ProposalColumns) -> _Guesses:
        return cls(
            right=(columns.keys == strong.keys[:, :1]) & columns.parsed,
            distinct=columns.first_of_its_kind,
            effects=columns.effects,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tools:
    """Seconds of what is executed after the decision; all arrays of shape (n,)."""

    strong: FloatArray
    """The strong model's action; 0 where not known."""
    offered: Mapping[str, FloatArray]
    """By system, what is put before its gate; 0 where not known."""
    note: str | None
    """Why they are not counted, in words; None where they are."""

    @classmethod
    def of(cls, systems: Sequence[SystemRun], parts: Outcomes) -> _Tools:
        """Of all systems, or of none: some with and some without could not be compared."""
        roles = {STRONG, *(str(run.system.proposer) for run in systems)}
        of_role = {role: _tool_seconds(parts.columns[role]) for role in roles}
        strong = of_role[STRONG][:, 0]
        rows, nothing = np.arange(strong.size), np.zeros_like(strong)
        offered = {
            run.system.name: of_role[str(run.system.proposer)][rows, run.pick] for run in systems
        }
        unknown = np.isnan([strong, *offered.values()]).any(axis=0)
        if not unknown.any():
            return cls(strong=strong, offered=offered, note=None)
        none_at_all = all(np.isnan(parts.columns[role].tool_seconds).all() for role in roles)
        return cls(
            strong=nothing,
            offered=dict.fromkeys(offered, nothing),
            note=(
                "none were measured"
                if none_at_all
                else f"not known of every proposal at {unknown.sum()} of {unknown.size} steps"
            ),
        )

    @property
    def ms_per_step(self) -> float | None:
        """Mean milliseconds of the strong model's actions; None where not known."""
        return None if self.note else 1e3 * float(self.strong.mean())

    def after(self, accepted: FloatArray | float, system: str) -> FloatArray:
        """What a gated system executes, `accepted` being 1 or 0, or the chance of it."""
        return np.asarray(accepted * self.offered[system] + (1.0 - accepted) * self.strong)


def _tool_seconds(columns: ProposalColumns) -> FloatArray:
    """Shape (n, k), NaN where not known; what cannot be parsed runs no tool."""
    found = columns.tool_seconds
    return np.where(np.isnan(found) & ~columns.parsed, 0.0, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One system in one schedule; numbers of its columns among the totals of each task."""

    system: str
    mode: Mode
    depth: int | None = None
    effects: tuple[str, ...] | None = None
    breadth: int | None = None
    calls: float
    """Strong calls a step, cancelled ones by the part that had run."""
    wasted_runs: float
    """Actions a step that were executed on a wrong guess."""
    place: int
    facts: dict[str, Any]

    def as_json(self, values: _Values) -> dict[str, Any]:
        seconds, cost, apart = range(self.place, self.place + 3)
        return {
            "system": self.system,
            "mode": self.mode,
            "depth": self.depth,
            "effects": self.effects and list(self.effects),
            "breadth": self.breadth,
            "n": values.num_rows,
            "relative_seconds": values.ratio(seconds, SECONDS),
            "speed_up": values.ratio(SECONDS, seconds),
            "relative_cost": values.ratio(cost, COST),
            "strong_calls": self.calls,
            "wasted_runs": self.wasted_runs,
            "independent": values.ratio(apart, SECONDS).value,
            "over_promise": values.ratio(seconds, SECONDS, less=apart),
            **self.facts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """Ratios of totals, with intervals over the same resamples of tasks."""

    totals: FloatArray
    """Shape (columns,)."""
    draws: FloatArray
    """Shape (NUM_RESAMPLES, columns)."""
    num_rows: int
    num_tasks: int

    def ratio(self, above: int, below: int, less: int | None = None) -> MetricValue:
        """Total of a column, less that of another, over a third one's."""

        def of(totals: FloatArray) -> FloatArray:
            left = totals[..., above] - (0.0 if less is None else totals[..., less])
            whole = totals[..., below]
            return np.asarray(
                np.divide(left, whole, out=np.full_like(whole, np.nan), where=whole > 0.0)
            )

        value = float(of(self.totals[None])[0])
        if np.isnan(value):
            return MetricValue(value=None, n=self.num_rows, note="nothing to compare with")
        return bootstrap_value(value, of(self.draws), n=self.num_rows, num_clusters=self.num_tasks)


class _Bench:
    """Collects the columns of all rows, by task."""

    def __init__(
        self, parts: Outcomes, alone: SystemRun, tools: _Tools, rng: np.random.Generator
    ) -> None:
        self.parts, self.tools, self.rng = parts, tools, rng
        self.calls = alone.seconds
        flops = role_costs(alone, "flops", parts)
        self.unit: Literal["flops", "seconds"] = "seconds" if flops is None else "flops"
        self.call_cost = alone.seconds if flops is None else flops.sum(axis=1)
        self.codes, self.num_tasks = cluster_codes(parts.table.task_ids, alone.seconds.size)
        rollouts = parts.table.rollouts
        firsts = np.flatnonzero(np.append(True, rollouts[1:] != rollouts[:-1]))
        self.num_episodes = firsts.size
        self.of_episode = self.codes[firsts]
        self.long = bool(np.diff(np.append(firsts, rollouts.size)).max() > 1)
        self.rows: list[_Row] = []
        self.columns = [
            self._by_step(alone.seconds + tools.strong),
            self._by_step(self.call_cost),
        ]
        self.guesses: dict[str, _Guesses] = {}
        self.effects: dict[str, float] = {}  # share of the first guesses with each effect
        self.breadths: dict[str, Any] = {}

    @classmethod
    def of(
        cls, runs: Mapping[str, SystemRun], parts: Outcomes, rng: np.random.Generator
    ) -> _Bench | None:
        """With the columns of every schedule; None where seconds are not known."""
        alone = runs[STRONG_ONLY]
        systems = [run for run in runs.values() if _takes_part(run, parts)]
        if not np.isfinite(alone.seconds).all() or not alone.seconds.any() or not systems:
            return None
        bench = cls(parts, alone, _Tools.of(systems, parts), rng)
        for run in systems:
            bench.add_system(run)
        bench.add_breadths(runs.get(GUESSES))
        return bench

    def as_json(self, draws: FloatArray) -> dict[str, Any]:
        """All rows, with intervals from the columns' totals over resampled tasks."""
        values = _Values(
            totals=np.array([column.sum() for column in self.columns]),
            draws=draws,
            num_rows=self.calls.size,
            num_tasks=self.num_tasks,
        )
        rows = {
            several: [r.as_json(values) for r in self.rows if (r.breadth is not None) == several]
            for several in (False, True)
        }
        return {
            "effects": self.effects,
            "cost_unit": self.unit,
            "ms_per_step": 1e3 * float(self.calls.mean()),
            "seconds_per_episode": float(self.columns[SECONDS].sum() / self.num_episodes),
            "tool_ms_per_step": self.tools.ms_per_step,
            "tool_note": self.tools.note,
            "rows": rows[False],
            "breadth": self.breadths | {"rows": rows[True]} if self.breadths else {},
        }

    def add_system(self, run: SystemRun) -> None:
        """Its schedules: those of a gate, and acting on its guesses ahead of the strong model."""
        system, role = run.system, str(run.system.proposer)
        judged = self.parts.judged.get((str(system.verifier), role))
        before = np.maximum(run.seconds - np.where(run.called, self.calls, 0.0), 0.0)
        cost = self._cost_before(run, before)
        waits = judged is not None and judged.shares_strong
        self._add_gated(run, before, parallel=False)
        if system.fallback and not waits:
            self._add_gated(run, before, parallel=True)
        if waits or not self.long or system.name not in SPECULATING:
            return  # the judge needs the strong model's own action, or nothing follows a step
        guesses = self._guesses_of(role)
        rows = np.arange(before.size)
        right, distinct = guesses.right[rows, run.pick], guesses.distinct[rows, run.pick]
        effects = guesses.effects[rows, run.pick]
        chosen = distinct & run.accepted
        if system.name == GUESSES:
            named, counts = np.unique(effects, return_counts=True)
            shares = (counts / effects.size).tolist()
            self.effects = dict(zip((name or "unknown" for name in named), shares, strict=True))
        for depth, allowed in SCHEDULES:
            may = (chosen & may_speculate(effects, allowed))[:, None]
            if may.any():
                self._add_speculative(
                    system.name, depth, allowed, before, cost, right[:, None], may
                )

    def add_breadths(self, run: SystemRun | None) -> None:
        """Several guesses of the cheap proposer at once, one step ahead; none without several."""
        if run is None or not self.long or not np.isfinite(run.seconds).all():
            return
        columns = self.parts.columns[str(run.system.proposer)]
        most = columns.parsed.shape[1]
        if most < 2 or not np.isfinite(columns.seconds).all():
            return
        guesses = self._guesses_of(str(run.system.proposer))
        may = guesses.distinct & may_speculate(guesses.effects)
        if not may.any():
            return
        covered = coverage_curve(guesses.right & may)
        first = len(self.rows)
        for breadth in range(1, most + 1):
            before = columns.seconds[:, :breadth].sum(axis=1)
            self._add_speculative(
                GUESSES,
                1,
                SPECULATED,
                before,
                self._cost_of_samples(run, before, breadth),
                guesses.right[:, :breadth],
                may[:, :breadth],
                breadth=breadth,
            )
        found = self.rows[first:]
        seconds = [float(self.columns[p].sum()) for p in (SECONDS, *(r.place for r in found))]
        ran = np.diff([1.0, *(row.calls for row in found)]) * float(self.calls.sum())
        self.breadths = {
            "coverage": covered.tolist(),
            "effective_draws": [effective_draws(float(c), float(covered[0])) for c in covered],
            "num_distinct": [float(may[:, : b + 1].sum(axis=1).mean()) for b in range(most)],
            # Of one guess more, per second that cancelled calls ran for it; None if none did.
            "saved_per_second_run": [
                float(less / more) if more > 0.0 else None
                for less, more in zip(-np.diff(seconds), ran, strict=True)
            ],
        }

    def _cost_before(self, run: SystemRun, before: FloatArray) -> FloatArray:
        """Of proposing and verifying at each step."""
        if self.unit == "seconds":
            return before
        paid = role_costs(run, "flops", self.parts)
        return np.full_like(before, np.nan) if paid is None else paid[:, 0] + paid[:, 1]

    def _cost_of_samples(self, run: SystemRun, before: FloatArray, breadth: int) -> FloatArray:
        """Of writing so many samples at each step; the prompt is read once."""
        if self.unit == "seconds":
            return before
        n, role = before.size, str(run.system.proposer)
        return forward_flops(
            self.parts.sizes[role],
            self.parts.table,
            self.parts.columns[role],
            np.ones(n, dtype=np.bool_),
            np.ones((n, breadth), dtype=np.bool_),
        )

    def _guesses_of(self, role: str) -> _Guesses:
        if role not in self.guesses:
            columns = self.parts.columns
            self.guesses[role] = _Guesses.of(columns[role], columns["strong"])
        return self.guesses[role]

    def _add_gated(self, run: SystemRun, before: FloatArray, *, parallel: bool) -> None:
        """The proposal stands where it is accepted; `before` are the seconds of what precedes that.

        The strong model that judges acts at every step, accepted or not.
        """
        stands = run.accepted & ~run.called if not parallel else run.accepted
        seconds, calls = gated_seconds(before, self.calls, stands, parallel=parallel)
        cost = run.flops if self.unit == "flops" else run.seconds
        if parallel:  # what a cancelled call had read is read again by the next one
            cost = cost + np.where(stands, calls, 0.0) * self.call_cost
        # With acceptance dealt at random each step has either time with its chance: exactly.
        every, rate = np.ones(before.size, dtype=np.bool_), float(stands.mean())
        either = [
            gated_seconds(before, self.calls, every & stand, parallel=parallel)[0]
            for stand in (True, False)
        ]
        apart = rate * either[0] + (1.0 - rate) * either[1]
        seconds = seconds + self.tools.after(run.accepted.astype(np.float64), run.system.name)
        apart = apart + self.tools.after(run.accepted.mean(), run.system.name)
        self._add(
            _Row(
                system=run.system.name,
                mode="parallel" if parallel else "sequential",
                calls=float(calls.mean()),
                wasted_runs=0.0,
                place=len(self.columns),
                facts=_on_hits(self.calls, stands),
            ),
            [self._by_step(v) for v in (seconds, cost, apart)],
        )

    def _add(self, row: _Row, columns: list[FloatArray]) -> None:
        self.rows.append(row)
        self.columns += columns

    def _add_speculative(
        self,
        system: str,
        depth: int,
        effects: tuple[str, ...],
        before: FloatArray,
        cost: FloatArray,
        right: BoolArray,
        may: BoolArray,
        breadth: int | None = None,
    ) -> None:
        hit = np.asarray((right & may).any(axis=1))
        known = bool(np.isfinite(cost).all())
        trace = Trace(
            episodes=self.parts.table.rollouts,
            speculator=before,
            call=self.calls,
            tool=self.tools.strong,
            hit=hit,
            wrong=(may & ~right).sum(axis=1),
            call_cost=self.call_cost,
            speculator_cost=cost if known else np.zeros_like(before),
        )
        found = speculative(trace, depth)
        copies = int(np.clip(DEALT_STEPS // hit.size, 1, MAX_DEALS))
        dealt = speculative(trace.shuffled(self.rng, copies), depth).seconds
        self._add(
            _Row(
                system=system,
                mode="speculative",
                depth=depth,
                effects=effects,
                breadth=breadth,
                calls=float(found.calls.sum()) / hit.size,
                wasted_runs=float(found.wasted_runs.sum()) / hit.size,
                place=len(self.columns),
                facts={
                    "launch_rate": float(may.any(axis=1).mean()),
                    "hit_rate": float(hit.mean()),
                    **_on_hits(self.calls, hit),
                    **(_formula(trace) if depth == 1 else {}),
                },
            ),
            [
                self._by_episode(found.seconds),
                self._by_episode(found.cost) * (1.0 if known else np.nan),
                self._by_episode(dealt.reshape(copies, -1).mean(axis=0)),
            ],
        )

    def _by_step(self, values: FloatArray) -> FloatArray:
        return np.bincount(self.codes, values, minlength=self.num_tasks).astype(np.float64)

    def _by_episode(self, values: FloatArray) -> FloatArray:
        return np.bincount(self.of_episode, values, minlength=self.num_tasks).astype(np.float64)


def _on_hits(calls: FloatArray, hit: BoolArray) -> dict[str, float | None]:
    """Mean milliseconds of the strong call where a guess is right, or accepted, and where not."""
    return {
        name: 1e3 * float(calls[here].mean()) if here.any() else None
        for name, here in (("call_ms_on_hits", hit), ("call_ms_on_misses", ~hit))
    }


def _formula(trace: Trace) -> dict[str, float | None]:
    """What the published formula promises of this hit rate and these mean times, and half of it."""
    means = float(trace.speculator.mean()), float(trace.call.mean())
    if min(means) <= 0.0:
        return {"formula_saving": None, "formula_saving_committed": None}
    p, alpha, beta = float(trace.hit.mean()), 1.0 / means[0], 1.0 / means[1]
    return {
        "formula_saving": exponential_saving(p, alpha, beta, commit=False),
        "formula_saving_committed": exponential_saving(p, alpha, beta),
    }
