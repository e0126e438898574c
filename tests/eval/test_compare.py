"""Two runs on the same steps: paired tests, held against scipy and against themselves."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from specact_rl.errors import ConfigError
from specact_rl.eval.columns import StepTable
from specact_rl.eval.compare import compare_runs
from specact_rl.eval.replay import SystemRun
from specact_rl.eval.report.compare_page import compare_page
from specact_rl.eval.report.markdown import page_markdown
from specact_rl.eval.step_outcomes import (
    STEPS_FILE,
    StepNames,
    StepOutcomes,
    SystemOutcomes,
    read_step_outcomes,
    write_step_outcomes,
)
from specact_rl.policy.systems import SYSTEMS

NAN = float("nan")
NAMES = ("runs/one", "runs/two")


def outcomes(seed, *, first_task=0, num_tasks=60, steps_each=1, gain=0.0, systems=("A", "D")):
    """Steps that are hard or easy for every system alike; D gains what it is told."""
    tasks = np.repeat(np.arange(first_task, first_task + num_tasks), steps_each)
    ease = np.random.default_rng(0).random(10_000)[:: max(1, steps_each)][tasks]
    rng = np.random.default_rng(seed)
    n = tasks.size

    def system(name):
        chance = ease + (gain if name == "D" else 0.0)
        return SystemOutcomes(
            acceptable=(rng.random(n) < chance) * 1.0,
            accepted=rng.random(n) < 0.5,
            p_accept=rng.random(n).astype(np.float32).astype(float),
            flops=np.where(name == "A", 100.0, 50.0) * np.ones(n),
        )

    return StepOutcomes(
        step_ids=np.array([f"t{task:04d}/{i % steps_each}" for i, task in enumerate(tasks)]),
        task_ids=np.array([f"t{task:04d}" for task in tasks]),
        out_of_family=np.zeros(n, dtype=bool),
        systems={name: system(name) for name in systems},
    )


def compare(a, b, **options):
    return compare_runs(a, b, names=NAMES, rng=np.random.default_rng(0), **options)


def row_of(compared, name):
    return next(row for row in compared["rows"] if row["system"] == name)


def test_one_step_per_task_is_mcnemars_test():
    a, b = outcomes(1, gain=0.0, num_tasks=400), outcomes(2, gain=0.15, num_tasks=400)
    row = row_of(compare(a, b), "D")
    x, y = a.systems["D"].acceptable, b.systems["D"].acceptable
    only_a, only_b = int(((x == 1) & (y == 0)).sum()), int(((x == 0) & (y == 1)).sum())
    exact = stats.binomtest(only_b, only_a + only_b).pvalue
    # 10,000 flips: the error of a p-value is at most 3 x 0.005.
    assert row["p_value"] == pytest.approx(exact, abs=0.015)
    assert row["difference"].value == pytest.approx(y.mean() - x.mean())
    assert row["difference"].low < row["difference"].value < row["difference"].high
    assert row["num_disagree"] == only_a + only_b
    assert row["flops_ratio"].value == pytest.approx(1.0)


def test_order_of_steps_does_not_matter():
    a, b = outcomes(1, steps_each=3), outcomes(2, steps_each=3, gain=0.1)
    shuffled = b.take(np.random.default_rng(5).permutation(b.step_ids.size))
    assert compare(a, b) == compare(a, shuffled)
    assert b.test_hash == shuffled.test_hash


def test_a_run_against_itself_differs_in_nothing():
    a = outcomes(1, steps_each=2)
    for row in compare(a, a)["rows"]:
        assert row["difference"].value == 0.0
        assert row["p_value"] == row["p_holm"] == 1.0
        assert row["num_disagree"] == 0


def test_swapping_the_runs_turns_the_signs():
    a, b = outcomes(1, num_tasks=200), outcomes(2, num_tasks=200, gain=0.2)
    there, back = (row_of(compare(*pair), "D") for pair in ((a, b), (b, a)))
    assert there["difference"].value == -back["difference"].value > 0
    assert there["first"] == back["second"]


def test_holm_is_over_the_systems_that_both_have():
    names = ("A", "B", "D", "E")
    a = outcomes(1, systems=(*names, "C"), num_tasks=300)
    b = outcomes(2, systems=(*names, "D-rm"), num_tasks=300, gain=0.3)
    found = compare(a, b)
    assert [row["system"] for row in found["rows"]] == list(names)
    assert (found["only_first"], found["only_second"]) == (["C"], ["D-rm"])
    smallest = min(found["rows"], key=lambda row: row["p_value"])
    assert smallest["system"] == "D"
    assert smallest["p_holm"] == pytest.approx(4 * smallest["p_value"])


def test_families_held_out_take_no_part():
    a, b = (replace(o, out_of_family=np.arange(60) >= 40) for o in (outcomes(1), outcomes(2)))
    assert compare(a, b)["n"] == [40, 40]


def test_unknown_labels_are_left_out_of_the_test_and_counted():
    a, b = outcomes(1), outcomes(2)
    labels = a.systems["D"].acceptable.copy()
    labels[:20] = NAN
    a = replace(a, systems={"D": replace(a.systems["D"], acceptable=labels)})
    row = compare(a, b)["rows"][0]
    assert row["difference"].n == 40
    assert "20 of 60" in row["difference"].note


def test_no_label_at_all_has_no_difference_and_no_p():
    a, b = outcomes(1), outcomes(2)
    unknown = replace(a.systems["D"], acceptable=np.full(60, NAN))
    found = compare(replace(a, systems={"D": unknown}), b)
    assert found["rows"][0]["difference"].value is None
    assert found["rows"][0]["p_value"] is None
    assert "cannot be said" in page_markdown(compare_page(found, ({}, {}), NAMES))


def test_other_test_steps_are_refused_with_both_hashes():
    a, b = outcomes(1), outcomes(2, first_task=30)
    with pytest.raises(ConfigError) as caught:
        compare(a, b)
    for told in (*NAMES, a.test_hash, b.test_hash, "30 of them in both", "--unpaired"):
        assert told in str(caught.value)


def test_same_ids_of_other_tasks_are_refused():
    a = outcomes(1)
    with pytest.raises(ConfigError, match="other data"):
        compare(a, replace(a, task_ids=np.roll(a.task_ids, 1)))


def test_no_common_system_is_refused():
    with pytest.raises(ConfigError, match="system in common"):
        compare(outcomes(1, systems=("A",)), outcomes(1, systems=("B",)))


def test_unpaired_is_the_two_sample_test_of_independent_rows():
    a = outcomes(1, num_tasks=300)
    b = outcomes(2, num_tasks=400, first_task=5000, gain=0.1)
    found = compare(a, b, unpaired=True)
    row = row_of(found, "D")
    assert found["paired"] is False
    x, y = a.systems["D"].acceptable, b.systems["D"].acceptable
    # Clusters of one row: Welch's test.
    assert row["p_value"] == pytest.approx(stats.ttest_ind(x, y, equal_var=False).pvalue)
    assert row["difference"].value == pytest.approx(y.mean() - x.mean())
    assert "independent samples" in page_markdown(compare_page(found, ({}, {}), NAMES))


def test_unpaired_runs_of_few_tasks_do_not_differ_more_often_than_they_should():
    # A normal test rejects in 10 % of such tables, of 5 and 5 tasks that hardly differ.
    p_values = []
    for seed in range(800):
        rng = np.random.default_rng(seed)
        first, second = (
            outcomes(seed + 1000 * run, num_tasks=5, steps_each=6, systems=("A",)) for run in (0, 1)
        )
        for run in (first, second):
            chance = np.repeat(rng.random(5), 6)
            run.systems["A"].acceptable[:] = rng.random(30) < chance
        second = replace(second, step_ids=np.char.add("x", second.step_ids))
        p_values.append(row_of(compare(first, second, unpaired=True), "A")["p_value"])
    # 0.05, and 2.6 of its Monte Carlo errors of 0.0077.
    assert np.mean(np.array(p_values) <= 0.05) < 0.07


def test_page_says_what_differs_and_what_could_have_been_seen():
    a, b = outcomes(1, num_tasks=300), outcomes(2, num_tasks=300, gain=0.4)
    found = compare(a, b)
    metas = tuple({"meta": {"seed": 0, "source_hash": digest}} for digest in ("aa", "bb"))
    page = page_markdown(compare_page(found, metas, NAMES))
    assert "*shown*: **D is right more often in run 2.**" in page
    assert "It is not shown that A is right more or less often" in page
    assert "| source hash | aa | bb |" in page
    assert "| seed |" not in page
    same = page_markdown(compare_page(compare(a, a), ({}, {}), NAMES))
    assert "A and D are each right and wrong at the same steps" in same


# ---------------------------------------------------------------- the file


@pytest.fixture
def table(make):
    turns = [(make.say("done"), "next", make.say("done"))] * 3
    return StepTable.of_references([make.rollout(turns, task=t) for t in ("t1", "t2")])


def made_run(name):
    n = 6
    return SystemRun(
        system=SYSTEMS[name],
        accepted=np.arange(n) % 2 == 0,
        called=np.arange(n) % 2 == 1,
        pick=np.zeros(n, dtype=np.int64),
        p_accept=np.array([0.1, NAN, 0.25, 0.5, 0.75, 1.0]),
        offered=np.zeros(n),
        parsed=np.ones(n, dtype=bool),
        acceptable=np.array([1.0, 0.0, NAN, 1.0, 1.0, 0.0]),
        same_state=np.zeros(n),
        levels={},
        flops=np.full(n, NAN) if name == "B" else np.arange(n) * 1e9,
        seconds=np.zeros(n),
        price=np.zeros(n),
        num_distinct=np.ones(n),
    )


def test_what_is_written_reads_back(table, tmp_path):
    runs = {name: made_run(name) for name in ("B", "D", "D-lin+")}
    write_step_outcomes(tmp_path / "evaluation" / STEPS_FILE, StepNames.of(table), runs)
    found = read_step_outcomes(tmp_path)
    assert found.step_ids.tolist() == [step.step_id for step in table.steps]
    assert found.task_ids.tolist() == ["t1"] * 3 + ["t2"] * 3
    assert not found.out_of_family.any()
    assert list(found.systems) == list(runs)
    for name, run in runs.items():
        for field in ("acceptable", "accepted", "p_accept", "flops"):
            np.testing.assert_allclose(
                getattr(found.systems[name], field), getattr(run, field), rtol=1e-7
            )


def test_a_run_without_the_file_and_another_table_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no .*steps\.parquet"):
        read_step_outcomes(tmp_path)
    path = tmp_path / "evaluation" / STEPS_FILE
    path.parent.mkdir()
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ConfigError, match="another table"):
        read_step_outcomes(tmp_path)
    path.write_bytes(b"PAR0")
    with pytest.raises(ConfigError, match="must be a Parquet file"):
        read_step_outcomes(tmp_path)
