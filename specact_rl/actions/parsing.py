"""Model text to action, strictly: what is not exactly one action is an error in words.

Never a guess and never an exception: a repaired call would be graded as if the model wrote it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specact_rl.actions.schema import argument_problem, find_tool
from specact_rl.actions.serialise import CLOSE_TAG, OPEN_TAG
from specact_rl.actions.taxonomy import CallContext, classify_call, classify_text
from specact_rl.types import Action, Message, ToolSpec

MAX_DEPTH = 32
"""Deepest nesting of a call's JSON; deeper is a model in a loop, and would exhaust the stack."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = " \t\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAction:
    """The action in a model's text, or why there is none."""

    action: Action | None
    error: str | None
    """In words, for people and for counting by cause; None when there is an action."""


class _Unparsable(Exception):
    """Carries the reason to the one place that returns it."""


def parse_action(
    text: str, tools: Sequence[ToolSpec], history: Sequence[Message] | CallContext
) -> ParsedAction:
    """The one action that a model's text is.

    A call is one Hermes block (`<tool_call>`, JSON object with name and arguments,
    `</tool_call>`) with nothing but whitespace around it, of a tool in the catalogue, with
    arguments that fit its schema. Text without either marker is said to the user, and kept as it
    is. All else is an error.

    Args:
        text: What the model wrote, without its stop token.
        tools: The catalogue the call is checked against.
        history: Messages before the action, which decide its type.
    """
    try:
        if OPEN_TAG not in text and CLOSE_TAG not in text:
            return ParsedAction(action=_parse_text(text), error=None)
        name, arguments = _parse_call(text)
        _check_call(name, arguments, tools)
    except _Unparsable as problem:
        return ParsedAction(action=None, error=str(problem))
    kind = classify_call(name, arguments, tools, history)
    return ParsedAction(action=Action(type=kind, tool=name, arguments=arguments), error=None)


def _parse_text(text: str) -> Action:
    if not text.strip():
        raise _Unparsable("empty text")
    if _SURROGATE.search(text):
        raise _Unparsable("lone surrogate in the text")
    return Action(type=classify_text(text), text=text)


def _parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the only block in the text."""
    before, opened, rest = text.partition(OPEN_TAG)
    if not opened:
        raise _Unparsable(f"{CLOSE_TAG} without {OPEN_TAG}")
    if before.strip():
        raise _Unparsable("text beside the call")
    # Decoded first, so that a marker inside a JSON string is not taken for the end.
    body = rest.lstrip(_BLANK)
    value, end = _decode(body)
    after = body[end:].lstrip(_BLANK)
    if not after.startswith(CLOSE_TAG):
        reason = "text after the JSON of the call" if CLOSE_TAG in after else f"no {CLOSE_TAG}"
        raise _Unparsable(reason)
    after = after[len(CLOSE_TAG) :].strip()
    if after:
        raise _Unparsable("several calls" if OPEN_TAG in after else "text beside the call")
    if not isinstance(value, dict) or set(value) != {"name", "arguments"}:
        raise _Unparsable("the call must be an object with exactly the keys name and arguments")
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str):
        raise _Unparsable(f"the tool name must be a string, got {name!r}")
    if not isinstance(arguments, dict):
        raise _Unparsable(f"the arguments must be an object, got {arguments!r}")
    return name, arguments


def _check_call(name: str, arguments: dict[str, Any], tools: Sequence[ToolSpec]) -> None:
    tool = find_tool(name, tools)
    if tool is None:
        raise _Unparsable(f"unknown tool {name!r}")
    problem = argument_problem(arguments, tool.parameters)
    if problem is not None:
        raise _Unparsable(f"{name}: {problem}")


def _decode(body: str) -> tuple[Any, int]:
    """The JSON value at the start of the text, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(body)
    except json.JSONDecodeError as error:
        cut_off = error.pos >= len(body.rstrip()) or error.msg.startswith("Unterminated string")
        if CLOSE_TAG not in body and cut_off:
            raise _Unparsable(f"no {CLOSE_TAG}: the text ends within the JSON") from None
        raise _Unparsable(f"malformed JSON at position {error.pos}: {error.msg}") from None
    except RecursionError:
        raise _Unparsable(f"JSON nested deeper than {MAX_DEPTH}") from None
    except ValueError:  # an integer of thousands of digits
        raise _Unparsable("malformed JSON: a number that is too long") from None
    _check_value(value, MAX_DEPTH)
    return value, end


def _check_value(value: Any, depth: int) -> None:
    """Refuse what could not be written again: too deep, or with a lone surrogate."""
    if depth == 0:
        raise _Unparsable(f"JSON nested deeper than {MAX_DEPTH}")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise _Unparsable("malformed JSON: a lone surrogate in a string")
    children: Sequence[Any] = ()
    if isinstance(value, dict):
        children = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        children = value
    for child in children:
        _check_value(child, depth - 1)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise _Unparsable(f"duplicated key {repeated!r}")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _Unparsable(f"malformed JSON: {text[:40]} is beyond float64")
    return number


def _refuse_constant(text: str) -> Any:
    raise _Unparsable(f"malformed JSON: {text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_float=_finite, parse_constant=_refuse_constant
)
