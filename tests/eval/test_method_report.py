"""The tables of methods: paired with their start, by level, over seeds."""

import numpy as np
import pytest

from specact_rl.errors import ConfigError
from specact_rl.eval import method_report
from specact_rl.eval.live import LiveEpisode
from specact_rl.eval.method_report import (
    LEVELS,
    MethodRun,
    Spent,
    against,
    comparison_page,
    over_seeds,
    seed_results,
)

NUM_STEPS = 40


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(method_report, "NUM_RESAMPLES", 50)


def episode(task, *, success, steps):
    return LiveEpisode(
        system="B",
        task_id=f"t{task}",
        family="f",
        success=success,
        num_steps=steps,
        expert_steps=3,
        num_accepted=steps,
        num_fallback=0,
        num_unparsable=0,
        flops=1,
        seconds=0.1,
    )


def method_run(name, right, success=(True, False, False, False), steps=4, num_steps=NUM_STEPS):
    """Right on the first so many steps at each level; two steps a task."""
    return MethodRun(
        name=name,
        title=f"title of {name}",
        spent=None
        if name == "start"
        else Spent(
            num_rows=10,
            num_steps=5,
            rows_seen=20,
            sampling_flops=2e11,
            training_flops=8e11,
            flops_per_counted_token=1.0,
        ),
        task_ids=np.arange(num_steps) // 2,
        correct={level: np.arange(num_steps) < right for level in LEVELS},
        episodes=[episode(i, success=won, steps=steps) for i, won in enumerate(success)],
        pairs=None,
    )


@pytest.fixture
def results():
    def of(seed, right):
        runs = [method_run("start", 20), method_run("sft-more", right, (True, True, False, False))]
        return seed_results(seed, runs, budget=1e12)

    seeds = [of(1, 22), of(2, 24), of(3, 26)]
    meta = {"preset": "tiny", "budget_tflop": 1.0, "split": "test", "command": "python bench"}
    return {"meta": meta, "seeds": seeds, "means": over_seeds(seeds), "against": []}


def test_a_method_is_paired_with_its_start(results):
    start, method = results["seeds"][0]["methods"]
    assert start["minus_start"] is None
    assert method["minus_start"]["arguments"]["value"] == pytest.approx(2 / 40)
    assert method["minus_start"]["arguments"]["num_clusters"] == 20
    assert (method["num_better"], method["num_worse"]) == (2, 0)
    assert method["minus_start"]["success"]["value"] == pytest.approx(1 / 4)
    assert method["spent"]["share_of_budget"] == pytest.approx(1.0)


def test_the_mean_over_seeds_has_students_interval(results):
    # .05, .10, .15: mean .1, s .05; t(2) at 97.5 % is 4.303, so the half-width is .1242
    [row] = results["means"]
    found = row["minus_start"]["arguments"]
    assert found["value"] == pytest.approx(0.1)
    assert found["high"] - found["value"] == pytest.approx(4.3027 * 0.05 / 3**0.5, rel=1e-4)
    assert row["num_seeds"] == 3
    assert row["counts"]["arguments"]["above"] == 3
    assert row["counts"]["acceptable"]["shown_below"] == 0


def test_seeds_that_agree_on_a_few_episodes_keep_the_width_of_their_intervals(results):
    [row] = results["means"]
    found = row["minus_start"]["success"]
    own = [seed["methods"][1]["minus_start"]["success"] for seed in results["seeds"]]
    assert {value["value"] for value in own} == {0.25}
    pooled = sum((value["high"] - value["low"]) ** 2 for value in own) ** 0.5 / 3
    assert found["high"] - found["low"] == pytest.approx(pooled)
    assert pooled > 0.1


def test_methods_are_compared_with_one_of_them_seed_by_seed(results):
    def of(seed, right, other):
        runs = [method_run("start", 20), method_run("kto", right), method_run("dpo", other)]
        return seed_results(seed, runs, budget=1e12)

    # .05, .10 and .15 above; a seed without the other does not count
    seeds = [of(1, 22, 20), of(2, 24, 20), of(3, 27, 21), results["seeds"][0]]
    [row] = against(seeds, "dpo")
    assert (row["name"], row["reference"], row["num_seeds"]) == ("kto", "dpo", 3)
    found = row["difference"]["arguments"]
    assert found["value"] == pytest.approx(0.1)
    assert found["high"] - found["value"] == pytest.approx(4.3027 * 0.05 / 3**0.5, rel=1e-4)
    assert "Method minus dpo" in comparison_page({**results, "against": [row]})


def test_a_seed_without_a_method_is_left_out_of_its_mean(results):
    seeds = [*results["seeds"]]
    seeds[2] = {**seeds[2], "methods": seeds[2]["methods"][:1]}
    [row] = over_seeds(seeds)
    assert row["num_seeds"] == 2
    assert row["minus_start"]["arguments"]["value"] == pytest.approx(0.075)


def test_methods_measured_on_other_steps_are_refused():
    with pytest.raises(ConfigError, match="seed 4: kto must be measured on the steps and tasks"):
        seed_results(4, [method_run("start", 20), method_run("kto", 20, num_steps=38)], 1e12)


def test_methods_measured_in_other_episodes_are_refused():
    other = method_run("kto", 20, success=(True, False, False))
    with pytest.raises(ConfigError, match="same numbers of tasks"):
        seed_results(4, [method_run("start", 20), other], 1e12)


def test_intervals_do_not_move_with_the_methods_beside_them():
    alone = seed_results(1, [method_run("start", 20), method_run("kto", 23)], 1e12)
    runs = [method_run("start", 20), method_run("grpo", 25), method_run("kto", 23)]
    beside = seed_results(1, runs, 1e12)
    assert alone["methods"][-1] == beside["methods"][-1]


def test_the_page_names_seeds_counts_and_the_command(results):
    page = comparison_page(results)
    assert "seed 2: 40 steps of 20 tasks, 4 live tasks" in page
    assert "python bench" in page
    assert "## Seed 3" in page
    assert "+10" in page  # points of sft-more, mean over seeds
