"""Workspace tasks under TRL: the model sees the documented tools, and its reward is its doing."""

import inspect

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import get_json_schema

from specact_rl.actions.serialise import action_message, action_text
from specact_rl.envs.episodes import Episode, expert_policy, run_episode
from specact_rl.envs.trl import (
    REWARDS,
    documented_tools,
    environment_class,
    grpo_tasks,
    grpo_tokenizer,
    is_playable,
)
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ConfigError
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer, compact_catalogue
from specact_rl.types import ToolSpec

PLAYABLE = [seed for seed in range(60) if is_playable(Workspace(seed))]


@pytest.fixture(scope="module")
def renderer():
    texts = []
    for seed in PLAYABLE:
        rollout = run_episode(Workspace(seed), expert_policy, "expert")
        texts.append(compact_catalogue(rollout.tools))
        texts += [str(message["content"]) for message in rollout.messages]
        texts += [action_text(step.executed) for step in rollout.steps]
    return Renderer(tokenizer=train_tokenizer(texts, 400), catalogue="compact")


def exposed_tools(environment):
    """The names that TRL makes tools of: it looks at the class, as done here."""
    members = inspect.getmembers(type(environment), predicate=inspect.isfunction)
    return [n for n, _ in members if n not in ("reset", "get_reward") and not n.startswith("_")]


def started(task_id):
    env = Workspace.from_task_id(task_id)
    environment = environment_class(documented_tools(env))()
    environment.reset(task_id=task_id, prompt=[])
    return environment


def play(environment, actions):
    """What TRL makes of the actions: calls executed, the text last, all of it the completion."""
    completion = []
    for action in actions:
        completion.append(action_message(action))
        if action.tool is not None:
            content = getattr(environment, action.tool)(**action.arguments)
            completion.append({"role": "tool", "name": action.tool, "content": content})
    return completion


def rewards_of(environment, completion):
    return {name: f([completion], environments=[environment])[0] for name, f in REWARDS.items()}


def expert_actions(task_id):
    rollout = run_episode(Workspace.from_task_id(task_id), expert_policy, "expert")
    return [step.executed for step in rollout.steps]


@pytest.mark.parametrize("seed", range(40))
def test_exactly_the_documented_tools_are_exposed(seed):
    env = Workspace(seed)
    environment = environment_class(documented_tools(env))()
    assert exposed_tools(environment) == sorted(t.name for t in env.tools if t.documented)


@pytest.mark.parametrize("seed", range(40))
def test_schemas_that_trl_shows_are_those_of_the_tools(seed):
    env = Workspace(seed)
    environment = environment_class(documented_tools(env))()
    for tool in documented_tools(env):
        shown = get_json_schema(getattr(environment, tool.name))["function"]
        assert shown["name"] == tool.name
        assert shown["description"] == (tool.description or tool.name.replace("_", " "))
        parameters = shown["parameters"]
        for schema in parameters["properties"].values():
            assert schema.pop("description")
        assert parameters["properties"] == tool.parameters["properties"]
        assert parameters.get("required", []) == tool.parameters["required"]


@pytest.mark.parametrize("seed", PLAYABLE)
def test_expert_s_completion_has_full_reward(seed):
    environment = started(f"ws-{seed:06d}")
    completion = play(environment, expert_actions(f"ws-{seed:06d}"))
    assert rewards_of(environment, completion) == {
        "success": 1.0,
        "agreement": 1.0,
        "step_cost": 0.0,
    }


def test_scripted_completions_change_the_reward():
    task_id = next(f"ws-{s:06d}" for s in PLAYABLE if Workspace(s).family == "order_total")
    read, again, add, answer = expert_actions(task_id)
    limit = Workspace.from_task_id(task_id).max_steps
    wrong = Workspace.text_action("Answer: 1")

    def rewards(*actions):
        environment = started(task_id)
        return rewards_of(environment, play(environment, actions))

    # Agreement: type 1/3, tool 2/3, arguments 1. Reading the second order first is as good a step,
    # but not the expert's; reading it twice brings nothing.
    assert rewards(again, read, add, answer) == {
        "success": 1.0,
        "agreement": pytest.approx((2 / 3 + 1 + 1 + 1) / 4),
        "step_cost": 0.0,
    }
    assert rewards(read, read, again, add, answer) == {
        "success": 1.0,
        "agreement": pytest.approx((1 + 2 / 3 + 1 + 1 + 1) / 5),
        "step_cost": pytest.approx(-1 / limit),
    }
    # Two texts of one type agree on the tool, none, as well.
    assert rewards(read, again, add, wrong) == {
        "success": 0.0,
        "agreement": pytest.approx((1 + 1 + 1 + 2 / 3) / 4),
        "step_cost": pytest.approx(-1 / limit),
    }
    assert rewards(wrong) == {
        "success": 0.0,
        "agreement": 0.0,
        "step_cost": pytest.approx(-1 / limit),
    }
    assert rewards() == {"success": 0.0, "agreement": 0.0, "step_cost": 0.0}


def test_completion_that_was_cut_off_after_a_call_is_no_answer():
    task_id = f"ws-{PLAYABLE[0]:06d}"
    environment = started(task_id)
    completion = play(environment, expert_actions(task_id)[:-1])
    assert rewards_of(environment, completion)["success"] == 0.0
    assert not environment._workspace().done


@pytest.mark.parametrize("text", ["<tool_call>{", "", '<tool_call>\n{"name": "x"}\n</tool_call>'])
def test_last_text_that_is_no_action_fails(text):
    environment = started(f"ws-{PLAYABLE[0]:06d}")
    rewards = rewards_of(environment, [{"role": "assistant", "content": text}])
    assert rewards["success"] == rewards["agreement"] == 0.0
    assert rewards["step_cost"] < 0


def test_rewards_can_be_asked_for_in_any_order_and_again():
    task_id = f"ws-{PLAYABLE[0]:06d}"
    environment = started(task_id)
    completion = play(environment, expert_actions(task_id))
    first = rewards_of(environment, completion)
    assert {n: f([completion], environments=[environment])[0] for n, f in REWARDS.items()} == first


def test_call_that_does_not_fit_its_schema_is_no_action():
    environment = started(f"ws-{PLAYABLE[0]:06d}")
    name = exposed_tools(environment)[0]
    assert getattr(environment, name)(wings=2) == "error: not an action"


def test_calls_after_the_end_are_answered_and_cost():
    task_id = f"ws-{PLAYABLE[0]:06d}"
    environment = started(task_id)
    name = exposed_tools(environment)[0]
    limit = Workspace.from_task_id(task_id).max_steps
    for _ in range(limit):
        getattr(environment, name)(wings=2)
    assert getattr(environment, name)(wings=2) == "error: the episode is over"
    assert rewards_of(environment, [])["step_cost"] == -1.0


def test_reset_forgets_the_last_episode():
    task_id = f"ws-{PLAYABLE[0]:06d}"
    environment = started(task_id)
    rewards_of(environment, [{"role": "assistant", "content": "Done."}])
    environment.reset(task_id=task_id)
    completion = play(environment, expert_actions(task_id))
    assert rewards_of(environment, completion)["success"] == 1.0


def test_task_with_other_tools_is_refused():
    environment = started(f"ws-{PLAYABLE[0]:06d}")
    with pytest.raises(ConfigError, match="must have the tools of its environment"):
        environment.reset(task_id=f"ws-{PLAYABLE[1]:06d}")


def test_tasks_that_trl_cannot_play_are_refused(renderer):
    asks = next(s for s in range(60) if Workspace(s).family == "ticket_priority")
    hides = next(s for s in range(60) if Workspace(s).family == "hidden_tool")
    for seed in (asks, hides):
        with pytest.raises(ConfigError, match="is_playable"):
            grpo_tasks([f"ws-{seed:06d}"], renderer)


@pytest.mark.parametrize("name", ["reset", "get_reward", "_step", "not a name", "class"])
def test_tool_that_no_method_can_be_named_after_is_refused(name):
    with pytest.raises(ValueError, match="public method names"):
        environment_class([ToolSpec(name=name, parameters={"type": "object", "properties": {}})])


def test_tasks_of_one_catalogue_share_a_class(renderer):
    task_id = f"ws-{PLAYABLE[0]:06d}"
    tasks = grpo_tasks([task_id, task_id, f"ws-{PLAYABLE[1]:06d}"], renderer)
    names = [row["environment"] for row in tasks.rows]
    assert names[0] == names[1] != names[2]
    assert set(names) == set(tasks.factories)


def test_prompt_under_trl_is_the_renderer_s_prompt_token_by_token(renderer):
    for seed in PLAYABLE[:10]:
        env = Workspace(seed)
        tasks = grpo_tasks([env.task_id], renderer)
        environment = tasks.factories[tasks.rows[0]["environment"]]()
        methods = [getattr(environment, name) for name in exposed_tools(environment)]
        ids = grpo_tokenizer(renderer).apply_chat_template(
            tasks.rows[0]["prompt"], tools=methods, add_generation_prompt=True
        )["input_ids"]
        assert ids == renderer.prompt_ids(Episode(env, "p", 0).current_step())


@pytest.fixture(scope="module")
def clumsy_model(renderer):
    """30k weights that have just begun to learn the expert's episodes: calls, right and wrong."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(renderer.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=renderer.tokenizer.pad_token_id,
        eos_token_id=renderer.tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    rows = [
        torch.tensor([renderer.conversation_ids(run_episode(Workspace(s), expert_policy, "e"))])
        for s in PLAYABLE[:2]
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(160):
        row = rows[step % len(rows)]
        model(input_ids=row, labels=row).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.slow
def test_grpo_run_has_rewards_that_differ_within_groups(renderer, clumsy_model, tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tasks = grpo_tasks([f"ws-{seed:06d}" for seed in PLAYABLE[:2]], renderer)
    trainer = GRPOTrainer(
        model=clumsy_model,
        reward_funcs=list(REWARDS.values()),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=160,
            max_steps=3,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            seed=0,
        ),
        train_dataset=Dataset.from_list(tasks.rows),
        processing_class=grpo_tokenizer(renderer),
        environment_factory=tasks.factories,
    )
    before = {name: weight.clone() for name, weight in clumsy_model.named_parameters()}
    trainer.train()
    logs = [log for log in trainer.state.log_history if "reward_std" in log]
    assert len(logs) == 3
    assert max(log["reward_std"] for log in logs) > 0
    assert max(log["tools/call_frequency"] for log in logs) > 0
    assert any(not torch.equal(before[n], w) for n, w in clumsy_model.named_parameters())
