"""Scoring with shared prefixes equals scoring every sequence alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from specact_rl.errors import ModelError
from specact_rl.models import prefix, scoring
from specact_rl.models.prefix import num_cached_tokens
from specact_rl.models.scoring import (
    TokenTree,
    classify_continuations,
    forward_continuations,
    score_candidates,
)
from specact_rl.rendering import RolloutTokens
from tests.models.conftest import KINDS, VOCAB, make_model, make_rollout

# Alike beginnings, one a prefix of another, single tokens, a repeat.
CANDIDATES = [[5, 6, 7, 2], [5, 6, 8, 9, 2], [5, 6], [4], [4], [9, 5, 6, 7, 2]]


def naive_logprob(model, prompt, candidate):
    """One whole sequence, no cache, no padding."""
    ids = torch.tensor([[*prompt.ids, *candidate]])
    with torch.no_grad():
        logprobs = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    start = len(prompt.ids)
    return sum(logprobs[start - 1 + i, token].item() for i, token in enumerate(candidate))


def candidates_for(prompts):
    return [CANDIDATES[i % 3 :] for i in range(len(prompts))]


def test_candidates_score_as_each_does_alone(causal_lm, prompts):
    candidates = candidates_for(prompts)
    scores = score_candidates(causal_lm, prompts, candidates)
    for prompt, each, score in zip(prompts, candidates, scores, strict=True):
        expected = [naive_logprob(causal_lm, prompt, candidate) for candidate in each]
        np.testing.assert_allclose(score, expected, atol=1e-4)
        assert score.argmax() == np.argmax(expected)


@st.composite
def cases(draw):
    """Rollouts of random lengths; candidates of three tokens, so that many begin alike."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    prompts = []
    for name in "abc":
        lengths = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=4)))
        own = draw(st.sets(st.integers(0, len(lengths) - 1), max_size=1))
        prompts += make_rollout(rng, name, lengths, own=own).prompts()
    prompts = draw(st.permutations(prompts))
    ids = st.lists(st.sampled_from([3, 4, VOCAB - 1]), min_size=1, max_size=6)
    each = st.lists(ids, min_size=1, max_size=5, unique_by=tuple)
    return prompts, [draw(each) for _ in prompts]


def padded_logits(model, rows, size, *, left):
    """Of batches of `size` whole sequences, without cache; the padding cut off again."""
    found = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        longest = max(map(len, some))
        pads = [[0] * (longest - len(row)) for row in some]
        both = [(pad, row) if left else (row, pad) for pad, row in zip(pads, some, strict=True)]
        ids = torch.tensor([[*first, *second] for first, second in both])
        mask = (ids != 0).long()  # no token of a row is 0
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
            ).logits
        if logits.dim() == 3:
            found += [one[kept == 1] for one, kept in zip(logits, mask, strict=True)]
        else:
            found += logits
    return found


def in_batches(score, model, prompts, candidates, size):
    """The prompts given to `score` so many at a time."""
    starts = range(0, len(prompts), size)
    parts = [score(model, prompts[i : i + size], candidates[i : i + size]) for i in starts]
    return [result for part in parts for result in part]


ANY_CASE = {"case": cases(), "size": st.integers(1, 12), "rows": st.integers(1, 40)}


@pytest.mark.parametrize("left", [False, True], ids=["right padding", "left padding"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_any_candidates_score_as_in_padded_batches_of_any_size(kind, left):
    model = make_model(Qwen3ForCausalLM, *kind)

    @given(**ANY_CASE)
    @settings(deadline=None, max_examples=8)
    def check(case, size, rows):
        prompts, candidates = case
        sequences = [[*p.ids, *ids] for p, e in zip(prompts, candidates, strict=True) for ids in e]
        logits = iter(padded_logits(model, sequences, rows, left=left))
        scores = in_batches(score_candidates, model, prompts, candidates, size)
        for prompt, each, score in zip(prompts, candidates, scores, strict=True):
            start = len(prompt.ids) - 1
            expected = [
                next(logits)[start:-1].double().log_softmax(-1)[range(len(ids)), ids].sum().item()
                for ids in each
            ]
            np.testing.assert_allclose(score, expected, rtol=0, atol=1e-4)
            assert score.argmax() == np.argmax(expected)

    check()


@pytest.mark.parametrize("left", [False, True], ids=["right padding", "left padding"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_any_continuations_are_classified_as_in_padded_batches_of_any_size(attention, left):
    model = make_model(Qwen3ForSequenceClassification, attention, lora=False)

    @given(**ANY_CASE)
    @settings(deadline=None, max_examples=8)
    def check(case, size, rows):
        prompts, candidates = case
        sequences = [[*p.ids, *ids] for p, e in zip(prompts, candidates, strict=True) for ids in e]
        expected = torch.stack(padded_logits(model, sequences, rows, left=left)).numpy()
        found = np.concatenate(in_batches(classify_continuations, model, prompts, candidates, size))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        assert (found.argmax(1) == expected.argmax(1)).all()

    check()


def test_small_batches_score_as_large_ones(plain_lm, prompts, monkeypatch):
    candidates = candidates_for(prompts)
    expected = score_candidates(plain_lm, prompts, candidates)
    monkeypatch.setattr(scoring, "MAX_MASK_CELLS", 1)
    monkeypatch.setattr(scoring, "MAX_LOGITS", 1)
    monkeypatch.setattr(prefix, "MAX_PREFIX_TOKENS", 1)
    for one, other in zip(score_candidates(plain_lm, prompts, candidates), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_single_tokens_sum_to_one_over_the_vocabulary(plain_lm, prompts):
    vocabulary = [[token] for token in range(plain_lm.config.vocab_size)]
    for score in score_candidates(plain_lm, prompts, [vocabulary] * len(prompts)):
        assert np.exp(score).sum() == pytest.approx(1, abs=1e-5)


def test_each_rollout_and_each_tree_goes_through_the_model_once(plain_lm, prompts):
    seen = []
    plain_lm.model.embed_tokens.register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(inputs[0].shape))
    )
    score_candidates(plain_lm, prompts, [[[5, 6, 7, 2], [5, 6, 8, 2]]] * len(prompts))
    # Rows: rollouts a (17 tokens), b (30), c (12) and the own prompt of b's first step; then six
    # trees of the nodes 5, 6, 7, 8.
    assert seen == [(4, 30), (6, 4)]


def test_outputs_at_the_last_token_are_those_of_the_whole_sequence(causal_lm, prompts):
    outputs = forward_continuations(causal_lm, prompts, candidates_for(prompts))
    for prompt, each, output in zip(prompts, candidates_for(prompts), outputs, strict=True):
        for candidate, logits in zip(each, output, strict=True):
            ids = torch.tensor([[*prompt.ids, *candidate]])
            with torch.no_grad():
                expected = causal_lm(input_ids=ids).logits[0, -1]
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_classifier_sees_the_whole_sequence(classifier, prompts):
    outputs = classify_continuations(classifier, prompts, candidates_for(prompts))
    for prompt, each, output in zip(prompts, candidates_for(prompts), outputs, strict=True):
        assert output.shape == (len(each), 2)
        for candidate, logits in zip(each, output, strict=True):
            ids = torch.tensor([[*prompt.ids, *candidate]])
            with torch.no_grad():
                expected = classifier(input_ids=ids).logits[0].numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_bfloat16_scores_are_near_and_rank_alike(plain_lm, prompts):
    candidates = [CANDIDATES] * len(prompts)
    exact = np.array(score_candidates(plain_lm, prompts, candidates))
    rough = np.array(score_candidates(plain_lm.bfloat16(), prompts, candidates))
    assert np.abs(exact - rough).max() < 1.0
    assert (exact.argmax(1) == rough.argmax(1)).all()


def test_no_candidates_give_no_scores(plain_lm, prompts):
    scores = score_candidates(plain_lm, prompts[:2], [[], [[5, 2]]])
    assert [score.shape for score in scores] == [(0,), (1,)]


def test_empty_candidate_is_refused(plain_lm, prompts):
    with pytest.raises(ValueError, match="prompt 0 has an empty one"):
        score_candidates(plain_lm, prompts[:1], [[[5], []]])


def test_training_mode_is_refused(plain_lm, prompts):
    with pytest.raises(ValueError, match="evaluation mode"):
        score_candidates(plain_lm.train(), prompts[:1], [[[5]]])


def test_sliding_window_is_refused():
    config = MistralConfig(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=4,
    )
    model = MistralForCausalLM(config).eval()
    prompt = RolloutTokens.of_prompt([1, 2, 3, 4, 5, 6]).prompts()
    with pytest.raises(ModelError, match="full attention"):
        score_candidates(model, prompt, [[[1]]])


def test_prefix_is_paid_once_per_rollout(prompts):
    # In the order of the fixture: b/1 (30, shared with nothing, as b/0 has its own prompt),
    # a/0 (3), c/0 (12), a/2 (17, after a/1), b/0 (own), a/1 (9, after a/0).
    assert num_cached_tokens(prompts) == [0, 0, 0, 9, 0, 3]


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=8))
@settings(deadline=None)
def test_tree_spells_its_sequences_and_has_no_two_equal_children(sequences):
    tree = TokenTree.of(sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert [tree.tokens[node] for node in path] == sequence
        assert [tree.depths[node] for node in path] == list(range(len(path)))
        assert [tree.parents[node] for node in path] == [-1, *path][: len(path)]
        if path:
            assert set(np.flatnonzero(tree.visible(len(tree.tokens))[path[-1]])) == set(path)
    children = list(zip(tree.parents, tree.tokens, strict=True))
    assert len(set(children)) == len(children)


@pytest.mark.parametrize(
    ("gigabytes", "cells"), [(80, 32_000_000), (24, 9_600_000), (1, scoring.MAX_MASK_CELLS)]
)
def test_a_larger_gpu_takes_more_rows_together(gigabytes, cells, monkeypatch):
    found = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    assert scoring.max_mask_cells(torch.device("cuda", 0)) == cells
    assert scoring.max_mask_cells(torch.device("cpu")) == scoring.MAX_MASK_CELLS


def test_copies_of_a_prefix_take_a_quarter_of_a_gpu(plain_lm, monkeypatch):
    # 2 layers x 2 heads x 4 numbers, keys and values, of 4 bytes: 128 a slot.
    parts = prefix.ModelParts.of(plain_lm)
    assert prefix.max_cache_slots(parts) == prefix.CACHE_BYTES // 128
    monkeypatch.setattr(prefix, "device_memory", lambda device: 1_024_000)
    assert prefix.max_cache_slots(parts) == 2_000


@pytest.mark.parametrize("slots", [1, 40, 75])
def test_scores_do_not_depend_on_how_many_copies_fit(plain_lm, prompts, slots, monkeypatch):
    candidates = candidates_for(prompts)
    expected = score_candidates(plain_lm, prompts, candidates)
    monkeypatch.setattr(prefix, "CACHE_BYTES", slots * 128)
    shapes = []
    plain_lm.model.embed_tokens.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(inputs[0].shape))
    )
    for one, other in zip(score_candidates(plain_lm, prompts, candidates), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert len(shapes) > 2  # the prefixes, and more than one batch of trees
