"""Signs that generated text has fallen apart: loops, and few different words.

Functions of token ids; they know no tokenizer and no model. A text may be perfect and repeat
itself (a list of ids does), so each number is to be read beside that of the reference texts.
"""

from __future__ import annotations

from collections.abc import Sequence


def repeated_ngram_share(tokens: Sequence[int], n: int = 4) -> float:
    """Share of a text's n-grams that stood in it before, in [0, 1); lower is better.

    A text of fewer than n tokens has no n-gram and repeats none: 0.

    Source: Welleck et al. (2020), seq-rep-n.
    """
    ngrams = _ngrams(tokens, n)
    return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def distinct_ngram_share(texts: Sequence[Sequence[int]], n: int = 2) -> float | None:
    """Different n-grams of all texts over their number, in (0, 1]; None where there are none.

    It falls with the amount of text whatever the text, so that only texts about the same things
    in the same number can be compared, and has no interval from resampled texts.

    Source: Li et al. (2016), distinct-n.
    """
    ngrams = [ngram for text in texts for ngram in _ngrams(text, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def _ngrams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n!r}")
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
