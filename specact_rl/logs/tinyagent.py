"""TinyAgent plans to rollouts: one call a step, as the planner numbered them.

`tool_rag_examples.json` (a list of `question`, `tools`, `full_example`) holds gold plans; its
`tools` names those of the gold plan and would give the answer away, so that every task gets all
tools of the file. Runs (`query`, `raw_output`) are plans of a model, right or wrong.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from specact_rl.actions.serialise import action_message
from specact_rl.actions.taxonomy import builtin_table
from specact_rl.errors import RolloutFormatError
from specact_rl.logs.groups import finished
from specact_rl.logs.reading import json_rows, json_value
from specact_rl.logs.result import ImportResult, files_with
from specact_rl.logs.tool_types import retyped
from specact_rl.store import content_hash
from specact_rl.types import Action, Message, Rollout, StepRecord, ToolSpec

GOLD_POLICY = "reference_plan"
_NUMBERED = re.compile(r"^\s*\d+[.)]\s*", re.MULTILINE)
_BARE_REFERENCE = re.compile(r"""(?<!["'\w])(\$\d+)(?!["'\w])""")
_SURROGATE = re.compile("[\ud800-\udfff]")
_END = "join"

_STRING, _STRINGS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_SIGNATURES: dict[str, dict[str, dict[str, Any]]] = {
    "append_note_content": {"name": _STRING, "content": _STRING, "folder": _STRING},
    "compose_new_email": {
        "recipients": _STRINGS,
        "cc": _STRINGS,
        "subject": _STRING,
        "context": _STRING,
        "attachments": _STRINGS,
    },
    "create_calendar_event": {
        "title": _STRING,
        "start_date": _STRING,
        "end_date": _STRING,
        "location": _STRING,
        "invitees": _STRINGS,
        "notes": _STRING,
        "calendar": _STRING,
    },
    "create_note": {"name": _STRING, "content": _STRING, "folder": _STRING},
    "create_reminder": {
        "name": _STRING,
        "due_date": _STRING,
        "notes": _STRING,
        "list_name": _STRING,
        "priority": {},
        "all_day": {},
    },
    "forward_email": {
        "recipients": _STRINGS,
        "cc": _STRINGS,
        "context": _STRING,
        "attachments": _STRINGS,
    },
    "get_email_address": {"name": _STRING},
    "get_phone_number": {"name": _STRING},
    "get_zoom_meeting_link": {
        "topic": _STRING,
        "start_time": _STRING,
        "duration": {},
        "invitees": _STRINGS,
    },
    "maps_open_location": {"location": _STRING},
    "maps_show_directions": {
        "start_location": _STRING,
        "end_location": _STRING,
        "transport": _STRING,
    },
    "open_and_get_file_path": {"file_name": _STRING},
    "open_note": {"name": _STRING, "folder": _STRING},
    "reply_to_email": {"cc": _STRINGS, "context": _STRING, "attachments": _STRINGS},
    "send_sms": {"recipients": _STRINGS, "message": _STRING},
    "summarize_pdf": {"pdf_path": _STRING},
}
"""Parameters of the published tools in their order; plans give arguments by position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    query: str
    text: str
    gold: bool


def import_tinyagent(path: Path) -> ImportResult:
    """A rollout for each plan, a step for each call before `join()`.

    Arguments are named by the published signatures, or `arg1`, `arg2`, … where a plan gives more
    or a tool is not known; "$k" (the result of call k) stays as it is written. Steps of gold plans
    are acceptable (label source "reference_plan") and their own reference; several orders are
    equally right, so that another order is not a mistake. Steps of runs have no label.

    Dropped, by reason: "no_plan" (no numbered call), and "broken_plan" (a line that is no call),
    whole.

    Raises:
        ConfigError: There is no `.json` or `.jsonl` file.
        RolloutFormatError: A file of another form.
    """
    plans = [plan for file in files_with(path, "*.json", "*.jsonl") for plan in _plans(file)]
    dropped: Counter[str] = Counter()
    parsed = []
    for plan in plans:
        calls = parse_plan(plan.text)
        if not calls:
            dropped["broken_plan" if calls is None else "no_plan"] += 1
        else:
            parsed.append((plan, calls))
    tools = _catalogue({tool for _, calls in parsed for tool, _ in calls})
    table = builtin_table("tinyagent")
    trials: Counter[tuple[str, str]] = Counter()
    rollouts = [retyped(_rollout(plan, calls, tools, trials), table) for plan, calls in parsed]
    return finished(rollouts, dropped)


def parse_plan(text: str) -> list[tuple[str, list[Any]]] | None:
    """Tool and positional arguments of each call before `join()`; None for a line that is no call.

    An argument is a Python literal; what is none (`$1` without quotes) stays text.
    """
    starts = [match.end() for match in _NUMBERED.finditer(text)]
    calls = []
    for start in starts:
        call = _call(text[start:].split("\n", 1)[0].split("<END_OF_PLAN>")[0])
        if call is None:
            return None
        if call[0] == _END:
            break
        calls.append(call)
    return calls


def _call(line: str) -> tuple[str, list[Any]] | None:
    """Tool and arguments of one line, whose comment is passed over; None when it is no call."""
    # A bare $1 is no Python; quoted it says the same. In a string it needs none.
    for source in (line.strip(), _BARE_REFERENCE.sub(r'"\1"', line.strip())):
        try:
            node = ast.parse(source, mode="eval").body
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                values = [ast.literal_eval(argument) for argument in node.args]
                return (node.func.id, values) if _plain(values) and not node.keywords else None
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _plain(value: object) -> bool:
    """True for what JSON has."""
    if isinstance(value, list):
        return all(map(_plain, value))
    if isinstance(value, str):
        return _SURROGATE.search(value) is None
    return value is None or isinstance(value, int) or isinstance(value, float) and isfinite(value)


def _plans(file: Path) -> Iterator[_Plan]:
    if file.suffix == ".jsonl":
        for where, row in json_rows(file):
            yield _plan(row, where)
        return
    rows = json_value(file)
    if not isinstance(rows, list):
        raise RolloutFormatError(f"{file}: must be a list of examples, got {type(rows).__name__}")
    for i, row in enumerate(rows):
        yield _plan(row, f"{file}: example {i}")


def _plan(row: Any, where: str) -> _Plan:
    for query, text, gold in (("question", "full_example", True), ("query", "raw_output", False)):
        if isinstance(row, dict) and isinstance(row.get(query), str):
            if not isinstance(row.get(text), str):
                break
            body = row[text]
            body = body.split("\n", 1)[-1] if body.startswith("Question:") else body
            return _Plan(query=row[query], text=body, gold=gold)
    raise RolloutFormatError(
        f"{where}: must have question and full_example (gold plans), or query and raw_output "
        f"(runs), got {row!r:.200}"
    )


def _catalogue(names: set[str]) -> list[ToolSpec]:
    return [
        ToolSpec(
            name=name,
            parameters={"type": "object", "properties": _SIGNATURES[name]}
            if name in _SIGNATURES
            else {},
        )
        for name in sorted(names)
    ]


def _rollout(
    plan: _Plan,
    calls: Sequence[tuple[str, list[Any]]],
    tools: list[ToolSpec],
    trials: Counter[tuple[str, str]],
) -> Rollout:
    policy = GOLD_POLICY if plan.gold else "tinyagent"
    task = content_hash(plan.query)
    trial = trials[task, policy]
    trials[task, policy] += 1
    messages: list[Message] = [{"role": "user", "content": plan.query}]
    steps = []
    for index, (tool, values) in enumerate(calls):
        action = Action(type="tool_call", tool=tool, arguments=_named(tool, values))
        steps.append(
            StepRecord(
                index=index,
                message_index=len(messages),
                executed=action,
                reference=action if plan.gold else None,
                acceptable=True if plan.gold else None,
                label_source=GOLD_POLICY if plan.gold else None,
            )
        )
        messages.append(action_message(action))
    return Rollout(
        rollout_id=f"{policy}/{task}/{trial}",
        task_id=task,
        family=task,
        policy=policy,
        trial=trial,
        messages=messages,
        tools=tools,
        steps=steps,
        success=True if plan.gold else None,
        info={"plan": plan.text},
    )


def _named(tool: str, values: Sequence[Any]) -> dict[str, Any]:
    names = list(_SIGNATURES.get(tool, {}))
    names += [f"arg{i}" for i in range(len(names) + 1, len(values) + 1)]
    return dict(zip(names, values, strict=False))
