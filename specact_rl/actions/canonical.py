"""The canonical form of an action: the same for actions that differ in nothing but spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from specact_rl.actions.schema import JSON_TYPES, find_tool, type_names
from specact_rl.store import content_hash
from specact_rl.types import Action, Proposal, ToolSpec

_MAX_HASHES = 65_536
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?")
_BOOLEANS = {"true": True, "false": False}
_END = " .,;:!?\u2026\u3002\uff01\uff1f"


def canonical(action: Action, tools: Sequence[ToolSpec] = ()) -> Action:
    """The action with sorted, typed arguments, or folded text; its type is kept.

    Arguments: keys sorted at each depth; strings stripped, in NFC; a number without a fraction is
    an integer; where the tool's schema names a type, "3" becomes 3 or 3 becomes "3". Text:
    whitespace collapsed, case folded, punctuation at the end dropped.

    Args:
        action: Left as it is.
        tools: The catalogue of the task; without it arguments keep their types.
    """
    if action.text is not None:
        return Action(type=action.type, text=canonical_text(action.text))
    tool = find_tool(action.tool, tools)
    arguments = canonical_value(action.arguments, tool.parameters if tool else {})
    return Action(type=action.type, tool=action.tool, arguments=arguments)


def canonical_text(text: str) -> str:
    """Text without what does not change its meaning: case, spacing, punctuation at the end."""
    folded = text
    # Casefolding can undo a normalisation and the other way round; twice is where it settles.
    for _ in range(2):
        folded = unicodedata.normalize("NFD", folded).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split()).rstrip(_END)


def canonical_value(value: Any, schema: Mapping[str, Any] | None = None) -> Any:
    """A JSON value in canonical form, typed by its schema where that names a type."""
    schema = schema or {}
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        return {key: canonical_value(value[key], _schema(properties, key)) for key in sorted(value)}
    if isinstance(value, list):
        return [canonical_value(item, _schema(schema, "items")) for item in value]
    names = _scalar_types(schema)
    if isinstance(value, str):
        return _typed_string(unicodedata.normalize("NFC", value).strip(), names)
    if isinstance(value, bool) or value is None:
        return value
    number = int(value) if isinstance(value, float) and value.is_integer() else value
    wants_text = "string" in names and not any(JSON_TYPES[name](number) for name in names)
    return str(number) if wants_text else number


def action_hash(action: Action, tools: Sequence[ToolSpec] = ()) -> str:
    """16 hex digits, equal for actions of equal canonical form.

    The type of a call is no part of it (the history decides that, not the call); that of a text
    is, because canonical text no longer shows a question.
    """
    return _HASHES.of(action, tools)


class _Hashes:
    """Hashes of the actions under one catalogue: logs repeat calls, in trials and in histories."""

    def __init__(self) -> None:
        self._tools: Sequence[ToolSpec] = ()
        self._known: dict[tuple[str, bytes], str] = {}

    def of(self, action: Action, tools: Sequence[ToolSpec]) -> str:
        if tools is not self._tools or len(self._known) >= _MAX_HASHES:
            self._tools, self._known = tools, {}
        # As JSON tells 1, 1.0 and true apart; a lone surrogate becomes an error in both.
        key = (action.tool or action.type, to_json([action.text, action.arguments]))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _content_hash(canonical(action, tools))
        return found


_HASHES = _Hashes()


def _content_hash(form: Action) -> str:
    if form.tool is None:
        return content_hash([form.type, form.text])
    return content_hash({"tool": form.tool, "arguments": form.arguments})


def proposal_hash(proposal: Proposal, tools: Sequence[ToolSpec] = ()) -> str | None:
    """Equal for proposals of the same action, or of the same actions in the same order.

    None where the text could not be parsed: what it would have done is not known.
    """
    if proposal.action is not None:
        return action_hash(proposal.action, tools)
    if not proposal.actions:
        return None
    return content_hash([action_hash(action, tools) for action in proposal.actions])


def _schema(schemas: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    schema = schemas.get(key)
    return schema if isinstance(schema, dict) else {}


def _scalar_types(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Known type names of a schema, those of its alternatives included."""
    names = type_names(schema)
    for branch in schema.get("anyOf") or schema.get("oneOf") or ():
        names += type_names(branch) if isinstance(branch, dict) else ()
    return tuple(name for name in names if name in JSON_TYPES)


def _typed_string(text: str, names: Sequence[str]) -> Any:
    """A string as the number or boolean that its schema asks for; else the string."""
    if "string" in names:
        return text
    if "integer" in names and _INTEGER.fullmatch(text):
        return int(text)
    if {"integer", "number"} & set(names) and _NUMBER.fullmatch(text):
        number = float(text)
        if number.is_integer():
            return int(number)
        return number if "number" in names else text
    if "boolean" in names:
        return _BOOLEANS.get(text.casefold(), text)
    return text
