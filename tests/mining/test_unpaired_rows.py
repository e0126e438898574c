from collections import Counter
from dataclasses import replace

import pytest

from specact_rl.mining.pairs import group_by_task
from specact_rl.mining.unpaired_rows import Copies, Judgement, judged_actions, unpaired_row
from specact_rl.rendering import check_parity


@pytest.fixture
def read(make):
    return make.call("read_file", file="f1")


@pytest.fixture
def tidy(make):
    return make.call("delete_file", file="f1")


def judged(rollouts, proposals=(), dropped=None, **judgement):
    dropped = Counter() if dropped is None else dropped
    return [
        action
        for task in group_by_task(rollouts, proposals)
        for action in judged_actions(task, Judgement(**judgement), dropped)
    ]


def values(actions):
    return [(action.side.source_id, action.value) for action in actions]


def test_a_proposal_is_worth_its_label(make, read, tidy):
    rollout = make.rollout([read])
    step = rollout.step(0)
    offers = [make.proposal(step, tidy, True), make.proposal(step, read, False, sample=1)]
    offers.append(make.proposal(step, "oops", False, sample=2))
    assert [action.value for action in judged([rollout], offers)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(("level", "value"), [("tool", 1.0), ("arguments", 0.0)])
def test_a_proposal_is_worth_its_match_at_the_level_that_is_asked_for(make, read, level, value):
    rollout = make.rollout([(read, "text", read)])
    offer = make.proposal(rollout.step(0), read, None, match_level="tool")
    assert [a.value for a in judged([rollout], [offer], judged_by="match", level=level)] == [value]


def test_a_match_is_unknown_where_there_is_no_reference(make, read):
    rollout, dropped = make.rollout([read]), Counter()
    offer = make.proposal(rollout.step(0), read, True)
    assert judged([rollout], [offer], dropped, judged_by="match") == []
    assert dropped["unknown_value"] == 1


def test_a_logged_action_is_held_against_its_reference(make, read, tidy):
    rollout = make.rollout([(read, "text", read), (tidy, "gone", read)])
    found = judged([rollout], judged_by="match", sources=("executed",))
    assert [action.value for action in found] == [1.0, 0.0]


def test_every_logged_action_has_the_outcome_of_its_rollout(make, read, tidy):
    rollouts = [
        make.rollout([(read, "text"), tidy], name="a", success=True),
        make.rollout([tidy], name="b", success=False),
        make.rollout([tidy], name="c", success=False, info={"fault": "format"}),
        make.rollout([tidy], name="d"),
    ]
    dropped = Counter()
    found = judged(rollouts, dropped=dropped, judged_by="outcome", sources=("executed",))
    assert values(found) == [("a", 1.0), ("a", 1.0), ("b", 0.0)]
    assert dropped["unknown_value"] == 2


def test_a_proposal_is_worth_what_a_verifier_said(make, read, tidy):
    rollout = make.rollout([read])
    offers = [make.proposal(rollout.step(0), a, True, sample=i) for i, a in enumerate([read, tidy])]
    scores = {offers[0].proposal_id: -2.5, offers[1].proposal_id: None}
    found = judged([rollout], offers, judged_by="score", scores=scores)
    assert [action.value for action in found] == [-2.5]


def test_a_score_that_is_no_number_is_refused(make, read):
    rollout = make.rollout([read])
    offer = make.proposal(rollout.step(0), read, True)
    with pytest.raises(ValueError, match="finite number, got nan"):
        judged([rollout], [offer], judged_by="score", scores={offer.proposal_id: float("nan")})


def test_a_reference_is_right(make, read, tidy):
    rollout, dropped = make.rollout([(tidy, "gone", read), tidy]), Counter()
    [found] = judged([rollout], dropped=dropped, sources=("reference",))
    assert (found.side.action, found.value) == (read, 1.0)
    assert dropped["no_reference"] == 1


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"finished": False}, "cut_off"),
        ({"mode": "rank"}, "ranked"),
        ({"acceptable": None}, "unknown_value"),
        ({"action": None, "text": " "}, "empty_text"),
    ],
)
def test_what_is_no_completion_of_known_value_is_counted(make, read, fields, reason):
    rollout, dropped = make.rollout([read]), Counter()
    offer = replace(make.proposal(rollout.step(0), read, True), **fields)
    assert judged([rollout], [offer], dropped) == []
    assert {name for name, count in dropped.items() if count} == {reason}


def test_a_logged_text_that_was_cut_off_is_no_completion(make):
    rollout, dropped = make.rollout(["oops"], success=False), Counter()
    [record] = rollout.steps
    rollout = replace(rollout, steps=[replace(record, finished=False)])
    assert judged([rollout], dropped=dropped, judged_by="outcome", sources=("executed",)) == []
    assert dropped["cut_off"] == 1


def test_equal_actions_after_equal_prompts_are_copies_with_a_mean(make, read, tidy):
    rollouts = [
        make.rollout([read], name=name, success=success)
        for name, success in [("a", True), ("b", False), ("c", False)]
    ]
    rollouts.append(make.rollout([tidy], name="d", success=True))
    rollouts.append(make.rollout([read], name="e", success=True, request="Else."))
    found = judged(rollouts, judged_by="outcome", sources=("executed",))
    copies = Copies()
    for action in reversed(found):
        copies.add(action)
    first = [action for action in found if copies.is_first(action)]
    assert [action.side.source_id for action in first] == ["a", "d", "e"]
    assert [copies.number(action) for action in first] == [3, 1, 1]
    assert [copies.mean(action) for action in first] == [pytest.approx(1 / 3), 1.0, 1.0]
    assert [copies.agree(action) for action in first] == [False, True, True]
    assert copies.num_duplicates == 2


def test_the_source_that_is_named_first_is_written(make, read):
    rollout = make.rollout([(read, "text", read)])
    offer = make.proposal(rollout.step(0), read, True)
    for sources in [("proposals", "reference"), ("reference", "proposals")]:
        found, copies = judged([rollout], [offer], sources=sources), Copies()
        for action in found:
            copies.add(action)
        [first] = [action for action in found if copies.is_first(action)]
        assert first.side.source == {"proposals": "m", "reference": "reference"}[sources[0]]


@pytest.mark.parametrize("done", ["<tool_call> oops", None], ids=["unparsable", "parsed"])
def test_a_row_has_the_tokens_of_inference(make, read, renderer, done):
    rollout = make.rollout([done or read])
    offer = make.proposal(rollout.step(0), done or read, False)
    [action] = judged([rollout], [offer])
    row = unpaired_row(action, renderer, 2, label=False)
    check_parity([row], renderer)
    assert row["num_completion_tokens"] == len(
        renderer.message_completion_ids(row["completion"][0])
    )
    assert row["num_samples"] == 2
    assert row["action_type"] == ("unparsable" if done else "tool_call")


@pytest.mark.parametrize(
    "judgement",
    [
        {"judged_by": "outcome"},
        {"judged_by": "score", "sources": ("executed",)},
        {"sources": ()},
        {"judged_by": "taste"},
    ],
    ids=str,
)
def test_sources_that_cannot_be_judged_are_refused(judgement):
    with pytest.raises(ValueError, match="must be one of|needs sources among"):
        Judgement(**judgement)
