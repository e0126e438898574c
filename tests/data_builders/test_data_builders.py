"""The programs, run as users run them."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from specact_rl.models.tiny import train_tokenizer
from specact_rl.store import open_stage, read_manifest, read_table, write_table
from specact_rl.types import Action, Rollout
from tests.records import make_proposal

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "specact_rl" / "models" / "bases" / "1m"
PROGRAMS = sorted((ROOT / "data_builders").glob("*.py"))
NEEDS_PROPOSALS = (
    "build_verifier",
    "build_preferences",
    "build_reward",
    "build_kto",
    "build_weighted",
)


def run(name, *args):
    """Run a program in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, args)])
        try:
            runpy.run_path(str(ROOT / "data_builders" / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            return end.code or 0
    return 0


def wrong_and_right(step):
    lie = Action(type="final_answer", text="Answer: nothing")
    for sample, (action, label) in enumerate([(step.reference, True), (lie, False)]):
        yield make_proposal(step, action, label, sample=sample)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A tokenizer, collected rollouts, and proposals on them."""
    root = tmp_path_factory.mktemp("inputs")
    train_tokenizer(["read_file f1"], 400).save_pretrained(root / "tokenizer")
    assert run("collect_rollouts", "--seeds", "0:12", "--out", root / "rollouts") == 0
    rollouts = read_table(root / "rollouts" / "rollouts.parquet", Rollout)
    with open_stage(root / "proposals", "outcomes", inputs={}, arguments={}) as stage:
        steps = [step for rollout in rollouts for step in rollout.each_step()]
        write_table(
            stage.path / "proposals.parquet", [p for s in steps for p in wrong_and_right(s)]
        )
    return SimpleNamespace(
        rollouts=root / "rollouts", proposals=root / "proposals", tokenizer=root / "tokenizer"
    )


def test_programs_were_found():
    assert {path.stem for path in PROGRAMS} == {
        "build_kto",
        "build_preferences",
        "build_reward",
        "build_sft",
        "build_verifier",
        "build_weighted",
        "collect_rollouts",
    }


def test_help_comes_without_loading_a_model_library():
    script = (
        "import runpy, sys\n"
        f"for path in {list(map(str, PROGRAMS))!r}:\n"
        "    sys.argv = [path, '--help']\n"
        "    try: runpy.run_path(path, run_name='__main__')\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "sys.exit(', '.join({'torch', 'transformers', 'trl'} & set(sys.modules)) or 0)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("--out") >= len(PROGRAMS)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs_are_short_and_open_with_an_example(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert any(f"python data_builders/{path.name}" in line for line in lines[:5])


@pytest.mark.parametrize("name", ["build_sft", *NEEDS_PROPOSALS])
def test_builders_write_a_data_set_and_print_its_folder(inputs, tmp_path, capsys, name):
    args = ["--rollouts", inputs.rollouts, "--tokenizer", inputs.tokenizer]
    args += ["--out", tmp_path / "out", "--split", "train_proposer", "--catalogue", "compact"]
    if name in NEEDS_PROPOSALS:
        args += ["--proposals", inputs.proposals]
    if name == "build_preferences":
        args += ["--strategies", "same_prefix", "--in-environment"]
    assert run(name, *args) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    manifest = read_manifest(tmp_path / "out")
    assert manifest.stage == name
    assert manifest.counts["train"] > 5
    assert "train.parquet" in manifest.files


def test_unpaired_rows_are_of_the_sources_and_values_that_are_asked_for(inputs, tmp_path):
    args = ["--rollouts", inputs.rollouts, "--tokenizer", inputs.tokenizer, "--out", tmp_path / "o"]
    args += ["--split", "train_proposer", "--catalogue", "compact", "--parsed-only"]
    asked = ["--sources", "executed", "reference", "--judged-by", "match", "--match-level", "tool"]
    assert run("build_weighted", *args, *asked) == 0
    assert (
        read_manifest(tmp_path / "o").arguments
        | {
            "judged_by": "match",
            "sources": ["executed", "reference"],
            "level": "tool",
            "allow_unparsable": False,
        }
        == read_manifest(tmp_path / "o").arguments
    )


def test_pairs_are_matched_on_demand(inputs, tmp_path):
    args = ["--rollouts", inputs.rollouts, "--tokenizer", inputs.tokenizer, "--out", tmp_path / "o"]
    args += ["--proposals", inputs.proposals, "--split", "train_proposer"]
    bounds = ["--max-length-ratio", "1.5", "--max-turn-gap", "0"]
    assert run("build_reward", *args, "--strategies", "same_prefix", *bounds) == 0
    manifest = read_manifest(tmp_path / "o")
    assert manifest.dropped["length_not_matched"] > 0
    assert (manifest.arguments["max_length_ratio"], manifest.arguments["max_turn_gap"]) == (1.5, 0)


def test_a_checkpoint_acts_beside_scripted_policies(tmp_path, capsys):
    args = ["--policy", "expert", f"model:{BASE}", "--seeds", "2", "--trials", "2"]
    assert run("collect_rollouts", *args, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    manifest = read_manifest(tmp_path / "out")
    assert manifest.counts["rollouts"] == 2 * (1 + 2)
    assert manifest.arguments["policies"] == ["expert", "model:1m"]
    assert re.fullmatch("1m-[0-9a-f]{16}", manifest.arguments["models"]["model:1m"])


def test_a_greedy_checkpoint_acts_once(tmp_path):
    args = ["--policy", f"model:{BASE}", "--seeds", "1", "--trials", "3", "--temperature", "0"]
    assert run("collect_rollouts", *args, "--out", tmp_path / "out") == 0
    assert read_manifest(tmp_path / "out").counts["rollouts"] == 1


@pytest.mark.parametrize(
    ("name", "args", "complaint"),
    [
        ("collect_rollouts", ["--seeds", "3-5"], "'3-5'"),
        ("collect_rollouts", ["--seeds", "5", "--policy", "novice"], "'novice'"),
        ("collect_rollouts", ["--seeds", "5", "--fractions", "test=0.5"], "sum to 1"),
        ("collect_rollouts", ["--seeds", "5", "--fractions", "test=2"], "no share"),
        ("collect_rollouts", ["--seeds", "5", "--policy", "model:missing"], "'missing' must be a"),
        ("collect_rollouts", ["--seeds", "5", "--policy", "model:a/m", "model:b/m"], "twice"),
        (
            "collect_rollouts",
            ["--seeds", "5", "--policy", f"model:{BASE}", "--temperature", "-1"],
            "temperature must be",
        ),
        ("build_sft", ["--rollouts", "missing", "--tokenizer", "TOKENIZER"], "missing"),
        ("build_sft", ["--rollouts", "ROLLOUTS", "--tokenizer", "./missing"], "no tokenizer"),
        (
            "build_preferences",
            ["--rollouts", "ROLLOUTS", "--tokenizer", "TOKENIZER", "--strategies", "on_policy"],
            "must have proposals",
        ),
        ("build_kto", ["--rollouts", "ROLLOUTS", "--tokenizer", "TOKENIZER"], "got none"),
        (
            "build_weighted",
            [
                *("--rollouts", "ROLLOUTS", "--tokenizer", "TOKENIZER"),
                *("--sources", "executed", "--scores", "missing"),
            ],
            "go together",
        ),
        (
            "build_preferences",
            [
                *("--rollouts", "ROLLOUTS", "--tokenizer", "TOKENIZER", "--split"),
                *("train_proposer", "--strategies", "divergence", "--max-length-ratio", "0.5"),
            ],
            "max_length_ratio must be at least 1",
        ),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(inputs, tmp_path, capsys, name, args, complaint):
    paths = {"ROLLOUTS": inputs.rollouts, "TOKENIZER": inputs.tokenizer}
    args = [paths.get(arg, arg) for arg in args]
    assert run(name, *args, "--out", tmp_path / "out") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = [line for line in shown.err.splitlines() if "error:" in line]
    assert re.match(rf"{name}\.py: error: ", line)
    assert complaint in line
    assert not (tmp_path / "out").exists()
