"""`specact evaluate`: the same numbers as from objects, files whole or not at all, small tables."""

import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specact_rl import cli
from specact_rl.errors import ConfigError
from specact_rl.eval.columns import ProposalColumns, StepTable, numbered
from specact_rl.eval.evaluate import calibrate, default_resamples, evaluate, run_all
from specact_rl.eval.evaluation_table import read_evaluation_table
from specact_rl.eval.joined import Outcomes
from specact_rl.eval.replay import Judged
from specact_rl.eval.results_schema import check_results, undocumented_keys
from specact_rl.eval.step_outcomes import read_step_outcomes
from specact_rl.eval.table_export import export_outcomes
from specact_rl.eval.table_outcomes import TableOutcomes, TablePlan
from specact_rl.metrics.cost import NO_MODEL, ModelSize
from specact_rl.pipeline import table_evaluation
from specact_rl.pipeline.provenance import plain_json
from specact_rl.pipeline.table_evaluation import TableEvaluation, evaluate_table
from specact_rl.policy.systems import SYSTEMS
from specact_rl.types import Action
from tests.records import make_proposal, make_step

MODELS = {"cheap": "small", "strong": "large"}
NUM_RESAMPLES = 200
OF_A_TABLE = ("verifier_id", "gate_id")
"""What a table cannot have: ids are made of its own hash."""


def objects(seed, num_tasks=60, steps_of_task=4):
    """Outcomes of both splits as records, of tasks that differ in how hard they are."""
    rng = np.random.default_rng(seed)
    outcomes = {}
    halves = {"calibration": range(num_tasks), "test": range(num_tasks, 2 * num_tasks)}
    for split, tasks in halves.items():
        steps = [
            make_step(
                f"do {task}",
                name=f"{task}/{index}",
                task_id=f"task-{task:03d}",
                family="odd" if task % 2 else "even",
                split=split,
                reference=Action(type="final_answer", text="right"),
            )
            for task in tasks
            for index in range(steps_of_task)
        ]
        n = len(steps)
        hard = rng.normal(size=2 * num_tasks)
        table = StepTable(
            steps=steps,
            task_ids=numbered(step.task_id for step in steps),
            rollouts=np.repeat(np.arange(num_tasks), steps_of_task),
            out_of_family=np.array([step.task_id.endswith("9") for step in steps]),
            reference_types=np.full(n, "final_answer"),
            families=np.array([step.family for step in steps]),
            indices=np.array([step.index for step in steps]),
            num_out_of_reach=0,
        )
        easy = np.array([hard[int(step.task_id[-3:])] for step in steps])
        columns = {
            role: proposals(table, name, easy + shift, k, rng)
            for role, name, shift, k in (("cheap", "small", 0.0, 3), ("strong", "large", 0.7, 1))
        }
        right = np.nan_to_num(columns["cheap"].acceptable)
        judged = {}
        for key, size, signal, kept in (
            ("classifier", ModelSize(num_params=5, attention_width=2), 2.5, 3),
            ("linear", NO_MODEL, 1.0, 1),
            ("strong_judge", ModelSize(num_params=9), 1.5, 1),
        ):
            log_odds = signal * (right - 0.5) + rng.logistic(size=right.shape)
            log_odds[:, kept:] = np.nan
            judged[key, "cheap"] = Judged(
                verifier_id=key,
                size=size,
                shares_strong=key == "strong_judge",
                log_odds=np.where(columns["cheap"].parsed, log_odds, np.nan),
                seconds=rng.random(right.shape),
            )
        outcomes[split] = Outcomes(
            table=table,
            columns=columns,
            judged=judged,
            sizes={
                "cheap": ModelSize(num_params=3, attention_width=1),
                "strong": ModelSize(num_params=9),
            },
        )
    return outcomes


def proposals(table, name, easy, k, rng):
    rows = []
    for i, step in enumerate(table.steps):
        for sample in range(k):
            right = bool(rng.logistic() < easy[i])
            parsed = bool(rng.random() < 0.9)
            text = "right" if right else f"wrong {rng.integers(2)}"
            rows.append(
                make_proposal(
                    step,
                    Action(type="final_answer", text=text) if parsed else text,
                    None if i % 17 == 3 else right and parsed,
                    sample=sample,
                    model=name,
                    match_level="arguments" if right and parsed else "none",
                    same_state=right,
                    num_prompt_tokens=20 + 10 * step.index,
                    num_completion_tokens=int(rng.integers(3, 9)),
                    seconds=0.1,
                    tool_seconds=0.001 * (i % 5),
                )
            )
    return ProposalColumns.of(table, rows)


def without_ids(value):
    if isinstance(value, dict):
        return {k: without_ids(v) for k, v in value.items() if k not in OF_A_TABLE}
    return [without_ids(v) for v in value] if isinstance(value, list) else value


def asked(path, **kwargs):
    plan = TablePlan(models=MODELS, seed=3, **kwargs)
    return TableEvaluation(table=path, plan=plan, num_resamples=NUM_RESAMPLES)


def test_exported_outcomes_give_the_numbers_of_the_objects(tmp_path):
    outcomes = objects(0)
    path = tmp_path / "table.parquet"
    count = export_outcomes(outcomes, path)
    assert count == pq.read_table(path).num_rows == 2 * 240 * 4
    gates = calibrate(outcomes["calibration"], calibration_hash="h", seed=3, systems=SYSTEMS)
    expected = plain_json(
        evaluate(outcomes["test"], gates, [], seed=3, num_resamples=NUM_RESAMPLES)
    )
    found = evaluate_table(asked(path), tmp_path / "out", command=[], report=False)["replay"]
    # Agreement of samples is worked out from a table, and nobody asked for it above.
    found["systems"] = [row for row in found["systems"] if row["name"] != "D-agree"]
    assert {row["name"] for row in found["systems"]} >= {"A", "B", "C", "D", "E", "D-nf", "E-nf"}
    for key in ("num_steps", "proposers", "ranking", "baselines", "examples"):
        assert without_ids(found[key]) == without_ids(expected[key]), key
    for key in ("ms_per_step", "tool_ms_per_step", "tool_note"):
        assert found["latency"][key] == pytest.approx(expected["latency"][key]), key
    assert expected["latency"]["tool_ms_per_step"] > 0.0
    for theirs in expected["systems"]:
        ours = next(row for row in found["systems"] if row["name"] == theirs["name"])
        for key in ("acceptable", "accept_rate", "threshold", "skill", "relative_flops", "by_type"):
            assert point(ours.get(key)) == point(theirs.get(key)), (theirs["name"], key)


@pytest.mark.parametrize(
    "change",
    [{}, {"acceptable": True}, {"log_odds_v": 0.5}],
    ids=["as it is", "one class", "one score"],
)
def test_results_follow_the_documented_schema(tmp_path, change):
    rows = small_table(60, 4, mixed, lambda i: i % 2 == 0, told_apart)
    path = write(tmp_path / "table.parquet", [row | change for row in rows])
    evaluate_table(asked(path), tmp_path / "out", command=[], report=False)
    results = json.loads((tmp_path / "out" / "evaluation" / "results.json").read_text())
    assert list(undocumented_keys(check_results(results, "table"))) == []


def test_results_of_exported_outcomes_follow_the_documented_schema(tmp_path):
    """With everything that a table can have: samples, another judge, seconds, sizes, families."""
    path = tmp_path / "table.parquet"
    export_outcomes(objects(0), path)
    evaluate_table(asked(path), tmp_path / "out", command=[], report=False)
    results = json.loads((tmp_path / "out" / "evaluation" / "results.json").read_text())
    assert results["replay"]["latency"]
    assert list(undocumented_keys(check_results(results, "table"))) == []


def test_what_systems_did_step_by_step_is_kept(tmp_path):
    outcomes = objects(0)
    path = tmp_path / "table.parquet"
    export_outcomes(outcomes, path)
    evaluate_table(asked(path), tmp_path / "out", command=[], report=False)
    kept = read_step_outcomes(tmp_path / "out")
    gates = calibrate(outcomes["calibration"], calibration_hash="h", seed=3, systems=SYSTEMS)
    steps = outcomes["test"].table.steps
    places = {step: place for place, step in enumerate(kept.step_ids.tolist())}
    order = [places[step.step_id] for step in steps]
    assert kept.task_ids[order].tolist() == [step.task_id for step in steps]
    assert kept.out_of_family[order].tolist() == outcomes["test"].table.out_of_family.tolist()
    for name, run in run_all(outcomes["test"], gates).items():
        found = kept.systems[name]
        np.testing.assert_array_equal(found.acceptable[order], run.acceptable)
        np.testing.assert_array_equal(found.accepted[order], run.accepted)


def test_names_of_steps_are_read_without_making_steps(table, monkeypatch):
    found = TableOutcomes(read_evaluation_table(table), TablePlan(models=MODELS), "h")
    steps = found.outcomes("test").table

    def refuse(*_):
        raise AssertionError("a step was made")

    monkeypatch.setattr(steps.steps, "make", refuse)
    names = found.names(steps)
    assert sorted(names.step_ids.tolist()) == sorted(
        f"{task}/{step}" for task in range(1, 60, 2) for step in range(4)
    )
    assert set(names.task_ids.tolist()) == {f"t{task}" for task in range(1, 60, 2)}


def point(value):
    """A number without its interval, which depends on the draws for rows before it."""
    return value["value"] if isinstance(value, dict) and "value" in value else value


def write(path, rows):
    pq.write_table(pa.table({key: [row[key] for row in rows] for key in rows[0]}), path)
    return path


def small_table(num_tasks, steps_of_task, cheap, strong, score, split="both"):
    """Rows with labels and scores as functions of the step's number."""
    rows = []
    for task in range(num_tasks):
        for step in range(steps_of_task):
            i = task * steps_of_task + step
            for model, label in (("small", cheap(i)), ("large", strong(i))):
                part = "test" if split == "test" or task % 2 else "calibration"
                rows.append(
                    {
                        "step_id": f"{task}/{step}",
                        "task_id": f"t{task}",
                        "split": part,
                        "model": model,
                        "acceptable": label,
                        "log_odds_v": score(i) if model == "small" else None,
                    }
                )
    return rows


def results_of(tmp_path, rows, report=False):
    """No warning may be shown on the way."""
    path = write(tmp_path / "table.parquet", rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return evaluate_table(asked(path), tmp_path / "out", command=[], report=report)


def system(results, name):
    return next(row for row in results["replay"]["systems"] if row["name"] == name)


def mixed(i):
    return i % 3 != 0


def told_apart(i):
    """High where `mixed` is right, most often."""
    return (1.0 if (i % 3 != 0) != (i % 7 == 0) else -1.0) + (i % 5) / 10


def test_gate_that_accepts_nothing_has_no_risk(tmp_path):
    """Where the proposal is never right, accepting gains nothing."""
    rows = small_table(40, 5, lambda i: i % 40 == 0, lambda _: True, lambda i: -float(i % 9))
    d = system(results_of(tmp_path, rows, report=True), "D")
    assert d["accept_rate"]["value"] == 0.0
    assert d["selective_risk"]["value"] is None
    assert d["selective_risk"]["note"] == "nothing is accepted"
    assert d["skill"]["value"] == 0.0
    assert d["acceptable"]["value"] == 1.0


def test_gate_that_accepts_everything_has_no_skill(tmp_path):
    rows = small_table(40, 5, lambda i: i % 40 != 0, lambda i: i % 2 == 0, lambda i: float(i % 9))
    results = results_of(tmp_path, rows, report=True)
    b, d = system(results, "B"), system(results, "D")
    assert d["accept_rate"]["value"] == 1.0
    assert d["skill"]["value"] == 0.0
    assert d["acceptable"]["value"] == b["acceptable"]["value"]


@pytest.mark.parametrize("label", [True, False])
def test_one_class_has_no_gate_and_says_why(tmp_path, label):
    rows = small_table(20, 3, lambda _: label, mixed, told_apart)
    results = results_of(tmp_path, rows)
    assert {row["name"] for row in results["replay"]["systems"]} == {"A", "B", "D-nf"}
    assert "both labels" in results["meta"]["table"]["no_gate"]["D"]
    assert system(results, "B")["acceptable"]["value"] == float(label)


def test_scores_that_are_all_the_same_have_no_gate(tmp_path):
    rows = small_table(20, 3, mixed, mixed, lambda _: 0.5)
    results = results_of(tmp_path, rows)
    assert "must tell proposals apart" in results["meta"]["table"]["no_gate"]["D"]


def test_verifier_without_a_score_on_the_test_tasks_is_named(tmp_path):
    rows = small_table(20, 3, mixed, mixed, told_apart)
    for row in rows:
        row["log_odds_w"] = row["log_odds_v"]
        if row["split"] == "test":
            row["log_odds_v"] = None
    results = results_of(tmp_path, rows)
    assert "D" not in {row["name"] for row in results["replay"]["systems"]}
    assert "no score on the test tasks" in results["meta"]["table"]["no_gate"]["D"]


def test_an_evaluation_by_other_code_is_not_read_back(tmp_path, monkeypatch):
    rows = small_table(20, 3, mixed, mixed, told_apart)
    first = results_of(tmp_path, rows)
    assert results_of(tmp_path, rows) == first
    monkeypatch.setattr(table_evaluation, "source_hash", lambda: "other")
    with pytest.raises(ConfigError, match="other inputs, arguments, seed or code"):
        results_of(tmp_path, rows)


def test_ties_are_accepted_together(tmp_path):
    rows = small_table(60, 4, mixed, lambda i: i % 2 == 0, lambda i: float(i % 3 != 0))
    d = system(results_of(tmp_path, rows), "D")
    right = [mixed(i) for i in range(240) if (i // 4) % 2]
    assert d["accept_rate"]["value"] == pytest.approx(np.mean(right))
    assert d["selective_risk"]["value"] == 0.0


def test_unscored_proposals_fall_back(tmp_path):
    """Even where everything that is scored is accepted."""
    rows = small_table(
        60, 4, lambda i: i % 40 != 1, lambda i: i % 2 == 0, lambda i: None if i % 4 == 0 else i % 7
    )
    d = system(results_of(tmp_path, rows), "D")
    assert d["accept_rate"]["value"] == 0.75


def test_unknown_labels_are_left_out_and_counted(tmp_path):
    rows = small_table(60, 4, lambda i: None if i % 4 == 0 else mixed(i), mixed, told_apart)
    b = system(results_of(tmp_path, rows), "B")
    assert b["num_unlabelled"] == 30
    assert b["acceptable"]["n"] == 90


def test_one_task_has_numbers_without_intervals(tmp_path):
    rows = small_table(20, 3, mixed, mixed, told_apart)
    rows = [r for r in rows if r["split"] == "calibration" or r["task_id"] == "t1"]
    a = system(results_of(tmp_path, rows), "A")
    assert a["acceptable"]["value"] == pytest.approx(2 / 3)
    assert a["acceptable"]["low"] is None
    assert "one cluster only" in a["acceptable"]["note"]


def test_one_step_is_enough(tmp_path):
    rows = small_table(20, 3, mixed, mixed, told_apart)
    rows = [r for r in rows if r["split"] == "calibration" or r["step_id"] == "1/0"]
    results = results_of(tmp_path, rows, report=True)
    assert results["replay"]["num_steps"] == 1
    assert system(results, "A")["acceptable"]["value"] == 0.0  # step number 3


def test_order_of_rows_changes_no_number(tmp_path):
    rows = small_table(60, 4, mixed, lambda i: i % 2 == 0, told_apart)
    mixed_up = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    found = []
    for name, order in (("a", rows), ("b", mixed_up)):
        folder = tmp_path / name
        folder.mkdir()
        found.append(without_ids(results_of(folder, order)["replay"]))
    assert found[0] == found[1]


def test_gates_look_at_the_calibration_rows_alone(tmp_path):
    rows = small_table(60, 4, mixed, lambda i: i % 2 == 0, told_apart)
    turned = [r | {"acceptable": not r["acceptable"]} if r["split"] == "test" else r for r in rows]
    thresholds = []
    for name, table in (("a", rows), ("b", turned)):
        folder = tmp_path / name
        folder.mkdir()
        results_of(folder, table)
        gate = json.loads((folder / "out" / "gates" / "D.json").read_text())
        thresholds.append((gate["threshold"], gate["calibrator"]))
    assert thresholds[0] == thresholds[1]


def command(path, out, *more):
    arguments = ["evaluate", str(path), "--cheap", "small", "--strong", "large", "--out", str(out)]
    return [*arguments, "--num-resamples", "50", *more]


@pytest.fixture
def table(tmp_path):
    rows = small_table(60, 4, mixed, lambda i: i % 2 == 0, told_apart)
    return write(tmp_path / "table.parquet", rows)


def test_command_writes_a_folder_and_prints_systems_and_reference_gates(table, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(table, out)) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("points", "oracle", "worst", "report.html"))
    results = json.loads((out / "evaluation" / "results.json").read_text())
    assert [row["name"] for row in results["replay"]["systems"]] == ["A", "B", "D", "D-nf"]
    assert results["meta"]["command"].startswith("specact evaluate ")
    assert {row["name"] for row in results["meta"]["stages"]} == {
        "read",
        "join",
        "calibrate",
        "evaluate",
        "steps",
        "report",
    }
    assert (out / "gates" / "D.json").is_file()
    assert (out / "report" / "report.html").is_file()
    assert json.loads((out / "manifest.json").read_text())["stage"] == "evaluate_table"
    assert not out.with_name("out.partial").exists()


def test_report_of_an_evaluation_is_written_again(table, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(table, out)) == 0
    before = (out / "report" / "report.md").read_text()
    (out / "report" / "report.md").unlink()
    capsys.readouterr()
    assert cli.main(["report", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'report' / 'report.html'}\n"
    again = (out / "report" / "report.md").read_text()
    assert without_times(again) == without_times(before)


def without_times(page):
    """The seconds of writing the report are in no page but later ones."""
    return re.sub(r"run took .*|\| report \| .*\n", "", page)


def test_two_evaluations_are_compared_step_by_step(table, tmp_path, capsys):
    """Of the same steps; in the second table the cheap model errs at each fifth step, too."""
    rows = small_table(60, 4, lambda i: mixed(i) and i % 5 != 0, lambda i: i % 2 == 0, told_apart)
    other = write(tmp_path / "other.parquet", rows)
    for path, name in ((table, "one"), (other, "two")):
        assert cli.main(command(path, tmp_path / name, "--no-report")) == 0
    capsys.readouterr()
    assert cli.main(["report", "--compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    page = capsys.readouterr().out
    of_test = [i for i in range(240) if (i // 4) % 2]
    right = [100 * np.mean([mixed(i) for i in of_test])]
    right.append(100 * np.mean([mixed(i) and i % 5 != 0 for i in of_test]))
    row = next(line for line in page.splitlines() if line.startswith("| B "))
    assert [round(float(found)) for found in re.findall(r"\| (\d+(?:\.\d+)?)", row)[:2]] == [
        round(share) for share in right
    ]
    assert f"{right[1] - right[0]:.0f}".replace("-", "−") in row


def test_command_again_changes_nothing_and_another_is_refused(table, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(table, out, "--no-report")) == 0
    before = (out / "evaluation" / "results.json").read_bytes()
    assert cli.main(command(table, out, "--no-report")) == 0
    assert (out / "evaluation" / "results.json").read_bytes() == before
    assert cli.main(command(table, out, "--no-report", "--seed", "1")) == 2
    assert "overwrite" in capsys.readouterr().err
    assert (out / "evaluation" / "results.json").read_bytes() == before
    assert cli.main(command(table, out, "--no-report", "--seed", "1", "--overwrite")) == 0
    assert (out / "evaluation" / "results.json").read_bytes() != before


def test_command_evaluates_the_systems_that_it_was_asked_for(table, tmp_path):
    assert cli.main(command(table, tmp_path / "out", "--no-report", "--systems", "D")) == 0
    results = json.loads((tmp_path / "out" / "evaluation" / "results.json").read_text())
    assert [row["name"] for row in results["replay"]["systems"]] == ["A", "D"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--systems", "F"], "systems must be among A, B, D"),
        (["--verifier", "w"], "'w' must be a verifier of"),
        (["--judge", "w"], "'w' must be a verifier of"),
        (["--params", "cheap"], "parameters must be NAME=BILLIONS"),
        (["--params", "w=1"], "parameters must be of a role (cheap, strong) or of a verifier of"),
        (["--num-resamples", "0"], "resamples must be at least 1"),
        (["--calibration-share", "1"], "the calibration share must be in"),
        (["--cost-weight", "-1"], "must be worth at least 0"),
        (["--strong", "huge"], "rows of the strong model 'huge'"),
        (["--strong", "small"], "a model of its own"),
        (["--export", "x.csv"], "must name a .parquet file"),
        (["--export", "x.parquet"], "must be the folder of a finished"),
    ],
)
def test_misuse_ends_with_2_and_writes_nothing(table, tmp_path, capsys, more, message):
    assert cli.main(command(table, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_without_models_says_what_it_needs(table, capsys):
    assert cli.main(["evaluate", str(table)]) == 2
    assert "needs --cheap, --strong, --out" in capsys.readouterr().err


def test_large_tables_have_fewer_draws():
    assert (default_resamples(19_999), default_resamples(20_000)) == (10_000, 1_000)


def test_evaluating_a_table_imports_no_model_library():
    code = (
        "import sys, specact_rl.pipeline.table_evaluation; "
        "print([m for m in ('torch', 'transformers', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
