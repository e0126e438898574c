"""Preference pairs: named strategies over tables of rollouts and proposals, capped and deduped."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from specact_rl.mining.hard_negatives import hard_negative_pairs
from specact_rl.mining.labels import without_faulty_labels
from specact_rl.mining.proposal_pairs import on_policy_pairs, same_prefix_pairs
from specact_rl.mining.task_tables import (
    REFERENCE,
    MiningOptions,
    Pair,
    Side,
    Strategy,
    TaskTables,
    seeded,
    state_key,
)
from specact_rl.mining.trajectory_pairs import (
    approx_prefix_pairs,
    divergence_pairs,
    outcome_pairs,
)
from specact_rl.types import Proposal, Rollout, step_id

__all__ = [
    "PAIR_STRATEGIES",
    "STEP_STRATEGIES",
    "MiningOptions",
    "MiningResult",
    "Pair",
    "Side",
    "check_caps",
    "group_by_task",
    "mine_pairs",
    "mine_task",
]

logger = logging.getLogger(__name__)

PAIR_STRATEGIES: dict[str, Strategy] = {
    "outcome": outcome_pairs,
    "divergence": divergence_pairs,
    "approx_prefix": approx_prefix_pairs,
    "same_prefix": same_prefix_pairs,
    "hard_negative": hard_negative_pairs,
    "on_policy": on_policy_pairs,
}
STEP_STRATEGIES = ("divergence", "approx_prefix", "same_prefix", "hard_negative", "on_policy")
"""Those whose sides are one action each; `outcome` compares whole trajectories."""


APPROX = "approx_prefix"
CONTRASTS = ("outcome", "divergence", APPROX)
"""Those that compare a success with a failure of the same task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningResult:
    """Pairs by task and strategy, and what became of the rest."""

    pairs: list[Pair]
    dropped: dict[str, int]
    """By "strategy:reason"."""
    counts: dict[str, int]
    """Pairs by strategy, zeros included; of them by "strategy:chosen_reference" (off-policy) and
    "strategy:rejected_unparsable"."""


def mine_pairs(
    rollouts: Sequence[Rollout],
    proposals: Sequence[Proposal] = (),
    *,
    strategies: Sequence[str],
    options: MiningOptions | None = None,
    max_per_task: int = 8,
) -> MiningResult:
    """Mine every strategy task by task; the order of the rows changes nothing.

    Of pairs with equal canonical sides in the same tool-call state one is kept, across
    strategies too, the earlier named first. Then a seeded sample per task and strategy.

    Args:
        rollouts: Of any number of tasks; of one split, if the pairs are to be trained on.
        proposals: Made at steps of these rollouts.
        strategies: Names in `PAIR_STRATEGIES`.
        options: Defaults where None.
        max_per_task: Cap of each strategy on each task.

    Raises:
        ValueError: An unknown strategy, a proposal at a step that is not there, or a cap below 1.
    """
    options = options or MiningOptions()
    check_caps(strategies, options, max_per_task)
    parts = [
        mine_task(task, strategies=strategies, options=options, max_per_task=max_per_task)
        for task in group_by_task(rollouts, proposals)
    ]
    dropped: Counter[str] = Counter()
    counts = Counter(dict.fromkeys(strategies, 0))
    for part in parts:
        dropped.update(part.dropped)
        counts.update(part.counts)
    pairs = [pair for part in parts for pair in part.pairs]
    logger.info("mined %d pairs: %s; dropped %s", len(pairs), dict(counts), dict(dropped))
    return MiningResult(pairs=pairs, dropped=dict(dropped), counts=dict(counts))


def group_by_task(
    rollouts: Sequence[Rollout], proposals: Sequence[Proposal] = ()
) -> list[TaskTables]:
    """The tables of each task, tasks and rows in the order of their ids.

    Raises:
        ValueError: A proposal at a step of none of the rollouts.
    """
    of_task: defaultdict[str, list[Rollout]] = defaultdict(list)
    proposals_of: defaultdict[str, list[Proposal]] = defaultdict(list)
    for rollout in sorted(rollouts, key=lambda r: r.rollout_id):
        of_task[rollout.task_id].append(rollout)
    task_of_step = {
        step_id(rollout.rollout_id, record.index): rollout.task_id
        for rollout in (rollouts if proposals else ())
        for record in rollout.steps
    }
    for proposal in sorted(proposals, key=lambda p: p.proposal_id):
        task_id = task_of_step.get(proposal.step_id)
        if task_id is None:
            raise ValueError(
                f"proposal {proposal.proposal_id!r} must be made at a step of the rollouts, "
                f"step {proposal.step_id!r} is in none of them"
            )
        proposals_of[task_id].append(proposal)
    return [
        TaskTables(
            task_id=task_id,
            rollouts=rows,
            proposals=without_faulty_labels(proposals_of[task_id], rows),
        )
        for task_id, rows in sorted(of_task.items())
    ]


def check_caps(strategies: Sequence[str], options: MiningOptions, max_per_task: int) -> None:
    """Check what does not depend on the tables.

    Raises:
        ValueError: An unknown strategy, or a cap below 1.
    """
    unknown = [name for name in strategies if name not in PAIR_STRATEGIES]
    if unknown:
        raise ValueError(f"strategies must be among {list(PAIR_STRATEGIES)!r}, got {unknown!r}")
    if max_per_task < 1 or options.max_per_step < 1:
        raise ValueError(
            f"caps must be at least 1, got max_per_task={max_per_task!r}, "
            f"max_per_step={options.max_per_step!r}"
        )


def mine_task(
    task: TaskTables, *, strategies: Sequence[str], options: MiningOptions, max_per_task: int
) -> MiningResult:
    """`mine_pairs` for one task; depends on nothing else, so tasks can be mined anywhere."""
    kept: list[Pair] = []
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, str, str]] = set()
    for name in strategies:
        reasons: Counter[str] = Counter()
        distinct = []
        for pair in PAIR_STRATEGIES[name](task, options, reasons):
            key = (state_key(pair.step), pair.chosen.key, pair.rejected.key)
            if key in seen:
                reasons["duplicate"] += 1
            else:
                seen.add(key)
                distinct.append(pair)
        sample = seeded(options, f"{name}/{task.task_id}").sample(
            range(len(distinct)), min(len(distinct), max_per_task)
        )
        reasons["over_cap"] += len(distinct) - len(sample)
        kept += [distinct[i] for i in sorted(sample)]
        dropped.update({f"{name}:{reason}": count for reason, count in reasons.items() if count})
    return MiningResult(pairs=kept, dropped=dict(dropped), counts=_counts(kept, strategies))


def _counts(pairs: Sequence[Pair], strategies: Sequence[str]) -> dict[str, int]:
    counts = Counter({name: 0 for name in strategies})
    for pair in pairs:
        counts[pair.strategy] += 1
        if pair.chosen.source == REFERENCE:
            counts[f"{pair.strategy}:chosen_reference"] += 1
        if pair.rejected.action is None and not pair.is_trajectory:
            counts[f"{pair.strategy}:rejected_unparsable"] += 1
    return dict(counts)
