"""The workspace as a suite of tasks: solvable by the expert, and by nobody who does not work."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest

import specact_rl
from specact_rl.actions.schema import argument_problem, find_tool
from specact_rl.envs.corpus import corpus_rollouts
from specact_rl.envs.episodes import expert_policy, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.envs.workspace.families import FAMILIES, HELD_OUT_FAMILIES, draw_task
from specact_rl.envs.workspace.tools import TOOLS
from specact_rl.errors import RolloutFormatError
from specact_rl.types import ACTION_TYPES, Action

SUITE = [(seed, False) for seed in range(600)] + [(seed, True) for seed in range(200)]


def environments(tasks=SUITE):
    return (Workspace(seed, held_out=held_out) for seed, held_out in tasks)


def play(env, policy):
    while not env.done:
        env.step(policy(env))
    return env.success


def check_expert_solves(tasks):
    for env in environments(tasks):
        cost = env.cost_to_go()
        rollout = run_episode(env, expert_policy, "expert")
        assert rollout.success, env.task_id
        assert len(rollout.steps) == cost, env.task_id
        assert [s.cost_to_go for s in rollout.steps] == list(range(cost, 0, -1)), env.task_id
        assert all(s.acceptable for s in rollout.steps), env.task_id


def test_expert_solves_every_task_in_as_many_steps_as_announced():
    check_expert_solves(SUITE)


@pytest.mark.slow
def test_expert_solves_ten_thousand_tasks():
    check_expert_solves([(seed, seed % 4 == 0) for seed in range(10_000)])


def test_random_legal_actions_solve_next_to_nothing():
    rng = random.Random(0)
    tasks = SUITE[::2]
    solved = [play(e, lambda env: rng.choice(env.legal_actions())) for e in environments(tasks)]
    assert sum(solved) < 0.05 * len(tasks)


def test_doing_nothing_solves_nothing():
    assert not any(play(env, lambda env: None) for env in environments())


def test_answering_at_once_solves_nothing_even_with_the_right_words():
    for env in environments():
        env.step(env.text_action(env.task.final))
        assert env.done
        assert not env.success, env.task_id


def test_episodes_end_after_twice_the_expert_s_steps_and_six():
    env = Workspace(0)
    cost = env.cost_to_go()
    steps = 0
    while not env.done:
        env.step(None)
        steps += 1
    assert steps == 2 * cost + 6


def test_there_are_enough_families_and_all_of_them_come_up():
    assert len(FAMILIES) >= 12
    assert len(HELD_OUT_FAMILIES) >= 3
    assert not FAMILIES.keys() & HELD_OUT_FAMILIES.keys()
    drawn = Counter(env.family for env in environments())
    assert drawn.keys() == FAMILIES.keys() | HELD_OUT_FAMILIES.keys()
    assert min(drawn.values()) >= 25


def test_there_are_thirty_tools_whose_names_tell_them_apart():
    assert len(TOOLS) >= 30
    training = [name for tool in TOOLS.values() for name in tool.names]
    held_out = [name for tool in TOOLS.values() for name in tool.held_out_names]
    assert len(set(training)) == len(training)
    assert len(set(held_out)) == len(held_out)
    assert not set(training) & set(held_out)


def test_held_out_names_are_in_held_out_tasks_alone():
    training = {name for tool in TOOLS.values() for name in tool.names}
    for env in environments():
        names = {tool.name for tool in env.tools}
        assert len(names) == len(env.tools)
        assert names.isdisjoint(training) if env.task.held_out else names <= training


def test_names_of_tools_differ_from_task_to_task():
    names = {
        env.task.names["ticket_read"]
        for env in environments()
        if "ticket_read" in env.task.names and not env.task.held_out
    }
    assert len(names) == 3


def test_every_action_type_is_needed():
    counts = Counter()
    for seed in range(3000):
        env = Workspace(seed)
        while not env.done:
            action = env.expert_action()
            counts[action.type] += 1
            env.step(action)
    shares = {kind: counts[kind] / counts.total() for kind in ACTION_TYPES}
    assert min(shares.values()) >= 0.03, shares


def test_expert_calls_fit_the_schemas_of_the_catalogue():
    for env in environments(SUITE[::3]):
        while not env.done:
            action = env.expert_action()
            if action.tool is not None:
                spec = find_tool(action.tool, env.tools)
                assert argument_problem(action.arguments, spec.parameters) is None
            env.step(action)


def test_corpus_has_no_name_of_a_held_out_tool_and_no_seed_of_a_pipeline():
    held_out = {name for tool in TOOLS.values() for name in tool.held_out_names}
    for rollout in corpus_rollouts(100):
        called = {s.executed.tool for s in rollout.steps} | {tool.name for tool in rollout.tools}
        assert called.isdisjoint(held_out)
        assert int(rollout.task_id.removeprefix("ws-")) >= 10_000_000


def test_corpus_can_be_made_in_parts():
    whole = list(corpus_rollouts(6))
    assert [*corpus_rollouts(2), *corpus_rollouts(4, first=2)] == whole


@pytest.mark.parametrize("held_out", [False, True])
def test_task_id_leads_back_to_the_task(held_out):
    env = Workspace(17, held_out=held_out)
    again = Workspace.from_task_id(env.task_id)
    assert again.task == env.task
    assert again.initial_state == env.initial_state


def test_foreign_task_id_is_refused():
    with pytest.raises(RolloutFormatError, match="ws-000012"):
        Workspace.from_task_id("airline/12")


def test_initial_states_of_different_tasks_differ():
    states = Counter(env.initial_state for env in environments())
    assert max(states.values()) == 1


def test_unknown_tools_and_malformed_calls_are_answered_not_raised():
    env = Workspace(0)
    name = env.tools[0].name
    assert env.step(None).content == "error: not an action"
    unknown = Action(type="tool_call", tool="fly", arguments={})
    assert env.step(unknown).content == "error: no tool fly"
    extra = Action(type="tool_call", tool=name, arguments={"wings": 2})
    assert env.step(extra).content.startswith("error: ")
    assert not env.done


def test_calculations_refuse_what_is_no_number():
    seed = next(s for s in range(500) if draw_task(s).family == "order_total")
    env = Workspace(seed)
    tool = next(t for t in env.tools if set(t.parameters["properties"]) == {"a", "b"})
    for a in ("x", True, [1], 10**5000):
        call = Action(type="tool_call", tool=tool.name, arguments={"a": a, "b": 1})
        assert env.step(call).content.startswith("error: ")
        env.restore(Workspace(seed).snapshot())


def test_documentation_names_every_family_and_tool_with_a_request_it_makes():
    text = Path(specact_rl.__file__).parents[1].joinpath("docs/workspace.md").read_text()
    rows = re.findall(r"^\| `(\w+)`(?:, held out)? \| `(ws-h?\d+)` \| (.+?) \|", text, re.M)
    assert [name for name, _, _ in rows] == [*FAMILIES, *HELD_OUT_FAMILIES]
    for name, task_id, request in rows:
        env = Workspace.from_task_id(task_id)
        assert (env.family, env.task.request) == (name, request)
    assert set(TOOLS) <= set(re.findall(r"`(\w+)`", text))
