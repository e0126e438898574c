"""Numbers and verdicts of a sweep, from cells that are made up by hand."""

import math

import pytest

from specact_rl.eval.lora_sweep import CellRecord, Measured, MeasuredRow
from specact_rl.eval.lora_sweep_page import sweep_page
from specact_rl.eval.lora_sweep_results import sweep_results
from specact_rl.eval.report.blocks import Findings, Picture
from specact_rl.eval.report.figures import render
from specact_rl.models.end_tokens import EndCheck
from specact_rl.models.lora_cells import Cell

SOUND = EndCheck(num_rows=9, num_ending=9, num_trained=9, pad_is_stop=False, stops_generation=True)
NUM_TASKS = 30


def measured(nll=2.0, slope=0.01, unfinished=0, leaked=0):
    """Two rows a task, of 4 and of 6 tokens; the first rows are broken in so many tasks."""
    rows = [
        MeasuredRow(
            step_id=f"{task}/{step}",
            task_id=str(task),
            num_tokens=4 + 2 * step,
            nll=nll + slope * task,
            stop_nll=0.1,
            kl=0.5,
            finished=task >= unfinished,
            num_leaked=int(task < leaked),
            repeated=0.0,
            num_generated=5,
            parsed=task >= unfinished,
            match_level="arguments" if task % 2 else "tool",
            acceptable=None if step else bool(task % 2),
            text="text",
        )
        for task in range(NUM_TASKS)
        for step in range(2)
    ]
    return Measured(rows=rows, distinct=0.25)


def record(cell=None, weights="float", **how):
    return CellRecord(
        cell=cell,
        weights=weights if cell is None else cell.weights,
        ends=None if cell is None else SOUND,
        loss=None,
        num_steps=3,
        seconds=1.0,
        measured=Measured(rows=[], distinct=None) if how.get("diverged") else measured(**how),
    )


def cell(**axes):
    return Cell(**({"ratio": 0.5, "r": 8, "learning_rate": 0.01} | axes))


def contrasts(results, kind):
    return {c["column"]: c for c in results["contrasts"] if c["kind"] == kind}


MADE = {
    "command": ["recipe"],
    "origin": {"base_model_id": "b"},
    "num_train_rows": 3,
    "max_new_tokens": 8,
}


def findings(results):
    [block] = [b for b in sweep_page(results | MADE).summary if isinstance(b, Findings)]
    return {finding.claim: finding for finding in block.items}


def test_numbers_are_means_over_tokens_rows_and_known_rows():
    results = sweep_results([record(), record(cell(), unfinished=6)])
    [setting] = results["settings"]
    assert setting["over_base"]["unfinished"]["value"] == pytest.approx(6 / 30)
    assert setting["over_base"]["nll"]["value"] == 0.0
    # mean of nll is 2 + .01 * 14.5, for 5 tokens a row on average
    assert setting["nll"]["value"] == pytest.approx(2.145 / 5)
    assert setting["kl"]["value"] == pytest.approx(0.5 / 5)
    assert setting["stop_nll"]["value"] == pytest.approx(0.1)
    assert setting["unfinished"]["value"] == pytest.approx(6 / 30)
    assert (setting["tool"]["value"], setting["arguments"]["value"]) == (1.0, 0.5)
    # every second row has no label
    assert (setting["acceptable"]["value"], setting["acceptable"]["n"]) == (0.5, NUM_TASKS)
    assert (results["num_rows"], results["num_tasks"]) == (2 * NUM_TASKS, NUM_TASKS)


def test_seeds_are_one_setting_and_pairs_are_of_common_seeds():
    low, high = {"ratio": 0.1}, {"ratio": 2.0}
    records = [record(), record(cell(**low), nll=2.0), record(cell(**low, seed=1), nll=2.5)]
    records += [record(cell(**high, seed=1), nll=3.0), record(cell(**high, seed=2), nll=9.0)]
    results = sweep_results(records)
    assert [s["seeds"] for s in results["settings"]] == [[0, 1], [1, 2]]
    found = contrasts(results, "fixed_learning_rate")["nll"]
    # of seed 1 alone: half a nat a row more, of 5 tokens
    assert found["num_seeds"] == 1
    assert found["difference"]["value"] == pytest.approx(0.5 / 5)
    assert (found["a"]["ratio"], found["b"]["ratio"]) == (2.0, 0.1)


def test_same_product_is_told_from_same_learning_rate():
    records = [record(), record(cell(ratio=0.1, learning_rate=0.02))]
    records += [record(cell(ratio=2.0, learning_rate=0.001), nll=3.0)]
    results = sweep_results(records)
    assert contrasts(results, "fixed_learning_rate") == {}
    assert contrasts(results, "fixed_product")["nll"]["difference"]["value"] == pytest.approx(0.2)


def test_further_cells_move_no_interval():
    first = [record(), record(cell(ratio=0.1), nll=1.0), record(cell(ratio=2.0))]
    further = [*first, record(weights="nf4"), record(cell(ratio=2.0, weights="nf4"), nll=4.0)]
    one, other = sweep_results(first), sweep_results(further)
    assert one["settings"] == other["settings"][:2]
    assert contrasts(one, "fixed_learning_rate") == contrasts(other, "fixed_learning_rate")


def test_fault_is_held_against_the_same_training_without_it():
    records = [record(), record(cell(), unfinished=1), record(cell(ratio=2.0))]
    records += [record(cell(fault="end_masked"), unfinished=13)]
    results = sweep_results(records)
    difference = contrasts(results, "end_masked")["unfinished"]["difference"]
    assert difference["value"] == pytest.approx(12 / 30)
    claim = "With the stop token masked out of the loss, more turns have no end."
    assert findings(results)[claim].status == "shown"


def test_fault_without_effect_is_not_said_to_have_one():
    records = [record(), record(cell()), record(cell(fault="end_masked"))]
    claim = (
        "With the stop token masked out of the loss, it is not shown that more turns have no end."
    )
    assert findings(sweep_results(records))[claim].status == "open"


def test_settings_that_break_more_than_the_base_are_counted():
    # one task more than the base's two is no finding
    records = [record(unfinished=2), record(cell(), unfinished=3)]
    records += [record(cell(ratio=2.0), unfinished=20), record(cell(ratio=1.0), unfinished=10)]
    found = findings(sweep_results(records))
    claim = "2 of 3 sound settings with alpha/r from 0.5 to 2 leave turns without an end more often"
    [broken] = [f for c, f in found.items() if c.startswith(claim)]
    assert "Largest share: 67 %" in broken.evidence
    assert "smallest scale x learning rate among them is 0.01, at" in broken.evidence  # 1 * .01
    assert any(c.startswith("2 of 3 sound settings") and "garble" in c for c in found)
    assert any(c.startswith("No sound setting") and "leak" in c for c in found)


def test_4_bit_weights_are_judged_where_the_training_without_them_is_whole():
    records = [record(), record(weights="nf4")]
    records += [record(cell()), record(cell(weights="nf4"), slope=0.02)]
    ruined = {"ratio": 2.0}
    records += [record(cell(**ruined), nll=9.0, unfinished=30)]
    records += [record(cell(**ruined, weights="nf4"), nll=5.0, slope=0.02, unfinished=30)]
    found = findings(sweep_results(records))
    # .01 * 14.5 a row of 5 tokens; what is gained in the ruins does not count
    verdict = found["Over 4-bit weights, the held-out likelihood is worse."]
    assert verdict.evidence.startswith("NLL +0.0290 nats")
    assert "alpha/r = 0.5" in verdict.evidence


def test_diverged_training_is_shown_as_such_and_has_no_difference():
    records = [record(), record(cell(ratio=0.1)), record(cell(ratio=2.0), diverged=True)]
    results = sweep_results(records)
    [_, setting] = results["settings"]
    assert (setting["num_diverged"], setting["nll"]["value"]) == (1, None)
    assert contrasts(results, "fixed_learning_rate")["nll"]["difference"]["value"] is None
    page = sweep_page(results | MADE)
    [picture] = [b for s in page.sections for b in s.blocks if isinstance(b, Picture)]
    assert b"<svg" in render(picture, "svg")


def test_nothing_in_the_results_is_not_a_number():
    records = [record(), record(cell()), record(cell(ratio=2.0), diverged=True)]

    def numbers(value):
        for each in value.values() if isinstance(value, dict) else value:
            if isinstance(each, dict | list):
                yield from numbers(each)
            elif isinstance(each, float):
                yield each

    assert all(math.isfinite(number) for number in numbers(sweep_results(records)))
