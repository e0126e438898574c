"""Recipes, run as a user runs them: what they train on, what they leave, what they refuse."""

import importlib.util
import json
import math
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from transformers.trainer_callback import DefaultFlowCallback

from specact_rl.models import fitting, recipe_runs
from specact_rl.models.loading import check_checkpoint_info, load_causal_lm, load_classifier
from specact_rl.models.recipe_arguments import parse_arguments
from specact_rl.models.recipe_runs import RecipeRun
from specact_rl.models.scoring import classify_continuations, score_candidates
from specact_rl.models.training import token_rows
from specact_rl.rendering import RolloutTokens
from specact_rl.store import read_training_rows, write_training_rows

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NAMES = [
    "sft_proposer",
    "dpo_proposer",
    "kto_proposer",
    "reward_weighted_sft",
    "train_reward_model",
    "train_verifier",
]
LORA = ["--use_peft", "--lora_r", "2", "--lora_target_modules", "all-linear", "--lora_dropout", "0"]
ALL_AT_ONCE = ["--max_steps", "1", "--per_device_train_batch_size", "8"]


def tokens_of(world, recipe, columns):
    rows = read_training_rows(world.data[recipe], "train")
    return token_rows(rows, world.renderer, columns)


def prompts_of(rows):
    return [RolloutTokens.of_prompt(row.prompt).prompts()[0] for row in rows]


def logprobs(model, rows):
    scores = score_candidates(model, prompts_of(rows), [[row.completion] for row in rows])
    return np.array([score[0] for score in scores])


def visible(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def before_saving(monkeypatch):
    """Calls of a function on the trainer at the end of training, and what it returned."""
    results, save = [], RecipeRun.save

    def watch(function):
        def saving(run, trainer, *files, **facts):
            results.append(function(trainer))
            save(run, trainer, *files, **facts)

        monkeypatch.setattr(RecipeRun, "save", saving)
        return results

    return watch


# What is left


@pytest.mark.parametrize("options", [[], LORA], ids=["full", "lora"])
@pytest.mark.parametrize("recipe", NAMES)
def test_recipe_leaves_a_plain_checkpoint_and_nothing_else(
    recipe, options, world, run_recipe, tmp_path
):
    out = tmp_path / "models" / "out"
    log = run_recipe(recipe, out, *options)
    expected = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    expected |= {"chat_template.jinja", "specact.json", "tokenizer_config.json", "train_log.json"}
    expected |= {"verifier.json"} if recipe == "train_verifier" else set()
    expected |= {"generation_config.json"} if not recipe.startswith("train_") else set()
    assert visible(out) == expected
    check_checkpoint_info(out, world.renderer)
    assert log["num_steps"] == 2
    assert log["num_rows"] == 8
    before, after = (load_file(f / "model.safetensors") for f in (world.base, out))
    shared = [name for name in before if name in after and before[name].dim() == 2]
    assert any(not torch.equal(before[name], after[name]) for name in shared)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", NAMES)
def test_adapter_over_4_bit_weights_leaves_a_plain_checkpoint(
    recipe, wide_world, run_recipe, tmp_path
):
    options = ["--load_in_4bit", "--use_bnb_nested_quant", "--model_name_or_path", wide_world.base]
    options += ["--bf16", "true"] if recipe == "train_reward_model" else []
    run_recipe(recipe, tmp_path / "out", *LORA, *options, "--learning_rate", "0.01")
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    before, after = (
        load_file(f / "model.safetensors") for f in (wide_world.base, tmp_path / "out")
    )
    name = "model.layers.0.mlp.down_proj.weight"
    change = (after[name] - before[name]).float()
    assert 0 < torch.linalg.matrix_rank(change, rtol=1e-3) <= 2  # an adapter of rank 2, no more


def test_tokens_that_are_logged_are_those_of_the_rows(world, run_recipe, tmp_path):
    log = run_recipe("sft_proposer", tmp_path / "out", *ALL_AT_ONCE)
    rows = tokens_of(world, "sft_proposer", ["completion"])
    assert log["num_tokens"] == sum(len(row.ids) for [row] in rows)


@pytest.mark.parametrize("options", [[], LORA], ids=["full", "lora"])
@pytest.mark.parametrize("recipe", ["train_verifier", "train_reward_model"])
def test_saved_classifier_scores_as_the_trained_one_did(
    recipe, options, world, run_recipe, before_saving, tmp_path
):
    columns = ["completion"] if recipe == "train_verifier" else ["chosen"]
    rows = [row for [row] in tokens_of(world, recipe, columns)]

    def padded_logits(trainer):
        ids = [torch.tensor(row.ids) for row in rows]
        batch = {
            "input_ids": pad_sequence(ids, True, world.renderer.tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(each) for each in ids], True, 0),
        }
        with torch.no_grad():
            return trainer.model.eval()(**batch).logits

    results = before_saving(padded_logits)
    run_recipe(recipe, tmp_path / "out", *options, "--learning_rate", "0.05")
    model = load_classifier(tmp_path / "out", num_labels=results[0].shape[1])
    scored = classify_continuations(model, prompts_of(rows), [[row.completion] for row in rows])
    np.testing.assert_allclose(np.concatenate(scored), results[0].numpy(), atol=1e-4)
    assert len(rows) == 8


def test_verifier_has_two_named_labels_and_says_what_it_was_trained_on(world, run_recipe, tmp_path):
    run_recipe("train_verifier", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "unacceptable", "1": "acceptable"}
    facts = json.loads((tmp_path / "out" / "verifier.json").read_text())
    assert facts["positive_fraction_train"] == 2 / 8
    assert facts["balance"] == "loss"
    assert facts["num_rows"] == 8


# What is trained on


def test_first_sft_loss_is_the_mean_surprisal_of_action_tokens_at_inference(
    world, run_recipe, tmp_path
):
    log = run_recipe("sft_proposer", tmp_path / "out", *ALL_AT_ONCE)
    rows = [row for [row] in tokens_of(world, "sft_proposer", ["completion"])]
    surprisal = -logprobs(load_causal_lm(world.base), rows).sum()
    expected = surprisal / sum(len(row.completion) for row in rows)
    assert log["log"][0]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("options", [[], LORA], ids=["full", "lora"])
def test_first_dpo_loss_is_ln_2_and_its_logps_are_those_of_inference(
    options, world, run_recipe, tmp_path
):
    first = run_recipe("dpo_proposer", tmp_path / "out", *ALL_AT_ONCE, *options)["log"][0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    model = load_causal_lm(world.base)
    pairs = tokens_of(world, "dpo_proposer", ["chosen", "rejected"])
    for side, name in enumerate(["logps/chosen", "logps/rejected"]):
        expected = logprobs(model, [pair[side] for pair in pairs]).mean()
        assert first[name] == pytest.approx(expected, rel=1e-4)


def test_dpo_takes_an_sft_term(world, run_recipe, tmp_path):
    options = ["--loss_type", "sigmoid", "sft", "--loss_weights", "1", "0.5"]
    first = run_recipe("dpo_proposer", tmp_path / "out", *ALL_AT_ONCE, *options)["log"][0]
    chosen = [pair[0] for pair in tokens_of(world, "dpo_proposer", ["chosen", "rejected"])]
    surprisal = -logprobs(load_causal_lm(world.base), chosen).sum()
    per_token = surprisal / sum(len(row.completion) for row in chosen)
    assert first["loss"] == pytest.approx(math.log(2) + 0.5 * per_token, rel=1e-4)


def test_truncation_keeps_the_action_when_it_is_allowed(world, run_recipe, tmp_path):
    rows = [row for [row] in tokens_of(world, "sft_proposer", ["completion"])]
    limit = min(len(row.ids) for row in rows)
    out = tmp_path / "out"
    log = run_recipe("sft_proposer", out, *ALL_AT_ONCE, "--max_length", limit, "--allow_truncation")
    assert log["num_tokens"] == 8 * limit


def test_dpo_truncation_keeps_every_pair(world, run_recipe, tmp_path):
    pairs = tokens_of(world, "dpo_proposer", ["chosen", "rejected"])
    limit = min(len(row.ids) for pair in pairs for row in pair)
    out = tmp_path / "out"
    log = run_recipe("dpo_proposer", out, *ALL_AT_ONCE, "--max_length", limit, "--allow_truncation")
    assert log["num_tokens"] == 16 * limit


def test_hub_model_is_taken_at_its_revision(world, run_recipe, tmp_path, monkeypatch):
    asked = []

    def download(repo_id, *, revision, **options):
        asked.append((repo_id, revision))
        return str(world.base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    options = ["--model_name_or_path", "org/model", "--model_revision", "abc123"]
    log = run_recipe("train_verifier", tmp_path / "out", *options)
    assert asked == [("org/model", "abc123")]
    assert log["origin"]["base_model_id"].startswith("model-")  # as the hub calls it


# Stopping and going on


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "recipe",
    ["sft_proposer", "train_verifier", pytest.param("kto_proposer", marks=pytest.mark.slow)],
)
def test_a_run_killed_after_two_steps_ends_with_the_same_weights(
    recipe, run_recipe, tmp_path, monkeypatch, capfd
):
    options = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2"]
    run_recipe(recipe, tmp_path / "straight", *options)

    def kill(self, args, state, control, **kwargs):
        assert state.global_step == 2
        raise Killed

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(DefaultFlowCallback, "on_save", kill, raising=False)
        with pytest.raises(Killed):
            run_recipe(recipe, out, *options)
    assert not (out / "config.json").exists()
    assert "going on from" not in capfd.readouterr().err
    log = run_recipe(recipe, out, *options)
    assert re.search("going on from .*checkpoint-2\n", capfd.readouterr().err)
    assert log["num_steps"] == 4
    straight, resumed = (load_file(f / "model.safetensors") for f in (tmp_path / "straight", out))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert visible(out) == visible(tmp_path / "straight")


def test_a_checkpoint_that_was_being_written_is_not_used(run_recipe, tmp_path, monkeypatch, capfd):
    options = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2"]

    def kill(self, args, state, control, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(DefaultFlowCallback, "on_save", kill, raising=False)
        with pytest.raises(Killed):
            run_recipe("train_verifier", tmp_path / "out", *options)
    [checkpoint] = (tmp_path / "out" / "checkpoints").glob("checkpoint-*")
    (checkpoint / "trainer_state.json").unlink()
    assert run_recipe("train_verifier", tmp_path / "out", *options)["num_steps"] == 4
    assert "going on from" not in capfd.readouterr().err


def test_what_a_kill_leaves_beside_a_finished_checkpoint_is_removed(
    run_recipe, tmp_path, monkeypatch
):
    def kill(*_, **__):
        raise Killed

    out = tmp_path / "out"
    options = ["--save_strategy", "steps", "--save_steps", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(
            recipe_runs.shutil, "rmtree", lambda path, **_: "saving" in str(path) or kill()
        )
        with pytest.raises(Killed):
            run_recipe("train_verifier", out, *options)
    assert {"train_log.json", "checkpoints", ".run.json"} <= visible(out)
    first = json.loads((out / "train_log.json").read_text())
    assert run_recipe("train_verifier", out, *options) == first
    assert not {name for name in visible(out) if name.startswith(".") or name == "checkpoints"}


def test_files_that_a_kill_left_half_written_are_removed(run_recipe, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "..progress.json.12.tmp").write_text("{")
    run_recipe("train_verifier", out)
    assert not [name for name in visible(out) if name.endswith(".tmp")]


def test_a_finished_run_is_not_repeated(run_recipe, tmp_path):
    first = run_recipe("train_verifier", tmp_path / "out")
    assert run_recipe("train_verifier", tmp_path / "out")["seconds"] == first["seconds"]


def test_a_finished_run_is_not_overwritten_by_another(run_recipe, refused, tmp_path):
    run_recipe("train_verifier", tmp_path / "out")
    error = refused("train_verifier", "--learning_rate", "0.1", out=tmp_path / "out")
    assert "not overwritten" in error


def test_diverged_weights_are_not_saved(refused, tmp_path):
    options = ["--learning_rate", "1e38", "--max_grad_norm", "0", "--optim", "sgd"]
    assert "training diverged" in refused("sft_proposer", *options, out=tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


# What is refused


@pytest.mark.parametrize("recipe", NAMES)
def test_more_processes_promised_than_there_are(recipe, refused):
    error = refused(recipe, "--num_processes", "2")
    assert f"{recipe}: error: num_processes promises 2 processes, but there are 1" in error


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--max_length", "20"], r"train\.parquet: row 6 has 101 .* max_length 20, and 8 of 8 are"),
        (["--max_length", "5", "--allow_truncation"], r"train\.parquet: row \d .*leaves no prompt"),
        (["--catalogue", "template"], "these differ: catalogue"),
        (["--split", "test"], "there is no .*test.parquet"),
        (["--dataset_dir", "/nowhere"], "there is no .*nowhere.train.parquet"),
        (["--model_name_or_path", "/nowhere/at/all"], "must be a checkpoint folder or a hub id"),
        (["--load_in_4bit"], "use_peft"),
        (["--dtype", "auto"], "dtype"),
        (["--packing"], "packing"),
        (["--padding_free"], "packing"),
        (["--chat_template_path", "x.jinja"], "chat_template_path"),
        (["--learning_rat", "1"], "--learning_rat"),
        (["--learning_rate", "fast"], "sft_proposer: error: .*invalid float value"),
        (["--catalogue", "none"], "invalid choice"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_sft_refuses_with_exit_code_2(options, complaint, refused):
    error = refused("sft_proposer", *options)
    assert re.search(complaint, error), error


def test_reward_model_over_4_bit_weights_without_autocast_is_refused(refused):
    assert "bf16: true" in refused("train_reward_model", *LORA, "--load_in_4bit")


@pytest.fixture
def device(monkeypatch):
    """Make the device have so many bytes free."""

    def have(available):
        monkeypatch.setattr(fitting, "device_memory", lambda training: available)

    return have


@pytest.mark.parametrize("recipe", NAMES)
def test_training_that_cannot_fit_the_device_is_refused_before_weights_are_loaded(
    recipe, world, refused, device, monkeypatch
):
    device(100_000)
    for kind in ("CausalLM", "SequenceClassification"):
        monkeypatch.setattr(f"transformers.AutoModelFor{kind}.from_pretrained", None)
    error = refused(recipe)
    weights = sum(t.numel() for t in load_file(world.base / "model.safetensors").values())
    # float32 weights, their gradients and two moments
    assert f"at least {16 * weights / 1e6:.2f} MB" in error
    assert "the device has 0.10 MB free" in error


@pytest.mark.parametrize("recipe", NAMES)
def test_what_would_fit_is_said(recipe, refused, device):
    in_bf16 = [*LORA, "--dtype", "bfloat16", "--bf16", "true", "--per_device_train_batch_size", "8"]
    device(1)
    error = refused(recipe, *in_bf16)
    assert "batches of 8 rows of up to" in error
    assert "take a smaller model or a larger device" in error
    needed = float(re.search(r"takes about (\S+) MB", error)[1])
    device(int((needed - 0.02) * 1e6))
    fitting_ones = re.search("what would fit: (.*)", refused(recipe, *in_bf16))[1]
    assert fitting_ones.startswith("activation_checkpointing: true (")
    for found in re.findall(r"\((\S+) MB\)", fitting_ones):
        assert float(found) < needed
    assert "per_device_train_batch_size: 1 with more gradient_accumulation_steps" in fitting_ones


def test_training_that_fits_is_not_refused(run_recipe, device, tmp_path):
    device(10**9)
    assert run_recipe("sft_proposer", tmp_path / "out")["num_steps"] == 2


def test_folder_with_other_files_is_refused(refused, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    assert "must be new or empty" in refused("sft_proposer", out=tmp_path / "out")


def test_model_with_another_template_is_refused(world, refused, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(world.base, other)
    with (other / "chat_template.jinja").open("a") as template:
        template.write("!")
    error = refused("sft_proposer", "--model_name_or_path", other)
    assert "these differ: chat_template" in error


def test_rows_rendered_with_another_template_are_refused(world, refused, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(world.base, other)
    (other / "specact.json").unlink()
    template = (other / "chat_template.jinja").read_text()
    (other / "chat_template.jinja").write_text("<|im_start|>\n" + template)
    error = refused("sft_proposer", "--model_name_or_path", other)
    assert "row 0" in error
    assert "history_hash" in error


@pytest.mark.parametrize("recipe", NAMES)
def test_checkpoint_that_was_cut_short_as_a_start_is_refused(recipe, world, refused, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(world.base, other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    error = refused(recipe, "--model_name_or_path", other)
    assert f"{recipe}: error: {weights} must have" in error


def test_base_that_was_replaced_while_its_adapter_was_trained_is_refused(
    world, refused, tmp_path, monkeypatch
):
    base = tmp_path / "base"
    shutil.copytree(world.base, base)

    def replace(run, trainer):
        Path(base, "model.safetensors").unlink()
        tensors = load_file(world.base / "model.safetensors")
        save_file({k: t + 1 for k, t in tensors.items()}, base / "model.safetensors")

    monkeypatch.setattr(RecipeRun, "train", replace)
    error = refused("sft_proposer", *LORA, "--model_name_or_path", base)
    assert "it was trained on base-" in error
    assert not (tmp_path / "out" / "config.json").exists()


def test_every_recipe_that_starts_from_a_model_checks_that_it_fits_the_device():
    for script in SCRIPTS:
        if script.stem != "pretrain_base":  # of a few million weights
            assert "check_fits_device(" in script.read_text(), script


def test_adapter_folder_as_a_start_is_refused(refused, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert "merge" in refused("dpo_proposer", "--model_name_or_path", adapter)


def test_rows_of_another_recipe_are_refused(world, refused):
    error = refused("dpo_proposer", "--dataset_dir", world.data["sft_proposer"])
    assert "must have a value in ['chosen', 'rejected']" in error


@pytest.mark.parametrize("label", [None, 1, "yes"])
def test_unknown_labels_are_refused(label, world, refused, tmp_path):
    rows = read_training_rows(world.data["train_verifier"], "train")
    if label is None:
        rows[3]["label"] = None
    else:
        rows = [row | {"label": label} for row in rows]
    write_training_rows(tmp_path / "data", {"train": rows}, "Test rows.")
    error = refused("train_verifier", "--dataset_dir", tmp_path / "data")
    assert f"label must be true or false, got {label!r}" in error


def test_pad_token_that_ends_turns_is_refused_by_classifiers(world, refused, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(world.base, other)
    (other / "specact.json").unlink()
    config = json.loads((other / "tokenizer_config.json").read_text())
    config["pad_token"] = config["eos_token"]
    (other / "tokenizer_config.json").write_text(json.dumps(config))
    error = refused("train_verifier", "--model_name_or_path", other)
    assert "pad token must not be the stop token" in error


# Configs

CONFIGS = sorted((RECIPES / "configs").rglob("*.yaml"))
SCRIPTS = sorted(RECIPES.glob("*.py"))


def recipe_of(config):
    """pretrain_base_1m.yaml belongs to pretrain_base.py."""
    [script] = [path for path in SCRIPTS if config.stem.startswith(path.stem)]
    return script


def test_configs_were_found():
    own = [path for path in CONFIGS if path.stem in NAMES]
    assert len(own) == 3 * len(NAMES)
    assert {recipe_of(path) for path in CONFIGS} == set(SCRIPTS)


@pytest.fixture(scope="module")
def argument_types():
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for script in SCRIPTS:
            spec = importlib.util.spec_from_file_location(f"recipe_{script.stem}", script)
            module = importlib.util.module_from_spec(spec)
            # The parser looks there for what the annotations mean.
            patch.setitem(sys.modules, spec.name, module)
            spec.loader.exec_module(module)
            found[script] = module.ARGUMENTS
        yield found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_parses(config, argument_types):
    script = recipe_of(config)
    paths = ["--dataset_dir", "DATA", "--model_name_or_path", "MODEL", "--output_dir", "OUT"]
    argv = ["--config", str(config), *(paths if script.stem != "pretrain_base" else [])]
    if script.stem == "lora_scaling_sweep":
        argv += ["--rollouts_dir", "ROLLOUTS"]
    if config.parent.name == "qwen3":
        argv += ["--use_cpu"]  # parsing asks the machine whether it has bf16
    parsed = parse_arguments(argument_types[script], config, argv)
    assert len(parsed) == len(argument_types[script])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_opens_with_its_own_command(config):
    lines = config.read_text().splitlines()
    head = " ".join(line for line in lines if line.startswith("#"))
    assert lines[0].startswith("# accelerate launch ")
    assert f"recipes/{recipe_of(config).name}" in head
    assert f"--config {config.relative_to(RECIPES.parent).as_posix()}" in head


@pytest.mark.parametrize("recipe", NAMES)
def test_recipe_has_few_arguments_of_its_own(recipe, argument_types):
    own = argument_types[RECIPES / f"{recipe}.py"][0]
    fields = own.__dataclass_fields__.values()
    assert len(fields) <= 9
    assert all(field.metadata["help"] for field in fields)


@pytest.mark.parametrize("recipe", [script.stem for script in SCRIPTS])
def test_misspelt_yaml_key_is_one_line_with_its_place_and_a_hint(
    recipe, monkeypatch, capfd, tmp_path
):
    config = tmp_path / "mine.yaml"
    config.write_text("# Mine.\nseed: 0\nlearning_rat: 0.1\n")
    script = RECIPES / f"{recipe}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--config", str(config)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 2
    assert capfd.readouterr().err.endswith(
        f"{recipe}: error: {config}:3: no such key: 'learning_rat' (near 'learning_rate'); "
        "--help lists them\n"
    )


def test_yaml_key_that_is_given_twice_is_refused_with_both_places(refused, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("seed: 0\nmax_steps: 1\n\nseed: 1\n")
    error = refused("sft_proposer", "--config", config)
    assert f"{config}:4: a key must be given once, 'seed' is also at {config}:1" in error


def test_argument_that_pretraining_does_not_have_is_refused_in_its_name(monkeypatch, capfd):
    script = RECIPES / "pretrain_base.py"
    config = RECIPES / "configs" / "smoke" / "pretrain_base_1m.yaml"
    monkeypatch.setattr(sys, "argv", [str(script), "--config", str(config), "--sed", "1"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 2
    assert "pretrain_base: error: " in capfd.readouterr().err


@pytest.mark.parametrize("text", ["catalogue: none", "num_processes: 0", "[1]", "a: : b"])
def test_bad_yaml_values_are_refused(text, refused, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(text)
    assert "sft_proposer: error: " in refused("sft_proposer", "--config", config)


def test_recipe_without_config_takes_its_tiny_one(argument_types):
    script = RECIPES / "train_verifier.py"
    argv = ["--dataset_dir", "DATA", "--output_dir", "OUT"]
    default = RECIPES / "configs" / "tiny" / "train_verifier.yaml"
    _, training, _ = parse_arguments(argument_types[script], default, argv)
    assert training.num_train_epochs == 2
