"""Decoding over shared prefixes equals decoding alone, and draws depend on the step only."""

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from specact_rl.models import prefix
from specact_rl.models.generation import generate
from specact_rl.models.prefix import num_cached_tokens
from specact_rl.models.scoring import score_candidates
from specact_rl.rendering import RolloutTokens

STOP = 2


class Letters:
    """Token i is the letter i; token 2 ends a turn."""

    eos_token_id = STOP

    def decode(self, ids):
        return "".join(chr(ord("A") + i) for i in ids)


def run(model, prompts, **changed):
    options = {"num_samples": 3, "temperature": 1.0, "max_new_tokens": 8, "seed": 7} | changed
    return generate(model, Letters(), prompts, **options)


def naive_greedy(model, prompt, count):
    ids = list(prompt.ids)
    for _ in range(count):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] == STOP:
            break
    return ids[len(prompt.ids) :]


@pytest.fixture
def ending_lm(plain_lm):
    """Stops now and then, so that rows end at different times."""
    stop = plain_lm.model.embed_tokens.weight
    with torch.no_grad():
        stop[STOP] = 0.6 * stop[STOP] + 0.4 * stop[5:15].mean(0)
    return plain_lm


def test_sample_zero_is_the_greedy_turn(causal_lm, prompts):
    for prompt, turns in zip(prompts, run(causal_lm, prompts, num_samples=2), strict=True):
        assert turns[0].token_ids == naive_greedy(causal_lm, prompt, 8)


def test_logprob_is_that_of_scoring_the_tokens(causal_lm, prompts):
    results = run(causal_lm, prompts, temperature=0.7)
    ids = [[turn.token_ids for turn in turns] for turns in results]
    scores = score_candidates(causal_lm, prompts, ids)
    for turns, score in zip(results, scores, strict=True):
        np.testing.assert_allclose([turn.logprob for turn in turns], score, atol=1e-4)


def test_samples_do_not_depend_on_the_batch(ending_lm, prompts):
    together = run(ending_lm, prompts, num_samples=4)
    alone = [run(ending_lm, [prompt], num_samples=4, max_rows=1)[0] for prompt in prompts]
    ids = [[turn.token_ids for turn in turns] for turns in together]
    assert ids == [[turn.token_ids for turn in turns] for turns in alone]
    lengths = {len(each) for turns in ids for each in turns}
    assert len(lengths) > 2  # rows that ended were dropped while others went on


@given(
    order=st.permutations(range(6)),
    count=st.integers(1, 6),
    max_rows=st.integers(1, 9),
    slots=st.integers(1, 200),
    distinct=st.booleans(),
)
@settings(max_examples=12, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_samples_are_those_of_the_step_and_seed_in_any_batch(
    ending_lm, prompts, order, count, max_rows, slots, distinct
):
    chosen = [prompts[i] for i in order[:count]]
    options = {"num_samples": 3, "distinct": distinct}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "CACHE_BYTES", slots * 128)
        together = run(ending_lm, chosen, max_rows=max_rows, **options)
    for i, turns in zip(order, together, strict=False):
        (alone,) = run(ending_lm, [prompts[i]], **options)
        assert [turn.token_ids for turn in turns] == [turn.token_ids for turn in alone]
        np.testing.assert_allclose(
            [turn.logprob for turn in turns], [turn.logprob for turn in alone], atol=1e-4
        )


def test_fewer_samples_are_the_first_of_more(ending_lm, prompts):
    few = run(ending_lm, prompts, num_samples=2)
    many = run(ending_lm, prompts, num_samples=4)
    assert [[t.token_ids for t in turns] for turns in few] == [
        [t.token_ids for t in turns[:2]] for turns in many
    ]


def test_another_seed_gives_other_samples_but_the_same_greedy_turn(plain_lm, prompts):
    one, other = run(plain_lm, prompts, seed=1), run(plain_lm, prompts, seed=2)
    assert [t[0].token_ids for t in one] == [t[0].token_ids for t in other]
    assert [t[1].token_ids for t in one] != [t[1].token_ids for t in other]


def test_turn_without_stop_token_is_unfinished_and_keeps_all_its_text(ending_lm, prompts):
    turns = [turn for each in run(ending_lm, prompts, num_samples=6) for turn in each]
    assert {turn.finished for turn in turns} == {True, False}
    for turn in turns:
        assert turn.finished == (turn.token_ids[-1] == STOP)
        assert STOP not in turn.token_ids[:-1]
        assert turn.num_completion_tokens == len(turn.token_ids)
        assert len(turn.text) == len(turn.token_ids) - turn.finished
        assert turn.finished or len(turn.token_ids) == 8


def test_tokens_of_prompts_are_counted_once(plain_lm, prompts):
    cached = num_cached_tokens(prompts)
    for prompt, first, turns in zip(prompts, cached, run(plain_lm, prompts), strict=True):
        assert [turn.num_prompt_tokens for turn in turns] == [len(prompt.ids)] * 3
        assert [turn.num_cached_tokens for turn in turns] == [first, *[len(prompt.ids)] * 2]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_follow_the_distribution_at_the_temperature(plain_lm, temperature):
    ids = [7, 9, 11]
    with torch.no_grad():
        logits = plain_lm(input_ids=torch.tensor([ids])).logits[0, -1].double()
    expected = (logits / temperature).softmax(-1).numpy() * 3000
    turns = run(
        plain_lm,
        RolloutTokens.of_prompt(ids, "s").prompts(),
        num_samples=3001,
        max_new_tokens=1,
        temperature=temperature,
        max_rows=4000,
    )[0]
    counts = np.bincount([turn.token_ids[0] for turn in turns[1:]], minlength=len(expected))
    # The test wants 5 or more in each cell: the rarest tokens are one.
    order = np.argsort(expected)
    needed = np.searchsorted(expected[order].cumsum(), 5) + 1
    rare = order[: max(needed, (expected < 5).sum())]
    observed = np.append(np.delete(counts, rare), counts[rare].sum())
    predicted = np.append(np.delete(expected, rare), expected[rare].sum())
    assert predicted.min() >= 5
    assert stats.chisquare(observed, predicted).pvalue > 1e-4


def test_lower_temperature_comes_near_the_greedy_turn(plain_lm, prompts):
    for turns in run(plain_lm, prompts, temperature=1e-3):
        assert turns[1].token_ids == turns[0].token_ids


def test_distinct_samples_never_repeat_and_take_all_there_is(ending_lm, prompts):
    for turns in run(ending_lm, prompts, num_samples=12, distinct=True, max_new_tokens=4):
        assert len({tuple(turn.token_ids) for turn in turns}) == 12
    vocabulary = ending_lm.config.vocab_size
    for turns in run(
        ending_lm, prompts[:2], num_samples=vocabulary, distinct=True, max_new_tokens=1
    ):
        assert sorted(turn.token_ids[0] for turn in turns) == list(range(vocabulary))


def test_distinct_samples_find_what_is_left_where_the_greedy_turn_takes_nearly_all(
    plain_lm, prompts
):
    # At this temperature tokens that are left have chances down to 1e-187, which are 0 in
    # single precision: nothing would seem to be left, and the greedy turn would come again.
    options = {"temperature": 2e-3, "num_samples": 2, "max_new_tokens": 1, "distinct": True}
    for turns in run(plain_lm, prompts, **options):
        assert turns[1].token_ids != turns[0].token_ids


def test_when_all_is_taken_samples_repeat(plain_lm, prompts):
    vocabulary = plain_lm.config.vocab_size
    options = {"num_samples": vocabulary + 2, "distinct": True, "max_new_tokens": 1}
    (turns,) = run(plain_lm, prompts[:1], **options)
    assert len(turns) == vocabulary + 2


def test_first_distinct_sample_is_the_greedy_turn(causal_lm, prompts):
    for prompt, turns in zip(prompts, run(causal_lm, prompts, distinct=True), strict=True):
        assert turns[0].token_ids == naive_greedy(causal_lm, prompt, 8)


def test_distinct_draws_follow_what_the_first_leaves_of_the_distribution(ending_lm):
    """Of turns of two tokens, a second one has p / (1 - p of the first)."""
    ids, count = [7, 9, 11], 3000
    with torch.no_grad():
        first = ending_lm(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        both = torch.tensor([[*ids, token] for token in range(first.shape[0])])
        second = ending_lm(input_ids=both).logits[:, -1].double().softmax(-1)
    chance = {(STOP,): float(first[STOP])}
    for a in range(first.shape[0]):
        if a != STOP:
            chance |= {(a, b): float(first[a] * second[a, b]) for b in range(first.shape[0])}
    steps = [RolloutTokens.of_prompt(ids, f"s{i}").prompts()[0] for i in range(count)]
    turns = run(ending_lm, steps, num_samples=2, max_new_tokens=2, distinct=True, max_rows=count)
    (greedy,) = {tuple(samples[0].token_ids) for samples in turns}
    left = 1.0 - chance.pop(greedy)
    found = [tuple(samples[1].token_ids) for samples in turns]
    assert greedy not in found
    keys = sorted(chance, key=chance.get)
    expected = np.array([chance[key] / left * count for key in keys])
    observed = np.array([found.count(key) for key in keys], dtype=float)
    rare = (expected < 10).sum()
    observed = np.append(observed[rare:], observed[:rare].sum())
    expected = np.append(expected[rare:], expected[:rare].sum())
    assert len(expected) > 10
    assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_no_prompts_give_no_turns(plain_lm):
    assert run(plain_lm, []) == []


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"temperature": 0.0}])
def test_wrong_numbers_are_refused(plain_lm, prompts, wrong):
    with pytest.raises(ValueError, match="must be positive"):
        run(plain_lm, prompts, **wrong)
