"""A curve's point is what the system does at that threshold, joined anew."""

from dataclasses import replace

import numpy as np
import pytest

from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.evaluate import calibrate, run_all
from specact_rl.eval.joined import STRONG, Outcomes
from specact_rl.eval.replay import Judged
from specact_rl.eval.threshold_curves import MAX_POINTS, curve_rows
from specact_rl.metrics.cost import NO_MODEL, ModelSize
from specact_rl.policy.systems import SYSTEMS

NAMES = ("A", "C", "D", "E", "D-agree")
SYSTEMS_HERE = {name: SYSTEMS[name] for name in NAMES}
NAN = float("nan")


def make_outcomes(make, seed, num_tasks=40, unknown=0.1):
    """Rollouts of one to five steps; some proposals unparsable, some labels unknown."""
    rng = np.random.default_rng(seed)
    turns = [(make.say("done"), None, make.say("done"))]
    table = StepTable.of_references(
        make.rollout(turns * rng.integers(1, 6), task=f"t{i}", split="test")
        for i in range(num_tasks)
    )

    def columns(role, num_samples, rate):
        rows = []
        for step in table.steps:
            prompt = 50 + 20 * step.index + int(rng.integers(10))
            for sample in range(num_samples):
                label = None if rng.random() < unknown else bool(rng.random() < rate)
                action = make.say(f"answer {rng.integers(3)}")
                broken = role == "cheap" and rng.random() < 0.1
                rows.append(
                    make.proposal(
                        step, "?{" if broken else action, False if broken else label,
                        sample=sample, model=role, num_prompt_tokens=prompt,
                        num_completion_tokens=int(rng.integers(1, 9)),
                    )
                )  # fmt: skip
        return ProposalColumns.of(table, rows)

    cheap = columns("cheap", 3, 0.5)
    noise = rng.normal(size=cheap.acceptable.shape).round(1)  # ties
    log_odds = np.where(cheap.parsed, 2 * (np.nan_to_num(cheap.acceptable) - 0.5) + noise, NAN)
    judged = {
        (key, "cheap"): Judged(
            verifier_id=key,
            size=NO_MODEL if key == "sample_agreement" else ModelSize(num_params=10),
            shares_strong=key == "strong_judge",
            log_odds=log_odds,
            seconds=np.zeros(log_odds.shape),
        )
        for key in ("classifier", "strong_judge", "sample_agreement")
    }
    return Outcomes(
        table=table,
        columns={"cheap": cheap, STRONG: columns(STRONG, 1, 0.6)},
        judged=judged,
        sizes={
            "cheap": ModelSize(num_params=30, attention_width=2),
            STRONG: ModelSize(num_params=100, attention_width=4),
        },
    )


@pytest.fixture(scope="module")
def test(make):
    return make_outcomes(make, 1)


@pytest.fixture(scope="module")
def gates(make):
    return calibrate(
        make_outcomes(make, 2, num_tasks=60), calibration_hash="h", seed=0, systems=SYSTEMS_HERE
    )


def curves(test, gates):
    return curve_rows(
        run_all(test, gates, SYSTEMS_HERE),
        gates,
        test.judged,
        test.table.rollouts,
        test.columns[STRONG],
        test.sizes[STRONG],
    )


@pytest.mark.parametrize("name", NAMES[1:])
def test_each_point_is_what_the_system_gives_at_that_threshold(test, gates, name):
    (curve,) = [row for row in curves(test, gates) if row["system"] == name]
    assert len(curve["threshold"]) > 5
    last = len(curve["threshold"]) - 1
    for i in sorted({*range(0, last, 12), curve["frozen"], last}):
        threshold = curve["threshold"][i]
        there = {**gates, name: replace(gates[name], threshold=threshold)}
        runs = run_all(test, there, SYSTEMS_HERE)
        run, strong = runs[name], runs["A"]
        accepted, drawn = run.accepted, max(run.system.num_proposals, run.system.num_compared)
        assert curve["num_accepted"][i] == accepted.sum()
        assert curve["accept_rate"][i] == accepted.mean()
        wrong = np.nanmean(1.0 - run.offered[accepted]) if accepted.any() else None
        assert curve["selective_risk"][i] == pytest.approx(wrong)
        assert curve["acceptable"][i] == pytest.approx(np.nanmean(run.acceptable))
        assert curve["strong_calls"][i] == pytest.approx(run.called.mean())
        flops = run.flops.sum() / strong.flops.sum()
        assert curve["relative_flops"][i] == pytest.approx(flops)
        tried = 0.15 * drawn + 0.10 * run.num_distinct.mean()  # the source report's prices
        assert curve["assumed_cost"][i] == pytest.approx(tried + 1.0 - accepted.mean())
        here = ~np.isnan(run.offered) & ~np.isnan(strong.acceptable)
        cheap, fallback = run.offered[here], strong.acceptable[here]
        rate = accepted[here].mean()
        at_random = rate * cheap.mean() + (1.0 - rate) * fallback.mean()
        assert curve["random_gate"][i] == pytest.approx(at_random)
        ranked, k = np.sort(cheap - fallback), int(accepted[here].sum())
        best, worst = ranked[ranked.size - k :].sum(), ranked[:k].sum()
        assert curve["oracle_gate"][i] == pytest.approx(fallback.mean() + best / here.sum())
        assert curve["worst_gate"][i] == pytest.approx(fallback.mean() + worst / here.sum())


def test_a_curve_goes_from_nothing_to_all_that_was_scored_through_the_frozen_threshold(test, gates):
    for curve in curves(test, gates):
        gate, run = gates[curve["system"]], run_all(test, gates, SYSTEMS_HERE)[curve["system"]]
        assert curve["threshold"][0] is None
        assert curve["num_accepted"][0] == 0
        assert curve["num_accepted"][-1] == (~np.isnan(run.p_accept)).sum()
        assert curve["num_accepted"] == sorted(set(curve["num_accepted"]))
        assert curve["threshold"][curve["frozen"]] == gate.threshold
        assert curve["num_accepted"][curve["frozen"]] == run.accepted.sum()
        assert len(curve["threshold"]) <= MAX_POINTS


@pytest.mark.parametrize("threshold", [None, 0.0, 2.0])
def test_a_frozen_threshold_at_either_end_has_its_place(test, gates, threshold):
    there = gates | {"D": replace(gates["D"], threshold=threshold)}
    (curve,) = [row for row in curves(test, there) if row["system"] == "D"]
    assert curve["threshold"][curve["frozen"]] == threshold
    end = len(curve["threshold"]) - 1 if threshold == 0.0 else 0
    assert curve["frozen"] == end
    assert curve["num_accepted"] == sorted(set(curve["num_accepted"]))


def test_a_gate_that_can_score_nothing_has_one_point(test, gates):
    judged = {
        key: replace(j, log_odds=np.full(j.log_odds.shape, NAN)) for key, j in test.judged.items()
    }
    for curve in curves(replace(test, judged=judged), gates):
        assert curve["num_accepted"] == [0]
        assert curve["selective_risk"] == [None]


def test_costs_that_are_not_known_are_none(test, gates):
    unknown = replace(test, sizes=test.sizes | {STRONG: None})
    assert {row["relative_flops"] for row in curves(unknown, gates)} == {None}


def test_without_a_label_there_is_neither_risk_nor_accuracy(make, gates):
    for curve in curves(make_outcomes(make, 3, unknown=1.1), gates):
        assert curve["acceptable"] == [None] * len(curve["threshold"])
        assert curve["random_gate"] is None
