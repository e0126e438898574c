"""A causal LM that is asked for actions: steps in, parsed proposals out. Knows no labels."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedModel

from specact_rl.actions.parsing import parse_action
from specact_rl.errors import ConfigError
from specact_rl.metrics.cost import ModelSize
from specact_rl.models.generation import Generation, generate
from specact_rl.models.kept_prefixes import KeptPrefixes
from specact_rl.models.loading import (
    dtype_origin,
    load_actor,
    model_folder,
    model_id,
    model_size,
    proposer_renderer,
)
from specact_rl.models.names import ModelName
from specact_rl.models.prefix import kept_prefixes
from specact_rl.rendering import Renderer, RolloutTokens, StepPrompt
from specact_rl.types import Proposal, Rollout, Step, proposal_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How proposals are drawn."""

    num_samples: int = 1
    """Sample 0 is greedy, further ones are drawn at `temperature`."""
    temperature: float = 1.0
    max_new_tokens: int = 48
    seed: int = 0
    distinct: bool = False
    """Draw without replacement: no sample of a step has the tokens of an earlier one."""

    @property
    def arguments(self) -> dict[str, Any]:
        """As JSON values for a manifest.

        `distinct` only where it is so: tables from before it was there are still what they say.
        """
        found = asdict(self)
        return found if self.distinct else {k: v for k, v in found.items() if k != "distinct"}

    def __post_init__(self) -> None:
        """Refuse what nothing can be drawn by."""
        if self.num_samples < 1 or self.max_new_tokens < 1 or not 0.0 < self.temperature < math.inf:
            raise ConfigError(
                "num_samples and max_new_tokens must be at least 1 and temperature above 0, got "
                f"{self.num_samples!r}, {self.max_new_tokens!r} and {self.temperature!r}"
            )


class Proposer(Protocol):
    """Who proposes at logged rollouts' steps: a `LanguageModel`, `VllmModel` or `ChatModel`."""

    @property
    def model_id(self) -> str:
        """Name, and hash of the weights where they can be seen."""

    @property
    def origin(self) -> dict[str, Any]:
        """What a manifest says of the proposals' making beside `model_id`, as JSON values."""

    def keeping(self, path: Path) -> Proposer:
        """The same, with each answer that costs something kept in the file as it comes.

        An answer that is in the file is not asked for again. The file belongs to one model and one
        sampling.
        """

    def propose_over(self, rollouts: Sequence[Rollout], sampling: Sampling) -> list[list[Proposal]]:
        """`sampling.num_samples` unlabelled proposals at each step of the rollouts, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """A loaded causal LM with all that is needed to ask it for actions."""

    model_id: str
    model: PreTrainedModel
    renderer: Renderer
    kept: KeptPrefixes | None = field(default=None, repr=False, compare=False)
    """What it has read in earlier calls, and reads on from; None: it keeps nothing."""

    @classmethod
    def of(cls, model: PreTrainedModel, path: Path, renderer: Renderer) -> LanguageModel:
        """The model, under the id of the folder it was loaded from."""
        return cls(model_id=model_id(path, renderer), model=model, renderer=renderer)

    @classmethod
    def load(cls, name: str | Path) -> LanguageModel:
        """The model of a checkpoint folder, hub id or `id@revision`, rendered as it was trained.

        One from the hub that does not say how is rendered by its own chat template.

        Raises:
            ModelError: It cannot be had, is no causal LM, or a verifier, or a folder that does not
                say how its prompts are rendered.
        """
        found, folder = ModelName.parse(name), model_folder(name)
        renderer = proposer_renderer(found, folder)
        model = load_actor(folder)
        return cls(model_id=model_id(folder, renderer, found.short), model=model, renderer=renderer)

    @property
    def size(self) -> ModelSize:
        """What a forward pass costs."""
        return model_size(self.model)

    def keeping_prefixes(self, num_models: int = 1) -> LanguageModel:
        """The same, reading on at each step from where it was; with so many in one room."""
        return replace(self, kept=kept_prefixes(self.model, num_models))

    def propose(
        self,
        steps: Sequence[Step],
        sampling: Sampling,
        prompts: Sequence[StepPrompt] | None = None,
    ) -> list[list[Proposal]]:
        """Free-text proposals at each step, unlabelled; a step's do not depend on the others.

        Args:
            steps: Where.
            sampling: How.
            prompts: Their prompts as places in tokenised rollouts, whose prefixes are then read
                once; None renders each step by itself.
        """
        if prompts is None:
            prompts = [step_prompt(self.renderer, step) for step in steps]
        started = time.perf_counter()
        generations = generate(
            self.model,
            self.renderer.tokenizer,
            prompts,
            num_samples=sampling.num_samples,
            temperature=sampling.temperature,
            max_new_tokens=sampling.max_new_tokens,
            seed=sampling.seed,
            distinct=sampling.distinct,
            kept=self.kept,
        )
        seconds = time.perf_counter() - started
        return proposals_of(self.model_id, steps, generations, seconds)

    @property
    def origin(self) -> dict[str, Any]:
        """What its rows depend on that `model_id` does not say."""
        return dtype_origin(self.model)

    def keeping(self, path: Path) -> LanguageModel:
        """Itself: to propose again costs time only."""
        return self

    def propose_over(self, rollouts: Sequence[Rollout], sampling: Sampling) -> list[list[Proposal]]:
        """Proposals at each step of the rollouts, each rollout's prompts read once."""
        steps = [step for rollout in rollouts for step in rollout.each_step()]
        prompts = [p for rollout in rollouts for p in self.renderer.rollout_ids(rollout).prompts()]
        return self.propose(steps, sampling, prompts)


def step_prompt(renderer: Renderer, step: Step) -> StepPrompt:
    """The prompt of one step by itself; what is kept of its rollout may share its prefix."""
    ids = renderer.prompt_ids(step)
    return RolloutTokens.of_prompt(ids, step.step_id, step.rollout_id).prompts()[0]


def proposals_of(
    model_id: str,
    steps: Sequence[Step],
    generations: Sequence[Sequence[Generation]],
    seconds: float,
) -> list[list[Proposal]]:
    """What a model wrote at each step as unlabelled rows, which share the seconds out evenly."""
    share = seconds / max(1, sum(map(len, generations)))
    return [
        [
            unlabelled_proposal(
                model_id,
                step,
                sample,
                text=generation.text,
                finished=generation.finished,
                logprob=generation.logprob,
                num_prompt_tokens=generation.num_prompt_tokens,
                num_cached_tokens=generation.num_cached_tokens,
                num_completion_tokens=generation.num_completion_tokens,
                seconds=share,
            )
            for sample, generation in enumerate(samples)
        ]
        for step, samples in zip(steps, generations, strict=True)
    ]


def unlabelled_proposal(
    model_id: str,
    step: Step,
    sample: int,
    *,
    text: str,
    finished: bool,
    logprob: float | None,
    num_prompt_tokens: int | None,
    num_cached_tokens: int,
    num_completion_tokens: int | None,
    seconds: float | None,
    price: float | None = None,
) -> Proposal:
    """What a model wrote at a step as a row of the proposals table, parsed and without a label.

    The arguments are the row's fields; text that was cut off is no action.
    """
    parsed = parse_action(text, step.tools, step.history)
    action = parsed.action if finished else None
    error = parsed.error if finished else "no stop token within the token limit"
    return Proposal(
        proposal_id=proposal_id(step.step_id, model_id, "generate", sample),
        step_id=step.step_id,
        task_id=step.task_id,
        model_id=model_id,
        sample=sample,
        mode="generate",
        text=text,
        finished=finished,
        action=action,
        parse_error=None if action is not None else error,
        match_level="none",
        same_state=None,
        acceptable=None,
        label_source="none",
        logprob=logprob,
        num_candidates=None,
        num_prompt_tokens=num_prompt_tokens,
        num_cached_tokens=num_cached_tokens,
        num_completion_tokens=num_completion_tokens,
        seconds=seconds,
        price=price,
    )
