"""Likelihood of given turns and divergence from the base, against a plain forward pass."""

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from specact_rl.models import turn_likelihoods as module
from specact_rl.models.training import TokenRow
from specact_rl.models.turn_likelihoods import turn_likelihoods, turn_states
from specact_rl.rendering import RolloutTokens

from .conftest import STOP, VOCAB, make_model


def adapted(*targets):
    return make_model(
        Qwen3ForCausalLM, "sdpa", lora=True, targets=targets, tie_word_embeddings=False
    )


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return [
        TokenRow(
            prompt=rng.integers(3, VOCAB, size=prompt).tolist(),
            completion=[*rng.integers(3, VOCAB, size=turn).tolist(), STOP],
        )
        for prompt, turn in [(9, 3), (4, 6), (12, 0), (5, 2)]
    ]


def log_probabilities(model, row):
    """Of every token of the vocabulary at each of the turn's places, one row at a time."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.ids])).logits[0, len(row.prompt) - 1 : -1]
    return logits.double().log_softmax(-1)


def of(rows):
    prompts = [RolloutTokens.of_prompt(row.prompt).prompts()[0] for row in rows]
    return prompts, [row.completion for row in rows]


def measured(model, rows):
    prompts, turns = of(rows)
    with model.disable_adapter():
        base = turn_states(model, prompts, turns)
    return turn_likelihoods(model, turns, turn_states(model, prompts, turns), base)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["lm_head"]], ids=str)
def test_turns_have_the_likelihood_and_divergence_of_a_plain_pass(targets, rows, monkeypatch):
    monkeypatch.setattr(module, "MAX_LOGITS", 3 * VOCAB)  # several chunks
    model = adapted(*targets)
    for row, found in zip(rows, measured(model, rows), strict=True):
        ours = log_probabilities(model, row)
        with model.disable_adapter():
            theirs = log_probabilities(model, row)
        nll = -ours[range(len(row.completion)), row.completion]
        assert found.num_tokens == len(row.completion)
        assert found.nll == pytest.approx(float(nll.sum()), rel=1e-5)
        assert found.stop_nll == pytest.approx(float(nll[-1]), rel=1e-5)
        kl = torch.nn.functional.kl_div(theirs, ours, log_target=True, reduction="sum")
        assert found.kl == pytest.approx(float(kl), rel=1e-4)
        assert found.kl > 0.01  # the adapter does something


def test_a_base_does_not_diverge_from_itself_and_keeps_its_adapter_off(rows):
    model = adapted("q_proj")
    prompts, turns = of(rows)
    with model.disable_adapter():
        states = turn_states(model, prompts, turns)
        found = turn_likelihoods(model, turns, states, None)
        still_off = turn_states(model, prompts, turns)
    assert {each.kl for each in found} == {0.0}
    torch.testing.assert_close(still_off, states)
