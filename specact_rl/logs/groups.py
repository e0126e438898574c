"""Groups of rollouts whose labels or actions cannot teach anything, or not what they seem to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

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
    earned = LogFlags()
    for rollout in rollouts:
        earned.add(rollout)
    return ImportResult(
        rollouts=[earned.without_broken_labels(rollout) for rollout in rollouts],
        dropped=dict(dropped),
        flags=[*flags, *earned.found()],
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


def official_score(rollout: Rollout) -> bool | None:
    """The verdict as the log has it: `success`, or where that is withheld what was scored.

    A label is withheld (None) where the failure is not the policy's own, e.g. a server error that
    a leaderboard counts as wrong. Numbers that must equal a leaderboard's need this one.
    """
    if rollout.success is not None:
        return rollout.success
    scored = rollout.info.get("scored")
    return scored if isinstance(scored, bool) else None


class LogFlags:
    """What any log can earn flags for, from one rollout at a time.

    Server errors and the like; categories where every model has the same verdict on every task,
    from `MIN_GROUP` scored tasks on; and calls of tools that are in no catalogue.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._verdicts: defaultdict[str, set[bool]] = defaultdict(set)
        self._policies: defaultdict[str, set[str]] = defaultdict(set)
        self._tasks: defaultdict[str, set[str]] = defaultdict(set)
        self._faults: Counter[tuple[str, str]] = Counter()
        self._unknown_tools: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, rollout: Rollout) -> None:
        """Take one more rollout into account."""
        fault = rollout.info.get("fault")
        if isinstance(fault, str):
            self._faults[rollout.policy, fault] += 1
        self._unknown_tools[rollout.policy].update(tool for _, _, tool in unknown_tools(rollout))
        score = official_score(rollout)
        # A category is degenerate while its verdicts are of one kind: its tasks count until then.
        if score is not None and rollout.family != rollout.task_id:
            self._verdicts[rollout.family].add(score)
            self._policies[rollout.family].add(rollout.policy)
            if len(self._verdicts[rollout.family]) == 1:
                self._tasks[rollout.family].add(rollout.task_id)
            else:
                self._tasks[rollout.family].clear()

    def without_broken_labels(self, rollout: Rollout) -> Rollout:
        """The rollout, `unlabelled` if several models fail all tasks of its category."""
        family = rollout.family
        is_broken = (
            self._verdicts.get(family) == {False}
            and len(self._tasks[family]) >= MIN_GROUP
            and len(self._policies[family]) > 1
        )
        return unlabelled(rollout) if is_broken else rollout

    def found(self) -> list[Flag]:
        """The flags so far."""
        flags = [
            Flag(
                kind=f"{fault}s",
                group=policy,
                detail=f"{count} rollouts end in a {fault.replace('_', ' ')}; their labels are "
                "withheld, so that no pair is made of them (info.scored keeps the official "
                "verdict)",
            )
            for (policy, fault), count in sorted(self._faults.items())
        ]
        for family, values in sorted(self._verdicts.items()):
            if len(values) == 1 and len(self._tasks[family]) >= MIN_GROUP:
                share = "100 %" if values == {True} else "0 %"
                flags.append(
                    Flag(
                        kind="degenerate_group",
                        group=family,
                        detail=f"all {len(self._policies[family])} models score {share} on all "
                        f"{len(self._tasks[family])} tasks: no pairs, and nothing for a verifier "
                        "to tell apart; a harness fault is likelier than a fact about the models",
                    )
                )
        return flags + [
            Flag(
                kind="unknown_tools",
                group=policy,
                detail=f"{counts.total()} calls name a tool that the catalogue of their rollout "
                f"lacks, most often {counts.most_common(1)[0][0]!r}; they are kept, and no "
                "proposal can equal them, since one that names such a tool is unparsable",
            )
            for policy, counts in sorted(self._unknown_tools.items())
            if counts
        ]
