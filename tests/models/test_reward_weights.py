import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl import SFTConfig

from specact_rl.errors import ConfigError
from specact_rl.models.reward_weights import (
    check_effective_rows,
    check_weighted_loss,
    rewards_of,
    row_weights,
)


def weigh(prompts, rewards, mode="rwr", numbers=None, **options):
    """Rows given by the letters of their prompts."""
    rows = [{"history_hash": prompt} for prompt in prompts]
    for row, number in zip(rows, numbers or (), strict=bool(numbers)):
        row["num_samples"] = number
    return row_weights(rows, np.array(rewards, dtype=float), mode, **options)


def test_weights_are_exponential_in_the_reward_with_mean_1():
    found = weigh("abc", [0.0, 1.0, 1.0], temperature=0.5)
    right = math.exp(2.0)
    expected = np.array([1.0, right, right]) * 3 / (1 + 2 * right)
    np.testing.assert_allclose(found.weights, expected)
    # (Σ w)² / Σ w² does not change when all weights are multiplied
    assert found.effective_rows == pytest.approx((1 + 2 * right) ** 2 / (1 + 2 * right**2))


def test_a_row_weighs_as_many_times_as_it_was_sampled():
    found = weigh("ab", [1.0, 1.0], numbers=[3, 1])
    np.testing.assert_allclose(found.weights, [1.5, 0.5])
    assert found.effective_rows == pytest.approx(16 / 10)


def test_each_prompt_weighs_as_much_as_its_samples():
    found = weigh("aabb", [0.0, 1.0, -5.0, -4.0], "rwr_step", numbers=[1, 2, 1, 2], temperature=0.5)
    weights = found.weights
    assert weights[:2].sum() == pytest.approx(weights[2:].sum()) == pytest.approx(2.0)
    assert weights[1] / weights[0] == pytest.approx(2 * math.exp(2.0))
    np.testing.assert_allclose(weights[:2], weights[2:])


def test_a_prompt_without_a_choice_is_fine_tuned_on_when_each_is_normalised_by_itself():
    np.testing.assert_allclose(weigh("ab", [0.0, 1.0], "rwr_step").weights, [1.0, 1.0])


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20),
    st.floats(0.01, 100.0),
    st.sampled_from(["rwr", "rwr_step"]),
)
def test_weights_have_mean_1_and_are_worth_between_one_and_all_rows(rewards, temperature, mode):
    found = weigh("ab" * len(rewards), rewards * 2, mode, temperature=temperature)
    assert found.weights.mean() == pytest.approx(1.0)
    assert 1.0 - 1e-9 <= found.effective_rows <= len(found.weights) + 1e-9


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=10), st.floats(-100, 100))
def test_a_constant_that_is_added_to_all_rewards_changes_nothing(rewards, constant):
    moved = [reward + constant for reward in rewards]
    prompts = "a" * len(rewards)
    np.testing.assert_allclose(
        weigh(prompts, rewards).weights, weigh(prompts, moved).weights, rtol=1e-6
    )


def test_rewards_as_large_as_log_odds_do_not_overflow():
    found = weigh("abc", [0.0, 5e4, 5e4], temperature=0.01)
    np.testing.assert_allclose(found.weights, [0.0, 1.5, 1.5])


def test_raft_keeps_the_best_row_of_each_prompt_above_the_least_reward():
    found = weigh("aabbc", [0.0, 2.0, 0.9, 1.0, 0.4], "raft", min_reward=0.5)
    assert found.rows == [1, 3]
    assert found.weights.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert (found.num_prompts, found.num_prompts_used) == (3, 2)
    assert found.effective_rows == 2.0
    assert weigh("aabbc", [0.0, 2.0, 0.9, 1.0, 0.4], "raft").rows == [1, 3, 4]


def test_of_equally_good_rows_raft_keeps_what_was_sampled_most_then_the_first():
    found = weigh("aaabb", [1.0, 1.0, 0.0, 1.0, 1.0], "raft", numbers=[1, 2, 5, 1, 1])
    assert found.rows == [1, 3]


def test_raft_without_a_row_that_is_good_enough_is_refused():
    with pytest.raises(ConfigError, match=r"highest of 2 rows is 0\.25; lower min_reward"):
        weigh("ab", [0.25, 0.0], "raft", min_reward=0.5)


def test_the_log_has_what_the_weights_leave():
    assert weigh("aab", [0.0, 1.0, 1.0], "raft").to_json() == {
        "mode": "raft",
        "num_rows": 3,
        "num_rows_used": 2,
        "num_prompts": 2,
        "num_prompts_used": 2,
        "effective_sample_size": 2.0,
        "effective_share": pytest.approx(2 / 3),
        "max_weight": 1.0,
    }


@pytest.mark.parametrize(
    ("num_right", "said"),
    [(1, "refused"), (2, "few rows decide"), (11, None), (100, "all rewards")],
)
def test_few_effective_rows_are_warned_of_and_next_to_none_refused(num_right, said, caplog):
    rewards = np.array([1.0] * num_right + [0.0] * (100 - num_right))
    found = weigh([str(i) for i in range(100)], rewards, temperature=0.05)
    if said == "refused":
        with pytest.raises(ConfigError, match=r"at least 2\.0 of 100 rows, got 1\.0.*temperature"):
            check_effective_rows(found, rewards)
        return
    with caplog.at_level(logging.WARNING, "specact_rl"):
        check_effective_rows(found, rewards)
    assert said in caplog.text if said else not caplog.text


def test_less_than_a_hundredth_of_many_rows_is_refused():
    rewards = np.array([1.0] * 9 + [0.0] * 991)
    found = weigh([str(i) for i in range(1000)], rewards, temperature=0.05)
    with pytest.raises(ConfigError, match=r"at least 10\.0 of 1,000 rows, got 9\.0"):
        check_effective_rows(found, rewards)


@pytest.mark.parametrize("reward", [None, True, "1", math.nan, math.inf])
def test_unknown_rewards_are_refused(reward):
    rows = [{"reward": 1}, {"reward": reward, "step_id": "r/0"}]
    with pytest.raises(ConfigError, match=r"rows\.parquet: row 1 \(step r/0\): reward must be"):
        rewards_of(rows, "rows.parquet")


def test_rewards_are_read():
    assert rewards_of([{"reward": 1}, {"reward": -0.5}]).tolist() == [1.0, -0.5]


@pytest.mark.parametrize("option", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.1}])
def test_losses_that_weights_do_not_reach_are_refused(option, tmp_path):
    check_weighted_loss(SFTConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True))
    with pytest.raises(ConfigError, match=next(iter(option))):
        check_weighted_loss(SFTConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, **option))
