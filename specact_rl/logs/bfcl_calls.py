"""Calls in a leaderboard response: function-calling output, Python text, Hermes blocks, JSON.

Says what the model called, as a reader would; whether a leaderboard's own decoder could read it is
in the score files, and the two differ (Markdown fences, most of all).
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specact_rl.logs.chat import tool_spec
from specact_rl.types import Message, ToolSpec

MAX_CHARACTERS = 20_000
"""Longer responses are runaways; parsing them as Python could exhaust the stack."""

_FENCE = re.compile(r"^```[\w-]*\s*\n?(.*?)\n?```\s*$", re.DOTALL)
_BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.DOTALL)
_MARK = "reserved_word_"
_RESERVED = re.compile(rf"(?<=[(,\s.])(?=(?:{'|'.join(keyword.kwlist)})\s*(?:=[^=]|[,)\]]))")
_INFINITE = (float("inf"), float("-inf"))
_LITERALS = {"true": True, "false": False, "null": None}
_JSON_TYPES = {
    "dict": "object",
    "HashMap": "object",
    "Hashtable": "object",
    "float": "number",
    "double": "number",
    "Double": "number",
    "tuple": "array",
    "list": "array",
    "Array": "array",
    "ArrayList": "array",
    "Set": "array",
    "Queue": "array",
    "Stack": "array",
    "String": "string",
    "char": "string",
    "long": "integer",
    "short": "integer",
    "byte": "integer",
    "int": "integer",
    "Boolean": "boolean",
    "Bigint": "integer",
    "any": None,
}
"""JSON schema's name for a leaderboard's type; None says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a response is."""

    calls: tuple[Mapping[str, Any], ...]
    """`{"name", "arguments"}` in order; () for a response without calls."""
    text: str
    """The response where it holds no calls, else ""."""
    broken: bool = False
    """It means to call, but cannot be read as calls."""


def decode_response(response: object, tools: Sequence[ToolSpec]) -> Decoded:
    """The calls of a response, or its text.

    Args:
        response: A string, or a list of one-key objects from function name to arguments (an
            object or its JSON text).
        tools: The catalogue: positional arguments get their names from it, and names in which an
            interface replaced "." by "_" become the catalogue's.
    """
    if isinstance(response, list):
        return _decoded(_listed(response), _as_text(response), tools)
    if not isinstance(response, str):
        return Decoded(calls=(), text=_as_text(response), broken=response is not None)
    body = response.strip()
    fenced = _FENCE.match(body)
    body = fenced[1].strip() if fenced else body
    if "<tool_call>" in body:
        blocks = [_json(block) or _literal(block) for block in _BLOCK.findall(body)]
        return _decoded(_listed(blocks), response, tools)
    value = _json(body)
    if isinstance(value, dict) and "tool_calls" in value:
        value = value["tool_calls"]
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return _decoded(_listed(value), response, tools)
    if not _looks_like_a_call(body):
        return Decoded(calls=(), text=response)
    return _decoded(_python_calls(body, tools), response, tools)


def assistant_message(decoded: Decoded) -> Message:
    """The response as a chat message; several calls stay in it."""
    if not decoded.calls:
        return {"role": "assistant", "content": decoded.text}
    calls = [{"type": "function", "function": dict(call)} for call in decoded.calls]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def leaderboard_tool(entry: Mapping[str, Any]) -> ToolSpec:
    """A tool from a leaderboard's function entry, its types in JSON schema's words.

    Raises:
        KeyError: It has no name.
        TypeError: Its name or description is no text, or its parameters are no object.
    """
    tool = tool_spec(entry)
    return replace(tool, parameters=_schema(tool.parameters))


def _schema(value: Any) -> Any:
    """The schema with known types; a parameter that is *named* "type" is left alone."""
    if not isinstance(value, dict):
        return value
    schema: dict[str, Any] = {}
    for key, item in value.items():
        if key == "type" and isinstance(item, str):
            name = _JSON_TYPES.get(item, item)
            if name is not None:
                schema[key] = name
        elif key == "properties" and isinstance(item, dict):
            schema[key] = {name: _schema(entry) for name, entry in item.items()}
        elif key == "items":
            schema[key] = _schema(item)
        else:
            schema[key] = item
    return schema


def _decoded(calls: list[dict[str, Any]] | None, text: str, tools: Sequence[ToolSpec]) -> Decoded:
    if calls is None:
        return Decoded(calls=(), text=text, broken=True)
    if not calls:
        return Decoded(calls=(), text=text)
    names = {tool.name.replace(".", "_"): tool.name for tool in tools}
    known = {tool.name for tool in tools}
    named = (
        call if call["name"] in known else {**call, "name": names.get(call["name"], call["name"])}
        for call in calls
    )
    return Decoded(calls=tuple(named), text="")


def _listed(entries: Sequence[object]) -> list[dict[str, Any]] | None:
    """Calls from JSON objects of either form; None when one of them is none."""
    calls = []
    for entry in entries:
        call = _one(entry)
        if call is None:
            return None
        calls.append(call)
    return calls


def _one(entry: Any) -> dict[str, Any] | None:
    if not isinstance(entry, dict):
        return None
    entry = entry["function"] if isinstance(entry.get("function"), dict) else entry
    if "name" in entry and len(entry) <= 3:
        name, arguments = entry["name"], entry.get("arguments", entry.get("parameters", {}))
    elif len(entry) == 1:
        name, arguments = next(iter(entry.items()))
    else:
        return None
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return {"name": name, "arguments": arguments}


def _json(text: str) -> Any:
    """The JSON value of a text; None when it is none that a table can hold."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value


def _literal(text: str) -> Any:
    """The object that a model wrote as a Python dict; None when it is none."""
    try:
        value = ast.literal_eval(text) if len(text) <= MAX_CHARACTERS else None
        return _json(json.dumps(value))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _as_text(response: object) -> str:
    if isinstance(response, str):
        return response
    return json.dumps(response, ensure_ascii=False) if response else ""


def _looks_like_a_call(body: str) -> bool:
    return body.startswith(("[", "{")) or bool(re.match(r"[\w.]+\(", body))


def _python_calls(body: str, tools: Sequence[ToolSpec]) -> list[dict[str, Any]] | None:
    """Calls from `[f(a=1), g.h(b="x")]`, with or without the brackets; None when it is not that."""
    if len(body) > MAX_CHARACTERS:
        return None
    bracketed = (body if body.startswith("[") else f"[{body}") + ("" if body[-1] == "]" else "]")
    # Parameters of Java functions may be reserved words of Python (from=...).
    for text in (bracketed, _RESERVED.sub(_MARK, bracketed)):
        try:
            parsed = ast.parse(text, mode="eval").body
            if isinstance(parsed, ast.List):
                return [_unmarked(_python_call(node, tools)) for node in parsed.elts]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def _unmarked(value: Any) -> Any:
    """The value with reserved words as they were."""
    if isinstance(value, str):
        return value.replace(_MARK, "")
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    if isinstance(value, dict):
        return {_unmarked(key): _unmarked(item) for key, item in value.items()}
    return value


def _python_call(node: ast.expr, tools: Sequence[ToolSpec]) -> dict[str, Any]:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
        raise ValueError("not a call")
    name = ast.unparse(node.func)
    arguments = dict(zip(_parameters(name, tools), node.args, strict=False))
    if len(arguments) < len(node.args):
        raise ValueError("more positional arguments than parameters")
    for given in node.keywords:
        if given.arg is None or given.arg in arguments:
            raise ValueError("an argument without a name, or twice")
        arguments[given.arg] = given.value
    return {"name": name, "arguments": {key: _value(item) for key, item in arguments.items()}}


def _parameters(name: str, tools: Sequence[ToolSpec]) -> list[str]:
    return next((list(t.parameters.get("properties", ())) for t in tools if t.name == name), [])


def _value(node: ast.expr) -> Any:
    """A JSON value; what is code (a variable, an expression) is its source text."""
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bytes | complex) or value is Ellipsis or value in _INFINITE:
            return ast.unparse(node)
        if isinstance(value, str):
            value.encode()  # a lone surrogate raises ValueError
        return value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        if any(key is None for key in node.keys):
            raise ValueError("** in a dict")
        keys = [_value(key) for key in node.keys if key is not None]
        return {
            key if isinstance(key, str) else str(key): _value(item)
            for key, item in zip(keys, node.values, strict=True)
        }
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand)
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            return -inner
    if isinstance(node, ast.Name) and node.id in _LITERALS:
        return _LITERALS[node.id]
    return ast.unparse(node)
