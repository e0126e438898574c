from dataclasses import replace

import pytest

from specact_rl.logs.responses import response_proposal
from specact_rl.mining.labels import (
    LabelCounts,
    LabelDisagreement,
    count_labels,
    label_disagreement,
    without_faulty_labels,
)
from specact_rl.mining.pairs import mine_pairs
from specact_rl.types import StepRecord


@pytest.fixture
def proposal(make):
    """`proposal(acceptable, match_level, source)`"""

    def labelled(acceptable, match_level="none", source="cost_to_go"):
        step = make.rollout([make.say("Done")]).step(0)
        return make.proposal(
            step, make.say("Done"), acceptable, match_level=match_level, label_source=source
        )

    return labelled


def test_labels_are_counted_by_source_and_unknown_is_not_false(proposal):
    rows = [
        proposal(True),
        proposal(True),
        proposal(False),
        proposal(None),
        proposal(False, source="score_file"),
        StepRecord(index=0, message_index=0, executed=None),
    ]
    counts = count_labels(rows)
    assert counts == {
        "cost_to_go": LabelCounts(num_acceptable=2, num_not_acceptable=1, num_unknown=1),
        "none": LabelCounts(num_acceptable=0, num_not_acceptable=0, num_unknown=1),
        "score_file": LabelCounts(num_acceptable=0, num_not_acceptable=1, num_unknown=0),
    }
    assert counts["cost_to_go"].acceptable_rate == pytest.approx(2 / 3)
    assert counts["none"].acceptable_rate is None


def test_disagreement_tells_its_two_directions_apart(proposal):
    rows = [
        proposal(True, "arguments"),
        proposal(True, "tool"),
        proposal(True, "none"),
        proposal(False, "arguments"),
        proposal(False, "tool"),
        proposal(None, "arguments"),
    ]
    (found,) = label_disagreement(rows).values()
    assert found == LabelDisagreement(
        num_known=5, num_acceptable_unmatched=2, num_matched_not_acceptable=1
    )
    assert found.rate == pytest.approx(3 / 5)


def test_labels_made_by_matching_never_disagree_with_it(proposal):
    rows = [proposal(level == "arguments", level) for level in ("none", "type", "arguments")]
    assert label_disagreement(rows)["cost_to_go"].rate == 0.0


def test_without_known_labels_there_is_no_rate(proposal):
    assert label_disagreement([proposal(None)]) == {}
    assert count_labels([]) == {}
    empty = LabelDisagreement(num_known=0, num_acceptable_unmatched=0, num_matched_not_acceptable=0)
    assert empty.rate is None


def test_a_logged_response_that_failed_by_its_format_is_an_unknown_action(make):
    def logged(policy, trial, success, **info):
        turn = make.call("read_file", file="f1")
        return make.rollout([turn], policy=policy, trial=trial, success=success, info=info)

    fenced = logged("m", 1, False, fault="format_error")
    rollouts = [logged("m", 0, False), fenced, logged("n", 0, True, fault="late")]
    proposals = [response_proposal(r, r.trial) for r in rollouts]
    found = without_faulty_labels(proposals, reversed(rollouts))
    assert [p.acceptable for p in found] == [False, None, True]
    # as the study of logs names a trial that is an agent of its own
    apart = replace(proposals[1], model_id="m#2", sample=0)
    # a model that is asked anew, and happens to have that name, is judged by what it did then
    asked = replace(proposals[1], label_source="cost_to_go")
    assert [p.acceptable for p in without_faulty_labels([apart, asked], rollouts)] == [None, False]


def test_a_refused_format_is_on_no_side_of_a_pair_at_one_step(make):
    right = make.rollout([make.call("read_file", file="f1")], policy="a", success=True)
    wrong = make.rollout([make.call("read_file", file="f2")], policy="b", success=False)
    proposals = [response_proposal(r, 0, right.step(0)) for r in (right, wrong)]
    assert len(mine_pairs([right, wrong], proposals, strategies=["same_prefix"]).pairs) == 1
    fenced = replace(wrong, info={"fault": "format_error"})
    result = mine_pairs([right, fenced], proposals, strategies=["same_prefix"])
    assert result.dropped == {"same_prefix:unknown_label": 1, "same_prefix:no_unacceptable": 1}
