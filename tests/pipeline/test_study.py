"""Studies of small logs written here: what they join, what they refuse, what they say."""

import json
import random
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from specact_rl.cli import main
from specact_rl.envs.collect import plan_episodes, scripted_rollouts
from specact_rl.errors import ConfigError
from specact_rl.eval.report.study_sections import doubts_about_log
from specact_rl.eval.results_schema import check_results, undocumented_keys
from specact_rl.eval.step_outcomes import read_step_outcomes
from specact_rl.mining.chunks import PROPOSALS_FILE, SCORES_FILE
from specact_rl.pipeline.study.base import parse_sizes
from specact_rl.policy.gates import Gate
from specact_rl.store import read_json, read_manifest, read_table, stages, write_jsonl
from specact_rl.types import Action, Proposal, Rollout, Score, StepRecord, ToolSpec
from specact_rl.verifiers import TreesVerifier

BASE = Path(__file__).resolve().parents[2] / "specact_rl" / "models" / "bases" / "1m"
CITIES = ("Aachen", "Bonn", "Celle", "Dachau", "Emden", "Fulda", "Gotha", "Halle")
OWN = """
import numpy as np
from specact_rl.metrics.cost import NO_MODEL
from specact_rl.verifiers import Judgements

class Longest:
    verifier_id, size = "longest", NO_MODEL

    @classmethod
    def fit(cls, items, acceptable, *, seed):
        return cls()

    def judge(self, items):
        zeros = np.zeros(len(items), dtype=np.int64)
        lengths = np.array([float(len(item.proposal.text)) for item in items])
        return Judgements(log_odds=lengths, num_tokens=zeros, num_cached_tokens=zeros)
"""
WEATHER = ToolSpec(
    name="weather",
    description="Weather of a city on a day.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "day": {"type": "integer"}},
        "required": ["city", "day"],
    },
)


def answer(model, number, right, *, trial=0, **info):
    """A model's answer to one question; a wrong one names a city that nobody asked about."""
    task = f"weather_{number}"
    asked = {"city": CITIES[number % len(CITIES)], "day": number}
    given = asked if right else {**asked, "city": "Xanten"}
    request = f"How is the weather in {asked['city']} on day {asked['day']}?"
    action = Action(type="tool_call", tool="weather", arguments=given)
    call = {"type": "function", "function": {"name": "weather", "arguments": given}}
    return Rollout(
        rollout_id=f"{model}/{task}/{trial}",
        task_id=task,
        family="weather",
        policy=model,
        trial=trial,
        messages=[
            {"role": "user", "content": request},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ],
        tools=[WEATHER],
        steps=[StepRecord(index=0, message_index=1, executed=action, acceptable=right)],
        success=right,
        info={"input_tokens": 50, "output_tokens": 10, "seconds": 0.5, **info},
    )


def write_log(path, accuracies, *, num_tasks=150, num_trials=1):
    """A native log; each model is right with its own probability, independently."""
    rng = random.Random(0)
    rollouts = [
        answer(model, i, rng.random() < accuracy, trial=trial)
        for model, accuracy in accuracies.items()
        for i in range(num_tasks)
        for trial in range(num_trials)
    ]
    write_jsonl(path, rollouts)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A finished study of four models, and the log that it is of."""
    root = tmp_path_factory.mktemp("study")
    log = write_log(
        root / "log.jsonl", {"ant-1b": 0.6, "ant-9b": 0.9, "bee-1b": 0.7, "cow-1b": 0.75}
    )
    command = ["study", str(log), "--cheap", "ant-1b", "--strong", "ant-9b"]
    assert main([*command, "--out", str(root / "out"), "--params", "cheap=1,strong=9"]) == 0
    return log, root / "out"


@pytest.fixture(scope="module")
def results(pair):
    return read_json(pair[1] / "evaluation" / "results.json")


def system(results, name):
    return next(row for row in results["replay"]["systems"] if row["name"] == name)


def test_every_system_that_the_log_allows_has_a_row(results):
    names = [row["name"] for row in results["replay"]["systems"]]
    assert names == [
        "A", "B", "D", "D-new", "D-half", "D-new-half", "D-lin", "D-peers", "vote", "any",
        "D-diff", "D-diff-half",
    ]  # fmt: skip


def test_a_verifier_of_the_difference_stands_beside_the_one_of_being_right(pair, results):
    rows = results["replay"]["value"]["difference_target"]
    assert [(row["better"], row["worse"]) for row in rows] == [
        ("D-diff", "D"), ("D-diff-half", "D-half"),
    ]  # fmt: skip
    accuracies = [system(results, name)["acceptable"]["value"] for name in ("D-diff", "D")]
    assert rows[0]["difference"]["value"] == pytest.approx(accuracies[0] - accuracies[1])
    # Its scores are no probabilities of being right, so that no calibration of them is shown.
    found = results["replay"]["calibration"]
    parts = [found[part] for part in ("verifiers", "drift", "recalibration")]
    for rows in (results["replay"]["verifiers"], *parts):
        assert {row["system"] for row in rows} & {"D", "D-diff", "D-diff-half"} == {"D"}
    page = (pair[1] / "report" / "report.md").read_text()
    assert "trained on the gain over the strong model (D-diff)" in page


def test_rows_are_joins_over_the_verdicts(pair, results):
    rollouts = [json.loads(line) for line in pair[0].read_text().splitlines()]
    table = read_table(pair[1] / "outcomes" / "log" / PROPOSALS_FILE, Proposal)
    split = read_manifest(pair[1] / "rollouts").counts
    right = {(r["policy"], r["task_id"]): r["success"] for r in rollouts}
    assert system(results, "A")["n"] == split["test:tasks"]
    assert {(p.model_id, p.task_id): p.acceptable for p in table} == right
    agreement = results["meta"]["study"]["agreement"]
    tasks = {task for _, task in right}
    assert agreement["only_strong"] == sum(
        right["ant-9b", t] and not right["ant-1b", t] for t in tasks
    )
    assert sum(agreement.values()) == len(tasks)


def test_a_verifier_that_sees_the_fault_finds_it_also_in_a_family_that_it_has_not_seen(results):
    row = next(v for v in results["replay"]["verifiers"] if v["system"] == "D")
    unseen = next(v for v in results["replay"]["verifiers"] if v["system"] == "D-new")
    assert row["auroc"]["value"] > 0.95
    assert unseen["auroc"]["value"] > 0.95
    assert {r["name"] for r in results["unseen"]} == {"trained", "linear"}
    assert set(results["unseen"][0]["families"]) == {"ant", "bee", "cow"}
    assert results["unseen"][0]["families"]["ant"]["models"] == ["ant-1b", "ant-9b"]


def test_the_gate_that_accepts_half_beats_the_random_one(results):
    row = system(results, "D-half")
    assert row["skill"]["low"] > 0
    assert row["accept_rate"]["value"] == pytest.approx(0.5, abs=0.2)


def test_any_is_the_bound_of_a_vote(results):
    vote, bound, a = (system(results, n)["acceptable"]["value"] for n in ("vote", "any", "A"))
    assert bound >= vote
    assert bound >= a


def test_five_weak_models_that_err_apart_outvote_a_better_one(tmp_path):
    # Task i is wrong for ant-(i mod 5) alone: four of five are right everywhere. The best single
    # model is right in nine tenths, so a vote that just took its answer would be, too.
    rollouts = [answer(f"ant-{m}", i, i % 5 != m) for m in range(5) for i in range(150)]
    rollouts += [answer("bee", i, i % 10 != 0) for i in range(150)]
    write_jsonl(tmp_path / "log.jsonl", rollouts)
    command = ["study", str(tmp_path / "log.jsonl"), "--cheap", "ant-0", "--strong", "bee"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    results = read_json(tmp_path / "out" / "evaluation" / "results.json")
    assert system(results, "A")["acceptable"]["value"] < 1.0
    assert system(results, "vote")["acceptable"]["value"] == 1.0


def test_another_seed_in_the_same_folder_is_refused_unless_it_may_be_replaced(tmp_path, capsys):
    log = write_log(tmp_path / "log.jsonl", {"ant": 0.6, "bee": 0.8}, num_tasks=60)
    command = ["study", str(log), "--cheap", "ant", "--strong", "bee", "--out", str(tmp_path / "o")]
    assert main(command) == 0
    assert main([*command, "--seed", "1"]) == 2
    assert "overwrite" in capsys.readouterr().err
    assert main([*command, "--seed", "1", "--overwrite"]) == 0


def test_flops_follow_from_the_tokens_and_the_sizes_that_the_user_gives(results):
    b, a = system(results, "B"), system(results, "A")
    assert a["mflops_per_step"] == pytest.approx(2 * 9e9 * 60 / 1e6)
    assert b["relative_flops"]["value"] == pytest.approx(1 / 9)
    assert system(results, "vote")["relative_flops"] is None


def test_costs_that_nobody_knows_are_left_out(results):
    assert system(results, "A")["relative_price"] is None
    assert system(results, "B")["relative_seconds"]["value"] == pytest.approx(1.0)


def test_gates_are_frozen_in_files_that_say_what_they_belong_to(pair, results):
    gate = Gate.from_json(read_json(pair[1] / "gates" / "D-half.json"))
    assert gate.proposer_id == "ant-1b"
    assert gate.gate_id == system(results, "D-half")["gate_id"]
    scores = read_table(pair[1] / "outcomes" / "cheap--trained" / SCORES_FILE, Score)
    assert gate.verifier_id == scores[0].verifier_id


def test_the_same_command_again_skips_what_is_there_and_ends_the_same(pair, results, capsys):
    log, out = pair
    before = (out / "outcomes" / "cheap--trained" / SCORES_FILE).stat().st_mtime_ns
    command = ["study", str(log), "--cheap", "ant-1b", "--strong", "ant-9b", "--out", str(out)]
    assert main([*command, "--params", "cheap=1,strong=9"]) == 0
    assert (out / "outcomes" / "cheap--trained" / SCORES_FILE).stat().st_mtime_ns == before
    again = read_json(out / "evaluation" / "results.json")
    assert again["replay"] == results["replay"]
    assert again["unseen"] == results["unseen"]
    assert "report.html" in capsys.readouterr().out


def test_another_pair_in_the_same_folder_is_studied_anew(tmp_path):
    log = tmp_path / "log.jsonl"
    rollouts = [
        answer(model, i, random.Random(f"{model}{i}{t}").random() < accuracy, trial=t)
        for model, accuracy, trials in (("ant", 0.6, 2), ("bee", 0.7, 1), ("cow", 0.9, 1))
        for i in range(100)
        for t in range(trials)
    ]
    write_jsonl(log, rollouts)
    fresh, reused = tmp_path / "fresh", tmp_path / "reused"
    for cheap, out in (("ant", reused), ("bee", reused), ("bee", fresh)):
        command = ["study", str(log), "--cheap", cheap, "--strong", "cow", "--out", str(out)]
        assert main(command) == 0  # ant has two trials and so a system that bee lacks
    first, second = (read_json(out / "evaluation" / "results.json") for out in (fresh, reused))
    assert second["unseen"] == first["unseen"]
    for key in ("name", "acceptable", "difference_from_a"):  # seconds are measured
        assert [s[key] for s in second["replay"]["systems"]] == [
            s[key] for s in first["replay"]["systems"]
        ]


def test_the_report_says_what_the_log_is_and_who_was_not_seen(pair):
    page = (pair[1] / "report" / "report.md").read_text()
    assert page.startswith("# Gates between ant-1b and ant-9b")
    assert "## The log" in page
    assert "## Models that the verifier has not seen" in page
    assert "same arguments" not in page  # the log has no reference actions


def test_results_follow_the_documented_schema(pair, results):
    assert list(undocumented_keys(check_results(results, "study"))) == []
    kept = read_step_outcomes(pair[1])
    names = [row["name"] for row in results["replay"]["systems"]]
    assert list(kept.systems) == names
    share = np.nanmean(kept.systems["D"].acceptable)
    assert share == pytest.approx(system(results, "D")["acceptable"]["value"])


def test_a_verifier_of_another_study_judges_as_it_is(pair, tmp_path):
    log, out = pair
    folder = out / "outcomes" / "cheap--trained" / "verifier"
    command = ["study", str(log), "--cheap", "bee", "--strong", "ant-9b"]
    assert main([*command, "--out", str(tmp_path / "o"), "--verifier", str(folder)]) == 0
    scores = read_table(tmp_path / "o" / "outcomes" / "cheap--trained" / SCORES_FILE, Score)
    assert {score.verifier_id for score in scores} == {TreesVerifier.load(folder).verifier_id}
    again = read_json(tmp_path / "o" / "evaluation" / "results.json")
    assert [row["name"] for row in again["unseen"]] == ["trained"]
    assert "D-new" not in [row["name"] for row in again["replay"]["systems"]]


def test_a_verifier_that_is_given_needs_no_answers_to_learn_from(pair, tmp_path):
    log = write_log(tmp_path / "log.jsonl", {"dog": 0.0, "emu": 0.0})
    folder = pair[1] / "outcomes" / "cheap--trained" / "verifier"
    command = ["study", str(log), "--cheap", "dog", "--strong", "emu"]
    assert main([*command, "--out", str(tmp_path / "o"), "--verifier", str(folder)]) == 0
    page = (tmp_path / "o" / "report" / "report.md").read_text()
    assert "no trained verifier" not in page


def test_a_doubt_is_of_the_model_that_it_names_and_of_none_whose_name_begins_like_it():
    flag = {"kind": "format_failures", "group": "ant-mini simple", "detail": "all fenced"}
    for strong, roles in (("bee", []), ("ant-mini@run#2", ["strong"])):
        study = {"cheap": "ant", "strong": strong, "flags": [flag]}
        doubts = doubts_about_log({"meta": {"study": study}})
        found = [finding.claim.split()[1] for finding in doubts]
        assert found == roles


def test_a_verifier_of_the_users_own_is_ds_and_trees_stand_beside_it(pair, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    command = ["study", str(pair[0]), "--cheap", "ant-1b", "--strong", "ant-9b"]
    own = ["--verifier", f"{tmp_path / 'own.py'}:Longest"]
    assert main([*command, "--out", str(tmp_path / "o"), *own]) == 0
    results = read_json(tmp_path / "o" / "evaluation" / "results.json")
    rows = {row["system"]: row for row in results["replay"]["verifiers"]}
    assert rows["D"]["verifier_id"] == "longest"
    assert rows["D-trees"]["auroc"]["value"] > 0.95
    assert set(rows["D"]["gain_over"]) == {"trees", "linear"}
    assert results["unseen"][0]["name"] == "trained"


def test_flops_of_a_verifier_that_runs_a_model_are_paid(pair, tmp_path):
    sized = OWN.replace("import NO_MODEL", "import ModelSize")
    (tmp_path / "own.py").write_text(sized.replace("NO_MODEL", "ModelSize(num_params=2 * 10**9)"))
    command = ["study", str(pair[0]), "--cheap", "ant-1b", "--strong", "ant-9b"]
    own = ["--verifier", f"{tmp_path / 'own.py'}:Longest", "--params", "cheap=1,strong=9"]
    assert main([*command, "--out", str(tmp_path / "o"), *own]) == 0
    d = system(read_json(tmp_path / "o" / "evaluation" / "results.json"), "D")
    in_units_of_a = (1 + 2 + 9 * d["strong_calls"]) / 9
    assert d["relative_flops"]["value"] == pytest.approx(in_units_of_a)


def test_test_requests_that_are_nearly_training_requests_are_told(tmp_path):
    log = write_log(tmp_path / "log.jsonl", {"ant": 0.5, "bee": 0.8}, num_tasks=60)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    common = " ".join(str(n) for n in range(30))
    for row in rows:  # 28 of 30 different 3-grams of two requests are in both
        row["messages"][0]["content"] = f"{common} {row['task_id']}"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["study", str(log), "--cheap", "ant", "--strong", "bee"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "of the test requests 100.0 %" in page


@pytest.fixture
def hashed(monkeypatch):
    """Names of the inputs that stages hash, as often as they do."""
    names = []
    real = stages.input_hash
    monkeypatch.setattr(stages, "input_hash", lambda path: names.append(path.name) or real(path))
    return names


def test_second_trials_stand_in_for_a_strong_model_where_there_is_one_model(tmp_path, hashed):
    log = write_log(tmp_path / "log.jsonl", {"ant": 0.6}, num_trials=2)
    assert main(["study", str(log), "--out", str(tmp_path / "out")]) == 0
    results = read_json(tmp_path / "out" / "evaluation" / "results.json")
    assert results["meta"]["study"]["cheap"] == "ant#1"
    assert results["meta"]["study"]["strong"] == "ant#2"
    # A perfect verifier retries what is wrong: 1 - 0.4 ** 2 of the tasks in expectation.
    assert system(results, "D")["acceptable"]["value"] > 0.7
    assert hashed.count("log.jsonl") == 1


def test_tasks_that_only_one_of_the_two_has_answered_are_told(tmp_path):
    rng = random.Random(0)
    first = [answer("ant", i, rng.random() < 0.5) for i in range(100)]
    failed = [i for i, rollout in enumerate(first) if not rollout.success]
    again = [answer("ant", i, rng.random() < 0.5, trial=1) for i in failed]
    write_jsonl(tmp_path / "log.jsonl", [*first, *again])
    assert main(["study", str(tmp_path / "log.jsonl"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert f"{100 - len(failed)} tasks that only one of the two has answered" in page


def test_one_model_with_one_trial_is_studied_by_itself(tmp_path, hashed):
    log = write_log(tmp_path / "log.jsonl", {"ant": 0.6}, num_tasks=200)
    assert main(["study", str(log), "--out", str(tmp_path / "out")]) == 0
    results = read_json(tmp_path / "out" / "evaluation" / "results.json")
    assert "systems" not in results["replay"]
    row = next(v for v in results["replay"]["verifiers"] if v["system"] == "D")
    assert row["auroc"]["value"] > 0.95
    assert list(undocumented_keys(check_results(results, "study"))) == []
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "no second model" in page
    assert hashed.count("log.jsonl") == 1
    assert [stage["name"] for stage in results["meta"]["stages"]].count("import") == 1


@pytest.mark.parametrize("num_trials", [1, 2])
def test_a_log_without_training_tasks_is_studied_without_a_verifier(tmp_path, num_trials):
    log = write_log(tmp_path / "log.jsonl", {"ant": 0.5}, num_tasks=60, num_trials=num_trials)
    command = ["study", str(log), "--fractions", "calibration=0.5,test=0.5"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "no trained verifier" in page


@pytest.mark.parametrize("accuracy", [1.0, 0.0], ids=["right", "wrong"])
def test_one_model_that_is_always_the_same_gives_a_report_without_verifier(tmp_path, accuracy):
    log = write_log(tmp_path / "log.jsonl", {"ant": accuracy}, num_tasks=60)
    assert main(["study", str(log), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "no trained verifier" in page


def test_a_log_of_verdicts_alone_is_studied_as_far_as_it_goes(tmp_path):
    rng = random.Random(1)
    entries = []
    for name, accuracy in (("small", 0.5), ("middle", 0.6), ("large", 0.7)):
        details = {
            f"lib__lib-{i}": {"resolved": rng.random() < accuracy, "cost": 0.1, "api_calls": 3}
            for i in range(100)
        }
        rate = 100 * np.mean([d["resolved"] for d in details.values()])
        entries.append({"name": name, "resolved": rate, "per_instance_details": details})
    log = tmp_path / "leaderboards.json"
    log.write_text(json.dumps({"leaderboards": [{"name": "bash-only", "results": entries}]}))
    command = ["study", str(log), "--cheap", "small", "--strong", "large"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    results = read_json(tmp_path / "out" / "evaluation" / "results.json")
    # Nothing to vote on; that any of them is right needs verdicts alone.
    assert [row["name"] for row in results["replay"]["systems"]] == ["A", "B", "any"]
    table = read_table(tmp_path / "out" / "rollouts" / "rollouts.parquet", Rollout)
    tested = {r.task_id for r in table if r.split == "test"}
    right = [any(r.success for r in table if r.task_id == task) for task in tested]
    assert system(results, "any")["acceptable"]["value"] == pytest.approx(np.mean(right))
    assert system(results, "B")["relative_price"]["value"] == pytest.approx(1.0)
    page = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "no trained verifier" in page
    assert list(undocumented_keys(check_results(results, "study"))) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cheap", "ant-1b"], "given together"),
        (["--cheap", "1b", "--strong", "ant-9b"], "'bee-1b'"),
        (["--cheap", "dog", "--strong", "ant-9b"], "none of them"),
        (["--cheap", "ant-9b", "--strong", "ant-9b"], "two models"),
        ([], "--cheap and --strong"),
        (["--cheap", "ant-1b", "--strong", "ant-9b", "--params", "cheap=0"], "above 0"),
        (["--cheap", "ant-1b", "--strong", "ant-9b", "--verifier", "oracle"], "FILE.py:CLASS"),
        (["--cheap", "ant-1b", "--strong", "ant-9b", "--seed", "-1"], "seed"),
        (["--cheap", "ant-1b", "--strong", "ant-9b", "--call-worth", "nan"], "at least 0"),
        (["--cheap", "ant-1b", "--strong", "ant-9b", "--call-worth", "-1"], "at least 0"),
        (["--cheap", "ant-1b", "--strong", "ant-9b", "--fractions", "test=nan"], "no share"),
    ],
    ids=[
        "one name", "two have it", "nobody has it", "the same", "no name", "size", "verifier",
        "seed", "worth unknown", "worth negative", "fractions",
    ],
)  # fmt: skip
def test_what_cannot_be_studied_is_one_error(pair, tmp_path, capsys, arguments, said):
    assert main(["study", str(pair[0]), *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_study_is_written_beside_its_log_and_into_a_folder(pair, tmp_path, capsys):
    models = ["--cheap", "ant-1b", "--strong", "ant-9b"]
    (tmp_path / "log.jsonl").write_bytes(pair[0].read_bytes())
    assert main(["study", str(tmp_path), *models, "--out", str(tmp_path / "out")]) == 2
    assert "outside" in capsys.readouterr().err  # a second run would read its results as a log
    assert main(["study", str(pair[0]), *models, "--out", str(tmp_path / "log.jsonl")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_an_imported_log_keeps_its_split(pair, tmp_path, capsys):
    command = ["study", str(pair[1] / "rollouts"), "--cheap", "ant-1b", "--strong", "ant-9b"]
    fractions = ["--fractions", "train_verifier=0.2,calibration=0.4,test=0.4"]
    assert main([*command, *fractions, "--out", str(tmp_path / "out")]) == 2
    assert "split before" in capsys.readouterr().err


def test_sizes_are_billions_by_role():
    assert parse_sizes("cheap=1.7, strong=8") == {"cheap": 1.7e9, "strong": 8e9}
    with pytest.raises(ConfigError, match="no role"):
        parse_sizes("judge=4")


@pytest.fixture(scope="module")
def proposed(tmp_path_factory):
    """A shipped base proposes at the steps of an expert's log that no environment knows."""
    root = tmp_path_factory.mktemp("proposed")
    rollouts = []
    for i, rollout in enumerate(scripted_rollouts(plan_episodes(["expert"], range(40)))):
        own = replace(rollout, rollout_id=f"office-{i}", task_id=f"office-{i}", policy="clerk")
        # A failure among them: what was done there is no reference.
        rollouts.append(replace(own, success=i % 10 != 0))
    write_jsonl(root / "log.jsonl", rollouts)
    command = ["study", str(root / "log.jsonl"), "--propose-with", str(BASE)]
    assert main([*command, "--out", str(root / "out")]) == 0
    return root / "out"


def test_a_model_of_the_users_is_held_against_what_the_log_did(proposed):
    results = read_json(proposed / "evaluation" / "results.json")
    assert system(results, "A")["acceptable"]["value"] == 1.0  # by definition
    assert 0.0 < system(results, "B")["acceptable"]["value"] < 1.0
    assert results["meta"]["study"]["strong"] == "clerk"
    assert results["meta"]["study"]["references"]["no_success_or_no_step"] == 4
    assert {"D", "D-half", "D-logp", "E", "D-agree"} <= {
        row["name"] for row in results["replay"]["systems"]
    }
    page = (proposed / "report" / "report.md").read_text()
    assert "by definition" in page


def test_results_of_a_proposer_follow_the_documented_schema(proposed):
    results = read_json(proposed / "evaluation" / "results.json")
    assert list(undocumented_keys(check_results(results, "study"))) == []


def test_its_proposals_at_failed_episodes_are_not_asked_for(proposed):
    table = read_table(proposed / "outcomes" / "cheap" / PROPOSALS_FILE, Proposal)
    assert {p.task_id for p in table} == {f"office-{i}" for i in range(40) if i % 10}
    assert {p.label_source for p in table} == {"reference_match"}


class Server(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose model always asks for the same day."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = body["messages"][-1]["content"]
        city = next(city for city in CITIES if city in request)
        arguments = json.dumps({"city": city, "day": 3})
        call = {"id": "c", "type": "function"}
        call["function"] = {"name": "weather", "arguments": arguments}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        }
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


def test_a_server_can_be_the_cheap_model(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        rollouts = [answer("clerk", i, True) for i in range(60)]
        # The day is asked for in the request; only day 3 is what the server's model answers.
        rollouts = [with_day(r, 3 if i % 2 else i) for i, r in enumerate(rollouts)]
        write_jsonl(tmp_path / "log.jsonl", rollouts)
        url = f"http://127.0.0.1:{server.server_port}/v1"
        command = ["study", str(tmp_path / "log.jsonl"), "--propose-with", url]
        command += ["--model-name", "any", "--num-samples", "1", "--out", str(tmp_path / "out")]
        assert main(command) == 0
    finally:
        server.shutdown()
    results = read_json(tmp_path / "out" / "evaluation" / "results.json")
    b = system(results, "B")["acceptable"]["value"]
    assert 0.2 < b < 0.8  # right where day 3 was asked for
    assert results["meta"]["study"]["strong"] == "clerk"
    table = read_table(tmp_path / "out" / "outcomes" / "cheap" / PROPOSALS_FILE, Proposal)
    assert {(p.num_prompt_tokens, p.acceptable) for p in table} == {(9, True), (9, False)}


def with_day(rollout, day):
    """The same question and answer about another day."""
    city = rollout.steps[0].executed.arguments["city"]
    arguments = {"city": city, "day": day}
    step = replace(
        rollout.steps[0],
        executed=Action(type="tool_call", tool="weather", arguments=arguments),
    )
    request = f"How is the weather in {city} on day {day}, question {rollout.task_id}?"
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = [
        {"role": "user", "content": request},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    return replace(rollout, messages=messages, steps=[step])
