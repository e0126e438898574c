"""The subcommands that read a log or a finished run: what they print, and how they refuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from specact_rl import cli
from specact_rl.eval.columns import StepTable
from specact_rl.eval.replay import SystemRun
from specact_rl.eval.step_outcomes import STEPS_FILE, StepNames, write_step_outcomes
from specact_rl.policy.systems import SYSTEMS
from specact_rl.store import read_manifest


def line(number, success):
    call = {
        "type": "function",
        "function": {"name": "open", "arguments": f'{{"key": "{success}"}}'},
    }
    return {
        "id": f"r{number}-{success}",
        "task_id": f"t{number}",
        "model": "m",
        "success": success,
        "messages": [
            {"role": "user", "content": f"Open number {number}."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
        "tools": [],
    }


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "chats.jsonl"
    lines = [line(i, success) for i in range(12) for success in (True, False)]
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return path


def test_import_writes_a_folder_and_says_how_the_log_was_read(log, tmp_path, capsys):
    out = tmp_path / "rollouts"
    assert cli.main(["import", str(log), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Read as openai_chat: ")
    assert "rollouts 24" in shown
    assert shown.splitlines()[-1] == str(out)
    assert read_manifest(out).counts["rollouts"] == 24


def test_import_splits_as_it_is_told(log, tmp_path):
    out = tmp_path / "rollouts"
    fractions = ["--fractions", "train_proposer=0.5,test=0.5"]
    assert cli.main(["import", str(log), "--out", str(out), *fractions, "--seed", "3"]) == 0
    counts = read_manifest(out).counts
    assert counts["train_verifier:tasks"] == 0
    assert counts["train_proposer:tasks"] + counts["test:tasks"] == 12
    assert read_manifest(out).seed == 3


def test_check_prints_the_page_and_writes_the_numbers(log, tmp_path, capsys):
    out = tmp_path / "check.json"
    assert cli.main(["check", str(log), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# What this log supports\n")
    assert "12 tasks have both a success and a failure" in shown
    numbers = json.loads(out.read_text(encoding="utf-8"))
    assert numbers["facts"]["num_mixed_tasks"] == 12
    assert {s["strategy"]: s["num_pairs"] for s in numbers["strategies"]}["divergence"] == 12


@pytest.mark.parametrize(
    ("content", "extra", "complaint"),
    [
        (None, [], "chats.jsonl"),
        ("", [], "chats.jsonl"),
        ('{"what": "is this"}\n', [], "known format"),
        ('{"messages": [{"ro', [], "known format"),
        ("SAME", ["--importer", "nonesuch"], "'nonesuch'"),
    ],
    ids=["missing", "empty", "unknown", "truncated", "no-importer"],
)
@pytest.mark.parametrize("command", ["import", "check"])
def test_a_log_that_does_not_fit_is_one_error(
    log, tmp_path, capsys, command, content, extra, complaint
):
    if content is None:
        log.unlink()
    elif content != "SAME":
        log.write_text(content, encoding="utf-8")
    out = tmp_path / "out"
    assert cli.main([command, str(log), "--out", str(out), *extra]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (error,) = [text for text in shown.err.splitlines() if "error:" in text]
    assert complaint in error
    assert not out.exists()


def test_import_of_an_unknown_tool_is_one_error(tmp_path, capsys):
    step = {"index": 0, "message_index": 1, "executed": {"type": "tool_call", "tool": "opne"}}
    rollout = {
        **{"rollout_id": "r", "task_id": "t", "family": "f", "policy": "p", "trial": 0},
        **{"messages": [{"role": "user", "content": "Open it."}], "tools": [{"name": "open"}]},
        "steps": [step],
    }
    path = tmp_path / "rollouts.jsonl"
    path.write_text(json.dumps(rollout) + "\n", encoding="utf-8")
    assert cli.main(["import", str(path), "--out", str(tmp_path / "out")]) == 2
    (error,) = [text for text in capsys.readouterr().err.splitlines() if "error:" in text]
    assert f"{path}:1: steps[0].executed.tool" in error
    assert "['open'], got 'opne'" in error


def test_check_overwrites_no_file(log, tmp_path, capsys):
    out = tmp_path / "check.json"
    out.write_text("mine", encoding="utf-8")
    assert cli.main(["check", str(log), "--out", str(out)]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "mine"


def test_import_refuses_shares_that_are_none(log, tmp_path, capsys):
    args = ["import", str(log), "--out", str(tmp_path / "out"), "--fractions", "test=much"]
    assert cli.main(args) == 2
    assert "'test=much'" in capsys.readouterr().err


RESULTS = Path(__file__).parent / "fixtures" / "report" / "results.json"


def test_report_is_written_again_from_the_results(tmp_path, capsys):
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    shutil.copy(RESULTS, tmp_path / "run" / "evaluation" / "results.json")
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == tmp_path / "run" / "report" / "report.html"
    assert page.is_file()
    assert cli.main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / "report.md").read_text() == page.with_name("report.md").read_text()


@pytest.fixture
def two_runs(tmp_path, make):
    turns = [(make.say("done"), "next", make.say("done"))] * 4
    table = StepTable.of_references([make.rollout(turns, task=f"t{i}") for i in range(5)])
    nothing = np.zeros(20)
    for i, name in enumerate(("one", "two")):
        run = SystemRun(
            system=SYSTEMS["A"], accepted=nothing > 1, called=nothing < 1, p_accept=nothing,
            pick=nothing.astype(int), offered=nothing, parsed=nothing > 1, levels={},
            acceptable=(np.arange(20) % (i + 2) == 0) * 1.0, same_state=nothing,
            flops=nothing + 1, seconds=nothing, price=nothing, num_distinct=nothing,
        )  # fmt: skip
        folder = tmp_path / name / "evaluation"
        folder.mkdir(parents=True)
        shutil.copy(RESULTS, folder / "results.json")
        write_step_outcomes(folder / STEPS_FILE, StepNames.of(table), {"A": run})
    return [str(tmp_path / name) for name in ("one", "two")]


def test_two_runs_are_compared_on_the_terminal_and_as_pages(two_runs, tmp_path, capsys):
    assert cli.main(["report", "--compare", *two_runs]) == 0
    page = capsys.readouterr().out
    # Of steps 0 to 19 half are multiples of 2, and 7 of 3.
    assert "| A | 50" in page
    assert "−15" in page
    out = tmp_path / "out"
    assert cli.main(["report", "--compare", *two_runs, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{page}{out / 'compare.html'}\n"
    assert (out / "compare.md").read_text() == page
    assert not (Path(two_runs[0]) / "report").exists()


def test_report_takes_one_run_or_two_to_compare(two_runs, capsys):
    for arguments, told in (
        ([], "or --compare"),
        ([two_runs[0], "--compare", *two_runs], "or --compare"),
        ([two_runs[0], "--unpaired"], "goes with --compare"),
    ):
        assert cli.main(["report", *arguments]) == 2
        assert told in capsys.readouterr().err


def test_report_of_a_run_that_has_not_finished_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "must be a finished run" in capsys.readouterr().err
