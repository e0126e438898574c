"""Rollouts of the workspace, tiny tokens, and proposals written down by hand."""

import random

import pytest
import torch
from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification

from specact_rl.envs.episodes import NoisyExpert, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer, compact_catalogue
from tests.records import make_proposal
from tests.tiny_models import tiny_config


@pytest.fixture(scope="session")
def rollouts():
    policies = [NoisyExpert(noise=0.3, rng=random.Random(seed)) for seed in range(4)]
    return [run_episode(Workspace(seed), p, "noisy") for seed, p in enumerate(policies)]


@pytest.fixture(scope="session")
def renderer(rollouts):
    texts = [compact_catalogue(rollout.tools) for rollout in rollouts]
    texts += [str(m["content"]) for rollout in rollouts for m in rollout.messages]
    return Renderer(tokenizer=train_tokenizer(texts, 330), catalogue="compact")


@pytest.fixture(scope="session")
def propose():
    """`propose(step, action, ...)` is a proposal; an action of None is a broken text."""

    def proposed(step, action, **fields):
        values = {"model": "cheap", "label_source": "none", "logprob": -1.0} | fields
        return make_proposal(step, "broken" if action is None else action, **values)

    return proposed


def make_model(kind, renderer, **options):
    torch.manual_seed(0)
    config = tiny_config(renderer.tokenizer, max_position_embeddings=1024, **options)
    return kind(config).eval()


@pytest.fixture(scope="session", params=[2, 1], ids=["classifier", "reward model"])
def classifier(request, renderer):
    return make_model(Qwen3ForSequenceClassification, renderer, num_labels=request.param)


@pytest.fixture(scope="session")
def causal_lm(renderer):
    return make_model(Qwen3ForCausalLM, renderer)
