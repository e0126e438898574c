"""Parameters as a catalogue documents them, and their values one by one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specact_rl.actions.schema import find_tool
from specact_rl.types import Action, ToolSpec
from specact_rl.verifiers.features.words import Reading, knows_number, stems_of

_DEFAULT = re.compile(
    r"default(?:s| value)?(?: is| to|:|=)?\s*(?:is|to|:|=)?\s*['\"`]?([\w.-]+)", re.I
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One scalar of an argument, with the schema of the parameter it belongs to."""

    value: Any
    parameter: str
    schema: Mapping[str, Any]
    depth: int
    """0 for the argument itself; more within lists and objects."""


def parameters_of(tool: ToolSpec | None) -> dict[str, dict[str, Any]]:
    """Schemas by parameter name; {} for a tool that is not there, or says nothing."""
    properties = None if tool is None else tool.parameters.get("properties")
    if not isinstance(properties, dict):
        return {}
    return {k: v if isinstance(v, dict) else {} for k, v in properties.items()}


def required_of(tool: ToolSpec) -> frozenset[str]:
    """Names of the parameters that a call must have."""
    return frozenset(tool.parameters.get("required") or ())


def leaves_of(calls: Sequence[Action], tools: Sequence[ToolSpec]) -> Iterator[Leaf]:
    """All scalars of all arguments."""
    for call in calls:
        properties = parameters_of(find_tool(call.tool, tools))
        for name, value in call.arguments.items():
            yield from _leaves(value, name, properties.get(name, {}), 0)


def _leaves(value: Any, name: str, schema: Mapping[str, Any], depth: int) -> Iterator[Leaf]:
    if isinstance(value, list):
        inner = schema.get("items")
        inner = inner if isinstance(inner, dict) else {}
        described = {"description": schema.get("description", ""), **inner}
        for item in value:
            yield from _leaves(item, name, described, depth + 1)
    elif isinstance(value, dict):
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        for key, item in value.items():
            inner = properties.get(key)
            yield from _leaves(item, key, inner if isinstance(inner, dict) else {}, depth + 1)
    else:
        if isinstance(value, int) and abs(value) > 1e300:
            value = math.inf  # no float holds it
        yield Leaf(value=value, parameter=name, schema=schema, depth=depth)


def is_default(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether the schema, or its description, names the value as the default."""
    if "default" in schema:
        return bool(str(value).casefold() == str(schema["default"]).casefold())
    match = _DEFAULT.search(str(schema.get("description", "")))
    return match is not None and match[1].rstrip(".").casefold() == str(value).casefold()


def hint(name: str, request: Reading) -> float:
    """Share of the words of a parameter's name that the request has."""
    stems = stems_of(name)
    return len(stems & request.stems) / len(stems) if stems else 0.0


def told(value: Any, request: Reading) -> bool:
    """Whether the request has the number, or a word of the text."""
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, int | float):
        return knows_number(request, value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return bool(stems_of(text) & request.stems)


def form(value: Any) -> str:
    """Text that is the same for equal JSON values."""
    return json.dumps(value, sort_keys=True)


def ratio(part: float, whole: float) -> float:
    """The share; NaN of nothing."""
    return part / whole if whole else math.nan
