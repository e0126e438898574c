"""Rolling policies out in an environment, alone or in lockstep, with the expert looking on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from specact_rl.actions.serialise import action_message
from specact_rl.envs.base import Environment, Observation
from specact_rl.types import Action, Message, Rollout, Step, StepRecord, step_id

Policy = Callable[[Environment, Step], Action]
"""Chooses an action at a step; scripted policies may look into the environment."""
Progress = Callable[[int], None]
"""Called with the number of episodes just finished."""


def expert_policy(env: Environment, step: Step) -> Action:
    """Always what the expert does."""
    return env.expert_action()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyExpert:
    """The expert, who takes a random legal action now and then and has to recover from it."""

    noise: float
    """Probability of a random legal action, per step."""
    rng: random.Random

    def __call__(self, env: Environment, step: Step) -> Action:
        """The action at this step."""
        if self.rng.random() < self.noise:
            return self.rng.choice(env.legal_actions())
        return env.expert_action()


@dataclass(slots=True)
class Episode:
    """An episode in progress: the environment, the conversation so far and the steps taken."""

    env: Environment
    policy: str
    trial: int
    messages: list[Message] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start with the environment's first messages."""
        self.messages = self.messages or list(self.env.first_messages())

    @property
    def rollout_id(self) -> str:
        """Id of the rollout that this becomes."""
        return f"{self.env.task_id}/{self.policy}/{self.trial}"

    def current_step(self) -> Step:
        """The step whose action is due."""
        index = len(self.steps)
        return Step(
            step_id=step_id(self.rollout_id, index),
            rollout_id=self.rollout_id,
            task_id=self.env.task_id,
            family=self.env.family,
            split=None,
            index=index,
            history=list(self.messages),
            tools=self.env.tools,
            executed=None,
            reference=None,
        )

    def act(
        self, action: Action | None, text: str | None = None, *, finished: bool = True
    ) -> Observation:
        """Execute an action and log it, with the expert's action and cost-to-go beside it.

        Args:
            action: None when a model's text could not be parsed.
            text: That text; required when action is None.
            finished: False when the token limit cut the text off.
        """
        if action is None and text is None:
            raise ValueError("an unparsable action needs its text")
        if action is not None and not finished:
            raise ValueError(f"text that was cut off is no action, got {action!r}")
        before = self.env.cost_to_go()
        reference = self.env.expert_action()
        message_index = len(self.messages)
        observation = self.env.step(action)
        self.steps.append(
            StepRecord(
                index=len(self.steps),
                message_index=message_index,
                executed=action,
                executed_text=None if action is not None else text,
                finished=finished,
                reference=reference,
                cost_to_go=before,
                acceptable=lowers_cost(before, self.env.cost_to_go()),
                label_source="cost_to_go",
            )
        )
        self.messages += turn_messages(action, text, observation)
        return observation

    def rollout(self) -> Rollout:
        """The episode as a record."""
        return Rollout(
            rollout_id=self.rollout_id,
            task_id=self.env.task_id,
            family=self.env.family,
            policy=self.policy,
            trial=self.trial,
            messages=self.messages,
            tools=self.env.tools,
            steps=self.steps,
            success=self.env.success,
            info={"initial_state": self.env.initial_state},
        )


def run_episode(env: Environment, policy: Policy, name: str, trial: int = 0) -> Rollout:
    """Roll a policy out until the environment ends the episode."""
    episode = Episode(env, name, trial)
    while not env.done:
        episode.act(policy(env, episode.current_step()))
    return episode.rollout()


def run_in_lockstep(
    episodes: Sequence[Episode],
    act: Callable[[Sequence[Episode]], None],
    progress: Progress | None = None,
) -> None:
    """Roll episodes out together until the environment has ended each of them.

    Args:
        episodes: None of them at its end.
        act: Takes one step in each of the episodes it is given; called once per round with those
            that go on.
        progress: Called when episodes end.
    """
    active = list(episodes)
    while active:
        act(active)
        going = [episode for episode in active if not episode.env.done]
        if progress is not None and len(going) < len(active):
            progress(len(active) - len(going))
        active = going


def turn_messages(
    action: Action | None, text: str | None, observation: Observation
) -> list[Message]:
    """How one step reads in the conversation: what was done, and what came back if anything."""
    answer = {"role": "assistant", "content": text} if action is None else action_message(action)
    if not observation.content:
        return [answer]
    return [answer, {"role": observation.role, "content": observation.content}]


def lowers_cost(before: int | None, after: int | None) -> bool | None:
    """Whether one step brought the goal one step nearer, so that it cost the expert nothing.

    None when the goal was out of reach before the step.
    """
    if before is None:
        return None
    return after is not None and after < before
