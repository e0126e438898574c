"""Certificates of made-up verifiers: what they may depend on, and what they say of the test."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import special

from specact_rl.errors import ConfigError
from specact_rl.eval.certificates import TARGETS, Judgements, certificate_row
from specact_rl.eval.certificates import certificates as whole_row
from specact_rl.eval.report.certificate_sections import certificates_section, promise_of_d
from specact_rl.metrics.rates import cluster_rate
from specact_rl.policy.fitting import fit_gate, selecting
from specact_rl.policy.gates import decide
from specact_rl.policy.systems import SYSTEMS

NUM_TASKS, SIZE = 800, 3


def draw(seed, *, mean=2.0, num_tasks=NUM_TASKS):
    """Raw scores, one in twenty missing; labels; task numbers."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(num_tasks), SIZE)
    z = rng.normal(mean, 2.0, size=codes.size)
    y = rng.random(z.size) < special.expit(z)
    return np.where(rng.random(z.size) < 0.05, np.nan, z), y, codes


def gate_of(z, y, codes, seed=3, **rule):
    return fit_gate(
        z,
        y,
        y if "accept_rate" in rule else None,
        codes,
        verifier_id="v",
        proposer_id="p",
        calibration_hash="h",
        seed=seed,
        **rule,
    )


def judgements(gate, z, y, codes, rows=slice(None)):
    return Judgements(p_accept=gate.p_accept(z)[rows], acceptable=y[rows], codes=codes[rows])


def row_of(gate, calibration, test):
    rows = selecting(gate, calibration[2])
    return certificate_row(
        SYSTEMS["D"],
        gate,
        judgements(gate, *calibration, rows),
        judgements(gate, *test),
        np.random.default_rng(0),
    )


@pytest.fixture(scope="module")
def calibration():
    return draw(0)


@pytest.fixture(scope="module")
def gate(calibration):
    return gate_of(*calibration, accept_rate=0.5)


@pytest.fixture(scope="module")
def row(gate, calibration):
    return row_of(gate, calibration, draw(1))


def certificates(row):
    return {
        (target["target"], c["method"]): c
        for target in row["targets"]
        for c in target["certificates"]
    }


def test_every_target_has_all_three_promises_and_its_feasibility(row):
    assert [target["target"] for target in row["targets"]] == list(TARGETS)
    assert set(certificates(row)) == {
        (target, method) for target in TARGETS for method in ("exact", "task", "conformal")
    }
    json.dumps(row, default=asdict, allow_nan=False)


def test_promises_are_measured_on_the_test_split_at_the_frozen_threshold(row, gate):
    z, y, codes = draw(1)
    p = gate.p_accept(z)
    certificate = certificates(row)[0.1, "exact"]
    assert certificate["threshold"] is not None
    accepted = decide(p, certificate["threshold"])
    assert certificate["accept_rate"].value == pytest.approx(accepted.mean())
    expected = cluster_rate(~y[accepted], codes[accepted])
    assert certificate["selective_risk"].value == pytest.approx(expected.value)
    assert certificate["selective_risk"].high == pytest.approx(expected.high, abs=2e-3)
    assert certificate["controlled_risk"].value == pytest.approx(0.1, abs=0.03)


def test_a_stricter_target_accepts_less(row):
    for method in ("exact", "task", "conformal"):
        rates = [certificates(row)[target, method]["calibration_accept_rate"] for target in TARGETS]
        assert rates == sorted(rates)


def test_no_threshold_depends_on_the_test_split(row, gate, calibration):
    other = certificates(row_of(gate, calibration, draw(2, mean=-1.0)))
    for key, certificate in certificates(row).items():
        assert other[key]["threshold"] == certificate["threshold"]
    assert (
        other[0.1, "exact"]["selective_risk"] != certificates(row)[0.1, "exact"]["selective_risk"]
    )


def test_labels_of_the_half_that_fitted_the_calibrator_choose_no_threshold(row, gate, calibration):
    z, y, codes = calibration
    turned = np.where(selecting(gate, codes), y, ~y)
    assert row_of(gate, (z, turned, codes), draw(1)) == row
    turned = np.where(selecting(gate, codes), ~y, y)
    assert row_of(gate, (z, turned, codes), draw(1)) != row


def test_the_half_is_the_one_the_gate_chose_its_threshold_on(gate, calibration):
    z, _, codes = calibration
    rows = selecting(gate, codes)
    assert (~np.isnan(z[rows])).sum() == gate.counts["num_select"]
    assert (~np.isnan(z[~rows])).sum() == gate.counts["num_fit"]


def test_a_gate_that_was_certified_itself_counts_one_row_per_task(calibration):
    gate = gate_of(*calibration)
    found = row_of(gate, calibration, draw(1))
    assert gate.rule == "target_risk"
    assert gate.counts["num_select"] < found["calibration"]["num_scored"]


def test_other_calibration_rows_than_the_gates_are_refused(gate, calibration):
    z, y, codes = calibration
    keep = codes != 5
    with pytest.raises(ConfigError, match="not what it was fitted on"):
        row_of(gate, (z[keep], y[keep], codes[keep]), draw(1))


def test_a_split_without_a_score_has_no_row(gate, calibration):
    z, y, codes = draw(1)
    assert row_of(gate, calibration, (np.full_like(z, np.nan), y, codes)) is None


def test_errors_of_the_gate_are_those_of_its_own_threshold(row, gate):
    z, y, codes = draw(1)
    accepted = gate.decide(gate.p_accept(z))
    assert row["false_accept_rate"] == cluster_rate(accepted[~y], codes[~y])
    assert row["false_reject_rate"] == cluster_rate(~accepted[y], codes[y])


def as_results(row):
    """As results.json holds it."""
    return {"replay": {"certificates": [json.loads(json.dumps(row, default=asdict))]}}


def page_of(row):
    """The section as text."""
    return "\n".join(str(block) for block in certificates_section(as_results(row)).blocks)


def test_the_page_says_what_no_threshold_promises(calibration):
    z, y, codes = draw(4, mean=0.0, num_tasks=200)
    gate = gate_of(z, y, codes, accept_rate=0.5)
    page = page_of(row_of(gate, (z, y, codes), draw(5, mean=0.0)))
    assert "D: no threshold certifies 5 % wrong among the accepted" in page
    assert "does not carry over to live episodes" in page


def test_the_page_shows_only_promises_that_are_made(row):
    page = page_of(row)
    made = [c for c in certificates(row).values() if c["threshold"] is not None]
    assert 0 < len(made) < 15
    tables = [b for b in certificates_section(as_results(row)).blocks if b.kind == "table"]
    assert len(tables[1].rows) == len(made)
    assert "exact, one step per task" in page


def test_a_claim_does_not_deny_what_is_certified_over_tasks(row):
    found = as_results(row)
    only = found["replay"]["certificates"][0]
    target = next(t for t in only["targets"] if t["target"] == 0.05)
    target["message"] = "no threshold certifies 5 % wrong among the accepted; at most 43 % can be"
    for certificate in target["certificates"]:
        kept = certificate["method"] == "task"
        certificate |= {"threshold": 0.9 if kept else None, "calibration_accept_rate": 0.21}
    claim = next(promise_of_d(found)).claim
    assert claim.startswith("D: 5 % wrong among the accepted is certified as a mean over tasks")
    assert "at 21.0 % accepted" in claim
    assert "no threshold" not in claim


def test_a_page_without_certificates_has_no_section():
    assert certificates_section({"replay": {}}) is None


@pytest.mark.filterwarnings("error")
def test_few_odd_and_equal_rows_have_numbers_or_notes_and_no_warning():
    rng = np.random.default_rng(0)

    def few():
        n = int(rng.integers(1, 30))
        p = rng.random(n).round(int(rng.integers(0, 3)))
        p[1:][rng.random(n - 1) < 0.2] = np.nan
        y = rng.random(n) < rng.choice([0.0, 0.5, 1.0])
        return Judgements(p_accept=p, acceptable=y, codes=rng.integers(n, size=n) // 3)

    for threshold in (None, 0.0, 0.5, 1.0):
        for _ in range(25):
            found = whole_row(few(), few(), SimpleNamespace(threshold=threshold, seed=0), rng)
            json.dumps(found, default=asdict, allow_nan=False)
