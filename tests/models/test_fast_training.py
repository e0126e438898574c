"""Packed trainers give TRL's losses, gradients and metrics."""

import copy
import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Qwen3ForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from specact_rl.models import fast_training
from specact_rl.models.fast_training import (
    PackedDPOTrainer,
    PackedSFTTrainer,
    pack_batches_of,
)
from specact_rl.models.reward_weights import WEIGHT_COLUMN, WeightedSFTTrainer
from specact_rl.models.tiny import train_tokenizer

from .conftest import VOCAB, make_model

KINDS = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["open"], 300)


def make_lm(lora=False):
    return make_model(Qwen3ForCausalLM, "sdpa", lora)


def sft_rows(num=9, seed=0):
    """Prompts of 1 to 60 tokens, some the beginning of others, with turns of 1 to 8."""
    rng = np.random.default_rng(seed)
    base = rng.integers(3, VOCAB, 60).tolist()
    rows = []
    for i in range(num):
        shared = base[: int(rng.integers(0, 50))] if i % 3 else []
        prompt = [*shared, *rng.integers(3, VOCAB, int(rng.integers(1, 12))).tolist()]
        turn = rng.integers(3, VOCAB, int(rng.integers(1, 9))).tolist()
        rows.append({"input_ids": prompt + turn, "labels": [-100] * len(prompt) + turn})
    return rows


def pairs(num=9):
    rows = sft_rows(num)
    rng = np.random.default_rng(1)
    for row in rows:
        size = row["labels"].count(-100)
        row["prompt_ids"], row["chosen_ids"] = row["input_ids"][:size], row["input_ids"][size:]
        row["rejected_ids"] = row["chosen_ids"][:2] + rng.integers(3, VOCAB, 4).tolist()
    return rows


@pytest.fixture
def options(tmp_path):
    return {
        "output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none",
        "gradient_checkpointing": False, "disable_tqdm": True, "max_length": None,
        "logging_steps": 1, "save_strategy": "no", "learning_rate": 1e-3,
    }  # fmt: skip


@pytest.fixture
def sft(options, tokenizer):
    def build(kind, model, **more):
        pack = {"pack_batches": more.pop("pack_batches")} if "pack_batches" in more else {}
        data = Dataset.from_list(sft_rows())
        arguments = SFTConfig(**options | more)
        return kind(
            copy.deepcopy(model), arguments, train_dataset=data, processing_class=tokenizer, **pack
        )

    return build


@pytest.fixture
def dpo(options, tokenizer, monkeypatch):
    """A DPO trainer over tokens, whose policy is not its reference."""
    monkeypatch.setattr(DPOTrainer, "_prepare_dataset", lambda self, data, *_: data)

    def build(kind, model, **more):
        pack = {"pack_batches": more.pop("pack_batches")} if "pack_batches" in more else {}
        arguments = DPOConfig(**options | more)
        reference = None
        if not hasattr(model, "peft_config") and not arguments.precompute_ref_log_probs:
            reference = make_model(Qwen3ForCausalLM, "sdpa", lora=False, seed=1)
        columns = ("prompt_ids", "chosen_ids", "rejected_ids")
        data = Dataset.from_list([{name: row[name] for name in columns} for row in pairs()])
        return kind(
            copy.deepcopy(model), reference, arguments, train_dataset=data,
            processing_class=tokenizer, **pack,
        )  # fmt: skip

    return build


def step_of(trainer, numbers, **columns):
    """Loss, gradients and metrics of these rows; `columns` go into the batch as they are."""
    data = trainer.train_dataset
    names = [name for name in data.column_names if name != "prompt"]
    batch = trainer.data_collator([{name: data[i][name] for name in names} for i in numbers])
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch | columns)
    loss.backward()
    gradients = {
        name: weight.grad
        for name, weight in trainer.model.named_parameters()
        if weight.grad is not None
    }
    return loss.item(), gradients, {k: v[-1] for k, v in trainer._metrics["train"].items()}


def assert_same_step(packed, plain, numbers, **columns):
    loss, gradients, metrics = step_of(packed, numbers, **columns)
    expected_loss, expected, expected_metrics = step_of(plain, numbers, **columns)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert metrics == pytest.approx(expected_metrics, abs=1e-4)
    assert gradients.keys() == expected.keys() != set()
    for name, gradient in gradients.items():
        error = (gradient - expected[name]).norm() / (expected[name].norm() + 1e-6)
        assert error < 1e-4, name


@pytest.fixture
def num_packed(monkeypatch):
    """Number of tokens of each packed batch."""
    found = []
    run = fast_training.run_packed

    def counted(model, packed):
        found.append(len(packed.tokens))
        return run(model, packed)

    monkeypatch.setattr(fast_training, "run_packed", counted)
    return found


@KINDS
@pytest.mark.parametrize("size", [1, 2, 9])
def test_sft_step_is_that_of_trl(lora, size, sft, num_packed):
    model = make_lm(lora)
    assert_same_step(sft(PackedSFTTrainer, model), sft(SFTTrainer, model), range(size))
    assert len(num_packed) == 1


@KINDS
def test_weighted_sft_step_is_that_without_packing(lora, sft, num_packed):
    model = make_lm(lora)
    packed, plain = (sft(WeightedSFTTrainer, model, pack_batches=pack) for pack in (True, False))
    weights = torch.tensor([0.0, 7.5, 0.01, 1.0, 1.0, 3.0, 0.2, 0.0, 2.0])
    assert_same_step(packed, plain, range(9), **{WEIGHT_COLUMN: weights})
    assert len(num_packed) == 1


@KINDS
@pytest.mark.parametrize("size", [1, 2, 9])
def test_dpo_step_is_that_of_trl(lora, size, dpo, num_packed):
    model = make_lm(lora)
    assert_same_step(dpo(PackedDPOTrainer, model), dpo(DPOTrainer, model), range(size))
    assert len(num_packed) == 2  # policy and reference


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.1]},
        {"loss_type": ["sigmoid_norm"]},
        {"loss_type": ["ipo"], "f_divergence_type": "js_divergence"},
        {"loss_type": ["sigmoid"], "use_weighting": True},
        {"loss_type": ["sigmoid"], "ld_alpha": 0.5},
    ],
    ids=str,
)
def test_every_dpo_loss_is_that_of_trl(changes, dpo, num_packed):
    model = make_lm()
    assert_same_step(
        dpo(PackedDPOTrainer, model, **changes), dpo(DPOTrainer, model, **changes), [0, 3, 4, 7]
    )
    assert num_packed


@KINDS
def test_reference_is_precomputed_packed(lora, dpo, num_packed):
    model = make_lm(lora)
    options = {"precompute_ref_log_probs": True, "per_device_train_batch_size": 4}
    packed = dpo(PackedDPOTrainer, model, **options)
    assert len(num_packed) == 3  # of 9 pairs
    plain = dpo(DPOTrainer, model, **options)
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        assert packed.train_dataset[name] == pytest.approx(plain.train_dataset[name][:], abs=1e-4)
    assert_same_step(packed, plain, [1, 2])


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
        {"gradient_checkpointing": True, "per_device_train_batch_size": 5},
        {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_training_goes_as_with_trl(kind, changes, request):
    build = request.getfixturevalue(kind)
    if kind == "dpo" and "train_sampling_strategy" in changes:
        pytest.skip("TRL's pairs have no length to group by")
    ours, trl = {"sft": (PackedSFTTrainer, SFTTrainer), "dpo": (PackedDPOTrainer, DPOTrainer)}[kind]
    model = make_lm()
    losses = []
    for kind in (ours, trl):
        trainer = build(kind, model, **changes)  # seeds the sampler
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) > 3
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


def test_bf16_training_packs(sft, num_packed):
    model = make_lm()
    losses = []
    for kind in (PackedSFTTrainer, SFTTrainer):
        trainer = sft(kind, model, bf16=True, per_device_train_batch_size=5, num_train_epochs=2)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(num_packed) == len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_policy_and_reference_have_one_precision(dpo):
    model = make_lm()
    trainer = dpo(PackedDPOTrainer, model, bf16=True, per_device_train_batch_size=9)
    trainer.ref_model.load_state_dict(model.state_dict())
    trainer.args.max_steps = 1
    trainer.train()
    assert trainer.state.log_history[0]["rewards/margins"] == 0


def test_loss_of_a_row_is_the_same_beside_other_rows(sft):
    trainer = sft(PackedSFTTrainer, make_lm())
    rows = sft_rows()

    def logprobs(batch):
        inputs = trainer.data_collator(batch)
        return trainer.model(**inputs, fused_lm_head=True).log_probs

    alone = logprobs([rows[4]])[0]
    for others in ([rows[1]], [rows[7], rows[2], rows[0]], [rows[4], rows[5]]):
        beside = logprobs([rows[4], *others])[0]
        torch.testing.assert_close(beside[: len(alone)], alone, atol=1e-5, rtol=0)
        assert not beside[len(alone) :].any()


def test_common_beginnings_and_padding_are_not_computed(sft, num_packed):
    trainer = sft(PackedSFTTrainer, make_lm())
    long, turn = list(range(3, 33)), [34, 35]
    rows = [
        {"input_ids": long + turn, "labels": [-100] * 30 + turn},
        {"input_ids": [*long[:20], 36, *turn], "labels": [-100] * 21 + turn},
    ]
    trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    # 31 tokens are read to predict 32; of the other row 20 are there and 2 are read
    assert num_packed == [33]


def test_without_the_option_nothing_is_packed(sft, dpo, num_packed):
    for trainer in (
        sft(PackedSFTTrainer, make_lm(), pack_batches=False),
        dpo(PackedDPOTrainer, make_lm(), pack_batches=False, precompute_ref_log_probs=True),
    ):
        step_of(trainer, [0, 1])
    assert not num_packed


def test_generation_and_plain_calls_are_as_before(sft):
    trainer = sft(PackedSFTTrainer, make_lm())
    ids = torch.tensor([[3, 4, 5], [6, 7, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    expected = make_lm()(ids, attention_mask=mask, labels=ids)
    output = trainer.model(ids, attention_mask=mask, labels=ids)
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.loss, expected.loss)
    assert trainer.model.generate(ids[:1], max_new_tokens=2, do_sample=False).shape == (1, 5)


def test_saved_model_is_an_ordinary_one(sft, tmp_path):
    trainer = sft(PackedSFTTrainer, make_lm())
    trainer.save_model(str(tmp_path / "saved"))
    assert "specact" not in (tmp_path / "saved" / "config.json").read_text()
    saved = Qwen3ForCausalLM.from_pretrained(tmp_path / "saved")
    assert saved.config._attn_implementation == "sdpa"


def test_evaluation_is_packed(sft, num_packed):
    trainer = sft(PackedSFTTrainer, make_lm(), per_device_eval_batch_size=9)
    plain = sft(SFTTrainer, make_lm(), per_device_eval_batch_size=9)
    data = Dataset.from_list(sft_rows(seed=3))
    loss = trainer.evaluate(data)["eval_loss"]
    assert loss == pytest.approx(plain.evaluate(data)["eval_loss"], abs=1e-5)
    assert len(num_packed) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lm: lm.set_attn_implementation("eager"), "attention is 'eager'"),
        (
            lambda lm: setattr(lm.config, "attention_dropout", 0.1),
            "dropout is drawn token by token, and attention_dropout has some",
        ),
        (
            lambda lm: setattr(lm.config, "layer_types", ["sliding_attention"] * 2),
            "every layer must have full attention, got ['sliding_attention']",
        ),
        (lambda lm: setattr(lm.config, "output_router_logits", True), "experts are"),
    ],
    ids=["eager", "dropout", "sliding", "experts"],
)
def test_models_that_cannot_be_packed_are_left_to_trl(change, reason, sft, num_packed, caplog):
    trainer = sft(SFTTrainer, make_lm())
    change(trainer.model)
    with caplog.at_level(logging.INFO):
        assert not pack_batches_of(trainer.model)
    assert f"computed as TRL does: {reason}" in caplog.text
    assert not num_packed


def test_model_that_keeps_runs_from_its_layers_is_left_to_trl(sft, monkeypatch, caplog):
    trainer, plain = sft(PackedSFTTrainer, make_lm()), sft(SFTTrainer, make_lm())
    backbone = trainer.model.model
    forward = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda row_runs=None, **inputs: forward(**inputs))
    with caplog.at_level(logging.INFO):
        assert_same_step(trainer, plain, [0, 1, 2])
    assert "Qwen3ForCausalLM does not attend by runs" in caplog.text


def test_batches_without_a_loss_or_padded_on_the_left_are_left_to_trl(sft, num_packed):
    trainer, plain = sft(PackedSFTTrainer, make_lm()), sft(SFTTrainer, make_lm())
    ids = torch.tensor([[0, 0, 5, 6], [3, 4, 5, 6]])
    for mask, labels in (
        (torch.ones_like(ids), torch.full_like(ids, -100)),
        (torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]), ids),
    ):
        losses = [
            t.compute_loss(t.model, {"input_ids": ids, "attention_mask": mask, "labels": labels})
            for t in (trainer, plain)
        ]
        torch.testing.assert_close(*losses)
    assert not num_packed
