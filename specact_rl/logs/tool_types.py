"""Action types of a log by a table of its tools: each step in the light of what came before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from specact_rl.actions.schema import find_tool
from specact_rl.actions.taxonomy import CallContext, ToolTable, classify_call
from specact_rl.types import Action, Message, Rollout, StepRecord, ToolSpec

UNPARSABLE = "unparsable"
SEVERAL_CALLS = "several_calls"


def retyped(rollout: Rollout, table: ToolTable) -> Rollout:
    """The rollout with the table's types in its catalogue and in the actions of its steps.

    A type that the log itself gives a tool stays.
    """
    tools = [
        tool
        if tool.action_type is not None
        else replace(tool, action_type=table.plain_type(tool.name))
        for tool in rollout.tools
    ]
    steps: list[StepRecord] = []
    context, at = CallContext(), 0
    for step in rollout.steps:
        for message in rollout.messages[at : step.message_index]:
            context = _after(context, message, table)
        at = step.message_index
        executed = step.executed and _typed(step.executed, tools, context, table)
        steps.append(replace(step, executed=executed))
    return replace(rollout, tools=tools, steps=steps)


def action_histogram(rollouts: Iterable[Rollout]) -> dict[str, int]:
    """Steps by action type, most frequent first.

    A step without an action counts as "several_calls" where its message holds more than one, else
    as "unparsable".
    """
    counts: Counter[str] = Counter()
    for rollout in rollouts:
        for step in rollout.steps:
            counts[_kind(rollout, step)] += 1
    return dict(counts.most_common())


def _kind(rollout: Rollout, step: StepRecord) -> str:
    if step.executed is not None:
        return step.executed.type
    message = rollout.messages[step.message_index : step.message_index + 1]
    calls = message[0].get("tool_calls") if message else None
    return SEVERAL_CALLS if calls and len(calls) > 1 else UNPARSABLE


def _typed(
    action: Action, tools: Sequence[ToolSpec], context: CallContext, table: ToolTable
) -> Action:
    if action.text is not None:
        return replace(action, type=table.classify_text(action.text))
    tool = action.tool or ""
    if find_tool(tool, tools) is None:  # called all the same: a log holds what was done
        tools = [*tools, ToolSpec(name=tool, action_type=table.plain_type(tool))]
    return replace(action, type=classify_call(tool, action.arguments, tools, context))


def _after(context: CallContext, message: Message, table: ToolTable) -> CallContext:
    """The context after one more message; as `call_context`, but with the table's errors."""
    if message["role"] == "tool":
        error = message.get("is_error") is True or table.is_error(message.get("content"))
        failed = context.failed or error
        return replace(context, failed=failed) if context.last_tool is not None else context
    calls = message.get("tool_calls") if message["role"] == "assistant" else None
    if not calls:
        return CallContext()
    function = calls[-1]["function"]
    arguments = function.get("arguments")
    return CallContext(
        last_tool=function["name"],
        last_arguments=arguments if isinstance(arguments, dict) else {},
    )
