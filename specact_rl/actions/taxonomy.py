"""Which of the nine action types an action has, from its tool, its text and what came before.

The context is what the chat history shows; hidden state of an environment plays no part. What the
tools of a log mean is in a table, a TOML file that a user can copy and edit.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from specact_rl.actions.schema import find_tool
from specact_rl.errors import ConfigError
from specact_rl.types import ACTION_TYPES, ActionType, Message, ToolSpec

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


TABLES_FOLDER = Path(__file__).parent / "tool_tables"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolTable:
    """What the tools, the results and the texts of one kind of log mean."""

    tools: Mapping[str, ActionType] = field(default_factory=dict)
    """Type of a plain call by exact name."""
    patterns: tuple[tuple[str, ActionType], ...] = ()
    """Shell patterns ("get_*") and their types; the first that fits counts."""
    error: tuple[re.Pattern[str], ...] = ()
    """Starts of a result that reports a failure; none means `is_error_result`."""
    refusal: tuple[re.Pattern[str], ...] = ()
    """In a text that gives up or hands over: `BLOCKED`. Asked before `question`."""
    question: tuple[re.Pattern[str], ...] = ()
    """In a text that asks: `ask_clarification`. All other text is `final_answer`."""

    def plain_type(self, tool: str) -> ActionType | None:
        """Type of a call of the tool where nothing came before; None when it is not in here."""
        if tool in self.tools:
            return self.tools[tool]
        return next((kind for match, kind in self.patterns if fnmatchcase(tool, match)), None)

    def is_error(self, content: object) -> bool:
        """True for the content of a tool message that reports a failure."""
        if not self.error:
            return is_error_result(content)
        return isinstance(content, str) and any(p.match(content.lstrip()) for p in self.error)

    def classify_text(self, text: str) -> ActionType:
        """Type of something said to the user; without rules of its own, that of `classify_text`."""
        if not self.refusal and not self.question:
            return classify_text(text)
        if any(pattern.search(text) for pattern in self.refusal):
            return "BLOCKED"
        asks = any(pattern.search(text) for pattern in self.question)
        return "ask_clarification" if asks else "final_answer"


def builtin_tables() -> list[str]:
    """Names of the tables that come with the library."""
    return sorted(path.stem for path in TABLES_FOLDER.glob("*.toml"))


@cache
def builtin_table(name: str) -> ToolTable:
    """A table that comes with the library.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in builtin_tables():
        raise ConfigError(f"tool table must be one of {builtin_tables()!r} or a file, got {name!r}")
    return read_tool_table(TABLES_FOLDER / f"{name}.toml")


def read_tool_table(path: Path) -> ToolTable:
    """A table from a TOML file with `[tools]`, `[[patterns]]`, `[results]` and `[text]`.

    Raises:
        ConfigError: No such file, no TOML, an unknown key, type or regular expression.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        _only(table, "tools", "patterns", "results", "text")
        results, text = table.get("results", {}), table.get("text", {})
        _only(results, "error")
        _only(text, "refusal", "question")
        return ToolTable(
            tools={name: _action_type(kind) for name, kind in table.get("tools", {}).items()},
            patterns=_patterns(table.get("patterns", [])),
            error=_compiled(results.get("error", [])),
            refusal=_compiled(text.get("refusal", [])),
            question=_compiled(text.get("question", [])),
        )
    except FileNotFoundError as error:
        raise ConfigError(f"{path} must exist, but there is no such file") from error
    except (ValueError, TypeError, KeyError, AttributeError, re.error) as error:
        raise ConfigError(
            f"{path} must be a tool table ([tools], [[patterns]] with match and type, [results] "
            f"error, [text] refusal and question): {error}"
        ) from error


def _patterns(entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ActionType], ...]:
    return tuple(
        (match, _action_type(entry["type"])) for entry in entries for match in entry["match"]
    )


def _action_type(kind: object) -> ActionType:
    known = next((name for name in ACTION_TYPES if name == kind), None)
    if known is None:
        raise ValueError(f"a type must be one of {list(ACTION_TYPES)!r}, got {kind!r}")
    return known


def _compiled(patterns: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


def _only(table: Mapping[str, Any], *known: str) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"unknown {unknown!r}, known are {list(known)!r}")
