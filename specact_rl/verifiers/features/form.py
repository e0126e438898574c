"""The form of a response: what a strict reader of calls could make of its raw text.

Says nothing of which form it is (Python, JSON, blocks): that names the model more than the error.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator

from specact_rl.types import Proposal
from specact_rl.verifiers.features.words import words_of

_FENCE = "```"
_BARE = re.compile(r"\s*(?:[\[{<]|[\w.]+\()")
_CALL_LIKE = re.compile(r"[A-Za-z_][\w.]*\(|\"(?:name|arguments|parameters|params)\"|<tool_call>")
_REFUSAL = re.compile(
    r"\b(?:cannot|can't|unable|none of|no (?:suitable|relevant|function|tool)|not (?:possible|able|"
    r"provided|available|applicable|relevant|related)|lacks?|doesn't|does not|sorry|unfortunately|"
    r"however|irrelevant)\b",
    re.IGNORECASE,
)
_MAX_PARSED = 20_000
"""Longer text is a runaway; parsing it as Python could exhaust the stack."""


def form_features(proposal: Proposal) -> dict[str, float]:
    """Of the text as it was written."""
    text = proposal.text
    body = text.strip()
    calls = [a for a in (proposal.action, *proposal.actions) if a is not None and a.tool]
    nodes = list(_code(body))
    positional = sum(len(node.args) for node in nodes if isinstance(node, ast.Call))
    nested = sum(isinstance(node, ast.Call) for node in nodes) - len(calls)
    strays = _FENCE in body or not _BARE.match(body) or positional > 0
    means_to_call = bool(calls) or bool(_CALL_LIKE.search(body))
    # Of one column, so that a failure to be read is one thing, whatever caused it: fences are
    # known of one model only, and other causes of others.
    readable = 0.0 if not means_to_call else (-1.0 if strays or not calls else 1.0)
    is_code = bool(nodes)
    return {
        "readable": readable,
        "form_log_length": math.log1p(len(body)),
        "form_repeats_itself": _repetition(body),
        "form_empty": float(body in ("", "[]", "{}", "None", "null", '""')),
        "form_unclosed": float(
            abs(body.count("(") - body.count(")"))
            + abs(body.count("[") - body.count("]"))
            + abs(body.count("{") - body.count("}"))
            + max(0, body.count("<tool_call>") - len(calls))
        ),
        "form_positional": float(positional) if is_code else math.nan,
        "form_nested_calls": float(max(0, nested)) if is_code else math.nan,
        "form_expressions": _count(nodes, ast.BinOp | ast.Lambda | ast.Subscript | ast.Compare)
        if is_code
        else math.nan,
        "form_bare_names": _count(nodes, ast.Name) - len(calls) if is_code else math.nan,
        "text_refuses": float(bool(_REFUSAL.search(body))) if not calls else math.nan,
        "text_asks": float("?" in body) if not calls else math.nan,
        "text_words": math.log1p(len(words_of(body))) if not calls else math.nan,
    }


def _code(body: str) -> Iterator[ast.AST]:
    """Nodes of text that is Python calls; none for other text."""
    body = body.strip("`")
    if body.startswith(("{", "[{", "<")) or len(body) > _MAX_PARSED or "(" not in body:
        return
    for text in (body, f"[{body}]"):
        try:
            yield from ast.walk(ast.parse(text, mode="eval"))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return


def _count(nodes: list[ast.AST], kinds: type | object) -> float:
    return float(sum(isinstance(node, kinds) for node in nodes))  # type: ignore[arg-type]


def _repetition(body: str) -> float:
    """Share of lines that were there before: what a model does that cannot stop."""
    lines = [line.strip() for line in body.splitlines() if len(line.strip()) > 12]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0
