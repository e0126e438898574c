"""A logged rollout as one proposal: what a policy answered to a request, from there to its end.

That is what joins of two logs can be exact about. For a log of single responses it is the step
itself; of an episode it is everything that followed the request, judged by the episode's verdict.
"""

from __future__ import annotations

import json

from specact_rl.actions.serialise import OPEN_TAG, action_text
from specact_rl.errors import RolloutFormatError
from specact_rl.logs.facts import agent_name
from specact_rl.types import (
    Action,
    Message,
    Proposal,
    Rollout,
    Step,
    StepRecord,
    proposal_id,
    step_id,
)

LABEL_SOURCE = "task_verdict"


def request_length(rollout: Rollout) -> int:
    """Number of messages before the policy's first word."""
    spoken = (i for i, m in enumerate(rollout.messages) if m["role"] == "assistant")
    return next(spoken, len(rollout.messages))


def request_step(rollout: Rollout) -> Step:
    """The request, where the policy's first word was due, as a step."""
    return Step(
        step_id=step_id(rollout.rollout_id, 0),
        rollout_id=rollout.rollout_id,
        task_id=rollout.task_id,
        family=rollout.family,
        split=rollout.split,
        index=0,
        history=rollout.messages[: request_length(rollout)],
        tools=rollout.tools,
        executed=None,
        reference=None,
    )


def response_messages(rollout: Rollout) -> list[Message]:
    """All that followed the request; [] where a log has verdicts only."""
    return rollout.messages[request_length(rollout) :]


def response_proposal(rollout: Rollout, sample: int, at: Step | None = None) -> Proposal:
    """The rollout as a row of the proposals table, labelled by its verdict.

    A withheld verdict is no label. Tokens, seconds and price are those that the log has, of the
    whole rollout.

    Args:
        rollout: Of any importer.
        sample: Number of this rollout among those of its policy on the task, from 0.
        at: The step that it is offered at, the same request in another policy's rollout; None:
            its own.

    Raises:
        RolloutFormatError: The log gives tokens, seconds or a price that are no numbers.
    """
    agent, step = agent_name(rollout), (at or request_step(rollout)).step_id
    actions = _actions(rollout)
    single = actions[0] if len(actions) == 1 else None
    return Proposal(
        proposal_id=proposal_id(step, agent, "generate", sample),
        step_id=step,
        task_id=rollout.task_id,
        model_id=agent,
        sample=sample,
        mode="generate",
        text=_text(rollout),
        action=single,
        actions=[] if single else actions,
        parse_error=None if actions else _no_action(rollout),
        match_level="none",
        same_state=None,
        acceptable=rollout.success,
        label_source=LABEL_SOURCE,
        logprob=None,
        num_candidates=None,
        num_prompt_tokens=_count(rollout, "input_tokens"),
        num_cached_tokens=0,
        num_completion_tokens=_count(rollout, "output_tokens"),
        seconds=_number(rollout, "seconds"),
        price=_number(rollout, "cost_usd"),
    )


def _actions(rollout: Rollout) -> list[Action]:
    """What was done, in order; several calls of one message each count."""
    found: list[Action] = []
    for step in rollout.steps:
        if step.executed is not None:
            found.append(step.executed)
        else:
            found += _calls(rollout, step)
    return found


def _calls(rollout: Rollout, step: StepRecord) -> list[Action]:
    message = rollout.messages[step.message_index : step.message_index + 1]
    calls = message[0].get("tool_calls") if message else None
    return [
        Action(
            type="tool_call",
            tool=call["function"]["name"],
            arguments=call["function"]["arguments"],
        )
        for call in calls or ()
        if isinstance(call["function"].get("arguments"), dict)
    ]


def _no_action(rollout: Rollout) -> str:
    if not rollout.steps:
        return "the log has no response, only a verdict"
    return "no call or text can be read in the response"


def _text(rollout: Rollout) -> str:
    """The response as it was where the log has it; else its messages as a model writes them."""
    raw = rollout.info.get("response")
    if raw is not None:
        return raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
    return "\n".join(_message_text(message) for message in response_messages(rollout))


def _message_text(message: Message) -> str:
    content = message.get("content")
    lines = [content if isinstance(content, str) else ""]
    for call in message.get("tool_calls") or ():
        arguments = call["function"].get("arguments")
        if isinstance(arguments, dict):
            name = call["function"]["name"]
            lines.append(action_text(Action(type="tool_call", tool=name, arguments=arguments)))
        else:
            lines.append(f"{OPEN_TAG}{json.dumps(call['function'], ensure_ascii=False)}")
    told = "\n".join(line for line in lines if line)
    return told if message["role"] == "assistant" else f"[{message['role']}] {told}"


def _count(rollout: Rollout, key: str) -> int | None:
    found = _number(rollout, key)
    return None if found is None else round(found)


def _number(rollout: Rollout, key: str) -> float | None:
    found = rollout.info.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or found < 0:
        raise RolloutFormatError(
            f"rollout {rollout.rollout_id!r}: {key} must be a number of at least 0, got {found!r}"
        )
    return float(found)
