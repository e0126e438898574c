"""Groups of rollouts whose labels or actions cannot teach anything, or not what they seem to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from specact_rl.logs.result import Flag, ImportResult
from specact_rl.types import Rollout

MIN_GROUP = 5
"""Fewer tasks than this in a category may well all come out alike by chance."""


def finished(
    rollouts: list[Rollout], dropped: Mapping[str, int], flags: Sequence[Flag] = ()
) -> ImportResult:
    """The result of an importer, with the flags that any log can earn added to its own."""
    return ImportResult(
        rollouts=rollouts,
        dropped=dict(dropped),
        flags=[*flags, *group_flags(rollouts), *_unknown_tool_flags(rollouts)],
    )


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


def group_flags(rollouts: Sequence[Rollout]) -> list[Flag]:
    """Categories where every model has the same verdict on every task, and server errors.

    A category counts from `MIN_GROUP` scored tasks on.
    """
    verdicts: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    tasks: dict[str, set[str]] = defaultdict(set)
    faults: dict[tuple[str, str], int] = defaultdict(int)
    for rollout in rollouts:
        fault = rollout.info.get("fault")
        if isinstance(fault, str):
            faults[rollout.policy, fault] += 1
        score = official_score(rollout)
        if score is not None and rollout.family != rollout.task_id:
            verdicts[rollout.family][rollout.policy].append(score)
            tasks[rollout.family].add(rollout.task_id)
    flags = [
        Flag(
            kind=f"{fault}s",
            group=policy,
            detail=f"{count} rollouts end in a {fault.replace('_', ' ')}; their label is withheld, "
            "so that no pair is made of them (info.scored keeps the official verdict)",
        )
        for (policy, fault), count in sorted(faults.items())
    ]
    for family, by_policy in sorted(verdicts.items()):
        values = {value for scores in by_policy.values() for value in scores}
        if len(tasks[family]) >= MIN_GROUP and len(values) == 1:
            share = "100 %" if values == {True} else "0 %"
            flags.append(
                Flag(
                    kind="degenerate_group",
                    group=family,
                    detail=f"all {len(by_policy)} models score {share} on all "
                    f"{len(tasks[family])} tasks: no pairs, and nothing for a verifier to tell "
                    "apart; a harness fault is likelier than a fact about the models",
                )
            )
    return flags
