"""What measured steps would have taken under other schedules: nothing random, no model.

The strong model's call decides each step; then the environment's tool runs. Sequential: one after
the other. Speculative: a cheap guess of the decision is acted on while the call still runs, and
what it started counts once the call has confirmed it. Gated (`gated_seconds`): the guess stands
where a gate accepts it, and no call confirms it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from specact_rl.metrics.values import BoolArray, FloatArray, IntArray, check_lengths

SPECULATED = ("read",)
"""Effects that may be caused before the real decision is known, unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """n measured steps; all arrays of shape (n,), seconds at least 0 and finite."""

    episodes: IntArray
    """Number of the episode, rising; the steps of one stand in their order."""
    speculator: FloatArray
    """Seconds until the guesses are there, and judged where a verifier chooses among them."""
    call: FloatArray
    """Seconds of the strong model's call."""
    tool: FloatArray
    """Seconds of the environment; 0 where not known."""
    hit: BoolArray
    """One of the launched guesses is what the strong model decides."""
    wrong: IntArray
    """Launched guesses that are not."""
    call_cost: FloatArray
    """Of a whole strong call, in any unit."""
    speculator_cost: FloatArray
    """Of all guesses of a step, in that unit."""

    def __post_init__(self) -> None:
        """Reject arrays of several lengths, times that are none, and scattered episodes."""
        names = ("speculator", "call", "tool", "call_cost", "speculator_cost")
        arrays = {name: getattr(self, name) for name in ("episodes", "hit", "wrong", *names)}
        check_lengths(**arrays)
        if not self.episodes.size:
            raise ValueError("a trace must have at least one step")
        for name in names:
            bad = np.flatnonzero(~(np.isfinite(arrays[name]) & (arrays[name] >= 0.0)))
            if bad.size:
                raise ValueError(
                    f"{name} must be at least 0 and finite, got {float(arrays[name][bad[0]])!r} "
                    f"at step {int(bad[0])} ({bad.size} such steps); leave out what was not "
                    "measured"
                )
        if (self.episodes[1:] < self.episodes[:-1]).any():
            raise ValueError(
                "episodes must be numbered in rising order, so that the steps of one stand together"
            )

    def shuffled(self, rng: np.random.Generator, copies: int = 1) -> Trace:
        """The same seconds with hits and misses dealt to them at random, `copies` times over.

        What a model has to assume that knows the hit rate and the latencies apart. Episodes of
        copy r have the r-th block of numbers.
        """
        n = self.episodes.size
        deals = np.concatenate([rng.permutation(n) for _ in range(copies)])
        step = int(self.episodes.max()) + 1
        return Trace(
            episodes=(self.episodes + step * np.arange(copies)[:, None]).ravel(),
            hit=self.hit[deals],
            wrong=self.wrong[deals],
            **{
                name: np.tile(getattr(self, name), copies)
                for name in ("speculator", "call", "tool", "call_cost", "speculator_cost")
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeTotals:
    """What each episode came to; all arrays of shape (number of episodes,), in their order."""

    seconds: FloatArray
    """From the first step's start to the last one's end."""
    calls: FloatArray
    """Strong calls, cancelled ones by the fraction that had run."""
    cost: FloatArray
    """Of strong calls and guesses, cancelled ones by the fraction that had run."""
    wasted_runs: FloatArray
    """Actions that were executed on a guess that turned out wrong."""


def may_speculate(effects: np.ndarray, allowed: Collection[str] = SPECULATED) -> BoolArray:
    """Which guesses may be executed before the real decision is known.

    Args:
        effects: "read", "write" or "irreversible"; any other word for one that is not known,
            which is never allowed. Any shape.
        allowed: "read", and "write" where the environment can take it back.

    Raises:
        ValueError: Something else is to be allowed.
    """
    if not set(allowed) <= {"read", "write"}:
        raise ValueError(
            f"only read and write may be speculated on, got {sorted(allowed)!r}: what cannot be "
            "taken back waits for the real decision"
        )
    return np.asarray(np.isin(effects, list(allowed)), dtype=np.bool_)


def sequential(trace: Trace) -> EpisodeTotals:
    """The strong model alone, one step after the other."""
    layout = _Layout.of(trace.episodes)
    return EpisodeTotals(
        seconds=layout.total(trace.call + trace.tool),
        calls=layout.lengths.astype(np.float64),
        cost=layout.total(trace.call_cost),
        wasted_runs=np.zeros(layout.lengths.size),
    )


def speculative(trace: Trace, depth: int | None = 1, *, pairs: bool = False) -> EpisodeTotals:
    """Act on guesses, as many as `depth` steps ahead of the last confirmed one.

    A guess is launched when it is there, unless the decision has come before it or `depth` steps
    are unconfirmed already. Its tool runs, then the strong call and the guesses of the next step.
    A right one is thereby ahead; nothing counts before the calls of all earlier steps are done, and
    an episode goes on from a decision of the strong model only when that is confirmed. A wrong one
    is cancelled with all that follows from it when the decision is there. What it runs until then
    takes as long as what was measured at the following steps, and launches as many guesses.

    Args:
        trace: The steps.
        depth: None for any number.
        pairs: The schedule of the paper's proposition 1: depth 1, and the step after a right
            guess, even after one that comes late, is not guessed itself.

    Raises:
        ValueError: A depth below 1, or pairs with another depth than 1.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth!r}; `sequential` has none")
    if pairs and depth != 1:
        raise ValueError(f"pairs are one step deep, got depth={depth!r}")
    layout = _Layout.of(trace.episodes)
    clock = _Clock(trace, layout, depth, pairs)
    for position in range(int(layout.lengths.max())):
        clock.step(position)
    return clock.totals()


def gated_seconds(
    speculator: FloatArray, call: FloatArray, accepted: BoolArray, *, parallel: bool
) -> tuple[FloatArray, FloatArray]:
    """Seconds and strong calls of each step of a gated system, both of shape (n,).

    Args:
        speculator: Seconds of proposing and verifying.
        call: Of the strong model.
        accepted: The proposal stands.
        parallel: The strong call starts beside the proposal instead of after its rejection, and
            is cancelled on acceptance; it counts by the fraction that had run.
    """
    if not parallel:
        return speculator + np.where(accepted, 0.0, call), (~accepted).astype(np.float64)
    seconds = np.where(accepted, speculator, np.maximum(call, speculator))
    return seconds, np.where(accepted, _fraction(speculator, call), 1.0)


def _fraction(elapsed: FloatArray, whole: FloatArray) -> FloatArray:
    """Part of a call that had run after so many seconds; one that takes no time is done at once."""
    share = np.divide(elapsed, whole, out=np.ones_like(whole), where=whole > 0.0)
    return np.asarray(np.clip(share, 0.0, 1.0), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Episodes by falling length, so that those with a j-th step are the first ones."""

    order: IntArray
    """Number of the episode at each place."""
    starts: IntArray
    """Row of the first step of each episode."""
    lengths: IntArray
    """Both in the order of the trace."""

    @classmethod
    def of(cls, episodes: IntArray) -> _Layout:
        starts = np.flatnonzero(np.append(True, episodes[1:] != episodes[:-1]))
        lengths = np.diff(np.append(starts, episodes.size))
        return cls(
            order=np.argsort(-lengths, kind="stable"),
            starts=starts.astype(np.int64),
            lengths=lengths.astype(np.int64),
        )

    def total(self, values: FloatArray) -> FloatArray:
        """Sum over each episode, shape (number of episodes,)."""
        return np.asarray(np.add.reduceat(values, self.starts), dtype=np.float64)


class _Clock:
    """All episodes at once, one position after the other.

    Times are seconds from an episode's start. `ready`: the state before a step is there, perhaps
    on a guess. `decided`: the strong call on that state is done. `confirmed`: so are all before.
    """

    def __init__(self, trace: Trace, layout: _Layout, depth: int | None, pairs: bool) -> None:
        self.trace, self.depth, self.pairs = trace, depth, pairs
        self.order = layout.order
        self.starts, self.lengths = layout.starts[self.order], layout.lengths[self.order]
        self.last_rows = self.starts + self.lengths - 1
        num = self.order.size
        self.ready = np.zeros(num)
        self.end = np.zeros(num)
        self.blocked = np.zeros(num, dtype=np.bool_)  # only in pairs
        self.confirmed: list[FloatArray] = []  # by position
        self.calls = self.lengths.astype(np.float64)
        self.cost = layout.total(trace.call_cost)[self.order]
        self.wasted_runs = np.zeros(num)

    def step(self, position: int) -> None:
        trace = self.trace
        num = int(np.searchsorted(-self.lengths, -position, side="left"))  # longer than position
        rows = self.starts[:num] + position
        ready, tool = self.ready[:num], trace.tool[rows]
        decided = ready + trace.call[rows]
        confirmed = np.maximum(decided, self.confirmed[-1][:num]) if position else decided
        guesses = ~self.blocked[:num]
        launched = np.maximum(ready + trace.speculator[rows], self._window(position, num))
        in_time = guesses & (launched < decided)
        self.cost[:num] += np.where(guesses, self._guessing(rows, trace.call[rows]), 0.0)
        self._waste(position, num, np.where(in_time, trace.wrong[rows], 0), launched, decided)
        ahead = in_time & trace.hit[rows]
        self.ready[:num] = np.where(ahead, launched, confirmed) + tool
        self.end[:num] = np.maximum(confirmed, self.ready[:num])
        if self.pairs:
            self.blocked[:num] = guesses & trace.hit[rows]
        self.confirmed.append(confirmed)

    def _window(self, position: int, num: int) -> FloatArray:
        """When a guess at this position is no more than `depth` steps ahead, shape (num,)."""
        if self.depth is None or position < self.depth:
            return np.zeros(num)
        return self.confirmed[position - self.depth][:num]

    def _waste(
        self,
        position: int,
        num: int,
        branches: np.ndarray,
        launched: FloatArray,
        decided: FloatArray,
    ) -> None:
        """Charge wrong guesses and what follows from them until the decision is there."""
        at = np.flatnonzero(branches)
        branches, launched, decided = branches[at].astype(np.float64), launched[at], decided[at]
        level, trace = 0, self.trace
        while at.size:
            rows = np.minimum(self.starts[at] + position + level, self.last_rows[at])
            after = np.minimum(rows + 1, self.last_rows[at])
            self.wasted_runs[at] += branches
            started = launched + trace.tool[rows]  # the next step's call and guesses
            on = started < decided
            at, branches, started, decided = at[on], branches[on], started[on], decided[on]
            after, left = after[on], decided - started
            share = branches * _fraction(left, trace.call[after])
            self.calls[at] += share
            self.cost[at] += share * trace.call_cost[after]
            level += 1
            if self.pairs:
                return
            self.cost[at] += branches * self._guessing(after, np.minimum(left, trace.call[after]))
            if level == self.depth:
                return
            launched = started + trace.speculator[after]
            if self.depth is not None and position + level >= self.depth:
                # Of a step before this one, since level < depth.
                launched = np.maximum(launched, self.confirmed[position + level - self.depth][at])
            branches = branches * (trace.wrong[after] + trace.hit[after])
            on = (branches > 0) & (launched < np.minimum(decided, started + trace.call[after]))
            at, branches, launched, decided = at[on], branches[on], launched[on], decided[on]

    def _guessing(self, rows: IntArray, seconds: FloatArray) -> FloatArray:
        """Cost of the guesses at these rows when their time is cut to so many seconds."""
        trace = self.trace
        return trace.speculator_cost[rows] * _fraction(seconds, trace.speculator[rows])

    def totals(self) -> EpisodeTotals:
        """In the order of the trace."""
        back = np.argsort(self.order, kind="stable")
        return EpisodeTotals(
            seconds=self.end[back],
            calls=self.calls[back],
            cost=self.cost[back],
            wasted_runs=self.wasted_runs[back],
        )
