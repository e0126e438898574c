import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.mining.pairs import PAIR_STRATEGIES, STEP_STRATEGIES, MiningOptions, mine_pairs
from specact_rl.mining.trajectory_pairs import history_distance


def mine(strategy, rollouts, proposals=(), **options):
    cap = options.pop("max_per_task", 100)
    return mine_pairs(
        rollouts,
        proposals,
        strategies=[strategy],
        options=MiningOptions(**options),
        max_per_task=cap,
    )


def sides(result):
    return [
        tuple(
            (s.action.tool or s.action.text, *s.action.arguments.values())
            if s.action
            else s.messages[0]["content"]
            for s in (p.chosen, p.rejected)
        )
        for p in result.pairs
    ]


# divergence


def test_divergence_is_the_first_different_action_after_the_same_history(make):
    first = (make.call("read_file", file="f1"), "dull")
    success = make.rollout(
        [first, (make.call("delete_file", file="f1"), "done"), make.say("Done")], success=True
    )
    failure = make.rollout(
        [first, (make.call("delete_file", file="f2"), "done"), make.say("Gone")],
        success=False, trial=1,
    )  # fmt: skip
    result = mine("divergence", [failure, success])
    assert sides(result) == [(("delete_file", "f1"), ("delete_file", "f2"))]
    [pair] = result.pairs
    assert pair.step.history == success.messages[:4] == failure.messages[:4]
    assert (pair.turn_gap, pair.distance, pair.chosen.source_id) == (0, 0.0, success.rollout_id)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (("Which file?", "f1"), ("Which file?", "f1, please"), "parts_at_user_message"),
        (("read", "a"), ("read", "b"), "parts_at_tool_result"),
        (("Which file?", None), ("which  file?", None), "parts_in_wording"),
        (("read", "a"), ("read", "a"), "never_parts"),
        (("<tool_call> oops", None), ("read", "a"), "unparsable_chosen"),
    ],
)
def test_divergence_is_not_mined_where_rollouts_part_otherwise(make, ours, theirs, reason):
    def turn(what, reply):
        if what == "read":
            return (make.call("read_file", file="f1"), reply)
        return (what if what.startswith("<") else make.say(what), reply)

    success = make.rollout([turn(*ours), make.say("Done")], success=True)
    failure = make.rollout([turn(*theirs), make.say("Done")], success=False, trial=1)
    result = mine("divergence", [success, failure])
    assert result.pairs == []
    assert result.dropped == {f"divergence:{reason}": 1}


def test_divergence_takes_unparsable_text_as_the_rejected_side(make):
    success = make.rollout([make.call("read_file", file="f1")], success=True)
    failure = make.rollout(["<tool_call> oops"], success=False, trial=1)
    result = mine("divergence", [success, failure])
    assert sides(result) == [(("read_file", "f1"), "<tool_call> oops")]
    assert result.counts == {"divergence": 1, "divergence:rejected_unparsable": 1}


@pytest.mark.parametrize("strategy", ["divergence", "approx_prefix"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_message_of_several_calls_is_no_side_of_a_step_pair(make, strategy, side):
    # As text it would teach the format of another model, and it is no single action.
    start = [(make.say("Which file?"), "f1"), (make.say("Which file?"), "it is f1")]
    rollouts = [
        make.rollout(
            [start[i * (strategy == "approx_prefix")], make.call("read_file", file=f"f{i}")],
            success=not i,
            trial=i,
        )
        for i in range(2)
    ]
    assert len(mine(strategy, rollouts).pairs) == 1
    several = rollouts[side]
    (call,) = several.messages[-1]["tool_calls"]
    several.messages[-1] = several.messages[-1] | {"tool_calls": [call, call]}
    record = replace(several.steps[-1], executed=None, executed_text="[read_file(), read_file()]")
    several.steps[-1] = record
    assert mine(strategy, rollouts).dropped == {f"{strategy}:several_calls": 1}


def cut_off(rollout, index):
    """The rollout, as if the token limit had come before step `index` was finished."""
    steps = list(rollout.steps)
    steps[index] = replace(steps[index], finished=False)
    return replace(rollout, steps=steps)


def test_text_that_was_cut_off_is_no_rejected_side(make):
    success = make.rollout([make.call("read_file", file="f1")], success=True)
    failure = cut_off(make.rollout(["<tool_call> oo"], success=False, trial=1), 0)
    for strategy in ("divergence", "outcome"):
        result = mine(strategy, [success, failure])
        assert result.pairs == []
        assert result.dropped == {f"{strategy}:cut_off": 1}


def test_text_that_was_cut_off_is_no_rejected_side_after_like_histories_either(make):
    turns = [(make.say("Which file?"), "f1"), (make.call("read_file", file="f1"), "dull")]
    success = make.rollout([*turns, make.call("delete_file", file="f1")], success=True)
    turns[0] = (make.say("Which file?"), "it is f1")
    failure = make.rollout([*turns, "<tool_call> oo"], success=False, trial=1)
    assert sides(mine("approx_prefix", [success, failure])) == [
        (("delete_file", "f1"), "<tool_call> oo")
    ]
    result = mine("approx_prefix", [success, cut_off(failure, 2)])
    assert result.pairs == []
    assert result.dropped == {"approx_prefix:cut_off": 1}


def test_a_success_with_a_turn_that_was_cut_off_is_no_chosen_trajectory(make):
    success = make.rollout(["<tool_call> oo", make.call("read_file", file="f1")], success=True)
    failure = make.rollout([make.call("read_file", file="f2")], success=False, trial=1)
    assert len(mine("outcome", [success, failure]).pairs) == 1
    assert mine("outcome", [cut_off(success, 0), failure]).dropped == {"outcome:cut_off": 1}


def test_rollouts_of_unknown_success_are_in_no_pair(make):
    known = make.rollout([make.call("read_file", file="f1")], success=True)
    unknown = make.rollout([make.call("read_file", file="f2")], success=None, trial=1)
    for strategy in ("outcome", "divergence", "approx_prefix"):
        result = mine(strategy, [known, unknown])
        assert result.pairs == []
        assert result.dropped == {f"{strategy}:task_without_contrast": 1}


def test_failures_that_are_not_the_policys_own_are_on_no_side(make):
    success = make.rollout([make.call("read_file", file="f1")], success=True)
    failure = make.rollout([make.call("read_file", file="f2")], success=False, trial=1)
    faulty = replace(failure, info={"fault": "user_error"})
    for strategy in ("outcome", "divergence", "approx_prefix"):
        result = mine(strategy, [success, faulty])
        assert result.pairs == []
        assert result.dropped == {
            f"{strategy}:faulty_failure": 1,
            f"{strategy}:task_without_contrast": 1,
        }


# approx_prefix


def chatty(make, greeting, reply, last, **fields):
    return make.rollout(
        [
            (make.say(greeting), reply),
            (make.call("read_file", file="f1"), "dull"),
            (make.call("delete_file", file=last), "done"),
            make.say("Done"),
        ],
        **fields,
    )


def test_approx_prefix_aligns_by_calls_where_the_wording_differs(make):
    success = chatty(make, "Which file?", "f1", "f1", success=True)
    failure = chatty(make, "Which file?", "it is f1", "f2", success=False, trial=1)
    parting = mine("divergence", [success, failure]).dropped
    assert parting == {"divergence:parts_at_user_message": 1}
    result = mine("approx_prefix", [success, failure])
    assert sides(result) == [(("delete_file", "f1"), ("delete_file", "f2"))]
    [pair] = result.pairs
    assert pair.step.history == success.messages[:6]
    assert 0 < pair.distance < 0.5


def test_approx_prefix_leaves_identical_histories_to_divergence(make):
    success = chatty(make, "Which file?", "f1", "f1", success=True)
    failure = chatty(make, "Which file?", "f1", "f2", success=False, trial=1)
    assert len(mine("divergence", [success, failure]).pairs) == 1
    result = mine("approx_prefix", [success, failure])
    assert result.dropped == {"approx_prefix:identical_history": 1}


def test_approx_prefix_refuses_histories_that_are_too_far_apart(make):
    success = chatty(make, "Which file?", "f1", "f1", success=True)
    failure = chatty(make, "Which file?", "it is f1", "f2", success=False, trial=1)
    [pair] = mine("approx_prefix", [success, failure]).pairs
    result = mine("approx_prefix", [success, failure], max_distance=pair.distance / 2)
    assert result.dropped == {"approx_prefix:too_distant": 1}


def test_history_distance_is_one_minus_the_dice_coefficient_of_words():
    # as JSON: {"content":"a | b | c","role":"user"} against {"content":"b | c","role":"user"}
    ours = [{"role": "user", "content": "a b c"}]
    theirs = [{"role": "user", "content": "b c"}]
    assert history_distance(ours, theirs) == pytest.approx(1 - 2 * 1 / (3 + 2))
    system = {"role": "system", "content": "many words that all conversations share"}
    assert history_distance([system, *ours], [system, *theirs]) == history_distance(ours, theirs)
    assert history_distance(ours, ours) == 0
    assert history_distance([], []) == 0


# outcome


def test_outcome_compares_what_follows_the_common_first_messages(make):
    success = make.rollout(
        [(make.call("read_file", file="f1"), "a"), make.say("Done")], success=True
    )
    failure = make.rollout([(make.call("read_file", file="f2"), "b")], success=False, trial=1)
    [pair] = mine("outcome", [success, failure]).pairs
    assert pair.step.history == success.messages[:2]
    assert pair.chosen.messages == success.messages[2:]
    assert pair.rejected.messages == failure.messages[2:3]  # the last tool result has no answer
    assert (pair.turn_gap, pair.is_trajectory) == (2, True)


def test_outcome_needs_the_same_start(make):
    success = make.rollout([make.say("Done")], success=True)
    failure = make.rollout([make.say("No")], success=False, trial=1, request="Tidy up.")
    assert mine("outcome", [success, failure]).dropped == {"outcome:different_start": 1}


# same_prefix and on_policy


@pytest.fixture
def logged(make):
    """One step whose reference reads f1."""
    turn = (make.call("read_file", file="f1"), "a", make.call("read_file", file="f1"))
    return make.rollout([turn])


def test_same_prefix_pairs_the_likeliest_acceptable_with_the_likeliest_error(make, logged):
    def proposal(file, acceptable, sample, logprob):
        action = make.call("read_file", file=file)
        return make.proposal(logged.step(0), action, acceptable, sample=sample, logprob=logprob)

    proposals = [
        proposal("f3", True, 0, -5.0),
        proposal("f1", True, 1, -1.0),
        proposal("f8", False, 2, -3.0),
        proposal("f9", False, 3, -2.0),
    ]
    result = mine("same_prefix", [logged], proposals)
    assert sides(result) == [(("read_file", "f1"), ("read_file", "f9"))]
    result = mine("same_prefix", [logged], proposals, max_per_step=3)
    assert sides(result) == [
        (("read_file", "f1"), ("read_file", "f9")),
        (("read_file", "f3"), ("read_file", "f8")),
    ]


def test_same_prefix_falls_back_on_the_reference_and_counts_it(make, logged):
    wrong = make.proposal(logged.step(0), make.call("delete_file", file="f1"), False)
    result = mine("same_prefix", [logged], [wrong])
    assert sides(result) == [(("read_file", "f1"), ("delete_file", "f1"))]
    assert result.pairs[0].chosen.source == "reference"
    assert result.counts == {"same_prefix": 1, "same_prefix:chosen_reference": 1}


def test_on_policy_never_takes_the_reference_or_another_model(make, logged):
    wrong = make.proposal(logged.step(0), make.call("delete_file", file="f1"), False)
    right = make.proposal(logged.step(0), make.call("read_file", file="f1"), True, model="other")
    result = mine("on_policy", [logged], [wrong, right], model_id="m")
    assert result.pairs == []
    assert result.dropped == {"on_policy:no_acceptable": 1}
    own = make.proposal(logged.step(0), make.call("read_file", file="f1"), True, sample=1)
    [pair] = mine("on_policy", [logged], [wrong, right, own], model_id="m").pairs
    assert (pair.chosen.source, pair.rejected.source) == ("m", "m")


def test_on_policy_asks_which_model_is_current(make, logged):
    proposals = [
        make.proposal(logged.step(0), make.say("Hi"), False, model=model) for model in ("m", "n")
    ]
    with pytest.raises(ValueError, match=r"on_policy needs model_id.*\['m', 'n'\]"):
        mine("on_policy", [logged], proposals)


def test_proposals_of_unknown_label_are_never_used(make, logged):
    proposals = [
        make.proposal(logged.step(0), make.call("read_file", file="f1"), True),
        make.proposal(logged.step(0), make.call("read_file", file="f9"), None, sample=1),
    ]
    result = mine("same_prefix", [logged], proposals)
    assert result.pairs == []
    assert result.dropped == {"same_prefix:unknown_label": 1, "same_prefix:no_unacceptable": 1}


def test_an_action_with_both_labels_is_on_neither_side(make, logged):
    proposals = [
        make.proposal(logged.step(0), make.call("read_file", file="f2"), True),
        make.proposal(logged.step(0), make.call("read_file", file=" f2"), False, sample=1),
        make.proposal(logged.step(0), make.call("read_file", file="f3"), False, sample=2),
    ]
    result = mine("same_prefix", [logged], proposals, max_per_step=9)
    assert sides(result) == [(("read_file", "f1"), ("read_file", "f3"))]
    assert result.dropped == {"same_prefix:contradictory_label": 1}


def test_ranked_and_generated_proposals_never_share_a_pair(make, logged):
    proposals = [
        make.proposal(logged.step(0), make.call("read_file", file="f2"), True, mode="rank"),
        make.proposal(logged.step(0), make.call("read_file", file="f3"), False),
    ]
    assert mine("on_policy", [logged], proposals).pairs == []


def test_unparsable_text_can_be_rejected_but_not_blank(make, logged):
    proposals = [
        make.proposal(logged.step(0), "  ", False),
        make.proposal(logged.step(0), "<tool_call> oops", False, sample=1),
    ]
    result = mine("same_prefix", [logged], proposals)
    assert sides(result) == [(("read_file", "f1"), "<tool_call> oops")]
    assert result.dropped == {"same_prefix:empty_text": 1}


@pytest.mark.parametrize("label", [True, False])
def test_a_proposal_of_several_actions_is_on_neither_side(make, logged, label):
    step = logged.step(0)
    two = [make.call("read_file", file="f1"), make.call("read_file", file="f2")]
    several = make.proposal(step, "[read(f1), read(f2)]", label, sample=1, actions=two)
    other = make.proposal(step, make.call("read_file", file="f9"), not label)
    result = mine("same_prefix", [replace(logged, steps=[bare(logged.steps[0])])], [several, other])
    assert result.pairs == []
    assert result.dropped["same_prefix:several_actions"] == 1


def bare(record):
    return replace(record, reference=None)


# Caps, duplicates, laws


@pytest.mark.parametrize("strategy", ["same_prefix", "on_policy"])
def test_text_that_was_cut_off_is_on_neither_side_and_counted(make, logged, strategy):
    # A rejected side would end with a stop token that the model never wrote.
    step = logged.step(0)
    right = make.proposal(step, make.call("read_file", file="f1"), True)
    cut_off = make.proposal(step, "<tool_call> oops", False, sample=1, finished=False)
    result = mine(strategy, [logged], [right, cut_off])
    assert not result.pairs
    assert result.dropped == {f"{strategy}:cut_off": 1, f"{strategy}:no_unacceptable": 1}
    ended = make.proposal(step, "<tool_call> oops", False, sample=2)
    result = mine(strategy, [logged], [right, cut_off, ended])
    assert [pair.rejected.source_id for pair in result.pairs] == [ended.proposal_id]
    assert result.dropped == {f"{strategy}:cut_off": 1}


def test_hard_negatives_take_no_error_that_was_cut_off(make, logged):
    error = make.call("find", query="x")
    for finished in (True, False):
        own = make.proposal(logged.step(0), error, False, finished=finished)
        result = mine("hard_negative", [logged], [own])
        sources = {pair.rejected.source_id for pair in result.pairs}
        assert (own.proposal_id in sources) is finished


def test_the_same_pair_in_two_trials_is_kept_once(make):
    trials = [
        make.rollout(
            [(make.call("read_file", file="f1"), "a", make.call("read_file", file="f1"))], trial=i
        )
        for i in range(3)
    ]
    proposals = [make.proposal(r.step(0), make.call("read_file", file="f9"), False) for r in trials]
    result = mine("same_prefix", trials, proposals)
    assert len(result.pairs) == 1
    assert result.dropped == {"same_prefix:duplicate": 2}


def test_the_same_sides_after_other_calls_are_another_pair(make):
    right = make.call("read_file", file="f1")
    rollout = make.rollout([(make.call("find", query="x"), "f1", right), (right, "a", right)])
    wrong = make.call("read_file", file="f9")
    proposals = [make.proposal(rollout.step(index), wrong, False) for index in range(2)]
    assert len(mine("same_prefix", [rollout], proposals).pairs) == 2


def test_a_pair_of_two_strategies_counts_for_the_first_named(make, logged):
    proposals = [
        make.proposal(logged.step(0), make.call("read_file", file="f1"), True),
        make.proposal(logged.step(0), make.call("read_file", file="f9"), False, sample=1),
    ]
    for names in (["same_prefix", "on_policy"], ["on_policy", "same_prefix"]):
        result = mine_pairs([logged], proposals, strategies=names)
        assert result.counts == {names[0]: 1, names[1]: 0}
        assert result.dropped == {f"{names[1]}:duplicate": 1}


@pytest.mark.parametrize("strategies", [[], ["same_prefix", "same_prefixes"]])
def test_unknown_strategies_are_refused(make, logged, strategies):
    if strategies:
        with pytest.raises(ValueError, match="same_prefixes"):
            mine_pairs([logged], strategies=strategies)
    else:
        assert mine_pairs([logged], strategies=strategies).pairs == []


def test_a_proposal_at_a_step_that_is_not_there_is_refused(make, logged):
    stray = replace(make.proposal(logged.step(0), make.say("Hi"), False), step_id="elsewhere/0")
    with pytest.raises(ValueError, match="'elsewhere/0' is in none of them"):
        mine_pairs([logged], [stray], strategies=["same_prefix"])


def random_tables(make, seed):
    """Tasks with some trials that share histories, and proposals of every label."""
    rng = random.Random(seed)
    files = ["f1", "f2", " f2", "F3"]
    rollouts, proposals = [], []
    for task in range(rng.randint(1, 3)):
        for trial in range(rng.randint(1, 4)):
            turns = []
            for _ in range(rng.randint(1, 4)):
                action = make.call(rng.choice(["read_file", "delete_file"]), file=rng.choice(files))
                reference = make.call("read_file", file="f1") if rng.random() < 0.7 else None
                turns.append((action, rng.choice(["ok f7", "error"]), reference))
            success = rng.choice([True, False, None])
            rollout = make.rollout(turns, task=f"t{task}", trial=trial, success=success)
            rollouts.append(rollout)
            for index in range(len(turns)):
                for sample in range(rng.randint(0, 3)):
                    action = make.call("read_file", file=rng.choice(files))
                    label = rng.choice([True, False, None])
                    what = action if rng.random() < 0.9 else "<tool_call> oops"
                    label = label and what is action
                    proposals.append(make.proposal(rollout.step(index), what, label, sample=sample))
    return rng, rollouts, proposals


@given(seed=st.integers(0, 10_000), cap=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_laws_of_mining(make, seed, cap):
    rng, rollouts, proposals = random_tables(make, seed)
    strategies = list(PAIR_STRATEGIES)
    result = mine_pairs(rollouts, proposals, strategies=strategies, max_per_task=cap)
    task_of = {p.proposal_id: p.task_id for p in proposals}
    task_of |= {r.rollout_id: r.task_id for r in rollouts}
    task_of |= {s.step_id: r.task_id for r in rollouts for s in r.each_step()}
    label_of = {p.proposal_id: p.acceptable for p in proposals}
    for pair in result.pairs:
        assert task_of[pair.chosen.source_id] == task_of[pair.rejected.source_id] == pair.task_id
        assert pair.chosen.key != pair.rejected.key
        assert label_of.get(pair.chosen.source_id, True) is True
        assert label_of.get(pair.rejected.source_id, False) is False
        assert (pair.distance > 0) <= (pair.strategy == "approx_prefix")
    per_task = Counter((pair.strategy, pair.task_id) for pair in result.pairs)
    assert max(per_task.values(), default=0) <= cap
    assert {name: result.counts[name] for name in strategies} == {
        name: sum(pair.strategy == name for pair in result.pairs) for name in strategies
    }

    rng.shuffle(rollouts)
    rng.shuffle(proposals)
    again = mine_pairs(rollouts, proposals, strategies=strategies, max_per_task=cap)
    assert again == result


def test_the_cap_draws_other_pairs_with_another_seed(make):
    rollouts = [make.rollout([make.say("Done")], success=True)] + [
        make.rollout([make.call("read_file", file=f"f{i}")], success=False, trial=i + 1)
        for i in range(12)
    ]
    draws = {
        tuple(p.rejected.key for p in mine("divergence", rollouts, seed=seed, max_per_task=3).pairs)
        for seed in range(5)
    }
    assert len(draws) > 1
    assert mine("divergence", rollouts, max_per_task=3).dropped == {"divergence:over_cap": 9}


def test_step_strategies_are_all_but_the_one_of_trajectories():
    assert set(PAIR_STRATEGIES) - set(STEP_STRATEGIES) == {"outcome"}
