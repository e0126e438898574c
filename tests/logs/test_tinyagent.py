import json

import pytest

from specact_rl.errors import RolloutFormatError
from specact_rl.logs import IMPORTERS
from specact_rl.logs.tinyagent import parse_plan
from specact_rl.types import Action

import_tinyagent = IMPORTERS["tinyagent"]
GOLD = [
    {
        "question": "Text Ann.",
        "tools": ["send_sms", "get_phone_number"],
        "full_example": 'Question: Text Ann.\n1. get_phone_number("Ann")\n'
        '2. send_sms(["$1"], "Hi")\n3. join()<END_OF_PLAN>\n',
    },
    {"question": "Sum.", "tools": ["x"], "full_example": 'Question: Sum.\n1. summarize_pdf("a")\n'},
]


def write(path, value):
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('1. f("a", 2)\n2. join()<END_OF_PLAN>', [("f", ["a", 2])]),
        ('1. f("a")\n2. join()\n3. g()', [("f", ["a"])]),
        ("1. f($1, [$2])", [("f", ["$1", ["$2"]])]),
        ('1. f("see $1, and $2")', [("f", ["see $1, and $2"])]),
        ('1. f("a")  # for now\nThought: done.\n2. g()', [("f", ["a"]), ("g", [])]),
        ('1. f("it\'s (1. here)")', [("f", ["it's (1. here)"])]),
        ("I cannot.", []),
        ("1. f(", None),
        ("1. f(g(1))", None),
        ("1. f(a=1)", None),
        ("1. just words", None),
    ],
)
def test_a_plan_is_its_calls_before_join(text, calls):
    assert parse_plan(text) == calls


def test_a_gold_plan_is_a_step_a_call_with_named_arguments(tmp_path):
    result = import_tinyagent(write(tmp_path / "a.json", GOLD))
    rollout = result.rollouts[0]
    assert [s.executed for s in rollout.steps] == [
        Action(type="retrieval", tool="get_phone_number", arguments={"name": "Ann"}),
        Action(
            type="tool_call", tool="send_sms", arguments={"recipients": ["$1"], "message": "Hi"}
        ),
    ]
    assert [s.message_index for s in rollout.steps] == [1, 2]
    assert {(s.acceptable, s.label_source) for s in rollout.steps} == {(True, "reference_plan")}
    assert (rollout.success, rollout.policy) == (True, "reference_plan")


def test_the_tools_of_a_task_do_not_give_its_plan_away(tmp_path):
    result = import_tinyagent(write(tmp_path / "a.json", GOLD))
    catalogues = [[t.name for t in r.tools] for r in result.rollouts]
    assert catalogues == [["get_phone_number", "send_sms", "summarize_pdf"]] * 2


def test_runs_are_trials_without_labels_of_the_same_task(tmp_path):
    run = {"run_index": 0, "query": "Text Ann.", "raw_output": '1. send_sms(["Ann"], "Hi", 3)'}
    broken = {**run, "raw_output": "1. send_sms("}
    silent = {**run, "raw_output": "I will not."}
    lines = "\n".join(map(json.dumps, [run, run, broken, silent]))
    (tmp_path / "runs.jsonl").write_text(lines)
    write(tmp_path / "a.json", GOLD)
    result = import_tinyagent(tmp_path)
    gold, _, first, second = result.rollouts
    assert (first.task_id, first.trial, second.trial) == (gold.task_id, 0, 1)
    assert (first.success, first.steps[0].acceptable) == (None, None)
    assert first.steps[0].executed.arguments == {"recipients": ["Ann"], "message": "Hi", "arg3": 3}
    assert result.dropped == {"broken_plan": 1, "no_plan": 1}


@pytest.mark.parametrize("value", [{}, [{"question": "Q"}], [{"query": "Q", "raw_output": 3}], [3]])
def test_a_file_of_another_form_is_refused_by_name(tmp_path, value):
    with pytest.raises(RolloutFormatError, match=r"x\.json: "):
        import_tinyagent(write(tmp_path / "x.json", value))
