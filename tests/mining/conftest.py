"""Small rollouts written turn by turn, proposals, and a renderer with a byte-level tokenizer."""

from types import SimpleNamespace

import pytest

from specact_rl.actions.serialise import action_message, action_text
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer
from specact_rl.types import Action, Proposal, Rollout, StepRecord, ToolSpec, proposal_id


def _schema(*names, **properties):
    properties = {name: {"type": "string"} for name in names} | properties
    return {"type": "object", "properties": properties, "required": list(properties)}


TOOLS = [
    ToolSpec(name="read_file", parameters=_schema("file"), effect="read", action_type="file_read"),
    ToolSpec(name="delete_file", parameters=_schema("file"), effect="irreversible"),
    ToolSpec(name="find", parameters=_schema("query"), effect="read", action_type="retrieval"),
    ToolSpec(
        name="rank",
        parameters=_schema("ticket", level={"type": "string", "enum": ["low", "high"]}),
        effect="write",
    ),
    ToolSpec(name="secret", parameters=_schema("file"), documented=False),
]


def call(tool, /, **arguments):
    return Action(type="tool_call", tool=tool, arguments=arguments)


def say(text):
    return Action(type="ask_clarification" if text.endswith("?") else "final_answer", text=text)


def make_rollout(
    turns, *, task="t1", name=None, success=None, request="Tidy up f1 and f2.", policy="p", **fields
):
    """One step per turn: (what was done, what came back, reference), or the first alone.

    What was done is an Action, or a string that could not be parsed.
    """
    messages = [{"role": "system", "content": "Help."}, {"role": "user", "content": request}]
    steps = []
    for index, turn in enumerate(turns):
        done, reply, reference = (
            (*turn, None, None)[:3] if isinstance(turn, tuple) else (turn, None, None)
        )
        parsed = isinstance(done, Action)
        steps.append(
            StepRecord(
                index=index,
                message_index=len(messages),
                executed=done if parsed else None,
                executed_text=None if parsed else done,
                reference=reference,
            )
        )
        messages.append(action_message(done) if parsed else {"role": "assistant", "content": done})
        if reply is not None:
            role = "tool" if parsed and done.tool else "user"
            messages.append({"role": role, "content": reply})
    values = {"family": "f", "trial": 0, "tools": TOOLS, "split": "train_verifier"} | fields
    return Rollout(
        rollout_id=name or f"{task}/{policy}/{values['trial']}",
        task_id=task,
        policy=policy,
        messages=messages,
        steps=steps,
        success=success,
        **values,
    )


def make_proposal(rollout, index, action, acceptable, *, sample=0, model="m", **fields):
    """A proposal at a step; a string stands for text that could not be parsed."""
    parsed = isinstance(action, Action)
    step_id = rollout.step(index).step_id
    mode = fields.pop("mode", "generate")
    values = {"match_level": "none", "same_state": None, "label_source": "test", "logprob": None}
    return Proposal(
        proposal_id=proposal_id(step_id, model, mode, sample),
        step_id=step_id,
        task_id=rollout.task_id,
        model_id=model,
        sample=sample,
        mode=mode,
        text=action_text(action) if parsed else action,
        action=action if parsed else None,
        parse_error=None if parsed else "unparsable",
        acceptable=acceptable,
        num_candidates=None,
        num_prompt_tokens=1,
        num_cached_tokens=0,
        num_completion_tokens=1,
        seconds=0.0,
        **(values | fields),
    )


@pytest.fixture(scope="session")
def make():
    """`make.rollout`, `make.proposal`, `make.call`, `make.say`."""
    return SimpleNamespace(rollout=make_rollout, proposal=make_proposal, call=call, say=say)


@pytest.fixture(scope="session")
def renderer():
    tokenizer = train_tokenizer(["read_file f1 f2 delete_file Tidy up"], 400)
    return Renderer(tokenizer=tokenizer, catalogue="compact")
