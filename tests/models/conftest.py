"""Random models of a few thousand weights, and rollouts of random tokens."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from specact_rl.rendering import RolloutTokens

VOCAB = 40
STOP = 2


def make_model(model_class, attention, lora, seed=0, targets=("q_proj", "v_proj"), **options):
    """`lora`: with an adapter on `targets` that changes what it is on."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        pad_token_id=0,
        eos_token_id=STOP,
        num_labels=2,
        initializer_range=0.5,  # far from uniform, so that errors show
        attn_implementation=attention,
        **{"tie_word_embeddings": True} | options,
    )
    model = model_class(config)
    if lora:
        task = "CAUSAL_LM" if model_class is Qwen3ForCausalLM else "SEQ_CLS"
        adapter = LoraConfig(
            task_type=task, r=2, target_modules=[*targets], init_lora_weights=False
        )
        model = get_peft_model(model, adapter)
    return model.eval()


KINDS = [(attention, lora) for attention in ("sdpa", "eager") for lora in (False, True)]


@pytest.fixture(params=KINDS, ids=str)
def causal_lm(request):
    return make_model(Qwen3ForCausalLM, *request.param)


@pytest.fixture
def plain_lm():
    return make_model(Qwen3ForCausalLM, "sdpa", lora=False)


@pytest.fixture(params=KINDS, ids=str)
def classifier(request):
    return make_model(Qwen3ForSequenceClassification, *request.param)


def make_rollout(rng, name, prompt_lengths, own=()):
    """Random tokens; the steps in `own` have a prompt that is no prefix."""
    ids = rng.integers(3, VOCAB, max(prompt_lengths) + 4).tolist()
    return RolloutTokens(
        rollout_id=name,
        step_ids=[f"{name}/{i}" for i in range(len(prompt_lengths))],
        ids=ids,
        prompt_lengths=[None if i in own else n for i, n in enumerate(prompt_lengths)],
        own_prompts={i: rng.integers(3, VOCAB, prompt_lengths[i]).tolist() for i in own},
    )


@pytest.fixture
def prompts():
    """Steps of three rollouts of unlike length, one with a prompt of its own; order mixed."""
    rng = np.random.default_rng(1)
    rollouts = [
        make_rollout(rng, "a", [3, 9, 17]),
        make_rollout(rng, "b", [1, 30], own=[0]),
        make_rollout(rng, "c", [12]),
    ]
    listed = [prompt for tokens in rollouts for prompt in tokens.prompts()]
    return [listed[i] for i in (4, 0, 5, 2, 3, 1)]
