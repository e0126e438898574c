"""Reading on from what was kept equals reading anew, and reads what is new alone."""

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3ForCausalLM

from specact_rl.models.generation import generate
from specact_rl.models.kept_prefixes import KeptPrefixes
from specact_rl.models.prefix import ModelParts, kept_prefixes, num_cached_tokens
from specact_rl.models.scoring import classify_continuations, score_candidates
from specact_rl.rendering import RolloutTokens
from tests.models.conftest import STOP, VOCAB, make_model

CANDIDATES = [[5, 6, 7, STOP], [5, 6, 8], [4]]


class Letters:
    """Token i is the letter i; token 2 ends a turn."""

    eos_token_id = STOP

    def decode(self, ids):
        return "".join(chr(ord("A") + i) for i in ids)


def tokens(seed, count):
    return np.random.default_rng(seed).integers(3, VOCAB, count).tolist()


def prompt(name, ids):
    """As a live step's: the prompt alone, under the name of its episode."""
    return RolloutTokens.of_prompt(ids, f"{name}/{len(ids)}", name).prompts()[0]


def turns(model, prompts, kept=None):
    options = {"num_samples": 2, "temperature": 1.0, "max_new_tokens": 5, "seed": 7}
    return generate(model, Letters(), prompts, kept=kept, **options)


def room_for(model, count):
    return KeptPrefixes(ModelParts.of(model).transformer, count)


@pytest.fixture
def read(plain_lm):
    """Shapes of the batches of tokens that the model reads."""
    seen = []
    plain_lm.model.embed_tokens.register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(inputs[0].shape))
    )
    return seen


rounds = st.lists(
    st.dictionaries(
        st.sampled_from("abcd"),
        # How many of the conversation's last tokens are other ones now, and how many are new.
        st.tuples(st.integers(0, 12), st.integers(1, 9)),
        min_size=1,
    ),
    min_size=2,
    max_size=5,
)


@given(rounds=rounds, room=st.sampled_from([0, 20, 60, 10_000]), seed=st.integers(0, 99))
@settings(max_examples=8, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_conversations_that_go_on_are_answered_as_anew(plain_lm, rounds, room, seed):
    kept = room_for(plain_lm, room)
    ids = {name: tokens([seed, i], 10 * i + 3) for i, name in enumerate("abcd")}
    for number, going in enumerate(rounds):
        for i, (name, (changed, new)) in enumerate(going.items()):
            unchanged = ids[name][: max(1, len(ids[name]) - changed)]
            ids[name] = unchanged + tokens([seed, number, i, 9], changed + new)
        prompts = [prompt(name, ids[name]) for name in going]
        for one, other in zip(
            turns(plain_lm, prompts, kept), turns(plain_lm, prompts), strict=True
        ):
            assert [turn.token_ids for turn in one] == [turn.token_ids for turn in other]
            np.testing.assert_allclose(
                [turn.logprob for turn in one], [turn.logprob for turn in other], atol=1e-4
            )
        candidates = [CANDIDATES] * len(prompts)
        np.testing.assert_allclose(
            score_candidates(plain_lm, prompts, candidates, kept),
            score_candidates(plain_lm, prompts, candidates),
            atol=1e-4,
        )
        assert sum(map(len, kept._kept.values())) <= room


def test_models_of_all_kinds_read_on_as_they_read(causal_lm, classifier):
    conversations = {name: tokens(i, 20 + 7 * i) for i, name in enumerate("abc")}
    short = [prompt(name, ids[:-6]) for name, ids in conversations.items()]
    longer = [prompt(name, ids) for name, ids in conversations.items()]
    candidates = [CANDIDATES] * 3
    for model, score in ((causal_lm, score_candidates), (classifier, classify_continuations)):
        kept = kept_prefixes(model)
        score(model, short, candidates, kept)
        assert num_cached_tokens(longer, kept) == [14, 21, 28]
        np.testing.assert_allclose(
            score(model, longer, candidates, kept), score(model, longer, candidates), atol=1e-4
        )


def test_only_what_is_new_is_read(plain_lm, read):
    kept = kept_prefixes(plain_lm)
    a, b = tokens(0, 30), tokens(1, 20)
    score_candidates(plain_lm, [prompt("a", a[:24]), prompt("b", b[:18])], [[[5]]] * 2, kept)
    assert read == [(2, 24)]
    read.clear()
    longer = [prompt("a", a), prompt("b", b)]
    assert num_cached_tokens(longer, kept) == [24, 18]
    score_candidates(plain_lm, longer, [[[5]]] * 2, kept)
    assert read == [(2, 6)]  # of a; b has two new tokens and four of padding
    read.clear()
    score_candidates(plain_lm, longer, [[[5]], [[6]]], kept)
    assert read == []


def test_who_has_proposed_in_a_rollout_judges_without_reading_it(plain_lm, prompts, read):
    kept = kept_prefixes(plain_lm)
    turns(plain_lm, prompts, kept)
    assert num_cached_tokens(prompts, kept) == [len(p.ids) for p in prompts]
    read.clear()
    scores = score_candidates(plain_lm, prompts, [CANDIDATES] * 6, kept)
    assert read == [(6, 3)]  # the candidates alone: 5, 6 and 7, their last tokens are not fed
    np.testing.assert_allclose(
        scores, score_candidates(plain_lm, prompts, [CANDIDATES] * 6), atol=1e-4
    )


def test_a_prefix_that_changed_is_read_from_there_on(plain_lm, read):
    kept = kept_prefixes(plain_lm)
    ids = tokens(0, 20)
    score_candidates(plain_lm, [prompt("a", ids)], [[[5]]], kept)
    other = [*ids[:15], ids[15] % 30 + 4, *ids[16:]]
    assert num_cached_tokens([prompt("a", other)], kept) == [15]
    early = [*ids[:3], ids[3] % 30 + 4, *ids[4:]]
    assert num_cached_tokens([prompt("a", early)], kept) == [0]  # less than half: not worth a mask
    read.clear()
    score = score_candidates(plain_lm, [prompt("a", other)], [CANDIDATES], kept)
    assert read[0] == (1, 5)
    np.testing.assert_allclose(
        score, score_candidates(plain_lm, [prompt("a", other)], [CANDIDATES]), atol=1e-4
    )


def test_where_more_go_on_than_fit_those_that_fit_stay(plain_lm):
    kept = room_for(plain_lm, 50)
    conversations = [prompt(name, tokens(i, 20)) for i, name in enumerate("abcd")]
    for _ in range(3):
        score_candidates(plain_lm, conversations, [[[5]]] * 4, kept)
        assert num_cached_tokens(conversations, kept) == [20, 20, 0, 0]
    # Those that have ended make room, once a call has not asked about them.
    for _ in range(2):
        score_candidates(plain_lm, conversations[2:], [[[5]]] * 2, kept)
    assert num_cached_tokens(conversations[2:], kept) == [20, 20]


def test_prefixes_of_another_model_are_refused(plain_lm):
    kept = kept_prefixes(make_model(Qwen3ForCausalLM, "sdpa", lora=False, seed=1))
    with pytest.raises(ValueError, match="each model has its own"):
        score_candidates(plain_lm, [prompt("a", [5, 6])], [[[5]]], kept)
