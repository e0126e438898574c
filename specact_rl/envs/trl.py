"""Workspace tasks for TRL's `GRPOTrainer(environment_factory=...)`.

TRL makes a tool of every public method of an environment's class, so there is one class per
catalogue, made here, whose public methods are the task's tools (and TRL's own `reset`). TRL knows
no user who answers and shows all tools at once. Both are put right by `grpo_tokenizer`, so that
every task can be played and its episodes are the renderer's, token by token (compact catalogue):
what ends in a question mark is read as a call of `ask_user`, whose result is written as the user's
reply, and tools that are not in the catalogue can be called but are not shown.

TRL differs still where a turn is no action. Elsewhere the environment says so and the episode goes
on; here malformed calls and text beside a call end it, a tool that does not exist is answered by
TRL and costs no step, and several calls in a turn are all executed.
"""

from __future__ import annotations

import copy
import inspect
import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from specact_rl.actions.matching import match_level
from specact_rl.actions.parsing import parse_action
from specact_rl.actions.schema import argument_problem
from specact_rl.actions.taxonomy import CallContext, classify_call
from specact_rl.envs.episodes import Episode, lowers_cost
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ConfigError
from specact_rl.rendering import Renderer
from specact_rl.store import content_hash
from specact_rl.types import MATCH_LEVELS, Action, MatchLevel, Message, ToolSpec

if TYPE_CHECKING:  # transformers takes seconds to import, and only the annotation needs it
    from transformers import PreTrainedTokenizerBase

_ANNOTATIONS: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}
_RESERVED = frozenset({"reset", "get_reward", "ask_user"})
"""Public methods that are no tool of a catalogue; the first two are none for TRL either."""
_UNLISTED = "Not in the catalogue."
"""Description by which the template knows the methods that no prompt may show."""
_LISTED_TOOLS = f"""\
{{%- if tools %}}
    {{%- set tools = tools | rejectattr("function.description", "equalto", "{_UNLISTED}") | list %}}
{{%- endif %}}
"""
_NO_TOOLS = "{%- set tools = none %}\n"
_REPLIES = """\
{%- set replied = namespace(messages=[]) %}
{%- for message in messages %}
    {%- if message.role == "tool" and message.name == "ask_user" %}
        {%- set message = {"role": "user", "content": message.content} %}
    {%- endif %}
    {%- set replied.messages = replied.messages + [message] %}
{%- endfor %}
{%- set messages = replied.messages -%}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerdict:
    """What one step of a rollout was worth."""

    level: MatchLevel
    """Against what the expert would have done in the same state."""
    nearer: bool
    """Whether it brought the expert's goal one step nearer."""


class ToolEnvironment:
    """A workspace task behind methods; TRL calls `reset`, then the tools a model asks for.

    Whatever is not a tool starts with an underscore, or TRL would show it to the model.
    """

    _tools: tuple[ToolSpec, ...] = ()
    """The task's tools, which are the public methods of the class made from them."""

    def __init__(self) -> None:
        """Wait for `reset`."""
        self._env: Workspace | None = None
        self._verdicts: list[StepVerdict] = []
        self._finished = False

    def reset(self, *, task_id: str, **columns: object) -> None:
        """Begin a task; the request is in the row's prompt.

        Args:
            task_id: Column of the row.
            **columns: Other columns, which do not matter here.

        Raises:
            ConfigError: The task has another catalogue.
        """
        self._env = Workspace.from_task_id(task_id)
        if tuple(self._env.tools) != self._tools:
            raise ConfigError(
                f"task {task_id!r} must have the tools of its environment "
                f"{[tool.name for tool in self._tools]!r}, got "
                f"{[tool.name for tool in self._env.tools]!r}; build rows and environments "
                "together with grpo_tasks"
            )
        self._verdicts = []
        self._finished = False

    # Public for TRL alone; the first line of the docstring keeps it out of every prompt.
    def ask_user(self, question: str) -> str:
        """Not in the catalogue.

        Args:
            question: What the model said.
        """
        return self._act(Action(type="ask_clarification", text=question))

    def _workspace(self) -> Workspace:
        if self._env is None:
            raise RuntimeError("reset must be called first")
        return self._env

    def _call(self, tool: str, arguments: dict[str, Any]) -> str:
        """Execute a call. As everywhere else, one that does not fit its schema is no action."""
        env = self._workspace()
        spec = next(spec for spec in self._tools if spec.name == tool)
        if argument_problem(arguments, spec.parameters) is not None:
            return self._act(None)
        kind = classify_call(tool, arguments, env.tools, env.call_context())
        return self._act(Action(type=kind, tool=tool, arguments=arguments))

    def _act(self, action: Action | None) -> str:
        env = self._workspace()
        if env.done:
            self._verdicts.append(StepVerdict(level="none", nearer=False))
            return "error: the episode is over"
        before, reference = env.cost_to_go(), env.expert_action()
        observation = env.step(action)
        verdict = StepVerdict(
            level=match_level(action, reference, env.tools),
            nearer=bool(lowers_cost(before, env.cost_to_go())),
        )
        self._verdicts.append(verdict)
        return observation.content

    def _finish(self, completion: Sequence[Message]) -> None:
        """Hand over what the model said last, which TRL keeps to itself; once per rollout."""
        env = self._workspace()
        if self._finished or env.done:
            return
        self._finished = True
        last = completion[-1] if completion else {}
        if last.get("role") != "assistant" or last.get("tool_calls"):
            return  # stopped by a limit before it said anything
        action = parse_action(str(last.get("content") or ""), env.tools, env.call_context()).action
        # A well-formed call that TRL took for text was never executed, so it is no action.
        self._act(action if action is not None and action.tool is None else None)


def success_reward(
    completions: Sequence[Sequence[Message]], environments: Sequence[ToolEnvironment], **_: object
) -> list[float]:
    """1 where the task's checker is content, else 0."""
    return [float(env.success) for env in _ended(completions, environments)]


def agreement_reward(
    completions: Sequence[Sequence[Message]], environments: Sequence[ToolEnvironment], **_: object
) -> list[float]:
    """Mean over the steps, in [0, 1]: a third each for the expert's type, tool and arguments."""
    _ended(completions, environments)
    return [_mean([_LEVEL_VALUE[v.level] for v in env._verdicts]) for env in environments]


def step_cost_reward(
    completions: Sequence[Sequence[Message]], environments: Sequence[ToolEnvironment], **_: object
) -> list[float]:
    """Minus the share of the task's step limit spent on steps that brought the goal no nearer."""
    ended = _ended(completions, environments)
    return [
        -min(1.0, sum(not verdict.nearer for verdict in each._verdicts) / env.max_steps)
        for each, env in zip(environments, ended, strict=True)
    ]


REWARDS: dict[str, Callable[..., list[float]]] = {
    "success": success_reward,
    "agreement": agreement_reward,
    "step_cost": step_cost_reward,
}
"""Pass the values as TRL's `reward_funcs`; it logs each by itself and sums them by
`reward_weights`."""

_LEVEL_VALUE = {level: i / (len(MATCH_LEVELS) - 1) for i, level in enumerate(MATCH_LEVELS)}


def _ended(
    completions: Sequence[Sequence[Message]], environments: Sequence[ToolEnvironment]
) -> list[Workspace]:
    for completion, environment in zip(completions, environments, strict=True):
        environment._finish(completion)
    return [environment._workspace() for environment in environments]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoTasks:
    """What a GRPO run needs of the workspace."""

    rows: list[dict[str, Any]]
    """One per task, for the training set: `prompt`, `environment` and `task_id`."""
    factories: dict[str, type[ToolEnvironment]]
    """One class per catalogue, for `environment_factory`; a row's `environment` is its key."""


def grpo_tasks(task_ids: Iterable[str], renderer: Renderer) -> GrpoTasks:
    """Rows and environments of the tasks.

    Args:
        task_ids: For example "ws-000012".
        renderer: Says where the catalogue goes: in compact mode the prompt has it already.
    """
    rows: list[dict[str, Any]] = []
    factories: dict[str, type[ToolEnvironment]] = {}
    for task_id in task_ids:
        env = Workspace.from_task_id(task_id)
        name = _catalogue_name(env.tools)
        if name not in factories:
            factories[name] = environment_class(env.tools)
        prompt = renderer.messages_for(Episode(env, "grpo", 0).current_step())
        rows.append({"prompt": prompt, "environment": name, "task_id": env.task_id})
    return GrpoTasks(rows=rows, factories=factories)


def environment_class(tools: Sequence[ToolSpec]) -> type[ToolEnvironment]:
    """A class with one public method per tool, typed and (if documented) described as the tool is.

    Raises:
        ValueError: A name that no method can have, or that two tools have.
    """
    names = [tool.name for tool in tools]
    wrong = [
        name
        for name in names
        if not name.isidentifier()
        or keyword.iskeyword(name)
        or name.startswith("_")
        or name in _RESERVED
        or names.count(name) > 1
    ]
    if wrong:
        raise ValueError(f"tool names must be distinct public method names, got {wrong!r}")
    members: dict[str, Any] = {tool.name: _method(tool) for tool in tools}
    return type(_catalogue_name(tools), (ToolEnvironment,), {**members, "_tools": tuple(tools)})


def grpo_tokenizer(renderer: Renderer) -> PreTrainedTokenizerBase:
    """A copy of the renderer's tokenizer that TRL can parse calls and questions with.

    Its template shows the documented tools only, and in compact mode none of those that TRL
    passes, so that prompts are those of the renderer, token by token. For training only: save the
    renderer's tokenizer with the trained model.
    """
    # TRL takes seconds to import.
    from trl.chat_template_utils import qwen3_template

    tokenizer: Any = copy.deepcopy(renderer.tokenizer)
    tools = _NO_TOOLS if renderer.catalogue == "compact" else _LISTED_TOOLS
    tokenizer.chat_template = tools + _REPLIES + tokenizer.chat_template
    if getattr(tokenizer, "response_template", None) is None:
        # TRL sets it for templates that it knows byte by byte; its own training ones it refuses.
        tokenizer.response_template = qwen3_template
    tokenizer.parse_response = _turn_parser(tokenizer)
    result: PreTrainedTokenizerBase = tokenizer
    return result


def _turn_parser(tokenizer: Any) -> Callable[..., dict[str, Any]]:
    """The tokenizer's `parse_response`, to which a question is a call of `ask_user`."""
    parse = tokenizer.parse_response

    def parse_turn(response: Sequence[int], **options: Any) -> dict[str, Any]:
        text = str(tokenizer.decode(response))
        said = text.removesuffix(tokenizer.eos_token)
        action = parse_action(said, (), CallContext()).action
        if action is not None and action.type == "ask_clarification" and said != text:
            call = {"name": "ask_user", "arguments": {"question": said}}
            calls = [{"type": "function", "function": call}]
            return {"role": "assistant", "content": "", "tool_calls": calls}
        turn: dict[str, Any] = parse(response, **options)
        if turn and any(_asks(call) for call in turn.get("tool_calls", ())):
            return {
                "role": "assistant",
                "content": said,
            }  # written as a call: there is no such tool
        return turn

    return parse_turn


def _asks(call: Mapping[str, Any]) -> bool:
    function = call.get("function")  # any JSON value that the model wrote
    return isinstance(function, dict) and function.get("name") == "ask_user"


def _catalogue_name(tools: Sequence[ToolSpec]) -> str:
    shown = [[tool.name, tool.description, tool.parameters, tool.documented] for tool in tools]
    return f"Catalogue_{content_hash(shown)}"


def _method(tool: ToolSpec) -> Callable[..., str]:
    def method(self: ToolEnvironment, **arguments: Any) -> str:
        # None is the default of an optional parameter, never a value.
        given = {name: value for name, value in arguments.items() if value is not None}
        return self._call(tool.name, given)

    properties: Mapping[str, Mapping[str, Any]] = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", ())
    kinds = {name: _annotation(schema) for name, schema in properties.items()}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=kind,
            default=inspect.Parameter.empty if name in required else None,
        )
        for name, kind in kinds.items()
    ]
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__name__ = method.__qualname__ = tool.name
    method.__doc__ = _docstring(tool, properties)
    method.__annotations__ = kinds  # no return: it would be shown in the prompt
    method.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]
    return method


def _annotation(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    kind = schema.get("type")
    if kind not in _ANNOTATIONS:
        raise ValueError(f"a parameter must be of type {', '.join(_ANNOTATIONS)}, got {schema!r}")
    return _ANNOTATIONS[kind]


def _docstring(tool: ToolSpec, parameters: Iterable[str]) -> str:
    """Google style, which TRL's schemas are made from; they need a word on every parameter."""
    described = tool.description or tool.name.replace("_", " ")
    lines = [described if tool.documented else _UNLISTED]
    arguments = [f"    {name}: The {name}." for name in parameters]
    return "\n".join([*lines, "", "Args:", *arguments] if arguments else lines)
