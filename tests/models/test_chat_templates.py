"""Chat templates by name, and what the one that Qwen3 is trained with does to an episode."""

import pytest

from specact_rl.envs.episodes import expert_policy, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ModelError
from specact_rl.models.chat_templates import QWEN3_TRAINING, chat_template
from specact_rl.models.loading import load_tokenizer
from specact_rl.presets import model_path
from specact_rl.rendering import Renderer

BASE = model_path("builtin:1m")


@pytest.fixture(scope="module")
def episodes():
    """Of an expert, with tool results and a user who answers."""
    envs = [Workspace.from_task_id(f"ws-{seed:06d}") for seed in range(12)]
    return [run_episode(env, expert_policy, "expert") for env in envs]


def renderer(template):
    return Renderer(tokenizer=load_tokenizer(BASE, template), catalogue="template")


def num_kept(template, episodes):
    """Turns that the next prompt shows as they were written, and all that a prompt follows."""
    made = renderer(template)
    kept = []
    for episode in episodes:
        steps = list(episode.each_step())
        for step, following in zip(steps, steps[1:], strict=False):
            written = made.prompt_ids(step) + made.completion_ids(step.executed)
            kept.append(made.prompt_ids(following)[: len(written)] == written)
    return sum(kept), len(kept)


def test_turns_are_read_as_they_were_written_in_the_template_of_training_only(episodes):
    assert "ask_clarification" in {step.executed.type for e in episodes for step in e.steps}
    kept, num_turns = num_kept(QWEN3_TRAINING, episodes)
    assert kept == num_turns > 20
    assert num_kept("qwen3", episodes) == (0, num_turns)


def test_turns_have_no_thought_and_end_with_the_stop_token(episodes):
    made, hub = renderer(QWEN3_TRAINING), renderer("qwen3")
    for step in (step for episode in episodes for step in episode.each_step()):
        ids = made.completion_ids(step.executed)
        text = made.tokenizer.decode(ids)
        assert text.endswith("<|im_end|>")
        assert "think" not in text
        assert hub.tokenizer.decode(hub.completion_ids(step.executed)) == (
            "<think>\n\n</think>\n\n" + text
        )
        assert made.prompt_text(step).endswith("<|im_start|>assistant\n")


def test_prompts_are_those_of_the_hub_and_prefixes_of_their_episode(episodes):
    made, hub = renderer(QWEN3_TRAINING), renderer("qwen3")
    for episode in episodes:
        for step in episode.each_step():
            assert made.prompt_text(step) == hub.prompt_text(step)
        for each in (made, hub):
            assert None not in each.rollout_ids(episode).prompt_lengths


def test_template_of_a_file_is_taken_and_saved_with_the_tokenizer(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}é")
    tokenizer = load_tokenizer(BASE, str(file))
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").chat_template == "{{ messages[0].content }}é"
    assert load_tokenizer(BASE).chat_template == chat_template(QWEN3_TRAINING)


@pytest.mark.parametrize("name", ["qwen4", "", "../chat_templates/qwen3", "README.md"])
def test_unknown_name_is_refused(name):
    with pytest.raises(ModelError, match=r"must be 'own', a \.jinja file, or one that .* TRL"):
        chat_template(name)


def test_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.jinja must be a text file"):
        chat_template(str(tmp_path / "gone.jinja"))
