"""Workspace tasks for TRL's `GRPOTrainer(environment_factory=...)`, a whole episode a rollout.

TRL drives an environment by the tool calls that it finds in a turn. Here it finds one call in every
turn that does not end the episode, with the turn's text as its argument, so that text is parsed,
executed and answered by what does it everywhere else: malformed calls, questions and tools that the
prompt does not show included. Prompts are the renderer's, token by token (`grpo_tokenizer`).

What TRL does otherwise: a turn stays in the context as it was sampled, while elsewhere an action is
written anew in canonical form; and a turn without its stop token ends the episode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specact_rl.actions.matching import match_level, reaches
from specact_rl.actions.parsing import parse_action
from specact_rl.actions.taxonomy import CallContext
from specact_rl.envs.base import Environment
from specact_rl.envs.episodes import Episode, lowers_cost
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ConfigError
from specact_rl.rendering import Renderer, tool_dicts
from specact_rl.store import content_hash
from specact_rl.types import MATCH_LEVELS, Action, MatchLevel, Message, Rollout, ToolSpec

if TYPE_CHECKING:  # transformers takes seconds to import, and only the annotation needs it
    from transformers import PreTrainedTokenizerBase

_CALL, _SAY = "call", "say"
"""The two methods of an environment, after which TRL names their results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerdict:
    """What one step of an episode was worth."""

    level: MatchLevel
    """Against the actions that the expert might take there, the best of them."""
    nearer: bool
    """Whether it brought the expert's goal one step nearer."""


class TaskEnvironment:
    """A task of the workspace; TRL calls `reset`, then one of the other two with each turn's text.

    Whatever is no such method starts with an underscore, or TRL would call it.
    """

    _tools: tuple[ToolSpec, ...] = ()
    """The tasks' catalogue; one class each, since TRL asks a class for what a prompt shows."""
    _end: str = ""
    """Result of the call that ends an episode: too long for TRL, which then asks no further turn
    and takes the result back."""

    def __init__(self) -> None:
        """Wait for `reset`."""
        self._episode: Episode | None = None
        self._verdicts: list[StepVerdict] = []
        self._num_expert_steps = 0
        self._max_steps = 0
        self._asked = False

    def reset(self, *, task_id: str, **columns: object) -> None:
        """Begin a task; the request is in the row's prompt.

        Args:
            task_id: Column of the row.
            **columns: Other columns, which do not matter here.

        Raises:
            ConfigError: The task has another catalogue.
        """
        env = Workspace.from_task_id(task_id)
        if tuple(env.tools) != self._tools:
            raise ConfigError(
                f"task {task_id!r} must have the tools of its environment "
                f"{[tool.name for tool in self._tools]!r}, got "
                f"{[tool.name for tool in env.tools]!r}; build rows and environments together "
                "with grpo_tasks"
            )
        self._episode = Episode(env, "grpo", 0)
        self._verdicts = []
        self._num_expert_steps = env.cost_to_go() or 0
        self._max_steps = env.max_steps
        self._asked = False

    def call(self, text: str) -> str:
        """Execute a call; its result reads as a tool's."""
        return self._act(text)

    def say(self, text: str) -> str:
        """Say something, or what is no action; the answer reads as the user's."""
        return self._act(text)

    def _current(self) -> Episode:
        if self._episode is None:
            raise RuntimeError("reset must be called first")
        return self._episode

    def _act(self, text: str, *, finished: bool = True) -> str:
        """Take the step that a turn is, as at inference."""
        episode = self._current()
        action = parse_action(text, episode.env.tools, episode.messages).action
        return self._take(action if finished else None, text, finished=finished)

    def _take(self, action: Action | None, text: str | None, *, finished: bool = True) -> str:
        episode = self._current()
        env = episode.env
        before = env.snapshot()
        observation = episode.act(action, text, finished=finished)
        record = episode.steps[-1]
        assert record.reference is not None  # the environment has an expert
        level = match_level(action, record.reference, env.tools)
        nearer = bool(record.acceptable)
        if nearer:  # so the expert might have done it
            level = "arguments"
        elif action is not None and record.acceptable is not None and level != "arguments":
            after = env.snapshot()
            env.restore(before)
            others = (match_level(action, other, env.tools) for other in expert_actions(env))
            level = max(level, *others, key=MATCH_LEVELS.index)
            env.restore(after)
        self._verdicts.append(StepVerdict(level=level, nearer=nearer))
        return self._end if observation.done else observation.content

    def _finish(self, completion: Sequence[Message]) -> None:
        """Hand over the turn that TRL ended the episode with; once per episode."""
        if self._asked or self._current().env.done:
            return
        self._asked = True
        last = completion[-1] if completion else {}
        if last.get("role") == "assistant" and not last.get("tool_calls"):
            self._act(str(last.get("content") or ""), finished=not last.get("cut"))

    def _share(self, at_least: MatchLevel) -> float:
        """Of the steps taken, or of those that the expert needs where fewer were."""
        matched = sum(reaches(verdict.level, at_least) for verdict in self._verdicts)
        return matched / max(1, self._num_expert_steps, len(self._verdicts))


def expert_actions(env: Environment) -> list[Action]:
    """The listed candidates that bring the expert's goal nearer, its own among them."""
    before, state = env.cost_to_go(), env.snapshot()
    actions = []
    for action in env.legal_actions():
        env.step(action)
        if lowers_cost(before, env.cost_to_go()):
            actions.append(action)
        env.restore(state)
    return actions


def type_match(
    completions: Sequence[Sequence[Message]], environments: Sequence[TaskEnvironment], **_: object
) -> list[float]:
    """Share of an episode's steps with the action type of one of the expert's actions, in [0, 1].

    Steps that the expert needs and that were not taken count as steps, so that to stop early does
    not pay. So it is for the two below.
    """
    return [each._share("type") for each in _ended(completions, environments)]


def tool_match(
    completions: Sequence[Sequence[Message]], environments: Sequence[TaskEnvironment], **_: object
) -> list[float]:
    """Share of the steps with its tool as well."""
    return [each._share("tool") for each in _ended(completions, environments)]


def argument_match(
    completions: Sequence[Sequence[Message]], environments: Sequence[TaskEnvironment], **_: object
) -> list[float]:
    """Share of the steps with its arguments as well, or that bring its goal nearer all the same."""
    return [each._share("arguments") for each in _ended(completions, environments)]


def task_success(
    completions: Sequence[Sequence[Message]], environments: Sequence[TaskEnvironment], **_: object
) -> list[float]:
    """1 where the task's checker is content, else 0."""
    return [float(each._current().env.success) for each in _ended(completions, environments)]


def step_cost(
    completions: Sequence[Sequence[Message]], environments: Sequence[TaskEnvironment], **_: object
) -> list[float]:
    """Minus the share of the step limit spent on steps that brought the goal no nearer."""
    return [
        -sum(not verdict.nearer for verdict in each._verdicts) / each._max_steps
        for each in _ended(completions, environments)
    ]


REWARDS: dict[str, Callable[..., list[float]]] = {
    function.__name__: function
    for function in (type_match, tool_match, argument_match, task_success, step_cost)
}
"""Pass the values as TRL's `reward_funcs`; it logs each by itself, as `rewards/NAME/mean`, and sums
them by `reward_weights`."""


def rollout_rewards(rollout: Rollout) -> dict[str, float]:
    """What TRL would have logged for an episode that was played elsewhere, by component."""
    environment = environment_class(rollout.tools)()
    environment.reset(task_id=rollout.task_id)
    for step in rollout.steps:
        environment._take(step.executed, step.executed_text, finished=step.finished)
    return {name: reward([[]], [environment])[0] for name, reward in REWARDS.items()}


def _ended(
    completions: Sequence[Sequence[Message]], environments: Sequence[TaskEnvironment]
) -> Sequence[TaskEnvironment]:
    for completion, environment in zip(completions, environments, strict=True):
        environment._finish(completion)
    return environments


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoTasks:
    """What a GRPO run needs of the workspace."""

    rows: list[dict[str, Any]]
    """One per task, for the training set: `prompt`, `environment` and `task_id`."""
    factories: dict[str, type[TaskEnvironment]]
    """One class per catalogue, for `environment_factory`; a row's `environment` is its key."""


def grpo_tasks(
    task_ids: Iterable[str], renderer: Renderer, max_completion_length: int
) -> GrpoTasks:
    """Rows and environments of the tasks.

    Args:
        task_ids: For example "ws-000012".
        renderer: Says where the catalogue goes: in compact mode the prompt has it already.
        max_completion_length: TRL's limit of an episode, in tokens.
    """
    rows: list[dict[str, Any]] = []
    factories: dict[str, type[TaskEnvironment]] = {}
    for task_id in task_ids:
        env = Workspace.from_task_id(task_id)
        name = _catalogue_name(env.tools)
        if name not in factories:
            factories[name] = environment_class(env.tools, max_completion_length)
        prompt = renderer.messages_for(Episode(env, "grpo", 0).current_step())
        rows.append({"prompt": prompt, "environment": name, "task_id": env.task_id})
    return GrpoTasks(rows=rows, factories=factories)


def environment_class(
    tools: Sequence[ToolSpec], max_completion_length: int = 0
) -> type[TaskEnvironment]:
    """A class for the tasks of one catalogue; `max_completion_length` as in `grpo_tasks`."""
    end = " ".join(["over"] * (max_completion_length + 1))  # no word is less than a token
    return type(_catalogue_name(tools), (TaskEnvironment,), {"_tools": tuple(tools), "_end": end})


def grpo_tokenizer(renderer: Renderer) -> PreTrainedTokenizerBase:
    """A copy of the renderer's tokenizer through which TRL renders and reads turns as we do.

    For training only: save the renderer's tokenizer with the trained model.
    """
    tokenizer: Any = copy.deepcopy(renderer.tokenizer)
    render = tokenizer.apply_chat_template

    def apply_chat_template(
        conversation: Sequence[Any], tools: Sequence[Any] | None = None, **options: Any
    ) -> Any:
        """The template with the catalogue of the environment, and replies as the user's."""
        batched = bool(conversation) and not isinstance(conversation[0], Mapping)
        told = [
            [_as_told(message) for message in messages]
            for messages in (conversation if batched else [conversation])
        ]
        catalogue = _catalogue(tools)
        if catalogue is not None:
            tools = tool_dicts(catalogue) if renderer.catalogue == "template" else None
        return render(told if batched else told[0], tools=tools, **options)

    def parse_response(
        response: Sequence[int], *, tools: Sequence[Any] | None = None, **_: Any
    ) -> dict[str, Any]:
        """A turn as TRL takes it: what ends the episode is content, all else a call."""
        ids = [int(token) for token in response]
        finished = ids[-1:] == [tokenizer.eos_token_id]
        text = str(tokenizer.decode(ids[:-1] if finished else ids))
        if not finished:
            return {"role": "assistant", "content": text, "cut": True}
        action = parse_action(text, _catalogue(tools) or (), CallContext()).action
        if action is not None and action.type in ("final_answer", "BLOCKED"):
            return {"role": "assistant", "content": text}
        name = _SAY if action is None or action.tool is None else _CALL
        call = {"type": "function", "function": {"name": name, "arguments": {"text": text}}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}

    tokenizer.apply_chat_template = apply_chat_template
    tokenizer.parse_response = parse_response
    tokenizer.response_template = {}  # any: TRL asks for a parser's, and would look for its own
    result: PreTrainedTokenizerBase = tokenizer
    return result


def _as_told(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message of TRL's loop as the renderer has it."""
    if message.get("role") == "tool" and message.get("name") == _SAY:
        return {"role": "user", "content": message["content"]}
    return message


def _catalogue(methods: Sequence[Any] | None) -> tuple[ToolSpec, ...] | None:
    """The catalogue of the environment whose methods TRL passes as tools; None without one."""
    for method in methods or ():
        owner = getattr(method, "__self__", None)
        if isinstance(owner, TaskEnvironment):
            return owner._tools
    return None


def _catalogue_name(tools: Sequence[ToolSpec]) -> str:
    shown = [[tool.name, tool.description, tool.parameters, tool.documented] for tool in tools]
    return f"Catalogue_{content_hash(shown)}"
