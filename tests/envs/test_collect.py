import random

import pytest

from specact_rl.envs import collect
from specact_rl.envs.collect import (
    collect_episodes,
    parse_seeds,
    plan_episodes,
    policy_name,
    scripted_policy,
    scripted_rollouts,
)
from specact_rl.envs.corpus import FIRST_CORPUS_SEED
from specact_rl.errors import ConfigError
from specact_rl.store import done_shards


def test_every_policy_meets_every_task_and_only_chance_is_repeated():
    plans = plan_episodes(["expert", "noisy:0.5"], range(3), held_out_seeds=[7], trials=2)
    assert [(p.seed, p.held_out, p.policy, p.trial) for p in plans if p.seed in (0, 7)] == [
        (0, False, "expert", 0),
        (0, False, "noisy:0.5", 0),
        (0, False, "noisy:0.5", 1),
        (7, True, "expert", 0),
        (7, True, "noisy:0.5", 0),
        (7, True, "noisy:0.5", 1),
    ]
    assert len(plans) == 4 * 3


@pytest.mark.parametrize(("greedy", "trials"), [(False, [0, 1]), (True, [0])])
def test_models_are_repeated_unless_they_are_greedy(greedy, trials):
    plans = plan_episodes(["model:runs/cheap"], [3], trials=2, greedy_models=greedy)
    assert [(plan.policy, plan.trial) for plan in plans] == [("model:cheap", t) for t in trials]


def test_a_model_is_called_by_the_last_part_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "cheap").mkdir()
    monkeypatch.chdir(tmp_path / "cheap")
    for folder in ("runs/demo/models/cheap", "../cheap/", "."):
        assert policy_name(f"model:{folder}") == "model:cheap"
    assert policy_name("noisy:0.5") == "noisy:0.5"


@pytest.mark.parametrize(
    ("policies", "seeds", "options", "complaint"),
    [
        ([], [0], {}, "distinct"),
        (["expert", "expert"], [0], {}, "distinct"),
        (["model:a/cheap", "model:b/cheap"], [0], {}, "'model:cheap' twice"),
        (["model:a/cheap", "model:a/cheap/"], [0], {}, "'model:cheap' twice"),
        (["model:"], [0], {}, "must name a checkpoint folder"),
        (["model:/"], [0], {}, "must name a checkpoint folder"),
        (["expert"], [], {}, "got none"),
        (["expert"], [-1], {}, r"got \[-1\]"),
        (["expert"], [FIRST_CORPUS_SEED], {}, "pretrained"),
        (["expert"], [0], {"trials": 0}, "trials"),
        (["expert"], [0], {"environment": "moon"}, "'moon'"),
    ],
)
def test_plans_that_cannot_be_are_refused(policies, seeds, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        plan_episodes(policies, seeds, **options)


@pytest.mark.parametrize("name", ["novice", "noisy:", "noisy:2", "noisy:x", "noisy:nan"])
def test_unknown_policies_are_refused(name):
    with pytest.raises(ConfigError, match="policy"):
        scripted_policy(name, random.Random(0))


@pytest.mark.parametrize(("text", "seeds"), [("3:6", [3, 4, 5]), ("2", [0, 1]), ("4:4", [])])
def test_seeds_are_a_range_or_a_count(text, seeds):
    assert list(parse_seeds(text)) == seeds


def test_other_seeds_are_refused():
    with pytest.raises(ConfigError, match="'1-5'"):
        parse_seeds("1-5")


def test_rollouts_come_in_the_order_of_the_plan_and_the_same_each_time(tmp_path):
    plans = plan_episodes(["expert", "noisy:0.3"], range(4), trials=2)
    rollouts = collect_episodes(tmp_path / "a", plans)
    assert [(r.policy, r.trial) for r in rollouts] == [(p.policy, p.trial) for p in plans]
    assert len({r.rollout_id for r in rollouts}) == len(plans)
    assert all(r.success for r in rollouts if r.policy == "expert")
    # other episodes before it change nothing
    assert collect_episodes(tmp_path / "b", plans[6:]) == rollouts[6:]


def test_a_killed_run_goes_on_at_the_shard_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "SHARD_EPISODES", 2)
    plans = plan_episodes(["expert"], range(5))
    asked = []

    def killed(shard, progress):
        if shard[0].seed > 0:
            raise KeyboardInterrupt
        return scripted_rollouts(shard, progress)

    def roll_out(shard, progress):
        asked.append([plan.seed for plan in shard])
        return scripted_rollouts(shard, progress)

    with pytest.raises(KeyboardInterrupt):
        collect_episodes(tmp_path, plans, killed)
    assert done_shards(tmp_path) == [0]
    finished = []
    rollouts = collect_episodes(tmp_path, plans, roll_out, progress=finished.append)
    assert asked == [[2, 3], [4]]
    assert finished == [2, 1, 1, 1]  # a shard that is there, then every episode
    assert [r.task_id for r in rollouts] == [f"ws-{seed:06d}" for seed in range(5)]
