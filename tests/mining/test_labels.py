import pytest

from specact_rl.mining.labels import (
    LabelCounts,
    LabelDisagreement,
    count_labels,
    label_disagreement,
)
from specact_rl.types import Proposal, StepRecord


def proposal(acceptable, match_level="none", source="cost_to_go"):
    return Proposal(
        proposal_id="p",
        step_id="s",
        task_id="t",
        model_id="m",
        sample=0,
        mode="generate",
        text="",
        action=None,
        parse_error="empty text",
        match_level=match_level,
        same_state=None,
        acceptable=acceptable,
        label_source=source,
        logprob=None,
        num_candidates=None,
        num_prompt_tokens=1,
        num_cached_tokens=0,
        num_completion_tokens=1,
        seconds=0.0,
    )


def test_labels_are_counted_by_source_and_unknown_is_not_false():
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


def test_disagreement_tells_its_two_directions_apart():
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


def test_labels_made_by_matching_never_disagree_with_it():
    rows = [proposal(level == "arguments", level) for level in ("none", "type", "arguments")]
    assert label_disagreement(rows)["cost_to_go"].rate == 0.0


def test_without_known_labels_there_is_no_rate():
    assert label_disagreement([proposal(None)]) == {}
    assert count_labels([]) == {}
    empty = LabelDisagreement(num_known=0, num_acceptable_unmatched=0, num_matched_not_acceptable=0)
    assert empty.rate is None
