"""Systems acting in whole episodes, and how they fare beside the strong model alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from specact_rl.envs.base import Environment
from specact_rl.envs.episodes import Episode, Progress, run_in_lockstep
from specact_rl.envs.labels import NO_SOURCE, label_in
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import EnvironmentFault
from specact_rl.eval.system_report import NUM_RESAMPLES, nothing_rejected, ratio_of_totals
from specact_rl.metrics.paired import paired_cluster_bootstrap, wilson_interval
from specact_rl.metrics.rates import cluster_rate
from specact_rl.policy.live import LiveDecision, LiveSystem, ModelCall, TokenLedger
from specact_rl.policy.systems import SYSTEMS
from specact_rl.store import append_shard, done_shards, read_shards
from specact_rl.types import MatchLevel

LOCKSTEP_EPISODES = 100
"""Episodes that run together, and are saved together."""
POLICY = "live"
"""Who acts, in the ids of steps: the same in every system, so that draws are, too. Where two
systems come to the same step with the same history, a model proposes the same in both."""
STRONG_ONLY = "A"
"""System that all others are held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStep:
    """What was put before the gate at one step, and whether it was right there."""

    accepted: bool
    reason: str
    """As in `LiveDecision`."""
    log_odds: float | None
    """Raw score of the proposal; None without a verifier, or with nothing to judge."""
    p_accept: float | None
    """What the gate made of it; None without a gate, or with nothing to judge."""
    acceptable: bool | None
    """Label of the proposal, accepted or not, in the state that the episode was in; None without a
    proposer, and where the goal was out of reach."""
    match_level: MatchLevel
    """Of the proposal with the expert's action there; "none" without a proposer."""
    label_source: str
    """As in `ActionLabel`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEpisode:
    """One system's attempt at one task."""

    system: str
    task_id: str
    family: str
    success: bool
    num_steps: int
    """Steps whose text could not be parsed included."""
    expert_steps: int
    """What the expert would have needed from the start."""
    num_accepted: int
    """Steps at which a proposal was executed."""
    num_fallback: int
    """Steps at which the strong model acted: the rest."""
    num_unparsable: int
    """Steps at which whoever acted wrote no action."""
    flops: int | None
    """Forward FLOPs, attention included; cached prefixes not paid twice. None where a server's
    model took part, whose size nobody knows."""
    seconds: float
    """Shares of the models' batches. A model reads on from where it was in the episode, as far as
    there was room to keep that (`models.kept_prefixes`). An answer that an earlier system was given
    first costs what it took then."""
    steps: list[LiveStep] | None = None
    """In order; None of episodes that ran before steps were kept."""
    price: float | None = None
    """US dollars paid to servers, with an answer that an earlier system was given first as above;
    None where nobody was paid, or one of them said no tokens or has no price."""


def run_live(
    system: LiveSystem,
    task_ids: Sequence[str],
    *,
    make_environment: Callable[[str], Environment] = Workspace.from_task_id,
    progress: Progress | None = None,
) -> list[LiveEpisode]:
    """One episode per task, in lockstep: the steps due in all of them are decided together.

    An episode does not depend on which others run beside it.

    Args:
        system: Who acts.
        task_ids: Distinct.
        make_environment: The environment of a task, in its initial state.
        progress: Called when episodes end.

    Returns:
        The episodes in the order of the tasks.

    Raises:
        ValueError: A task twice.
        EnvironmentFault: A task that the expert cannot solve.
    """
    if len(set(task_ids)) < len(task_ids):
        raise ValueError("tasks that run together must be distinct; run repeats apart")
    runs = {
        task_id: _Run.start(system.system.name, make_environment(task_id)) for task_id in task_ids
    }

    def act(episodes: Sequence[Episode]) -> None:
        steps = [episode.current_step() for episode in episodes]
        for step, decision in zip(steps, system.decide_steps(steps), strict=True):
            runs[step.task_id].take(decision)

    run_in_lockstep([run.episode for run in runs.values()], act, progress)
    return [run.result() for run in runs.values()]


def live_in_shards(
    folder: Path,
    system: LiveSystem,
    task_ids: Sequence[str],
    progress: Progress | None = None,
) -> list[LiveEpisode]:
    """`run_live` a hundred tasks at a time, keeping each batch; what is there is not run again.

    `folder` is of this system and these tasks alone.
    """
    done = set(done_shards(folder))
    for index, start in enumerate(range(0, len(task_ids), LOCKSTEP_EPISODES)):
        tasks = task_ids[start : start + LOCKSTEP_EPISODES]
        if index not in done:
            append_shard(folder, index, run_live(system, tasks, progress=progress))
        elif progress is not None:
            progress(len(tasks))
    return read_shards(folder, LiveEpisode)


def live_rows(
    results: Mapping[str, Sequence[LiveEpisode]], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """One row per system, in the order given, paired by task with the strong model alone.

    Args:
        results: Episodes by the system's name, "A" among them, each on the same tasks.
        rng: Of the intervals.

    Raises:
        ValueError: "A" is missing, or a system ran on other tasks.
    """
    if STRONG_ONLY not in results:
        raise ValueError(f"live results need system {STRONG_ONLY!r}, got {list(results)!r}")
    by_task = {name: _by_task(name, episodes) for name, episodes in results.items()}
    tasks = sorted(by_task[STRONG_ONLY])
    for name, episodes in by_task.items():
        if sorted(episodes) != tasks:
            raise ValueError(
                f"system {name} must have run on the {len(tasks)} tasks of {STRONG_ONLY}; "
                f"{len(set(tasks) ^ set(episodes))} of its {len(episodes)} differ or are missing"
            )
    strong = [by_task[STRONG_ONLY][task] for task in tasks]
    return [
        _row(name, [episodes[task] for task in tasks], strong, rng)
        for name, episodes in by_task.items()
    ]


@dataclass(slots=True, kw_only=True)
class _Run:
    """An episode in progress and what it has cost."""

    system: str
    episode: Episode
    expert_steps: int
    ledger: TokenLedger = field(default_factory=TokenLedger)
    num_accepted: int = 0
    num_unparsable: int = 0
    flops: int | None = 0
    seconds: float = 0.0
    steps: list[LiveStep] = field(default_factory=list)
    price: float | None = None

    @classmethod
    def start(cls, system: str, env: Environment) -> _Run:
        expert_steps = env.cost_to_go()
        if expert_steps is None:
            raise EnvironmentFault(f"{env.task_id}: the goal must be within reach at the start")
        return cls(
            system=system, episode=Episode(env, policy=POLICY, trial=0), expert_steps=expert_steps
        )

    def take(self, decision: LiveDecision) -> None:
        self.steps.append(_judged(self.episode.env, decision))
        self.episode.act(decision.action, decision.text, finished=decision.finished)
        self.num_accepted += decision.accepted
        self.num_unparsable += decision.action is None
        flops = self.ledger.flops(decision.calls)
        self.flops = None if flops is None or self.flops is None else self.flops + flops
        self._pay(decision.calls)
        self.seconds += sum(call.seconds for call in decision.calls)

    def _pay(self, calls: Sequence[ModelCall]) -> None:
        """Servers are the models whose size is not known."""
        for call in calls:
            if call.size is None:
                price = np.nan if call.price is None else call.price
                self.price = price + (self.price or 0.0)

    def result(self) -> LiveEpisode:
        env, num_steps = self.episode.env, len(self.episode.steps)
        return LiveEpisode(
            system=self.system,
            task_id=env.task_id,
            family=env.family,
            success=env.success,
            num_steps=num_steps,
            expert_steps=self.expert_steps,
            num_accepted=self.num_accepted,
            num_fallback=num_steps - self.num_accepted,
            num_unparsable=self.num_unparsable,
            flops=self.flops,
            seconds=self.seconds,
            steps=self.steps,
            price=None if self.price is None or np.isnan(self.price) else self.price,
        )


def _judged(env: Environment, decision: LiveDecision) -> LiveStep:
    """The step that is due in `env`; the label is of the proposal, whoever acts."""
    label = None if decision.pick is None else label_in(env, decision.offered)
    return LiveStep(
        accepted=decision.accepted,
        reason=decision.reason,
        log_odds=decision.log_odds,
        p_accept=decision.p_accept,
        acceptable=label.acceptable if label else None,
        match_level=label.match_level if label else "none",
        label_source=label.label_source if label else NO_SOURCE,
    )


def _by_task(name: str, episodes: Sequence[LiveEpisode]) -> dict[str, LiveEpisode]:
    by_task = {episode.task_id: episode for episode in episodes}
    if len(by_task) < len(episodes):
        raise ValueError(f"system {name} must have one episode per task, has {len(episodes)}")
    return by_task


def _row(
    name: str,
    episodes: Sequence[LiveEpisode],
    strong: Sequence[LiveEpisode],
    rng: np.random.Generator,
) -> dict[str, Any]:
    tasks = np.array([episode.task_id for episode in episodes])
    success = np.array([episode.success for episode in episodes])
    steps = np.array([episode.num_steps for episode in episodes])
    excess = steps - np.array([episode.expert_steps for episode in episodes])
    flops, strong_flops, prices = (
        np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        for values in (
            [episode.flops for episode in episodes],
            [episode.flops for episode in strong],
            [episode.price for episode in episodes],
        )
    )
    counted = np.isfinite(flops).all()
    seconds, strong_seconds = (
        np.array([episode.seconds for episode in each], dtype=np.float64)
        for each in (episodes, strong)
    )
    row: dict[str, Any] = {
        "name": name,
        "title": SYSTEMS[name].title if name in SYSTEMS else name,
        "n": len(episodes),
        "success": wilson_interval(int(success.sum()), len(episodes)),
        "num_steps": float(steps.mean()),
        "excess_steps": float(excess[success].mean()) if success.any() else None,
        "accept_rate": None,
        "unparsable_rate": sum(e.num_unparsable for e in episodes) / int(steps.sum()),
        "mflops_per_task": float(flops.mean()) / 1e6 if counted else None,
        "relative_flops": ratio_of_totals(flops, strong_flops, tasks, rng)
        if counted and np.isfinite(strong_flops).all()
        else None,
        "price_per_task": float(prices.mean()) if np.isfinite(prices).all() else None,
        "seconds_per_task": float(seconds.mean()),
        # Draws of its own leave all other intervals as they are.
        "relative_seconds": ratio_of_totals(seconds, strong_seconds, tasks, rng.spawn(1)[0]),
        "difference_from_a": paired_cluster_bootstrap(
            success,
            np.array([episode.success for episode in strong]),
            tasks,
            rng=rng,
            num_resamples=NUM_RESAMPLES,
        ),
    }
    if name != STRONG_ONLY:
        accepted = [[True] * e.num_accepted + [False] * e.num_fallback for e in episodes]
        row["accept_rate"] = (
            nothing_rejected(int(steps.sum()))
            if name in SYSTEMS and not SYSTEMS[name].fallback
            else cluster_rate(np.concatenate(accepted), tasks.repeat(steps))
        )
    return row
