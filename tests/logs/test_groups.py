from dataclasses import replace

import pytest

from specact_rl.logs.groups import MIN_GROUP, finished, official_score, withheld


def category(make, verdicts, family="hard"):
    """One labelled step a rollout; verdicts by policy, a digit a task."""
    rollouts = []
    for policy, outcomes in verdicts.items():
        for i, outcome in enumerate(outcomes):
            rollout = make.rollout(
                [make.say("Done")], task=f"{family}{i}", policy=policy, family=family,
                success=outcome == "1",
            )  # fmt: skip
            step = replace(rollout.steps[0], acceptable=rollout.success, label_source="score_file")
            rollouts.append(replace(rollout, steps=[step]))
    return rollouts


def labels(rollouts):
    return {step.acceptable for rollout in rollouts for step in rollout.steps}


def test_steps_of_a_category_that_all_models_fail_are_no_negatives(make):
    result = finished(category(make, {"m": "00000", "n": "00000"}), {})
    assert [flag.kind for flag in result.flags] == ["degenerate_group"]
    assert labels(result.rollouts) == {None}
    assert {rollout.success for rollout in result.rollouts} == {False}


@pytest.mark.parametrize(
    "verdicts",
    [
        {"m": "00000"},  # one model may just be weak
        {"m": "00000", "n": "00001"},
        {"m": "0" * (MIN_GROUP - 1), "n": "0" * (MIN_GROUP - 1)},
    ],
)
def test_steps_of_a_category_that_may_be_hard_keep_their_labels(make, verdicts):
    assert False in labels(finished(category(make, verdicts), {}).rollouts)


def test_a_category_that_all_models_solve_keeps_its_labels(make):
    assert labels(finished(category(make, {"m": "11111", "n": "11111"}), {}).rollouts) == {True}


def test_what_is_withheld_is_no_label_and_stays_the_official_score(make):
    (rollout,) = category(make, {"m": "0"})
    rollout = withheld(replace(rollout, info={"scored": False}), "server_error")
    assert (rollout.success, rollout.info["fault"]) == (None, "server_error")
    assert labels([rollout]) == {None}
    assert official_score(rollout) is False
