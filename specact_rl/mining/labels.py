"""What the labels of a table say: how many of each, and how often they differ from matching.

An environment's label counts an equally good action that the reference does not name; matching
does not. Their disagreement is therefore reported beside every number that uses one of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from specact_rl.actions.matching import reaches
from specact_rl.logs.facts import agent_name
from specact_rl.logs.responses import LABEL_SOURCE
from specact_rl.types import Proposal, Rollout, StepRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Labels of one source."""

    num_acceptable: int
    num_not_acceptable: int
    num_unknown: int
    """Label None; in no rate."""

    @property
    def acceptable_rate(self) -> float | None:
        """Share acceptable among the known labels, the natural prevalence; None without any."""
        known = self.num_acceptable + self.num_not_acceptable
        return self.num_acceptable / known if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDisagreement:
    """Labels of one source against an argument-level match with the reference."""

    num_known: int
    """Proposals with a known label; the others are not compared."""
    num_acceptable_unmatched: int
    """Label True below the level `arguments`: as good as the reference, but another action."""
    num_matched_not_acceptable: int
    """Label False at the level `arguments` or above: a doubtful label or reference."""

    @property
    def rate(self) -> float | None:
        """Share of the known labels that differ from the match; None without any."""
        differing = self.num_acceptable_unmatched + self.num_matched_not_acceptable
        return differing / self.num_known if self.num_known else None


def count_labels(rows: Iterable[Proposal | StepRecord]) -> dict[str, LabelCounts]:
    """Counts of the labels by their source, sorted by name; "none" where no source is given."""
    tally = LabelTally()
    tally.add(rows)
    return tally.counts()


class LabelTally:
    """`count_labels` over some rows at a time."""

    def __init__(self) -> None:
        """No rows yet."""
        self._tallies: defaultdict[str, Counter[bool | None]] = defaultdict(Counter)

    def add(self, rows: Iterable[Proposal | StepRecord]) -> None:
        """Count more rows."""
        for row in rows:
            self._tallies[row.label_source or "none"][row.acceptable] += 1

    def counts(self) -> dict[str, LabelCounts]:
        """Labels by their source, sorted by name."""
        return {
            source: LabelCounts(
                num_acceptable=tally[True],
                num_not_acceptable=tally[False],
                num_unknown=tally[None],
            )
            for source, tally in sorted(self._tallies.items())
        }


def label_disagreement(proposals: Iterable[Proposal]) -> dict[str, LabelDisagreement]:
    """Label against match level by label source, sorted by name.

    Only for steps that have a reference: without one the match level is "none" and says nothing.
    """
    tally = DisagreementTally()
    tally.add(proposals)
    return tally.counts()


class DisagreementTally:
    """`label_disagreement` over some proposals at a time."""

    def __init__(self) -> None:
        """No proposals yet."""
        self._tallies: defaultdict[str, Counter[tuple[bool, bool]]] = defaultdict(Counter)

    def add(self, proposals: Iterable[Proposal]) -> None:
        """Count more proposals."""
        for proposal in proposals:
            if proposal.acceptable is not None:
                matched = reaches(proposal.match_level, "arguments")
                self._tallies[proposal.label_source][proposal.acceptable, matched] += 1

    def counts(self) -> dict[str, LabelDisagreement]:
        """Label against match level by label source, sorted by name."""
        return {
            source: LabelDisagreement(
                num_known=tally.total(),
                num_acceptable_unmatched=tally[True, False],
                num_matched_not_acceptable=tally[False, True],
            )
            for source, tally in sorted(self._tallies.items())
        }


def without_faulty_labels(
    proposals: Sequence[Proposal], rollouts: Iterable[Rollout]
) -> list[Proposal]:
    """The proposals; those that are logged rollouts which failed by a fault lose their label.

    What failed there was a format or a harness (`info.fault`), and the action is unknown. Such a
    proposal is told by its policy and trial, as `logs.responses` numbers them.
    """
    trials: defaultdict[tuple[str, str], list[Rollout]] = defaultdict(list)
    for rollout in sorted(rollouts, key=lambda r: (r.trial, r.rollout_id)):
        trials[rollout.task_id, agent_name(rollout)].append(rollout)
    faulty = {
        named
        for (task, agent), repeats in trials.items()
        for i, rollout in enumerate(repeats)
        if rollout.success is False and rollout.info.get("fault")
        # A trial may be an agent of its own.
        for named in ((task, agent, i), (task, f"{agent}#{i + 1}", 0))
    }
    return [
        replace(p, acceptable=None)
        if p.label_source == LABEL_SOURCE and (p.task_id, p.model_id, p.sample) in faulty
        else p
        for p in proposals
    ]
