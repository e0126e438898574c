import pytest

from specact_rl.actions.canonical import action_hash
from specact_rl.actions.schema import argument_problem, find_tool
from specact_rl.mining.hard_negatives import variations
from specact_rl.mining.pairs import mine_pairs
from specact_rl.mining.task_tables import MiningOptions


def made_up(step):
    return [
        (kind, action.tool, *action.arguments.values())
        for kind, action in variations(step, MiningOptions())
    ]


def mine(rollouts, proposals=(), **options):
    options = MiningOptions(**options)
    return mine_pairs(
        rollouts, proposals, strategies=["hard_negative"], options=options, max_per_task=100
    )


def test_variations_change_one_value_to_one_shown_or_the_tool_to_a_sibling(make):
    reference = make.call("read_file", file="f1")
    step = make.rollout([(reference, "a", reference)], request="Read f1, not f2 or 12.").step(0)
    # f2 is the only other handle shown; delete_file takes the same argument, and so does secret,
    # which is not documented
    assert sorted(made_up(step)) == [
        ("other_value", "read_file", "f2"),
        ("sibling_tool", "delete_file", "f1"),
    ]


def test_enum_values_and_earlier_arguments_are_tried(make):
    reference = make.call("rank", ticket="t4", level="low")
    first = (make.call("rank", ticket="t7", level="low"), "done")
    step = make.rollout([first, (reference, "done", reference)], request="Go.").step(1)
    assert sorted(made_up(step)) == [
        ("other_value", "rank", "t4", "high"),
        ("other_value", "rank", "t7", "low"),
    ]


def test_plain_words_count_only_where_a_tool_result_showed_them(make):
    reference = make.call("find", query="maple")
    first = (make.call("read_file", file="f1"), "color birch")
    step = make.rollout([first, (reference, "none", reference)], request="Look for wood").step(1)
    assert {value for kind, _, value in made_up(step) if kind == "other_value"} == {
        "color",
        "birch",
    }


def test_a_record_of_the_same_kind_comes_before_others(make):
    reference = make.call("read_file", file="f1")
    step = make.rollout([(reference, "a", reference)], request="t5 t6 f9 f8 t7").step(0)
    values = [value for kind, _, value in made_up(step) if kind == "other_value"]
    assert set(values[:2]) == {"f8", "f9"}
    assert set(values[2:]) == {"t5", "t6", "t7"}


def test_variations_fit_their_schema_and_are_never_the_reference(make):
    reference = make.call("rank", ticket="t4", level="low")
    step = make.rollout([(reference, "done", reference)], request="t1 t2 low high f3").step(0)
    found = list(variations(step, MiningOptions()))
    assert found
    for _, action in found:
        tool = find_tool(action.tool, step.tools)
        assert argument_problem(action.arguments, tool.parameters) is None
        assert action_hash(action, step.tools) != action_hash(reference, step.tools)


def test_text_references_have_no_variations(make):
    result = mine([make.rollout([(make.say("Done"), None, make.say("Done"))])])
    assert result.dropped == {"hard_negative:text_reference": 1}


def test_steps_without_a_reference_are_counted(make):
    result = mine([make.rollout([make.say("Done")])])
    assert result.dropped == {"hard_negative:no_reference": 1}


@pytest.fixture
def logged(make):
    reference = make.call("read_file", file="f1")
    return make.rollout([(reference, "a", reference)], request="Read f1, not f2.")


def test_the_models_own_likeliest_error_comes_first(make, logged):
    errors = [
        make.proposal(
            logged.step(0), make.call("find", query=text), False, sample=i, logprob=logprob
        )
        for i, (text, logprob) in enumerate([("x", -4.0), ("y", -1.0)])
    ]
    [pair] = mine([logged], errors).pairs
    assert (pair.rejected.source, pair.rejected.action.arguments) == ("m", {"query": "y"})


def test_known_acceptable_and_unknown_proposals_are_no_negatives(make, logged):
    proposals = [
        make.proposal(logged.step(0), make.call("delete_file", file="f1"), True),
        make.proposal(logged.step(0), make.call("read_file", file="f2"), None, sample=1),
    ]
    result = mine([logged], proposals, max_per_step=5)
    assert result.dropped == {"hard_negative:no_variation": 1}


@pytest.mark.parametrize(
    ("verdict", "reason"), [(True, "variation_acceptable"), (None, "variation_unknown")]
)
def test_a_judge_must_say_no(logged, verdict, reason):
    def judge(step, action):
        return False if action.tool == "delete_file" else verdict

    result = mine([logged], max_per_step=5, is_acceptable=judge)
    assert [pair.rejected.action.tool for pair in result.pairs] == ["delete_file"]
    assert result.dropped == {f"hard_negative:{reason}": 1}


def test_a_judge_is_not_asked_more_than_needed(logged):
    asked = []

    def judge(step, action):
        asked.append(action)
        return False

    assert len(mine([logged], max_per_step=1, is_acceptable=judge).pairs) == 1
    assert len(asked) == 1
