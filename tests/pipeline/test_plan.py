"""What a plan says of a run before it, with no weights and no hub."""

import json
from dataclasses import replace

import pytest
import torch

from specact_rl.cli import main
from specact_rl.models.chat_templates import QWEN3_TRAINING, chat_template
from specact_rl.models.loading import load_tokenizer
from specact_rl.pipeline import workload
from specact_rl.pipeline.bases import adapted_preset
from specact_rl.pipeline.plan import TRAINING, RecipeSettings, _renderer, fit_of, plan_run
from specact_rl.pipeline.run import planned_episodes
from specact_rl.pipeline.servers import Servers
from specact_rl.presets import find_preset, model_path

GB = 1_000_000_000


@pytest.fixture(scope="module")
def qwen3():
    """Of so few tasks that all are rolled out."""
    preset = adapted_preset(find_preset("qwen3"), num_tasks=20)
    return plan_run(preset, seed=0, device_memory=80 * GB, device_rate=792e12)


def stage(plan, what):
    [found] = [stage for stage in plan.stages if stage.what == what]
    return found


def test_plan_of_qwen3_loads_no_weights_and_asks_no_hub(qwen3, monkeypatch):
    def refuse(*args, **named):
        raise AssertionError("a plan must not do this")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse)
    preset = adapted_preset(find_preset("qwen3"), num_tasks=3)
    plan = plan_run(preset, seed=0, device_memory=80 * GB, device_rate=792e12)
    assert plan.bases["strong"] == "Qwen/Qwen3-8B (shape: table)"
    assert plan.fits


def test_both_proposers_train_on_equal_data(qwen3):
    cheap, strong = (stage(qwen3, f"sft_proposer: {role}") for role in ("cheap", "strong"))
    assert (cheap.rows, cheap.tokens) == (strong.rows, strong.tokens)
    assert cheap.rows == stage(qwen3, "rows").rows > 0
    # 2 epochs; parameters in the layers: 36 x 192,937,984 and 28 x 50,331,648
    assert strong.flops / cheap.flops == pytest.approx(
        36 * 192_937_984 / (28 * 50_331_648), rel=0.1
    )


def test_data_is_gone_through_by_epochs_or_as_far_as_the_steps_go(qwen3):
    assert RecipeSettings.read("qwen3", "sft_proposer").passes(1000) == 2
    # 2 steps of 2 rows each
    assert RecipeSettings.read("smoke", "sft_proposer").passes(8) == 0.5
    verifier = stage(qwen3, "train_verifier: verifier")
    preferences = stage(qwen3, "dpo_proposer: cheap_dpo")
    # two epochs of single rows, one epoch of pairs, of the same mean length
    per_row = verifier.tokens / (2 * verifier.rows)
    assert preferences.tokens == pytest.approx(2 * preferences.rows * per_row, rel=1e-3)


def test_hours_are_those_of_the_flops_at_the_stated_share(qwen3):
    training = stage(qwen3, "train_verifier: verifier")
    assert training.seconds == pytest.approx(training.flops / (792e12 * TRAINING))


def test_each_part_of_the_memory_is_there(qwen3):
    training = stage(qwen3, "sft_proposer: strong")
    writing, judging = [stage for stage in qwen3.stages if stage.stage == "strong proposes"]
    assert set(training.memory) == {
        "weights", "adapters", "gradients", "optimizer", "activations", "working",
    }  # fmt: skip
    assert training.memory["weights"] == pytest.approx(2 * 8.19 * GB, rel=0.001)
    assert {"weights", "kv cache", "working", "other models", "kept prefixes"} == set(
        writing.memory
    )
    assert judging.flops < writing.flops  # it does not read what it has read to propose
    # 8 heads of 128, keys and values, 36 layers, 2 bytes: 147,456 a token
    assert writing.memory["kv cache"] % 147_456 == 0


def test_device_that_is_too_small_is_said_to_be():
    preset = adapted_preset(find_preset("qwen3"), num_tasks=3)
    plan = plan_run(preset, seed=0, device_memory=12 * GB, device_rate=792e12)
    assert not plan.fits
    assert stage(plan, "sft_proposer: strong").fits == "no"
    assert stage(plan, "sft_proposer: cheap").fits == "yes"


def test_caches_of_rows_that_write_are_as_many_as_the_engine_keeps_on_a_gpu():
    """A quarter of it, beside the rollouts that are read: at most 8,192 tokens, or one."""
    preset = adapted_preset(find_preset("qwen3"), num_tasks=3)
    plan = plan_run(preset, seed=0, device_memory=24 * GB, device_rate=792e12)
    [writing] = [stage for stage in plan.stages if stage.stage == "cheap proposes"]
    # 8 heads of 128, keys and values, 28 layers, 2 bytes
    slot = 114_688
    assert writing.memory["kv cache"] + 1_500 * slot > 6 * GB  # less than one row is left
    assert writing.memory["kv cache"] <= 6 * GB + 8_192 * slot
    assert writing.fits == "yes"


def test_memory_is_tight_where_the_reserve_may_not_fit():
    fits = [fit_of(9 * GB, memory) for memory in (9 * GB, 10 * GB, 11 * GB)]
    assert fits == ["no", "tight", "yes"]


def test_tokens_are_counted_in_the_template_that_is_trained_with(tmp_path):
    """The hub's would write an empty thought into every turn."""
    load_tokenizer(model_path("builtin:1m"), "qwen3").save_pretrained(tmp_path)
    preset = adapted_preset(find_preset("qwen3"), cheap_base=str(tmp_path))
    renderer, _, _ = _renderer(preset, Servers.of(preset))
    assert renderer.tokenizer.chat_template == chat_template(QWEN3_TRAINING)
    renderer, _, _ = _renderer(replace(preset, chat_template="own"), Servers.of(preset))
    assert renderer.tokenizer.chat_template == chat_template("qwen3")


def test_some_tasks_stand_for_all(monkeypatch):
    preset = adapted_preset(find_preset("tiny"), num_tasks=120)
    all_of_them = plan_run(preset, seed=0, device_memory=GB, device_rate=1e12)
    monkeypatch.setattr(workload, "PLANNED_TASKS", 60)
    some = plan_run(preset, seed=0, device_memory=GB, device_rate=1e12)
    assert "the first 60 of 120" in some.counted
    assert stage(all_of_them, "episodes").bound == "exact"
    assert stage(some, "episodes").rows == stage(all_of_them, "episodes").rows
    # Half of the tasks, and shares of splits in the place of those drawn
    for what in ("strong", "cheap_dpo"):
        planned = [s for s in some.stages if s.what == what and "propose" in s.stage]
        counted = [s for s in all_of_them.stages if s.what == what and "propose" in s.stage]
        assert planned[0].bound == "about"
        assert planned[0].rows == pytest.approx(counted[0].rows, rel=0.25)


def test_tasks_of_two_policies_are_not_more_of_the_ranked_steps_than_they_are_of_the_run(
    monkeypatch,
):
    preset = replace(
        adapted_preset(find_preset("tiny"), num_tasks=60), num_tasks_twice=12, num_ranked_tasks=21
    )
    plans, (renderer, _, _) = planned_episodes(preset, 0), _renderer(preset, Servers.of(preset))
    all_of_them = workload.plan_workload(preset, 0, plans, renderer, None)
    monkeypatch.setattr(workload, "PLANNED_TASKS", 12)  # all of which both policies did
    some = workload.plan_workload(preset, 0, plans, renderer, None)
    assert all_of_them.exact
    assert some.ranked_steps == pytest.approx(all_of_them.ranked_steps, rel=0.15)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_machine_without_a_gpu_is_planned_for_one_that_is_assumed(capsys):
    command = ["run", "--preset", "qwen3", "--num-tasks", "3", "--plan", "--json"]
    assert main(command) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["device"]["memory"] == 80 * GB
    assert plan["device"]["memory_source"] == plan["device"]["rate_source"] == "assumed"
    assert plan["utilisation"]["training"] == 0.18


def test_page_says_what_does_not_fit_and_what_to_change(capsys):
    command = ["run", "--preset", "qwen3", "--num-tasks", "3", "--plan", "--device-memory", "12"]
    assert main([*command, "--device-tflops", "100", "--utilisation", "0.5"]) == 1
    page = capsys.readouterr().out
    assert "12.0 GB (given), 100 TFLOP/s (given)" in page
    assert "trainings at 50 % of the device's rate" in page
    [advice] = [line for line in page.splitlines() if line.startswith("does not fit")]
    assert "sft_proposer: strong (" in advice
    assert "load_in_4bit: true" in advice


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--plan", "--utilisation", "1.5"], "must be a share"),
        (["--plan", "--device-memory", "-1"], "must be above 0"),
        (["--plan", "--cheap-base", "org/unheard-of"], "not known without a download"),
        (["--json", "--out", "x"], "--json is of a plan"),
        ([], "--out DIR must be given"),
    ],
)
def test_bad_options_are_refused(options, complaint, capsys):
    assert main(["run", "--preset", "qwen3", *options]) == 2
    assert complaint in capsys.readouterr().err


def test_shape_of_another_architecture_is_not_guessed(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    command = ["run", "--preset", "qwen3", "--num-tasks", "3", "--plan"]
    assert main([*command, "--strong-base", str(tmp_path)]) == 2
    assert "'llama'" in capsys.readouterr().err


def test_plan_says_how_exact_its_rows_are(qwen3):
    bounds = {stage.what: stage.bound for stage in qwen3.stages}
    assert bounds["episodes"] == bounds["classifier on cheap"] == "exact"
    assert bounds["train_verifier: verifier"] == bounds["preferences"] == "at most"
    assert replace(qwen3, stages=[]).fits
