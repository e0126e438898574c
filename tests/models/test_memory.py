"""Memory by arithmetic: numbers derived by hand, and the allocations of small models, traced."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import BitsAndBytesConfig, LlamaConfig, Qwen3Config, Qwen3ForCausalLM

from specact_rl.errors import ModelError
from specact_rl.models import prefix
from specact_rl.models.architectures import config_of
from specact_rl.models.generation import generate
from specact_rl.models.inference_memory import scoring_memory, writing_memory
from specact_rl.models.memory import (
    kv_cache_bytes,
    num_adapter_params,
    num_linear_params,
    num_weights,
    training_memory,
    weight_bytes,
)
from specact_rl.models.scoring import score_candidates
from specact_rl.rendering import RolloutTokens

# parameters in billions
QWEN3 = {"1.7B": 1.72, "4B": 4.02, "8B": 8.19}


def qwen3(size):
    config, source = config_of(f"Qwen/Qwen3-{size}")
    assert source == "table"
    return config


def adapted(config, dtype=torch.bfloat16, **options):
    """A model with LoRA as TRL makes it, on the device of the context."""
    model = Qwen3ForCausalLM(config).to(dtype)
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora, **options)


@pytest.mark.parametrize("size", QWEN3)
def test_parameters_are_those_of_the_model(size):
    config = qwen3(size)
    with torch.device("meta"):
        model = adapted(config)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    everything = [p.numel() for p in model.parameters()]
    assert num_adapter_params(config, 16) == sum(trained)
    assert num_weights(config) == sum(everything) - sum(trained)
    assert num_weights(config) / 1e9 == pytest.approx(QWEN3[size], abs=0.005)
    targets = [m.base_layer.weight.numel() for m in model.modules() if hasattr(m, "lora_A")]
    assert len(targets) == 7 * config.num_hidden_layers
    assert num_linear_params(config) == sum(targets)


def test_bytes_of_the_1_7b_by_hand():
    # Of a layer: q and o 2048 x 2048, k and v 1024 x 2048, three of 6144 x 2048: 50,331,648.
    # Embedding 151,936 x 2048 = 311,164,928; norms 28 x 2 x (2048 + 128) + 2048 = 123,904.
    config = qwen3("1.7B")
    linear = 28 * 50_331_648
    assert num_linear_params(config) == linear
    assert weight_bytes(config, load_in_4bit=False) == 2 * (linear + 311_164_928 + 123_904)
    # Half a byte each, 1 byte for each 64, 4 bytes for each 64 x 256
    nf4 = linear // 2 + linear // 64 + linear // 4_096
    assert weight_bytes(config, load_in_4bit=True) == nf4 + 2 * (311_164_928 + 123_904)
    # 8 heads of 128, keys and values, 28 layers, 2 bytes: 114,688 a token
    assert kv_cache_bytes(config, 4_096) == 4_096 * 114_688
    # Inputs and outputs of q .. down: 4096 + 3072 + 3072 + 4096 + 3 x 8192 = 38,912
    assert num_adapter_params(config, 16) == 28 * 16 * 38_912
    memory = training_memory(
        config, batch_size=4, length=4_096, lora_r=16, load_in_4bit=False,
        activation_checkpointing=True,
    )  # fmt: skip
    adapters = 28 * 16 * 38_912
    assert (memory.adapters, memory.gradients, memory.optimizer) == (
        4 * adapters, 4 * adapters, 8 * adapters,
    )  # fmt: skip
    assert memory.activations == 16_384 * 28 * 2_048 * 2  # the layers' inputs
    parts = memory.weights + 16 * adapters + memory.activations + memory.working
    assert memory.total == parts


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations made and that are alive, and the most there were."""

    def __init__(self, model):
        super().__init__()
        self.live = self.most = 0
        self._known = {p.untyped_storage()._cdata for p in model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage):
        place, size = storage._cdata, storage.nbytes()
        if place not in self._known:
            self._known.add(place)
            self.live += size
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._free, place, size)

    def _free(self, place, size):
        self._known.discard(place)
        self.live -= size


def small(vocab_size=500, **options):
    # As many heads for keys as for queries: on a CPU sdpa copies them to that number.
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        **options,
    )


def small_trained(config, four_bit, checkpointing, folder):
    torch.manual_seed(0)
    if four_bit:
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        quantised = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        model = Qwen3ForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, quantization_config=quantised
        )
        lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
        for parameter in model.parameters():
            if parameter.requires_grad:  # as TRL does
                parameter.data = parameter.data.to(torch.bfloat16)
    else:
        model = adapted(config)
    if checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable()
    return model.train()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("four_bit", [False, True], ids=["bf16", "nf4"])
@pytest.mark.parametrize(("batch_size", "length"), [(1, 512), (4, 300)])
def test_layers_take_what_is_said(four_bit, checkpointing, batch_size, length, tmp_path):
    config = small()
    model = small_trained(config, four_bit, checkpointing, tmp_path)
    ids = torch.randint(0, config.vocab_size, (batch_size, length))
    with LiveBytes(model) as traced:
        for _ in range(2):  # the second batch meets the gradients of the first
            with torch.autocast("cpu", torch.bfloat16):
                transformer = model.get_base_model().model
                total = transformer(input_ids=ids, use_cache=False).last_hidden_state.sum()
            total.backward()
    expected = training_memory(
        config, batch_size=batch_size, length=length, lora_r=16, load_in_4bit=four_bit,
        activation_checkpointing=checkpointing,
    )  # fmt: skip
    without_loss = expected.gradients + expected.activations + expected.working
    assert traced.most == pytest.approx(without_loss, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_logits_take_what_is_said(checkpointing, tmp_path):
    config = small(vocab_size=20_000)
    model = small_trained(config, False, checkpointing, tmp_path)
    ids = torch.randint(0, config.vocab_size, (2, 256))
    with LiveBytes(model) as traced:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
    expected = training_memory(
        config, batch_size=2, length=256, lora_r=16, load_in_4bit=False,
        activation_checkpointing=checkpointing, head="logits",
    )  # fmt: skip
    without_weights = expected.gradients + expected.activations + expected.working
    assert traced.most == pytest.approx(without_weights, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(("batch_size", "length"), [(1, 512), (4, 300)])
def test_training_all_weights_takes_what_is_said(checkpointing, batch_size, length):
    config = small()
    model = Qwen3ForCausalLM(config).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    ids = torch.randint(0, config.vocab_size, (batch_size, length))
    with LiveBytes(model) as traced:
        for _ in range(2):
            model.model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
    expected = training_memory(
        config, batch_size=batch_size, length=length, lora_r=None, load_in_4bit=False,
        activation_checkpointing=checkpointing,
    )  # fmt: skip
    without_loss = expected.gradients + expected.activations + expected.working
    assert traced.most == pytest.approx(without_loss, rel=0.05)


def steps_of_rollouts(num_rollouts, length):
    """Prompts of four steps each, nearly all as long as the rollout."""
    rng = np.random.default_rng(0)
    rollouts = [
        RolloutTokens(
            rollout_id=str(i),
            step_ids=[f"{i}/{j}" for j in range(4)],
            ids=rng.integers(3, 2_000, length).tolist(),
            prompt_lengths=[length - cut for cut in (20, 10, 5, 0)],
            own_prompts={},
        )
        for i in range(num_rollouts)
    ]
    return [prompt for rollout in rollouts for prompt in rollout.prompts()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("vocab_size", "length", "together", "cache_bytes"),
    [(2_000, 500, 8, prefix.CACHE_BYTES), (50_000, 60, 8, prefix.CACHE_BYTES),
     (2_000, 500, 4, 40_000_000)],
    ids=["cache", "logits", "cache of a few rows"],
)  # fmt: skip
def test_writing_takes_what_is_said(dtype, vocab_size, length, together, cache_bytes, monkeypatch):
    """What is the most of it, and how many rollouts are read together."""
    monkeypatch.setattr(prefix, "CACHE_BYTES", cache_bytes)
    monkeypatch.setattr(prefix, "MAX_PREFIX_TOKENS", together * length)
    config = small(vocab_size=vocab_size)
    model = Qwen3ForCausalLM(config).to(getattr(torch, dtype)).eval()
    prompts = steps_of_rollouts(8, length)
    tokenizer = SimpleNamespace(eos_token_id=2, decode=lambda ids: "")
    with LiveBytes(model) as traced:
        generate(
            model, tokenizer, prompts, num_samples=3, temperature=1.0, max_new_tokens=8, seed=0
        )
    expected = writing_memory(
        config, dtype=dtype, longest_prompt=length, max_new_tokens=8, num_samples=3,
        num_prompts=len(prompts), num_prefix_tokens=together * length,
    )  # fmt: skip
    assert traced.most == pytest.approx(expected.kv_cache + expected.working, rel=0.15)


@pytest.mark.parametrize("cache_bytes", [prefix.CACHE_BYTES, 20_000_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scoring_takes_what_is_said(dtype, cache_bytes, monkeypatch):
    monkeypatch.setattr(prefix, "CACHE_BYTES", cache_bytes)
    monkeypatch.setattr(prefix, "MAX_PREFIX_TOKENS", 2_000)
    config = small(vocab_size=2_000)
    model = Qwen3ForCausalLM(config).to(getattr(torch, dtype)).eval()
    rng = np.random.default_rng(0)
    prompts = steps_of_rollouts(12, 500)
    candidates = [[rng.integers(3, 2_000, 31).tolist()] for _ in prompts]
    with LiveBytes(model) as traced:
        score_candidates(model, prompts, candidates)
    expected = scoring_memory(
        config, dtype=dtype, longest_prompt=500, num_nodes=30, num_prompts=len(prompts),
        steps_per_rollout=4, num_prefix_tokens=2_000, classifier=False,
    )  # fmt: skip
    assert traced.most == pytest.approx(expected.kv_cache + expected.working, rel=0.15)


def test_adapters_and_cache_of_other_architectures_are_not_guessed():
    with pytest.raises(ModelError, match="'llama'"):
        num_weights(LlamaConfig())
