"""The sweep as a user runs it: cells and faults, going on after a kill, what it refuses."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from specact_rl.envs.collect import EpisodePlan
from specact_rl.eval import lora_sweep
from specact_rl.mining.build_rollouts import collect_rollouts
from specact_rl.mining.build_rows import build_sft
from specact_rl.mining.data_sets import DataSource
from specact_rl.models import lora_cells
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.loading import checkpoint_renderer
from specact_rl.presets import model_path
from specact_rl.store import read_json

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SCRIPT = RECIPES / "lora_scaling_sweep.py"
CONFIG = RECIPES / "configs" / "smoke" / "lora_scaling_sweep.yaml"
BASE = model_path("builtin:1m")
ONE = [{"ratio": [0.5], "r": [2], "learning_rate": [1.0e-2]}]
TWO = [ONE[0] | {"seed": [0, 1]}]


def plan(seed):
    return EpisodePlan(environment="workspace", seed=seed, held_out=False, policy="expert", trial=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rollouts of a few workspace tasks, and rows of them with some held out."""
    folder = tmp_path_factory.mktemp("data")
    plans = [plan(seed) for seed in range(12)]
    collect_rollouts(folder / "rollouts", plans, fractions={"train_proposer": 1.0})
    source = DataSource(
        rollouts_dir=folder / "rollouts",
        out_dir=folder / "sft",
        renderer=checkpoint_renderer(BASE),
        split="train_proposer",
        eval_fraction=0.4,
    )
    build_sft(source)
    return folder


def run_sweep(data, out, *extra, lines=None):
    """Run the smoke config in this process, with other lines if any are given."""
    config = CONFIG
    if lines is not None:
        config = out.with_suffix(".yaml")
        values = yaml.safe_load(CONFIG.read_text()) | {"lines": lines}
        config.write_text(yaml.safe_dump(values))
    argv = [str(SCRIPT), "--config", str(config), "--model_name_or_path", BASE]
    argv += ["--dataset_dir", str(data / "sft"), "--rollouts_dir", str(data / "rollouts")]
    argv += ["--output_dir", str(out), *map(str, extra)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        runpy.run_path(argv[0], run_name="__main__")
    return out


@pytest.fixture
def sweep(data, tmp_path):
    return lambda *extra, **how: run_sweep(data, tmp_path / "out", *extra, **how)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A sweep of two cells that differ in their seed."""
    return run_sweep(data, tmp_path_factory.mktemp("finished") / "out", lines=TWO)


@pytest.fixture
def copied(finished, tmp_path):
    """The finished sweep where `sweep` works."""
    return shutil.copytree(finished, tmp_path / "out")


def refusal(sweep, capfd, *extra, **how):
    with pytest.raises(SystemExit) as end:
        sweep(*extra, **how)
    assert end.value.code == 2
    return capfd.readouterr().err.splitlines()[-1]


def test_smoke_sweep_measures_every_cell_beside_the_base_and_shows_them(sweep, data):
    out = sweep()
    results = read_json(out / "results.json")
    assert results["num_cells"] == 5
    assert [s["fault"] for s in results["settings"]][2:] == [
        "end_masked",
        "end_missing",
        "stop_unknown",
    ]
    [base] = results["bases"]
    assert base["kl"]["value"] == 0.0
    assert all(s["kl"]["value"] > 0 for s in results["settings"])
    assert {s["nll"]["n"] for s in (base, *results["settings"])} == {results["num_rows"]}
    words = {s["fault"]: s["ends"]["in_words"] for s in results["settings"]}
    assert "under the loss in all" in words["none"]
    assert "MASKED" in words["end_masked"]
    assert "MISSING" in words["end_missing"]
    # a decoder that does not know the stop token never sees a turn end, and shows it instead
    unknown = results["settings"][-1]
    sound = results["settings"][1]
    assert unknown["unfinished"]["value"] == 1.0
    assert unknown["leaked"]["value"] == 1.0
    assert unknown["nll"] == sound["nll"]  # the same training, and the same resamples
    assert (base["unfinished"]["value"], base["leaked"]["value"]) == (0.0, 0.0)
    page = (out / "lora_sweep.html").read_text()
    assert "The mundane cause was looked for first" in page
    assert (out / "figures" / "lora_scales.svg").is_file()
    assert not (out / "checkpoints").exists()
    assert not list(out.rglob("*.tmp"))


def test_base_is_measured_with_the_adapter_off(finished, data):
    record = read_json(finished / "cells" / "base-float.json")["record"]
    lm = LanguageModel.load(Path(BASE))
    held_out = lora_sweep.HeldOut.read(data / "sft", data / "rollouts", lm.renderer)
    proposed = [p for [p] in lm.propose(held_out.steps, Sampling(max_new_tokens=40))]
    rows = record["measured"]["rows"]
    assert [row["text"] for row in rows] == [p.text for p in proposed]
    assert [row["parsed"] for row in rows] == [p.action is not None for p in proposed]
    assert any(row["match_level"] == "arguments" for row in rows)


def test_what_begins_a_turn_counts_as_leaked_and_what_marks_a_call_does_not():
    tokenizer = checkpoint_renderer(BASE).tokenizer
    special = lora_sweep.special_ids(tokenizer)
    ids = tokenizer("<|im_start|><|im_end|><|endoftext|>", add_special_tokens=False)["input_ids"]
    assert special == set(ids)
    assert tokenizer.convert_tokens_to_ids("<tool_call>") not in special


def test_killed_sweep_goes_on_with_the_cell_it_was_at(finished, sweep, monkeypatch, tmp_path):
    train, trained = lora_sweep.train_cell, []

    def killed(cell, **how):
        if cell.seed == 1:
            raise KeyboardInterrupt
        return train(cell, **how)

    def counted(cell, **how):
        trained.append(cell.seed)
        return train(cell, **how)

    monkeypatch.setattr(lora_sweep, "train_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep(lines=TWO)
    assert not (tmp_path / "out" / "results.json").exists()
    monkeypatch.setattr(lora_sweep, "train_cell", counted)
    again, whole = (read_json(out / "results.json") for out in (sweep(lines=TWO), finished))
    assert trained == [1]
    for results in (whole, again):
        for setting in results["settings"]:
            del setting["seconds"]
    assert again["settings"] == whole["settings"]
    assert again["bases"] == whole["bases"]


def test_seeds_draw_other_adapters(finished):
    [setting] = read_json(finished / "results.json")["settings"]
    one, other = setting["nll_by_seed"]
    assert one != other


def test_lines_may_be_added_to_a_finished_sweep(copied, sweep, monkeypatch):
    trained, train = [], lora_sweep.train_cell

    def counted(cell, **how):
        trained.append(cell.ratio)
        return train(cell, **how)

    monkeypatch.setattr(lora_sweep, "train_cell", counted)
    sweep(lines=[*TWO, ONE[0] | {"ratio": [1.0]}])
    assert trained == [1.0]
    assert read_json(copied / "results.json")["num_cells"] == 3


def test_cells_measured_in_another_way_are_not_taken_for_these(copied, sweep, capfd):
    error = refusal(sweep, capfd, "--max_new_tokens", 41, lines=TWO)
    assert "measured in another way, and is not overwritten" in error


def test_sweep_of_another_base_or_trainer_is_not_mixed_with_this_one(copied, sweep, capfd):
    error = refusal(sweep, capfd, "--max_steps", 3, lines=TWO)
    assert "other arguments, rows or model" in error


def test_training_that_diverges_is_a_row_and_no_number(sweep):
    lines = [{"ratio": [2.0], "r": [2], "learning_rate": [1.0e30]}]
    out = sweep(lines=lines)
    [setting] = read_json(out / "results.json")["settings"]
    assert setting["num_diverged"] == 1
    assert setting["nll"]["value"] is None
    assert setting["nll"]["note"] == "training diverged"
    assert "diverged" in (out / "lora_sweep.md").read_text()


def test_rollouts_of_another_data_set_are_refused(sweep, capfd, tmp_path):
    collect_rollouts(tmp_path / "other", [plan(99)], fractions={"train_proposer": 1.0})
    error = refusal(sweep, capfd, "--rollouts_dir", tmp_path / "other")
    assert "must be the folder that" in error


def test_data_without_held_out_rows_is_refused_with_the_way_to_them(data, sweep, capfd, tmp_path):
    source = DataSource(
        rollouts_dir=data / "rollouts",
        out_dir=tmp_path / "sft",
        renderer=checkpoint_renderer(BASE),
        split="train_proposer",
    )
    build_sft(source)
    error = refusal(sweep, capfd, "--dataset_dir", tmp_path / "sft")
    assert "--eval-fraction" in error


def test_turns_that_could_not_end_are_refused(sweep, capfd):
    error = refusal(sweep, capfd, "--max_new_tokens", 4, lines=ONE)
    assert "the longest held-out turn, got 4" in error


def test_more_than_one_process_is_refused(sweep, capfd):
    assert "num_processes must be 1, got 2" in refusal(sweep, capfd, "--num_processes", 2)


def test_sweep_without_lines_is_refused(sweep, capfd):
    assert "at least one line of cells" in refusal(sweep, capfd, lines=[])


def test_masked_ends_stop_a_cell_that_is_to_have_no_fault(sweep, capfd, monkeypatch):
    # as if a collator had masked them: the check of the trained tokens looks elsewhere
    real = lora_cells.faulty_row
    monkeypatch.setattr(
        lora_cells, "faulty_row", lambda row, other, _: real(row, other, "end_masked")
    )
    monkeypatch.setattr(lora_cells, "check_trained_tokens", lambda *args, **how: None)
    error = refusal(sweep, capfd, lines=ONE)
    assert "MASKED out of the loss" in error
    assert "mend it first" in error


@pytest.mark.slow
def test_adapters_over_4_bit_weights_are_measured_beside_their_own_base(sweep):
    out = sweep(lines=[ONE[0] | {"weights": ["float", "nf4"]}])
    results = read_json(out / "results.json")
    assert [base["weights"] for base in results["bases"]] == ["float", "nf4"]
    assert results["bases"][0]["nll"]["value"] != results["bases"][1]["nll"]["value"]
    assert [c["kind"] for c in results["contrasts"]] == ["nf4"] * 4
    assert json.dumps(results)  # no NaN
