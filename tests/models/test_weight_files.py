"""Checkpoints that are cut short, mixed up or made for another model are refused by name."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from specact_rl.errors import ModelError
from specact_rl.models.loading import (
    check_checkpoint_info,
    load_causal_lm,
    load_classifier,
    local_model,
    model_id,
    save_checkpoint_info,
)
from specact_rl.models.tiny import train_tokenizer
from specact_rl.models.weight_files import tensor_shapes
from specact_rl.rendering import Renderer


def make_base(folder, *, layers=2, hidden_size=16, seed=0, shards=False, model=Qwen3ForCausalLM):
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=40,
        hidden_size=hidden_size,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=2,
        num_labels=2,
    )
    model(config).save_pretrained(folder, max_shard_size="4KB" if shards else "5GB")
    return folder


def make_adapter(folder, base, targets=("q_proj", "v_proj")):
    config = LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=list(targets), init_lora_weights=False
    )
    get_peft_model(Qwen3ForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def make_renderer(text="open f12"):
    return Renderer(tokenizer=train_tokenizer([text], 300), catalogue="compact")


def refusal(folder, load=load_causal_lm):
    with pytest.raises(ModelError) as caught:
        load(folder)
    return str(caught.value)


@pytest.mark.parametrize("load", [load_causal_lm, local_model])
@pytest.mark.parametrize("missing", [1, 1000])
def test_a_file_that_was_cut_short_is_refused_with_its_bytes(load, missing, tmp_path):
    file = make_base(tmp_path / "base") / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-missing])
    error = refusal(tmp_path / "base", load)
    assert f"{file} must have {len(whole):,} bytes" in error
    assert f"but has {len(whole) - missing:,}" in error


def test_bytes_behind_the_last_tensor_are_refused(tmp_path):
    file = make_base(tmp_path / "base") / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"x")
    assert "something was written behind it" in refusal(tmp_path / "base")


@pytest.mark.parametrize(
    "content", [b"", b"\x10", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"]
)
def test_a_file_without_a_whole_header_is_refused(content, tmp_path):
    file = make_base(tmp_path / "base") / "model.safetensors"
    file.write_bytes(content)
    assert f"{file} must be a whole safetensors file" in refusal(tmp_path / "base")


def test_a_whole_checkpoint_of_several_shards_is_loaded(tmp_path):
    make_base(tmp_path / "base", shards=True)
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    assert not load_causal_lm(local_model(str(tmp_path / "base"))).training


@pytest.mark.parametrize("load", [load_causal_lm, local_model])
def test_a_shard_that_is_not_there_is_refused_by_name(load, tmp_path):
    first = sorted(make_base(tmp_path / "base", shards=True).glob("*.safetensors"))[0]
    first.unlink()
    assert f"1 are not there: {first.name}" in refusal(tmp_path / "base", load)


def test_a_shard_of_another_checkpoint_is_refused(tmp_path):
    first, second, *_ = sorted(make_base(tmp_path / "base", shards=True).glob("*.safetensors"))
    shutil.copy(first, second)
    assert f"{second} must have the tensor" in refusal(tmp_path / "base")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_description_that_was_cut_short_is_refused_by_name(name, tmp_path):
    make_base(tmp_path / "base")
    (tmp_path / "base" / name).write_text('{"a": ')
    assert f"{tmp_path / 'base' / name} must be one JSON value" in refusal(tmp_path / "base")


def test_weights_that_would_be_random_are_refused(tmp_path):
    file = make_base(tmp_path / "base") / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    assert "1 are missing and would be random, the first is 'model.layers.1.mlp" in refusal(
        tmp_path / "base"
    )
    with pytest.raises(ModelError, match="would be random"):
        load_classifier(tmp_path / "base")


def test_a_new_head_on_whole_weights_is_no_missing_weight(tmp_path):
    make_base(tmp_path / "base")
    assert load_classifier(tmp_path / "base", num_labels=2).config.num_labels == 2


def test_weights_of_another_shape_than_the_config_says_are_refused(tmp_path):
    make_base(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["intermediate_size"] = 32
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    assert "can be loaded from" in refusal(tmp_path / "base")


# Adapters


@pytest.mark.parametrize("other", [{"layers": 1}, {"layers": 3}, {"hidden_size": 32}], ids=str)
def test_an_adapter_of_another_shape_of_base_is_refused_by_name(other, tmp_path):
    make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "base")
    shutil.rmtree(tmp_path / "base")
    make_base(tmp_path / "base", **other)
    error = refusal(adapter)
    assert f"{adapter} must be an adapter of the base" in error
    assert repr(str(tmp_path / "base")) in error


def test_an_adapter_whose_layers_the_base_has_not_is_refused(tmp_path):
    make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "base")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_modules"] = ["c_attn"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert "was made for another" in refusal(adapter)


def test_an_adapter_that_was_cut_short_is_refused(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", make_base(tmp_path / "base"))
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert f"{file} must have" in refusal(adapter)


def test_an_adapter_is_refused_on_a_base_of_its_shape_with_other_weights(tmp_path):
    base, renderer = make_base(tmp_path / "base"), make_renderer()
    adapter = make_adapter(tmp_path / "adapter", base)
    trained_on = model_id(base, renderer)
    save_checkpoint_info(adapter, renderer, trained_on)
    load_causal_lm(adapter)
    make_base(base, seed=1)
    error = refusal(adapter)
    assert f"it was trained on {trained_on}" in error
    assert str(adapter) in error


def test_a_tokenizer_with_another_vocabulary_is_refused(tmp_path):
    save_checkpoint_info(tmp_path, make_renderer("open f12"))
    check_checkpoint_info(tmp_path, make_renderer("open f12"))
    other = make_renderer("close g37, close g38 and close g39")
    with pytest.raises(ModelError, match="these differ: vocabulary"):
        check_checkpoint_info(tmp_path, other)


def test_a_checkpoint_that_says_nothing_of_its_vocabulary_is_taken(tmp_path):
    save_checkpoint_info(tmp_path, make_renderer())
    path = tmp_path / "specact.json"
    info = json.loads(path.read_text())
    del info["vocabulary"]
    path.write_text(json.dumps(info))
    check_checkpoint_info(tmp_path, make_renderer())


def test_a_description_of_prompts_that_was_cut_short_is_refused(tmp_path):
    (tmp_path / "specact.json").write_text('{"template_hash": ')
    with pytest.raises(ModelError, match=r"specact\.json must say how prompts"):
        check_checkpoint_info(tmp_path, make_renderer())


def test_shapes_are_those_of_the_tensors(tmp_path):
    make_base(tmp_path / "base", model=Qwen3ForSequenceClassification)
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    assert tensor_shapes(tmp_path / "base") == {k: tuple(t.shape) for k, t in tensors.items()}
