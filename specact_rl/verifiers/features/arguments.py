"""Arguments against the schemas of their tools: what is missing, mistyped, invented or left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from specact_rl.actions.schema import JSON_TYPES, find_tool, type_names
from specact_rl.types import Action, ToolSpec
from specact_rl.verifiers.features.catalogue import (
    hint,
    is_default,
    parameters_of,
    ratio,
    required_of,
    told,
)
from specact_rl.verifiers.features.words import Reading, read, spaced, stems_of

_NAMES = (
    "unknown_tools near_tools missing unknown enum_violations null_values string_for_other "
    "other_for_string fraction_for_integer whole_in_numbers number_for_list other_mistyped "
    "optional_given optional_default optional_unasked optional_omitted optional_hinted "
    "optional_hint optional_enum_hinted no_type arguments optional_invented optional_described "
    "optional_needs other_option_said false_hinted required options_given"
).split()


def argument_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading, unused: frozenset[str]
) -> dict[str, float]:
    """Counts over all calls; NaN without any.

    Args:
        calls: What was called.
        tools: The catalogue.
        request: What was asked.
        unused: Stems of the request that no call has.
    """
    if not calls:
        return dict.fromkeys([*_NAMES, "required_told_share"], math.nan)
    found = dict.fromkeys([*_NAMES, "required_told"], 0.0)
    for call in calls:
        tool = find_tool(call.tool, tools)
        if tool is None:
            found["unknown_tools"] += 1
            found["near_tools"] = max(found["near_tools"], _likeness(call.tool or "", tools))
            continue
        schemas, required = parameters_of(tool), required_of(tool)
        found["arguments"] += len(call.arguments)
        found["missing"] += sum(name not in call.arguments for name in required)
        found["unknown"] += sum(name not in schemas for name in call.arguments)
        for name, value in call.arguments.items():
            _add_given(found, name, value, schemas.get(name, {}), request)
            if name in required:
                found["required"] += 1
                found["required_told"] += told(value, request)
            elif name in schemas:
                _add_optional(found, name, value, schemas[name], request)
        for name, schema in schemas.items():
            if name not in required and name not in call.arguments:
                _add_omitted(found, name, schema, request, unused)
    found["required_told_share"] = ratio(found.pop("required_told"), found["required"])
    return found


def _add_given(
    found: dict[str, float], name: str, value: Any, schema: Mapping[str, Any], request: Reading
) -> None:
    fault = _type_fault(value, schema)
    if fault:
        found[fault] += 1
    found["no_type"] += not type_names(schema)
    found["false_hinted"] += value is False and hint(name, request) > 0
    allowed = schema.get("enum")
    if isinstance(allowed, list):
        others = [str(o) for o in allowed if isinstance(o, str) and o != value]
        found["options_given"] += 1
        found["enum_violations"] += not _all_in(value, allowed)
        found["other_option_said"] += not told(value, request) and _any_said(others, request)


def _add_optional(
    found: dict[str, float], name: str, value: Any, schema: Mapping[str, Any], request: Reading
) -> None:
    default = is_default(value, schema)
    unasked = hint(name, request) == 0 and not told(value, request)
    found["optional_given"] += 1
    found["optional_default"] += default
    found["optional_unasked"] += unasked
    found["optional_invented"] += unasked and not default


def _add_omitted(
    found: dict[str, float],
    name: str,
    schema: Mapping[str, Any],
    request: Reading,
    unused: frozenset[str],
) -> None:
    description = str(schema.get("description", ""))
    share = hint(name, request)
    options = [str(option) for option in schema.get("enum") or ()]
    default = str(schema.get("default", "")).casefold()
    found["optional_omitted"] += 1
    found["optional_hinted"] += share > 0
    found["optional_hint"] = max(found["optional_hint"], share)
    found["optional_described"] = max(
        found["optional_described"], len(stems_of(f"{name} {description}") & unused)
    )
    found["optional_needs"] += _any_said(read(description).quoted, request)
    found["optional_enum_hinted"] += _any_said(
        [option for option in options if option.casefold() != default], request
    )


def _any_said(texts: Sequence[str], request: Reading) -> bool:
    return any(spaced(text) in request.spaced for text in texts if len(text) > 1)


def _type_fault(value: Any, schema: Mapping[str, Any]) -> str | None:
    """How a value misses its type; None when it fits, or its schema says nothing."""
    names = type_names(schema)
    if not names or any(name not in JSON_TYPES for name in names):
        return None
    if any(JSON_TYPES[name](value) for name in names):
        items = schema.get("items")
        if isinstance(value, list) and isinstance(items, dict):
            inner = [_type_fault(item, items) for item in value]
            wants = type_names(items)
            if "number" in wants and any(isinstance(v, int) for v in value):
                return "whole_in_numbers"
            return next((fault for fault in inner if fault), None)
        return None
    if value is None:
        return "null_values"
    if isinstance(value, str):
        return "string_for_other"
    if "string" in names:
        return "other_for_string"
    if isinstance(value, float):
        return "fraction_for_integer"
    return "number_for_list" if "array" in names else "other_mistyped"


def _all_in(value: Any, allowed: Sequence[Any]) -> bool:
    return all(v in allowed for v in value) if isinstance(value, list) else value in allowed


def _likeness(name: str, tools: Sequence[ToolSpec]) -> float:
    return max((SequenceMatcher(None, name, tool.name).ratio() for tool in tools), default=0.0)
