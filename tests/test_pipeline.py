import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from specact_rl.cli import main
from specact_rl.eval.evaluate import run_all
from specact_rl.eval.results_schema import (
    RESULTS_SCHEMA_VERSION,
    check_results,
    undocumented_keys,
)
from specact_rl.eval.step_outcomes import read_step_outcomes
from specact_rl.models import tied
from specact_rl.pipeline.artifacts import Artifacts
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.plan import plan_run
from specact_rl.pipeline.servers import JUDGED
from specact_rl.presets import PRESETS, find_preset, model_path
from specact_rl.programs import programs_root
from specact_rl.store import file_hash, read_manifest

TIMES = {
    "seconds",
    "wall_seconds",
    "ms_per_step",
    "tool_ms_per_step",
    "seconds_per_task",
    "relative_seconds",
    "latency",
    "stages",
    "command",
}


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def start(out, log):
    command = [sys.executable, "-m", "specact_rl.cli", "run", "--preset", "smoke"]
    return subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=log.open("w")
    )


def results(out):
    return json.loads((out / "evaluation" / "results.json").read_text())


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    log = folder / "log.txt"
    assert start(folder / "run", log).wait() == 0, log.read_text()[-2000:]
    return folder / "run"


def test_smoke_run_ends_in_a_report_with_every_system(smoke_run):
    found = results(smoke_run)
    names = [row["name"] for row in found["replay"]["systems"]]
    assert {"A", "B", "C", "D", "E", "B-dpo", "D-dpo", "D-nf", "E-nf", "D-rm"} <= set(names)
    assert [row["name"] for row in found["live"]][:5] == ["A", "B", "C", "D", "E"]
    page = (smoke_run / "report" / "report.html").read_text()
    assert "<svg" in page or "data:image" in page
    assert (smoke_run / "report" / "report.md").read_text().startswith("# ")


def test_results_follow_the_documented_schema(smoke_run):
    found = results(smoke_run)
    assert found["schema_version"] == RESULTS_SCHEMA_VERSION
    assert list(undocumented_keys(check_results(found, "smoke"))) == []


def test_what_systems_did_step_by_step_is_kept(smoke_run):
    artifacts = Artifacts(preset=find_preset("smoke"), seed=0, folders=Folders(root=smoke_run))
    runs = run_all(artifacts.outcomes("test"), artifacts.gates())
    kept = read_step_outcomes(smoke_run)
    assert list(kept.systems) == list(runs)
    for name, run in runs.items():
        np.testing.assert_array_equal(kept.systems[name].acceptable, run.acceptable)
        np.testing.assert_array_equal(kept.systems[name].accepted, run.accepted)


def test_run_is_evaluated_as_the_table_of_its_outcomes(smoke_run, tmp_path):
    out = tmp_path / "out"
    assert main(["evaluate", str(smoke_run), "--out", str(out), "--no-report"]) == 0
    ours, theirs = results(out), results(smoke_run)
    assert ours["meta"]["seed"] == theirs["meta"]["seed"]
    assert ours["meta"]["table"]["path"] == str(smoke_run)
    rows = {row["name"]: row for row in ours["replay"]["systems"]}
    assert set(rows) == {row["name"] for row in theirs["replay"]["systems"]}
    for row in theirs["replay"]["systems"]:
        for key in ("acceptable", "strong_calls", "threshold"):
            assert without_interval(rows[row["name"]].get(key)) == without_interval(row.get(key))
    # Of the same steps, so that the two are compared in pairs.
    assert main(["report", "--compare", str(smoke_run), str(out)]) == 0


def without_interval(value):
    return value["value"] if isinstance(value, dict) else value


def test_rejected_steps_of_a_gated_system_are_the_strong_models(smoke_run):
    artifacts = Artifacts(preset=find_preset("smoke"), seed=0, folders=Folders(root=smoke_run))
    outcomes, gates = artifacts.outcomes("test"), artifacts.gates()
    # Both models are alike in this run. A strong one that is always right tells them apart, and
    # gates that accept what they like best and nothing else go both ways.
    strong = outcomes.columns["strong"]
    strong = replace(strong, acceptable=np.ones_like(strong.acceptable))
    outcomes = replace(outcomes, columns=outcomes.columns | {"strong": strong})
    liked = {
        name: np.nanmax(run.p_accept)
        for name, run in run_all(outcomes, gates).items()
        if name in gates
    }
    gates = {name: replace(gate, threshold=float(liked[name])) for name, gate in gates.items()}
    runs, cheap = run_all(outcomes, gates), outcomes.columns["cheap"]
    for name in ("C", "D", "E", "D-lin"):
        run = runs[name]
        assert 0 < run.accept_rate < 1
        assert run.acceptable[~run.accepted].all()
        proposed = np.take_along_axis(cheap.acceptable, run.pick[:, None], axis=1)[:, 0]
        np.testing.assert_array_equal(run.acceptable[run.accepted], proposed[run.accepted])


def test_no_gate_is_better_or_worse_than_its_accept_rate_allows(smoke_run):
    rows = [row for row in results(smoke_run)["replay"]["systems"] if "oracle_gate" in row]
    assert {"C", "D", "E", "D-lin"} <= {row["name"] for row in rows}
    for row in rows:
        accuracies = [row["worst_gate"], row["acceptable"]["value"], row["oracle_gate"]]
        assert accuracies == pytest.approx(sorted(accuracies))
        assert row["worst_gate"] - 1e-9 <= row["random_gate"] <= row["oracle_gate"] + 1e-9


def test_same_command_again_trains_and_proposes_nothing(smoke_run, tmp_path):
    before = results(smoke_run)
    tables = sorted(smoke_run.glob("outcomes/*/manifest.json"))
    written = {path: path.stat().st_mtime_ns for path in [*tables, *smoke_run.glob("models/*/*")]}
    assert start(smoke_run, tmp_path / "log.txt").wait() == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert without_times(results(smoke_run)) == without_times(before)


def test_plan_of_the_run_said_what_it_wrote(smoke_run):
    plan = plan_run(find_preset("smoke"), seed=0, device_memory=10**9, device_rate=1e9)
    planned = {(stage.stage, stage.what): stage for stage in plan.stages}
    folders = Folders(root=smoke_run)

    def counts(folder):
        return read_manifest(folder).counts

    written = {
        ("rollouts", "episodes"): counts(folders.rollouts)["rollouts"],
        ("build sft rows", "rows"): counts(folders.data("sft"))["train"],
        ("cheap proposes", "cheap"): counts(folders.proposals("cheap"))["proposals"],
        ("strong proposes", "strong"): counts(folders.proposals("strong"))["proposals"],
        ("DPO proposer proposes", "cheap_dpo"): counts(folders.proposals("cheap_dpo"))["proposals"],
        ("cheap and strong rank", "strong"): counts(folders.ranked("strong"))["proposals"],
        ("calibrate", "gates"): counts(folders.gates)["gates"],
    } | {
        # The strong model judges when it proposes.
        ("strong proposes" if key == "strong_judge" else "verifiers judge", f"{key} on {role}"):
            counts(folders.scores(key, role))["scores"]
        for key, role in JUDGED
    }  # fmt: skip
    assert {key: planned[key].rows for key in written} == written
    assert all(planned[key].bound == "exact" for key in written)
    for what in ("verifier", "preferences", "reward"):
        stage = planned["mine pairs and verifier rows", what]
        assert stage.bound == "at most"
        assert 0.4 * stage.rows < counts(folders.data(what))["train"] <= stage.rows
    # Prompts are read once a rollout and counted exactly; what is written is taken to be as long as
    # the expert's actions.
    for role in ("cheap", "strong"):
        proposals = Artifacts(preset=find_preset("smoke"), seed=0, folders=folders).proposals(role)
        read = sum(p.num_prompt_tokens - p.num_cached_tokens for p in proposals)
        wrote = sum(p.num_completion_tokens for p in proposals)
        stage = planned[f"{role} proposes", role]
        assert read < stage.tokens
        assert stage.tokens == pytest.approx(read + wrote, rel=0.05)


def test_folder_of_another_seed_is_refused(smoke_run, capsys):
    code = main(["run", "--preset", "smoke", "--out", str(smoke_run), "--seed", "1"])
    assert code == 2
    assert "holds another run (differs in seed)" in capsys.readouterr().err


def test_unknown_preset_is_refused(tmp_path, capsys):
    assert main(["run", "--preset", "huge", "--out", str(tmp_path / "x")]) == 2
    assert "preset must be one of" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_run_from_scratch_of_pretrained_bases_is_refused(tmp_path, capsys):
    command = ["run", "--preset", "qwen3", "--from-scratch", "--out", str(tmp_path / "x")]
    assert main(command) == 2
    assert "'qwen3' starts from Qwen/Qwen3-1.7B" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("options", [[], ["--from-scratch"]], ids=["shipped", "from scratch"])
def test_command_line_says_where_bases_come_from(options, monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        "specact_rl.pipeline.run.run_preset", lambda *_, **named: asked.update(named)
    )
    monkeypatch.setattr("specact_rl.eval.report.terminal_summary", lambda *_: None)
    assert main(["run", "--preset", "smoke", "--out", str(tmp_path), *options]) == 0
    assert asked["from_scratch"] == bool(options)
    assert asked["command"][-2:] == (["0", *options] if options else ["--seed", "0"])


def test_folder_of_a_run_with_shipped_bases_is_refused_to_one_from_scratch(smoke_run, capsys):
    command = ["run", "--preset", "smoke", "--from-scratch", "--out", str(smoke_run)]
    assert main(command) == 2
    assert "holds another run (differs in from_scratch)" in capsys.readouterr().err


@pytest.mark.parametrize("name", PRESETS)
def test_splits_of_a_preset_sum_to_one(name):
    assert sum(find_preset(name).fractions.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("recipe", ["sft_proposer", "train_verifier", "train_reward_model"])
@pytest.mark.parametrize("name", PRESETS)
def test_config_of_what_starts_from_a_base_renders_as_the_preset_does(name, recipe):
    preset = find_preset(name)
    path = programs_root() / "recipes" / "configs" / preset.configs / f"{recipe}.yaml"
    config = yaml.safe_load(path.read_text())
    assert config["catalogue"] == preset.catalogue
    assert config.get("chat_template", "own") == preset.chat_template


@pytest.mark.parametrize("size", ["1m", "4m"])
def test_shipped_base_is_whole(size):
    folder = Path(model_path(f"builtin:{size}"))
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "specact.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    log = json.loads((folder / "pretraining.json").read_text())
    assert log["weights_sha256"] == file_hash(folder / "model.safetensors")


def recipes_of(out):
    """Processes that work in this run's folders; the run itself is not among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (path / "cmdline").read_text()
        except OSError:
            continue
        if f"{out}/models/" in arguments and tied.identity(int(path.name)) is not None:
            found.append(arguments.replace("\0", " "))
    return found


def is_importing(out):
    """Whether a recipe has been started; it is about ten seconds away from its first step."""
    return any(tied.__file__ in a and "accelerate" not in a for a in recipes_of(out))


def is_training(out):
    return any(out.glob("models/*/.progress.json"))


def until(condition, process):
    while process.poll() is None and not condition():
        time.sleep(0.02)


def kill(process, out):
    """Kill a run, if it has not ended, and see that its recipes end with it."""
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 5
    while recipes_of(out) and time.monotonic() < end:
        time.sleep(0.1)
    assert recipes_of(out) == []


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_as_if_it_had_not_been(smoke_run, tmp_path):
    stages = [stage["name"] for stage in results(smoke_run)["meta"]["stages"]]
    out, log = tmp_path / "run", tmp_path / "log.txt"
    for stage in stages:
        trains = stage.startswith("train ")
        for reached in [is_importing, is_training] if trains else [None]:
            process = start(out, log)
            until(lambda: f": {stage}\n" in log.read_text(), process)  # noqa: B023
            if reached is None:
                time.sleep(1.0)  # into the stage
            else:
                until(lambda: reached(out), process)  # noqa: B023
                assert process.poll() is None
            kill(process, out)
    assert start(out, log).wait() == 0, log.read_text()[-2000:]
    assert without_times(results(out)) == without_times(results(smoke_run))
