import pytest
from hypothesis import given
from hypothesis import strategies as st

from specact_rl.logs.facts import agent_name, log_facts
from specact_rl.logs.groups import MIN_GROUP, finished, official_score
from specact_rl.types import Rollout, StepRecord


def rollout(task, policy="m", trial=0, success=None, **more):
    info = more.pop("info", {})
    return Rollout(
        rollout_id=f"{policy}/{task}/{trial}/{info.get('run', '')}",
        task_id=task,
        family=more.pop("family", "f"),
        policy=policy,
        trial=trial,
        messages=more.pop("messages", []),
        tools=[],
        steps=more.pop("steps", []),
        success=success,
        info=info,
    )


def trials(task, outcomes, policy="m"):
    return [rollout(task, policy, i, bool(int(o))) for i, o in enumerate(outcomes)]


def test_pass_hat_k_is_the_chance_that_k_trials_all_succeed():
    # a: 3 of 4 succeed; b: none of 4; c: 1 of 1
    facts = log_facts([*trials("a", "1110"), *trials("b", "0000"), *trials("c", "1")])
    (agent,) = facts.agents
    assert agent.accuracy == pytest.approx((0.75 + 0 + 1) / 3)
    # C(3,2)/C(4,2) = 3/6 for a, 0 for b; c has no two trials
    assert agent.pass_hat == pytest.approx({1: 1.75 / 3, 2: 0.25, 3: 0.125, 4: 0.0})
    # the better of two of a's trials: 1 - C(1,2)/C(4,2) = 1, a gain of .25; b gains nothing
    assert agent.retry_headroom == pytest.approx(0.125)
    assert log_facts(trials("a", "1")).agents[0].retry_headroom is None


def test_two_agents_are_compared_on_what_both_did():
    rollouts = [
        *trials("both", "1"),
        *trials("both", "1", "n"),
        *trials("ours", "1"),
        *trials("ours", "0", "n"),
        *trials("theirs1", "0"),
        *trials("theirs1", "1", "n"),
        *trials("theirs2", "0"),
        *trials("theirs2", "1", "n"),
        *trials("alone", "1"),
    ]
    (pair,) = log_facts(rollouts).pairs
    assert (pair.cheap, pair.strong, pair.num_tasks) == ("m", "n", 4)
    assert (pair.both, pair.only_cheap, pair.only_strong, pair.neither) == (1, 1, 2, 0)
    assert (pair.cheap_accuracy, pair.strong_accuracy) == (0.5, 0.75)
    assert (pair.oracle_accuracy, pair.oracle_headroom) == (1.0, 0.25)


def test_outcomes_of_a_task_count_over_all_policies():
    facts = log_facts([*trials("a", "110"), *trials("a", "0", "n"), *trials("b", "11")])
    assert (facts.num_mixed_tasks, facts.num_outcome_pairs) == (1, 4)
    assert (facts.num_always_solved, facts.num_never_solved) == (1, 0)


def test_a_withheld_label_counts_in_accuracy_but_in_no_pair():
    lost = rollout("a", trial=1, info={"scored": False, "fault": "server_error"})
    facts = log_facts([*trials("a", "1"), lost, rollout("b")])
    assert (facts.num_withheld, facts.num_unscored, facts.num_outcome_pairs) == (1, 1, 0)
    assert facts.agents[0].accuracy == 0.5
    assert official_score(lost) is False


def test_runs_are_agents_of_their_own_and_are_not_mixed_in_pairs():
    rollouts = [
        rollout("a", policy, success=True, info={"run": run})
        for run in ("r1", "r2")
        for policy in ("m", "n")
    ]
    facts = log_facts(rollouts)
    assert [a.agent for a in facts.agents] == ["m@r1", "m@r2", "n@r1", "n@r2"]
    assert {(p.cheap, p.strong) for p in facts.pairs} == {("m@r1", "n@r1"), ("m@r2", "n@r2")}
    assert agent_name(rollout("a")) == "m"


def test_steps_are_paired_where_two_rollouts_share_the_whole_history():
    def at(*words):
        messages = [{"role": "user", "content": word} for word in words]
        steps = [StepRecord(index=i, message_index=i + 1, executed=None) for i in range(len(words))]
        return {"messages": messages, "steps": steps}

    rollouts = [
        rollout("a", trial=0, **at("x", "y")),
        rollout("a", trial=1, **at("x", "z")),
        rollout("b", **at("x")),
    ]
    assert log_facts(rollouts).num_paired_steps == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("mn"), st.booleans())))
def test_the_four_cells_of_a_pair_make_up_its_tasks(rows):
    rollouts = [rollout(t, p, i, s) for i, (t, p, s) in enumerate(rows)]
    for pair in log_facts(rollouts).pairs:
        cells = (pair.both, pair.only_cheap, pair.only_strong, pair.neither)
        assert sum(cells) == pair.num_tasks
        assert pair.cheap_accuracy <= pair.strong_accuracy
        assert pair.oracle_headroom >= 0


@pytest.mark.parametrize(("value", "share"), [(True, "100 %"), (False, "0 %")])
def test_a_category_that_all_models_pass_or_fail_is_degenerate(value, share):
    rollouts = [rollout(str(i), p, success=value) for i in range(MIN_GROUP) for p in "mn"]
    (flag,) = finished(rollouts, {}).flags
    assert (flag.kind, flag.group) == ("degenerate_group", "f")
    assert f"all 2 models score {share} on all {MIN_GROUP} tasks" in flag.detail
    mixed = [*rollouts, rollout("other", success=not value)]
    few = rollouts[: 2 * (MIN_GROUP - 1)]
    assert finished(mixed, {}).flags == finished(few, {}).flags == []
