import pytest

from specact_rl.mining.pairs import mine_pairs
from specact_rl.mining.rows import LengthGap, length_gaps, preference_rows, sft_rows, verifier_rows
from specact_rl.rendering import Renderer, check_parity


def steps_of(*rollouts):
    return {step.step_id: step for rollout in rollouts for step in rollout.each_step()}


def test_sft_rows_hold_the_reference_of_every_step_that_has_one(make, renderer):
    right = make.call("read_file", file="f1")
    rollout = make.rollout([(make.call("find", query="x"), "f1", right), make.say("Done")])
    built = sft_rows([rollout], renderer)
    [row] = built.rows
    assert built.dropped == {"no_reference": 1}
    assert row["completion"][0]["tool_calls"][0]["function"]["arguments"] == {"file": "f1"}
    assert row["prompt"][1:] == rollout.messages[1:2]
    assert row["num_prompt_tokens"] == len(renderer.prompt_ids(rollout.step(0)))
    assert row["num_completion_tokens"] == len(renderer.completion_ids(right))
    assert (row["step_id"], row["split"]) == (rollout.step(0).step_id, "train_verifier")
    check_parity(built.rows, renderer)


def test_sft_rows_of_equal_steps_are_written_once(make, renderer):
    turn = (make.say("Done"), None, make.say("Done"))
    trials = [make.rollout([turn], trial=i) for i in (1, 0)]
    built = sft_rows(trials, renderer)
    assert [row["rollout_id"] for row in built.rows] == [trials[1].rollout_id]
    assert built.dropped == {"duplicate": 1}


def test_sft_rows_can_imitate_what_successes_did(make, renderer):
    rollouts = [
        make.rollout([make.say("Done"), "<tool_call> oops"], success=True),
        make.rollout([make.say("No")], success=False, trial=1),
        make.rollout([make.say("Well")], success=None, trial=2),
    ]
    built = sft_rows(rollouts, renderer, target="successes")
    assert [row["completion"][0]["content"] for row in built.rows] == ["Done"]
    assert built.dropped == {"unparsable": 1, "not_a_success": 1, "unknown_success": 1}


def test_verifier_rows_leave_out_what_a_verifier_never_learns_from(make, renderer):
    rollout = make.rollout([make.say("Done")])
    proposals = [
        make.proposal(rollout.step(0), make.say("Done"), True),
        make.proposal(rollout.step(0), make.say("done."), True, sample=1),  # the same, canonically
        make.proposal(rollout.step(0), make.say("No"), False, sample=2),
        make.proposal(rollout.step(0), make.say("Perhaps"), None, sample=3),
        make.proposal(rollout.step(0), "<tool_call> oops", False, sample=4),
    ]
    built = verifier_rows(proposals, [rollout], renderer)
    assert [(row["completion"][0]["content"], row["label"]) for row in built.rows] == [
        ("Done", True),
        ("No", False),
    ]
    assert built.dropped == {"duplicate": 1, "unknown_label": 1, "unparsable": 1}
    assert [row["proposal_id"] for row in built.rows] == [
        proposals[0].proposal_id,
        proposals[2].proposal_id,
    ]
    check_parity(built.rows, renderer)


def test_verifier_rows_use_no_action_that_was_labelled_both_ways(make, renderer):
    trials = [make.rollout([make.say("Done")], trial=i) for i in range(2)]
    proposals = [
        make.proposal(trials[0].step(0), make.say("Done"), True),
        make.proposal(trials[1].step(0), make.say("Done"), False),
    ]
    built = verifier_rows(proposals, trials, renderer)
    assert built.rows == []
    assert built.dropped == {"duplicate": 1, "contradictory_label": 1}


def test_verifier_rows_do_not_depend_on_the_order_of_proposals(make, renderer):
    rollout = make.rollout([make.say("Done")])
    proposals = [
        make.proposal(rollout.step(0), make.say(text), text == "Done", sample=i)
        for i, text in enumerate(["Done", "No", "done", "Never"])
    ]
    forwards = verifier_rows(proposals, [rollout], renderer)
    assert verifier_rows(proposals[::-1], [rollout], renderer) == forwards


def test_a_proposal_of_another_table_is_refused(make, renderer):
    rollout = make.rollout([make.say("Done")])
    proposal = make.proposal(rollout.step(0), make.say("Done"), True)
    with pytest.raises(ValueError, match="is in none of them"):
        verifier_rows([proposal], [], renderer)


@pytest.fixture
def pairs(make):
    """One pair with a parsed error, one with unparsable text."""
    reference = make.call("read_file", file="f1")
    rollout = make.rollout(
        [(reference, "a", reference), (make.say("Done"), None, make.say("Done"))]
    )
    proposals = [
        make.proposal(rollout.step(0), make.call("read_file", file="f22"), False),
        make.proposal(rollout.step(1), "<tool_call>\noops", False),
    ]
    return mine_pairs([rollout], proposals, strategies=["same_prefix"]).pairs


@pytest.mark.parametrize("catalogue", ["compact", "template"])
def test_preference_rows_render_as_they_will_at_inference(pairs, renderer, catalogue):
    renderer = Renderer(tokenizer=renderer.tokenizer, catalogue=catalogue)
    rows = preference_rows(pairs, renderer).rows
    check_parity(rows, renderer)
    assert [row["rejected"][0]["content"] for row in rows] == ["", "<tool_call>\noops"]
    assert ("tools" in rows[0]) == (catalogue == "template")
    for row, pair in zip(rows, pairs, strict=True):
        assert row["num_chosen_tokens"] == len(renderer.completion_ids(pair.chosen.action))
        assert (row["chosen_source"], row["rejected_source"]) == ("reference", "m")


def test_a_reward_model_gets_no_unparsable_text(pairs, renderer):
    built = preference_rows(pairs, renderer, allow_unparsable=False)
    assert len(built.rows) == 1
    assert built.dropped == {"unparsable_rejected": 1}


def test_trajectories_are_counted_in_tokens_of_the_whole_conversation(make, renderer):
    success = make.rollout([(make.call("find", query="x"), "f1"), make.say("Done")], success=True)
    failure = make.rollout([make.say("No")], success=False, trial=1)
    pairs = mine_pairs([success, failure], strategies=["outcome"]).pairs
    [row] = preference_rows(pairs, renderer).rows
    prompt = len(renderer.prompt_ids(success.step(0)))
    assert row["num_chosen_tokens"] == len(renderer.conversation_ids(success)) - prompt
    assert row["chosen"] == success.messages[2:]
    assert row["turn_gap"] == 2


def test_steps_and_trajectories_do_not_go_into_one_data_set(make, pairs, renderer):
    success = make.rollout([make.say("Done")], success=True)
    failure = make.rollout([make.say("No")], success=False, trial=1)
    trajectories = mine_pairs([success, failure], strategies=["outcome"]).pairs
    with pytest.raises(ValueError, match="two data sets"):
        preference_rows([*pairs, *trajectories], renderer)


def test_length_gaps_are_chosen_minus_rejected_by_strategy():
    def row(strategy, chosen, rejected, turns=0):
        return {
            "strategy": strategy,
            "num_chosen_tokens": chosen,
            "num_rejected_tokens": rejected,
            "turn_gap": turns,
        }

    # a: gaps 6, 0, -3 -> mean 1, median 0; longer, tie, shorter -> (1 + .5) / 3
    gaps = length_gaps([row("b", 2, 1, 4), row("a", 9, 3), row("a", 5, 5), row("a", 1, 4)])
    assert list(gaps) == ["a", "b"]
    assert gaps["a"] == LengthGap(
        num_pairs=3, mean_tokens=1.0, median_tokens=0.0, share_chosen_longer=0.5, mean_turns=0.0
    )
    assert gaps["b"].mean_turns == 4.0


def unequal_pairs(make):
    """The same request with two answers of 1 and about 1, 3 and 9 words."""
    rollouts = [make.rollout([make.say("yes")], success=True)]
    for i, words in enumerate((1, 3, 9)):
        answer = make.say(" ".join(["noo"] * words))
        rollouts.append(make.rollout([answer], success=False, trial=i + 1))
    return mine_pairs(rollouts, strategies=["divergence"]).pairs


def test_pairs_beyond_a_length_ratio_are_dropped_and_counted(make, renderer):
    pairs = unequal_pairs(make)
    everything = preference_rows(pairs, renderer).rows
    ratios = sorted(row["num_rejected_tokens"] / row["num_chosen_tokens"] for row in everything)
    assert len(ratios) == 3
    for kept, bound in ((1, ratios[0]), (2, ratios[1]), (2, ratios[2] - 0.01), (3, ratios[2])):
        built = preference_rows(pairs, renderer, max_length_ratio=bound)
        assert len(built.rows) == kept
        assert built.dropped == ({"length_not_matched": 3 - kept} if kept < 3 else {})


def test_a_shorter_rejected_side_is_out_of_bounds_just_as_well(make, renderer):
    short, long = make.say("no"), make.say("yes " * 9)
    good = make.rollout([long], success=True)
    bad = make.rollout([short], success=False, trial=1)
    pairs = mine_pairs([good, bad], strategies=["divergence"]).pairs
    built = preference_rows(pairs, renderer, max_length_ratio=2.0)
    assert (built.rows, built.dropped) == ([], {"length_not_matched": 1})


def test_trajectories_beyond_a_turn_gap_are_dropped_and_counted(make, renderer):
    read = (make.call("read_file", file="f1"), "dull")
    good = make.rollout([read, make.say("Done")], success=True)  # three messages
    bad = [make.rollout([read] * i + [make.say("No")], success=False, trial=i) for i in (1, 2, 3)]
    pairs = mine_pairs([good, *bad], strategies=["outcome"]).pairs  # gaps 0, -2 and -4
    assert sorted(pair.turn_gap for pair in pairs) == [-4, -2, 0]
    built = preference_rows(pairs, renderer, max_turn_gap=2)
    assert (len(built.rows), built.dropped) == (2, {"turns_not_matched": 1})


@pytest.mark.parametrize("bound", [{"max_length_ratio": 0.9}, {"max_turn_gap": -1}])
def test_a_bound_that_no_pair_can_meet_is_refused(renderer, bound):
    with pytest.raises(ValueError, match=f"{next(iter(bound))} must be at least"):
        preference_rows([], renderer, **bound)
