"""Records for tests, written down by hand: tools, rollouts, steps and proposals."""

from specact_rl.actions.serialise import action_message, action_text
from specact_rl.types import Action, Proposal, Rollout, Step, StepRecord, ToolSpec, proposal_id


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


def make_step(request="Open f1", *, name="r/0", **fields):
    """The first step of an episode: a user asks, and nothing has been done yet."""
    rollout_id, _, index = name.rpartition("/")
    values = {
        "step_id": name,
        "rollout_id": rollout_id,
        "task_id": "t",
        "family": "f",
        "split": None,
        "index": int(index),
        "history": [{"role": "user", "content": request}],
        "tools": [],
        "executed": None,
        "reference": None,
    }
    return Step(**values | fields)


def make_proposal(step, action, acceptable=None, *, sample=0, model="m", mode="generate", **fields):
    """A proposal at a step; a string stands for text that could not be parsed."""
    parsed = isinstance(action, Action)
    values = {
        "proposal_id": proposal_id(step.step_id, model, mode, sample),
        "step_id": step.step_id,
        "task_id": step.task_id,
        "model_id": model,
        "sample": sample,
        "mode": mode,
        "text": action_text(action) if parsed else action,
        "action": action if parsed else None,
        "parse_error": None if parsed else "unparsable",
        "match_level": "none",
        "same_state": None,
        "acceptable": acceptable,
        "label_source": "test",
        "logprob": None,
        "num_candidates": None,
        "num_prompt_tokens": 1,
        "num_cached_tokens": 0,
        "num_completion_tokens": 1,
        "seconds": 0.0,
    }
    return Proposal(**values | fields)
