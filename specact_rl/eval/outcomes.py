"""Running each model once over logged steps: the two tables that everything else joins.

`proposals` has one row per step, model and sample; `scores` one per proposal and verifier. Both
are made in chunks of whole rollouts, each chunk a shard that a killed run finds again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from specact_rl.actions.parsing import parse_action
from specact_rl.actions.serialise import action_text
from specact_rl.envs.labels import LABEL_SOURCE, StepLabeller
from specact_rl.models.generation import Generation, generate
from specact_rl.models.loading import model_id, num_params
from specact_rl.models.scoring import score_candidates
from specact_rl.rendering import Renderer
from specact_rl.store import append_shard, done_shards, read_shards
from specact_rl.types import Proposal, Rollout, Score, Step, proposal_id
from specact_rl.verifiers.base import Verifier, items_of, scores_of

CHUNK_ROLLOUTS = 48
"""Rollouts whose steps are proposed together, and saved together."""

Progress = Callable[[int], None]
"""Called with the number of rollouts just finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """A loaded causal LM with all that is needed to ask it for actions."""

    model_id: str
    model: PreTrainedModel
    renderer: Renderer

    @classmethod
    def of(cls, model: PreTrainedModel, path: Path, renderer: Renderer) -> LanguageModel:
        """The model, under the id of the folder it was loaded from."""
        return cls(model_id=model_id(path, renderer), model=model, renderer=renderer)

    @property
    def num_params(self) -> int:
        """Weights in a forward pass."""
        return num_params(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How proposals are drawn."""

    num_samples: int = 1
    """Sample 0 is greedy, further ones are drawn at `temperature`."""
    temperature: float = 1.0
    max_new_tokens: int = 48
    seed: int = 0


def generated_proposals(
    lm: LanguageModel, rollouts: Sequence[Rollout], sampling: Sampling
) -> list[Proposal]:
    """Free-text proposals at every step of the rollouts, labelled, in order."""
    steps = [(i, step) for i, rollout in enumerate(rollouts) for step in rollout.each_step()]
    prompts = [p for rollout in rollouts for p in lm.renderer.rollout_ids(rollout).prompts()]
    labellers = [StepLabeller(rollout) for rollout in rollouts]
    started = time.perf_counter()
    generations = generate(
        lm.model,
        lm.renderer.tokenizer,
        prompts,
        num_samples=sampling.num_samples,
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        seed=sampling.seed,
    )
    seconds = (time.perf_counter() - started) / max(1, len(steps) * sampling.num_samples)
    return [
        _generated(lm.model_id, step, labellers[i], sample, generation, seconds)
        for (i, step), samples in zip(steps, generations, strict=True)
        for sample, generation in enumerate(samples)
    ]


def _generated(
    model_id: str,
    step: Step,
    labeller: StepLabeller,
    sample: int,
    generation: Generation,
    seconds: float,
) -> Proposal:
    parsed = parse_action(generation.text, step.tools, step.history)
    action = parsed.action if generation.finished else None
    error = parsed.error if generation.finished else "no stop token within the token limit"
    label = labeller.label(step.index, action)
    return Proposal(
        proposal_id=proposal_id(step.step_id, model_id, "generate", sample),
        step_id=step.step_id,
        task_id=step.task_id,
        model_id=model_id,
        sample=sample,
        mode="generate",
        text=generation.text,
        action=action,
        parse_error=None if action is not None else error,
        match_level=label.match_level,
        same_state=label.same_state,
        acceptable=label.acceptable,
        label_source=LABEL_SOURCE,
        logprob=generation.logprob,
        num_candidates=None,
        num_prompt_tokens=generation.num_prompt_tokens,
        num_cached_tokens=generation.num_cached_tokens,
        num_completion_tokens=generation.num_completion_tokens,
        seconds=seconds,
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
        seconds = (time.perf_counter() - started) / len(steps)
        for step, prompt, each, values, tokens in zip(
            steps, prompts, candidates, logprobs, ids, strict=True
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
                    label_source=LABEL_SOURCE,
                    logprob=float(values[best] - np.logaddexp.reduce(values)),
                    num_candidates=len(each),
                    num_prompt_tokens=len(prompt.ids),
                    num_cached_tokens=0,
                    num_completion_tokens=sum(len(candidate) for candidate in tokens),
                    seconds=seconds,
                )
            )
    return proposals


def verifier_scores(
    verifier: Verifier,
    rollouts: Sequence[Rollout],
    proposals: Sequence[Proposal],
    renderer: Renderer,
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
    renderer: Renderer,
    progress: Progress | None = None,
) -> list[Score]:
    """Score chunk by chunk, keeping each in `folder`; chunks that are there are not run again."""
    by_task: dict[str, list[Proposal]] = {}
    for proposal in proposals:
        by_task.setdefault(proposal.step_id.rsplit("/", 1)[0], []).append(proposal)
    for index, chunk in _missing(folder, rollouts, progress):
        chosen = [p for rollout in chunk for p in by_task.get(rollout.rollout_id, [])]
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
