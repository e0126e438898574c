"""FLOPs of a plan, against what torch counts on the rows and steps that the run itself makes."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from specact_rl.mining.build_rows import build_sft
from specact_rl.models.loading import load_tokenizer
from specact_rl.models.training import token_rows
from specact_rl.pipeline.artifacts import Artifacts
from specact_rl.pipeline.bases import adapted_preset
from specact_rl.pipeline.folders import Folders
from specact_rl.pipeline.plan import plan_run
from specact_rl.pipeline.run import Run
from specact_rl.presets import find_preset, model_path
from specact_rl.store import read_training_rows

LAYERS, HEADS, RANK = 2, 4, 16  # the rank is that of the config of SFT


@contextmanager
def silent(*_):
    yield lambda done: None


@pytest.fixture(scope="module")
def model():
    config = Qwen3Config(
        vocab_size=2048,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
        attn_implementation="eager",
        tie_word_embeddings=False,
    )
    return Qwen3ForCausalLM(config)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """Of a few tasks, with its rollouts and its rows for SFT."""
    folder = tmp_path_factory.mktemp("plan")
    model.config.save_pretrained(folder / "base")
    load_tokenizer(model_path("builtin:1m"), "qwen3").save_pretrained(folder / "base")
    base = str(folder / "base")
    preset = adapted_preset(find_preset("qwen3"), cheap_base=base, num_tasks=8)
    preset = replace(preset, catalogue="compact")  # for short prompts
    artifacts = Artifacts(preset=preset, seed=0, folders=Folders(root=folder / "run"))
    run = Run(artifacts=artifacts, progress=silent, command=[], own_bases=[])
    run.roll_out()
    run.build(build_sft, "sft", "train_proposer", base=base)
    return run


@pytest.fixture(scope="module")
def plan(run):
    return plan_run(run.preset, seed=0, device_memory=80_000_000_000, device_rate=1e12)


def counted(act, causal):
    """FLOPs of `act()`; attention's by the share of its pairs that a causal mask leaves.

    Eager attention computes the masked pairs as well, and is all that multiplies in batches here.
    """
    with FlopCounterMode(display=False) as counter:
        act()
    by_operation = counter.get_flop_counts()["Global"]
    attention = by_operation.pop(torch.ops.aten.bmm)
    return sum(by_operation.values()) + causal * attention


def test_training_takes_what_torch_counts_over_the_epochs_of_the_rows_that_are_built(
    run, plan, model
):
    rows = read_training_rows(run.folders.data("sft"), "train")
    renderer = run.artifacts.base_renderer(run.preset.cheap_base)
    lora = LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(Qwen3ForCausalLM(model.config), lora)
    adapted.enable_input_require_grads()
    total = tokens = 0
    for [row] in token_rows(rows, renderer, ["completion"]):
        ids, predicted = torch.tensor([row.ids]), len(row.completion)

        def step(ids=ids, predicted=predicted):
            states = adapted.get_base_model().model(ids).last_hidden_state[0, -predicted:]
            adapted.get_base_model().lm_head(states).sum().backward()

        tokens += len(row.ids)
        total += counted(step, causal=(len(row.ids) + 1) / (2 * len(row.ids)))
    [stage] = [s for s in plan.stages if s.what == "sft_proposer: cheap"]
    assert stage.rows == len(rows) > 5
    assert stage.tokens == 2 * tokens  # epochs
    assert stage.flops == pytest.approx(2 * total, rel=0.002)
    assert stage.seconds == pytest.approx(2 * total / (1e12 * plan.utilisation), rel=0.002)


def test_writing_takes_what_torch_counts_with_each_conversation_read_once(run, plan, model):
    renderer = run.artifacts.base_renderer(run.preset.cheap_base)
    heads, size = model.config.num_key_value_heads, model.config.head_dim

    def write(length, turn):
        """A turn token by token at once, after a prompt that is cached; its last is not fed."""
        cache = DynamicCache(config=model.config)
        for layer in range(LAYERS):
            cache.update(*torch.zeros(2, 1, heads, length, size), layer)
        positions = torch.arange(length, length + len(turn) - 1)[None]
        model.model(torch.tensor([turn[:-1]]), past_key_values=cache, position_ids=positions)
        model.lm_head(torch.zeros(len(turn), model.config.hidden_size))

    total = steps = 0
    with torch.inference_mode():
        for rollout in run.artifacts.rollouts("train_verifier", "calibration", "test"):
            tokens = renderer.rollout_ids(rollout)
            longest = max(tokens.prompt_lengths)
            ids = torch.tensor([tokens.ids[:longest]])
            total += counted(lambda ids=ids: model.model(ids), (longest + 1) / (2 * longest))
            for step, length in zip(rollout.each_step(), tokens.prompt_lengths, strict=True):
                turn = renderer.completion_ids(step.reference)
                fed = len(turn) - 1
                causal = (length + (fed + 1) / 2) / (length + fed)
                total += 3 * counted(lambda n=length, turn=turn: write(n, turn), causal)
                steps += 1
    [stage] = [s for s in plan.stages if s.stage == "cheap proposes"]
    assert stage.rows == 3 * steps
    assert stage.flops == pytest.approx(total, rel=0.002)
