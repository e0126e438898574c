"""Is the request about what the tools do? And how much does it ask for?"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from specact_rl.actions.schema import type_names
from specact_rl.types import Action, ToolSpec
from specact_rl.verifiers.features.catalogue import parameters_of, required_of
from specact_rl.verifiers.features.words import Reading, stems_of, subject_stems

NAN = math.nan
_MORE = re.compile(
    r"\b(?:also|then|additionally|another|second|finally|after that|as well)\b", re.I
)
_EACH = re.compile(r"\b(?:each|every|both|all|respectively|different|separately)\b", re.I)
_AND = re.compile(r"\band\b", re.I)
_RELATIVE = re.compile(
    r"\b(?:next|last|upcoming|today|tomorrow|current|currently|recent|latest|near|nearest|nearby)\b",
    re.I,
)
_SENTENCE = re.compile(r"[.?!](?:\s|$)")


def request_features(request: Reading, tools: Sequence[ToolSpec]) -> dict[str, float]:
    """Of the request, and of the catalogue that it came with."""
    parameters = [schema for tool in tools for schema in parameters_of(tool).values()]
    return {
        "request_words": len(request.spaced.split()),
        "request_sentences": len(_SENTENCE.findall(request.text)),
        "request_questions": request.text.count("?"),
        "request_ands": len(_AND.findall(request.text)),
        "request_commas": request.text.count(","),
        "request_mores": len(_MORE.findall(request.text)),
        "request_eaches": len(_EACH.findall(request.text)),
        "request_numbers": len(request.numbers),
        "request_quoted": len(request.quoted),
        "request_names": len(request.names),
        "request_longest_list": request.longest_list,
        "request_code": request.text.count("`"),
        "request_relative": len(_RELATIVE.findall(request.text)),
        "request_percents": len(request.percents),
        "parameters_offered": len(parameters),
        "parameters_untyped": sum(not type_names(schema) for schema in parameters),
        "parameters_with_options": sum("enum" in schema for schema in parameters),
    }


def subject_features(
    calls: Sequence[Action], tools: Sequence[ToolSpec], request: Reading
) -> dict[str, float]:
    """Likeness of the request to the tools that were called, and to the others."""
    likeness = {tool.name: _likeness(tool, request) for tool in tools}
    called = {call.tool for call in calls}
    of_called = [value for name, value in likeness.items() if name in called]
    of_others = [value for name, value in likeness.items() if name not in called]
    best = max(likeness.values(), default=NAN)
    least, most_other = min(of_called, default=NAN), max(of_others, default=NAN)
    chosen = [tool for tool in tools if tool.name in called] or list(tools)
    found = {
        "likeness_best": best,
        "likeness_called": least,
        "likeness_other": most_other,
        "likeness_gap": least - most_other,
        "tools_alike": sum(value > 0.5 * best for value in likeness.values()),
    }
    named = {tool.name: _share(subject_stems(tool.name), request.stems) for tool in tools}
    unused = [value for name, value in named.items() if name not in called]
    found["tools_named"] = sum(value >= 0.5 for value in named.values())
    found["unused_tools_named"] = sum(value >= 0.5 for value in unused)
    found["unused_tool_name_said"] = max(unused, default=NAN)
    parts: dict[str, list[float]] = {
        "own_likeness": [_own_likeness(tool, request) for tool in chosen],
        "name_said": [_share(subject_stems(tool.name), request.stems) for tool in chosen],
        "subject_said": [
            float(len(subject_stems(f"{tool.name} {tool.description}") & request.stems))
            for tool in chosen
        ],
        "description_said": [_share(stems_of(tool.description), request.stems) for tool in chosen],
        "parameters_said": [
            _share(stems_of(" ".join(parameters_of(tool))), request.stems) for tool in chosen
        ],
        "request_described": [_share(request.stems, stems_of(_tool_text(tool))) for tool in chosen],
        "numbers_wanted": [_numbers_wanted(tool) for tool in chosen],
    }
    worst = min if called else max  # of tools that were not called, the likeliest
    found |= {name: worst(values, default=NAN) for name, values in parts.items()}
    found["numbers_lacking"] = found["numbers_wanted"] - len(request.known_numbers)
    return found


def _numbers_wanted(tool: ToolSpec) -> float:
    """Required parameters that take a number."""
    schemas = parameters_of(tool)
    wanted = [schemas[name] for name in required_of(tool) if name in schemas]
    return float(sum(bool({"integer", "number"} & set(type_names(s))) for s in wanted))


def _likeness(tool: ToolSpec, request: Reading) -> float:
    """Cosine of four-letter pieces, which see through inflection."""
    return _cosine(_pieces(request.text), _pieces(_tool_text(tool)))


def _own_likeness(tool: ToolSpec, request: Reading) -> float:
    """The same for its name and description alone."""
    return _cosine(_pieces(request.text), _pieces(f"{tool.name} {tool.description}"))


def _tool_text(tool: ToolSpec) -> str:
    described = [
        f"{name} {schema.get('description', '')}" for name, schema in parameters_of(tool).items()
    ]
    return f"{tool.name} {tool.description} {' '.join(described)}"


@lru_cache(maxsize=8192)
def _pieces(text: str) -> Counter[str]:
    return Counter(
        piece
        for stem in sorted(subject_stems(text))
        for piece in ({stem[i : i + 4] for i in range(max(1, len(stem) - 3))})
    )


def _cosine(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    if not a or not b:
        return 0.0
    dot = sum(count * b.get(piece, 0) for piece, count in a.items())
    return dot / math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))


def _share(part: frozenset[str], whole: frozenset[str]) -> float:
    return len(part & whole) / len(part) if part else NAN
