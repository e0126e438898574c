"""The monotone-sweep ECE: as many bins of equal mass as still give rising frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    IntArray,
    MetricValue,
    as_labels,
    as_probabilities,
    check_lengths,
)

MAX_SWEEP_BINS = 1000
"""The sweep stops here. Monotone frequencies of n rows last for about n^(1/3) bins, so that only
rows which a score parts all but perfectly come this far."""


def sweep_ece(p_accept: ArrayLike, acceptable: ArrayLike) -> MetricValue:
    """ECE over the largest number of equal-mass bins up to which no frequency falls.

    In [0, 1], lower is better. The number of bins follows from the rows, so that none has to be
    chosen; biased upwards like any plug-in ECE, so hold it against its null band. Equal
    probabilities share a bin. A score that points the wrong way is left with one bin, in which its
    errors cancel; the note says so, and how many bins there are.

    Source: Roelofs et al. (2022), Algorithm 1, with the mean absolute gap. Where the frequencies
    rise over all distinct probabilities, each of these is a bin; else there are at most 1000.
    """
    p, y = as_probabilities(p_accept), as_labels(acceptable)
    check_lengths(p_accept=p, acceptable=y)
    distinct, codes = np.unique(p, return_inverse=True)
    groups = Groups.of(np.bincount(codes), np.bincount(codes, weights=p).astype(np.float64))
    hits = np.bincount(codes, weights=y.astype(np.float64)).astype(np.float64)
    values, num_bins = sweep(groups, hits[None, :])
    bins = int(num_bins[0])
    note = f"{bins} bins"
    if bins == 1:
        note = "one bin"
        if distinct.size > 1:
            note += ": the frequencies fall over two already, and errors of the two sides cancel"
    return MetricValue(value=float(values[0]), n=p.size, note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Rows in ascending order of probability, in groups that no bin parts."""

    count: IntArray
    """Rows per group, shape (groups,), at least 1 each."""
    p_sum: FloatArray
    """Sum of the probabilities per group, shape (groups,)."""
    rank: IntArray
    """Twice the mean rank of a group's rows, counted from 1/2: whole numbers, shape (groups,)."""

    @classmethod
    def of(cls, count: IntArray, p_sum: FloatArray) -> Groups:
        """Groups in ascending order."""
        return cls(count=count, p_sum=p_sum, rank=2 * np.cumsum(count) - count)

    def bin_starts(self, num_bins: int) -> IntArray:
        """First group of each non-empty bin of equal mass."""
        n = int(self.count.sum())
        # Bin k has the ranks from k n / bins: in twice the ranks, and rounded up to whole numbers.
        lowest = -(-2 * n * np.arange(num_bins, dtype=np.int64) // num_bins)
        starts = np.unique(np.searchsorted(self.rank, lowest))
        found: IntArray = starts[starts < self.count.size]
        return found


def sweep(groups: Groups, hits: FloatArray) -> tuple[FloatArray, IntArray]:
    """The sweep on many label vectors at once.

    Args:
        groups: The rows.
        hits: Acceptable rows per group, shape (draws, groups).

    Returns:
        The ECE and the number of non-empty bins, both of shape (draws,).
    """
    num_draws, n = hits.shape[0], int(groups.count.sum())
    zero = np.zeros((num_draws, 1))
    so_far = np.concatenate([zero, np.cumsum(hits, axis=1)], axis=1)
    count_so_far = np.append(0, np.cumsum(groups.count))
    p_so_far = np.append(0.0, np.cumsum(groups.p_sum))

    def binned(rows: IntArray, starts: IntArray) -> tuple[FloatArray, BoolArray]:
        """ECE of these draws, and whether their frequencies never fall."""
        edges = np.append(starts, groups.count.size)
        count = np.diff(count_so_far[edges])
        in_bin = np.diff(so_far[np.ix_(rows, edges)], axis=1)
        gap = np.abs(in_bin - np.diff(p_so_far[edges])).sum(axis=1) / n
        # Whole numbers multiplied crosswise: equal frequencies compare as equal.
        rises = in_bin[:, 1:] * count[:-1] >= in_bin[:, :-1] * count[1:]
        return gap, rises.all(axis=1)

    everything = np.arange(num_draws)
    finest = np.arange(groups.count.size)
    values, rises = binned(everything, finest)
    num_bins = np.full(num_draws, finest.size)
    # Means over runs of a rising sequence rise: no number of bins would have stopped these.
    open_draws = np.flatnonzero(~rises)
    values[open_draws], _ = binned(open_draws, np.zeros(1, dtype=np.int64))
    num_bins[open_draws] = 1
    for tried in range(2, min(n, MAX_SWEEP_BINS) + 1):
        if not open_draws.size:
            break
        starts = groups.bin_starts(tried)
        gap, rises = binned(open_draws, starts)
        open_draws = open_draws[rises]
        values[open_draws] = gap[rises]
        num_bins[open_draws] = starts.size
    return values, num_bins
