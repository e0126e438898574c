"""Whole episodes whose every model is a server: proposer, judge, fallback, or the policy itself."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from specact_rl.envs.collect import plan_episodes, policy_name
from specact_rl.errors import ConfigError, ServerError
from specact_rl.eval.live import live_rows, run_live
from specact_rl.eval.model_policies import ModelPolicies
from specact_rl.metrics.cost import TokenPrice
from specact_rl.models.chat_client import ChatModel
from specact_rl.models.language_model import Sampling
from specact_rl.policy.live import LiveSystem
from specact_rl.policy.systems import SYSTEMS
from specact_rl.verifiers.server_judge import ServerJudge
from tests.fake_server import body, cut, hang_up, judge_answer, slow, status, text_answer
from tests.gates import make_gate

TASKS = [f"ws-{seed:06d}" for seed in range(4)]
PRICES = {
    name: TokenPrice(prompt=p, cached=p, completion=p)
    for name, p in (("cheap", 1.0), ("judge", 10.0), ("strong", 100.0))
}
"""Dollars a million tokens, of which every answer has 35, or 201 of the judge."""
FAULTS = {
    "429": status(429),
    "500": status(500),
    "slow": slow,
    "cut": cut,
    "hang_up": hang_up,
    "no_json": body('{"choices": [{"mess'),
    "wrong_schema": body('{"choices": []}'),
}


def says(request):
    """Each question is another one, so that an answer asked for twice would show."""
    if request["model"] == "judge":
        proposed = request["messages"][0]["content"].partition("Proposed next action:")[2]
        return judge_answer(yes=-0.1, no=-2.6) if "Which" in proposed else judge_answer(no=-0.1)
    asked_before = sum(message["role"] == "user" for message in request["messages"])
    if request["model"] == "strong" or asked_before > 2:
        return text_answer("Done: t1")
    return text_answer("Which file?" if asked_before == 1 else "Say: t2")


@pytest.fixture
def make_system(server, monkeypatch):
    """Of servers alone; their answers are kept."""
    monkeypatch.setattr("specact_rl.models.server._FIRST_WAIT", 0.01)
    server.answer = says

    def made(name="D", folder=None, **options):
        options = {"base_url": server.url, "timeout": 5.0, "max_retries": 2} | options
        cheap, strong = (
            ChatModel(model_name=n, price=PRICES[n], **options) for n in ("cheap", "strong")
        )
        judge = ServerJudge(model_name="judge", price=PRICES["judge"], **options)
        if folder is not None:
            cheap, strong, judge = (
                model.keeping(folder / f"{i}.jsonl")
                for i, model in enumerate((cheap, strong, judge))
            )
        gate = make_gate(0.5, verifier_id=judge.verifier_id, proposer_id=cheap.model_id)
        gated = SYSTEMS[name].gated
        return LiveSystem(
            system=SYSTEMS[name],
            strong=strong,
            proposer=cheap if SYSTEMS[name].proposer else None,
            verifier=judge if gated else None,
            gate=gate if gated else None,
            sampling=Sampling(),
        )

    return made


def test_each_server_is_paid_for_what_it_was_asked(server, make_system):
    episodes = run_live(make_system(), TASKS)
    asked = Counter(request["model"] for request in server.requests)
    assert asked["cheap"] == asked["judge"] == sum(e.num_steps for e in episodes)
    assert asked["strong"] == sum(e.num_fallback for e in episodes)
    assert min(asked["strong"], sum(e.num_accepted for e in episodes)) > 0  # both ways are taken
    paid = asked["cheap"] * 35 + asked["judge"] * 201 * 10 + asked["strong"] * 35 * 100
    assert sum(e.price for e in episodes) == pytest.approx(paid / 1e6)
    assert {e.flops for e in episodes} == {None}


def test_price_that_one_server_does_not_have_is_not_known(make_system):
    system = make_system()
    system = replace(system, strong=replace(system.strong, price=None))
    episodes = run_live(system, TASKS)
    assert {e.num_fallback > 0 for e in episodes} == {True}
    assert {e.price for e in episodes} == {None}


def test_table_has_prices_where_flops_are_not_known(make_system):
    results = {name: run_live(make_system(name), TASKS) for name in ("A", "D")}
    a, d = live_rows(results, np.random.default_rng(0))
    assert (a["mflops_per_task"], d["mflops_per_task"], d["relative_flops"]) == (None, None, None)
    assert a["price_per_task"] == pytest.approx(35 * 100 / 1e6)
    assert d["price_per_task"] > a["price_per_task"]


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_each_role_that_passes_changes_no_episode_and_asks_nothing_twice(
    server, make_system, fault
):
    expected = run_live(make_system(), TASKS)
    answered = Counter(server.answered)
    server.answered.clear()
    server.faults_of = {role: [FAULTS[fault]] for role in PRICES}
    episodes = run_live(make_system(timeout=0.5 if fault == "slow" else 5.0), TASKS)
    assert not any(server.faults_of.values())
    assert [replace(e, seconds=0.0) for e in episodes] == [
        replace(e, seconds=0.0) for e in expected
    ]
    assert Counter(server.answered) == answered


def test_run_that_a_server_ended_asks_for_nothing_again(server, make_system, tmp_path):
    expected = run_live(make_system(), TASKS)
    answered = Counter(server.answered)
    server.answered.clear()
    for served in (2, 5, 9):
        server.faults = [None] * served + [status(400)] * 9
        with pytest.raises(ServerError, match="kept"):
            run_live(make_system(folder=tmp_path, concurrency=1), TASKS)
    server.faults = []
    episodes = run_live(make_system(folder=tmp_path), TASKS)
    assert [replace(e, seconds=0.0) for e in episodes] == [
        replace(e, seconds=0.0) for e in expected
    ]
    assert Counter(server.answered) == answered


def test_renderer_of_ours_is_not_taken_for_the_servers(make_system):
    with pytest.raises(ValueError, match="system D has no renderer"):
        replace(make_system(), renderer=object())


# The policy of an episode


def test_server_acts_as_a_policy_and_is_asked_again_for_nothing(server, tmp_path):
    server.answer = says
    policy = f"model:{server.url}#owner/cheap"
    plans = plan_episodes([policy, "expert"], range(3), greedy_models=True)

    def roll_out():
        models = ModelPolicies.load(
            [policy, "expert"], temperature=0.0, max_new_tokens=64, answers=tmp_path
        )
        return models.roll_out(plans)

    server.faults = [None] * 4 + [status(400)] * 9
    with pytest.raises(ServerError, match="kept"):
        roll_out()
    server.faults = []
    rollouts = roll_out()
    assert {r.policy for r in rollouts} == {"model:cheap", "expert"}
    own = [r for r in rollouts if r.policy == "model:cheap"]
    assert sum(len(r.steps) for r in own) == len(server.answered) == len(set(server.answered))


def test_policy_of_a_server_needs_the_models_name():
    assert policy_name("model:http://localhost:8000/v1#Qwen/Qwen3-8B") == "model:Qwen3-8B"
    for wrong in ("model:http://localhost:8000/v1", "model:http://localhost:8000/v1#"):
        with pytest.raises(ConfigError, match="or a server's model"):
            policy_name(wrong)
