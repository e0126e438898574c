"""The matching ladder: how far a proposal agrees with a reference action."""

from __future__ import annotations

from collections.abc import Sequence

from specact_rl.actions.canonical import canonical
from specact_rl.types import MATCH_LEVELS, Action, MatchLevel, ToolSpec


def match_level(
    proposal: Action | None, reference: Action, tools: Sequence[ToolSpec] = ()
) -> MatchLevel:
    """The highest of none, type, tool and arguments that holds.

    A call of the same tool with the same canonical arguments is the same action, whatever type
    the two were given by their contexts. Two texts of one type agree on the tool (none), and on
    the arguments when their canonical texts are equal.

    Args:
        proposal: None when the text could not be parsed.
        reference: An action known to be right.
        tools: The catalogue, whose schemas type the arguments.
    """
    if proposal is None:
        return "none"
    ours, theirs = canonical(proposal, tools), canonical(reference, tools)
    same_content = (ours.tool, ours.text) == (theirs.tool, theirs.text) and _identical(
        ours.arguments, theirs.arguments
    )
    if same_content and (ours.type == theirs.type or ours.tool is not None):
        return "arguments"
    if ours.type != theirs.type:
        return "none"
    return "tool" if ours.tool == theirs.tool else "type"


def reaches(level: MatchLevel, at_least: MatchLevel) -> bool:
    """True when `level` stands at `at_least` or above it on the ladder."""
    return MATCH_LEVELS.index(level) >= MATCH_LEVELS.index(at_least)


def _identical(left: object, right: object) -> bool:
    """Equal as JSON: unlike in Python, true is not 1."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_identical(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_identical, left, right))
    return left == right and isinstance(left, bool) == isinstance(right, bool)
