"""Pairs from proposals at one step: an acceptable and an unacceptable one after one history."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from specact_rl.mining.task_tables import (
    MiningOptions,
    Pair,
    Side,
    TaskTables,
    action_side,
    reference_side,
    text_side,
)
from specact_rl.types import Proposal, ProposalMode, Step


def same_prefix_pairs(
    task: TaskTables, options: MiningOptions, dropped: Counter[str]
) -> list[Pair]:
    """Acceptable against unacceptable proposals of any model at one step, likeliest first.

    Without an acceptable one the reference stands in (`chosen.source == "reference"`).
    """
    return _pairs("same_prefix", task, task.proposals, options, dropped, allow_reference=True)


def on_policy_pairs(task: TaskTables, options: MiningOptions, dropped: Counter[str]) -> list[Pair]:
    """The same, with both sides from the current proposer.

    Raises:
        ValueError: No `model_id`, and proposals of several models.
    """
    models = {proposal.model_id for proposal in task.proposals}
    if options.model_id is None and len(models) > 1:
        raise ValueError(
            f"on_policy needs model_id, the current proposer, to choose from {sorted(models)!r}"
        )
    current = options.model_id or next(iter(models), None)
    own = [proposal for proposal in task.proposals if proposal.model_id == current]
    return _pairs("on_policy", task, own, options, dropped, allow_reference=False)


def unacceptable_sides(
    proposals: Sequence[Proposal], step: Step, dropped: Counter[str]
) -> list[Side]:
    """The wrong proposals among those of one step, distinct, likeliest first."""
    return _sides(proposals, step, dropped)[1]


def _pairs(
    strategy: str,
    task: TaskTables,
    proposals: Sequence[Proposal],
    options: MiningOptions,
    dropped: Counter[str],
    *,
    allow_reference: bool,
) -> list[Pair]:
    steps = task.steps()
    pairs = []
    # Free and ranked proposals are two populations, which never share a row.
    groups: defaultdict[tuple[str, ProposalMode], list[Proposal]] = defaultdict(list)
    for proposal in proposals:
        groups[proposal.step_id, proposal.mode].append(proposal)
    for (step_id, _), group in sorted(groups.items()):
        step = steps[step_id]
        good, bad = _sides(group, step, dropped)
        if not bad:
            dropped["no_unacceptable"] += 1
            continue
        if not good and allow_reference:
            reference = reference_side(step)
            good = [reference] if reference else []
            bad = [side for side in bad if not reference or side.key != reference.key]
        if not good or not bad:
            dropped["no_acceptable"] += 1
            continue
        # Every error once, before any of them twice.
        for i, rejected in enumerate(bad[: options.max_per_step]):
            chosen = good[i % len(good)]
            pairs.append(Pair(strategy=strategy, step=step, chosen=chosen, rejected=rejected))
    return pairs


def _sides(
    proposals: Sequence[Proposal], step: Step, dropped: Counter[str]
) -> tuple[list[Side], list[Side]]:
    """Acceptable and unacceptable sides, distinct, likeliest first."""
    good: dict[str, Side] = {}
    bad: dict[str, Side] = {}
    for proposal in sorted(proposals, key=_likeliest_first):
        if not proposal.finished:  # a row would end it with a stop token that was never written
            dropped["cut_off"] += 1
        elif proposal.acceptable is None:
            dropped["unknown_label"] += 1
        elif proposal.action is not None:
            side = action_side(proposal.action, step.tools, proposal.model_id, proposal.proposal_id)
            (good if proposal.acceptable else bad).setdefault(side.key, side)
        elif proposal.actions:  # no single action, and its text may be in another model's format
            dropped["several_actions"] += 1
        elif proposal.acceptable or not proposal.text.strip():
            dropped["empty_text" if not proposal.acceptable else "unparsable_acceptable"] += 1
        else:
            side = text_side(proposal.text, proposal.model_id, proposal.proposal_id)
            bad.setdefault(side.key, side)
    contradictory = good.keys() & bad.keys()
    dropped["contradictory_label"] += len(contradictory)
    return _without(good, contradictory), _without(bad, contradictory)


def _without(sides: dict[str, Side], keys: Iterable[str]) -> list[Side]:
    return [side for key, side in sides.items() if key not in set(keys)]


def _likeliest_first(proposal: Proposal) -> tuple[float, int, str]:
    logprob = -math.inf if proposal.logprob is None else proposal.logprob
    return (-logprob, proposal.sample, proposal.proposal_id)
