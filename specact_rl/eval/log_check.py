"""What a log supports before anyone trains on it, as numbers and as verdicts with their reasons.

Counts what the builders would find, with their own code and defaults; splits and writes nothing.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from specact_rl.logs.facts import AgentFacts, LogFacts, PairFacts, agent_name, log_facts
from specact_rl.logs.groups import official_score
from specact_rl.logs.importers import LoadedLog, read_log
from specact_rl.logs.result import Flag, ImportResult
from specact_rl.logs.tool_types import action_histogram
from specact_rl.metrics.paired import minimum_detectable_difference
from specact_rl.mining.build_rollouts import REPORT_FILE, ROLLOUTS_FILE, read_rollouts
from specact_rl.mining.labels import LabelCounts, count_labels
from specact_rl.mining.pair_report import Distances, count_partings, distances_of
from specact_rl.mining.pairs import PAIR_STRATEGIES, MiningOptions, mine_pairs
from specact_rl.mining.splits import DEFAULT_FRACTIONS
from specact_rl.store import read_json, read_manifest
from specact_rl.types import Rollout

MAX_PER_TASK = 8
"""Pairs of a strategy on a task that the builders keep by default."""
PAIR_SHARE = DEFAULT_FRACTIONS["train_verifier"]
"""Share of the tasks that the builder of preferences takes its pairs from by default."""
TEST_SHARE = DEFAULT_FRACTIONS["test"]
_OF_PROPOSALS = ("same_prefix", "on_policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyCount:
    """What one mining strategy finds in the whole log."""

    strategy: str
    num_pairs: int
    """Distinct pairs, no cap."""
    num_kept: int
    """With at most `MAX_PER_TASK` of a task."""
    num_tasks: int
    """Tasks with a pair; bounds what can be learnt more than the pairs do."""
    num_expected: float
    """Of those kept, how many lie in `PAIR_SHARE` of the tasks on average."""
    chosen_longer: float | None
    """Share of the kept pairs whose chosen side has more characters; None without pairs."""
    distances: Distances | None
    """Of the two histories of the kept pairs; None without pairs."""
    num_unparsable: int
    """Kept pairs whose rejected side is one text that could not be parsed."""
    by_family: dict[str, int]
    """Kept pairs by category."""
    dropped: dict[str, int]
    """Contrasts, steps or tasks that gave no pair, by reason; the cap is not among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Smallest true difference of two success rates that a comparison shows with 80 % power.

    Two-sided at 5 %, one run a side on the same tasks. None where even the largest difference
    that the disagreement allows would not show.
    """

    discordance: float
    """Share of the tasks on which the two sides disagree, measured or assumed."""
    all_tasks: float | None
    num_test_tasks: int
    test_tasks: float | None
    """The same on the tasks that a default split leaves for the test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCheck:
    """One model, and what comparing it with itself or with a change of it could show."""

    facts: AgentFacts
    power: Power
    rerun_discordance: float | None
    """Share of tasks on which two of its own trials disagree; None without second trials. Then
    `power` takes two runs as independent of each other, which overstates the disagreement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCheck:
    """A weaker model under a stronger one, and what a gate between them can gain."""

    facts: PairFacts
    retry_headroom: float | None
    """What a second trial of its own adds to the stronger one; None without second trials."""
    power: Power
    """Of any gate between the two against one of them: it can differ on no other tasks."""
    faulty: str | None
    """The model of the two that a flag says fails by its format and not by its calls; or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeverSolved:
    """Tasks with two verdicts or more and no success: hard, wrongly labelled, or a broken run."""

    num_tasks: int
    num_judged: int
    """Tasks with two verdicts or more."""
    num_degenerate: int
    """Of them in categories that a flag calls degenerate."""
    by_family: dict[str, int]
    """Most first; {} where tasks have no families."""
    examples: list[str]
    """Some task ids outside the degenerate categories, drawn by chance, the same every time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCheck:
    """Everything `check_log` found."""

    path: str
    importer: str
    reason: str
    counts: dict[str, int]
    facts: LogFacts
    """Of the whole log, as a leaderboard has it."""
    num_left_out: int
    """Tasks of degenerate categories that nobody solves; not in `agents`, `pairs` and `labels`."""
    agents: list[AgentCheck]
    pairs: list[PairCheck]
    """Most tasks that only the weaker one solves first: there a gate has most to gain. Pairs with
    a model whose failures are the format's come last."""
    never_solved: NeverSolved
    partings: dict[str, dict[str, int]]
    """Pairs of a success and a failure by category and by where they part; {} without any."""
    strategies: list[StrategyCount]
    labels: dict[str, LabelCounts]
    """Of the logged actions, by source; sources without a known label left out."""
    num_demonstrated: int
    """Steps with an action in successful rollouts."""
    single_step: bool
    """No rollout has a second step: a gate's result then follows from a join of two logs."""
    histogram: dict[str, int]
    dropped: dict[str, int]
    flags: list[Flag]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)


def load_log(
    path: Path, importer: str | None = None, *, tool_types: str | None = None
) -> LoadedLog:
    """A log as `read_log` reads it, or a folder that `import_rollouts` wrote.

    Raises:
        ConfigError: No such log, importer or table, or a log in no known format.
        RolloutFormatError: The log is not what its format says.
    """
    if importer is not None or not (path / ROLLOUTS_FILE).is_file():
        return read_log(path, importer, tool_types=tool_types)
    return LoadedLog(
        result=ImportResult(
            rollouts=read_rollouts(path),
            dropped=read_manifest(path).dropped,
            flags=read_flags(path),
        ),
        importer="rollouts folder",
        reason=f"{path} has a {ROLLOUTS_FILE}, which an import wrote",
    )


def read_flags(folder: Path) -> list[Flag]:
    """Flags that an import left in a rollouts folder; [] where rollouts were collected instead.

    Raises:
        ConfigError: The folder has no report.
    """
    return [Flag(**flag) for flag in read_json(folder / REPORT_FILE).get("flags", [])]


def check_log(log: LoadedLog, path: Path) -> LogCheck:
    """Count what a log holds and what can be mined from it.

    Args:
        log: Rollouts with or without a split; the split is not looked at.
        path: Where it came from, for the page.
    """
    rollouts = list(log.result.rollouts)  # read again and again below
    flags = log.result.flags
    usable = _usable(rollouts, flags)
    compared = log_facts(usable)
    retry = {agent.agent: agent.retry_headroom for agent in compared.agents}
    reruns = _rerun_discordance(usable)
    labels = count_labels(step for rollout in usable for step in rollout.steps)
    return LogCheck(
        path=str(path),
        importer=log.importer,
        reason=log.reason,
        counts=log.result.counts(),
        facts=log_facts(rollouts),
        num_left_out=len({r.task_id for r in rollouts}) - len({r.task_id for r in usable}),
        agents=[_agent(agent, reruns.get(agent.agent)) for agent in compared.agents],
        pairs=sorted(
            (_pair(pair, retry.get(pair.strong), _faulty(flags, pair)) for pair in compared.pairs),
            key=lambda pair: (pair.faulty is not None, -pair.facts.only_cheap),
        ),
        never_solved=_never_solved(rollouts, flags),
        partings=count_partings(rollouts),
        strategies=[
            _strategy_count(name, rollouts) for name in PAIR_STRATEGIES if name not in _OF_PROPOSALS
        ],
        labels={
            source: counts
            for source, counts in labels.items()
            if counts.num_acceptable + counts.num_not_acceptable
        },
        num_demonstrated=sum(
            step.executed is not None
            for rollout in rollouts
            if rollout.success is True
            for step in rollout.steps
        ),
        single_step=all(len(rollout.steps) <= 1 for rollout in rollouts),
        histogram=action_histogram(rollouts),
        dropped=log.result.dropped,
        flags=list(flags),
    )


def detectable(num_tasks: int, discordance: float) -> float | None:
    """Smallest difference that this many tasks show; None where no possible one is that large."""
    if num_tasks < 1 or discordance <= 0.0:
        return None
    difference = minimum_detectable_difference(num_tasks, discordance)
    return difference if difference <= discordance else None


def _power(num_tasks: int, discordance: float) -> Power:
    num_test = round(TEST_SHARE * num_tasks)
    return Power(
        discordance=discordance,
        all_tasks=detectable(num_tasks, discordance),
        num_test_tasks=num_test,
        test_tasks=detectable(num_test, discordance),
    )


def _agent(facts: AgentFacts, rerun: float | None) -> AgentCheck:
    independent = 2 * facts.accuracy * (1 - facts.accuracy)
    return AgentCheck(
        facts=facts,
        power=_power(facts.num_tasks, independent if rerun is None else rerun),
        rerun_discordance=rerun,
    )


def _usable(rollouts: Sequence[Rollout], flags: Sequence[Flag]) -> list[Rollout]:
    """All but the degenerate categories that nobody solves; everything where that is all."""
    suspects = {flag.group for flag in flags if flag.kind == "degenerate_group"}
    solved = {rollout.family for rollout in rollouts if official_score(rollout)}
    return [r for r in rollouts if r.family not in suspects - solved] or list(rollouts)


def _faulty(flags: Sequence[Flag], pair: PairFacts) -> str | None:
    groups = [flag.group for flag in flags if flag.kind == "format_failures"]
    for agent in (pair.cheap, pair.strong):
        policy = agent.partition("@")[0]
        if any(group == policy or group.startswith(f"{policy} ") for group in groups):
            return agent
    return None


def _pair(facts: PairFacts, retry_headroom: float | None, faulty: str | None) -> PairCheck:
    discordance = (facts.only_cheap + facts.only_strong) / facts.num_tasks
    return PairCheck(
        facts=facts,
        retry_headroom=retry_headroom,
        power=_power(facts.num_tasks, discordance),
        faulty=faulty,
    )


def _rerun_discordance(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Chance that two trials of a task disagree, mean over the tasks with two, by agent."""
    scores: defaultdict[str, defaultdict[str, Counter[bool]]] = defaultdict(
        lambda: defaultdict(Counter)
    )
    for rollout in rollouts:
        score = official_score(rollout)
        if score is not None:
            scores[agent_name(rollout)][rollout.task_id][score] += 1
    return {
        agent: sum(chances) / len(chances)
        for agent, tasks in scores.items()
        if (
            chances := [
                c[True] * c[False] / comb(c.total(), 2) for c in tasks.values() if c.total() > 1
            ]
        )
    }


def _never_solved(rollouts: Sequence[Rollout], flags: Sequence[Flag]) -> NeverSolved:
    verdicts: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    family: dict[str, str] = {}
    for rollout in rollouts:
        score = official_score(rollout)
        if score is not None:
            verdicts[rollout.task_id][score] += 1
            family[rollout.task_id] = rollout.family
    judged = {task: counts for task, counts in verdicts.items() if counts.total() > 1}
    never = [task for task, counts in judged.items() if not counts[True]]
    degenerate = {flag.group for flag in flags if flag.kind == "degenerate_group"}
    doubtful = [task for task in never if family[task] not in degenerate]
    families = Counter(family[task] for task in never if family[task] != task)
    return NeverSolved(
        num_tasks=len(never),
        num_judged=len(judged),
        num_degenerate=len(never) - len(doubtful),
        by_family=dict(families.most_common()),
        examples=sorted(random.Random(0).sample(sorted(doubtful), min(len(doubtful), 10))),
    )


def _strategy_count(name: str, rollouts: Sequence[Rollout]) -> StrategyCount:
    mined = mine_pairs(
        rollouts, strategies=[name], options=MiningOptions(), max_per_task=MAX_PER_TASK
    )
    reasons = {key.partition(":")[2]: count for key, count in mined.dropped.items()}
    over_cap = reasons.pop("over_cap", 0)
    kept = len(mined.pairs)
    longer = sum(
        len(str(pair.chosen.messages)) > len(str(pair.rejected.messages)) for pair in mined.pairs
    )
    return StrategyCount(
        strategy=name,
        num_pairs=kept + over_cap,
        num_kept=kept,
        num_tasks=len({pair.task_id for pair in mined.pairs}),
        num_expected=PAIR_SHARE * kept,
        chosen_longer=longer / kept if kept else None,
        distances=distances_of([pair.distance for pair in mined.pairs]),
        num_unparsable=mined.counts.get(f"{name}:rejected_unparsable", 0),
        by_family=dict(Counter(pair.step.family for pair in mined.pairs)),
        dropped=dict(sorted(reasons.items(), key=lambda item: -item[1])),
    )
