import pytest

from specact_rl.mining.labels import (
    LabelCounts,
    LabelDisagreement,
    count_labels,
    label_disagreement,
)
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
