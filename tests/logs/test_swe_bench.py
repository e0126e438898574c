import json

import pytest

from specact_rl.errors import RolloutFormatError
from specact_rl.logs import IMPORTERS
from specact_rl.logs.groups import official_score

import_swe = IMPORTERS["swe_bench"]


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def board(*results):
    return {"leaderboards": [{"name": "bash-only", "results": list(results)}]}


def entry(name, resolved, *flags):
    details = {
        f"org__repo-{i}": {"resolved": flag, "cost": 0.5, "api_calls": i}
        for i, flag in enumerate(flags)
    }
    return {"name": name, "resolved": resolved, "per_instance_details": details}


def test_instances_of_a_leaderboard_are_outcomes_with_their_cost(tmp_path):
    result = import_swe(write(tmp_path / "l.json", board(entry("m", 50.0, True, False))))
    first, second = result.rollouts
    assert (first.task_id, first.family, first.policy) == ("org__repo-0", "org__repo", "m")
    assert [r.success for r in result.rollouts] == [True, False]
    assert second.info == {"cost_usd": 0.5, "model_calls": 1, "scored": False}
    assert (first.steps, first.messages) == ([], [{"role": "user", "content": "org__repo-0"}])
    assert (result.dropped, result.flags) == ({}, [])


def test_labels_that_do_not_add_up_to_the_headline_are_withheld(tmp_path):
    rows = board(entry("broken", 53.0, True, False), entry("sound", 50.4, True, False))
    result = import_swe(write(tmp_path / "l.json", rows))
    assert [official_score(r) for r in result.rollouts] == [None, None, True, False]
    (flag,) = result.flags
    assert (flag.kind, flag.group) == ("labels_withheld", "broken")
    assert "resolved in 50.0 %, its headline says 53.0 %" in flag.detail


def test_models_and_instances_without_a_flag_are_counted(tmp_path):
    half = entry("m", None, True)
    half["per_instance_details"]["org__repo-9"] = {"cost": 1}
    rows = board({"name": "headline only", "resolved": 9.0}, half, entry("m", None, True))
    result = import_swe(write(tmp_path / "l.json", rows))
    assert len(result.rollouts) == 1
    assert result.dropped == {"no_per_instance": 1, "malformed_instance": 1, "duplicate_id": 1}


def test_a_run_report_tells_failures_from_breakdowns(tmp_path):
    report = {"resolved_ids": ["a-1"], "unresolved_ids": ["a-2"], "error_ids": ["a-3"]}
    result = import_swe(write(tmp_path / "gpt.run1.json", report))
    assert [(r.policy, r.success, official_score(r)) for r in result.rollouts] == [
        ("gpt", True, True),
        ("gpt", False, False),
        ("gpt", None, False),
    ]
    assert [f.kind for f in result.flags] == ["harness_errors"]


def test_reports_of_instances_take_the_model_from_their_folder(tmp_path):
    for name, resolved in (("a-1", True), ("a-2", False)):
        write(tmp_path / "gpt" / name / "report.json", {name: {"resolved": resolved}})
    result = import_swe(tmp_path)
    assert [(r.policy, r.task_id, r.success) for r in result.rollouts] == [
        ("gpt", "a-1", True),
        ("gpt", "a-2", False),
    ]


@pytest.mark.parametrize("value", [{}, [], {"a-1": {"resolved": "yes"}}, {"leaderboards": 3}])
def test_a_file_of_another_form_is_refused_by_name(tmp_path, value):
    with pytest.raises(RolloutFormatError, match=r"x\.json: must (be|hold)"):
        import_swe(write(tmp_path / "x.json", value))


def test_a_state_of_swe_bench_cl_has_two_runs_of_a_model_as_trials(tmp_path):
    def answered(**results):
        return {f"org__repo-{i[1:]}": {"harness_result": r} for i, r in results.items()}

    runs = {"memory_enabled": answered(i1=False, i2="?"), "memory_disabled": answered(i1=True)}
    result = import_swe(write(tmp_path / "eval_state.json", {"task_eval_progress": {"g": runs}}))
    assert [(r.task_id, r.info["run"], r.trial, r.success) for r in result.rollouts] == [
        ("org__repo-1", "memory_disabled", 0, True),
        ("org__repo-1", "memory_enabled", 1, False),
    ]
    assert result.dropped == {"malformed_instance": 1}
    assert [flag.kind for flag in result.flags] == ["unknown_faults"]
