"""Workspace tasks under TRL: the model sees the documented tools, and its reward is its doing."""

import copy
import inspect
import random
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import get_json_schema
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import parse_response

from specact_rl.actions.serialise import action_message, action_text, wire_text
from specact_rl.envs.episodes import Episode, NoisyExpert, expert_policy, run_episode
from specact_rl.envs.trl import (
    REWARDS,
    environment_class,
    grpo_tasks,
    grpo_tokenizer,
)
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ConfigError
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer, compact_catalogue
from specact_rl.types import ToolSpec

TASKS = [f"ws-{seed:06d}" for seed in range(60)]


@pytest.fixture(scope="module")
def renderer():
    texts = []
    for task_id in TASKS:
        rollout = run_episode(Workspace.from_task_id(task_id), expert_policy, "expert")
        texts.append(compact_catalogue(rollout.tools))
        texts += [str(message["content"]) for message in rollout.messages]
        texts += [action_text(step.executed) for step in rollout.steps]
    return Renderer(tokenizer=train_tokenizer(texts, 400), catalogue="compact")


def exposed_tools(environment):
    """The names that TRL makes tools of: it looks at the class, as done here."""
    members = inspect.getmembers(type(environment), predicate=inspect.isfunction)
    return [n for n, _ in members if n not in ("reset", "get_reward") and not n.startswith("_")]


def exposed_methods(environment):
    return [getattr(environment, name) for name in exposed_tools(environment)]


def first_of(family):
    return next(t for t in TASKS if Workspace.from_task_id(t).family == family)


def started(task_id):
    env = Workspace.from_task_id(task_id)
    environment = environment_class(env.tools)()
    environment.reset(task_id=task_id, prompt=[])
    return environment


def play(environment, actions):
    """What TRL makes of the actions: calls executed, the text last, all of it the completion."""
    completion = []
    for action in actions:
        name, arguments = action.tool, action.arguments
        if action.type == "ask_clarification":
            name, arguments = "ask_user", {"question": action.text}
        completion.append(action_message(action))
        if name is not None:
            content = getattr(environment, name)(**arguments)
            completion.append({"role": "tool", "name": name, "content": content})
    return completion


def rewards_of(environment, completion):
    return {name: f([completion], environments=[environment])[0] for name, f in REWARDS.items()}


def expert_actions(task_id):
    rollout = run_episode(Workspace.from_task_id(task_id), expert_policy, "expert")
    return [step.executed for step in rollout.steps]


@pytest.mark.parametrize("task_id", TASKS)
def test_exactly_the_task_s_tools_are_exposed_and_a_way_to_ask(task_id):
    env = Workspace.from_task_id(task_id)
    names = exposed_tools(environment_class(env.tools)())
    assert sorted(names) == sorted([*(tool.name for tool in env.tools), "ask_user"])


@pytest.mark.parametrize("task_id", TASKS)
def test_schemas_that_trl_shows_are_those_of_the_tools(task_id):
    env = Workspace.from_task_id(task_id)
    environment = environment_class(env.tools)()
    for tool in env.tools:
        shown = get_json_schema(getattr(environment, tool.name))["function"]
        assert shown["name"] == tool.name
        if tool.documented:
            assert shown["description"] == (tool.description or tool.name.replace("_", " "))
        parameters = shown["parameters"]
        for schema in parameters["properties"].values():
            assert schema.pop("description")
        assert parameters["properties"] == tool.parameters["properties"]
        assert parameters.get("required", []) == tool.parameters["required"]


@pytest.mark.parametrize("task_id", [*TASKS, *(f"ws-h{seed:06d}" for seed in range(20))])
def test_expert_s_completion_has_full_reward(task_id):
    environment = started(task_id)
    completion = play(environment, expert_actions(task_id))
    assert rewards_of(environment, completion) == {
        "success": 1.0,
        "agreement": 1.0,
        "step_cost": 0.0,
    }


def test_scripted_completions_change_the_reward():
    task_id = first_of("order_total")
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
    task_id = TASKS[0]
    environment = started(task_id)
    completion = play(environment, expert_actions(task_id)[:-1])
    assert rewards_of(environment, completion)["success"] == 0.0
    assert not environment._workspace().done


@pytest.mark.parametrize("text", ["<tool_call>{", "", '<tool_call>\n{"name": "x"}\n</tool_call>'])
def test_last_text_that_is_no_action_fails(text):
    environment = started(TASKS[0])
    rewards = rewards_of(environment, [{"role": "assistant", "content": text}])
    assert rewards["success"] == rewards["agreement"] == 0.0
    assert rewards["step_cost"] < 0


def test_rewards_can_be_asked_for_in_any_order_and_again():
    task_id = TASKS[0]
    environment = started(task_id)
    completion = play(environment, expert_actions(task_id))
    first = rewards_of(environment, completion)
    assert {n: f([completion], environments=[environment])[0] for n, f in REWARDS.items()} == first


def test_call_that_does_not_fit_its_schema_is_no_action():
    environment = started(TASKS[0])
    name = environment._tools[0].name
    assert getattr(environment, name)(wings=2) == "error: not an action"


def test_calls_after_the_end_are_answered_and_cost():
    task_id = TASKS[0]
    environment = started(task_id)
    name = environment._tools[0].name
    limit = Workspace.from_task_id(task_id).max_steps
    for _ in range(limit):
        getattr(environment, name)(wings=2)
    assert getattr(environment, name)(wings=2) == "error: the episode is over"
    assert rewards_of(environment, [])["step_cost"] == -1.0


def test_reset_forgets_the_last_episode():
    task_id = TASKS[0]
    environment = started(task_id)
    rewards_of(environment, [{"role": "assistant", "content": "Done."}])
    environment.reset(task_id=task_id)
    completion = play(environment, expert_actions(task_id))
    assert rewards_of(environment, completion)["success"] == 1.0


def test_task_with_other_tools_is_refused():
    environment = started(TASKS[0])
    with pytest.raises(ConfigError, match="must have the tools of its environment"):
        environment.reset(task_id=TASKS[1])


def test_hidden_tool_is_unknown_until_it_is_found():
    task_id = first_of("hidden_tool")
    find, search, archive, *_ = expert_actions(task_id)
    environment = started(task_id)
    early = play(environment, [search, archive])[-1]
    assert early["content"] == f"error: no tool {archive.tool}"
    assert rewards_of(environment, [])["step_cost"] < 0
    found = play(environment, [find, archive])
    assert archive.tool in found[1]["content"]
    assert not found[3]["content"].startswith("error: no tool")


def test_question_brings_the_user_s_reply_and_is_judged_as_a_step():
    task_id = first_of("ticket_priority")
    question = expert_actions(task_id)[0]
    environment = started(task_id)
    reply = environment.ask_user(question=question.text)
    assert reply == f"priority {Workspace.from_task_id(task_id).task.replies['priority']}"
    assert environment.ask_user(question="Which colour?") == "Please see my request."
    assert [(v.level, v.nearer) for v in environment._verdicts] == [
        ("arguments", True),
        ("none", False),  # a call is due
    ]


@pytest.mark.parametrize(
    "name", ["reset", "get_reward", "ask_user", "_step", "not a name", "class"]
)
def test_tool_that_no_method_can_be_named_after_is_refused(name):
    with pytest.raises(ValueError, match="public method names"):
        environment_class([ToolSpec(name=name, parameters={"type": "object", "properties": {}})])


def test_tasks_of_one_catalogue_share_a_class(renderer):
    task_id = TASKS[0]
    tasks = grpo_tasks([task_id, task_id, TASKS[1]], renderer)
    names = [row["environment"] for row in tasks.rows]
    assert names[0] == names[1] != names[2]
    assert set(names) == set(tasks.factories)


def test_prompt_under_trl_is_the_renderer_s_prompt_token_by_token(renderer):
    for task_id in TASKS[:20]:
        tasks = grpo_tasks([task_id], renderer)
        environment = tasks.factories[tasks.rows[0]["environment"]]()
        ids = grpo_tokenizer(renderer).apply_chat_template(
            tasks.rows[0]["prompt"], tools=exposed_methods(environment), add_generation_prompt=True
        )["input_ids"]
        step = Episode(Workspace.from_task_id(task_id), "p", 0).current_step()
        assert ids == renderer.prompt_ids(step)


def test_catalogue_in_the_template_shows_the_documented_tools_alone(renderer):
    task_id = first_of("hidden_tool")
    template = Renderer(tokenizer=renderer.tokenizer, catalogue="template")
    tasks = grpo_tasks([task_id], template)
    environment = tasks.factories[tasks.rows[0]["environment"]]()
    text = grpo_tokenizer(template).apply_chat_template(
        tasks.rows[0]["prompt"], tools=exposed_methods(environment), tokenize=False
    )
    for tool in Workspace.from_task_id(task_id).tools:
        assert (f'"name": "{tool.name}"' in text) is tool.documented
    assert "ask_user" not in text


@pytest.fixture(scope="module")
def trl_tokenizer(renderer):
    return grpo_tokenizer(renderer)


def parsed(tokenizer, renderer, text, stop=True):
    """What TRL's loop sees of a turn."""
    ids = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids += [renderer.tokenizer.eos_token_id] * stop
    return parse_response(tokenizer, ids, prefix=[1], tools=[])


@pytest.fixture(scope="module")
def tiny_model(renderer):
    """30k random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(renderer.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=renderer.tokenizer.pad_token_id,
        eos_token_id=renderer.tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def make_trainer(model, tasks, renderer, folder, **options):
    return GRPOTrainer(
        model=model,
        reward_funcs=list(REWARDS.values()),
        args=GRPOConfig(
            output_dir=str(folder),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            seed=0,
            **options,
        ),
        train_dataset=Dataset.from_list(tasks.rows),
        processing_class=grpo_tokenizer(renderer),
        environment_factory=tasks.factories,
    )


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_trainer_asks_the_renderer_s_prompts_and_learns_the_model_s_turns(
    renderer, tiny_model, tmp_path, monkeypatch, noise
):
    rollouts = []
    for seed, task_id in enumerate(TASKS[:30]):
        policy = NoisyExpert(noise=noise, rng=random.Random(seed))
        rollouts.append(run_episode(Workspace.from_task_id(task_id), policy, "p"))
    assert any(step.executed.type == "ask_clarification" for r in rollouts for step in r.steps)
    assert any(not tool.documented for rollout in rollouts for tool in rollout.tools)
    turns, expected = {}, []
    for rollout in rollouts:
        steps = list(rollout.each_step())
        if rollout.messages[-1]["role"] != "assistant":  # TRL goes on after the end
            last = Workspace.text_action("Over.")
            steps.append(replace(steps[-1], history=rollout.messages, executed=last))
        expected.append([renderer.completion_ids(step.executed) for step in steps])
        prompts = [tuple(renderer.prompt_ids(step)) for step in steps]
        turns |= zip(prompts, expected[-1], strict=True)

    def scripted_turns(prompts, *_, **__):
        # Any other prompt than the renderer's is a KeyError.
        return [list(turns[tuple(ids)]) for ids in prompts], None

    tasks = grpo_tasks([rollout.task_id for rollout in rollouts], renderer)
    limits = {"num_generations": 2, "max_completion_length": 1024}
    trainer = make_trainer(tiny_model, tasks, renderer, tmp_path, **limits)
    monkeypatch.setattr(trainer, "_generate_single_turn", scripted_turns)
    inputs = [row for row in tasks.rows for _ in range(2)]
    batch = trainer._generate_and_score_completions(inputs)

    played = [environment._workspace() for environment in trainer.environments]
    assert [env.success for env in played] == [r.success for r in rollouts for _ in range(2)]
    learned = (batch["completion_mask"] * batch["tool_mask"]).bool()
    for place, turns_of_rollout in enumerate(expected):
        written = batch["completion_ids"][2 * place][learned[2 * place]].tolist()
        assert written == [token for turn in turns_of_rollout for token in turn]


def test_question_is_a_turn_that_ends_with_a_question_mark_and_a_stop_token(
    renderer, trl_tokenizer
):
    def asks(text, stop=True):
        calls = parsed(trl_tokenizer, renderer, text, stop).get("tool_calls", [])
        return [call["function"] for call in calls]

    assert asks("Which hour?") == [{"name": "ask_user", "arguments": {"question": "Which hour?"}}]
    assert asks("Which hour?", stop=False) == []  # cut off, so nothing that was said
    assert asks("Done: t3") == []
    assert asks("BLOCKED: may I?") == []
    assert asks("<tool_call>?") == []


def test_the_model_cannot_ask_by_a_call_that_its_catalogue_has_not(renderer, trl_tokenizer):
    text = wire_text("ask_user", '{"question": "Which hour?"}')
    turn = parsed(trl_tokenizer, renderer, text)
    assert (turn["content"], "tool_calls" in turn) == (text, False)


def test_call_that_is_no_object_is_left_to_trl(renderer, trl_tokenizer):
    turn = parsed(trl_tokenizer, renderer, "<tool_call>\n[1]\n</tool_call>")
    assert not turn.get("tool_calls")


@pytest.fixture
def clumsy_model(renderer, tiny_model):
    """One that has just begun to learn the expert's episodes: calls, right and wrong."""
    model = copy.deepcopy(tiny_model)
    rows = [
        torch.tensor([renderer.conversation_ids(run_episode(env, expert_policy, "e"))])
        for env in map(Workspace.from_task_id, TASKS[:2])
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
    tasks = grpo_tasks(TASKS[:2], renderer)
    trainer = make_trainer(
        clumsy_model,
        tasks,
        renderer,
        tmp_path,
        per_device_train_batch_size=8,
        num_generations=8,
        max_completion_length=160,
        max_steps=3,
        learning_rate=1e-3,
    )
    before = {name: weight.clone() for name, weight in clumsy_model.named_parameters()}
    trainer.train()
    logs = [log for log in trainer.state.log_history if "reward_std" in log]
    assert len(logs) == 3
    assert max(log["reward_std"] for log in logs) > 0
    assert max(log["tools/call_frequency"] for log in logs) > 0
    assert any(not torch.equal(before[n], w) for n, w in clumsy_model.named_parameters())
