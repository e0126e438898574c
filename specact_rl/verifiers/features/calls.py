"""Calls against the catalogue and the request."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

from specact_rl.actions.schema import JSON_TYPES, find_tool, type_names
from specact_rl.store import canonical_json
from specact_rl.types import Action, ToolSpec
from specact_rl.verifiers.features.words import (
    Reading,
    knows_number,
    read,
    spaced,
    stems_of,
    words_of,
)

NAN = math.nan
_DEFAULT = re.compile(
    r"default(?:s| value)?(?: is| to|:|=)?\s*(?:is|to|:|=)?\s*['\"`]?([\w.-]+)", re.I
)
_EXAMPLE = re.compile(r"(?:e\.g\.?|example|such as|like|format|i\.e\.?)(.*)", re.I | re.S)
_PLACEHOLDER = re.compile(
    r"<[^>]*>|\byour\b|\bunknown\b|\bplaceholder\b|\bexample\b|\btbd\b|\bn/?a\b|path/to|^none$|^null$"
    r"|^string$|\bundefined\b|\.\.\.",
    re.I,
)
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?|true|false|null|none", re.I)
_CONVERSIONS = (60, 3600, 1000, 1e6, 0.001, 1e-6, 100, 7, 12, 24, 1 / 60)
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One scalar of an argument, with the schema of the parameter it belongs to."""

    value: Any
    parameter: str
    schema: Mapping[str, Any]
    depth: int
    """0 for the argument itself; more within lists and objects."""


def call_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading
) -> dict[str, float]:
    """Of the calls together; NaN (all but the counts) where there is none."""
    return (
        _schema_features(calls, tools, request)
        | _value_features(calls, tools, request)
        | _coverage_features(calls, tools, request)
        | _count_features(calls, tools, request)
    )


def _schema_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading
) -> dict[str, float]:
    names = (
        "unknown_tools near_tools missing unknown enum_violations null_values string_for_other "
        "other_for_string fraction_for_integer whole_in_numbers number_for_list other_mistyped "
        "optional_given optional_default optional_unasked optional_omitted optional_hinted "
        "optional_hint optional_enum_hinted no_type arguments "
        "optional_invented optional_described optional_needs other_option_said false_hinted "
        "required_told_share required options_given"
    ).split()
    if not calls:
        return dict.fromkeys(names, NAN)
    found = dict.fromkeys(names, 0.0)
    unused = request.stems - _used_stems(calls, tools)
    told = 0
    for call in calls:
        tool = find_tool(call.tool, tools)
        if tool is None:
            found["unknown_tools"] += 1
            found["near_tools"] = max(found["near_tools"], _likeness(call.tool or "", tools))
            continue
        properties = _properties(tool)
        required = set(tool.parameters.get("required", ()))
        found["arguments"] += len(call.arguments)
        found["missing"] += sum(name not in call.arguments for name in required)
        found["unknown"] += sum(name not in properties for name in call.arguments)
        for name, value in call.arguments.items():
            schema = properties.get(name, {})
            fault = _type_fault(value, schema)
            if fault:
                found[fault] += 1
            found["no_type"] += not type_names(schema)
            allowed = schema.get("enum")
            found["enum_violations"] += allowed is not None and not _all_in(value, allowed)
            if allowed is not None:
                found["options_given"] += 1
                options = [str(o) for o in allowed if isinstance(o, str) and o != value]
                found["other_option_said"] += not _told(value, request) and any(
                    spaced(option) in request.spaced for option in options if len(option) > 1
                )
            found["false_hinted"] += value is False and _hint(name, schema, request) > 0
            if name in required:
                found["required"] += 1
                told += _told(value, request)
            if name not in required and name in properties:
                found["optional_given"] += 1
                found["optional_default"] += _is_default(value, schema)
                asked = _hint(name, schema, request) > 0 or _told(value, request)
                found["optional_unasked"] += not asked
                found["optional_invented"] += not asked and not _is_default(value, schema)
        for name, schema in properties.items():
            if name in required or name in call.arguments:
                continue
            found["optional_omitted"] += 1
            hint = _hint(name, schema, request)
            found["optional_hinted"] += hint > 0
            found["optional_hint"] = max(found["optional_hint"], hint)
            described = stems_of(f"{name} {schema.get('description', '')}")
            found["optional_described"] = max(found["optional_described"], len(described & unused))
            shown = read(str(schema.get("description", ""))).quoted
            found["optional_needs"] += any(
                spaced(text) in request.spaced and len(text) > 1 for text in shown
            )
            options = [str(option) for option in schema.get("enum") or ()]
            default = str(schema.get("default", "")).casefold()
            found["optional_enum_hinted"] += any(
                spaced(option) in request.spaced and option.casefold() != default
                for option in options
                if len(option) > 1
            )
    found["required_told_share"] = _ratio(told, found["required"])
    return found


def _value_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading
) -> dict[str, float]:
    names = (
        "strings strings_unsaid strings_partly words_unsaid longest_string_unsaid case_changed "
        "numbers numbers_unsaid numbers_default booleans true_values unnamed_booleans placeholders "
        "encoded_json quotes_within years_unsaid comma_added comma_missing example_copied "
        "unlike_example only_common_words depth empty_values date_like said_in_description "
        "negative_values snake_added words_per_string percent_whole percent_share "
        "percent_undescribed converted exact_said name_cut state_added state_missing "
        "date_unlike number_in_string same_values order_broken lists longest_list_value "
        "list_excess uneven_lists lists_repeated strings_said_share"
    ).split()
    if not calls:
        return dict.fromkeys(names, NAN)
    found = dict.fromkeys(names, 0.0)
    num_words = 0
    for leaf in _all_leaves(calls, tools):
        value, schema = leaf.value, leaf.schema
        description = str(schema.get("description", ""))
        found["depth"] = max(found["depth"], leaf.depth)
        if isinstance(value, bool):
            found["booleans"] += 1
            found["true_values"] += value
            found["unnamed_booleans"] += not stems_of(leaf.parameter) & request.stems
        elif isinstance(value, int | float):
            found["numbers"] += 1
            found["negative_values"] += value < 0
            found["percent_whole"] += value in request.percents
            found["percent_share"] += any(
                abs(value * 100 - p) < 1e-6 for p in request.percents if value != p
            )
            found["percent_undescribed"] += value in request.percents and not re.search(
                r"%|percent", description, re.I
            )
            if not knows_number(request, value):
                found["converted"] += any(
                    knows_number(request, value / scale) for scale in _CONVERSIONS
                )
                found["numbers_unsaid"] += not _is_default(value, schema)
                found["numbers_default"] += _is_default(value, schema)
        elif isinstance(value, str):
            words = words_of(value)
            found["strings"] += 1
            num_words += len(words)
            found["empty_values"] += not value.strip()
            found["placeholders"] += bool(_PLACEHOLDER.search(value))
            found["encoded_json"] += value.lstrip()[:1] in ("[", "{")
            found["quotes_within"] += value[:1] in "'\"" and len(value) > 1
            found["date_like"] += bool(re.search(r"\d[-/]\d", value))
            found["years_unsaid"] += any(
                not knows_number(request, float(year)) for year in _YEAR.findall(value)
            )
            found["number_in_string"] += bool(_PLAIN.fullmatch(value.strip()))
            found["exact_said"] += value in request.text
            if schema.get("enum"):
                continue  # its options need not be the user's words
            stems = stems_of(value)
            unsaid = stems - request.stems
            said = spaced(value) in request.spaced
            found["strings_unsaid"] += bool(stems) and unsaid == stems
            found["strings_partly"] += bool(unsaid) and unsaid != stems
            found["words_unsaid"] += len(unsaid)
            if unsaid:
                found["longest_string_unsaid"] = max(found["longest_string_unsaid"], len(value))
            found["name_cut"] += any(
                stems < stems_of(name) for name in (*request.names, *request.quoted) if stems
            )
            state = re.search(r", [A-Z]{2}\b", value)
            found["state_added"] += bool(state) and value not in request.text
            found["state_missing"] += bool(re.search(r", [A-Z]{2}\b", description)) and not state
            found["date_unlike"] += "YYYY" in description.upper() and not re.fullmatch(
                r"\d{4}(-\d\d(-\d\d)?)?", value
            )
            found["case_changed"] += said and value not in request.text
            found["snake_added"] += "_" in value and value not in request.text
            found["only_common_words"] += bool(words) and not stems
            found["said_in_description"] += bool(unsaid) and spaced(value) in spaced(description)
            example = _EXAMPLE.search(description)
            if example:
                shown = read(example[1])
                found["example_copied"] += not said and spaced(value) in shown.spaced
                comma = any("," in text for text in shown.quoted)
                wants_state = comma or "state" in shown.spaced
                found["comma_missing"] += wants_state and "," not in value
                found["unlike_example"] += bool(shown.quoted) and all(
                    _shape(value) != _shape(text) for text in shown.quoted
                )
            found["comma_added"] += "," in value and value.casefold() not in request.text.casefold()
        elif value is None:
            found["empty_values"] += 1
    found["strings_said_share"] = _ratio(found["exact_said"], found["strings"])
    for call in calls:
        _add_call(found, call, request)
    found["lists_repeated"] = _repeated_lists(calls)
    found["words_per_string"] = num_words / found["strings"] if found["strings"] else NAN
    return found


def _add_call(found: dict[str, float], call: Action, request: Reading) -> None:
    """What shows in the values of one call beside each other."""
    values = list(call.arguments.values())
    forms = [canonical_json(v) for v in values if not isinstance(v, bool) and v is not None]
    found["same_values"] += len(forms) - len(set(forms))
    lists = [len(v) for v in values if isinstance(v, list)]
    found["lists"] += len(lists)
    if lists:
        found["longest_list_value"] = max(found["longest_list_value"], *lists)
        found["list_excess"] = max(lists) - request.longest_list
        found["uneven_lists"] += len(set(lists)) > 1
    places = [
        request.numbers.index(v)
        for v in values
        if isinstance(v, int | float) and not isinstance(v, bool) and v in request.numbers
    ]
    found["order_broken"] += sum(b < a for a, b in pairwise(places))


def _repeated_lists(calls: Sequence[Action]) -> float:
    """Lists of several entries that more than one call has."""
    forms = [
        canonical_json([call.tool, name, value])
        for call in calls
        for name, value in call.arguments.items()
        if isinstance(value, list) and len(value) > 1
    ]
    return float(len(forms) - len(set(forms)))


def _used_stems(calls: Sequence[Action], tools: Sequence[ToolSpec]) -> frozenset[str]:
    """Stems of the values, and of names and descriptions of the tools that were called."""
    used: set[str] = set()
    for leaf in _all_leaves(calls, tools):
        if not isinstance(leaf.value, bool):
            used |= stems_of(str(leaf.value))
    for call in calls:
        tool = find_tool(call.tool, tools)
        if tool is not None:
            used |= stems_of(f"{tool.name} {tool.description}")
            used |= stems_of(" ".join(call.arguments))
    return frozenset(used)


def _coverage_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading
) -> dict[str, float]:
    """What of the request went into the calls."""
    names = (
        "numbers_unused numbers_unused_share quoted_unused names_unused names_unused_share "
        "stems_unused stems_unused_share"
    ).split()
    if not calls:
        return dict.fromkeys(names, NAN)
    values = [leaf.value for leaf in _all_leaves(calls, tools)]
    told = read(" . ".join(str(value) for value in values if not isinstance(value, bool)))
    numbers = {v for v in values if isinstance(v, int | float) and not isinstance(v, bool)}
    held = {abs(number) for number in numbers if abs(number) < 1e300} | told.known_numbers
    unused = [
        number
        for number in request.numbers
        if not any(
            abs(number - h) <= 1e-6 * max(1.0, h) or abs(number / 100 - h) <= 1e-9 for h in held
        )
    ]
    names_left = [n for n in request.names if not stems_of(n) & told.stems and stems_of(n)]
    quoted_left = [q for q in request.quoted if spaced(q) not in told.spaced]
    left = [s for s in request.stems - _used_stems(calls, tools) if not s.isdigit()]
    return {
        "numbers_unused": len(unused),
        "numbers_unused_share": _ratio(len(unused), len(request.numbers)),
        "quoted_unused": len(quoted_left),
        "names_unused": len(names_left),
        "names_unused_share": _ratio(len(names_left), len(request.names)),
        "stems_unused": len(left),
        "stems_unused_share": _ratio(len(left), len(request.stems)),
    }


def _count_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading
) -> dict[str, float]:
    """Whether the number of calls suits the request."""
    used = {call.tool for call in calls}
    forms = [canonical_json([call.tool, call.arguments]) for call in calls]
    varying = _varying(calls)
    numeric = sum(
        bool({"integer", "number"} & set(type_names(_properties(tool).get(name, {}))))
        for call in calls
        if (tool := find_tool(call.tool, tools)) is not None
        for name in call.arguments
    )
    return {
        "calls": len(calls),
        "tools_used": len(used),
        "tools_offered": len(tools),
        "tools_unused": len(tools) - len(used),
        "calls_per_tool": _ratio(len(calls), len(used)),
        "repeated_calls": len(forms) - len(set(forms)),
        "parameters_varying": varying if len(calls) > len(used) else NAN,
        "numbers_per_call": _ratio(len(request.numbers), len(calls)),
        "numbers_to_place": len(request.numbers) - numeric if calls else NAN,
        "names_per_call": _ratio(len(request.names) + len(request.quoted), len(calls)),
        "listed_per_call": _ratio(request.longest_list, len(calls)),
        "words_per_call": _ratio(len(request.spaced.split()), len(calls)),
    }


def _varying(calls: Sequence[Action]) -> float:
    """Most parameters whose values differ between the calls of one tool."""
    most = 0
    for tool in {call.tool for call in calls}:
        values: dict[str, set[str]] = {}
        for call in calls:
            if call.tool == tool:
                for name, value in call.arguments.items():
                    values.setdefault(name, set()).add(canonical_json(value))
        most = max(most, sum(len(seen) > 1 for seen in values.values()))
    return float(most)


def _all_leaves(calls: Sequence[Action], tools: Sequence[ToolSpec]) -> Iterator[Leaf]:
    for call in calls:
        tool = find_tool(call.tool, tools)
        properties = _properties(tool) if tool is not None else {}
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


def _properties(tool: ToolSpec) -> dict[str, dict[str, Any]]:
    properties = tool.parameters.get("properties", {})
    if not isinstance(properties, dict):
        return {}
    return {k: v if isinstance(v, dict) else {} for k, v in properties.items()}


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


def _all_in(value: Any, allowed: Any) -> bool:
    if not isinstance(allowed, list):
        return True
    return all(v in allowed for v in value) if isinstance(value, list) else value in allowed


def _is_default(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether the schema, or its description, names the value as the default."""
    if "default" in schema:
        return bool(str(value).casefold() == str(schema["default"]).casefold())
    match = _DEFAULT.search(str(schema.get("description", "")))
    return match is not None and match[1].rstrip(".").casefold() == str(value).casefold()


def _hint(name: str, schema: Mapping[str, Any], request: Reading) -> float:
    """Share of the words of a parameter's name that the request has."""
    stems = stems_of(name)
    return len(stems & request.stems) / len(stems) if stems else 0.0


def _told(value: Any, request: Reading) -> bool:
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, int | float):
        return knows_number(request, value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return bool(stems_of(text) & request.stems)


def _likeness(name: str, tools: Sequence[ToolSpec]) -> float:
    return max((SequenceMatcher(None, name, tool.name).ratio() for tool in tools), default=0.0)


def _shape(text: str) -> str:
    """The kinds of its characters, runs as one: "San Jose, CA" is "Aa Aa, A"."""
    return re.sub(r"[a-z]+", "a", re.sub(r"\d+", "9", re.sub(r"[A-Z]+", "A", text)))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else NAN
