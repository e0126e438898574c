"""What a GRPO run plays: which tasks, in which order, and whether its episodes have room."""

import copy
import math
from dataclasses import replace

import pytest
from transformers import Qwen3Config
from trl import GRPOConfig
from trl.chat_template_utils import qwen3_chat_template

from specact_rl.actions.serialise import action_text
from specact_rl.envs.episodes import expert_policy, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ConfigError, ModelError
from specact_rl.models.grpo import (
    GrpoArguments,
    check_arguments,
    check_room,
    playing_order,
    task_ids_of,
)
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer, compact_catalogue

TASKS = [f"ws-{seed:06d}" for seed in range(3)]


def episode(task_id):
    return run_episode(Workspace.from_task_id(task_id), expert_policy, "expert")


@pytest.fixture(scope="module")
def renderer():
    episodes = [episode(task_id) for task_id in TASKS]
    texts = [compact_catalogue(rollout.tools) for rollout in episodes]
    texts += [str(message["content"]) for rollout in episodes for message in rollout.messages]
    texts += [action_text(step.executed) for rollout in episodes for step in rollout.steps]
    return Renderer(tokenizer=train_tokenizer(texts, 400), catalogue="compact")


@pytest.fixture
def training(tmp_path):
    """A config with these values."""

    def build(**values):
        defaults = {"per_device_train_batch_size": 4, "num_generations": 2, "bf16": False}
        return GRPOConfig(output_dir=str(tmp_path), use_cpu=True, **(defaults | values))

    return build


@pytest.fixture(scope="module")
def rows(renderer):
    """Of each step of two policies' rollouts, as build_sft writes them."""
    rollouts = [replace(episode(t), rollout_id=f"{t}/{p}/0") for t in TASKS for p in "ab"]
    return [
        renderer.training_row(
            step, step.executed, task_id=step.task_id, step_id=step.step_id, split="train_proposer"
        )
        for rollout in rollouts
        for step in rollout.each_step()
    ]


# Tasks


def test_each_task_is_played_once_whatever_rows_it_has(rows, renderer):
    assert len(rows) > 2 * len(TASKS)
    assert task_ids_of(rows, renderer) == TASKS


def test_a_task_without_its_first_step_is_not_played(rows, renderer):
    assert task_ids_of(rows[1:][len(rows) // 3 :], renderer) == TASKS[1:]


@pytest.mark.parametrize("split", ["train_verifier", "calibration", "test", ""])
def test_tasks_of_other_splits_are_refused(rows, renderer, split):
    mixed = [*rows[:-1], rows[-1] | {"split": split}]
    with pytest.raises(ConfigError, match=rf"rows: row {len(rows) - 1} .*'train_proposer', got"):
        task_ids_of(mixed, renderer, "rows")


def test_prompts_of_another_template_or_environment_are_refused(rows, renderer):
    changed = [rows[0] | {"history_hash": "0" * 16}, *rows[1:]]
    with pytest.raises(ModelError, match="row 0 .*rebuild the data set"):
        task_ids_of(changed, renderer)
    with pytest.raises(ModelError, match="catalogue mode"):
        task_ids_of(rows, Renderer(tokenizer=renderer.tokenizer, catalogue="template"))


def test_tasks_of_other_environments_are_refused(rows, renderer):
    with pytest.raises(ConfigError, match="one of the workspace .* got 'airline-7'"):
        task_ids_of([rows[0] | {"task_id": "airline-7"}], renderer)


def test_rows_of_later_steps_alone_are_refused(rows, renderer):
    later = [row for row in rows if not row["step_id"].endswith("/0")]
    with pytest.raises(ConfigError, match="rows of first steps"):
        task_ids_of(later, renderer)


# Room


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    Qwen3Config(max_position_embeddings=900).save_pretrained(folder)
    return str(folder)


def needs(renderer):
    """Tokens of the longest prompt, of the longest expert's episode after it, and of his longest
    turn."""
    prompts, episodes, turns = [], [], []
    for task_id in TASKS:
        steps = list(episode(task_id).each_step())
        turns += [len(renderer.completion_ids(step.executed)) for step in steps]
        prompts.append(len(renderer.prompt_ids(steps[0])))
        last = len(renderer.prompt_ids(steps[-1])) + turns[-1]
        episodes.append(last - prompts[-1])
    return max(prompts), max(episodes), max(turns)


def test_limits_that_the_expert_just_fits_are_enough(renderer, model_folder, training):
    prompt, whole, turn = needs(renderer)
    config = training(max_completion_length=whole, generation_kwargs={"max_new_tokens": turn})
    assert check_room(TASKS, renderer, model_folder, config) == prompt + whole


def test_limits_that_the_expert_does_not_fit_are_refused(renderer, model_folder, training):
    prompt, whole, turn = needs(renderer)
    with pytest.raises(ConfigError, match=f"max_completion_length .* {whole} tokens"):
        check_room(TASKS, renderer, model_folder, training(max_completion_length=whole - 1))
    short = training(max_completion_length=whole, generation_kwargs={"max_new_tokens": turn - 1})
    with pytest.raises(ConfigError, match=f"max_new_tokens .* {turn} tokens"):
        check_room(TASKS, renderer, model_folder, short)
    with pytest.raises(ConfigError, match="fit the 900 positions"):
        check_room(TASKS, renderer, model_folder, training(max_completion_length=901 - prompt))
    check_room(TASKS, renderer, model_folder, training(max_completion_length=900 - prompt))


def test_template_that_rewrites_earlier_turns_is_refused(renderer, model_folder, training):
    # The hub's Qwen3 template shows an empty thought in the last turn alone.
    tokenizer = copy.deepcopy(renderer.tokenizer)
    tokenizer.chat_template = qwen3_chat_template
    other = Renderer(tokenizer=tokenizer, catalogue="compact")
    with pytest.raises(ModelError, match="must keep earlier turns"):
        check_room(TASKS, other, model_folder, training(max_completion_length=700))


# Order


def test_order_is_of_whole_rounds_that_differ(training):
    order = playing_order(6, training(num_train_epochs=3))
    rounds = [order[i : i + 6] for i in range(0, 18, 6)]
    assert all(sorted(each) == list(range(6)) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert playing_order(6, training(num_train_epochs=3)) == order
    assert playing_order(6, training(num_train_epochs=3, seed=1)) != order


@pytest.mark.parametrize(
    ("values", "batches"),
    [
        ({"num_train_epochs": 1}, 3),  # 5 tasks, two a batch
        ({"max_steps": 7}, 7),
        ({"max_steps": 7, "gradient_accumulation_steps": 2}, 7),  # twice as large batches
        ({"max_steps": 7, "num_iterations": 2}, 4),
        ({"max_steps": 7, "steps_per_generation": 2}, 4),
        ({"max_steps": 7, "steps_per_generation": 1, "gradient_accumulation_steps": 2}, 14),
    ],
)
def test_order_fills_the_batches_of_the_run(training, values, batches):
    config = training(**values)
    groups = config.generation_batch_size // config.num_generations
    assert len(playing_order(5, config)) == batches * groups


# Arguments


def arguments(**values):
    return GrpoArguments(dataset_dir="data", **values)


def test_weights_come_in_the_order_of_the_rewards():
    given = arguments(type_match=1, tool_match=2, argument_match=3, task_success=4, step_cost=5)
    assert given.reward_weights == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("own", "of_trl", "complaint"),
    [
        ({}, {"reward_weights": [1.0] * 5}, "reward_weights must not be set"),
        ({"allow_truncation": True}, {}, "allow_truncation must be off"),
        ({"step_cost": -0.1}, {}, "must be numbers from 0 on"),
        ({"step_cost": math.nan}, {}, "must be numbers from 0 on"),
        ({"step_cost": "high"}, {}, "must be numbers from 0 on"),
        (
            dict.fromkeys(
                ("type_match", "tool_match", "argument_match", "task_success", "step_cost"), 0.0
            ),
            {},
            "one of them above",
        ),
        ({}, {"scale_rewards": "batch"}, "scale_rewards must be none or group"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(training, own, of_trl, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_arguments(arguments(**own), training(**of_trl))
    check_arguments(arguments(), training())
