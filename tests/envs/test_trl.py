"""Workspace tasks under TRL: prompts are the renderer's, turns are read as at inference, and the
reward is what was done."""

import copy
import inspect
import random

import pytest
import torch
from datasets import Dataset
from transformers import Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import parse_response

from specact_rl.actions.serialise import action_text, wire_text
from specact_rl.envs.episodes import Episode, NoisyExpert, expert_policy, run_episode
from specact_rl.envs.trl import (
    REWARDS,
    environment_class,
    expert_actions,
    grpo_tasks,
    grpo_tokenizer,
    rollout_rewards,
)
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ConfigError
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer, compact_catalogue
from tests.tiny_models import tiny_config

TASKS = [f"ws-{seed:06d}" for seed in range(60)]
BROKEN = "<tool_call>{"


@pytest.fixture(scope="module")
def tokenizer():
    texts = []
    for task_id in TASKS:
        rollout = run_episode(Workspace.from_task_id(task_id), expert_policy, "expert")
        texts.append(compact_catalogue(rollout.tools))
        texts += [str(message["content"]) for message in rollout.messages]
        texts += [action_text(step.executed) for step in rollout.steps]
    return train_tokenizer(texts, 400)


@pytest.fixture(scope="module", params=["compact", "template"])
def renderer(request, tokenizer):
    return Renderer(tokenizer=tokenizer, catalogue=request.param)


@pytest.fixture(scope="module")
def compact(tokenizer):
    return Renderer(tokenizer=tokenizer, catalogue="compact")


def first_of(family):
    return next(t for t in TASKS if Workspace.from_task_id(t).family == family)


def started(task_id):
    env = Workspace.from_task_id(task_id)
    environment = environment_class(env.tools, 10)()
    environment.reset(task_id=task_id, prompt=[])
    return environment


def play(environment, turns):
    """What TRL makes of the turns: the last one, if said to the user, is left to the rewards."""
    completion = []
    for turn in turns:
        text = turn if isinstance(turn, str) else action_text(turn)
        final = not isinstance(turn, str) and turn.type in ("final_answer", "BLOCKED")
        completion.append({"role": "assistant", "content": text if final else ""})
        if not final:
            completion[-1]["tool_calls"] = [{}]
            completion.append({"role": "tool", "content": environment.call(text=text)})
    return completion


def rewards_of(environment, completion):
    return {name: f([completion], environments=[environment])[0] for name, f in REWARDS.items()}


def expert_turns(task_id):
    rollout = run_episode(Workspace.from_task_id(task_id), expert_policy, "expert")
    return [step.executed for step in rollout.steps]


def test_trl_finds_the_two_methods_and_reset():
    members = inspect.getmembers(type(started(TASKS[0])), predicate=inspect.isfunction)
    assert [name for name, _ in members if not name.startswith("_")] == ["call", "reset", "say"]


# Rewards


@pytest.mark.parametrize("task_id", [*TASKS, *(f"ws-h{seed:06d}" for seed in range(20))])
def test_expert_s_episode_has_full_reward(task_id):
    environment = started(task_id)
    full = {"type_match": 1.0, "tool_match": 1.0, "argument_match": 1.0, "task_success": 1.0}
    assert rewards_of(environment, play(environment, expert_turns(task_id))) == {
        **full,
        "step_cost": 0.0,
    }


ORDER_TOTAL = {
    # The other order first is no step of the expert's own, but brings its goal as near.
    "other order first": ("again read add answer", 4 / 4, 4 / 4, 4 / 4, 1, 0),
    "read twice": ("read read again add answer", 5 / 5, 5 / 5, 4 / 5, 1, 1),
    # Two texts of one type agree on the tool, none, as well.
    "wrong answer": ("read again add wrong", 4 / 4, 4 / 4, 3 / 4, 0, 1),
    # One step of the four that are needed, and none of those.
    "wrong answer at once": ("wrong", 0, 0, 0, 0, 1),
    "stops after a call": ("read", 1 / 4, 1 / 4, 1 / 4, 0, 0),
    "nothing": ("", 0, 0, 0, 0, 0),
    "answers in other words": ("read again add reworded", 4 / 4, 4 / 4, 4 / 4, 1, 0),
    "no action first": ("broken read again add answer", 4 / 5, 4 / 5, 4 / 5, 1, 1),
}


@pytest.mark.parametrize("case", ORDER_TOTAL)
def test_components_of_an_episode_by_hand(case):
    task_id = first_of("order_total")
    turns = dict(zip(["read", "again", "add", "answer"], expert_turns(task_id), strict=True))
    turns |= {"wrong": Workspace.text_action("Answer: 1"), "broken": BROKEN}
    turns["reworded"] = Workspace.text_action(f"It is {turns['answer'].text}")
    names, of_type, of_tool, of_arguments, success, wasted = ORDER_TOTAL[case]
    environment = started(task_id)
    completion = play(environment, [turns[name] for name in names.split()])
    assert rewards_of(environment, completion) == {
        "type_match": pytest.approx(of_type),
        "tool_match": pytest.approx(of_tool),
        "argument_match": pytest.approx(of_arguments),
        "task_success": success,
        "step_cost": pytest.approx(-wasted / Workspace.from_task_id(task_id).max_steps),
    }


def test_an_action_is_held_against_all_that_the_expert_might_do():
    task_id = first_of("ticket_priority")
    env = Workspace.from_task_id(task_id)
    assert env.expert_action().type == "ask_clarification"
    right = expert_actions(env)
    assert "prioritize" in {action.tool for action in right}
    listed = [action for action in env.legal_actions() if action not in right]
    wrong = next(action for action in listed if action.tool == "prioritize")
    environment = started(task_id)
    environment.call(action_text(wrong))
    assert [(v.level, v.nearer) for v in environment._verdicts] == [("tool", False)]


def test_to_look_at_the_expert_s_other_actions_changes_nothing():
    env = Workspace.from_task_id(TASKS[0])
    before = env.outcome(), env.expert_action(), env.legal_actions()
    assert env.expert_action() in expert_actions(env)
    assert (env.outcome(), env.expert_action(), env.legal_actions()) == before


def test_a_batch_is_worth_what_its_rows_are():
    def one(i):
        environment = started(TASKS[i])
        turns = expert_turns(TASKS[i])
        return environment, play(environment, turns[: 1 + i % len(turns)])

    alone = [rewards_of(*one(i)) for i in range(12)]
    environments, completions = zip(*(one(i) for i in range(12)), strict=True)
    for name, reward in REWARDS.items():
        assert reward(completions, environments=environments) == [row[name] for row in alone]
    assert len({row["argument_match"] for row in alone}) > 2


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_an_episode_played_elsewhere_is_worth_the_same(noise):
    for seed, task_id in enumerate(TASKS[:20]):
        policy = NoisyExpert(noise=noise, rng=random.Random(seed))
        rollout = run_episode(Workspace.from_task_id(task_id), policy, "p")
        environment = started(task_id)
        completion = play(environment, [step.executed for step in rollout.steps])
        assert rollout_rewards(rollout) == rewards_of(environment, completion)


def test_a_turn_that_was_cut_off_is_no_action():
    task_id = TASKS[0]
    *calls, answer = expert_turns(task_id)
    environment = started(task_id)
    completion = play(environment, calls)
    cut = {"role": "assistant", "content": action_text(answer), "cut": True}
    rewards = rewards_of(environment, [*completion, cut])
    assert rewards["task_success"] == 0
    assert rewards["type_match"] == pytest.approx(len(calls) / (len(calls) + 1))


def test_rewards_can_be_asked_for_again():
    environment = started(TASKS[0])
    completion = play(environment, [*expert_turns(TASKS[0])[:1], Workspace.text_action("Done.")])
    assert rewards_of(environment, completion) == rewards_of(environment, completion)
    assert len(environment._verdicts) == 2


def test_reset_forgets_the_last_episode():
    task_id = TASKS[0]
    environment = started(task_id)
    rewards_of(environment, [{"role": "assistant", "content": "Done."}])
    environment.reset(task_id=task_id)
    completion = play(environment, expert_turns(task_id))
    assert rewards_of(environment, completion)["task_success"] == 1.0


# What the environment answers


def test_answers_are_those_of_any_episode_until_the_end():
    for seed, task_id in enumerate(TASKS[:20]):
        policy = NoisyExpert(noise=0.5, rng=random.Random(seed))
        rollout = run_episode(Workspace.from_task_id(task_id), policy, "p")
        environment = started(task_id)
        completion = play(environment, [step.executed for step in rollout.steps])
        told = [message["content"] for message in completion if message["role"] == "tool"]
        logged = [m["content"] for m in rollout.messages[2:] if m["role"] != "assistant"]
        if rollout.messages[-1]["role"] != "assistant":  # the end, which TRL must not go beyond
            assert len(told.pop().split()) > 10
            logged.pop()
        assert told == logged


def test_hidden_tool_is_unknown_until_it_is_found():
    task_id = first_of("hidden_tool")
    find, search, archive, *_ = expert_turns(task_id)
    environment = started(task_id)
    assert environment.call(action_text(search))
    assert environment.call(action_text(archive)) == f"error: no tool {archive.tool}"
    assert archive.tool in environment.call(action_text(find))
    assert not environment.call(action_text(archive)).startswith("error: no tool")


def test_task_with_other_tools_is_refused():
    environment = started(TASKS[0])
    with pytest.raises(ConfigError, match="must have the tools of its environment"):
        environment.reset(task_id=TASKS[1])


def test_tasks_of_one_catalogue_share_a_class(compact):
    task_id = TASKS[0]
    tasks = grpo_tasks([task_id, task_id, TASKS[1]], compact, 10)
    names = [row["environment"] for row in tasks.rows]
    assert names[0] == names[1] != names[2]
    assert set(names) == set(tasks.factories)


# Turns


@pytest.fixture(scope="module")
def read_turn(compact):
    """What TRL's loop sees of a turn of a task."""
    trl_tokenizer = grpo_tokenizer(compact)

    def read(text, stop=True, task_id=TASKS[0]):
        ids = compact.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += [compact.tokenizer.eos_token_id] * stop
        tools = [started(task_id).call, started(task_id).say]
        turn = parse_response(trl_tokenizer, ids, prefix=[1], tools=tools)
        calls = [call["function"] for call in turn.get("tool_calls", ())]
        return turn["content"], [(call["name"], call["arguments"]["text"]) for call in calls]

    return read


@pytest.mark.parametrize("text", ["Done: t3", "BLOCKED: may I?"])
def test_answer_ends_the_episode(read_turn, text):
    assert read_turn(text) == (text, [])


@pytest.mark.parametrize(
    "text", ["Which hour?", BROKEN, "<tool_call>?", wire_text("no_such_tool", "{}"), ""]
)
def test_question_and_what_is_no_action_are_said(read_turn, text):
    assert read_turn(text) == ("", [("say", text)])


def test_call_is_a_call(read_turn):
    text = action_text(expert_turns(TASKS[0])[0])
    assert read_turn(text) == ("", [("call", text)])


@pytest.mark.parametrize("text", ["Which hour?", "Done: t3", BROKEN])
def test_turn_without_a_stop_token_ends_the_episode(read_turn, text):
    assert read_turn(text, stop=False) == (text, [])


# Under the trainer


@pytest.fixture(scope="module")
def tiny_model(tokenizer):
    """30k random weights."""
    torch.manual_seed(0)
    config = tiny_config(tokenizer, hidden_size=32, intermediate_size=48, initializer_range=0.02)
    return Qwen3ForCausalLM(config)


def make_trainer(model, task_ids, renderer, folder, **options):
    tasks = grpo_tasks(task_ids, renderer, options["max_completion_length"])
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


def clumsy_rollout(task_id, noise, rng):
    """The expert, who acts at random or writes what is no action now and then."""
    episode = Episode(Workspace.from_task_id(task_id), "p", 0)
    policy = NoisyExpert(noise=noise, rng=rng)
    while not episode.env.done:
        if rng.random() < noise / 2:
            episode.act(None, BROKEN)
        else:
            episode.act(policy(episode.env, episode.current_step()))
    return episode.rollout()


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_trainer_asks_the_renderer_s_prompts_and_learns_the_model_s_turns(
    renderer, tiny_model, tmp_path, monkeypatch, noise
):
    rollouts = [clumsy_rollout(task, noise, random.Random(i)) for i, task in enumerate(TASKS[:30])]
    actions = [step.executed for rollout in rollouts for step in rollout.steps]
    assert any(action is not None and action.type == "ask_clarification" for action in actions)
    assert (None in actions) is (noise > 0)
    ends = {rollout.messages[-1]["role"] for rollout in rollouts}
    assert ends == ({"assistant", "tool"} if noise else {"assistant"})
    assert any(not tool.documented for rollout in rollouts for tool in rollout.tools)
    turns, expected = {}, []
    for rollout in rollouts:
        written = [
            renderer.completion_ids(step.executed)
            if step.executed
            else renderer.message_completion_ids({"role": "assistant", "content": BROKEN})
            for step in rollout.steps
        ]
        prompts = [tuple(renderer.prompt_ids(step)) for step in rollout.each_step()]
        turns |= zip(prompts, written, strict=True)
        expected.append([token for turn in written for token in turn])

    def scripted_turns(prompts, *_, **__):
        # Any other prompt than the renderer's is a KeyError.
        return [list(turns[tuple(ids)]) for ids in prompts], None

    task_ids = [rollout.task_id for rollout in rollouts]
    limits = {"num_generations": 2, "max_completion_length": 1024}
    trainer = make_trainer(tiny_model, task_ids, renderer, tmp_path, **limits)
    monkeypatch.setattr(trainer, "_generate_single_turn", scripted_turns)
    batch = trainer._generate_and_score_completions(
        [row for row in trainer.train_dataset for _ in range(2)]
    )
    played = [environment._current() for environment in trainer.environments]
    assert [episode.messages for episode in played[::2]] == [r.messages for r in rollouts]
    learned = (batch["completion_mask"] * batch["tool_mask"]).bool()
    for place, tokens in enumerate(expected):
        assert batch["completion_ids"][2 * place][learned[2 * place]].tolist() == tokens
    for name in REWARDS:
        mean = sum(rollout_rewards(rollout)[name] for rollout in rollouts) / len(rollouts)
        assert trainer._metrics["train"][f"rewards/{name}/mean"] == [pytest.approx(mean, abs=1e-5)]


@pytest.mark.slow
def test_grpo_run_has_rewards_that_differ_within_groups(compact, tiny_model, tmp_path):
    clumsy_model = copy.deepcopy(tiny_model)
    episodes = [run_episode(Workspace.from_task_id(t), expert_policy, "e") for t in TASKS[:2]]
    rows = [torch.tensor([compact.conversation_ids(episode)]) for episode in episodes]
    optimizer = torch.optim.AdamW(clumsy_model.parameters(), lr=1e-2)
    for step in range(160):
        row = rows[step % len(rows)]
        clumsy_model(input_ids=row, labels=row).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trainer = make_trainer(
        clumsy_model,
        TASKS[:2],
        compact,
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
