"""Calibration and evaluation of made-up outcomes, from joined tables to the rows of the results."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from specact_rl.errors import DegenerateResultError
from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.contrasts import CONTRASTS
from specact_rl.eval.evaluate import _refuse_constant, calibrate, evaluate
from specact_rl.eval.joined import Outcomes
from specact_rl.eval.replay import Judged
from specact_rl.eval.report import to_markdown, verdicts
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.frontier import gate_skill
from specact_rl.metrics.resampling import cluster_codes
from specact_rl.policy.fitting import fitting_half
from specact_rl.policy.systems import SYSTEMS
from specact_rl.types import Action
from tests.records import make_proposal, make_step

NUM_TASKS, STEPS_PER_TASK, SAMPLES = 48, 6, 3
NAN = float("nan")


def make_table():
    """Two thirds of the tasks are of families that were trained on."""
    ids = [(task, index) for task in range(NUM_TASKS) for index in range(STEPS_PER_TASK)]
    steps = [
        make_step(
            f"do {task}",
            name=f"{task}/{index}",
            task_id=f"task-{task:02d}",
            split="test",
            reference=Action(type="final_answer", text=f"right {index}"),
        )
        for task, index in ids
    ]
    numbers = np.array([task for task, _ in ids])
    return StepTable(
        steps=steps,
        task_ids=numbers,
        rollouts=numbers,
        out_of_family=numbers >= 2 * NUM_TASKS // 3,
        reference_types=np.array(["final_answer"] * len(steps)),
        families=np.array([step.family for step in steps]),
        indices=np.array([step.index for step in steps]),
        num_out_of_reach=5,
    )


def make_columns(table, role, right, parsed, unknown=()):
    """A model's proposals; `right` and `parsed` of shape (n, k), `unknown` numbers of steps."""
    rows = []
    for i, step in enumerate(table.steps):
        for k in range(right.shape[1]):
            # Only the first two samples may differ, so that some proposals repeat.
            text = f"right {step.index}" if right[i, k] else f"wrong {min(k, 1)}"
            label = None if i in unknown else bool(right[i, k] and parsed[i, k])
            rows.append(
                make_proposal(
                    step,
                    Action(type="final_answer", text=text) if parsed[i, k] else text,
                    label,
                    sample=k,
                    model=role,
                    match_level="arguments" if label else "none",
                    same_state=label,
                    logprob=-1.0,
                    num_prompt_tokens=20 + 10 * step.index,
                    num_completion_tokens=5,
                    seconds=0.1,
                )
            )
    return ProposalColumns.of(table, rows)


def make_outcomes(seed, *, strong_outside=0.5, unknown=()):
    """Cheap .4 right, strong .6 right inside the families; the classifier knows, a little."""
    rng = np.random.default_rng(seed)
    table = make_table()
    n = len(table.steps)
    chance = np.where(table.out_of_family, strong_outside, 0.6)
    columns = {
        role: make_columns(table, role, right, parsed, unknown)
        for role, right, parsed in (
            ("cheap", rng.random((n, SAMPLES)) < 0.5, rng.random((n, SAMPLES)) < 0.8),
            ("strong", rng.random((n, 1)) < chance[:, None], np.ones((n, 1), dtype=bool)),
            ("cheap_dpo", rng.random((n, SAMPLES)) < 0.6, rng.random((n, SAMPLES)) < 0.8),
        )
    }
    keys = {(s.verifier, s.proposer) for s in SYSTEMS.values() if s.verifier}
    judged = {}
    for key, role in sorted(keys):
        right = np.nan_to_num(columns[role].acceptable)
        signal = 2.0 if key == "classifier" else 0.5
        log_odds = signal * (right - 0.5) + rng.normal(size=right.shape)
        judged[key, role] = Judged(
            verifier_id=key,
            size=ModelSize(num_params=10),
            shares_strong=key == "strong_judge",
            log_odds=np.where(columns[role].parsed, log_odds, NAN),
            seconds=np.full(right.shape, 0.01),
        )
    return Outcomes(
        table=table,
        columns=columns,
        judged=judged,
        sizes={
            role: ModelSize(num_params=n)
            for role, n in (("cheap", 3), ("strong", 100), ("cheap_dpo", 3))
        },
    )


def results_of(test, seed=0):
    gates = calibrate(make_outcomes(7), calibration_hash="h", seed=0)
    train = test.table.steps[:STEPS_PER_TASK]
    return as_json(evaluate(test, gates, train, seed=seed))


def as_json(results):
    """As results.json holds it."""
    return json.loads(json.dumps(results, default=asdict, allow_nan=False))


@pytest.fixture(scope="module")
def outcomes():
    return make_outcomes(1)


@pytest.fixture(scope="module")
def found(outcomes):
    return results_of(outcomes)


@pytest.fixture(scope="module")
def inside(outcomes):
    """The families that were trained on, which all but the rows by family are about."""
    return outcomes.take(~outcomes.table.out_of_family)


def named(rows, name):
    return next(row for row in rows if row["name"] == name)


def test_every_system_has_a_row_and_the_report_reads_them(found):
    assert [row["name"] for row in found["systems"]] == list(SYSTEMS)
    page = to_markdown({"replay": found})
    assert "a curve may pass beyond them" not in page  # all is labelled
    assert "5 steps whose goal was out of reach" in page
    assert len(verdicts({"replay": found})) >= 12


def test_same_seed_gives_the_same_results(outcomes, found):
    assert results_of(outcomes) == found


def test_accepting_what_parses_is_the_cheap_model_where_it_parses_and_the_strong_one_elsewhere(
    inside, found
):
    cheap, strong = inside.columns["cheap"], inside.columns["strong"]
    row = named(found["references"], "parses")
    parsed = cheap.parsed[:, 0]
    expected = np.where(parsed, cheap.acceptable[:, 0], strong.acceptable[:, 0])
    assert row["acceptable"]["value"] == pytest.approx(expected.mean())
    assert row["accept_rate"]["value"] == pytest.approx(parsed.mean())
    # No verifier is paid for, and what it decides beyond the parser is nothing.
    assert row["mflops_per_step"] < named(found["systems"], "D")["mflops_per_step"]
    assert row["skill_among_parsed"]["value"] == 0.0
    names = [row["name"] for row in found["references"]]
    assert names == ["parses", "parses-3", "parses-dpo"]


def test_skill_of_a_verifier_is_split_from_that_of_the_parser(inside, found):
    row = named(found["systems"], "D")
    skill, own = row["skill"]["value"], row["skill_among_parsed"]["value"]
    accuracy = row["acceptable"]["value"]
    assert accuracy == pytest.approx(row["random_gate"] + skill)
    assert accuracy == pytest.approx(row["random_gate_among_parsed"] + own)
    # The parser's part is what the reference gate's skill comes to at D's accept rate.
    cheap, strong = inside.columns["cheap"], inside.columns["strong"]
    parsed = cheap.parsed[:, 0]
    parser = gate_skill(parsed, cheap.acceptable[:, 0], strong.acceptable[:, 0])
    share = row["accept_rate"]["value"] / row["parse_rate"]
    assert skill - own == pytest.approx(share * parser)
    assert row["over_accept_what_parses"]["value"] == pytest.approx(
        accuracy - named(found["references"], "parses")["acceptable"]["value"]
    )


def test_pairs_of_one_step_are_its_distinct_proposals(inside, found):
    cheap, scores = inside.columns["cheap"], inside.judged["classifier", "cheap"].log_odds
    wins = pairs = 0.0
    for i in range(scores.shape[0]):
        rows = [k for k in range(SAMPLES) if cheap.first_of_its_kind[i, k]]
        for good in (k for k in rows if cheap.acceptable[i, k]):
            for bad in (k for k in rows if not cheap.acceptable[i, k]):
                pairs += 1
                wins += scores[i, good] > scores[i, bad]
    assert pairs > 20
    row = next(row for row in found["verifiers"] if row["system"] == "D")
    assert row["auroc_same_step"]["value"] == pytest.approx(wins / pairs)


def test_verifier_of_one_sample_has_no_pairs_of_one_step():
    outcomes = make_outcomes(1)
    judged = outcomes.judged["classifier", "cheap"]
    alone = judged.log_odds.copy()
    alone[:, 1:] = NAN
    outcomes.judged["reward_model", "cheap"] = replace(
        judged, verifier_id="reward_model", log_odds=alone
    )
    found = results_of(outcomes)
    row = next(row for row in found["verifiers"] if row["name"] == "reward_model")
    assert row["auroc_same_step"] is None
    to_markdown({"replay": found})


def test_contrasts_hold_d_against_reference_gates_with_the_numbers_of_its_row(found):
    row = named(found["systems"], "D")
    by_name = {contrast["name"]: contrast for contrast in found["contrasts"]}
    assert by_name["D beats its random gate"]["difference"] == row["skill"]
    among = by_name["D beats a random gate among what parses"]
    assert among["difference"] == row["skill_among_parsed"]
    beside = by_name["D beats accepting what parses"]
    assert beside["difference"] == row["over_accept_what_parses"]
    assert "p_holm" not in among
    declared = {contrast.name for contrast in CONTRASTS}
    assert all(by_name[name]["p_holm"] >= by_name[name]["p_value"] for name in declared)


def test_strong_and_cheap_are_compared_at_the_arguments_level_too(inside, found):
    contrast = named(found["contrasts"], "strong beats cheap, arguments level")
    strong, cheap = (
        inside.columns[role].levels["arguments"][:, 0].mean() for role in ("strong", "cheap")
    )
    assert contrast["level"] == "arguments"
    assert contrast["difference"]["value"] == pytest.approx(strong - cheap)


def test_families_are_parts_of_the_steps_and_systems_are_measured_inside(outcomes, found):
    for row in found["systems"]:
        within, outside = row["families"]["in_family"], row["families"]["out_of_family"]
        assert within["n"] + outside["n"] == NUM_TASKS * STEPS_PER_TASK
        assert within["n"] == row["n"] == int((~outcomes.table.out_of_family).sum())
        for key in ("acceptable", "accept_rate", "difference_from_a"):
            if key in within:
                assert within[key]["value"] == pytest.approx(row[key]["value"])


def test_results_outside_do_not_move_those_of_the_systems():
    moved = results_of(make_outcomes(1, strong_outside=1.0))["systems"]
    still = results_of(make_outcomes(1, strong_outside=0.0))["systems"]
    for one, other in zip(moved, still, strict=True):
        assert one["acceptable"]["value"] == other["acceptable"]["value"]
    rows = [named(rows, "A")["families"]["out_of_family"]["acceptable"] for rows in (moved, still)]
    assert [row["value"] for row in rows] == [1.0, 0.0]


def test_model_that_is_never_right_outside_its_families_is_said_to_be_worse_there():
    # It fails 96 of 96 steps there: no bootstrap has an interval for that.
    found = results_of(make_outcomes(2, strong_outside=0.0))
    outside = named(found["systems"], "A")["families"]["out_of_family"]["acceptable"]
    assert (outside["value"], outside["low"]) == (0.0, 0.0)
    # 16 tasks of 6 steps, each task counted once: 3.84 / (16 + 3.84)
    assert outside["high"] == pytest.approx(0.1936, abs=1e-4)
    text = next(v for v in verdicts({"replay": found}) if v.startswith("The strong model is worse"))
    assert "never saw" in text


def test_system_is_exactly_itself(found):
    a = named(found["systems"], "A")["difference_from_a"]
    assert (a["value"], a["low"], a["high"]) == (0.0, 0.0, 0.0)


def test_steps_without_labels_are_left_out_and_counted():
    unknown = range(10, 30)
    test = make_outcomes(3, unknown=set(unknown))
    found = results_of(test)
    for row in found["systems"]:
        assert row["num_unlabelled"] == 20
        assert row["acceptable"]["n"] == row["n"] - 20
        assert "20 of 192 steps have no label" in row["acceptable"]["note"]
    assert found["proposers"][0]["num_unlabelled"] == 20
    judge = found["verifiers"][0]
    assert judge["n"] + judge["num_unparsable"] + judge["num_unlabelled"] == 192
    kept = np.setdiff1d(np.arange(192), np.array(unknown))
    labels = test.columns["cheap"].acceptable[kept]
    assert found["proposers"][0]["coverage"][-1] == pytest.approx(labels.max(axis=1).mean())
    # A curve and its bounds are then of different steps, which the page has to say.
    assert "a curve may pass beyond them" in to_markdown({"replay": found})


def test_verifiers_are_compared_on_what_both_have_scored(outcomes):
    key = ("proposer_logprob", "cheap")
    some = outcomes.judged[key]
    scores = some.log_odds.copy()
    scores[::3] = NAN  # fewer than the trained verifier has
    judged = {**outcomes.judged, key: replace(some, log_odds=scores)}
    test = replace(outcomes, judged=judged)
    row = results_of(test)["verifiers"]
    row = next(r for r in row if r["system"] == "D")
    inside = test.take(~test.table.out_of_family)
    both = ~np.isnan(inside.judged[key].log_odds[:, 0])
    both &= ~np.isnan(inside.judged["classifier", "cheap"].log_odds[:, 0])
    assert row["gain_over"]["proposer_logprob"]["n"] == both.sum() < row["n"]
    scores[:] = NAN
    found = results_of(replace(test, judged={**judged, key: replace(some, log_odds=scores)}))
    row = next(r for r in found["verifiers"] if r["system"] == "D")
    assert "proposer_logprob" not in row["gain_over"]
    to_markdown({"replay": found})


def test_test_split_without_labels_is_evaluated_as_far_as_it_goes():
    found = results_of(make_outcomes(3, unknown=set(range(NUM_TASKS * STEPS_PER_TASK))))
    assert found["verifiers"] == []
    assert all(row["acceptable"]["value"] is None for row in found["systems"])
    to_markdown({"replay": found})


def with_labels_turned(outcomes, rows):
    columns = {}
    for role, found in outcomes.columns.items():
        labels = found.acceptable.copy()
        labels[rows] = 1.0 - labels[rows]
        columns[role] = replace(found, acceptable=labels)
    return replace(outcomes, columns=columns)


def test_certified_thresholds_know_no_label_of_the_fitting_half_nor_of_the_test(outcomes):
    calibration = make_outcomes(7, unknown=set(range(STEPS_PER_TASK)))  # a task without a label
    gates = calibrate(calibration, calibration_hash="h", seed=0)
    codes, _ = cluster_codes(calibration.table.task_ids, len(calibration.table.steps))
    fits = fitting_half(codes, np.random.default_rng(0))

    def thresholds(on, test):
        found = evaluate(test, gates, [], calibration=on, seed=0, num_resamples=20)
        return [
            certificate["threshold"]
            for row in found["certificates"]
            for target in row["targets"]
            for certificate in target["certificates"]
        ]

    expected = thresholds(calibration, outcomes)
    assert any(threshold is not None for threshold in expected)
    everywhere = np.ones(len(outcomes.table.steps), dtype=bool)
    assert thresholds(with_labels_turned(calibration, fits), outcomes) == expected
    assert thresholds(calibration, with_labels_turned(outcomes, everywhere)) == expected
    assert thresholds(with_labels_turned(calibration, ~fits), outcomes) != expected


def test_gate_is_not_fitted_on_steps_without_labels():
    whole = calibrate(make_outcomes(4), calibration_hash="h", seed=0)["D"]
    part = calibrate(make_outcomes(4, unknown=set(range(40))), calibration_hash="h", seed=0)["D"]
    rows = ("num_fit", "num_select")
    assert sum(whole.counts[k] for k in rows) > sum(part.counts[k] for k in rows)


def test_gate_that_accepts_whatever_parses_gets_no_credit_for_the_parser(outcomes):
    gates = calibrate(make_outcomes(7), calibration_hash="h", seed=0)
    gates["D"] = replace(gates["D"], threshold=0.0)
    found = as_json(evaluate(outcomes, gates, [], seed=0))
    row = named(found["systems"], "D")
    assert row["skill_among_parsed"]["value"] == 0.0
    assert row["accept_rate"]["value"] == pytest.approx(row["parse_rate"])
    assert any("adds nothing to the parser" in text for text in verdicts({"replay": found}))


def test_a_judge_to_whom_all_proposals_are_its_own_is_no_fault():
    nothing = np.array([0.0, np.nan, 0.0])
    _refuse_constant(SYSTEMS["C"], nothing)
    with pytest.raises(DegenerateResultError, match="must tell proposals apart"):
        _refuse_constant(SYSTEMS["D"], nothing)
    with pytest.raises(DegenerateResultError, match="all 2 have log-odds 0.5"):
        _refuse_constant(SYSTEMS["C"], nothing + 0.5)
