"""The comparison of methods: its tables from a finished comparison that is written here."""

import json
import logging
import runpy
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from specact_rl.actions.serialise import action_text
from specact_rl.eval.live import LiveEpisode
from specact_rl.mining.build_rollouts import collect_rollouts
from specact_rl.mining.chunks import PROPOSALS_FILE
from specact_rl.pipeline.artifacts import begun_run
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.methods.comparison import Comparison
from specact_rl.pipeline.run import planned_episodes
from specact_rl.presets import find_preset
from specact_rl.store import append_shard, open_stage, read_json, write_json, write_table
from specact_rl.types import Proposal, proposal_id

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_preferences.py"
LIVE_TASKS = 4


def proposal(step, model, right):
    return Proposal(
        proposal_id=proposal_id(step.step_id, model, "generate", 0),
        step_id=step.step_id,
        task_id=step.task_id,
        model_id=model,
        sample=0,
        mode="generate",
        text=action_text(step.reference),
        action=step.reference,
        parse_error=None,
        match_level="arguments" if right else "type",
        same_state=None,
        acceptable=right,
        label_source="cost_to_go",
        logprob=-1.0,
        num_candidates=None,
        num_prompt_tokens=10,
        num_cached_tokens=0,
        num_completion_tokens=5,
        seconds=0.1,
    )


def episode(number, *, success, num_steps):
    return LiveEpisode(
        system="B",
        task_id=f"t{number}",
        family="f",
        success=success,
        num_steps=num_steps,
        expert_steps=3,
        num_accepted=num_steps,
        num_fallback=0,
        num_unparsable=0,
        flops=1,
        seconds=0.1,
    )


def write_measured(comparison, name, right, *, num_successes, num_live_steps):
    """What evaluating a method leaves: right at these of the steps, so many episodes won."""
    steps = comparison.table.steps
    files = {"inputs": {}, "arguments": {}}
    outcomes, live = (
        comparison.out / kind / f"{name}--{comparison.evaluated}" for kind in ("outcomes", "live")
    )
    with open_stage(outcomes, "outcomes", **files) as stage:
        rows = [proposal(step, name, i in right) for i, step in enumerate(steps)]
        write_table(stage.path / PROPOSALS_FILE, rows)
    with open_stage(live, "live", **files) as stage:
        episodes = [
            episode(i, success=i < num_successes, num_steps=num_live_steps)
            for i in range(LIVE_TASKS)
        ]
        append_shard(stage.path, 0, episodes)


def write_training(comparison, name, data, *, report, counts):
    """What training a method leaves: 0.2 TFLOP of sampling, 0.6 of training, and its rows."""
    spent = {
        "num_rows": 7,
        "num_steps": 5,
        "rows_seen": 21,
        "sampling_flops": 2e11,
        "training_flops": 6e11,
        "flops_per_counted_token": 1.0,
    }
    write_json(comparison.out / "spent" / f"{name}.json", {"identity": "", "spent": spent})
    with open_stage(comparison.out / "data" / data, "rows", inputs={}, arguments={}) as stage:
        write_json(stage.path / "report.json", report)
        stage.counts |= counts


@pytest.fixture
def comparison(tmp_path):
    """SFT and DPO beside the start, finished, of a run that has its rollouts alone."""
    preset = replace(find_preset("smoke"), num_tasks=12, num_tasks_twice=1, num_held_out_tasks=0)
    folders = Folders(root=tmp_path / "run")
    identity = {"preset": asdict(preset), "seed": 1, "from_scratch": False, "code_version": "0"}
    write_json(folders.identity, json.loads(json.dumps(identity)))
    shares = {"train_verifier": 0.5, "test": 0.5}
    collect_rollouts(folders.rollouts, planned_episodes(preset, 1), fractions=shares, seed=1)
    found = Comparison(
        run=begun_run(folders.root),
        out=tmp_path / "methods" / "seed1",
        budget=1e12,
        num_step_tasks=5,
        num_live_tasks=LIVE_TASKS,
        evaluated="test",
    )
    half = len(found.table.steps) // 2
    write_measured(found, "start", {*range(half)}, num_successes=1, num_live_steps=5)
    # Two steps more than the start, and its first one no longer.
    more = {*range(1, half + 2)}
    write_measured(found, "sft-more", more, num_successes=3, num_live_steps=4)
    write_measured(found, "dpo-same-prefix", {*range(half)}, num_successes=0, num_live_steps=6)
    write_training(found, "sft-more", "expert", report={}, counts={})
    write_training(
        found,
        "dpo-same-prefix",
        "same_prefix",
        report={
            "length_gaps": {},
            "precision": {"same_prefix": {"better": {"value": 0.8, "n": 10}}},
        },
        counts={
            "train": 10,
            "same_prefix:chosen_reference": 6,
            "same_prefix:rejected_unparsable": 2,
        },
    )
    return found


def tables(page):
    """Rows by their first cell, of each table of a Markdown page, as dicts by column."""
    found, header = [], None
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
            found.append({})
        elif set(line) - set("|:- "):  # not the line below the header
            found[-1][cells[0]] = dict(zip(header, cells, strict=False))
    return found


def test_tables_say_what_a_finished_comparison_has_measured(comparison, tmp_path, monkeypatch):
    methods = ["sft-more", "dpo-same-prefix"]
    run, out, written = comparison.run.folders.root, comparison.out.parent, tmp_path / "written"
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    arguments = [run, tmp_path / "none", "--out", out, "--write", written, "--only-report"]
    arguments += ["--step-tasks", 5, "--live-tasks", LIVE_TASKS, "--methods", *methods]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), *map(str, arguments)])
    runpy.run_path(str(BENCHMARK), run_name="__main__")

    results = read_json(written / "preference-methods-1tflop.json")
    [seed] = results["seeds"]
    n = len(comparison.table.steps)
    assert (seed["seed"], seed["num_steps"], seed["num_live_tasks"]) == (1, n, LIVE_TASKS)
    start, sft, dpo = seed["methods"]
    assert [row["name"] for row in seed["methods"]] == ["start", *methods]
    assert start["accuracy"]["acceptable"]["value"] == (n // 2) / n
    # Two steps gained and one lost; types are all right.
    difference = {name: found["value"] for name, found in sft["minus_start"].items()}
    assert difference["acceptable"] == difference["arguments"] == pytest.approx(1 / n)
    assert difference["type"] == 0.0
    assert (difference["success"], difference["steps"]) == (0.5, -1.0)
    assert dpo["minus_start"]["acceptable"]["value"] == 0.0
    assert sft["spent"]["share_of_budget"] == pytest.approx(0.8)

    page = (written / "preference-methods-1tflop.md").read_text()
    means, others, by_seed, pairs = tables(page)
    row = by_seed["sft-more"]
    told = [row[name] for name in ("rows", "rows seen", "TFLOP", "of it sampling, %")]
    assert told == ["7", "21", "0.80", "25"]
    assert row["better / worse"] == "2 / 1"
    assert by_seed["dpo-same-prefix"]["better / worse"] == "0 / 0"
    assert row["success live"].startswith("+50")
    assert by_seed["start"]["success live"].startswith("25")
    assert means["sft-more"]["seeds"] == "1"
    for level in ("arguments", "acceptable"):
        column = f"seeds by {level} above / shown above / shown below"
        assert means["sft-more"][column].startswith("1 / ")
    assert list(others) == ["sft-more"]  # against dpo-same-prefix
    assert others["sft-more"]["seeds"] == "1"
    assert list(pairs) == ["dpo-same-prefix"]
    assert list(pairs["dpo-same-prefix"].values())[1:4] == ["10", "6", "2"]
    assert pairs["dpo-same-prefix"]["precision, %"].startswith("80")


def test_a_method_that_is_not_finished_is_left_out(comparison, tmp_path, monkeypatch, capsys):
    (comparison.out / "spent" / "sft-more.json").unlink()
    arguments = [comparison.run.folders.root, "--out", comparison.out.parent, "--only-report"]
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    arguments += ["--step-tasks", 5, "--methods", "sft-more"]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), *map(str, arguments)])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    means, by_seed = tables(capsys.readouterr().out)
    assert (list(means), list(by_seed)) == ([], ["start"])
