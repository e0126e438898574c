"""One conversation in the OpenAI form to one rollout: messages, tools, steps.

A row is `{"messages": [...], "tools": [...]}` with optional `id`, `task_id`, `family`, `model`,
`trial`, `success` and `reward`; what else it holds goes into the rollout's info. Importers of
other chat formats bring their rows into this form first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specact_rl.actions.serialise import message_action, wire_text
from specact_rl.errors import RolloutFormatError
from specact_rl.logs.result import Flag
from specact_rl.store import canonical_json, content_hash
from specact_rl.types import Message, Rollout, StepRecord, ToolSpec

_ROLES = ("system", "developer", "user", "assistant", "tool")
_FIELDS = ("messages", "tools", "id", "task_id", "family", "model", "trial", "success")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """One message of the log, made ready."""

    message: Message
    num_calls: int
    broken: bool
    """The arguments of a call are no JSON object: its wire text is in the content instead."""


def tool_spec(entry: Mapping[str, Any]) -> ToolSpec:
    """A tool from its OpenAI entry, with or without the `function` wrapper.

    Raises:
        KeyError: It has no name.
        TypeError: Its name or description is no text, or its parameters are no object.
    """
    function = entry.get("function", entry)
    name, description = function["name"], function.get("description") or ""
    parameters = function.get("parameters") or {}
    if not isinstance(name, str) or not isinstance(description, str):
        raise TypeError(f"name and description must be text, got {name!r} and {description!r}")
    if not isinstance(parameters, dict):
        raise TypeError(f"parameters must be an object, got {parameters!r}")
    return ToolSpec(name=name, description=description, parameters=parameters)


def add_chat_rollouts(
    rollouts: dict[str, Rollout],
    rows: Iterable[tuple[str, dict[str, Any]]],
    chat_row: Callable[[dict[str, Any], str], Mapping[str, Any]],
    trials: Counter[tuple[str, str]],
    dropped: Counter[str],
    source: str,
) -> list[Flag]:
    """Add the rollout of each row; a row of another form is dropped, and the first one flagged.

    Args:
        rollouts: By id; added to.
        rows: Path and line, and what is there.
        chat_row: Brings a row and its place into the form that `chat_rollout` reads.
        trials: As `chat_rollout`, likewise the next.
        dropped: Also of rows of another form ("malformed_row"), and of those whose id was there
            before ("duplicate_id").
        source: What the rows are of, for the flag.

    Returns:
        No flag or one.

    Raises:
        RolloutFormatError: No row added a rollout, and one is of another form: the first of them.
    """
    before = len(rollouts)
    problem: RolloutFormatError | None = None
    for where, row in rows:
        try:
            rollout = chat_rollout(chat_row(row, where), where, trials, dropped)
        except RolloutFormatError as error:
            dropped["malformed_row"] += 1
            problem = problem or error
            continue
        if rollout.rollout_id in rollouts:
            dropped["duplicate_id"] += 1
        else:
            rollouts[rollout.rollout_id] = rollout
    if problem is None:
        return []
    if len(rollouts) == before:
        raise problem
    return [Flag(kind="malformed_rows", group=source, detail=f"the first one: {problem}")]


def chat_rollout(
    row: Mapping[str, Any],
    where: str,
    trials: Counter[tuple[str, str]],
    dropped: Counter[str],
) -> Rollout:
    """The rollout of a row; one step an assistant message that holds a single action.

    No step, and counted in `dropped`: messages with several calls ("parallel_calls"), with
    neither text nor call ("empty_message"), before the first request ("no_request"). They stay in
    the conversation. A call whose arguments are not a JSON object is a step without an action; its
    message holds the wire text as the model wrote it. Without a `task_id`, conversations with the
    same request and tools are one task; without `success`, a reward of 1 or more is a success.

    Args:
        row: As the module says.
        where: Path and line, for error messages.
        trials: Rows so far by task and model; numbers the trials where a row does not.
        dropped: Counts by reason; added to.

    Raises:
        RolloutFormatError: A row of another form.
    """
    turns = [
        _turn(message, f"{where}: messages[{i}]")
        for i, message in enumerate(_list_of_objects(row, "messages", where))
    ]
    messages = [turn.message for turn in turns]
    tools = _tools(row, where)
    first = next((m["content"] for m in messages if m["role"] == "user"), None)
    names = sorted(tool.name for tool in tools)
    task_id = _optional(row, "task_id", str, where) or content_hash([first, names])
    policy = _optional(row, "model", str, where) or "unknown"
    trial = _optional(row, "trial", int, where)
    if trial is None:
        trial = trials[task_id, policy]
    trials[task_id, policy] += 1
    reward = _optional(row, "reward", (int, float), where)
    success = _optional(row, "success", bool, where)
    if success is None and reward is not None:
        success = reward >= 1
    return Rollout(
        rollout_id=_optional(row, "id", str, where) or f"{task_id}:{policy}:{trial}",
        task_id=task_id,
        family=_optional(row, "family", str, where) or task_id,
        policy=policy,
        trial=trial,
        messages=messages,
        tools=tools,
        steps=_steps(turns, tools, dropped),
        success=success,
        info={key: value for key, value in row.items() if key not in _FIELDS},
    )


def _steps(
    turns: Sequence[_Turn], tools: Sequence[ToolSpec], dropped: Counter[str]
) -> list[StepRecord]:
    messages = [turn.message for turn in turns]
    steps: list[StepRecord] = []
    requested = False
    for i, turn in enumerate(turns):
        requested = requested or turn.message["role"] == "user"
        if turn.message["role"] != "assistant":
            continue
        reason = _reason_to_drop(turn, requested)
        if reason is not None:
            dropped[reason] += 1
            continue
        executed = None if turn.broken else message_action(turn.message, tools, messages[:i])
        text = turn.message["content"] if turn.broken else None
        steps.append(
            StepRecord(index=len(steps), message_index=i, executed=executed, executed_text=text)
        )
    return steps


def _reason_to_drop(turn: _Turn, requested: bool) -> str | None:
    if not requested:
        return "no_request"
    if turn.num_calls > 1:
        return "parallel_calls"
    return None if turn.num_calls or turn.message["content"].strip() else "empty_message"


def _turn(message: Mapping[str, Any], where: str) -> _Turn:
    """The message with text content and decoded arguments."""
    role = message.get("role")
    if role not in _ROLES:
        raise RolloutFormatError(f"{where}.role must be one of {_ROLES!r}, got {role!r}")
    if message.get("function_call"):
        raise RolloutFormatError(
            f"{where}: function_call is the older form of a call; convert it to tool_calls"
        )
    rest = {k: v for k, v in message.items() if k not in ("tool_calls", "function_call")}
    content = _text(message.get("content"), where)
    raw_calls = message.get("tool_calls") or []
    if not isinstance(raw_calls, list):
        raise RolloutFormatError(f"{where}.tool_calls must be a list, got {raw_calls!r}")
    calls = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(raw_calls)]
    if all(isinstance(call, dict) for call in calls):
        extra = {"tool_calls": calls} if calls else {}
        return _Turn(
            message={**rest, "content": content, **extra}, num_calls=len(calls), broken=False
        )
    # As the model wrote it, so that the history of later steps is what was there.
    texts = [call if isinstance(call, str) else _wire_text(call["function"]) for call in calls]
    text = "\n".join([content, *texts]).strip()
    return _Turn(message={**rest, "content": text}, num_calls=len(calls), broken=True)


def _wire_text(function: Mapping[str, Any]) -> str:
    return wire_text(function["name"], json.dumps(function["arguments"], ensure_ascii=False))


def _call(call: Any, where: str) -> dict[str, Any] | str:
    """The call with its arguments as an object; its wire text when they are none."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RolloutFormatError(f"{where} must hold a function with a name, got {call!r}")
    raw = function.get("arguments")
    arguments = raw
    if isinstance(raw, str):
        try:
            arguments = json.loads(raw)
            canonical_json(arguments).encode()  # NaN and lone surrogates are no JSON either
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
        return wire_text(function["name"], text)
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def _text(content: Any, where: str) -> str:
    """Content as one string; a list of text parts is joined."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise RolloutFormatError(f"{where}.content must be text or text parts, got {content!r}")


def _tools(row: Mapping[str, Any], where: str) -> list[ToolSpec]:
    entries = _list_of_objects(row, "tools", where)
    try:
        return [tool_spec(entry) for entry in entries]
    except (KeyError, AttributeError, TypeError) as error:
        raise RolloutFormatError(f"{where}: every tool must have a name: {error!r}") from error


def _list_of_objects(row: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    value = row.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RolloutFormatError(f"{where}: {key} must be a list of objects, got {value!r}")
    return value


def _optional(
    row: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str
) -> Any | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RolloutFormatError(f"{where}: {key} must be {kind!r}, got {value!r}")
    return value
