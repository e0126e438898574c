"""Running each model once over logged steps: the two tables that everything else joins.

`proposals` has one row per step, model and sample; `scores` one per proposal and verifier. Both
are made in chunks of whole rollouts, each chunk a shard that a killed run finds again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from specact_rl.actions.canonical import action_hash
from specact_rl.actions.serialise import action_text
from specact_rl.envs.labels import ActionLabel, StepLabeller, labeller_of
from specact_rl.models.language_model import LanguageModel, Proposer, Sampling
from specact_rl.models.prefix import num_cached_tokens
from specact_rl.models.scoring import score_candidates
from specact_rl.rendering import Renderer
from specact_rl.store import append_shard, done_shards, read_shards
from specact_rl.types import Proposal, Rollout, Score, proposal_id
from specact_rl.verifiers.base import Verifier, items_of, scores_of

CHUNK_ROLLOUTS = 48
"""Rollouts whose steps are proposed together, and saved together."""

Progress = Callable[[int], None]
"""Called with the number of rollouts just finished."""


def generated_proposals(
    proposer: Proposer, rollouts: Sequence[Rollout], sampling: Sampling
) -> list[Proposal]:
    """Free-text proposals at every step of the rollouts, labelled, in order."""
    steps = [(i, step) for i, rollout in enumerate(rollouts) for step in rollout.each_step()]
    labellers = [labeller_of(rollout) for rollout in rollouts]
    proposed = proposer.propose_over(rollouts, sampling)
    return [
        _labelled(proposal, labellers[i].label(step.index, proposal.action))
        for (i, step), samples in zip(steps, proposed, strict=True)
        for proposal in samples
    ]


def num_distinct(rollouts: Sequence[Rollout], proposals: Sequence[Proposal]) -> int:
    """Distinct parsable actions over all steps: what so many proposals are worth to a verifier."""
    tools = {rollout.rollout_id: rollout.tools for rollout in rollouts}
    return len(
        {
            (p.step_id, action_hash(p.action, tools[p.step_id.rpartition("/")[0]]))
            for p in proposals
            if p.action is not None
        }
    )


def _labelled(proposal: Proposal, label: ActionLabel) -> Proposal:
    return dataclasses.replace(
        proposal,
        match_level=label.match_level,
        same_state=label.same_state,
        acceptable=label.acceptable,
        label_source=label.label_source,
    )


def ranked_proposals(lm: LanguageModel, rollouts: Sequence[Rollout]) -> list[Proposal]:
    """The likeliest of the environment's candidate actions at every step, labelled.

    `logprob` is the candidate's probability among the candidates (they sum to one), which is what
    ranking chooses by; it is conditional on the list.
    """
    proposals = []
    for rollout in rollouts:
        labeller = StepLabeller(rollout)
        steps = list(rollout.each_step())
        prompts = lm.renderer.rollout_ids(rollout).prompts()
        candidates = [labeller.environment_at(s.index).legal_actions() for s in steps]
        ids = [[lm.renderer.completion_ids(action) for action in each] for each in candidates]
        started = time.perf_counter()
        logprobs = score_candidates(lm.model, prompts, ids)
        seconds = (time.perf_counter() - started) / max(1, len(steps))
        for step, prompt, num_cached, each, values, tokens in zip(
            steps, prompts, num_cached_tokens(prompts), candidates, logprobs, ids, strict=True
        ):
            best = int(np.argmax(values))
            label = labeller.label(step.index, each[best])
            proposals.append(
                Proposal(
                    proposal_id=proposal_id(step.step_id, lm.model_id, "rank", 0),
                    step_id=step.step_id,
                    task_id=step.task_id,
                    model_id=lm.model_id,
                    sample=0,
                    mode="rank",
                    text=action_text(each[best]),
                    action=each[best],
                    parse_error=None,
                    match_level=label.match_level,
                    same_state=label.same_state,
                    acceptable=label.acceptable,
                    label_source=label.label_source,
                    logprob=float(values[best] - np.logaddexp.reduce(values)),
                    num_candidates=len(each),
                    num_prompt_tokens=len(prompt.ids),
                    num_cached_tokens=num_cached,
                    num_completion_tokens=sum(len(candidate) for candidate in tokens),
                    seconds=seconds,
                )
            )
    return proposals


def verifier_scores(
    verifier: Verifier,
    rollouts: Sequence[Rollout],
    proposals: Sequence[Proposal],
    renderer: Renderer | None,
) -> list[Score]:
    """A verifier's rows of the scores table, in the order of the proposals."""
    items = items_of(rollouts, proposals, renderer)
    if not items:
        return []
    started = time.perf_counter()
    judgements = verifier.judge(items)
    return scores_of(verifier, items, judgements, time.perf_counter() - started)


def proposals_in_shards(
    folder: Path,
    rollouts: Sequence[Rollout],
    propose: Callable[[Sequence[Rollout]], list[Proposal]],
    progress: Progress | None = None,
) -> list[Proposal]:
    """Propose chunk by chunk, keeping each in `folder`; chunks that are there are not run again."""
    for index, chunk in _missing(folder, rollouts, progress):
        append_shard(folder, index, propose(chunk))
        _report(progress, chunk)
    return read_shards(folder, Proposal)


def scores_in_shards(
    folder: Path,
    rollouts: Sequence[Rollout],
    proposals: Sequence[Proposal],
    verifier: Verifier,
    renderer: Renderer | None,
    progress: Progress | None = None,
) -> list[Score]:
    """Score chunk by chunk, keeping each in `folder`; chunks that are there are not run again."""
    by_rollout: dict[str, list[Proposal]] = {}
    for proposal in proposals:
        by_rollout.setdefault(proposal.step_id.rsplit("/", 1)[0], []).append(proposal)
    for index, chunk in _missing(folder, rollouts, progress):
        chosen = [p for rollout in chunk for p in by_rollout.get(rollout.rollout_id, [])]
        append_shard(folder, index, verifier_scores(verifier, chunk, chosen, renderer))
        _report(progress, chunk)
    return read_shards(folder, Score)


def _missing(
    folder: Path, rollouts: Sequence[Rollout], progress: Progress | None
) -> Iterator[tuple[int, Sequence[Rollout]]]:
    done = set(done_shards(folder))
    for index, chunk in enumerate(_chunks(rollouts)):
        if index in done:
            _report(progress, chunk)
        else:
            yield index, chunk


def _chunks(rollouts: Sequence[Rollout]) -> Iterable[Sequence[Rollout]]:
    for start in range(0, len(rollouts), CHUNK_ROLLOUTS):
        yield rollouts[start : start + CHUNK_ROLLOUTS]


def _report(progress: Progress | None, chunk: Sequence[Rollout]) -> None:
    if progress is not None:
        progress(len(chunk))
