import math

import numpy as np
import pytest

from specact_rl.metrics.cost import AssumedCosts, ModelSize, TokenPrice, gated_cost, system_cost
from specact_rl.metrics.frontier import break_even_accept_rate

COSTS = AssumedCosts()


def test_flops_are_two_per_parameter_and_token_and_four_per_pair_of_tokens():
    assert ModelSize(num_params=1_700_000_000).flops(0, 100) == 340_000_000_000
    # tokens 2 and 3 attend to 3 and 4 tokens: 2 x 10 x 2 + 4 x 5 x 7
    assert ModelSize(num_params=10, attention_width=5).flops(2, 4) == 180
    with pytest.raises(ValueError, match="negative"):
        ModelSize(num_params=-1)


def test_reading_in_parts_costs_what_reading_at_once_does():
    size = ModelSize(num_params=7, attention_width=3)
    assert size.flops(0, 40) + size.flops(40, 100) == size.flops(0, 100)
    stops = np.array([10, 100])
    assert size.flops(np.array([0, 40]), stops).tolist() == [size.flops(0, 10), size.flops(40, 100)]


@pytest.mark.parametrize(
    ("system", "accept_rate", "cost"),
    [("A", None, 1.0), ("B", None, 0.15), ("C", 0.0, 1.25), ("D", 0.215, 1.035), ("E", 0.5, 1.25)],
)
def test_costs_of_the_source_systems_with_the_fallback_paid(system, accept_rate, cost):
    assert system_cost(system, COSTS, accept_rate=accept_rate) == pytest.approx(cost)


def test_d_at_the_other_reported_verifier_cost():
    costs = AssumedCosts(verifier=0.05)
    assert system_cost("D", costs, accept_rate=0.215) == pytest.approx(0.985)


def test_reported_costs_of_d_and_e_left_the_fallback_out():
    assert gated_cost(COSTS, 0.215, fallback=False) == pytest.approx(0.25)
    e = gated_cost(COSTS, 0.0, num_proposals=3, num_scored=3, fallback=False)
    assert e == pytest.approx(0.75)


def test_distinct_proposals_are_scored_once():
    cost = system_cost("E", COSTS, accept_rate=1.0, num_proposals=3, num_scored=1.4)
    assert cost == pytest.approx(3 * 0.15 + 1.4 * 0.10)


def test_at_break_even_d_costs_what_the_strong_model_costs():
    rate = break_even_accept_rate(COSTS.cheap, COSTS.verifier, COSTS.strong)
    assert system_cost("D", COSTS, accept_rate=rate) == pytest.approx(COSTS.strong)


def test_a_gated_system_needs_an_accept_rate():
    with pytest.raises(ValueError, match="accept_rate is needed"):
        system_cost("D", COSTS)
    with pytest.raises(ValueError, match="one of A"):
        system_cost("F", COSTS)
    with pytest.raises(ValueError, match="not be negative"):
        AssumedCosts(cheap=-0.1)


def test_cached_tokens_of_the_prompt_have_a_price_of_their_own():
    price = TokenPrice(prompt=2.0, cached=0.5, completion=10.0)
    # 100 x 2 + 900 x 0.5 + 20 x 10 = 850 dollars per million
    assert price.dollars(1000, 900, 20) == pytest.approx(850e-6)
    assert price.dollars(0, 0, 0) == 0.0


@pytest.mark.parametrize("wrong", [-0.1, math.inf, math.nan])
def test_a_price_is_a_number_that_is_not_negative(wrong):
    with pytest.raises(ValueError, match="the cached price must be at least 0"):
        TokenPrice(prompt=2.0, cached=wrong, completion=10.0)
