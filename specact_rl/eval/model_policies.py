"""Models as policies, `model:FOLDER` or `model:URL#NAME`: whole episodes beside scripted ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from specact_rl.envs.collect import MODEL_PREFIX, EpisodePlan, policy_name, scripted_rollouts
from specact_rl.envs.episodes import Episode, Progress, run_in_lockstep
from specact_rl.errors import ConfigError
from specact_rl.models.chat_client import ChatModel
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.server import is_server
from specact_rl.policy.asking import ActionModel
from specact_rl.store import content_hash
from specact_rl.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicies:
    """Models that act, and how their actions are drawn."""

    models: Mapping[str, ActionModel]
    """By the policy's name in the rollouts."""
    sampling: Sampling
    """The last sample is executed: the only one is greedy, a second one drawn."""

    @classmethod
    def load(
        cls,
        policies: Sequence[str],
        *,
        temperature: float,
        max_new_tokens: int,
        answers: Path | None = None,
    ) -> ModelPolicies:
        """Load what is called "model:FOLDER" among the policies, distinct in their names.

        "model:URL#NAME" is a model of a server, asked as `ChatModel` does by default.

        Args:
            policies: As `plan_episodes` takes them.
            temperature: Of the draws; 0 is greedy.
            max_new_tokens: Longest turn, stop token included.
            answers: Folder in which servers' answers are kept, so that a killed run does not ask
                for them again; None keeps none.

        Raises:
            ConfigError: A temperature, limit or server that cannot be.
            ModelError: A folder that holds no causal LM, or does not say how its prompts are
                rendered.
        """
        if not 0.0 <= temperature < math.inf or max_new_tokens < 1:
            raise ConfigError(
                "temperature must be at least 0 and max_new_tokens at least 1, got "
                f"{temperature!r} and {max_new_tokens!r}"
            )
        sampling = Sampling(max_new_tokens=max_new_tokens)
        if temperature > 0:
            sampling = replace(sampling, num_samples=2, temperature=temperature)
        return cls(
            models={
                policy_name(policy): _acting(policy.removeprefix(MODEL_PREFIX), answers)
                for policy in policies
                if policy.startswith(MODEL_PREFIX)
            },
            sampling=sampling,
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What the episodes depend on beside their plans, as JSON values."""
        return {
            "models": {name: model.model_id for name, model in self.models.items()},
            "sampling": self.sampling.arguments,
        }

    def roll_out(
        self, plans: Sequence[EpisodePlan], progress: Progress | None = None
    ) -> list[Rollout]:
        """The episodes that are planned, those of one model in lockstep.

        An action depends on the model, its prompt and the step's id, which has task, policy and
        trial in it; not on which episodes run together.

        Raises:
            ConfigError: A policy that is neither here nor scripted.
            ServerError: A server failed for good.
        """
        scripted = [plan for plan in plans if plan.policy not in self.models]
        done = dict(zip(scripted, scripted_rollouts(scripted, progress), strict=True))
        for name, model in self.models.items():
            own = [plan for plan in plans if plan.policy == name]
            episodes = [Episode(plan.environment_at_start(), name, plan.trial) for plan in own]
            run_in_lockstep(episodes, partial(self._act, model), progress)
            done |= zip(own, (episode.rollout() for episode in episodes), strict=True)
        return [done[plan] for plan in plans]

    def _act(self, model: ActionModel, episodes: Sequence[Episode]) -> None:
        steps = [episode.current_step() for episode in episodes]
        if isinstance(model, ChatModel):  # which is paid for each sample
            acting = model.last_samples(steps, self.sampling)
        else:
            acting = [samples[-1] for samples in model.propose(steps, self.sampling)]
        for episode, last in zip(episodes, acting, strict=True):
            episode.act(last.action, last.text, finished=last.finished)


def _acting(name: str, answers: Path | None) -> ActionModel:
    if not is_server(name):
        return LanguageModel.load(name).keeping_prefixes()
    model = ChatModel.named(name)
    if answers is None:
        return model
    return model.keeping(answers / f"{content_hash(model.model_id)}.jsonl")
