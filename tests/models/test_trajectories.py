"""Episodes as tokens: the loss is on every action of the policy, and on no tool result."""

import pytest
import torch

from specact_rl.actions.serialise import action_message
from specact_rl.errors import ConfigError, ModelError
from specact_rl.models.tiny import train_tokenizer
from specact_rl.models.trajectories import LossOnTurns, side_rows
from specact_rl.rendering import Renderer
from specact_rl.types import Action, ToolSpec
from tests import records

TOOLS = [ToolSpec(name="open", parameters={"type": "object", "properties": {"file": {}}})]
OPEN = Action(type="file_read", tool="open", arguments={"file": "f1"})
SAY = Action(type="final_answer", text="Done.")
RESULT = {"role": "tool", "content": "f1 is empty, nothing is done"}


@pytest.fixture
def renderer():
    tokenizer = train_tokenizer(['open {"file": "f1"} is empty', "Done."], 320)
    return Renderer(tokenizer=tokenizer, catalogue="compact")


def make_step(text="Open f1"):
    return records.make_step(text, tools=TOOLS)


@pytest.fixture
def episode(renderer):
    """A pair: opened, read and answered; or answered at once."""
    return renderer.prompt_fields(make_step()) | {
        "chosen": [action_message(OPEN), RESULT, action_message(SAY)],
        "rejected": [action_message(SAY)],
    }


def test_loss_is_on_the_actions_of_an_episode_and_on_nothing_else(renderer, episode):
    [[chosen, rejected]] = side_rows([episode], renderer, "trajectory")
    assert chosen.trained == renderer.completion_ids(OPEN) + renderer.completion_ids(SAY)
    assert rejected.trained == renderer.completion_ids(SAY)
    masked = [i for i, own in zip(chosen.completion, chosen.under_loss, strict=True) if not own]
    assert "nothing is done" in renderer.tokenizer.decode(masked)


def test_each_action_of_an_episode_follows_the_prompt_it_has_at_inference(renderer, episode):
    [[chosen, _]] = side_rows([episode], renderer, "trajectory")
    later = make_step()
    later.history.extend([action_message(OPEN), RESULT])
    prompt = renderer.prompt_ids(later)
    assert chosen.ids == prompt + renderer.completion_ids(SAY)
    assert chosen.prompt == renderer.prompt_ids(make_step())


def test_pairs_of_episodes_are_refused_where_single_actions_are_wanted(renderer, episode):
    with pytest.raises(ConfigError, match="one action, got 3 messages.*level: trajectory"):
        side_rows([episode], renderer, "step")


def test_an_episode_of_one_action_is_the_step(renderer):
    row = renderer.prompt_fields(make_step()) | {
        "chosen": [action_message(OPEN)],
        "rejected": [action_message(SAY)],
    }
    [step], [episode] = (side_rows([row], renderer, level) for level in ("step", "trajectory"))
    assert [(r.ids, r.labels) for r in episode] == [(r.ids, r.labels) for r in step]


def test_an_episode_that_ends_with_a_tool_result_is_refused(renderer, episode):
    episode["chosen"] = episode["chosen"][:-1]
    with pytest.raises(ConfigError, match="row 0.*chosen: an episode must end with an assistant"):
        side_rows([episode], renderer, "trajectory")


def test_an_episode_under_another_prompt_is_refused(renderer, episode):
    episode["prompt"] = renderer.messages_for(make_step("Open f2"))
    with pytest.raises(ModelError, match="row 0.*history_hash"):
        side_rows([episode], renderer, "trajectory")


def test_a_template_that_drops_earlier_turns_is_refused(renderer, episode):
    renderer.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}"
        "<|im_start|>{{ m.role }}\n{{ m.content or m.tool_calls[0].function.name }}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    forgetful = Renderer(tokenizer=renderer.tokenizer, catalogue="compact")
    row = forgetful.prompt_fields(make_step()) | {k: episode[k] for k in ("chosen", "rejected")}
    with pytest.raises(ModelError, match="changes earlier turns"):
        side_rows([row], forgetful, "trajectory")


def collated(rows):
    """As TRL collates: the loss on all that follows the prompt, padding right."""
    width = max(len(row.ids) for row in rows)
    pad = [width - len(row.ids) for row in rows]
    return {
        "input_ids": torch.tensor([r.ids + [0] * n for r, n in zip(rows, pad, strict=True)]),
        "attention_mask": torch.tensor(
            [[1] * len(r.ids) + [0] * n for r, n in zip(rows, pad, strict=True)]
        ),
        "completion_mask": torch.tensor(
            [
                [0] * len(r.prompt) + [1] * len(r.completion) + [0] * n
                for r, n in zip(rows, pad, strict=True)
            ]
        ),
    }


def test_the_collator_takes_the_loss_off_what_tools_said(renderer, episode):
    [pair] = side_rows([episode], renderer, "trajectory")
    batch = LossOnTurns.of(lambda rows: collated(pair), pair)([])
    for i, row in enumerate(pair):
        assert batch["input_ids"][i][batch["completion_mask"][i].bool()].tolist() == row.trained


def test_a_sequence_that_the_renderer_did_not_make_is_refused(renderer, episode):
    [[chosen, rejected]] = side_rows([episode], renderer, "trajectory")
    collate = LossOnTurns.of(lambda rows: collated([chosen]), [rejected])
    with pytest.raises(ModelError, match="another sequence"):
        collate([])
