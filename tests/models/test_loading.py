"""Checkpoints: what is loaded, what is refused, and the id they get."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification

from specact_rl.errors import ModelError
from specact_rl.models import loading
from specact_rl.models.loading import (
    check_checkpoint_info,
    load_causal_lm,
    load_classifier,
    load_tokenizer,
    model_id,
    model_size,
    num_params,
    save_checkpoint_info,
)
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer

IDS = torch.tensor([[5, 6, 7, 8]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapted(model, task_type, seed):
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type=task_type, r=2, target_modules=["q_proj"], init_lora_weights=False
    )
    return get_peft_model(model, config).eval()


@pytest.fixture
def base(plain_lm, tmp_path):
    plain_lm.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def tokenizer():
    return train_tokenizer(["open f12"], 300)


@pytest.fixture
def renderer(tokenizer):
    return Renderer(tokenizer=tokenizer, catalogue="compact")


def test_saved_model_comes_back_ready_for_evaluation(base, plain_lm):
    model = load_causal_lm(base)
    assert not model.training
    assert torch.equal(logits(model), logits(plain_lm))
    assert load_causal_lm(base, "bfloat16").dtype == torch.bfloat16


def test_model_is_loaded_onto_the_gpu_where_there_is_one(base, monkeypatch):
    moved_to = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(Qwen3ForCausalLM, "to", lambda model, device: moved_to.append(device))
    load_causal_lm(base)
    load_causal_lm(base, device="cpu")
    assert moved_to == [torch.device("cuda"), torch.device("cpu")]


def test_tokenizer_comes_back(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_adapter_folder_gives_the_merged_model(base, tmp_path):
    model = adapted(Qwen3ForCausalLM.from_pretrained(base), "CAUSAL_LM", seed=1)
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_causal_lm(tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(load_causal_lm(base)))


def test_classifier_adapter_comes_back_with_its_head(base, tmp_path):
    torch.manual_seed(3)
    classifier = Qwen3ForSequenceClassification.from_pretrained(base, num_labels=2)
    model = adapted(classifier, "SEQ_CLS", seed=1)
    model.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(logits(load_classifier(tmp_path / "adapter")), logits(model))


def test_classifier_adapter_without_a_head_is_refused(base, tmp_path):
    classifier = Qwen3ForSequenceClassification.from_pretrained(base, num_labels=2)
    adapted(classifier, None, seed=1).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="SEQ_CLS"):
        load_classifier(tmp_path / "adapter")


def test_pickled_weights_are_refused(base, plain_lm):
    torch.save(plain_lm.state_dict(), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_causal_lm(base)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        load_causal_lm(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="nowhere"):
        load_tokenizer(tmp_path / "nowhere")


def test_id_has_the_name_and_follows_weights_and_template(base, plain_lm, renderer):
    first = model_id(base, renderer)
    assert first == model_id(base, renderer)
    assert first.startswith("base-")
    assert len(first) == len("base-") + 16
    template = Renderer(tokenizer=renderer.tokenizer, catalogue="template")
    assert model_id(base, template) != first
    with torch.no_grad():
        plain_lm.lm_head.weight[0, 0] += 1
    plain_lm.save_pretrained(base)
    assert model_id(base, renderer) != first


def test_id_of_a_model_in_memory_follows_its_weights(plain_lm, renderer):
    first = model_id(plain_lm, renderer)
    assert first == model_id(plain_lm, renderer)
    with torch.no_grad():
        plain_lm.lm_head.weight[0, 0] += 1
    assert model_id(plain_lm, renderer) != first


def test_id_of_an_adapter_follows_its_base(base, plain_lm, tmp_path, renderer):
    model = adapted(Qwen3ForCausalLM.from_pretrained(base), "CAUSAL_LM", seed=1)
    model.save_pretrained(tmp_path / "adapter")
    first = model_id(tmp_path / "adapter", renderer)
    with torch.no_grad():
        plain_lm.lm_head.weight[0, 0] += 1
    plain_lm.save_pretrained(base)
    assert model_id(tmp_path / "adapter", renderer) != first


def test_checkpoint_is_refused_with_another_catalogue_and_says_so(tmp_path, renderer):
    save_checkpoint_info(tmp_path, renderer)
    check_checkpoint_info(tmp_path, renderer)
    other = Renderer(tokenizer=renderer.tokenizer, catalogue="template")
    with pytest.raises(ModelError, match=r"catalogue \(trained with 'compact', got 'template'\)"):
        check_checkpoint_info(tmp_path, other)


def test_checkpoint_info_survives_saving_the_tokenizer(tmp_path, renderer):
    renderer.tokenizer.save_pretrained(tmp_path)
    save_checkpoint_info(tmp_path, renderer)
    loaded = Renderer(tokenizer=load_tokenizer(tmp_path), catalogue="compact")
    check_checkpoint_info(tmp_path, loaded)
    assert json.loads((tmp_path / "specact.json").read_text())["template_hash"]


def test_checkpoint_without_info_passes_with_a_warning(tmp_path, renderer, caplog):
    check_checkpoint_info(tmp_path, renderer)
    assert "not checked" in caplog.text


def test_tied_embedding_counts_as_the_output_layer_it_is(plain_lm, base):
    # embedding 40 x 16, final norm 16; a layer: q and o 16 x 16, k and v 16 x 8, mlp 3 x 16 x 24,
    # two norms of 16 and two of the head size 4
    layer = 2 * 256 + 2 * 128 + 3 * 384 + 2 * 16 + 2 * 4
    assert num_params(plain_lm) == 640 + 16 + 2 * layer
    # no output layer over words: the embedding is a look-up, the head is 16 x 2
    assert num_params(load_classifier(base)) == 16 + 2 * layer + 32


@pytest.mark.parametrize("length", [1, 4, 50])
def test_flops_are_those_that_torch_counts(length, plain_lm):
    plain_lm.set_attn_implementation("eager")  # of the fused kernel for CPUs torch counts nothing
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain_lm(input_ids=torch.zeros((1, length), dtype=torch.long))
    size = model_size(plain_lm)
    norms = sum(p.numel() for p in plain_lm.parameters() if p.ndim == 1)  # no matrix products
    causal = size.flops(0, length) - 2 * norms * length
    # torch computes, and counts, the pairs that the causal mask throws away as well
    masked = 4 * size.attention_width * length * (length - 1) // 2
    assert counter.get_total_flops() == causal + masked


@pytest.mark.parametrize(("start", "stop"), [(1, 2), (7, 20), (49, 50)])
def test_flops_behind_a_cached_prefix_are_those_that_torch_counts(start, stop, plain_lm):
    plain_lm.set_attn_implementation("eager")
    ids = torch.zeros((1, stop), dtype=torch.long)
    with torch.no_grad():
        cache = plain_lm(input_ids=ids[:, :start], use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            plain_lm(input_ids=ids[:, start:], past_key_values=cache)
    size, new = model_size(plain_lm), stop - start
    norms = sum(p.numel() for p in plain_lm.parameters() if p.ndim == 1)
    masked = 4 * size.attention_width * new * (new - 1) // 2
    assert counter.get_total_flops() == size.flops(start, stop) - 2 * norms * new + masked


@pytest.mark.parametrize(
    ("device", "computes", "expected"),
    [("cpu", True, "float32"), ("cuda", True, "bfloat16"), ("cuda", False, "float32")],
)
def test_models_are_bfloat16_where_the_device_computes_in_it(
    device, computes, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: computes)
    assert loading.usual_dtype(torch.device(device)) == expected


@pytest.mark.parametrize("load", [load_causal_lm, load_classifier])
def test_dtype_is_the_devices_unless_said(load, base, monkeypatch):
    asked = []

    def usual(device):
        asked.append(device)
        return "bfloat16"

    monkeypatch.setattr(loading, "usual_dtype", usual)
    assert load(base).dtype == torch.bfloat16
    assert load(base, "float32").dtype == torch.float32
    assert asked == [loading.usual_device()]
