"""Arguments against a tool's JSON schema: the subset of the standard that tool catalogues use.

Knows `type` (one name or several), `properties`, `required`, `additionalProperties`, `enum`,
`const`, `items`, `anyOf` and `oneOf`. A schema that says nothing, or in other words, allows all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from specact_rl.types import ToolSpec

JSON_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}


def find_tool(name: str | None, tools: Sequence[ToolSpec]) -> ToolSpec | None:
    """The tool of that name; None when there is none."""
    return next((tool for tool in tools if tool.name == name), None)


def argument_problem(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments of a call, in words; None when they fit.

    Args:
        arguments: JSON values by parameter name.
        parameters: The tool's object schema; {} (unknown) allows all. Parameters that it does not
            name are forbidden unless `additionalProperties` allows them.
    """
    return next(_object_problems(arguments, parameters, ""), None) if parameters else None


def type_names(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The `type` of a schema as a tuple; () when it has none."""
    names = schema.get("type", ())
    return (names,) if isinstance(names, str) else tuple(names)


def _object_problems(
    value: Mapping[str, Any], schema: Mapping[str, Any], path: str
) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"missing required argument {path + name!r}"
    extra = schema.get("additionalProperties", False)
    for name, item in value.items():
        if name in properties:
            yield from _problems(item, properties[name], path + name)
        elif not extra and extra != {}:
            known = ", ".join(map(repr, properties)) or "none"
            yield f"unknown argument {path + name!r}; known are {known}"
        elif isinstance(extra, dict):
            yield from _problems(item, extra, path + name)


def _problems(value: Any, schema: Any, path: str) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches and all(any(_problems(value, branch, path)) for branch in branches):
        yield f"argument {path!r} fits none of the allowed forms, got {value!r}"
    names = type_names(schema)
    if names and not any(JSON_TYPES[name](value) if name in JSON_TYPES else True for name in names):
        yield f"argument {path!r} must be of type {' or '.join(names)}, got {value!r}"
        return
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed is not None and not any(_same(value, option) for option in allowed):
        yield f"argument {path!r} must be one of {list(allowed)!r}, got {value!r}"
    if isinstance(value, dict) and "properties" in schema:
        yield from _object_problems(value, schema, f"{path}.")
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from _problems(item, schema["items"], f"{path}[{i}]")


def _same(left: Any, right: Any) -> bool:
    """JSON equality: 1 is 1.0, but not true."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)
