"""Laws of the workspace's state, in every state that any policy comes to."""

import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import specact_rl
from specact_rl.actions.canonical import canonical
from specact_rl.actions.parsing import parse_action
from specact_rl.actions.schema import argument_problem, find_tool
from specact_rl.actions.serialise import action_text
from specact_rl.actions.taxonomy import call_context
from specact_rl.envs.episodes import Episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.types import Action

SCRIPT = """
import json, random
from dataclasses import asdict
from specact_rl.actions.serialise import action_text
from specact_rl.envs.episodes import NoisyExpert, run_episode
from specact_rl.envs.workspace.environment import Workspace

rows = []
for seed in range(12):
    for held_out in (False, True):
        env = Workspace(seed, held_out=held_out)
        start = env.snapshot()
        policy = NoisyExpert(noise=0.5, rng=random.Random(seed))
        rollout = run_episode(env, policy, "noisy")
        env.restore(start)
        legal = []
        for step in rollout.steps:
            legal.append([action_text(action) for action in env.legal_actions()])
            env.step(step.executed)
        rows.append([asdict(rollout), legal])
print(json.dumps(rows))
"""

any_task = given(seed=st.integers(0, 10**6), held_out=st.booleans())
in_all_states = settings(max_examples=40, deadline=None)


def play_expert(env):
    """Steps the expert takes from here."""
    steps = 0
    while not env.done:
        env.step(env.expert_action())
        steps += 1
    return steps


def test_two_processes_make_the_same_episodes():
    def run(hash_seed):
        env = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": str(Path(specact_rl.__file__).parents[1]),
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    first, second = run("1"), run("2")
    assert len(json.loads(first)) == 24
    assert first == second


@any_task
@in_all_states
def test_context_in_the_state_is_the_context_in_the_conversation(wild, seed, held_out):
    for episode in wild(seed, held_out):
        assert episode.env.call_context() == call_context(episode.messages)


def test_failed_call_of_an_unknown_tool_is_repaired_by_calling_it_again():
    episode = Episode(Workspace(0), "p", 0)
    episode.act(Action(type="tool_call", tool="fly", arguments={}))
    context = episode.env.call_context()
    assert context == call_context(episode.messages)
    assert (context.last_tool, context.failed) == ("fly", True)


def test_hidden_tool_called_too_early_counts_as_the_failed_call_it_is():
    seed = next(s for s in range(200) if Workspace(s).family == "hidden_tool")
    episode = Episode(Workspace(seed), "p", 0)
    hidden = next(t for t in episode.env.tools if not t.documented)
    early = Action(type="file_write", tool=hidden.name, arguments={"ticket": "t1"})
    assert episode.act(early).content == f"error: no tool {hidden.name}"
    assert episode.env.call_context().failed
    assert episode.env.call_context() == call_context(episode.messages)


@any_task
@in_all_states
def test_legal_actions_are_many_distinct_and_well_formed_in_any_state(wild, seed, held_out):
    for episode in wild(seed, held_out):
        env = episode.env
        legal = env.legal_actions()
        texts = [action_text(action) for action in legal]
        assert len(set(texts)) == len(texts) >= 16
        assert env.expert_action() in legal
        assert legal == env.legal_actions()
        for action, text in zip(legal, texts, strict=True):
            if action.tool is not None:
                spec = find_tool(action.tool, env.tools)
                assert argument_problem(action.arguments, spec.parameters) is None
            # The round trip includes the type, which the conversation decides.
            parsed = parse_action(text, env.tools, episode.messages)
            assert parsed.action == action, parsed.error


def test_expert_action_is_not_always_at_the_same_place():
    places = [env.legal_actions().index(env.expert_action()) for env in map(Workspace, range(200))]
    assert len(set(places)) == 20


@any_task
@in_all_states
def test_expert_needs_exactly_the_steps_that_cost_to_go_says(wild, seed, held_out):
    for episode in wild(seed, held_out):
        env, cost = episode.env, episode.env.cost_to_go()
        before = env.snapshot()
        steps = play_expert(env)
        if cost is None:
            assert not env.success  # too few steps left
        else:
            assert env.success
            assert steps == cost
        env.restore(before)


@any_task
@in_all_states
def test_cost_to_go_is_positive_until_the_end_and_tells_how_it_ended(wild, seed, held_out):
    for episode in wild(seed, held_out):
        cost = episode.env.cost_to_go()
        assert cost is None or cost >= 1
    assert episode.env.done
    assert episode.env.cost_to_go() == (0 if episode.env.success else None)


@any_task
@in_all_states
def test_one_action_meets_one_goal_at_most(wild, seed, held_out):
    """One goal, those that only serve it, and an error foreseen."""
    for episode in wild(seed, held_out):
        if len(episode.steps) == 0:
            goals = episode.env.task.goals
            serving = sum(bool(goal.needed_by) for goal in goals)
            before = episode.env.cost_to_go()
            continue
        after = episode.env.cost_to_go()
        if before is not None and after is not None:
            assert before - after <= 1 + serving + 1
        before = after


@any_task
@in_all_states
def test_no_success_is_shorter_than_the_goals_that_stand_for_themselves(wild, seed, held_out):
    for episode in wild(seed, held_out):
        needed = sum(not goal.needed_by for goal in episode.env.task.goals) + 1
    if episode.env.success:
        assert len(episode.steps) >= needed


@any_task
@in_all_states
def test_reading_and_talking_nonsense_never_cost_more_than_the_step(wild, seed, held_out):
    """Nothing but a write can undo what was reached; only the step limit can be missed."""
    for episode in wild(seed, held_out):
        env = episode.env
        cost, before = env.cost_to_go(), env.snapshot()
        late = cost is None or before.num_steps + cost + 1 > env.max_steps
        for action in [*env.legal_actions(), None]:
            if action is not None and (
                action.tool is None or find_tool(action.tool, env.tools).effect != "read"
            ):
                continue
            env.step(action)
            if not late:
                assert env.cost_to_go() <= cost
            env.restore(before)


@any_task
@in_all_states
def test_snapshot_can_be_gone_back_to_again_and_again(wild, seed, held_out):
    for episode in wild(seed, held_out):
        env = episode.env
        snapshot = env.snapshot()
        kept, legal = copy.deepcopy(snapshot), env.legal_actions()
        branches = []
        for _ in range(2):
            play_expert(env)
            branches.append((env.success, env.outcome()))
            env.restore(snapshot)
            assert env.snapshot() == kept == snapshot
            assert env.legal_actions() == legal
        assert branches[0] == branches[1]


def test_branches_do_not_see_each_other():
    env = Workspace(3)
    start = env.snapshot()
    other = Workspace(3)
    play_expert(env)
    other.restore(start)
    assert other.cost_to_go() == Workspace(3).cost_to_go()
    assert not other.done


def test_snapshot_of_something_else_is_refused():
    with pytest.raises(TypeError, match="got dict"):
        Workspace(0).restore({})


@any_task
@in_all_states
def test_outcome_is_a_copy(wild, seed, held_out):
    for episode in wild(seed, held_out):
        env = episode.env
        before = env.snapshot()
        outcome = env.outcome()
        kept = copy.deepcopy(outcome)
        env.step(env.expert_action())
        assert outcome == kept
        env.restore(before)


@any_task
@in_all_states
def test_actions_of_one_canonical_form_have_one_effect(wild, seed, held_out):
    def spaced(action):
        if action.text is not None:
            return Action(type=action.type, text=f" {action.text.replace(' ', '  ')} ")
        arguments = {k: f" {v} " if isinstance(v, str) else v for k, v in action.arguments.items()}
        return Action(type=action.type, tool=action.tool, arguments=arguments)

    for episode in wild(seed, held_out):
        env = episode.env
        before = env.snapshot()
        for action in env.legal_actions():
            twin = spaced(action)
            assert canonical(twin, env.tools) == canonical(action, env.tools)
            answers = []
            for one in (action, twin):
                env.restore(before)
                answers.append((env.step(one), env.outcome(), env.cost_to_go()))
            assert answers[0] == answers[1]
        env.restore(before)


@any_task
@in_all_states
def test_nothing_is_due_after_the_end(wild, seed, held_out):
    *_, episode = wild(seed, held_out)
    for method in (episode.env.expert_action, episode.env.legal_actions):
        with pytest.raises(RuntimeError, match="is over"):
            method()
    with pytest.raises(RuntimeError, match="is over"):
        episode.env.step(None)


def test_refund_that_was_looked_at_before_is_looked_at_again():
    # A refunded order must be read after the refund: reading it before leaves the cost as it was.
    seed = next(
        s
        for s in range(2000)
        if Workspace(s).family == "order_refund" and not Workspace(s).task.blocked
    )
    env = Workspace(seed)
    goal = next(goal for goal in env.task.goals if goal.kind == "effect")
    while env.task.goals.index(goal) and env.expert_action().tool != env.task.names[goal.call[0]]:
        env.step(env.expert_action())
    cost = env.cost_to_go()
    env.step(env.call_action("order_read", {"order": goal.target}))
    assert env.cost_to_go() == cost


def test_goal_that_is_too_far_for_the_steps_left_is_out_of_reach():
    env = Workspace(0)
    cost = env.cost_to_go()  # of 2 cost + 6 steps
    for _ in range(cost + 6):
        env.step(None)
    assert env.cost_to_go() == cost
    env.step(None)
    assert env.cost_to_go() is None
    assert not env.done


@pytest.mark.parametrize("text", ["Which priority?", " Which priority? ", "So: which PRIORITY ?"])
def test_question_is_told_from_an_answer_as_the_taxonomy_does(text):
    seed = next(s for s in range(200) if Workspace(s).family == "ticket_priority")
    env = Workspace(seed)
    answer = env.step(env.text_action(text))
    assert answer.role == "user"
    assert answer.content == f"priority {env.task.replies['priority']}"
    assert not answer.done


def test_candidates_survive_odd_digits_in_values():
    rng = random.Random(0)
    seed = next(s for s in range(200) if Workspace(s).family == "event_move")
    env = Workspace(seed)
    odd = env.snapshot()
    odd.values.extend(["²", "9" * 5000])
    env.restore(odd)
    assert all(rng.choice(env.legal_actions()) for _ in range(3))
