"""Labels are what stepping by hand shows, and a log that was tampered with is refused."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.actions.matching import match_level
from specact_rl.envs import labels
from specact_rl.envs.episodes import (
    Episode,
    NoisyExpert,
    expert_policy,
    lowers_cost,
    run_episode,
)
from specact_rl.envs.labels import ReferenceLabeller, StepLabeller, label_in, labeller_of
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import EnvironmentFault, RolloutFormatError
from specact_rl.store import append_shard, read_shards
from specact_rl.types import Action, Rollout


def noisy(seed, noise=0.4, held_out=False):
    policy = NoisyExpert(noise=noise, rng=random.Random(seed))
    return run_episode(Workspace(seed, held_out=held_out), policy, "noisy")


def rollout_with_garbage():
    episode = Episode(Workspace(4), "garbled", 0)
    episode.act(None, "<tool_call>{")
    while not episode.env.done:
        episode.act(episode.env.expert_action())
    return episode.rollout()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (3, 2, True),
        (3, 1, True),
        (3, 3, False),
        (3, 4, False),
        (3, None, False),
        (None, None, None),
    ],
)
def test_acceptable_means_nearer_to_the_goal(before, after, expected):
    assert lowers_cost(before, after) is expected


@given(seed=st.integers(0, 10**6), held_out=st.booleans())
@settings(max_examples=40, deadline=None)
def test_labels_are_what_stepping_by_hand_shows(wild, seed, held_out):
    *_, episode = wild(seed, held_out)
    rollout = episode.rollout()
    labeller = StepLabeller(rollout)
    env = Workspace(seed, held_out=held_out)
    rng = random.Random(seed)
    for record in rollout.steps:
        here, before, expert = env.snapshot(), env.cost_to_go(), env.expert_action()
        assert record.reference == expert
        assert record.cost_to_go == before
        own = labeller.label(record.index, record.executed)
        assert own.acceptable is record.acceptable
        expert_label = labeller.label(record.index, expert)
        assert expert_label.acceptable is (None if before is None else True)
        assert expert_label.match_level == "arguments"
        assert expert_label.same_state
        for action in [*rng.sample(env.legal_actions(), 4), None]:
            label = labeller.label(record.index, action)
            env.step(action)
            after, outcome = env.cost_to_go(), env.outcome()
            env.restore(here)
            env.step(expert)
            assert label.same_state == (outcome == env.outcome())
            env.restore(here)
            expected = None if before is None else after is not None and after < before
            assert label.acceptable is expected
            assert label.match_level == match_level(action, expert, env.tools)
            if label.match_level == "arguments":
                assert label.same_state
        env.step(record.executed)


def test_an_equally_good_action_is_acceptable_though_it_does_not_match():
    # Two orders have to be read, in whatever order.
    seed = next(s for s in range(200) if Workspace(s).family == "order_total")
    rollout = run_episode(Workspace(seed), expert_policy, "expert")
    second = rollout.steps[1].executed
    label = StepLabeller(rollout).label(0, second)
    assert label.acceptable
    assert label.match_level == "tool"
    assert not label.same_state


def test_what_the_environment_takes_to_execute_is_measured_and_nothing_else(monkeypatch):
    rollout = noisy(1)
    labeller = StepLabeller(rollout)
    ticks = iter([5.0, 5.25])
    monkeypatch.setattr(labels, "perf_counter", lambda: next(ticks))
    step = Workspace.step

    def counted(env, action):
        executed.append(action)
        return step(env, action)

    executed = []
    monkeypatch.setattr(Workspace, "step", counted)
    own = rollout.steps[0].executed
    assert labeller.label(0, own).tool_seconds == 0.25
    assert executed == [own, rollout.steps[0].reference]
    assert list(ticks) == []


def test_a_log_says_nothing_of_an_environment():
    label = ReferenceLabeller(noisy(1)).label(0, None)
    assert label.tool_seconds is None


def test_judging_leaves_the_environment_where_it_was():
    env = Workspace(3)
    env.step(env.expert_action())
    before = env.snapshot()
    assert label_in(env, env.expert_action()).acceptable
    assert env.snapshot() == before


def test_text_that_is_no_action_is_not_acceptable():
    label = StepLabeller(noisy(1)).label(0, None)
    assert (label.match_level, label.acceptable, label.same_state) == ("none", False, False)


def test_unparsable_steps_are_replayed_as_such():
    rollout = rollout_with_garbage()
    assert rollout.success
    assert rollout.steps[0].executed is None
    assert StepLabeller(rollout).label(1, rollout.steps[1].executed).acceptable


def test_unparsable_step_needs_its_text():
    with pytest.raises(ValueError, match="needs its text"):
        Episode(Workspace(0), "p", 0).act(None)


def test_text_that_was_cut_off_is_no_action():
    episode = Episode(Workspace(0), "p", 0)
    with pytest.raises(ValueError, match="cut off"):
        episode.act(episode.env.expert_action(), finished=False)
    episode.act(None, "<tool_c", finished=False)
    assert [record.finished for record in episode.rollout().steps] == [False]


def test_environment_at_a_step_expects_that_step_s_action():
    rollout = noisy(2)
    labeller = StepLabeller(rollout)
    for record in reversed(rollout.steps):
        env = labeller.environment_at(record.index)
        assert env.expert_action() == record.reference
        env.step(None)  # moves it; the next call starts from the log again


def test_rollouts_replay_after_they_were_stored(tmp_path):
    rollouts = [noisy(seed, held_out=seed % 2 == 0) for seed in range(20)]
    rollouts.append(rollout_with_garbage())
    append_shard(tmp_path, 0, rollouts)
    for stored in read_shards(tmp_path, Rollout):
        StepLabeller(stored)


def other_request(rollout):
    request = {**rollout.messages[1], "content": rollout.messages[1]["content"] + " Now."}
    return replace(rollout, messages=[rollout.messages[0], request, *rollout.messages[2:]])


def other_observation(rollout):
    at = rollout.steps[0].message_index + 1
    edited = {**rollout.messages[at], "content": "fine"}
    return replace(rollout, messages=[*rollout.messages[:at], edited, *rollout.messages[at + 1 :]])


def other_role(rollout):
    at = rollout.steps[0].message_index + 1
    edited = {**rollout.messages[at], "role": "user"}
    return replace(rollout, messages=[*rollout.messages[:at], edited, *rollout.messages[at + 1 :]])


def other_action(rollout):
    first = replace(rollout.steps[0], executed=Action(type="tool_call", tool="fly", arguments={}))
    return replace(rollout, steps=[first, *rollout.steps[1:]])


def missing_step(rollout):
    return replace(rollout, steps=rollout.steps[1:])


def shifted_step(rollout):
    first = replace(rollout.steps[0], message_index=rollout.steps[0].message_index + 1)
    return replace(rollout, steps=[first, *rollout.steps[1:]])


def step_after_the_end(rollout):
    last = rollout.steps[-1]
    more = replace(last, index=last.index + 1, message_index=len(rollout.messages))
    return replace(rollout, steps=[*rollout.steps, more])


def message_after_the_end(rollout):
    return replace(rollout, messages=[*rollout.messages, {"role": "user", "content": "thanks"}])


def missing_last_message(rollout):
    return replace(rollout, messages=rollout.messages[:-1])


def flipped_success(rollout):
    return replace(rollout, success=not rollout.success)


def other_catalogue(rollout):
    return replace(rollout, tools=rollout.tools[::-1])


@pytest.mark.parametrize(
    "tamper",
    [
        other_request,
        other_observation,
        other_role,
        other_action,
        missing_step,
        shifted_step,
        step_after_the_end,
        message_after_the_end,
        missing_last_message,
        flipped_success,
        other_catalogue,
    ],
    ids=lambda tamper: tamper.__name__,
)
def test_log_that_was_tampered_with_is_refused(tamper):
    rollout = run_episode(Workspace(5), expert_policy, "expert")
    StepLabeller(rollout)
    with pytest.raises(EnvironmentFault, match=rollout.rollout_id):
        StepLabeller(tamper(rollout))


def test_rollout_of_another_environment_is_refused():
    with pytest.raises(RolloutFormatError, match="airline/3"):
        StepLabeller(replace(noisy(0), task_id="airline/3"))


def test_a_step_without_a_reference_is_labelled_by_nothing(make):
    rollout = make.rollout([(make.call("find", query="a"), "b", None)], task="airline/3")
    label = labeller_of(rollout).label(0, make.call("find", query="a"))
    assert (label.acceptable, label.match_level, label.label_source) == (None, "none", "none")


def test_a_reference_labels_by_its_arguments(make):
    right = make.call("find", query="a")
    rollout = make.rollout([(make.say("Done."), None, right)], task="airline/3")
    labeller = labeller_of(rollout)
    labels = [labeller.label(0, a) for a in (right, make.call("find", query="b"), None)]
    assert [label.acceptable for label in labels] == [True, False, False]
    assert [label.match_level for label in labels] == ["arguments", "tool", "none"]
    assert {(label.same_state, label.label_source) for label in labels} == {
        (None, "reference_match")
    }


def test_a_log_of_the_workspace_is_never_labelled_by_its_references():
    rollout = run_episode(Workspace(5), expert_policy, "expert")
    assert isinstance(labeller_of(rollout), StepLabeller)
    with pytest.raises(EnvironmentFault):
        labeller_of(flipped_success(rollout))
