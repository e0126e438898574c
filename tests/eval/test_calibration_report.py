"""Rows of the calibration section, on made-up outcomes, and the section that is made of them."""

import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from specact_rl.eval.calibration_report import MAX_PARTS, _partition, calibration_rows
from specact_rl.eval.evaluate import calibrate
from specact_rl.eval.live import LiveEpisode, LiveStep
from specact_rl.eval.report.calibration_sections import calibration_section
from specact_rl.metrics.calibration import log_loss
from specact_rl.metrics.drift import LabelledRows, calibration_lines
from specact_rl.policy.calibrators import CALIBRATORS
from specact_rl.policy.fitting import fitting_half
from specact_rl.policy.systems import SYSTEMS

# Test files are no package; the outcomes made up there are wanted here, too.
SPEC = importlib.util.spec_from_file_location("made_up", Path(__file__).parent / "test_evaluate.py")
made_up = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(made_up)
as_json, make_outcomes = made_up.as_json, made_up.make_outcomes

FEW = {name: SYSTEMS[name] for name in ("A", "B", "D", "D-lin", "D-dpo", "E")}


@pytest.fixture(scope="module")
def calibration():
    return make_outcomes(7)


@pytest.fixture(scope="module")
def gates(calibration):
    return calibrate(calibration, calibration_hash="h", seed=0, systems=FEW)


@pytest.fixture(scope="module")
def everything():
    return make_outcomes(1)


@pytest.fixture(scope="module")
def test_part(everything):
    return everything.take(~everything.table.out_of_family)


@pytest.fixture(scope="module")
def found(test_part, gates, calibration, everything):
    rng = np.random.default_rng(0)
    return as_json(
        calibration_rows(test_part, gates, FEW, rng, calibration=calibration, everything=everything)
    )


def rows_of(outcomes, gate, role="cheap", key="classifier"):
    z, y = outcomes.judged[key, role].log_odds[:, 0], outcomes.columns[role].acceptable[:, 0]
    here = ~np.isnan(z) & ~np.isnan(y)
    return here, gate.p_accept(z[here]), y[here] == 1.0


def test_every_single_proposal_gate_has_a_row_on_its_own_rows(found, test_part, gates):
    assert [row["system"] for row in found["verifiers"]] == ["D", "D-lin", "D-dpo"]
    row = found["verifiers"][0]
    here, p, y = rows_of(test_part, gates["D"])
    assert row["n"] == here.sum()
    assert row["num_tasks"] == np.unique(test_part.table.task_ids[here]).size
    assert row["mean_p_accept"] == pytest.approx(p.mean())
    assert row["log_loss"] == pytest.approx(log_loss(p, y))
    assert set(row["bands"]) == {"ece", "ece_equal_mass", "ece_sweep", "debiased_ece"}


def test_drift_is_from_the_rows_that_the_calibrator_was_not_fitted_on(found, calibration, gates):
    row = next(r for r in found["drift"] if r["system"] == "D" and r["kind"] == "splits")
    here, p, y = rows_of(calibration, gates["D"])
    half = fitting_half(calibration.table.task_ids, np.random.default_rng(0))[here]
    assert row["first"]["gap"]["n"] == (~half).sum() == gates["D"].counts["num_select"]
    assert row["first"]["gap"]["value"] == pytest.approx(y[~half].mean() - p[~half].mean())
    difference = row["second"]["gap"]["value"] - row["first"]["gap"]["value"]
    assert row["difference"]["gap"]["value"] == pytest.approx(difference)


def test_the_main_gate_is_tried_on_the_other_policy_and_on_families_held_out(
    found, test_part, everything, gates
):
    kinds = {r["kind"]: r for r in found["drift"] if r["system"] == "D"}
    assert set(kinds) == {"splits", "policies", "families"}
    _, p, y = rows_of(test_part, gates["D"], role="cheap_dpo")
    assert kinds["policies"]["second"]["gap"]["value"] == pytest.approx(y.mean() - p.mean())
    outside = everything.take(everything.table.out_of_family)
    _, p, y = rows_of(outside, gates["D"])
    assert kinds["families"]["second"]["gap"]["value"] == pytest.approx(y.mean() - p.mean())
    assert kinds["families"]["second"]["gap"]["n"] == y.size


def test_lines_of_shared_tasks_are_paired(found, test_part, gates):
    row = next(r for r in found["drift"] if r["kind"] == "policies")
    places = {}
    for role in ("cheap", "cheap_dpo"):
        here, p, y = rows_of(test_part, gates["D"], role=role)
        ids = test_part.table.task_ids[here]
        places[role] = LabelledRows(p_accept=p, acceptable=y, clusters=ids)
    lines = calibration_lines(places, rng=np.random.default_rng(3), num_resamples=4000)
    draws = lines["cheap_dpo"].draws[:, 0] - lines["cheap"].draws[:, 0]
    expected = np.quantile(draws, [0.025, 0.975])
    gap = row["difference"]["gap"]
    assert (gap["low"], gap["high"]) == pytest.approx(expected, abs=0.02)


def test_every_calibrator_is_compared_on_calibration_rows(found, calibration, gates):
    of_d = next(row for row in found["recalibration"] if row["system"] == "D")
    here, _, _ = rows_of(calibration, gates["D"])
    assert of_d["n"] == here.sum()
    assert [row["name"] for row in of_d["rows"]] == ["none", "chosen", *CALIBRATORS]
    own = {row["name"]: row for row in of_d["rows"]}[gates["D"].calibrator.kind]
    assert own["minus_own"] is None
    for row in of_d["rows"]:
        if row["minus_own"] is not None:
            difference = row["log_loss"]["value"] - own["log_loss"]["value"]
            assert row["minus_own"]["value"] == pytest.approx(difference, abs=1e-9)


def test_the_test_split_takes_no_part_in_the_comparison(test_part, gates, calibration):
    wrong = {
        role: replace(columns, acceptable=1.0 - columns.acceptable)
        for role, columns in test_part.columns.items()
    }
    systems = {name: FEW[name] for name in ("A", "D")}
    one, other = (
        as_json(
            calibration_rows(
                test, gates, systems, np.random.default_rng(0), calibration=calibration
            )
        )
        for test in (test_part, replace(test_part, columns=wrong))
    )
    assert one["verifiers"] != other["verifiers"]
    assert one["recalibration"] == other["recalibration"]


def live_step(p, y):
    return LiveStep(
        accepted=False, reason="below_threshold", log_odds=0.0, p_accept=p, acceptable=y,
        match_level="none", label_source="cost_to_go",
    )  # fmt: skip


def episode(task, steps):
    return LiveEpisode(
        system="D", task_id=task, family="f", success=False, num_steps=0, expert_steps=0,
        num_accepted=0, num_fallback=0, num_unparsable=0, flops=0, seconds=0.0, steps=steps,
    )  # fmt: skip


def replayed_live(test_part, gate, promised=1.0):
    """Episodes of every other task, whose steps are those that are replayed."""
    here, p, y = rows_of(test_part, gate)
    tasks = np.array([step.task_id for step in test_part.table.steps])[here]
    return [
        episode(
            str(task),
            [live_step(float(promised * p[i]), bool(y[i])) for i in np.flatnonzero(tasks == task)],
        )
        for task in np.unique(tasks)[::2]
    ]


def live_drift(test_part, gates, live):
    found = as_json(calibration_rows(test_part, gates, FEW, np.random.default_rng(0), live=live))
    return [row for row in found["drift"] if row["kind"] == "live"]


def test_what_is_replayed_live_does_not_drift(test_part, gates):
    live = replayed_live(test_part, gates["D"])
    [row] = live_drift(test_part, gates, {"D": live, "A": []})
    assert row["system"] == "D"
    assert row["first"] == row["second"]
    assert row["first"]["gap"]["n"] == sum(len(e.steps) for e in live)
    assert row["first"]["gap"]["num_clusters"] == len(live)
    for name in ("gap", "slope", "intercept"):
        assert row["difference"][name]["value"] == pytest.approx(0.0)


def test_probabilities_that_promise_less_live_drift_by_what_they_lack(test_part, gates):
    same = replayed_live(test_part, gates["D"])
    mean = np.mean([step.p_accept for e in same for step in e.steps])
    live = replayed_live(test_part, gates["D"], promised=0.9)
    unscored = [live_step(None, True), live_step(0.5, None)]  # of these nothing can be said
    live[0] = replace(live[0], steps=[*live[0].steps, *unscored])
    [row] = live_drift(test_part, gates, {"D": live})
    gap = row["difference"]["gap"]
    assert gap["value"] == pytest.approx(0.1 * mean)
    # Paired by task: labels, which are the same in both places, add no spread.
    assert gap["high"] - gap["low"] < 0.1 * (
        row["first"]["gap"]["high"] - row["first"]["gap"]["low"]
    )
    assert row["second"]["gap"]["n"] == row["first"]["gap"]["n"]


def test_live_episodes_move_no_other_number(test_part, gates, calibration):
    live = {"D": replayed_live(test_part, gates["D"])}
    without, beside = (
        as_json(
            calibration_rows(
                test_part, gates, FEW, np.random.default_rng(0), calibration=calibration, live=it
            )
        )
        for it in (None, live)
    )
    beside["drift"] = [row for row in beside["drift"] if row["kind"] != "live"]
    assert beside == without


@pytest.mark.parametrize(
    ("steps", "note"),
    [(None, "ran before their steps were kept"), ([], "no proposal has a score and a label")],
)
def test_episodes_without_steps_say_why_their_drift_is_not_known(test_part, gates, steps, note):
    live = [replace(e, steps=steps) for e in replayed_live(test_part, gates["D"])]
    [row] = live_drift(test_part, gates, {"D": live})
    assert row["first"]["gap"]["value"] is not None
    for place in ("second", "difference"):
        assert {m["value"] for m in row[place].values()} == {None}
        assert all(note in m["note"] for m in row[place].values())
    section = calibration_section(
        {"replay": {"calibration": {"parts": {"system": "D"}, "drift": [row]}}}
    )
    [finding] = section.blocks[0].items
    assert finding.status == "unknown"
    assert note in finding.evidence


def test_without_calibration_outcomes_there_is_neither_drift_nor_comparison(test_part, gates):
    found = calibration_rows(test_part, gates, FEW, np.random.default_rng(0))
    assert found["recalibration"] == []
    assert [row["kind"] for row in found["drift"]] == ["policies"]
    assert calibration_rows(test_part, {}, FEW, np.random.default_rng(0)) == {}


def test_too_few_rows_to_compare_calibrators_say_so(test_part, gates, calibration):
    few = calibration.take(np.arange(len(calibration.table.steps)) < 4)
    found = as_json(
        calibration_rows(test_part, gates, FEW, np.random.default_rng(0), calibration=few)
    )
    of_d = next(row for row in found["recalibration"] if row["system"] == "D")
    assert of_d["rows"] == []
    assert of_d["note"]
    section = calibration_section({"replay": {"calibration": found}})
    assert any("are not compared" in getattr(block, "text", "") for block in section.blocks)


def test_parts_beyond_the_largest_and_small_ones_among_them_are_counted():
    sizes = [10 * (k + 1) for k in range(MAX_PARTS + 2)]
    keys = ["", *[f"tool {size}" for size in sizes for _ in range(size)]]
    partition, rest = _partition(np.array(keys))
    # Two too many, of 10 and 20 rows, and of the others those of 30 and 40 are too small.
    assert list(partition.names) == [f"tool {size}" for size in reversed(sizes[4:])]
    assert rest == {"parts": 4, "rows": 100}
    assert (partition.codes == -1).sum() == 1 + 100
    for k, name in enumerate(partition.names):
        assert (partition.codes == k).sum() == int(name.split()[1])


def test_few_parts_are_all_named_however_small():
    partition, rest = _partition(np.array(["a", "b", "", "a"]))
    assert list(partition.names) == ["a", "b"]
    assert partition.codes.tolist() == [0, 1, -1, 0]
    assert rest == {"parts": 0, "rows": 0}


def text_of(found):
    section = calibration_section({"replay": {"calibration": found}})
    return json.dumps([asdict(block) for block in section.blocks], ensure_ascii=False)


def test_the_page_gives_the_numbers_of_the_rows(found):
    text = text_of(found)
    assert "It is not shown that D" in text or "off in some parts" in text
    row = found["verifiers"][0]
    assert f"{row['bands']['ece_sweep']['observed']:.3f}" in text
    assert f"{row['log_loss']:.3f}" in text
    assert "families held out" in text
    assert "prior shift" in text


def test_drift_that_leaves_out_zero_is_told_and_other_is_not_shown(found):
    row = next(r for r in found["drift"] if r["kind"] == "splits" and r["system"] == "D")
    value = {"value": 0.05, "n": 100, "num_clusters": 40, "note": None}
    slope = {"value": 0.1, "low": -0.2, "high": 0.4, "n": 100, "num_clusters": 40, "note": None}
    for (low, high), told in (
        ((0.01, 0.09), "D's probabilities drift from the calibration"),
        ((-0.02, 0.12), "It is not shown that D's probabilities drift from the calibration"),
        ((None, None), "It is not shown"),
    ):
        change = {"gap": value | {"low": low, "high": high}, "slope": slope}
        one = found | {"drift": [row | {"difference": row["difference"] | change}]}
        assert told in text_of(one)


def test_small_parts_are_named_without_numbers(found):
    assert "Fewer than 50 proposals, no numbers: " in text_of(found)


def test_results_without_calibration_have_no_section():
    assert calibration_section({}) is None
    assert calibration_section({"replay": {"calibration": {}}}) is None
