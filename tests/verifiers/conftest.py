"""Rollouts of the workspace, tiny tokens, and proposals written down by hand."""

import random

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from specact_rl.actions.serialise import action_text
from specact_rl.envs.episodes import NoisyExpert, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer, compact_catalogue
from specact_rl.types import Proposal


@pytest.fixture(scope="session")
def rollouts():
    policies = [NoisyExpert(noise=0.3, rng=random.Random(seed)) for seed in range(4)]
    return [run_episode(Workspace(seed), p, "noisy") for seed, p in enumerate(policies)]


@pytest.fixture(scope="session")
def renderer(rollouts):
    texts = [compact_catalogue(rollout.tools) for rollout in rollouts]
    texts += [str(m["content"]) for rollout in rollouts for m in rollout.messages]
    return Renderer(tokenizer=train_tokenizer(texts, 330), catalogue="compact")


def make_proposal(step, action, *, sample=0, model="cheap", mode="generate", logprob=-1.0):
    return Proposal(
        proposal_id=f"{step.step_id}@{model}:{mode}:{sample}",
        step_id=step.step_id,
        task_id=step.task_id,
        model_id=model,
        sample=sample,
        mode=mode,
        text="broken" if action is None else action_text(action),
        action=action,
        parse_error="broken" if action is None else None,
        match_level="none",
        same_state=None,
        acceptable=None,
        label_source="none",
        logprob=logprob,
        num_candidates=None,
        num_prompt_tokens=1,
        num_cached_tokens=0,
        num_completion_tokens=1,
        seconds=0.0,
    )


@pytest.fixture(scope="session")
def propose():
    """`propose(step, action, ...)` is a proposal; an action of None is a broken text."""
    return make_proposal


def make_model(kind, renderer, **options):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(renderer.tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=renderer.tokenizer.pad_token_id,
        eos_token_id=renderer.tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.5,  # far from uniform, so that errors show
        **options,
    )
    return kind(config).eval()


@pytest.fixture(scope="session", params=[2, 1], ids=["classifier", "reward model"])
def classifier(request, renderer):
    return make_model(Qwen3ForSequenceClassification, renderer, num_labels=request.param)


@pytest.fixture(scope="session")
def causal_lm(renderer):
    return make_model(Qwen3ForCausalLM, renderer)
