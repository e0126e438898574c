"""Which of the nine action types an action has, from its tool, its text and what came before.

The context is what the chat history shows; hidden state of an environment plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specact_rl.actions.schema import find_tool
from specact_rl.types import ActionType, Message, ToolSpec

TAXONOMY: dict[str, ActionType] = {
    "ask_clarification": "ask_clarification",
    "ask_question": "ask_clarification",
    "ask_user": "ask_clarification",
    "cat": "file_read",
    "open_file": "file_read",
    "read_file": "file_read",
    "view_file": "file_read",
    "append_file": "file_write",
    "apply_patch": "file_write",
    "create_file": "file_write",
    "delete_file": "file_write",
    "edit_file": "file_write",
    "write_file": "file_write",
    "find_files": "retrieval",
    "google_search": "retrieval",
    "grep": "retrieval",
    "list_files": "retrieval",
    "retrieve": "retrieval",
    "search": "retrieval",
    "search_files": "retrieval",
    "web_search": "retrieval",
    "run_checks": "verifier",
    "run_tests": "verifier",
    "verify": "verifier",
    "final_answer": "final_answer",
    "finish": "final_answer",
    "submit": "final_answer",
}
"""Type of a plain call by tool name, for catalogues that do not say; all others: `tool_call`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What the type of the next call depends on: the call just made, if the last step was one."""

    last_tool: str | None = None
    """None at the start and after text."""
    last_arguments: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False
    """The last call's result was an error."""


def is_error_result(content: object) -> bool:
    """True for the content of a tool message that reports a failure: it starts with "error"."""
    return isinstance(content, str) and content.lstrip()[:5].casefold() == "error"


def call_context(history: Sequence[Message]) -> CallContext:
    """The context at the end of a chat history.

    Empty unless the last assistant message is a call and only its results follow.
    """
    failed = False
    for message in reversed(history):
        if message["role"] == "tool":
            failed = failed or is_error_result(message.get("content"))
        elif message["role"] == "assistant" and message.get("tool_calls"):
            function = message["tool_calls"][-1]["function"]
            arguments = function.get("arguments")
            return CallContext(
                last_tool=function["name"],
                last_arguments=arguments if isinstance(arguments, dict) else {},
                failed=failed,
            )
        else:
            break
    return CallContext()


def plain_type(tool: str, tools: Sequence[ToolSpec]) -> ActionType:
    """Type of a call of the tool where nothing came before: the catalogue's, else the table's."""
    spec = find_tool(tool, tools)
    if spec is not None and spec.action_type is not None:
        return spec.action_type
    return TAXONOMY.get(tool.casefold(), "tool_call")


def classify_call(
    tool: str,
    arguments: Mapping[str, Any],
    tools: Sequence[ToolSpec],
    context: CallContext | Sequence[Message],
) -> ActionType:
    """Type of a call: `repair` and `verifier` by context, else the tool's plain type.

    `repair` is the call of a tool right after an error of the same tool. `verifier` is reading a
    record right after writing it: a reading tool (file_read, retrieval) whose first argument is an
    argument of the write just made.

    Args:
        tool: Name in the catalogue.
        arguments: Of this call.
        tools: The catalogue; its order of properties says which argument is the first.
        context: The chat history before the call, or the context made from it.
    """
    if not isinstance(context, CallContext):
        context = call_context(context)
    if context.failed and context.last_tool == tool:
        return "repair"
    plain = plain_type(tool, tools)
    if plain in ("file_read", "retrieval") and _just_written(tool, arguments, tools, context):
        return "verifier"
    return plain


def classify_text(text: str) -> ActionType:
    """Type of something said to the user: starts with "BLOCKED", ends with "?", or the answer."""
    text = text.strip()
    if text.startswith("BLOCKED"):
        return "BLOCKED"
    return "ask_clarification" if text.endswith("?") else "final_answer"


def _just_written(
    tool: str, arguments: Mapping[str, Any], tools: Sequence[ToolSpec], context: CallContext
) -> bool:
    if context.last_tool is None or context.failed or not _writes(context.last_tool, tools):
        return False
    spec = find_tool(tool, tools)
    order = [*(spec.parameters.get("properties", ()) if spec else ()), *arguments]
    key = next((arguments[name] for name in order if name in arguments), None)
    # Only names of records: an empty string or a flag that recurs says nothing.
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        return False
    return any(
        key == value and type(key) is type(value) for value in context.last_arguments.values()
    )


def _writes(tool: str, tools: Sequence[ToolSpec]) -> bool:
    spec = find_tool(tool, tools)
    if spec is not None and spec.effect is not None:
        return spec.effect != "read"
    return plain_type(tool, tools) == "file_write"
