import json

import pytest

from specact_rl.errors import ConfigError, RolloutFormatError
from specact_rl.logs import IMPORTERS
from specact_rl.logs.groups import official_score
from specact_rl.mining.pairs import mine_pairs
from specact_rl.store import read_jsonl, write_jsonl
from specact_rl.types import Action, Rollout

import_bfcl = IMPORTERS["bfcl"]
OLD = "gorilla_openfunctions_v1_test_"
TEMPERATURE = {
    "name": "room.temperature",
    "description": "Temperature of a room.",
    "parameters": {
        "type": "dict",
        "properties": {
            "room": {"type": "string", "description": "Which."},
            "scale": {"type": "float", "description": "How."},
        },
        "required": ["room"],
    },
}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def summary(total, failed):
    correct = total - failed
    return {"accuracy": correct / total, "correct_count": correct, "total_count": total}


def write_old(root, model, results, failures, category="simple", total=None):
    """A model's files in the August 2024 layout; failures by 0-based number."""
    rows = [{"id": f"{category}_{i}", "result": result} for i, result in enumerate(results)]
    write_lines(root / "result" / model / f"{OLD}{category}_result.json", rows)
    failed = [
        {
            "id": i + 1,
            "valid": False,
            "error_type": kind,
            "prompt": {"id": f"{category}_{i}", "question": "Q"},
            "possible_answer": {"secret": ["gold"]},
        }
        for i, kind in failures.items()
    ]
    head = summary(total or len(results), len(failures))
    write_lines(root / "score" / model / f"{category}_score.json", [head, *failed])


@pytest.fixture
def old(tmp_path):
    questions = [
        {"id": f"simple_{i}", "question": f"How warm is room {i}?", "function": TEMPERATURE}
        for i in range(4)
    ]
    write_lines(tmp_path / "question" / f"{OLD}simple.json", questions)
    write_lines(
        tmp_path / "question" / "possible_answer" / f"{OLD}simple.json",
        [{"id": "simple_0", "ground_truth": {"room.temperature": {"room": ["gold"]}}}],
    )
    responses = [
        "[room.temperature(room='0', scale=1.5)]",
        [{"room_temperature": '{"room": "1"}'}],
        "I cannot tell.",
        "[room.temperature(room='3'), room.temperature(room='4')]",
    ]
    write_old(tmp_path, "small", responses, {2: "ast_decoder:x", 3: "wrong_count"})
    return tmp_path


def by_task(result, model="small"):
    return {r.task_id: r for r in result.rollouts if r.policy == model}


def test_a_result_is_right_when_the_score_file_does_not_list_it(old):
    rollouts = by_task(import_bfcl(old))
    assert [rollouts[f"simple_{i}"].success for i in range(4)] == [True, True, False, False]
    step = rollouts["simple_0"].steps[0]
    assert (step.acceptable, step.label_source) == (True, "score_file")


def test_a_single_call_is_the_action_under_the_catalogues_name(old):
    rollouts = by_task(import_bfcl(old))
    assert rollouts["simple_0"].steps[0].executed == Action(
        type="tool_call", tool="room.temperature", arguments={"room": "0", "scale": 1.5}
    )
    assert rollouts["simple_1"].steps[0].executed == Action(
        type="tool_call", tool="room.temperature", arguments={"room": "1"}
    )
    assert rollouts["simple_2"].steps[0].executed == Action(type="BLOCKED", text="I cannot tell.")


def test_several_calls_are_one_step_without_a_single_action(old):
    rollout = by_task(import_bfcl(old))["simple_3"]
    assert rollout.steps[0].executed is None
    assert rollout.steps[0].executed_text == rollout.info["response"]
    assert len(rollout.messages[-1]["tool_calls"]) == 2


def test_an_empty_list_of_calls_is_no_text_that_the_model_wrote(old):
    # Function-calling output: what was said instead is not in the log, and "[]" is nobody's word.
    write_old(old, "small", [[], "[]", "x", "y"], {0: "wrong_count"})
    rollouts = by_task(import_bfcl(old))
    (step,) = rollouts["simple_0"].steps
    assert (step.executed, step.executed_text, step.acceptable) == (None, None, False)
    assert rollouts["simple_1"].steps[0].executed.text == "[]"


def test_types_of_parameters_are_those_of_json_schema(old):
    tool = import_bfcl(old).rollouts[0].tools[0]
    assert tool.parameters["type"] == "object"
    assert tool.parameters["properties"]["scale"] == {"type": "number", "description": "How."}


def test_no_answer_reaches_a_rollout(old):
    for rollout in import_bfcl(old).rollouts:
        assert "gold" not in json.dumps([rollout.messages, rollout.info, str(rollout.steps)])


def test_imported_rollouts_read_back_equal(old, tmp_path):
    result = import_bfcl(old)
    write_jsonl(tmp_path / "out.jsonl", result.rollouts)
    assert read_jsonl(tmp_path / "out.jsonl", Rollout) == result.rollouts


def test_an_integer_id_counts_lines_from_one_where_no_prompt_names_the_test(old):
    write_lines(
        old / "score" / "small" / "simple_score.json",
        [summary(4, 1), {"id": 4, "error_type": "relevance_error"}],
    )
    rollouts = by_task(import_bfcl(old))
    assert [rollouts[f"simple_{i}"].success for i in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("lines", "doubt"),
    [
        ([summary(4, 2), {"id": 1}], "the summary says 2 failures, the file lists 1"),
        ([summary(4, 1), {"id": "simple_9"}], "1 failures have an id without a result"),
        ([summary(3, 0)], "4 results, but only 3 were scored"),
        ([{"id": 1}], "there is no summary line"),
    ],
)
def test_labels_are_withheld_where_a_missing_failure_would_count_as_success(old, lines, doubt):
    write_lines(old / "score" / "small" / "simple_score.json", lines)
    result = import_bfcl(old)
    assert [r.success for r in result.rollouts] == [None] * 4
    assert {r.steps[0].label_source for r in result.rollouts} == {None}
    flag = next(f for f in result.flags if f.kind == "labels_withheld")
    assert (flag.group, doubt in flag.detail) == ("small simple", True)


def test_a_score_file_without_results_is_counted_and_flagged(old):
    (old / "result" / "small" / f"{OLD}simple_result.json").rename(
        old / "result" / "small" / f"{OLD}java_result.json"
    )
    result = import_bfcl(old)
    assert result.dropped == {"no_result": 2}
    assert {r.success for r in result.rollouts} == {None}
    assert {f.kind for f in result.flags} == {"score_without_result", "no_score"}


def test_a_result_whose_question_is_not_there_is_dropped_and_counted(old):
    file = old / "question" / f"{OLD}simple.json"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    result = import_bfcl(old)
    assert result.dropped == {"no_question": 1}
    assert sorted(by_task(result)) == ["simple_1", "simple_2", "simple_3"]


def test_results_without_a_score_file_have_no_label(old):
    (old / "score" / "small" / "simple_score.json").unlink()
    result = import_bfcl(old)
    assert [official_score(r) for r in result.rollouts] == [None] * 4
    assert [f.kind for f in result.flags] == ["no_score"]


def test_a_second_result_of_a_test_is_dropped_and_counted(old):
    file = old / "result" / "small" / f"{OLD}simple_result.json"
    file.write_text(file.read_text() + json.dumps({"id": "simple_0", "result": "x"}) + "\n")
    result = import_bfcl(old)
    assert result.dropped == {"duplicate_id": 1}
    assert by_task(result)["simple_0"].steps[0].executed.tool == "room.temperature"


def test_a_line_that_is_cut_off_is_named_by_path_and_line(old):
    file = old / "result" / "small" / f"{OLD}simple_result.json"
    file.write_text(file.read_text() + '{"id": "simple_9", "res')
    with pytest.raises(RolloutFormatError, match=r"simple_result\.json:5: "):
        import_bfcl(old)


def test_without_questions_there_is_an_error_that_says_where_they_go(old):
    for file in (old / "question").glob("*.json"):
        file.unlink()
    with pytest.raises(ConfigError, match="bfcl_eval/data"):
        import_bfcl(old)


def test_rejected_formats_are_flagged_as_such(old):
    fenced = ["```json\n[room.temperature(room='1')]\n```"] * 4
    write_lines(
        old / "question" / f"{OLD}simple.json",
        [{"id": f"simple_{i}", "question": f"Q{i}", "function": TEMPERATURE} for i in range(8)],
    )
    answers = fenced * 2
    write_old(old, "small", answers, {i: "ast_decoder:decoder_failed" for i in range(7)})
    result = import_bfcl(old)
    flag = next(f for f in result.flags if f.kind == "format_failures")
    assert "7 of 7 failures" in flag.detail
    assert "(7 of them in Markdown fences), and 7 of these are calls" in flag.detail
    assert next(f for f in result.flags if f.kind == "format_errors").detail.startswith("7 ")


def test_calls_in_a_format_that_the_decoder_refused_are_no_negatives(old):
    # As gpt-4o's fences in August 2024: a score file calls all four wrong, for their format or for
    # what they call. Nobody has judged the fenced call.
    responses = ["```json\n[room.temperature(room='0')]\n```", "```json\n[room.temperature(\n```"]
    responses += ["[room.temperature(room='9')]", "I cannot tell."]
    kinds = ["ast_decoder:decoder_failed", "ast_decoder:decoder_failed", "value_error:string"]
    write_old(old, "small", responses, dict(enumerate([*kinds, "ast_decoder:wrong_format"])))
    result = import_bfcl(old)
    fenced = by_task(result)["simple_0"]
    # The response has failed; the call in it is unknown.
    assert (fenced.success, fenced.steps[0].acceptable) == (False, None)
    assert fenced.info["fault"] == "format_error"
    assert by_task(result)["simple_1"].steps[0].acceptable is False
    assert fenced.steps[0].executed.arguments == {"room": "0"}
    write_old(old, "large", ["[room.temperature(room='8')]"] * 4, {})
    pairs = mine_pairs(import_bfcl(old).rollouts, strategies=["outcome", "divergence"]).pairs
    assert {pair.task_id for pair in pairs} == {"simple_1", "simple_2", "simple_3"}


def write_v4(root, run, model, category, rows, failures, group="non_live"):
    write_lines(root / run / "result" / model / group / f"BFCL_v4_{category}_result.json", rows)
    write_lines(
        root / run / "score" / model / group / f"BFCL_v4_{category}_score.json",
        [summary(len(rows), len(failures)), *failures],
    )


def question(test, text="How warm?", **more):
    return {"id": test, "question": [[{"role": "user", "content": text}]], **more}


def test_runs_beside_each_other_are_trials_of_the_same_tasks(tmp_path):
    write_lines(
        tmp_path / "question" / "BFCL_v4_simple_python.json",
        [question("simple_python_0", function=[TEMPERATURE])],
    )
    row = {"id": "simple_python_0", "result": [{"room_temperature": '{"room": "1"}'}]}
    row |= {"input_token_count": 7, "output_token_count": 5, "latency": 0.5}
    failure = {"id": "simple_python_0", "error_type": "value_error:string"}
    write_v4(tmp_path, "b", "m", "simple_python", [row], [failure])
    write_v4(tmp_path, "a", "m", "simple_python", [row], [])
    first, second = import_bfcl(tmp_path).rollouts
    assert [(r.info["run"], r.trial, r.success) for r in (first, second)] == [
        ("a", 0, True),
        ("b", 1, False),
    ]
    assert first.rollout_id != second.rollout_id
    assert first.task_id == second.task_id
    assert second.info["error_type"] == "value_error:string"
    assert {k: first.info[k] for k in ("input_tokens", "output_tokens", "seconds")} == {
        "input_tokens": 7,
        "output_tokens": 5,
        "seconds": 0.5,
    }
    # one run alone finds the questions above it
    assert len(import_bfcl(tmp_path / "a").rollouts) == 1


def test_a_servers_error_is_no_failure_of_the_model(tmp_path):
    write_lines(
        tmp_path / "question" / "BFCL_v4_simple_python.json",
        [question(f"simple_python_{i}", f"Q{i}", function=[TEMPERATURE]) for i in range(2)],
    )
    rows = [
        {"id": "simple_python_0", "result": "Error during inference: 503", "traceback": "…"},
        {"id": "simple_python_1", "result": "[]"},
    ]
    failures = [{"id": f"simple_python_{i}", "error_type": "x"} for i in range(2)]
    write_v4(tmp_path, "a", "m", "simple_python", rows, failures)
    result = import_bfcl(tmp_path / "a")
    lost, wrong = result.rollouts
    assert (lost.success, lost.steps, official_score(lost)) == (None, [], False)
    assert (wrong.success, wrong.steps[0].acceptable) == (False, False)
    assert [f.kind for f in result.flags] == ["server_errors"]


def test_parallel_categories_without_a_second_call_are_a_harness_fault(tmp_path):
    tests = [f"parallel_{i}" for i in range(5)]
    write_lines(
        tmp_path / "question" / "BFCL_v4_parallel.json",
        [question(test, test, function=[TEMPERATURE]) for test in tests],
    )
    rows = [{"id": test, "result": [{"room_temperature": "{}"}]} for test in tests]
    failures = [{"id": test, "error_type": "wrong_count"} for test in tests]
    for model in ("m", "n"):
        write_v4(tmp_path, ".", model, "parallel", rows, failures)
    result = import_bfcl(tmp_path)
    kinds = {flag.kind: flag for flag in result.flags}
    assert set(kinds) == {"harness_fault", "lost_calls", "degenerate_group"}
    assert "none of 10 responses has more than one call" in kinds["harness_fault"].detail
    assert "all 2 models score 0 % on all 5 tasks" in kinds["degenerate_group"].detail
    assert negatives(result) == []
    assert {official_score(rollout) for rollout in result.rollouts} == {False}


def negatives(result):
    """Tasks of all rollouts and steps that the log calls wrong."""
    failed = [r.task_id for r in result.rollouts if r.success is False]
    return failed + [
        r.task_id for r in result.rollouts for step in r.steps if step.acceptable is False
    ]


def test_one_answer_of_several_calls_makes_failures_the_models_own_again(tmp_path):
    # The same as above, but one response of one model has two calls: the server can give them.
    tests = [f"parallel_{i}" for i in range(5)]
    write_lines(
        tmp_path / "question" / "BFCL_v4_parallel.json",
        [question(test, test, function=[TEMPERATURE]) for test in tests],
    )
    one = [{"room_temperature": "{}"}]
    rows = [{"id": test, "result": one * (1 + (test == "parallel_4"))} for test in tests]
    failures = [{"id": test, "error_type": "wrong_count"} for test in tests[:4]]
    write_v4(tmp_path, ".", "m", "parallel", rows, failures)
    assert sorted(negatives(import_bfcl(tmp_path))) == sorted(2 * tests[:4])


def step(calls, *results):
    log = [{"role": "assistant", "content": calls}, {"role": "handler_log", "content": "ok"}]
    return [*log, *({"role": "tool", "content": result} for result in results)]


@pytest.fixture
def multi_turn(tmp_path):
    write_lines(
        tmp_path / "question" / "BFCL_v4_multi_turn_base.json",
        [
            question(
                "multi_turn_base_0",
                initial_config={"GorillaFileSystem": {"root": {}}},
                involved_classes=["GorillaFileSystem"],
                excluded_function=["rm"],
            )
        ],
    )
    write_lines(
        tmp_path / "question" / "multi_turn_func_doc" / "gorilla_file_system.json",
        [{"name": name, "parameters": {"type": "dict"}} for name in ("cat", "touch", "rm")],
    )
    log = [
        [{"role": "state_info", "class_name": "GorillaFileSystem", "content": "SECRET"}],
        {
            "begin_of_turn_query": [{"role": "user", "content": "Make a.txt."}],
            "step_0": step([{"touch": '{"f": "x/a.txt"}'}], '{"error": "touch: no"}'),
            "step_1": step([{"touch": '{"f": "a.txt"}'}], "None"),
            "step_2": step([{"cat": '{"f": "a.txt"}'}], '{"content": ""}'),
            "step_3": step([]),
        },
        {
            "begin_of_turn_query": [{"role": "user", "content": "Both again."}],
            "step_0": step([{"cat": "{}"}, {"touch": "{}"}], "1", "2"),
            "step_1": step([{"cat": "{not json"}], "3"),
        },
    ]
    row = {
        "id": "multi_turn_base_0",
        "result": [[], []],
        "inference_log": log,
        "input_token_count": [[10, 20], [30]],
        "output_token_count": [[1, 2], [3]],
        "latency": [[0.5, 0.25], [0.25]],
    }
    failure = {
        "id": "multi_turn_base_0",
        "error": {"error_type": "multi_turn:instance_state_mismatch", "details": "SECRET"},
    }
    write_v4(tmp_path, ".", "m", "multi_turn_base", [row], [failure], group="multi_turn")
    return import_bfcl(tmp_path)


def test_a_multi_turn_log_has_a_step_for_each_single_call(multi_turn):
    (rollout,) = multi_turn.rollouts
    assert [s.executed and (s.executed.tool, s.executed.type) for s in rollout.steps] == [
        ("touch", "file_write"),
        ("touch", "repair"),
        ("cat", "verifier"),
        None,
    ]
    assert [s.message_index for s in rollout.steps] == [1, 3, 5, 11]
    assert multi_turn.dropped == {"empty_message": 1, "parallel_calls": 1}
    assert [m["role"] for m in rollout.messages] == (
        "user assistant tool assistant tool assistant tool user assistant tool tool assistant tool"
    ).split()


def test_a_multi_turn_verdict_belongs_to_the_whole(multi_turn):
    (rollout,) = multi_turn.rollouts
    assert (rollout.success, rollout.info["error_type"]) == (
        False,
        "multi_turn:instance_state_mismatch",
    )
    assert {s.acceptable for s in rollout.steps} == {None}
    assert (rollout.info["input_tokens"], rollout.info["seconds"]) == (60, 1.0)


def test_a_multi_turn_catalogue_leaves_out_what_the_test_takes_away(multi_turn):
    assert [t.name for t in multi_turn.rollouts[0].tools] == ["cat", "touch"]


def test_the_state_of_the_services_is_no_part_of_the_conversation(multi_turn):
    (rollout,) = multi_turn.rollouts
    assert "SECRET" not in json.dumps([rollout.messages, rollout.info])
