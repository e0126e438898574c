"""Groups of rollouts whose labels or actions cannot teach anything, or not what they seem to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from specact_rl.logs.result import Flag, ImportResult
from specact_rl.types import Rollout

MIN_GROUP = 5
"""Fewer tasks than this in a category may well all come out alike by chance."""


def finished(
    rollouts: list[Rollout], dropped: Mapping[str, int], flags: Sequence[Flag] = ()
) -> ImportResult:
    """The result of an importer, with the flags that any log can earn added to its own.

    Where several models fail all tasks of a category, its steps lose their labels: whatever broke
    there, a verifier must not learn that their actions are wrong.
    """
    broken = {
        family
        for family, group in _degenerate_groups(rollouts).items()
        if not group.verdict and group.num_policies > 1
    }
    return ImportResult(
        rollouts=[unlabelled(r) if r.family in broken else r for r in rollouts],
        dropped=dict(dropped),
        flags=[*flags, *group_flags(rollouts), *_unknown_tool_flags(rollouts)],
    )


def unlabelled(rollout: Rollout, fault: str | None = None) -> Rollout:
    """The rollout without labels on its steps; its own verdict stays.

    With a fault, that verdict says nothing of the actions: as a failure it is on no side of a pair.
    """
    steps = [replace(step, acceptable=None, label_source=None) for step in rollout.steps]
    info = rollout.info if fault is None else {**rollout.info, "fault": fault}
    return replace(rollout, steps=steps, info=info)


def withheld(rollout: Rollout, fault: str) -> Rollout:
    """The rollout without labels, because its failure is not the policy's own: it is no negative.

    `info.scored`, the log's verdict, stays as it is.
    """
    return replace(unlabelled(rollout, fault), success=None)


def unknown_tools(rollout: Rollout) -> Iterator[tuple[int, str, str]]:
    """Calls of tools that the catalogue lacks: step index, "executed" or "reference", tool.

    Nothing for a rollout without a catalogue, which many logs leave out.
    """
    known = {tool.name for tool in rollout.tools}
    if not known:
        return
    for i, step in enumerate(rollout.steps):
        for side, action in (("executed", step.executed), ("reference", step.reference)):
            if action is not None and action.tool is not None and action.tool not in known:
                yield i, side, action.tool


def _unknown_tool_flags(rollouts: Sequence[Rollout]) -> list[Flag]:
    tools: dict[str, Counter[str]] = defaultdict(Counter)
    for rollout in rollouts:
        tools[rollout.policy].update(tool for _, _, tool in unknown_tools(rollout))
    return [
        Flag(
            kind="unknown_tools",
            group=policy,
            detail=f"{counts.total()} calls name a tool that the catalogue of their rollout lacks, "
            f"most often {counts.most_common(1)[0][0]!r}; they are kept, and no proposal can equal "
            "them, since one that names such a tool is unparsable",
        )
        for policy, counts in sorted(tools.items())
        if counts
    ]


def official_score(rollout: Rollout) -> bool | None:
    """The verdict as the log has it: `success`, or where that is withheld what was scored.

    A label is withheld (None) where the failure is not the policy's own, e.g. a server error that
    a leaderboard counts as wrong. Numbers that must equal a leaderboard's need this one.
    """
    if rollout.success is not None:
        return rollout.success
    scored = rollout.info.get("scored")
    return scored if isinstance(scored, bool) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """A category where every model has the same verdict on every task."""

    verdict: bool
    num_policies: int
    num_tasks: int


def group_flags(rollouts: Sequence[Rollout]) -> list[Flag]:
    """Categories where every model has the same verdict on every task, and faults.

    A category counts from `MIN_GROUP` scored tasks on.
    """
    faults: dict[tuple[str, str], int] = defaultdict(int)
    for rollout in rollouts:
        fault = rollout.info.get("fault")
        if isinstance(fault, str):
            faults[rollout.policy, fault] += 1
    flags = [
        Flag(
            kind=f"{fault}s",
            group=policy,
            detail=f"{count} rollouts end in a {fault.replace('_', ' ')}; their labels are "
            "withheld, so that no pair is made of them (info.scored keeps the official verdict)",
        )
        for (policy, fault), count in sorted(faults.items())
    ]
    for family, group in sorted(_degenerate_groups(rollouts).items()):
        flags.append(
            Flag(
                kind="degenerate_group",
                group=family,
                detail=f"all {group.num_policies} models score {'100' if group.verdict else '0'} % "
                f"on all {group.num_tasks} tasks: no pairs, and nothing for a verifier to tell "
                "apart; a harness fault is likelier than a fact about the models",
            )
        )
    return flags


def _degenerate_groups(rollouts: Sequence[Rollout]) -> dict[str, _Group]:
    """Them by category."""
    verdicts: dict[str, set[bool]] = defaultdict(set)
    policies: dict[str, set[str]] = defaultdict(set)
    tasks: dict[str, set[str]] = defaultdict(set)
    for rollout in rollouts:
        score = official_score(rollout)
        if score is not None and rollout.family != rollout.task_id:
            verdicts[rollout.family].add(score)
            policies[rollout.family].add(rollout.policy)
            tasks[rollout.family].add(rollout.task_id)
    return {
        family: _Group(
            verdict=True in values,
            num_policies=len(policies[family]),
            num_tasks=len(tasks[family]),
        )
        for family, values in verdicts.items()
        if len(values) == 1 and len(tasks[family]) >= MIN_GROUP
    }
