import pytest

from specact_rl.mining.pair_report import (
    Distances,
    count_partings,
    distances_in_words,
    distances_of,
    lengths_in_words,
    partings_in_words,
    total_places,
)
from specact_rl.mining.rows import LengthGap

READ = ("read", "f1")


def rollout(make, *turns, success, trial=0, task="t1", **fields):
    """Turns are (what was done, what came back); "read" reads a file."""
    made = [
        (make.call("read_file", file="f1") if done == "read" else make.say(done), reply)
        for done, reply in turns
    ]
    return make.rollout(made, success=success, trial=trial, task=task, **fields)


@pytest.mark.parametrize(
    ("ours", "theirs", "place"),
    [
        ([READ], [("Which?", "f1")], "action"),
        ([("Which?", "f1")], [("Which?", "f2")], "later_user_message"),
        ([("read", "a")], [("read", "b")], "tool_result"),
        ([READ], [READ], "nowhere"),
        ([READ], [READ, ("Done", None)], "nowhere"),
    ],
)
def test_two_rollouts_part_at_the_first_message_that_differs(make, ours, theirs, place):
    good = rollout(make, *ours, success=True)
    bad = rollout(make, *theirs, success=False, trial=1)
    assert count_partings([good, bad]) == {"f": {place: 1}}


def test_the_first_words_of_a_user_are_told_from_later_ones(make):
    good = rollout(make, READ, success=True)
    bad = rollout(make, READ, success=False, trial=1, request="Tidy up, please.")
    assert count_partings([good, bad]) == {"f": {"first_user_message": 1}}


def test_rollouts_with_other_tools_or_another_policy_text_part_at_the_start(make):
    good = rollout(make, READ, success=True)
    other = rollout(make, READ, success=False, trial=1, tools=[])
    assert count_partings([good, other]) == {"f": {"different_tools": 1}}
    other = rollout(make, READ, success=False, trial=1)
    other.messages[0]["content"] = "Help more."
    assert count_partings([good, other]) == {"f": {"start": 1}}


def test_logs_of_verdicts_alone_part_nowhere_that_could_be_seen(make):
    rollouts = [rollout(make, success=outcome, trial=outcome) for outcome in (True, False)]
    assert count_partings(rollouts) == {"f": {"no_steps": 1}}
    assert partings_in_words({"no_steps": 1}).endswith("1 have no steps in the log.")


def test_every_success_is_held_against_every_failure_of_its_task_alone(make):
    rollouts = [
        rollout(make, READ, success=outcome, trial=i, task=task, family=family)
        for task, family, outcomes in (("a", "x", [1, 1, 0]), ("b", "x", [1, 0]), ("c", "y", [1]))
        for i, outcome in enumerate(map(bool, outcomes))
    ]
    rollouts.append(rollout(make, READ, success=None, trial=9, task="c", family="y"))
    assert count_partings(rollouts) == {"x": {"nowhere": 3}}


def test_counts_of_categories_add_up():
    assert total_places({"x": {"action": 2}, "y": {"action": 1, "nowhere": 4}}) == {
        "action": 3,
        "nowhere": 4,
    }


def test_words_on_a_simulated_user_say_that_divergence_finds_nothing():
    text = partings_in_words({"first_user_message": 86, "later_user_message": 2})
    assert "Of 88 pairs" in text
    assert "88 part at a user's message (86 of them at the first one), 0 at an action" in text
    assert "`divergence` finds nothing" in text


def test_words_on_other_partings():
    text = partings_in_words({"action": 5, "tool_result": 2, "nowhere": 1})
    assert text.endswith("5 at an action of the agent, 2 part at a tool's result, 1 never part.")
    assert "has only the 5 left" in partings_in_words({"action": 5, "later_user_message": 1})
    assert partings_in_words({}) == ""


def test_distances_are_spread_around_their_median():
    found = distances_of([0.5, 0.1, 0.2])
    assert found == Distances(num_pairs=3, smallest=0.1, median=0.2, largest=0.5)
    text = distances_in_words(found, 4)
    assert "3 pairs, whose histories differ by 0.20 in the median, 0.10 to 0.50" in text
    assert text.endswith("4 more lie too far apart.")
    assert distances_of([]) is None
    assert distances_in_words(None, 0) == "`approx_prefix` finds no pair."


GAPS = {
    "outcome": LengthGap(
        num_pairs=8, mean_tokens=-3.25, median_tokens=0, share_chosen_longer=0.375, mean_turns=1.5
    )
}


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((None, None), "are not matched in length (--max-length-ratio): what is trained"),
        ((1.5, None), "are matched in length: the longer one has at most 1.5 times the tokens"),
        ((2.0, 3), "at most 2 times the tokens of the other and at most 3 more or fewer messages."),
        ((None, 3), "not matched in length (--max-length-ratio); they have at most 3 more or"),
    ],
)
def test_words_say_whether_lengths_are_matched_and_which_side_is_longer(bounds, said):
    first, second = lengths_in_words(GAPS, max_length_ratio=bounds[0], max_turn_gap=bounds[1])
    assert said in first
    assert "longer side in 37.5 % of 8 pairs (ties count half), by -3.2 tokens and +1.5" in second
