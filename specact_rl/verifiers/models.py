"""Verifiers that run a model: a trained classifier, a reward model, the strong model as judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedModel

from specact_rl.actions.canonical import proposal_hash
from specact_rl.metrics.cost import ModelSize
from specact_rl.models.kept_prefixes import KeptPrefixes
from specact_rl.models.language_model import LanguageModel
from specact_rl.models.loading import (
    checkpoint_renderer,
    dtype_origin,
    load_judge,
    model_folder,
    model_id,
    model_size,
)
from specact_rl.models.names import ModelName
from specact_rl.models.prefix import kept_prefixes, num_cached_tokens
from specact_rl.models.scoring import classify_continuations, score_candidates
from specact_rl.rendering import Renderer, StepPrompt
from specact_rl.types import Proposal
from specact_rl.verifiers.base import Item, Judgements, distinct_items, spread


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierVerifier:
    """A sequence classifier over prompt and proposal.

    With two labels the log-odds are the difference of the logits; with one (a reward model) they
    are the score itself, whose zero means nothing before calibration.
    """

    verifier_id: str
    model: PreTrainedModel
    renderer: Renderer
    kept: KeptPrefixes | None = field(default=None, repr=False, compare=False)
    """What it has read in earlier calls, and reads on from; None: it keeps nothing."""

    @classmethod
    def load(cls, name: str | Path) -> ClassifierVerifier:
        """The verifier or reward model of a checkpoint folder, hub id or `id@revision`.

        Raises:
            ModelError: It cannot be had, is neither, or does not say how its prompts are rendered.
        """
        folder, short = model_folder(name), ModelName.parse(name).short
        renderer = checkpoint_renderer(folder)
        model = load_judge(folder)
        return cls(verifier_id=model_id(folder, renderer, short), model=model, renderer=renderer)

    @property
    def origin(self) -> dict[str, str]:
        """What its scores depend on that `verifier_id` does not say."""
        return dtype_origin(self.model)

    @property
    def size(self) -> ModelSize:
        """What a forward pass costs."""
        return model_size(self.model)

    def keeping_prefixes(self, num_models: int = 1) -> ClassifierVerifier:
        """The same, reading on at each step from where it was; with so many in one room."""
        return replace(self, kept=kept_prefixes(self.model, num_models))

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of each item; equal actions at a step are computed once."""
        distinct, places = distinct_items(items)
        continuations = _completions(distinct, self.renderer)
        prompts = [item.tokens for item in distinct]
        tokens = _token_counts(prompts, continuations, self.kept)
        logits = classify_continuations(
            self.model, prompts, [[ids] for ids in continuations], self.kept
        )
        log_odds = [
            float(row[0, 1] - row[0, 0]) if row.shape[1] == 2 else float(row[0, 0])
            for row in logits
        ]
        return spread(places, log_odds, tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrongJudge:
    """How the strong model likes the proposal beside its own best action (system C).

    Log-odds are log p(proposal) - log p(own greedy action), and exactly 0 where both are the same
    action: two batches round differently, which would rank such proposals by noise. For small
    models, which cannot answer a question about a proposal in words.
    """

    verifier_id: str
    model: PreTrainedModel
    renderer: Renderer
    own: Mapping[str, Proposal]
    """The strong model's greedy proposal by step id."""
    kept: KeptPrefixes | None = field(default=None, repr=False, compare=False)
    """What the strong model has read, to propose or to judge; None: it is read again."""

    @classmethod
    def of(cls, strong: LanguageModel, own: Mapping[str, Proposal]) -> StrongJudge:
        """The strong model as judge of proposals, which shares with it what it keeps."""
        return cls(
            verifier_id=f"judge-{strong.model_id}",
            model=strong.model,
            renderer=strong.renderer,
            own=own,
            kept=strong.kept,
        )

    @property
    def size(self) -> ModelSize:
        """What a forward pass costs."""
        return model_size(self.model)

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of each item; equal actions at a step are computed once."""
        distinct, places = distinct_items(items)
        continuations = _completions(distinct, self.renderer)
        prompts = [item.tokens for item in distinct]
        tokens = _token_counts(prompts, continuations, self.kept)
        logprobs = score_candidates(
            self.model, prompts, [[ids] for ids in continuations], self.kept
        )
        log_odds = []
        for item, logprob in zip(distinct, logprobs, strict=True):
            own, tools = self.own[item.step.step_id], item.step.tools
            assert own.logprob is not None  # generated proposals carry their log-probability
            same = proposal_hash(own, tools) == proposal_hash(item.proposal, tools)
            log_odds.append(0.0 if same else float(logprob[0]) - own.logprob)
        return spread(places, log_odds, tokens)


def _completions(items: Sequence[Item], renderer: Renderer) -> list[list[int]]:
    actions = [item.proposal.action for item in items]
    return [renderer.completion_ids(action) for action in actions if action is not None]


def _token_counts(
    prompts: Sequence[StepPrompt],
    continuations: Sequence[Sequence[int]],
    kept: KeptPrefixes | None,
) -> dict[int, tuple[int, int]]:
    """(computed, cached) tokens by item, before they are computed.

    A rollout's prompts extend one another, and what is kept of it.
    """
    cached = num_cached_tokens(prompts, kept)
    return {
        i: (len(prompt.ids) - cached[i] + len(continuations[i]), cached[i])
        for i, prompt in enumerate(prompts)
    }
