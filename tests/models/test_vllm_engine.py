"""Proposals under vLLM are those of our own generation. vLLM is a stand-in but in the last test."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from specact_rl.errors import ConfigError, ModelError
from specact_rl.models.generation import generate
from specact_rl.models.language_model import LanguageModel, Sampling
from specact_rl.models.loading import load_causal_lm, model_id, save_checkpoint_info
from specact_rl.models.scoring import score_candidates
from specact_rl.models.tiny import train_tokenizer
from specact_rl.models.vllm_engine import VllmModel
from specact_rl.rendering import Renderer
from tests import fake_vllm

BASE = Path(__file__).resolve().parents[2] / "specact_rl" / "models" / "bases" / "1m"
LIMIT = 12
GREEDY = Sampling(max_new_tokens=LIMIT)
SAMPLES = Sampling(num_samples=3, temperature=0.8, max_new_tokens=LIMIT, seed=5)


def tiny_config(vocabulary, stop):
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        tie_word_embeddings=True,
        # Of the config, not of the tokenizer: they end no turn, likely as they are.
        eos_token_id=list(range(stop + 1, vocabulary, 3)),
        max_position_embeddings=1024,
        initializer_range=0.5,
    )


@pytest.fixture(scope="module")
def renderer():
    return Renderer(tokenizer=train_tokenizer(["read_file f1"], 330), catalogue="compact")


@pytest.fixture(scope="module")
def folder(renderer, tmp_path_factory):
    """Random weights; some of its turns end in time, others are cut off."""
    stop = renderer.tokenizer.eos_token_id
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(tiny_config(len(renderer.tokenizer), stop))
    with torch.no_grad():
        model.model.embed_tokens.weight[stop] *= 6.0
    return saved(model, renderer, tmp_path_factory.mktemp("checkpoints") / "cheap")


def saved(model, renderer, folder, **info):
    model.save_pretrained(folder)
    renderer.tokenizer.save_pretrained(folder)
    save_checkpoint_info(folder, renderer, **info)
    return folder


@pytest.fixture
def adapter(folder, renderer, tmp_path):
    torch.manual_seed(1)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    model = get_peft_model(Qwen3ForCausalLM.from_pretrained(folder), config)
    return saved(model, renderer, tmp_path / "adapter", base_model_id=model_id(folder, renderer))


@pytest.fixture
def vllm(monkeypatch):
    return fake_vllm.install(monkeypatch)


@pytest.fixture
def rollouts(make):
    turns = [(make.call("read_file", file=f"f{i}"), "empty", None) for i in range(1)]
    return [
        make.rollout([*turns, make.say("Done")], task=f"t{i}", request="Go " * i) for i in range(3)
    ]


def loaded(folder, **options):
    return VllmModel.load(folder, dtype="float32", **options)


def rows(proposals):
    """All of them, without what another engine counts in another way."""
    apart = {"logprob": None, "seconds": None, "num_cached_tokens": 0}
    return [dataclasses.replace(p, **apart) for samples in proposals for p in samples]


def logprobs(proposals):
    return [p.logprob for samples in proposals for p in samples]


@pytest.mark.parametrize("kind", ["folder", "adapter"])
def test_the_greedy_table_is_that_of_transformers(kind, request, rollouts, vllm):
    checkpoint = request.getfixturevalue(kind)
    expected = LanguageModel.load(checkpoint).propose_over(rollouts, GREEDY)
    found = loaded(checkpoint).propose_over(rollouts, GREEDY)
    assert rows(found) == rows(expected)
    np.testing.assert_allclose(logprobs(found), logprobs(expected), atol=1e-4)
    if kind == "folder":
        assert {p.finished for samples in found for p in samples} == {True, False}


def test_an_adapter_is_applied_and_has_the_room_it_needs(folder, adapter, rollouts, vllm):
    found = loaded(adapter).propose_over(rollouts, GREEDY)
    assert logprobs(found) != logprobs(loaded(folder).propose_over(rollouts, GREEDY))
    (started, plain) = vllm.engines
    assert (started["model"], started["max_lora_rank"]) == (str(folder), 8)
    assert (started["enable_lora"], plain["enable_lora"]) == (True, False)


def test_the_logprob_of_a_drawn_turn_is_that_of_its_tokens_under_the_model(folder, rollouts, vllm):
    model = loaded(folder)
    proposed = model.propose_over(rollouts, SAMPLES)
    prompts = [p for rollout in rollouts for p in model.renderer.rollout_ids(rollout).prompts()]
    turns = [output.outputs[0].token_ids for _, output in vllm.requests]
    each = [turns[i : i + 3] for i in range(0, len(turns), 3)]
    expected = score_candidates(load_causal_lm(folder, "float32"), prompts, each)
    np.testing.assert_allclose(logprobs(proposed), np.concatenate(expected), atol=1e-4)


def test_prompts_are_the_tokens_of_our_renderer_and_prefixes_are_kept(folder, rollouts, vllm):
    model = loaded(folder, max_model_len=512, gpu_memory=0.5)
    proposed = model.propose_over(rollouts, SAMPLES)
    steps = [step for rollout in rollouts for step in rollout.each_step() for _ in range(3)]
    outputs = [output for _, output in vllm.requests]
    assert [o.prompt_token_ids for o in outputs] == [model.renderer.prompt_ids(s) for s in steps]
    (started,) = vllm.engines
    assert started["enable_prefix_caching"] is True
    assert (started["max_model_len"], started["gpu_memory_utilization"]) == (512, 0.5)
    for proposal, output in zip((p for each in proposed for p in each), outputs, strict=True):
        assert proposal.num_prompt_tokens == len(output.prompt_token_ids)
        assert proposal.num_cached_tokens == output.num_cached_tokens
        assert proposal.num_completion_tokens == len(output.outputs[0].token_ids)
        if proposal.sample > 0:  # its prompt has just been read
            assert 0 < proposal.num_prompt_tokens - proposal.num_cached_tokens <= fake_vllm.BLOCK


def test_draws_are_those_of_seed_step_and_sample_in_any_batch(folder, rollouts, vllm):
    model, rollouts = loaded(folder), rollouts[:2]
    together = rows(model.propose_over(rollouts, SAMPLES))
    alone = [p for rollout in rollouts[::-1] for p in rows(model.propose_over([rollout], SAMPLES))]
    assert sorted(alone, key=lambda p: p.proposal_id) == sorted(
        together, key=lambda p: p.proposal_id
    )
    assert len({p.text for p in together if p.step_id == together[0].step_id}) == 3
    other = rows(model.propose_over(rollouts, dataclasses.replace(SAMPLES, seed=6)))
    same = [p.text == q.text for p, q in zip(together, other, strict=True)]
    assert all(same[::3])
    assert not all(same)


def test_the_engine_is_not_started_before_it_is_asked(folder, rollouts, vllm):
    model = loaded(folder)
    assert model.model_id == LanguageModel.load(folder).model_id
    assert not vllm.engines
    model.propose_over(rollouts[:1], GREEDY)
    model.propose_over(rollouts[1:], GREEDY)
    assert len(vllm.engines) == 1


def test_another_engine_and_another_version_of_it_are_other_origins(folder, monkeypatch):
    origins = [LanguageModel.load(folder).origin]
    for version in ("0.30.0", "0.30.1"):
        fake_vllm.install(monkeypatch, version)
        origins += [loaded(folder).origin, VllmModel.load(folder, dtype="bfloat16").origin]
    assert all(one != other for i, one in enumerate(origins) for other in origins[:i])
    assert origins[1] == {"engine": "vllm", "engine_version": "0.30.0", "dtype": "float32"}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"distinct": True}, "cannot be made distinct"),
        ({"temperature": 2.5}, r"in \[0.01, 2\] under vLLM, got 2.5"),
        ({"temperature": 0.005}, r"in \[0.01, 2\] under vLLM, got 0.005"),
    ],
)
def test_sampling_that_vllm_does_not_do_is_refused(folder, rollouts, vllm, changed, complaint):
    sampling = dataclasses.replace(SAMPLES, **changed)
    with pytest.raises(ConfigError, match=complaint):
        loaded(folder).propose_over(rollouts, sampling)
    assert not vllm.engines
    greedy = dataclasses.replace(sampling, num_samples=1)  # is drawn by none of these
    assert loaded(folder).propose_over(rollouts, greedy)


def test_a_prompt_is_refused_that_leaves_no_room_for_the_proposal(folder, rollouts, vllm):
    model = loaded(folder)
    longest = max(len(p.ids) for r in rollouts for p in model.renderer.rollout_ids(r).prompts())
    room = longest + LIMIT
    assert loaded(folder, max_model_len=room).propose_over(rollouts, GREEDY)
    with pytest.raises(
        ModelError, match=rf"step 't2/p/0/1'.* at most {room - 1} .*--max-model-len"
    ):
        loaded(folder, max_model_len=room - 1).propose_over(rollouts, GREEDY)


@pytest.mark.parametrize(
    "options", [{"gpu_memory": 0.0}, {"gpu_memory": 1.5}, {"max_model_len": 1}]
)
def test_options_out_of_range_are_refused(folder, vllm, options):
    with pytest.raises(ConfigError, match="got"):
        loaded(folder, **options)


@pytest.mark.parametrize(
    "changed",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"trainable_token_indices": [3]},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
        {"init_lora_weights": "pissa"},
        {"alora_invocation_tokens": [5, 6]},
        {"peft_type": "IA3"},
        {"r": 1024},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_an_adapter_that_vllm_would_not_apply_as_it_is_is_refused(adapter, vllm, changed):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ModelError, match=rf"{next(iter(changed))} of an adapter must be"):
        loaded(adapter)


def test_an_adapter_of_another_base_is_refused(folder, adapter, renderer, tmp_path, vllm):
    other = Qwen3ForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        other.model.norm.weight *= 2.0
    saved(other, renderer, tmp_path / "other")
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace(str(folder), str(tmp_path / "other")))
    with pytest.raises(ModelError, match="was made for another"):
        loaded(adapter)


def test_a_verifier_is_refused(folder, renderer, tmp_path, vllm):
    config = tiny_config(len(renderer.tokenizer), 2)
    config.pad_token_id = 0
    verifier = saved(Qwen3ForSequenceClassification(config), renderer, tmp_path / "verifier")
    with pytest.raises(ModelError, match="Give the folder of a proposer"):
        loaded(verifier)


def test_what_vllm_says_when_it_cannot_start_is_handed_on(folder, rollouts, vllm, monkeypatch):
    def broken(self, **_):
        raise RuntimeError("Engine core initialization failed")

    monkeypatch.setattr(sys.modules["vllm"].LLM, "__init__", broken)
    told = r"vLLM 0.30.0 must start .* RuntimeError: Engine core .* lower --gpu-memory"
    with pytest.raises(ModelError, match=told):
        loaded(folder).propose_over(rollouts, GREEDY)


def test_an_answer_that_was_broken_off_is_no_proposal(folder, rollouts, vllm, monkeypatch):
    answer = fake_vllm.LLM._answer

    def aborted(self, *args):
        output = answer(self, *args)
        output.outputs[0].finish_reason = "abort"
        return output

    monkeypatch.setattr(sys.modules["vllm"].LLM, "_answer", aborted)
    with pytest.raises(ModelError, match="must answer .* a request ended by 'abort'"):
        loaded(folder).propose_over(rollouts, GREEDY)


def test_without_vllm_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r'pip install "specact_rl\[vllm\]"'):
        loaded(folder)


@pytest.mark.gpu
def test_vllm_itself_proposes_what_transformers_does(rollouts):
    pytest.importorskip("vllm", reason='needs vLLM: pip install "specact_rl[vllm]"')

    sampling = Sampling(max_new_tokens=24)
    ours = LanguageModel.load(BASE)
    prompts = [p for rollout in rollouts for p in ours.renderer.rollout_ids(rollout).prompts()]
    expected = generate(
        load_causal_lm(BASE, "float32"),
        ours.renderer.tokenizer,
        prompts,
        num_samples=1,
        temperature=1.0,
        max_new_tokens=24,
        seed=0,
    )
    model = loaded(BASE, gpu_memory=0.3)
    found = model.propose_over(rollouts, sampling)
    assert [p.text for (p,) in found] == [turn.text for (turn,) in expected]
    np.testing.assert_allclose(logprobs(found), [turn.logprob for (turn,) in expected], atol=1e-2)
    again = model.propose_over(rollouts, SAMPLES)
    assert rows(model.propose_over(rollouts, SAMPLES)) == rows(again)
    assert any(p.num_cached_tokens for samples in again for p in samples)
