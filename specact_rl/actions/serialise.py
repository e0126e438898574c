"""Actions as text and as chat messages. The wire form of calls is made here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from specact_rl.actions.taxonomy import classify_call, classify_text
from specact_rl.types import Action, Message, ToolSpec

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"


def call_text(action: Action) -> str:
    """The wire string of a call, byte-equal to what the Qwen3 chat template makes of it.

    Arguments in their own order, as the template's `tojson` writes them: unicode as it is, ", "
    and ": " between the parts.

    Raises:
        ValueError: The action is text.
    """
    if action.tool is None:
        raise ValueError(f"only a call has a wire string, got text {action.text!r}")
    return wire_text(action.tool, json.dumps(action.arguments, ensure_ascii=False))


def wire_text(tool: str, arguments_json: str) -> str:
    """The wire string around arguments that are JSON text already, or failed to be."""
    name = json.dumps(tool, ensure_ascii=False)
    return f'{OPEN_TAG}\n{{"name": {name}, "arguments": {arguments_json}}}\n{CLOSE_TAG}'


def action_text(action: Action) -> str:
    """What a model writes for the action: the wire string of a call, or the text itself.

    Raises:
        ValueError: A text that no parser could tell from a call, or an empty one.
    """
    if action.text is None:
        return call_text(action)
    if OPEN_TAG in action.text or CLOSE_TAG in action.text or not action.text.strip():
        raise ValueError(
            f"the text of an action must not be empty or hold {OPEN_TAG} or {CLOSE_TAG}, "
            f"got {action.text!r}"
        )
    return action.text


def shown_text(action: Action) -> str:
    """The action for a reader: the wire string of a call, or the text as it is.

    Unlike `action_text` it refuses no text: a log may hold any.
    """
    return call_text(action) if action.text is None else action.text


def action_message(action: Action) -> Message:
    """The action as an assistant chat message; a call's arguments stay a dict."""
    if action.tool is None:
        return {"role": "assistant", "content": action.text}
    function = {"name": action.tool, "arguments": action.arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }


def wire_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages as an OpenAI-compatible server takes them, in copies.

    Arguments become JSON text. A call has an id and its result names it: the log's own ids where
    there are any, else made-up ones, given to the results in the order of the calls. What else a
    log keeps in its messages stays here.
    """
    wired: list[Message] = []
    waiting: list[str] = []
    num_calls = 0
    for message in messages:
        told: Message = {k: message[k] for k in ("role", "name", "content") if k in message}
        if message["role"] == "tool":
            answered = message.get("tool_call_id") or (waiting[0] if waiting else None)
            if answered is not None:
                told["tool_call_id"] = answered
            if answered in waiting:
                waiting.remove(answered)
        if message.get("tool_calls"):
            told["tool_calls"] = []
            waiting = []
            for call in message["tool_calls"]:
                # Nine letters and digits, which is all that Mistral's servers accept.
                waiting.append(call.get("id") or f"call{num_calls:05d}")
                num_calls += 1
                told["tool_calls"].append(_wire_call(call["function"], waiting[-1]))
        wired.append(told)
    return wired


def _wire_call(function: Mapping[str, Any], call_id: str) -> dict[str, Any]:
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def message_action(
    message: Mapping[str, Any], tools: Sequence[ToolSpec], history: Sequence[Message]
) -> Action:
    """The action of an assistant message, the inverse of `action_message`.

    Text beside a call is left out: the call is the action. Nothing is checked against the
    catalogue, since a log holds what was done, right or wrong.

    Args:
        message: Assistant message with at most one call, its arguments a dict.
        tools: Catalogue, for the action's type.
        history: The messages before it, for the same.

    Raises:
        ValueError: Several calls, arguments that are no object, or neither a call nor text.
    """
    calls = message.get("tool_calls") or []
    content = message.get("content")
    if len(calls) > 1:
        raise ValueError(f"a message must hold one action, got {len(calls)} calls")
    if not calls:
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"a message without a call must have text, got {content!r}")
        return Action(type=classify_text(content), text=content)
    tool, arguments = calls[0]["function"]["name"], calls[0]["function"]["arguments"]
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments of {tool!r} must be an object, got {arguments!r}")
    kind = classify_call(tool, arguments, tools, history)
    return Action(type=kind, tool=tool, arguments=arguments)
