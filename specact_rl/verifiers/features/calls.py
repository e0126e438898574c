"""Calls against the request as a whole: what of it they use, and whether they are enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

from specact_rl.actions.schema import find_tool, type_names
from specact_rl.types import Action, ToolSpec
from specact_rl.verifiers.features.arguments import argument_features
from specact_rl.verifiers.features.catalogue import form, leaves_of, parameters_of, ratio
from specact_rl.verifiers.features.values import value_features
from specact_rl.verifiers.features.words import Reading, read, spaced, stems_of, subject_stems


def call_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading
) -> dict[str, float]:
    """Of the calls together; NaN (all but the counts) where there is none."""
    unused = request.stems - _used_stems(calls, tools)
    return (
        argument_features(calls, tools, request, unused)
        | value_features(calls, tools, request)
        | _coverage_features(calls, tools, request, unused)
        | _count_features(calls, tools, request)
    )


def _used_stems(calls: Sequence[Action], tools: Sequence[ToolSpec]) -> frozenset[str]:
    """Stems of the values, and of names and descriptions of the tools that were called."""
    used: set[str] = set()
    for leaf in leaves_of(calls, tools):
        if not isinstance(leaf.value, bool):
            used |= stems_of(str(leaf.value))
    for call in calls:
        tool = find_tool(call.tool, tools)
        if tool is not None:
            used |= stems_of(f"{tool.name} {tool.description}")
            used |= stems_of(" ".join(call.arguments))
    return frozenset(used)


def _coverage_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading, unused: frozenset[str]
) -> dict[str, float]:
    """What of the request went into the calls."""
    names = (
        "numbers_unused numbers_unused_share quoted_unused names_unused names_unused_share "
        "stems_unused stems_unused_share partners_unused unused_tool_explains"
    ).split()
    if not calls:
        return dict.fromkeys(names, math.nan)
    values = [leaf.value for leaf in leaves_of(calls, tools)]
    told = read(" . ".join(str(value) for value in values if not isinstance(value, bool)))
    numbers = {v for v in values if isinstance(v, int | float) and not isinstance(v, bool)}
    held = {abs(number) for number in numbers if abs(number) < 1e300} | told.known_numbers
    numbers_left = [
        number
        for number in request.numbers
        if not any(
            abs(number - h) <= 1e-6 * max(1.0, h) or abs(number / 100 - h) <= 1e-9 for h in held
        )
    ]
    names_left = [n for n in request.names if not stems_of(n) & told.stems and stems_of(n)]
    quoted_left = [q for q in request.quoted if spaced(q) not in told.spaced]
    left = [stem for stem in unused if not stem.isdigit()]
    return {
        "numbers_unused": len(numbers_left),
        "numbers_unused_share": ratio(len(numbers_left), len(request.numbers)),
        "quoted_unused": len(quoted_left),
        "names_unused": len(names_left),
        "names_unused_share": ratio(len(names_left), len(request.names)),
        "stems_unused": len(left),
        "stems_unused_share": ratio(len(left), len(request.stems)),
        "partners_unused": _partners_unused(told, request),
        "unused_tool_explains": max(
            (
                len(subject_stems(f"{tool.name} {tool.description}").intersection(left))
                for tool in tools
                if all(call.tool != tool.name for call in calls)
            ),
            default=math.nan,
        ),
    }


def _partners_unused(told: Reading, request: Reading) -> float:
    """Words that the request joins to one of a value ("copper and aluminum"), and no value has."""
    found: set[str] = set()
    for pair in request.joined:
        left, right = (stems_of(word) for word in pair)
        if left and right and bool(left & told.stems) != bool(right & told.stems):
            found |= (left | right) - told.stems
    return float(len(found))


def _count_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading
) -> dict[str, float]:
    """Whether the number of calls suits the request."""
    used = {call.tool for call in calls}
    forms = [form([call.tool, call.arguments]) for call in calls]
    varying = _varying(calls)
    numeric = sum(
        bool({"integer", "number"} & set(type_names(parameters_of(tool).get(name, {}))))
        for call in calls
        if (tool := find_tool(call.tool, tools)) is not None
        for name in call.arguments
    )
    return {
        "calls": len(calls),
        "tools_used": len(used),
        "tools_offered": len(tools),
        "tools_unused": len(tools) - len(used),
        "calls_per_tool": ratio(len(calls), len(used)),
        "repeated_calls": len(forms) - len(set(forms)),
        "parameters_varying": varying if len(calls) > len(used) else math.nan,
        "numbers_per_call": ratio(len(request.numbers), len(calls)),
        "numbers_to_place": len(request.numbers) - numeric if calls else math.nan,
        "names_per_call": ratio(len(request.names) + len(request.quoted), len(calls)),
        "listed_per_call": ratio(request.longest_list, len(calls)),
        "words_per_call": ratio(len(request.spaced.split()), len(calls)),
    }


def _varying(calls: Sequence[Action]) -> float:
    """Most parameters whose values differ between the calls of one tool."""
    most = 0
    for tool in {call.tool for call in calls}:
        values: dict[str, set[str]] = {}
        for call in calls:
            if call.tool == tool:
                for name, value in call.arguments.items():
                    values.setdefault(name, set()).add(form(value))
        most = max(most, sum(len(seen) > 1 for seen in values.values()))
    return float(most)
