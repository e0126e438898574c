"""Scripted rollouts: what is planned is rolled out, once, whatever was killed in between."""

import random
from collections import Counter

import pytest

from specact_rl.envs import collect
from specact_rl.envs.collect import (
    collect_episodes,
    parse_seeds,
    plan_episodes,
    scripted_policy,
)
from specact_rl.errors import ConfigError

PLANS = plan_episodes(["expert", "noisy:0.5"], range(3), held_out_seeds=range(2), trials=2)


def test_every_policy_acts_on_every_task_the_expert_once(tmp_path):
    rollouts = collect_episodes(tmp_path, PLANS)
    counts = Counter((r.policy, r.task_id) for r in rollouts)
    tasks = {"ws-000000", "ws-000001", "ws-000002", "ws-h000000", "ws-h000001"}
    assert {task for _, task in counts} == tasks
    assert all(n == (1 if policy == "expert" else 2) for (policy, _), n in counts.items())
    assert len({r.rollout_id for r in rollouts}) == len(rollouts)
    assert all(r.success for r in rollouts if r.policy == "expert")


def test_killed_collection_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "SHARD_EPISODES", 4)
    whole = collect_episodes(tmp_path / "whole", PLANS)

    class Killed(BaseException):
        pass

    def dies(name, rng, made=[]):  # noqa: B006 - counts the policies made
        made.append(name)
        if len(made) == 10:
            raise Killed
        return scripted_policy(name, rng)

    with pytest.raises(Killed):
        collect_episodes(tmp_path / "killed", PLANS, make_policy=dies)
    made = []

    def counted(name, rng):
        made.append(name)
        return scripted_policy(name, rng)

    assert collect_episodes(tmp_path / "killed", PLANS, make_policy=counted) == whole
    assert len(made) == len(PLANS) - 8  # two shards of four were there


def test_progress_counts_what_was_there_already(tmp_path):
    seen = []
    for _ in range(2):
        collect_episodes(tmp_path, PLANS, progress=seen.append)
    assert seen == [len(PLANS)] * 2


@pytest.mark.parametrize("name", ["noisy", "noisy:2", "noisy:x", "noisy:nan", "strong"])
def test_unknown_policies_are_refused(name):
    with pytest.raises(ConfigError, match="polic"):
        scripted_policy(name, random.Random(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policies": []}, "distinct"),
        ({"policies": ["expert", "expert"]}, "distinct"),
        ({"trials": 0}, "at least 1"),
        ({"seeds": []}, "none"),
        ({"seeds": [10_000_000]}, "pretrained"),
        ({"seeds": [-1]}, "pretrained"),
        ({"environment": "office"}, "workspace"),
    ],
    ids=str,
)
def test_plans_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan_episodes(**{"policies": ["expert"], "seeds": [1], **arguments})


def test_seeds_are_a_count_or_a_range():
    assert parse_seeds("3") == range(3)
    assert parse_seeds("3:5") == range(3, 5)
    with pytest.raises(ConfigError, match="START:STOP"):
        parse_seeds("all")
