"""What runs on a GPU says what it says on the CPU. Run with `pytest -m gpu` where there is one."""

import numpy as np
import pytest
import torch

from specact_rl.models.generation import generate
from specact_rl.models.loading import load_causal_lm
from specact_rl.models.scoring import classify_continuations, score_candidates
from specact_rl.models.tiny import train_tokenizer

pytestmark = pytest.mark.gpu

CANDIDATES = [[5, 6, 7, 2], [5, 6, 8, 9, 2], [4], [9, 5, 6, 7, 2]]


def test_candidates_score_alike(causal_lm, prompts):
    candidates = [CANDIDATES] * len(prompts)
    expected = score_candidates(causal_lm, prompts, candidates)
    scores = score_candidates(causal_lm.to("cuda"), prompts, candidates)
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_classes_score_alike(classifier, prompts):
    continuations = [CANDIDATES] * len(prompts)
    expected = classify_continuations(classifier, prompts, continuations)
    scores = classify_continuations(classifier.to("cuda"), prompts, continuations)
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_turns_are_alike(causal_lm, prompts):
    def turns(model):
        tokenizer = train_tokenizer(["open f12"], 300)
        return generate(
            model, tokenizer, prompts, num_samples=3, temperature=1.0, max_new_tokens=8, seed=0
        )

    expected, found = turns(causal_lm), turns(causal_lm.to("cuda"))
    assert [[turn.token_ids for turn in each] for each in found] == [
        [turn.token_ids for turn in each] for each in expected
    ]
    for each, others in zip(found, expected, strict=True):
        for turn, other in zip(each, others, strict=True):
            assert turn.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_models_are_loaded_there(plain_lm, tmp_path):
    plain_lm.save_pretrained(tmp_path)
    assert load_causal_lm(tmp_path).device == torch.device("cuda", torch.cuda.current_device())
