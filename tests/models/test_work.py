"""FLOPs by arithmetic, against what torch counts in the matrix products of small models."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from specact_rl.models.work import Work

LENGTH = 64


def small():
    return Qwen3Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        attn_implementation="eager",
        tie_word_embeddings=False,
    )


@pytest.mark.parametrize("lora_r", [None, 8])
def test_forward_and_backward_cost_what_torch_counts(lora_r):
    config = small()
    model = Qwen3ForCausalLM(config)
    if lora_r is not None:
        lora = LoraConfig(r=lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
        model.enable_input_require_grads()
    ids = torch.randint(0, 300, (1, LENGTH))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    length = np.array([LENGTH])
    expected = float(Work.of(config, lora_r=lora_r).training(length, length)[0])
    # Eager attention computes the masked half, too; its weights are in no formula of ours.
    width = 3 * 4 * 16
    masked = 3 * 4 * width * (LENGTH**2 - LENGTH * (LENGTH + 1) / 2)
    assert counter.get_total_flops() == pytest.approx(expected + masked, rel=0.01)


def test_classifier_reads_no_vocabulary():
    length = np.array([LENGTH])
    causal, classifier = (Work.of(small(), lora_r=None, classifier=c) for c in (False, True))
    head = causal.forward(0 * length, length, length) - classifier.forward(
        0 * length, length, length
    )
    assert head == 2 * 300 * 64 * LENGTH
