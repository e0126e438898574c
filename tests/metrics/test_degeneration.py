"""Repetition and variety of token ids, by hand."""

import pytest

from specact_rl.metrics.degeneration import distinct_ngram_share, repeated_ngram_share


def test_a_loop_repeats_what_a_text_without_one_does_not():
    # 1212121 has the 4-grams 1212, 2121, 1212, 2121: two of four stood there before
    assert repeated_ngram_share([1, 2, 1, 2, 1, 2, 1]) == pytest.approx(2 / 4)
    assert repeated_ngram_share([1, 2, 3, 4, 5, 6, 7]) == 0.0


def test_one_token_over_and_over_repeats_all_but_the_first():
    # ten tokens have seven 4-grams, all the same
    assert repeated_ngram_share([3] * 10) == pytest.approx(6 / 7)


@pytest.mark.parametrize("tokens", [[], [1], [1, 1, 1]])
def test_a_text_without_a_4_gram_repeats_none(tokens):
    assert repeated_ngram_share(tokens) == 0.0


def test_4_grams_are_not_repeated_by_another_text():
    once, twice = [[1, 2, 3, 4]], [[1, 2, 3, 4], [1, 2, 3, 4]]
    assert {repeated_ngram_share(text) for text in twice} == {0.0}
    # but they are not distinct any more: 12, 23, 34, each twice
    assert distinct_ngram_share(once) == 1.0
    assert distinct_ngram_share(twice) == pytest.approx(3 / 6)


def test_2_grams_do_not_reach_from_one_text_into_the_next():
    # 12, 21 and 12: two of three
    assert distinct_ngram_share([[1, 2, 1], [1, 2]]) == pytest.approx(2 / 3)
    assert distinct_ngram_share([[1], [2], []]) is None


def test_the_order_of_the_texts_changes_nothing():
    texts = [[1, 2, 3], [2, 3, 1], [5]]
    assert distinct_ngram_share(texts) == distinct_ngram_share(texts[::-1])


def test_an_n_below_1_is_misuse():
    with pytest.raises(ValueError, match="at least 1"):
        repeated_ngram_share([1, 2], n=0)
