"""Checkpoints that act in whole episodes: what decides an episode, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification

from specact_rl.envs import collect
from specact_rl.envs.collect import plan_episodes
from specact_rl.envs.labels import StepLabeller
from specact_rl.errors import ConfigError, ModelError
from specact_rl.eval.model_policies import ModelPolicies
from specact_rl.mining.build_rollouts import collect_rollouts, read_rollouts
from specact_rl.models.loading import CHECKPOINT_INFO, save_checkpoint_info
from specact_rl.models.tiny import STOP_TOKEN, train_tokenizer
from specact_rl.rendering import Renderer
from tests.tiny_models import tiny_config


def save_model(folder, kind=Qwen3ForCausalLM, seed=0, catalogue="compact"):
    """Random weights; some of its turns end in time and are an answer, others are cut off."""
    tokenizer = train_tokenizer(["read file f3 of the ticket t1; done", "Which file?"], 300)
    torch.manual_seed(seed)
    config = tiny_config(tokenizer)
    model = kind(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(STOP_TOKEN)] *= 4.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_checkpoint_info(folder, Renderer(tokenizer=tokenizer, catalogue=catalogue))
    return folder


@pytest.fixture(scope="module")
def cheap(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "cheap")


def load(*policies, temperature=1.0):
    return ModelPolicies.load(policies, temperature=temperature, max_new_tokens=8)


def plan(*policies, seeds=(0, 1), trials=2, **options):
    return plan_episodes(policies, seeds, trials=trials, **options)


def collect_with(out, *policies, **options):
    models = load(*policies)
    plans = plan(*policies)
    return collect_rollouts(
        out, plans, roll_out=models.roll_out, acting=models.arguments, **options
    )


def content(out):
    return (out / "rollouts.parquet").read_bytes()


def said(rollout):
    return [m["content"] for m in rollout.messages if m["role"] == "assistant"]


def test_same_command_gives_the_same_bytes(cheap, tmp_path):
    for name in ("a", "b"):
        collect_with(tmp_path / name, "expert", f"model:{cheap}")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_trials_of_a_model_differ(cheap):
    policy = f"model:{cheap}"
    rollouts = load(policy).roll_out(plan(policy, seeds=[0], trials=3))
    assert len({json.dumps(said(rollout)) for rollout in rollouts}) == 3


def test_episodes_are_those_planned_in_that_order_scripted_ones_among_them(cheap, tmp_path):
    strong = save_model(tmp_path / "strong", seed=1)
    policies = ("expert", f"model:{cheap}", "noisy:0.5", f"model:{strong}")
    plans, finished = plan(*policies), []
    rollouts = load(*policies).roll_out(plans, finished.append)
    assert [(r.task_id, r.policy, r.trial) for r in rollouts] == [
        (f"ws-{p.seed:06d}", p.policy, p.trial) for p in plans
    ]
    assert {r.policy for r in rollouts} >= {"model:cheap", "model:strong"}
    assert sum(finished) == len(plans)


def test_an_episode_does_not_depend_on_which_others_run_beside_it(cheap):
    policy = f"model:{cheap}"
    models, plans = load(policy), plan(policy)
    alone = [rollout for one in plans for rollout in models.roll_out([one])]
    assert alone == models.roll_out(plans)


def test_greedy_model_says_what_its_first_sample_says(cheap):
    policy = f"model:{cheap}"
    greedy = load(policy, temperature=0)
    [rollout] = greedy.roll_out(plan(policy, seeds=[0], greedy_models=True))
    model = greedy.models["model:cheap"]
    sampling = replace(greedy.sampling, num_samples=3)
    proposals = model.propose(list(rollout.each_step()), sampling)
    assert said(rollout)[0] == proposals[0][0].text
    assert [r.executed for r in rollout.steps] == [samples[0].action for samples in proposals]


def test_rollouts_say_which_text_was_cut_off_and_replay(cheap):
    policy = f"model:{cheap}"
    rollouts = load(policy).roll_out(plan(policy, seeds=range(3)))
    records = [record for rollout in rollouts for record in rollout.steps]
    assert {record.finished for record in records} == {True, False}
    for record in records:
        if not record.finished:
            assert record.executed is None
            assert record.executed_text is not None
    for rollout in rollouts:
        StepLabeller(rollout)  # raises where the log is not what the environment makes of it


def test_a_killed_run_goes_on_at_the_shard_where_it_was_with_the_same_bytes(
    cheap, tmp_path, monkeypatch
):
    monkeypatch.setattr(collect, "SHARD_EPISODES", 2)
    policy = f"model:{cheap}"
    models, plans, asked = load(policy), plan(policy), []

    def roll_out(shard, progress, killed_at=None):
        if len(asked) == killed_at:
            raise KeyboardInterrupt
        asked.append(shard)
        return models.roll_out(shard, progress)

    def run(out, act):
        collect_rollouts(out, plans, roll_out=act, acting=models.arguments)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", lambda *args: roll_out(*args, killed_at=1))
    assert not (tmp_path / "killed").exists()
    run(tmp_path / "killed", roll_out)
    assert asked == [plans[:2], plans[2:]]
    run(tmp_path / "whole", models.roll_out)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_another_checkpoint_in_the_same_folder_is_not_taken_for_done(tmp_path):
    folder = save_model(tmp_path / "cheap")
    out, policy = tmp_path / "out", f"model:{folder}"
    first = collect_with(out, policy)
    assert collect_with(out, policy) == first
    before = read_rollouts(out)
    save_model(folder, seed=1)
    with pytest.raises(ConfigError, match="from other inputs"):
        collect_with(out, policy)
    second = collect_with(out, policy, overwrite=True)
    assert first.arguments["models"].keys() == second.arguments["models"].keys() == {"model:cheap"}
    assert first.arguments["models"] != second.arguments["models"]
    assert read_rollouts(out) != before


@pytest.mark.parametrize("catalogue", ["compact", "template"])
def test_the_catalogue_is_rendered_as_the_checkpoint_says(tmp_path, catalogue):
    folder = save_model(tmp_path / "cheap", catalogue=catalogue)
    [model] = load(f"model:{folder}").models.values()
    assert model.renderer.catalogue == catalogue


def test_a_folder_that_does_not_say_how_it_was_trained_is_refused(cheap, tmp_path):
    with pytest.raises(ModelError, match="missing' must be a checkpoint folder or a hub id"):
        load(f"model:{tmp_path / 'missing'}")
    folder = shutil.copytree(cheap, tmp_path / "silent")
    (folder / CHECKPOINT_INFO).unlink()
    with pytest.raises(ModelError, match=r"silent must be a local checkpoint folder.*specact"):
        load(f"model:{folder}")


def test_a_verifier_does_not_act(tmp_path):
    folder = save_model(tmp_path / "verifier", kind=Qwen3ForSequenceClassification)
    with pytest.raises(ModelError, match=r"ForSequenceClassification.*folder of a proposer"):
        load(f"model:{folder}")


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_temperatures_that_cannot_be_are_refused(cheap, temperature):
    with pytest.raises(ConfigError, match="temperature must be at least 0"):
        load(f"model:{cheap}", temperature=temperature)


def test_a_policy_that_nobody_plays_is_refused(cheap):
    with pytest.raises(ConfigError, match="'novice'"):
        load(f"model:{cheap}").roll_out(plan("novice", f"model:{cheap}"))


@pytest.mark.parametrize(("temperature", "sent"), [(0.0, {0.0}), (0.7, {0.7})])
def test_a_server_is_asked_once_a_step_and_only_for_what_is_done(server, temperature, sent):
    policy = f"model:{server.url}#m"
    models = load(policy, temperature=temperature)
    rollouts = models.roll_out(plan(policy, trials=1))
    assert len(server.requests) == sum(len(rollout.steps) for rollout in rollouts) > 0
    assert {request["temperature"] for request in server.requests} == sent
