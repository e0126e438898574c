"""Anthropic content blocks to the chat form: one conversation a line of JSON.

A line is `{"system": …, "messages": […], "tools": […]}` as the Messages API takes it, with the same
optional fields as the OpenAI form (`id`, `task_id`, `model`, `success`, `reward`, …).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specact_rl.actions.taxonomy import ToolTable
from specact_rl.errors import RolloutFormatError
from specact_rl.logs.chat import chat_rollout
from specact_rl.logs.groups import finished
from specact_rl.logs.reading import json_rows
from specact_rl.logs.result import ImportResult, jsonl_files
from specact_rl.logs.tool_types import retyped
from specact_rl.types import Message

_THINKING = ("thinking", "redacted_thinking")
_SERVER_BLOCKS = ("server_tool_use", "web_search_tool_result")


def import_anthropic(path: Path) -> ImportResult:
    """One rollout a line, as `chat_rollout` reads it.

    A `tool_result` becomes a tool message (`is_error` makes the next call of that tool a repair).
    Left out of the conversation and counted in `dropped`: "thinking_block"; an image or a document
    becomes "[image]" or "[document]" ("not_text_block").

    Raises:
        RolloutFormatError: A line of another form, or a repeated id; names path and line.
    """
    dropped: Counter[str] = Counter()
    trials: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    rollouts = []
    for file in jsonl_files(path):
        for where, row in json_rows(file):
            rollout = chat_rollout(chat_row(row, where, dropped), where, trials, dropped)
            if rollout.rollout_id in seen:
                raise RolloutFormatError(
                    f"{where}: id must be unique, {rollout.rollout_id!r} was there before"
                )
            seen.add(rollout.rollout_id)
            # Once more, because only the whole message says that a result is an error.
            rollouts.append(retyped(rollout, ToolTable()))
    return finished(rollouts, dropped)


def chat_row(row: Mapping[str, Any], where: str, dropped: Counter[str]) -> dict[str, Any]:
    """The row in the OpenAI form.

    Raises:
        RolloutFormatError: A message or block of another form.
    """
    entries = row.get("messages")
    if not isinstance(entries, list):
        raise RolloutFormatError(f"{where}: messages must be a list of objects, got {entries!r}")
    messages: list[Message] = []
    if row.get("system"):
        messages.append(
            {"role": "system", "content": _text(row["system"], f"{where}: system", dropped)}
        )
    for i, entry in enumerate(entries):
        messages += _messages(entry, f"{where}: messages[{i}]", dropped)
    tools = row.get("tools") or []
    if not isinstance(tools, list):
        raise RolloutFormatError(f"{where}: tools must be a list of objects, got {tools!r}")
    rest = {key: value for key, value in row.items() if key not in ("system", "messages", "tools")}
    return {
        **rest,
        "messages": messages,
        "tools": [_tool(t, where) for t in tools],
    }


def _messages(entry: Any, where: str, dropped: Counter[str]) -> Iterator[Message]:
    """One message; tool results of a user's message come first, each as one of its own."""
    if not isinstance(entry, dict):
        raise RolloutFormatError(f"{where} must be an object, got {entry!r}")
    role, content = entry.get("role"), entry.get("content")
    if role not in ("user", "assistant"):
        raise RolloutFormatError(f"{where}.role must be 'user' or 'assistant', got {role!r}")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise RolloutFormatError(f"{where}.content must be text or blocks, got {content!r}")
    kept: list[dict[str, Any]] = []
    calls = []
    for i, block in enumerate(blocks):
        kind = block.get("type")
        if kind == "tool_result":
            yield _result(block, f"{where}.content[{i}]", dropped)
        elif kind == "tool_use":
            calls.append(_call(block, f"{where}.content[{i}]"))
        else:
            kept.append(block)
    text = _text(kept, where, dropped)
    if role == "assistant":
        yield {"role": role, "content": text, **({"tool_calls": calls} if calls else {})}
    elif text or not any(block.get("type") == "tool_result" for block in blocks):
        yield {"role": role, "content": text}


def _result(block: Mapping[str, Any], where: str, dropped: Counter[str]) -> Message:
    message: Message = {
        "role": "tool",
        "tool_call_id": block.get("tool_use_id"),
        "content": _text(block.get("content") or "", where, dropped),
    }
    return {**message, "is_error": True} if block.get("is_error") is True else message


def _call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(block.get("name"), str):
        raise RolloutFormatError(f"{where} must be a tool_use with a name, got {block!r}")
    arguments = block.get("input")
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block["name"], "arguments": {} if arguments is None else arguments},
    }


def _text(content: Any, where: str, dropped: Counter[str]) -> str:
    """The text of a string or of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RolloutFormatError(f"{where} must be text or blocks, got {content!r}")
    parts = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            parts.append(block["text"])
        elif kind in _THINKING:
            dropped["thinking_block"] += 1
        elif kind in _SERVER_BLOCKS:
            dropped["not_text_block"] += 1
            parts.append(json.dumps(block, ensure_ascii=False))
        elif isinstance(kind, str):
            dropped["not_text_block"] += 1
            parts.append(f"[{kind}]")
        else:
            raise RolloutFormatError(f"{where}: a block must have a type, got {block!r}")
    return "".join(parts)


def _tool(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RolloutFormatError(f"{where}: every tool must have a name, got {entry!r}")
    return {
        "name": entry["name"],
        "description": entry.get("description"),
        "parameters": entry.get("input_schema"),
    }
