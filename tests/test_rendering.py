"""Rendering: one text for training and inference, on the template families in use."""

import dataclasses
import json
from pathlib import Path

import pytest
from trl.data_utils import apply_chat_template

from specact_rl.actions.serialise import action_text
from specact_rl.errors import ModelError
from specact_rl.models.chat_templates import QWEN3_TRAINING, chat_template
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import (
    Renderer,
    RolloutTokens,
    check_parity,
    compact_catalogue,
    tool_dicts,
)
from specact_rl.types import Action, Rollout, StepRecord, ToolSpec

TEMPLATES = Path(__file__).parent / "fixtures" / "templates"

TOOLS = [
    ToolSpec(
        name="move_file",
        description="Move a file\n  to a folder.",
        parameters={
            "type": "object",
            "properties": {
                "file": {"type": "string"},
                "mode": {"type": "string", "enum": ["copy", "cut"]},
                "note": {"type": "string"},
            },
            "required": ["file", "mode"],
        },
        effect="write",
    ),
    ToolSpec(name="ping"),
]
MOVE = Action(
    type="file_write", tool="move_file", arguments={"file": "f3 “é” 日本", "mode": "copy"}
)
PING = Action(type="tool_call", tool="ping")
SAY = Action(type="final_answer", text="Done, f3 is moved.")

# family: chat template, stop token
FAMILIES = {
    "qwen3": (chat_template(QWEN3_TRAINING), "<|im_end|>"),
    "hermes": ((TEMPLATES / "hermes.jinja").read_text(), "<|im_end|>"),
    "llama31": ((TEMPLATES / "llama31.jinja").read_text(), "<|eot_id|>"),
    "mistral": ((TEMPLATES / "mistral.jinja").read_text(), "</s>"),
}


def make_renderer(template, stop, catalogue="template"):
    tokenizer = train_tokenizer(["move file f3 to the folder", "Done, f3 is moved."], 400)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": stop})
    tokenizer.chat_template = template
    return Renderer(tokenizer=tokenizer, catalogue=catalogue)


@pytest.fixture(params=FAMILIES)
def renderer(request):
    return make_renderer(*FAMILIES[request.param])


@pytest.fixture
def compact():
    return make_renderer(*FAMILIES["qwen3"], catalogue="compact")


def call_message(action):
    call = {"name": action.tool, "arguments": action.arguments}
    tool_call = {"type": "function", "function": call}
    return {"role": "assistant", "content": "", "tool_calls": [tool_call]}


@pytest.fixture
def rollout():
    """Two calls, an answer, and a last turn that is still due."""
    messages = [
        {"role": "system", "content": "You work in an office."},
        {"role": "user", "content": "Copy f3, please."},
        call_message(MOVE),
        {"role": "tool", "content": '{"ok": true}'},
        call_message(PING),
        {"role": "tool", "content": "pong"},
        {"role": "assistant", "content": SAY.text},
        {"role": "user", "content": "Thanks. And f4?"},
    ]
    places = [(2, MOVE), (4, PING), (6, SAY), (8, None)]
    return Rollout(
        rollout_id="r",
        task_id="t",
        family="t",
        policy="script",
        trial=0,
        messages=messages,
        tools=TOOLS,
        steps=[
            StepRecord(index=i, message_index=place, executed=action)
            for i, (place, action) in enumerate(places)
        ],
    )


@pytest.mark.parametrize("action", [MOVE, PING, SAY], ids=["call", "no_arguments", "text"])
def test_trl_makes_prompt_and_completion_tokens_of_a_training_row(renderer, rollout, action):
    step = rollout.step(1)
    row = renderer.training_row(step, action)
    texts = apply_chat_template(
        {key: row[key] for key in ("prompt", "completion")}, renderer.tokenizer, row["tools"]
    )
    ids = renderer.tokenizer(texts["prompt"] + texts["completion"], add_special_tokens=False)
    ours = renderer.prompt_ids(step) + renderer.completion_ids(action)
    assert ids["input_ids"][: len(ours)] == ours
    assert renderer.tokenizer.decode(ids["input_ids"][len(ours) :]).strip() == ""
    assert row["num_prompt_tokens"] + row["num_completion_tokens"] == len(ours)


@pytest.mark.parametrize("action", [MOVE, SAY], ids=["call", "text"])
def test_completion_ends_with_its_only_stop_token(renderer, action):
    ids = renderer.completion_ids(action)
    assert ids[-1] == renderer.tokenizer.eos_token_id
    assert ids.count(renderer.tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("action", [MOVE, PING, SAY], ids=["call", "no_arguments", "text"])
def test_qwen3_turn_is_the_action_text_and_a_stop_token(compact, action):
    text = compact.tokenizer.decode(compact.completion_ids(action))
    assert text == action_text(action) + "<|im_end|>"


def test_tool_arguments_are_rendered_as_an_object_with_unescaped_unicode(renderer):
    text = renderer.tokenizer.decode(renderer.completion_ids(MOVE))
    assert json.dumps(MOVE.arguments, ensure_ascii=False) in text
    assert "\\" not in text


def test_no_special_token_is_doubled_at_the_start(renderer, rollout):
    ids = renderer.prompt_ids(rollout.step(0))
    assert ids[0] != ids[1]


def test_catalogue_in_the_template_is_shown_without_effects(renderer, rollout):
    text = renderer.prompt_text(rollout.step(0))
    assert text.count("move_file") == 1
    assert "effect" not in text
    assert json.dumps(TOOLS[0].parameters["properties"], ensure_ascii=False) in text


def test_every_prompt_of_a_rollout_is_a_prefix_of_its_conversation(renderer, rollout):
    tokens = renderer.rollout_ids(rollout)
    assert tokens.step_ids == ["r/0", "r/1", "r/2", "r/3"]
    for i, length in enumerate(tokens.prompt_lengths):
        assert tokens.ids[:length] == renderer.prompt_ids(rollout.step(i))
        assert tokens.prompts()[i].ids == tokens.ids[:length]
    assert tokens.prompt_lengths[3] == len(tokens.ids)  # the last turn is due
    assert tokens.own_prompts == {}


def test_conversation_ends_with_the_last_turn_where_no_step_is_due(renderer, rollout):
    done = dataclasses.replace(rollout, messages=rollout.messages[:7], steps=rollout.steps[:3])
    tokens = renderer.rollout_ids(done)
    assert tokens.ids == renderer.conversation_ids(done)
    turn = renderer.completion_ids(SAY)
    length = tokens.prompt_lengths[2]
    assert tokens.ids[length : length + len(turn)] == turn


def test_steps_whose_prompt_is_no_prefix_keep_their_own(rollout):
    template = (TEMPLATES / "hermes_thinking.jinja").read_text()
    renderer = make_renderer(template, "<|im_end|>", "compact")
    tokens = renderer.rollout_ids(rollout)
    assert tokens.prompt_lengths[:3] == [None, None, None]
    assert tokens.prompt_lengths[3] == len(tokens.ids)
    for i in range(4):
        assert tokens.prompt_ids(i) == renderer.prompt_ids(rollout.step(i))


def test_completion_refuses_a_template_whose_prompt_is_no_prefix():
    template = (TEMPLATES / "hermes_thinking.jinja").read_text()
    renderer = make_renderer(template, "<|im_end|>", "compact")
    with pytest.raises(ModelError, match="prefix"):
        renderer.completion_ids(MOVE)


def test_completion_refuses_an_eos_token_that_ends_no_turn():
    renderer = make_renderer(FAMILIES["qwen3"][0], "</s>")
    with pytest.raises(ModelError, match="must end with eos_token '</s>'"):
        renderer.completion_ids(MOVE)


def test_compact_catalogue_has_one_line_per_tool():
    assert compact_catalogue(TOOLS) == (
        "Tools:\nmove_file(file, mode=copy|cut, note?): Move a file to a folder.\nping()"
    )


def test_compact_catalogue_follows_the_system_message_and_rows_have_no_tools(compact, rollout):
    row = compact.training_row(rollout.step(0), MOVE, step_id="r/0")
    assert "tools" not in row
    assert row["step_id"] == "r/0"
    catalogue = compact_catalogue(TOOLS)
    assert row["prompt"][0]["content"] == f"You work in an office.\n\n{catalogue}"
    assert rollout.messages[0]["content"] == "You work in an office."


def test_compact_catalogue_makes_a_system_message_where_there_is_none(compact, rollout):
    bare = dataclasses.replace(rollout, messages=rollout.messages[1:2], steps=[])
    bare = dataclasses.replace(bare, steps=[StepRecord(index=0, message_index=1, executed=None)])
    messages = compact.messages_for(bare.step(0))
    assert messages[0] == {"role": "system", "content": compact_catalogue(TOOLS)}
    assert compact.rollout_ids(bare).ids == compact.prompt_ids(bare.step(0))


def test_parity_holds_for_rows_of_every_step_and_shape(renderer, rollout):
    actions = [MOVE, PING, SAY]
    rows = [renderer.training_row(rollout.step(i), action) for i, action in enumerate(actions)]
    pair = renderer.prompt_fields(rollout.step(0)) | {
        "chosen": [call_message(MOVE)],
        "rejected": [call_message(PING)],
    }
    check_parity([*rows, pair, rows[0] | {"tools": json.dumps(tool_dicts(TOOLS))}], renderer)


def test_parity_finds_a_row_built_with_another_catalogue_mode(compact, rollout):
    other = Renderer(tokenizer=compact.tokenizer, catalogue="template")
    row = compact.training_row(rollout.step(0), MOVE)
    hidden = row | {"history_hash": other.prompt_fields(rollout.step(0))["history_hash"]}
    check_parity([row], compact)
    with pytest.raises(ModelError, match=r"row 1 .*history_hash"):
        check_parity([row, hidden], compact)


def test_parity_finds_arguments_that_storage_padded_with_none(compact, rollout):
    row = compact.training_row(rollout.step(1), PING)
    padded = [dict(message) for message in row["prompt"]]
    padded[2] = call_message(dataclasses.replace(MOVE, arguments=MOVE.arguments | {"note": None}))
    with pytest.raises(ModelError, match="history_hash"):
        check_parity([row | {"prompt": padded}], compact)


def test_parity_finds_a_turn_that_reads_differently_in_its_place(rollout):
    template = FAMILIES["hermes"][0].replace(
        '(message.content or "")', '(message.content or "") + ("!" if loop.index > 2 else "")'
    )
    renderer = make_renderer(template, "<|im_end|>")
    row = renderer.training_row(rollout.step(0), MOVE)
    with pytest.raises(ModelError, match="those at inference"):
        check_parity([row], renderer)


def test_parity_refuses_rows_without_a_hash(compact, rollout):
    row = compact.training_row(rollout.step(0), MOVE)
    del row["history_hash"]
    with pytest.raises(ModelError, match="history_hash"):
        check_parity([row], compact)


def test_template_hash_changes_with_template_catalogue_and_special_tokens(compact):
    same = make_renderer(*FAMILIES["qwen3"], catalogue="compact")
    assert same.template_hash == compact.template_hash
    others = [
        Renderer(tokenizer=compact.tokenizer, catalogue="template"),
        make_renderer(FAMILIES["hermes"][0], "<|im_end|>", "compact"),
        make_renderer(FAMILIES["qwen3"][0], "</s>", "compact"),
    ]
    assert len({compact.template_hash, *(other.template_hash for other in others)}) == 4


def test_single_prompt_is_its_own_rollout():
    tokens = RolloutTokens.of_prompt([1, 2, 3], step_id="s")
    assert tokens.prompts()[0].ids == [1, 2, 3]
    assert tokens.prompts()[0].step_id == "s"
