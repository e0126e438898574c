"""What a set of calls costs, against the count token by token."""

import numpy as np
import pytest

from specact_rl.metrics.call_costs import CallCosts, catch_up_tokens
from specact_rl.metrics.cost import ModelSize


def test_reading_adds_up_to_what_catching_up_costs(make):
    """Against the token by token count, for every set of calls that a threshold can make."""
    rng = np.random.default_rng(0)
    rollouts = np.sort(rng.integers(0, 30, 200))
    codes = rng.integers(-1, 12, 200)
    prompt, completion = rng.integers(1, 99, 200), rng.integers(0, 9, 200)
    size = ModelSize(num_params=7, attention_width=3)
    calls = CallCosts(
        reading=size.flops(0 * prompt, prompt).astype(float),
        writing=size.flops(prompt, prompt + completion).astype(float),
        rollouts=rollouts,
    )
    totals = calls.totals(codes, 12)
    assert totals.shape == (13,)
    for c in range(13):
        called = codes < c
        unread = catch_up_tokens(prompt, rollouts, called)
        read = size.flops(prompt - unread, prompt)
        written = np.where(called, size.flops(prompt, prompt + completion), 0)
        assert totals[c] == read.sum() + written.sum()


def test_totals_of_groups_are_those_of_each_group_alone():
    rng = np.random.default_rng(1)
    rollouts = np.sort(rng.integers(0, 40, 300))
    groups = rng.integers(0, 5, 40)[rollouts]
    codes = rng.integers(-1, 7, 300)
    calls = CallCosts(reading=rng.random(300), writing=rng.random(300), rollouts=rollouts)
    together = calls.totals(codes, 7, groups)
    assert together.shape == (5, 8)
    for group in range(5):
        alone = calls.at(groups == group).totals(codes[groups == group], 7)
        assert together[group] == pytest.approx(alone)
    assert together.sum(axis=0) == pytest.approx(calls.totals(codes, 7))
