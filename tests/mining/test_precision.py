import random
from dataclasses import replace

import pytest

from specact_rl.envs.episodes import NoisyExpert, expert_policy, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.mining.pairs import MiningOptions, mine_pairs
from specact_rl.mining.precision import DISCOUNT, ContinuationValue, cost_value, pair_precision
from specact_rl.mining.replays import Replays
from specact_rl.types import Action

SEEDS = range(12)


@pytest.fixture(scope="module")
def rollouts():
    return [run_episode(Workspace(seed), expert_policy, "expert") for seed in SEEDS]


@pytest.fixture(scope="module")
def judged(rollouts):
    """Hard negatives that the environment itself calls wrong."""
    replays = Replays(rollouts)
    options = MiningOptions(is_acceptable=replays.is_acceptable)
    return mine_pairs(rollouts, strategies=["hard_negative"], options=options).pairs


def swapped(pairs):
    return [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]


def expert_value(num_episodes=1):
    return ContinuationValue(make_policy=lambda rng: expert_policy, num_episodes=num_episodes)


def test_pairs_that_the_environment_made_have_precision_one(rollouts, judged):
    precision = pair_precision(judged, Replays(rollouts).environment_at)["hard_negative"]
    assert precision.better.value == 1.0
    assert precision.better.n == len(judged) > 20
    assert precision.better.num_clusters == len({pair.task_id for pair in judged})
    assert (precision.num_ties, precision.num_worse) == (0, 0)


@pytest.mark.parametrize("value", [cost_value, expert_value()], ids=["cost", "continuation"])
def test_swapping_the_sides_swaps_better_and_worse(rollouts, judged, value):
    environment_at = Replays(rollouts).environment_at
    there = pair_precision(judged, environment_at, value)["hard_negative"]
    back = pair_precision(swapped(judged), environment_at, value)["hard_negative"]
    num_better = round(there.better.value * there.better.n)
    assert (back.num_worse, back.num_ties) == (num_better, there.num_ties)
    assert round(back.better.value * back.better.n) == there.num_worse


def test_equal_sides_tie(rollouts, judged):
    ties = [replace(pair, rejected=pair.chosen) for pair in judged[:5]]
    precision = pair_precision(ties, Replays(rollouts).environment_at)["hard_negative"]
    assert (precision.better.value, precision.num_ties) == (0.0, 5)


def test_continuation_value_of_the_expert_is_the_discounted_number_of_steps(rollouts, judged):
    replays = Replays(rollouts)
    pair = judged[0]
    env = replays.environment_at(pair.step)
    cost = env.cost_to_go()
    # the reference takes one step off the cost; the expert takes the rest
    assert expert_value()(env, pair.chosen) == pytest.approx(DISCOUNT ** (cost - 1))


def test_every_continuation_starts_from_the_same_state(rollouts, judged):
    replays = Replays(rollouts)
    pair = judged[0]
    values = [
        expert_value(num_episodes=n)(replays.environment_at(pair.step), pair.chosen) for n in (1, 3)
    ]
    assert values[0] == pytest.approx(values[1])


def test_a_side_that_ends_in_failure_is_worth_nothing(rollouts, judged):
    replays = Replays(rollouts)
    pair = judged[0]
    lie = replace(pair.rejected, action=Action(type="final_answer", text="Answer: nothing"))
    assert expert_value()(replays.environment_at(pair.step), lie) == 0.0
    assert cost_value(replays.environment_at(pair.step), lie) == -float("inf")


def test_both_sides_meet_the_same_random_numbers(rollouts, judged):
    replays = Replays(rollouts)
    value = ContinuationValue(
        make_policy=lambda rng: NoisyExpert(noise=0.3, rng=rng), num_episodes=3, seed=5
    )
    pair = judged[0]
    values = {value(replays.environment_at(pair.step), pair.chosen) for _ in range(3)}
    assert len(values) == 1


def test_trajectories_are_not_measured(rollouts):
    policy = NoisyExpert(noise=0.5, rng=random.Random(0))
    failures = []
    for seed in SEEDS:
        rollout = run_episode(Workspace(seed), policy, "noisy")
        failures += [rollout] if rollout.success is False else []
    pairs = mine_pairs([*rollouts, *failures], strategies=["outcome"]).pairs
    assert pairs
    precision = pair_precision(pairs, Replays(rollouts).environment_at)["outcome"]
    assert (precision.better.value, precision.num_unmeasured) == (None, len(pairs))
