"""FLOPs by arithmetic, against what torch counts in the matrix products of small models."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from specact_rl.metrics.cost import ModelSize
from specact_rl.models.work import Work, branch_flops, writing_flops

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


SIZE = ModelSize(num_params=10, attention_width=1)  # 20 a token, 4 for each that it attends to


def test_branches_cost_their_common_tokens_once():
    # Of a prompt of 3 tokens, 2 of them cached: the last, 20 + 4 x 3. Behind it 7, 8 and 7, 9: one
    # token at place 4, 20 + 4 x 4, and two at place 5, 20 + 4 x 5 each.
    assert branch_flops(SIZE, 2, 3, [[7, 8], [7, 9], [7]]) == 32 + 36 + 2 * 40


def test_last_token_of_a_turn_is_written_and_not_read():
    class Letters:
        def encode(self, text, add_special_tokens):
            return [ord(letter) for letter in text]

    def sample(text, finished):
        return SimpleNamespace(
            text=text, finished=finished, num_cached_tokens=2, num_prompt_tokens=3
        )

    # "ab" and the stop token after it: a and b are read; of "ac", cut off there, a alone.
    alone = writing_flops(SIZE, Letters(), [sample("ab", True)])
    assert alone == branch_flops(SIZE, 2, 3, [[97, 98]])
    assert writing_flops(SIZE, Letters(), [sample("ab", True), sample("ac", False)]) == alone
