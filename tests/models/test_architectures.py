"""Shapes of bases that are known without a download, and what the qwen3 recipes make of them."""

from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification
from trl import ModelConfig, get_peft_config, get_quantization_config

from specact_rl.errors import ConfigError
from specact_rl.models.architectures import config_of, tokenizer_at_hand
from specact_rl.models.memory import num_adapter_params
from specact_rl.presets import find_preset, model_path

CONFIGS = Path(__file__).resolve().parents[2] / "recipes" / "configs" / "qwen3"
# Each recipe with the bases that the preset gives it: outputs and inputs of q, k, v, o, gate, up
# and down come to this many, over all layers.
WIDTHS = {
    "Qwen/Qwen3-1.7B": 28 * (4_096 + 2 * 3_072 + 4_096 + 3 * 8_192),
    "Qwen/Qwen3-4B": 36 * (2 * (4_096 + 2_560) + 2 * (1_024 + 2_560) + 3 * (2_560 + 9_728)),
    "Qwen/Qwen3-8B": 36 * (2 * 8_192 + 2 * 5_120 + 3 * 16_384),
}
LAYERS = {"Qwen/Qwen3-1.7B": 28, "Qwen/Qwen3-4B": 36, "Qwen/Qwen3-8B": 36}
TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def model_config(recipe):
    """What TRL reads of a recipe's config."""
    values = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    known = set(ModelConfig.__dataclass_fields__)
    return ModelConfig(**{key: value for key, value in values.items() if key in known})


@pytest.mark.parametrize(
    ("recipe", "base"),
    [
        ("sft_proposer", "Qwen/Qwen3-1.7B"),
        ("sft_proposer", "Qwen/Qwen3-8B"),
        ("dpo_proposer", "Qwen/Qwen3-1.7B"),
        ("train_verifier", "Qwen/Qwen3-4B"),
        ("train_reward_model", "Qwen/Qwen3-4B"),
    ],
)
def test_adapters_of_a_recipe_are_on_every_matrix_of_every_layer(recipe, base):
    options = model_config(recipe)
    classifies = recipe.startswith("train_")
    options.lora_task_type = "SEQ_CLS" if classifies else "CAUSAL_LM"
    lora = get_peft_config(options)
    assert isinstance(lora, LoraConfig)
    config, _ = config_of(base)
    kind = Qwen3ForSequenceClassification if classifies else Qwen3ForCausalLM
    with torch.device("meta"):
        model = get_peft_model(kind(config), lora)
    found = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert {name.rpartition(".")[2] for name in found} == TARGETS
    per_layer = [f".layers.{i}." for i in range(LAYERS[base])]
    assert all(sum(layer in name for name in found) == 7 for layer in per_layer)
    assert len(found) == 7 * LAYERS[base]
    adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert adapters == lora.r * WIDTHS[base] == num_adapter_params(config, lora.r)


@pytest.mark.parametrize("recipe", ["train_verifier", "train_reward_model"])
def test_verifiers_are_trained_over_nf4_quantised_twice(recipe):
    quantised = get_quantization_config(model_config(recipe))
    assert quantised.load_in_4bit
    assert quantised.bnb_4bit_quant_type == "nf4"
    assert quantised.bnb_4bit_use_double_quant
    assert quantised.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize("base", ["cheap_base", "strong_base", "verifier_base"])
def test_bases_of_the_preset_are_in_the_table_and_their_tokenizers_are_not_fetched(base):
    name = getattr(find_preset("qwen3"), base)
    assert config_of(name)[1] == config_of(f"{name}@some-revision")[1] == "table"
    assert tokenizer_at_hand(name) is None


def test_folder_says_its_own_shape():
    config, source = config_of(model_path("builtin:1m"))
    assert (config.num_hidden_layers, source) == (4, "folder")
    assert tokenizer_at_hand(model_path("builtin:1m")) is not None


def test_shape_that_is_not_known_here_is_not_fetched():
    with pytest.raises(ConfigError, match="not known without a download"):
        config_of("org/unheard-of")
