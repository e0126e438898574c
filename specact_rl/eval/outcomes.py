"""Running each model once over logged steps: the two tables that everything else joins.

`proposals` has one row per step, model and sample; `scores` one per proposal and verifier. Both
are made in chunks of whole rollouts, each chunk a shard that a killed run finds again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from specact_rl.actions.canonical import proposal_hash
from specact_rl.actions.serialise import action_text
from specact_rl.envs.labels import ActionLabel, StepLabeller, labeller_of
from specact_rl.eval.team import ALONE, Team
from specact_rl.models.language_model import LanguageModel, Proposer, Sampling
from specact_rl.models.prefix import num_cached_tokens
from specact_rl.models.scoring import score_candidates
from specact_rl.rendering import Renderer
from specact_rl.store import RowCache, append_shard, done_shards
from specact_rl.types import Proposal, Rollout, Score, ToolSpec, proposal_id
from specact_rl.verifiers.base import Verifier, items_of, scores_of

CHUNK_ROLLOUTS = 48
"""Rollouts whose steps are proposed together, and saved together."""

Row = TypeVar("Row", Proposal, Score)
Progress = Callable[[int, int], None]
"""Called with the steps just finished, and the tokens that were computed for them here."""


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
        for proposal in counting_distinct(samples, step.tools)
    ]


def counting_distinct(samples: Sequence[Proposal], tools: Sequence[ToolSpec]) -> list[Proposal]:
    """A model's samples at one step, from the first on, with `num_distinct`."""
    seen: set[str] = set()
    counted = []
    for proposal in samples:
        found = proposal_hash(proposal, tools)
        if found is not None:
            seen.add(found)
        counted.append(dataclasses.replace(proposal, num_distinct=len(seen)))
    return counted


def _labelled(proposal: Proposal, label: ActionLabel) -> Proposal:
    return dataclasses.replace(
        proposal,
        match_level=label.match_level,
        same_state=label.same_state,
        acceptable=label.acceptable,
        label_source=label.label_source,
        tool_seconds=label.tool_seconds,
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
                    tool_seconds=label.tool_seconds,
                    num_distinct=1,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A rollout, and the proposals at its steps that are to be judged."""

    rollout: Rollout
    proposals: Sequence[Proposal] = ()


Maker = Callable[[Sequence[Work]], list[list[Row]]]
"""Gives the rows of each piece of work."""
Chunks = Iterator[tuple[int, Sequence[Work]]]
"""Pieces of work that are done together, with the number of their shard. Some have no piece."""
Crew = Callable[[Chunks], Iterator[tuple[int, list[list[Row]]]]]
"""Gives the rows of each piece of work of each chunk, in the order in which chunks are finished;
takes a chunk when there is somebody to work on it, so that memory holds few."""


def alone(make: Maker[Row]) -> Crew[Row]:
    """One maker, one chunk after another."""
    return lambda chunks: ((index, make(chunk) if chunk else []) for index, chunk in chunks)


def in_shards(
    folder: Path,
    works: Iterable[Work],
    crew: Crew[Row],
    *,
    progress: Progress | None = None,
    team: Team = ALONE,
    before_kept: Callable[[int], None] | None = None,
) -> None:
    """Make the rows of each chunk and keep them in `folder`; what is there is not made again.

    Args:
        folder: Of the shards, one a chunk.
        works: All of them, read through once.
        crew: Who makes the rows.
        progress: Of the steps of all processes.
        team: Whose processes take turns at the chunks.
        before_kept: Called with the number of a chunk between the making of its rows and the
            keeping, so that what is kept by it is there wherever the rows are.
    """
    done = set(done_shards(folder))
    told: set[int] = set()
    sizes: list[int] = []

    def tell(tokens: int) -> None:
        if progress is not None:  # what the others have finished meanwhile counts as well
            news = {i for i in done_shards(folder) if i < len(sizes)} - told
            progress(sum(sizes[i] for i in news), tokens)
            told.update(news)

    def missing() -> Chunks:
        for index, chunk in enumerate(_chunks(works)):
            sizes.append(num_steps(work.rollout for work in chunk))
            if index in done:
                tell(0)
            elif team.takes(index):
                yield index, chunk

    for index, made in crew(missing()):
        rows = [row for each in made for row in each]
        if before_kept is not None:
            before_kept(index)
        append_shard(folder, index, rows)
        tell(sum(map(num_computed_tokens, rows)))


def num_steps(rollouts: Iterable[Rollout]) -> int:
    """Of all of them, which is what progress is told in."""
    return sum(len(rollout.steps) for rollout in rollouts)


def num_chunks(num_rollouts: int) -> int:
    """Shards that so many rollouts make, at most."""
    return -(-num_rollouts // CHUNK_ROLLOUTS)


def num_computed_tokens(row: Proposal | Score) -> int:
    """Tokens that a model had to compute for a row, as far as they are known."""
    if isinstance(row, Score):
        return row.num_tokens
    return (row.num_prompt_tokens or 0) - row.num_cached_tokens + (row.num_completion_tokens or 0)


def looking_first(
    cache: RowCache, key_of: Callable[[Work], str], row_type: type[Row], crew: Crew[Row]
) -> Crew[Row]:
    """Ask the crew only for what is not in the cache, and keep what it gives.

    Args:
        cache: Where rows are looked for.
        key_of: Says all that the rows of a piece of work depend on.
        row_type: What they are.
        crew: Who makes the others.
    """

    def look_first(chunks: Chunks) -> Iterator[tuple[int, list[list[Row]]]]:
        asked: dict[int, tuple[list[str], dict[str, list[Row]], list[str]]] = {}

        def missing() -> Chunks:
            for index, chunk in chunks:
                keys = [key_of(work) for work in chunk]
                found = {
                    key: rows for key in keys if (rows := cache.get(key, row_type)) is not None
                }
                left = {k: work for k, work in zip(keys, chunk, strict=True) if k not in found}
                asked[index] = keys, found, list(left)
                yield index, list(left.values())

        for index, made in crew(missing()):
            keys, rows, left = asked.pop(index)
            if left:
                new = dict(zip(left, made, strict=True))
                cache.put(new)
                rows |= new
            yield index, [rows[key] for key in keys]

    return look_first


def split_rows(rows: Sequence[Row], counts: Iterable[int]) -> list[list[Row]]:
    """Rows that follow one another, as lists of so many each."""
    left = iter(rows)
    return [list(islice(left, count)) for count in counts]


def rollout_of(step_id: str) -> str:
    """The id of a step's rollout."""
    return step_id.rsplit("/", 1)[0]


def _chunks(works: Iterable[Work]) -> Iterator[Sequence[Work]]:
    left = iter(works)
    while chunk := list(islice(left, CHUNK_ROLLOUTS)):
        yield chunk
