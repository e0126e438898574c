"""Wrong actions that could be right: the model's own error, another value, a sibling tool.

A made-up action fits its tool's schema and uses only what the history shows. Where nothing can
judge it, it counts as wrong because it differs from everything known to be right.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from specact_rl.actions.canonical import action_hash
from specact_rl.actions.schema import argument_problem, find_tool
from specact_rl.actions.taxonomy import classify_call
from specact_rl.mining.proposal_pairs import unacceptable_sides
from specact_rl.mining.task_tables import (
    MiningOptions,
    Pair,
    Side,
    TaskTables,
    action_side,
    reference_side,
    seeded,
)
from specact_rl.types import Action, Message, Proposal, Step, ToolSpec

OTHER_VALUE = "other_value"
SIBLING_TOOL = "sibling_tool"

_TOKEN = re.compile(r"[^\s\"'(),:;{}\[\]]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"\d+")


def hard_negative_pairs(
    task: TaskTables, options: MiningOptions, dropped: Counter[str]
) -> list[Pair]:
    """The reference against wrong variations of it, the models' own errors first."""
    proposals: defaultdict[str, list[Proposal]] = defaultdict(list)
    for proposal in task.proposals:
        proposals[proposal.step_id].append(proposal)
    pairs = []
    for step in task.steps().values():
        reference = reference_side(step)
        if reference is None:
            dropped["no_reference"] += 1
            continue
        own = proposals[step.step_id]
        negatives = [*_own_errors(own, step, reference.key)][: options.max_per_step]
        if len(negatives) < options.max_per_step:
            wanted = options.max_per_step - len(negatives)
            known = {reference.key, *(side.key for side in negatives)}
            known |= {
                action_hash(p.action, step.tools)
                for p in own
                if p.action is not None and p.acceptable is not False
            }
            negatives += _made_up(step, known, wanted, options, dropped)
        if not negatives:
            is_text = reference.action is not None and reference.action.tool is None
            dropped["text_reference" if is_text else "no_variation"] += 1
        pairs += [
            Pair(strategy="hard_negative", step=step, chosen=reference, rejected=negative)
            for negative in negatives
        ]
    return pairs


def _own_errors(proposals: Sequence[Proposal], step: Step, reference_key: str) -> Iterator[Side]:
    for side in unacceptable_sides(proposals, step, Counter()):
        if side.action is not None and side.key != reference_key:
            yield side


def _made_up(
    step: Step, known: set[str], wanted: int, options: MiningOptions, dropped: Counter[str]
) -> list[Side]:
    sides: list[Side] = []
    for source, action in variations(step, options):
        if len(sides) == wanted:
            break
        side = action_side(action, step.tools, source, step.step_id)
        if side.key in known:
            continue
        known.add(side.key)
        verdict = options.is_acceptable(step, action) if options.is_acceptable else False
        if verdict is False:
            sides.append(side)
        else:
            dropped["variation_acceptable" if verdict else "variation_unknown"] += 1
    return sides


def variations(step: Step, options: MiningOptions) -> Iterator[tuple[str, Action]]:
    """Schema-valid neighbours of the step's reference call, each kind in a seeded order.

    First the same tool with another value in one argument, then other tools with the same
    arguments, in turns, so that neither kind crowds out the other. Nothing for a text.
    """
    if step.reference is None or step.reference.tool is None:
        return
    rng = seeded(options, step.step_id)
    values = list(_other_values(step, step.reference))
    siblings = list(_sibling_tools(step, step.reference))
    rng.shuffle(values)
    rng.shuffle(siblings)
    # Likely confusions (a record of the same kind) before words that merely stand somewhere.
    values.sort(key=lambda ranked: ranked[0])
    for i in range(max(len(values), len(siblings))):
        if i < len(values):
            yield OTHER_VALUE, _typed(values[i][1], step)
        if i < len(siblings):
            yield SIBLING_TOOL, _typed(siblings[i], step)


def _typed(action: Action, step: Step) -> Action:
    assert action.tool is not None
    kind = classify_call(action.tool, action.arguments, step.tools, step.history)
    return replace(action, type=kind)


def _other_values(step: Step, reference: Action) -> Iterator[tuple[int, Action]]:
    tool = find_tool(reference.tool, step.tools)
    parameters = tool.parameters if tool else {}
    shown = _shown_tokens(step.history)
    for name, value in reference.arguments.items():
        schema = parameters.get("properties", {}).get(name) or {}
        candidates = [
            *((0, option) for option in schema.get("enum", ())),
            *((0, earlier) for earlier in _earlier_values(step.history, name)),
            *_alike(value, shown),
        ]
        seen: set[str] = set()
        for rank, candidate in candidates:
            arguments = {**reference.arguments, name: candidate}
            text = json.dumps(candidate, ensure_ascii=False)
            if text in seen or type(candidate) is not type(value) or candidate == value:
                continue
            seen.add(text)
            if argument_problem(arguments, parameters) is None:
                yield rank, replace(reference, arguments=arguments)


def _shown_tokens(history: Sequence[Message]) -> dict[str, bool]:
    """Words of all messages in order, and whether a tool result showed them; no system text."""
    tokens: dict[str, bool] = {}
    for message in history:
        content = message.get("content")
        if message["role"] != "system" and isinstance(content, str):
            from_tool = message["role"] == "tool"
            for token in _TOKEN.findall(content):
                token = token.strip(".?!")
                tokens[token] = tokens.get(token, False) or from_tool
    tokens.pop("", None)
    return tokens


def _earlier_values(history: Sequence[Message], name: str) -> Iterator[Any]:
    """Values that earlier calls gave to a parameter of this name."""
    for message in history:
        for call in message.get("tool_calls") or ():
            arguments = call["function"]["arguments"]
            if name in arguments:
                yield arguments[name]


def _alike(value: Any, shown: dict[str, bool]) -> Iterator[tuple[int, Any]]:
    """Shown values that look like `value`, with their rank: ids and numbers, then plain words.

    Plain words count only where a tool's result showed them, or any prose would do.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        return
    shape = _shape(str(value))
    plain = shape == "a"
    for token, from_tool in shown.items():
        if _shape(token) == shape and (from_tool or not plain):
            same_prefix = token[:1] == str(value)[:1] and not token.isdigit()
            if isinstance(value, str):
                yield (2 if plain else 0 if same_prefix else 1), token
            elif token.isdecimal():
                yield 1, int(token)


def _shape(text: str) -> str:
    """Runs of letters as "a" and of digits as "0": t12 and f3 look alike, a date does not."""
    return _DIGITS.sub("0", _LETTERS.sub("a", text))


def _sibling_tools(step: Step, reference: Action) -> Iterator[Action]:
    """Other documented tools that take exactly the reference's arguments."""
    for tool in step.tools:
        if tool.documented and tool.name != reference.tool and _takes(tool, reference.arguments):
            yield replace(reference, tool=tool.name)


def _takes(tool: ToolSpec, arguments: dict[str, Any]) -> bool:
    # A schema that allows everything says nothing about what fits.
    names_all = set(arguments) <= set(tool.parameters.get("properties", {}))
    return names_all and argument_problem(arguments, tool.parameters) is None
