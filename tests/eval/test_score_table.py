import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import special

from specact_rl.errors import ConfigError, DegenerateResultError, RolloutFormatError
from specact_rl.eval.score_table import (
    as_log_odds,
    calibrate_scores,
    read_score_table,
    table_gate,
)
from specact_rl.policy.gates import Gate
from specact_rl.policy.thresholds import ThresholdRequest

ACCEPT_A_QUARTER = ThresholdRequest(rule="accept_rate", accept_rate=0.25)


def scored_tasks(seed=0, num_tasks=900, size=2):
    rng = np.random.default_rng(seed)
    z = rng.normal(1.5, 2.5, size=num_tasks * size)
    y = rng.random(z.size) < special.expit(z)
    tasks = [f"task{i:04d}" for i in np.repeat(np.arange(num_tasks), size)]
    return z, y, tasks


@pytest.fixture(scope="module")
def report():
    z, y, tasks = scored_tasks()
    # Twice too sure and shifted: the calibrator has something to do.
    return calibrate_scores((2 * z - 3).tolist(), y.tolist(), tasks, seed=0, num_resamples=300)


def test_parts_are_thirds_of_the_tasks(report):
    assert [part.num_clusters for part in report.parts.values()] == [300, 300, 300]
    assert sum(part.num_rows for part in report.parts.values()) == 1800


def test_the_report_finds_a_good_score_calibrated_and_certifies_a_threshold(report):
    assert report.auroc.low < report.auroc.value < report.auroc.high
    assert report.auroc.value == pytest.approx(0.9, abs=0.03)
    assert report.calibrator.kind == "platt"
    assert report.calibrator.slope == pytest.approx(0.5, abs=0.15)
    assert report.null_band.p_value > 0.01
    assert report.brier_skill.value > 0.3
    assert report.choice.feasible
    assert report.selective_risk.value < 0.15
    assert report.selective_risk.low < report.selective_risk.value < report.selective_risk.high
    assert report.accept_rate.value == pytest.approx(report.selective_risk.n / report.accept_rate.n)


def test_a_temperature_cannot_undo_a_shift_and_loses_the_cross_validation(report):
    assert report.cv_log_loss["temperature"] > report.cv_log_loss["platt"]
    assert set(report.cv_log_loss) == {"temperature", "platt", "isotonic"}


def test_test_labels_change_neither_calibrator_nor_threshold():
    z, y, tasks = scored_tasks(num_tasks=600)
    one = calibrate_scores(z, y, tasks, seed=4, num_resamples=50)
    # Which rows are in the test part shows in what happens when one task's labels are turned.
    unmoved = 0
    for task in sorted(set(tasks))[:12]:
        turned = y ^ np.array([t == task for t in tasks])
        other = calibrate_scores(z, turned, tasks, seed=4, num_resamples=50)
        if other.brier != one.brier and other.calibrator == one.calibrator:
            assert other.choice == one.choice
            assert other.cv_log_loss == one.cv_log_loss
            unmoved += 1
    assert unmoved >= 1


def test_the_same_seed_gives_the_same_report():
    z, y, tasks = scored_tasks(num_tasks=300)
    one = calibrate_scores(z, y, tasks, seed=2, num_resamples=50)
    other = calibrate_scores(z, y, tasks, seed=2, num_resamples=50)
    assert one.to_json() == other.to_json()
    different = calibrate_scores(z, y, tasks, seed=3, num_resamples=50)
    assert one.to_json() != different.to_json()


def test_unlabelled_and_unscored_rows_are_dropped_and_counted():
    z, y, tasks = scored_tasks(num_tasks=300)
    scores, labels = [*z.tolist(), None, 1.0, None], [*y.tolist(), True, None, None]
    full = calibrate_scores(z, y, tasks, seed=0, num_resamples=50)
    report = calibrate_scores(
        scores, labels, [*tasks, tasks[0], tasks[1], tasks[2]], seed=0, num_resamples=50
    )
    assert report.dropped == {"no_label": 1, "no_score": 1, "no_score_and_no_label": 1}
    assert report.num_rows == 603
    assert report.brier == full.brier


def test_accept_rate_rule_replaces_the_risk_rule():
    z, y, tasks = scored_tasks()
    report = calibrate_scores(z, y, tasks, seed=0, asked=ACCEPT_A_QUARTER, num_resamples=50)
    assert report.choice.rule == "accept_rate"
    assert report.accept_rate.value == pytest.approx(0.25, abs=0.06)


def test_an_infeasible_target_is_a_verdict_not_an_error():
    rng = np.random.default_rng(0)
    report = calibrate_scores(
        rng.normal(size=300), rng.random(300) < 0.5, None, seed=0, num_resamples=50
    )
    assert report.choice.threshold is None
    assert report.accept_rate.value == 0.0
    assert report.selective_risk.value is None
    page = report.to_markdown()
    assert "accepts nothing" in page
    assert "| selective risk | undefined |" in page
    assert "no cluster column" in page


def test_probabilities_are_taken_on_their_own_scale():
    z, y, tasks = scored_tasks()
    as_odds = calibrate_scores(z, y, tasks, seed=0, num_resamples=50)
    p = special.expit(z)
    as_p = calibrate_scores(p, y, tasks, seed=0, scale="probability", num_resamples=50)
    assert as_p.brier == pytest.approx(as_odds.brier, abs=1e-6)
    assert as_p.notes == []
    mistaken = calibrate_scores(p, y, tasks, seed=0, num_resamples=50)
    assert "are they probabilities?" in mistaken.notes[0]
    with pytest.raises(ValueError, match="must lie in"):
        calibrate_scores(z, y, tasks, seed=0, scale="probability")


def test_a_table_without_errors_still_has_intervals():
    # The score tells all: whatever is accepted is right.
    z = np.tile(np.linspace(-3, 3, 30), 60)
    report = calibrate_scores(z, z > 0, None, seed=0, num_resamples=50)
    assert report.selective_risk.value == 0.0
    n = report.selective_risk.n
    # Wilson at no hits in n rows: up to z^2 / (n + z^2).
    assert report.selective_risk.high == pytest.approx(1.96**2 / (n + 1.96**2), rel=1e-3)


def test_accept_rate_and_brier_skill_have_intervals(report):
    for metric in (report.accept_rate, report.brier_skill):
        assert metric.low < metric.value < metric.high
        assert metric.num_clusters == 300


def gate_of(path, **options):
    table = read_score_table(path, "z", "ok", "task")
    report = calibrate_scores(
        table.scores, table.labels, table.clusters, num_resamples=50, **{"seed": 0, **options}
    )
    return report, table_gate(report, path, score="z", label="ok", cluster="task")


def write_table_of(path, scores, labels, tasks):
    rows = zip(tasks, scores, labels, strict=True)
    return write_csv(
        path, [["task", "z", "ok"], *([t, repr(float(z)), int(y)] for t, z, y in rows)]
    )


@pytest.mark.parametrize("scale", ["log_odds", "probability"])
def test_a_gate_decides_on_log_odds_as_the_report_says(tmp_path, scale):
    z, y, tasks = scored_tasks()
    scores = z if scale == "log_odds" else special.expit(z)
    report, gate = gate_of(write_table_of(tmp_path / "t.csv", scores, y, tasks), scale=scale)
    gate = Gate.from_json(json.loads(json.dumps(gate.to_json())))
    assert (gate.calibrator, gate.threshold) == (report.calibrator, report.choice.threshold)
    p = report.calibrator.predict(z)
    accepted = gate.decide(gate.p_accept(as_log_odds(scores, scale)))
    assert accepted.tolist() == (p >= report.choice.threshold).tolist()
    assert 0 < accepted.sum() < accepted.size
    column = {"log_odds": "z", "probability": "logit(z)"}[scale]
    assert gate.verifier_id.startswith(f"{column}@")


def test_a_gate_is_bound_to_the_rows_it_was_fitted_on(tmp_path):
    z, y, tasks = scored_tasks(num_tasks=300)
    path = write_table_of(tmp_path / "a.csv", z, y, tasks)
    _, gate = gate_of(path)
    assert gate_of(path)[1] == gate
    _, other_seed = gate_of(path, seed=1)
    _, other_table = gate_of(write_table_of(tmp_path / "b.csv", z + 1e-9, y, tasks))
    hashes = {g.calibration_hash for g in (gate, other_seed, other_table)}
    assert len(hashes) == 3
    assert other_seed.verifier_id == gate.verifier_id != other_table.verifier_id


def test_json_is_plain_and_short(report):
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["metrics_version"] == 1
    assert data["calibrator"]["kind"] == "platt"
    assert data["auroc"]["num_clusters"] == 300
    assert sum(data["reliability"]["count"]) == data["parts"]["test"]["num_rows"]
    assert len(data["risk_coverage"]["risk"]) == 20
    assert data["risk_coverage"]["coverage"][-1] == 1.0


def test_markdown_has_every_section_and_even_tables(report):
    page = report.to_markdown()
    for heading in ("# Calibration", "## On the test part", "## Reliability", "## Risk against"):
        assert heading in page
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1


def test_a_constant_score_is_a_fault():
    with pytest.raises(DegenerateResultError, match="all 30 scores are 1.0"):
        calibrate_scores([1.0] * 30, [True, False] * 15, None, seed=0)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.1, 0.9], [True, False]),
        (list(np.linspace(0, 1, 60)), [True] * 60),
    ],
)
def test_tables_too_small_or_one_sided_are_refused(scores, labels):
    with pytest.raises(ConfigError, match="too small"):
        calibrate_scores(scores, labels, None, seed=0)


def test_a_table_without_usable_rows_is_refused():
    with pytest.raises(ConfigError, match="2 rows, 1 without a score, 1 without a label"):
        calibrate_scores([None, 1.0], [True, None], None, seed=0)


def test_nan_scores_are_refused_with_their_row():
    with pytest.raises(ValueError, match="nan at row 1"):
        calibrate_scores([0.1, float("nan")], [True, False], None, seed=0)


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_csv_labels_and_nulls_are_read(tmp_path):
    path = write_csv(
        tmp_path / "scores.csv",
        [
            ["task", "z", "ok"],
            ["a", "1.5", "1"],
            ["a", "-2", "false"],
            ["b", "", "TRUE"],
            ["b", "0.5", "null"],
            ["c", "1e-3", "0.0"],
            ["c", "3", ""],
        ],
    )
    table = read_score_table(path, "z", "ok", "task")
    assert table.scores == [1.5, -2.0, None, 0.5, 0.001, 3.0]
    assert table.labels == [True, False, True, None, False, None]
    assert table.clusters == ["a", "a", "b", "b", "c", "c"]
    assert read_score_table(path, "z", "ok").clusters is None


def test_parquet_and_csv_of_one_table_read_alike(tmp_path):
    z, ok, task = [0.5, None, -1.0], [True, False, None], [1, 1, 2]
    pq.write_table(pa.table({"z": z, "ok": ok, "task": task}), tmp_path / "t.parquet")
    write_csv(
        tmp_path / "t.csv",
        [["z", "ok", "task"], ["0.5", "true", "1"], ["", "false", "1"], ["-1.0", "", "2"]],
    )
    from_parquet = read_score_table(tmp_path / "t.parquet", "z", "ok", "task")
    assert from_parquet == read_score_table(tmp_path / "t.csv", "z", "ok", "task")
    assert from_parquet.scores == z
    assert from_parquet.labels == ok


@pytest.mark.parametrize(
    ("row", "where"),
    [
        (["a", "nan", "1"], "scores.csv:3: column 'z' must be a finite number"),
        (["a", "inf", "1"], "got 'inf'"),
        (["a", "high", "1"], "got 'high'"),
        (["a", "1.0", "yes"], "scores.csv:3: column 'ok' must be 0/1, true/false"),
        (["a", "1.0", "2"], "got '2'"),
        (["", "1.0", "1"], "scores.csv:3: column 'task' must name the row's task"),
        (["a", "1.0"], "scores.csv:3: the header has 3 columns, this row 2"),
    ],
)
def test_a_bad_csv_row_is_named_with_its_line(tmp_path, row, where):
    path = write_csv(tmp_path / "scores.csv", [["task", "z", "ok"], ["a", "1", "1"], row])
    with pytest.raises(RolloutFormatError, match=where):
        read_score_table(path, "z", "ok", "task")


def test_a_line_number_counts_quoted_line_breaks(tmp_path):
    path = write_csv(
        tmp_path / "scores.csv", [["task", "z", "ok"], ["a\nb", "1", "1"], ["c", "x", "1"]]
    )
    with pytest.raises(RolloutFormatError, match=r"scores\.csv:4:"):
        read_score_table(path, "z", "ok", "task")


def test_a_bad_parquet_row_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"z": [0.5, float("nan")], "ok": [1, 0]}), path)
    with pytest.raises(RolloutFormatError, match="row 1: column 'z' must be a finite number"):
        read_score_table(path, "z", "ok")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_missing_column_names_those_that_exist(tmp_path, name):
    if name.endswith("csv"):
        write_csv(tmp_path / name, [["z", "ok"], ["1", "1"]])
    else:
        pq.write_table(pa.table({"z": [1.0], "ok": [True]}), tmp_path / name)
    with pytest.raises(ConfigError, match=r"one column 'score', got none.*\['z', 'ok'\]"):
        read_score_table(tmp_path / name, "score", "ok")


def test_a_column_that_occurs_twice_is_refused(tmp_path):
    path = write_csv(tmp_path / "t.csv", [["z", "z", "ok"], ["1", "2", "1"]])
    with pytest.raises(ConfigError, match="more than one"):
        read_score_table(path, "z", "ok")


def test_files_that_are_no_score_tables_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_score_table(tmp_path / "none.csv", "z", "ok")
    (tmp_path / "t.txt").write_text("z")
    with pytest.raises(ConfigError, match=r"must end in \.csv or \.parquet"):
        read_score_table(tmp_path / "t.txt", "z", "ok")
    (tmp_path / "t.parquet").write_text("z")
    with pytest.raises(RolloutFormatError, match="not a Parquet file"):
        read_score_table(tmp_path / "t.parquet", "z", "ok")
    (tmp_path / "t.csv").write_bytes(b"z,ok\n\xff,1\n")
    with pytest.raises(RolloutFormatError, match="not a UTF-8 CSV"):
        read_score_table(tmp_path / "t.csv", "z", "ok")
    (tmp_path / "empty.csv").write_text("z,ok\n")
    with pytest.raises(RolloutFormatError, match="no rows"):
        read_score_table(tmp_path / "empty.csv", "z", "ok")


def test_what_a_target_could_promise_is_told_of_the_rows_that_chose_its_threshold(report):
    same = next(f for f in report.feasibility if f.target_risk == 0.1)
    assert report.choice.feasible
    assert same.choice.threshold == report.choice.threshold
