import dataclasses

import pytest

from specact_rl.types import Action, Rollout, StepRecord, proposal_id, step_id


def rollout():
    return Rollout(
        rollout_id="r1",
        task_id="t1",
        family="f",
        policy="p",
        trial=0,
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "bye"},
        ],
        tools=[],
        steps=[
            StepRecord(index=0, message_index=1, executed=Action(type="final_answer", text="hello"))
        ],
        split="test",
    )


@pytest.mark.parametrize(("tool", "text"), [(None, None), ("search", "and text")])
def test_an_action_is_a_call_or_a_text_and_never_both_or_neither(tool, text):
    with pytest.raises(ValueError, match="either a tool or a text"):
        Action(type="tool_call", tool=tool, text=text)


def test_a_text_has_no_arguments():
    with pytest.raises(ValueError, match="no arguments"):
        Action(type="final_answer", text="done", arguments={"a": 1})


def test_an_empty_text_is_a_text():
    assert Action(type="final_answer", text="").text == ""


def test_a_step_sees_nothing_from_its_own_action_on():
    step = rollout().step(0)
    assert step.history == [{"role": "user", "content": "hi"}]
    assert (step.step_id, step.split, step.executed) == (
        "r1/0",
        "test",
        Action(type="final_answer", text="hello"),
    )


def test_each_step_gives_all_steps_in_order():
    assert [step.index for step in rollout().each_step()] == [0]


def test_records_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        rollout().split = "test"


def test_ids_tell_steps_models_modes_and_samples_apart():
    ids = {
        proposal_id(step_id(rollout_id, index), model, mode, sample)
        for rollout_id in ("r1", "r2")
        for index in (0, 1)
        for model in ("a", "b")
        for mode in ("generate", "rank")
        for sample in (0, 1)
    }
    assert len(ids) == 32
