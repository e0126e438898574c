"""Proposals of a model: what was cut off says so, and is no action."""

from dataclasses import replace

import pytest
import torch
from transformers import Qwen3ForCausalLM

from specact_rl.models.generation import generate
from specact_rl.models.language_model import LanguageModel, Sampling, step_prompt
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer
from tests.tiny_models import tiny_config

LIMIT = 12


@pytest.fixture(scope="module")
def tiny_lm():
    """Random weights; some of its turns end in time, others are cut off."""
    renderer = Renderer(tokenizer=train_tokenizer(["read_file f1"], 330), catalogue="compact")
    stop = renderer.tokenizer.eos_token_id
    torch.manual_seed(0)
    config = tiny_config(renderer.tokenizer)
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight[stop] *= 4.0
    return LanguageModel(model_id="tiny", model=model, renderer=renderer)


def test_proposal_is_finished_where_its_generation_is_and_else_no_action(tiny_lm, make):
    rollouts = [make.rollout([make.say("Done")], task=f"t{i}", request="Go" * i) for i in range(6)]
    steps = [rollout.step(0) for rollout in rollouts]
    sampling = Sampling(num_samples=4, max_new_tokens=LIMIT, seed=1)
    generations = generate(
        tiny_lm.model,
        tiny_lm.renderer.tokenizer,
        [step_prompt(tiny_lm.renderer, step) for step in steps],
        num_samples=4,
        temperature=1.0,
        max_new_tokens=LIMIT,
        seed=1,
    )
    finished = [turn.finished for turns in generations for turn in turns]
    assert {True, False} == set(finished)
    proposals = [p for samples in tiny_lm.propose(steps, sampling) for p in samples]
    assert [proposal.finished for proposal in proposals] == finished
    for proposal in proposals:
        if not proposal.finished:
            assert proposal.num_completion_tokens == LIMIT
            assert proposal.action is None
            assert "no stop token" in proposal.parse_error


def test_manifests_from_before_proposals_could_be_distinct_still_fit():
    plain = Sampling(num_samples=3, temperature=0.5, max_new_tokens=8, seed=1)
    assert plain.arguments == {
        "num_samples": 3,
        "temperature": 0.5,
        "max_new_tokens": 8,
        "seed": 1,
    }
    assert replace(plain, distinct=True).arguments == plain.arguments | {"distinct": True}
