"""The evaluation table: what is read, what is refused, and joins derived by hand."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from specact_rl.errors import ConfigError, SpecActError
from specact_rl.eval.evaluate import run_all
from specact_rl.eval.evaluation_table import read_evaluation_table
from specact_rl.eval.table_outcomes import TableOutcomes, TablePlan
from specact_rl.metrics.cost import NO_MODEL, ModelSize

NAN = float("nan")


def row(step, model="small", sample=0, *, acceptable=True, **cells):
    """One proposal; a step's id is its task, a slash and its number."""
    task = step.split("/")[0]
    found = {"step_id": step, "task_id": task, "split": "test", "model": model, "sample": sample}
    return (
        found | {"acceptable": acceptable, "log_odds_v": None if model == "large" else 0.0} | cells
    )


def written(tmp_path, rows, name="table.parquet"):
    path = tmp_path / name
    columns = list(dict.fromkeys(key for r in rows for key in r))
    table = pa.table({key: [r.get(key) for r in rows] for key in columns})
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def joined(tmp_path, rows, split="test", **plan):
    table = read_evaluation_table(written(tmp_path, rows))
    models = {"cheap": "small", "strong": "large"}
    return TableOutcomes(table, TablePlan(models=models, **plan), "hash").outcomes(split)


def two_steps():
    """Two steps of one task, two samples each; the second sample of the first repeats it."""
    return [
        row("t/0", sample=0, acceptable=True, log_odds_v=1.0, action_hash="x"),
        row("t/0", sample=1, acceptable=True, log_odds_v=2.0, action_hash="x"),
        row("t/0", "large", acceptable=False, action_hash="z"),
        row("t/1", sample=0, acceptable=False, log_odds_v=None, action_hash=None),
        row("t/1", sample=1, acceptable=None, log_odds_v=-1.0, action_hash="y"),
        row("t/1", "large", acceptable=True, action_hash="y"),
    ]


def test_rows_become_matrices_of_steps_and_samples(tmp_path):
    found = joined(tmp_path, two_steps())
    cheap, strong = found.columns["cheap"], found.columns["strong"]
    assert [step.step_id for step in found.table.steps] == ["t/0", "t/1"]
    np.testing.assert_array_equal(cheap.acceptable, [[1.0, 1.0], [0.0, NAN]])
    np.testing.assert_array_equal(cheap.parsed, [[True, True], [False, True]])
    np.testing.assert_array_equal(cheap.first_of_its_kind, [[True, False], [False, True]])
    np.testing.assert_array_equal(strong.acceptable, [[0.0], [1.0]])
    np.testing.assert_array_equal(found.judged["v", "cheap"].log_odds, [[1, 2], [NAN, -1]])


def test_agreement_of_samples_follows_from_their_hashes(tmp_path):
    found = joined(tmp_path, two_steps()).judged["sample_agreement", "cheap"].log_odds
    both, one_of_two = math.log(2.5 / 0.5), math.log(1.5 / 1.5)
    np.testing.assert_allclose(found, [[both, both], [NAN, one_of_two]])


def test_confidence_follows_from_the_log_probability(tmp_path):
    rows = [row("t/0", logprob=math.log(0.8)), row("t/0", "large")]
    found = joined(tmp_path, rows).judged["proposer_logprob", "cheap"].log_odds
    assert found[0, 0] == pytest.approx(math.log(0.8 / 0.2))


def test_order_of_rows_does_not_matter(tmp_path):
    rows = [r | {"rollout_id": "r", "step_index": int(r["step_id"][-1])} for r in two_steps()]
    found = [joined(tmp_path, order) for order in (rows, rows[::-1], rows[3:] + rows[:3])]
    for other in found[1:]:
        assert [s.step_id for s in other.table.steps] == [s.step_id for s in found[0].table.steps]
        for role, columns in other.columns.items():
            first = found[0].columns[role]
            np.testing.assert_array_equal(columns.acceptable, first.acceptable)
            np.testing.assert_array_equal(columns.first_of_its_kind, first.first_of_its_kind)


def test_steps_stand_in_the_order_of_rollout_and_index(tmp_path):
    places = {"a/0": ("q", 1), "a/1": ("p", 10), "b/0": ("p", 9), "c/0": ("q", 0)}
    rows = [
        row(step, model, rollout_id=rollout, step_index=index)
        for step, (rollout, index) in places.items()
        for model in ("small", "large")
    ]
    table = joined(tmp_path, rows).table
    assert [step.step_id for step in table.steps] == ["b/0", "a/1", "c/0", "a/0"]
    assert table.rollouts.tolist() == [0, 0, 1, 1]
    assert table.indices.tolist() == [9, 10, 0, 1]
    assert table.task_ids.tolist() == [1, 0, 2, 0]


def test_csv_says_the_same_as_parquet(tmp_path):
    rows = [
        r | {"text": 'a, "b"\nc', "seconds": 0.5, "num_prompt_tokens": 7, "p_w": 0.25}
        for r in two_steps()
    ]
    of_csv = read_evaluation_table(written(tmp_path, rows, "table.csv"))
    of_parquet = read_evaluation_table(written(tmp_path, rows))
    for part in ("counts", "flags", "numbers", "log_odds", "judge_seconds"):
        a, b = getattr(of_csv, part), getattr(of_parquet, part)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for name, words in of_parquet.words.items():
        np.testing.assert_array_equal(of_csv.words[name].codes, words.codes, err_msg=name)
        assert of_csv.words[name].values.tolist() == words.values.tolist()
    assert of_csv.texts["text"].to_pylist() == of_parquet.texts["text"].to_pylist()


@pytest.mark.parametrize(
    "labels", [[True, False, None], [1, 0, None], [1.0, 0.0, NAN], ["true", "0", ""]]
)
def test_labels_may_be_written_in_many_ways(tmp_path, labels):
    rows = [row(f"t/{i}", acceptable=label) for i, label in enumerate(labels)]
    found = read_evaluation_table(written(tmp_path, rows)).flags["acceptable"]
    np.testing.assert_array_equal(found, [1.0, 0.0, NAN])


def test_log_odds_that_look_like_probabilities_are_pointed_out(tmp_path, caplog):
    inside = [row("t/0", log_odds_v=0.8), row("t/1", log_odds_v=0.1)]
    read_evaluation_table(written(tmp_path, inside))
    assert "if they are probabilities, call it p_v" in caplog.text
    caplog.clear()
    read_evaluation_table(written(tmp_path, [*inside, row("t/2", log_odds_v=-0.1)]))
    assert not caplog.text


def test_a_verifier_without_any_score_is_refused_by_name(tmp_path):
    rows = [row("t/0", log_odds_w=None), row("t/0", "large", log_odds_w=1.0)]
    with pytest.raises(ConfigError, match="column of scores of 'w' is empty in every row"):
        joined(tmp_path, rows)


def test_probabilities_become_log_odds(tmp_path):
    rows = [row("t/0", p_w=0.8), row("t/1", p_w=None), row("t/2", p_w=1.0)]
    found = read_evaluation_table(written(tmp_path, rows)).log_odds["w"]
    assert found[0] == pytest.approx(math.log(4.0))
    assert np.isnan(found[1])
    assert np.isfinite(found[2])  # certain, and still a number


def test_match_level_includes_those_below(tmp_path):
    levels = ("arguments", "tool", "type", "none", None)
    rows = [row(f"t/{i}", match_level=level) for i, level in enumerate(levels)]
    found = read_evaluation_table(written(tmp_path, rows)).levels
    assert {level: reached.tolist() for level, reached in found.items()} == {
        "type": [1.0, 1.0, 1.0, 0.0, 0.0],
        "tool": [1.0, 1.0, 0.0, 0.0, 0.0],
        "arguments": [1.0, 0.0, 0.0, 0.0, 0.0],
    }


BAD = {
    "infinite score": ({"log_odds_v": math.inf}, "row 1: column 'log_odds_v' must be finite"),
    "probability above 1": ({"p_w": 1.5}, r"row 1: column 'p_w' must lie in \[0, 1\]"),
    "label 2": ({"acceptable": 2}, "row 1: column 'acceptable' must be 0/1"),
    "no task": ({"task_id": None}, "row 1: column 'task_id' must not be empty"),
    "no model": ({"model": ""}, "row 1: column 'model' must not be empty"),
    "split unknown": ({"split": "dev"}, "row 1 .*must have a split of train_proposer"),
    "half a sample": ({"sample": 0.5}, "row 1: column 'sample' must be a whole number"),
    "negative tokens": ({"num_prompt_tokens": -1}, "row 1: column 'num_prompt_tokens' must be"),
    "negative time": ({"tool_seconds": -0.5}, "row 1 .*must have tool_seconds of at least 0"),
    "repeated": ({"step_id": "t/0"}, "row 1 .*repeats the step, model and sample"),
    "level unknown": ({"match_level": "most"}, "row 1 .*must have a match_level of none"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_bad_value_is_refused_with_its_row(tmp_path, name, suffix):
    cells, message = BAD[name]
    fine = dict.fromkeys(cells) | row("t/0", acceptable=1)
    if name == "half a sample":
        fine["sample"] = 0.0
    rows = [fine, row("t/1", acceptable=1) | cells]
    if "split" in cells or "match_level" in cells:
        rows[0] |= {"split": "test"}
    with pytest.raises(SpecActError, match=message) as error:
        read_evaluation_table(written(tmp_path, rows, f"table.{suffix}"))
    assert "table." in str(error.value)


def test_task_in_two_splits_is_refused(tmp_path):
    rows = [row("t/0"), row("t/1", split="calibration")]
    with pytest.raises(SpecActError, match=r"row 1 \(step 't/1'\) is of a task that is in another"):
        read_evaluation_table(written(tmp_path, rows))


def test_step_of_two_tasks_is_refused(tmp_path):
    rows = [row("t/0"), row("t/0", "large", task_id="u")]
    with pytest.raises(SpecActError, match="row 1 .*must have the task_id of its step"):
        read_evaluation_table(written(tmp_path, rows))


@pytest.mark.parametrize("missing", ["step_id", "task_id", "model", "acceptable"])
def test_missing_column_is_named(tmp_path, missing):
    rows = [{key: cell for key, cell in row("t/0").items() if key != missing}]
    with pytest.raises(ConfigError, match=rf"missing: \['{missing}'\]"):
        read_evaluation_table(written(tmp_path, rows))


def test_table_without_scores_is_refused(tmp_path):
    rows = [{key: cell for key, cell in row("t/0").items() if key != "log_odds_v"}]
    with pytest.raises(ConfigError, match="log_odds_NAME or p_NAME"):
        read_evaluation_table(written(tmp_path, rows))


def test_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "table.txt").write_text("x")
    (tmp_path / "table.parquet").write_text("x")
    for name, message in (
        ("table.txt", "must end in .csv or .parquet"),
        ("none.csv", "does not exist"),
        ("table.parquet", "not a Parquet file"),
    ):
        with pytest.raises(SpecActError, match=message):
            read_evaluation_table(tmp_path / name)


def test_step_without_the_strong_model_is_named(tmp_path):
    rows = [row("t/0"), row("t/0", "large"), row("t/1")]
    with pytest.raises(ConfigError, match="'large' must have the samples 0 to 0 .* at step 't/1'"):
        joined(tmp_path, rows)


def test_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="rows of the strong model 'large'; its models"):
        joined(tmp_path, [row("t/0")])


def test_split_without_rows_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="steps in the calibration split, got none"):
        joined(tmp_path, two_steps(), "calibration")


def test_table_without_split_is_split_by_task_and_seed(tmp_path):
    rows = [
        {k: v for k, v in row(f"t{task}/{i}", model).items() if k != "split"}
        for task in range(20)
        for i in range(2)
        for model in ("small", "large")
    ]
    tasks = {}
    for seed in (0, 1):
        for split in ("calibration", "test"):
            found = joined(tmp_path, rows, split, calibration_share=0.25, seed=seed)
            tasks[seed, split] = {step.task_id for step in found.table.steps}
        assert len(tasks[seed, "calibration"]) == 5
        assert not tasks[seed, "calibration"] & tasks[seed, "test"]
    assert tasks[0, "test"] != tasks[1, "test"]


def test_systems_follow_from_the_columns(tmp_path):
    def systems(rows, **plan):
        table = read_evaluation_table(written(tmp_path, rows))
        models = {"cheap": "small", "strong": "large"}
        found = TableOutcomes(table, TablePlan(models=models, **plan), "")
        outcomes = found.outcomes("test")
        return [name for name, s in found.systems.items() if outcomes.has(s)]

    one = [row("t/0", log_odds_w=1.0), row("t/0", "large")]
    assert systems(one) == ["A", "B", "D", "D-nf", "D-w"]
    assert systems(one, judge="w") == ["A", "B", "C", "D", "D-nf"]
    several = [r | {"log_odds_w": 0.5} for r in two_steps()]
    assert systems(several) == ["A", "B", "D", "E", "D-agree", "D-nf", "E-nf", "D-w", "E-w"]
    assert systems(several, verifier="w")[-2:] == ["D-v", "E-v"]


def test_judge_is_the_strong_model_and_costs_nothing_beside_it(tmp_path):
    rows = [row("t/0", log_odds_w=1.0), row("t/0", "large")]
    found = joined(tmp_path, rows, judge="w", sizes={"v": ModelSize(num_params=5)})
    assert found.judged["strong_judge", "cheap"].shares_strong
    assert found.judged["v", "cheap"].size == ModelSize(num_params=5)
    assert not found.judged["v", "cheap"].shares_strong


def test_free_verifier_runs_no_model(tmp_path):
    rows = [row("t/0", logprob=-1.0), row("t/0", "large")]
    assert joined(tmp_path, rows).judged["proposer_logprob", "cheap"].size == NO_MODEL


def test_costs_count_where_they_are_known(tmp_path):
    """2 N a token and no attention; what the strong model has read is cached in its rollout."""
    rows = [
        row(f"t/{i}", model, rollout_id="r", step_index=i, num_prompt_tokens=10 * (i + 1))
        | {"num_completion_tokens": 4}
        for i in range(2)
        for model in ("small", "large")
    ]
    sizes = {"cheap": ModelSize(num_params=3), "strong": ModelSize(num_params=100)}
    outcomes = joined(tmp_path, rows, sizes=sizes)
    runs = run_all(outcomes, {})
    assert runs["A"].flops.tolist() == [200.0 * 14, 200.0 * 14]
    assert runs["B"].flops.tolist() == [6.0 * 14, 6.0 * 14]
    assert np.isnan(runs["A"].seconds).all()


def test_examples_have_the_texts_of_the_table(tmp_path):
    cells = {"request": "do it", "last_message": "done", "reference": "say so", "text": "ok"}
    found = joined(tmp_path, [row("t/0") | cells, row("t/0", "large") | cells])
    step, proposal = found.table.steps[0], found.columns["cheap"].proposals[0][0]
    assert [message["content"] for message in step.history] == ["do it", "done"]
    assert step.reference.text == "say so"
    assert (proposal.text, proposal.acceptable, proposal.model_id) == ("ok", True, "small")


def test_a_judge_is_of_the_strong_models_size(tmp_path):
    rows = [{**row, "log_odds_strong_judge": row["log_odds_v"]} for row in two_steps()]
    sizes = {"strong": ModelSize(num_params=8), "cheap": ModelSize(num_params=2)}
    found = joined(tmp_path, rows, sizes=sizes).judged
    assert found["strong_judge", "cheap"].size == sizes["strong"]
    assert found["v", "cheap"].size is None
