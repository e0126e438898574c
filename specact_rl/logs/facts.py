"""What a log supports, in numbers: outcomes by task and model, and what two models have in common.

Counts only; intervals, and what can be mined, are for those who build on it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from specact_rl.logs.groups import official_score
from specact_rl.store import canonical_json
from specact_rl.types import Rollout

MAX_K = 4
"""pass^k up to this k, as tau-bench reports it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """One model in one run."""

    agent: str
    num_tasks: int
    """Tasks with a verdict."""
    num_rollouts: int
    """Rollouts with a verdict."""
    accuracy: float
    """Mean over tasks of the share that succeed, in [0, 1]."""
    pass_hat: dict[int, float]
    """Chance that k trials of a task all succeed, by k, over the tasks with k trials or more."""
    retry_headroom: float | None
    """What the best of two trials of its own adds to the accuracy; None without second trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """Two agents on the tasks that both have exactly one verdict or a first trial of."""

    cheap: str
    """The less accurate one; the cheaper one only where the two go together."""
    strong: str
    num_tasks: int
    both: int
    only_cheap: int
    only_strong: int
    neither: int

    @property
    def cheap_accuracy(self) -> float:
        """Share of the tasks that the first solves."""
        return (self.both + self.only_cheap) / self.num_tasks

    @property
    def strong_accuracy(self) -> float:
        """Share of the tasks that the second solves."""
        return (self.both + self.only_strong) / self.num_tasks

    @property
    def oracle_accuracy(self) -> float:
        """Share of the tasks that one of them solves: what a perfect gate reaches."""
        return 1 - self.neither / self.num_tasks

    @property
    def oracle_headroom(self) -> float:
        """What a perfect gate adds to the better of the two."""
        return self.oracle_accuracy - max(self.cheap_accuracy, self.strong_accuracy)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """What a log holds. Verdicts are the official ones, server errors counted as failures."""

    num_rollouts: int
    num_tasks: int
    num_unscored: int
    """Rollouts without a verdict."""
    num_withheld: int
    """Rollouts with a verdict that is no label (a server error, say)."""
    num_mixed_tasks: int
    """Tasks with a success and a failure that are labels."""
    num_outcome_pairs: int
    """Pairs of a success and a failure on one task."""
    num_never_solved: int
    """Tasks with two verdicts or more and no success: hard, or wrongly labelled."""
    num_always_solved: int
    num_paired_steps: int
    """Steps that two rollouts or more stand at after the same history."""
    agents: list[AgentFacts]
    pairs: list[PairFacts]
    """Of agents in the same run, or in a log of one run; by tasks in common, most first."""


def log_facts(rollouts: Sequence[Rollout]) -> LogFacts:
    """The facts of a log."""
    labels: dict[str, Counter[bool]] = defaultdict(Counter)
    official: dict[str, Counter[bool]] = defaultdict(Counter)
    by_agent: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for rollout in sorted(rollouts, key=lambda r: r.trial):
        score = official_score(rollout)
        own = rollout.success or not rollout.info.get("fault")
        if rollout.success is not None and own:
            labels[rollout.task_id][rollout.success] += 1
        if score is not None:
            official[rollout.task_id][score] += 1
            by_agent[agent_name(rollout)][rollout.task_id].append(score)
    repeated = [counts for counts in official.values() if counts.total() > 1]
    return LogFacts(
        num_rollouts=len(rollouts),
        num_tasks=len({rollout.task_id for rollout in rollouts}),
        num_unscored=sum(official_score(rollout) is None for rollout in rollouts),
        num_withheld=sum(
            rollout.success is None and official_score(rollout) is not None for rollout in rollouts
        ),
        num_mixed_tasks=sum(bool(c[True] and c[False]) for c in labels.values()),
        num_outcome_pairs=sum(c[True] * c[False] for c in labels.values()),
        num_never_solved=sum(not counts[True] for counts in repeated),
        num_always_solved=sum(not counts[False] for counts in repeated),
        num_paired_steps=_num_paired_steps(rollouts),
        agents=[_agent(name, tasks) for name, tasks in sorted(by_agent.items())],
        pairs=_pairs(by_agent),
    )


def agent_name(rollout: Rollout) -> str:
    """The policy, with its run where the log has several."""
    run = rollout.info.get("run")
    return f"{rollout.policy}@{run}" if run else rollout.policy


def _agent(name: str, tasks: Mapping[str, Sequence[bool]]) -> AgentFacts:
    shares = [sum(scores) / len(scores) for scores in tasks.values()]
    pass_hat = {
        k: sum(values) / len(values)
        for k in range(1, MAX_K + 1)
        if (values := [comb(sum(s), k) / comb(len(s), k) for s in tasks.values() if len(s) >= k])
    }
    twice = [scores for scores in tasks.values() if len(scores) > 1]
    # Of two trials drawn without replacement, at least one succeeds.
    gains = [1 - comb(len(s) - sum(s), 2) / comb(len(s), 2) - sum(s) / len(s) for s in twice]
    return AgentFacts(
        agent=name,
        num_tasks=len(tasks),
        num_rollouts=sum(map(len, tasks.values())),
        accuracy=sum(shares) / len(shares),
        pass_hat=pass_hat,
        retry_headroom=sum(gains) / len(gains) if gains else None,
    )


def _pairs(by_agent: Mapping[str, Mapping[str, Sequence[bool]]]) -> list[PairFacts]:
    pairs = []
    for first, second in combinations(sorted(by_agent), 2):
        if first.partition("@")[2] != second.partition("@")[2]:
            continue
        ours, theirs = by_agent[first], by_agent[second]
        counts = Counter((ours[task][0], theirs[task][0]) for task in ours.keys() & theirs.keys())
        if not counts:
            continue
        cheap, strong = first, second
        if counts[True, False] > counts[False, True]:
            cheap, strong = second, first
            counts = Counter({(b, a): n for (a, b), n in counts.items()})
        pairs.append(
            PairFacts(
                cheap=cheap,
                strong=strong,
                num_tasks=counts.total(),
                both=counts[True, True],
                only_cheap=counts[True, False],
                only_strong=counts[False, True],
                neither=counts[False, False],
            )
        )
    return sorted(pairs, key=lambda pair: -pair.num_tasks)


def _num_paired_steps(rollouts: Sequence[Rollout]) -> int:
    """Histories of a task, up to and without an action, that several rollouts share."""
    counts: Counter[str] = Counter()
    for rollout in rollouts:
        digest = hashlib.sha256(rollout.task_id.encode())
        at = 0
        for step in rollout.steps:
            for message in rollout.messages[at : step.message_index]:
                digest.update(canonical_json(message).encode())
            at = step.message_index
            counts[digest.hexdigest()] += 1
    return sum(count > 1 for count in counts.values())
