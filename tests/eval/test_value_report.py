"""The value of verification as rows of the results, and what the page says of them."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.replay import Judged, run_system
from specact_rl.eval.report.value_sections import frontier_section, value_section
from specact_rl.eval.report.verifier_verdicts import difference_target, worth_of_verifiers
from specact_rl.eval.system_report import relative_costs, system_report
from specact_rl.eval.value_report import Parts, frontier_report, value_report
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.frontier import gated_accuracy
from specact_rl.policy.calibrators import PlattCalibrator
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import SYSTEMS
from specact_rl.policy.thresholds import choose_by_utility

NAN = float("nan")
FREE = ("proposer_logprob", "linear")
NAMES = ("A", "B", "C", "D", "E", "D-logp", "D-nf")


def columns(model_id, acceptable, parsed=None):
    """Proposals of 10 tokens behind prompts of 40; shape (n, k)."""
    right = np.asarray(acceptable, dtype=np.float64)
    n, k = right.shape
    parsed = np.ones((n, k), dtype=bool) if parsed is None else parsed
    return ProposalColumns(
        model_id=model_id,
        proposals=[[] for _ in range(n)],
        acceptable=right,
        parsed=parsed,
        same_state=right,
        levels={},
        keys=np.where(parsed, np.arange(1, n * k + 1).reshape(n, k), 0),
        first_of_its_kind=parsed,
        num_distinct=parsed.sum(axis=1),
        action_types=np.full((n, k), "tool_call"),
        tools=np.full((n, k), "look"),
        effects=np.full((n, k), "read"),
        logprob=np.zeros((n, k)),
        tokens_known=True,
        prompt_tokens=np.full(n, 40),
        completion_tokens=np.full((n, k), 10),
        seconds=np.full((n, k), 0.1),
        tool_seconds=np.full((n, k), np.nan),
        price=np.full((n, k), NAN),
    )


def judged(verifier_id, log_odds, *, size=2, shares_strong=False):
    return Judged(
        verifier_id=verifier_id,
        size=ModelSize(num_params=size),
        shares_strong=shares_strong,
        log_odds=log_odds,
        seconds=np.zeros_like(log_odds),
    )


def make_parts(seed=0, num_tasks=100, steps_per_task=4, unknown=()):
    """A strong model that is better, a verifier that knows much, free ones that know less."""
    rng = np.random.default_rng(seed)
    n = num_tasks * steps_per_task
    tasks = np.repeat(np.arange(num_tasks), steps_per_task)
    hard = rng.normal(size=num_tasks)[tasks] + rng.normal(size=n)
    cheap = (hard[:, None] + rng.normal(size=(n, 3)) < -0.2).astype(float)
    strong = (hard + rng.normal(size=n) < 0.7).astype(float)[:, None]
    cheap[list(unknown)] = NAN
    parsed = rng.random((n, 3)) < 0.95
    known_right = np.nan_to_num(cheap)

    def noisy(signal):
        return np.where(parsed, signal * (known_right - 0.5) + rng.normal(size=(n, 3)), NAN)

    table = StepTable(
        steps=[None] * n,
        task_ids=tasks,
        rollouts=tasks,
        out_of_family=np.zeros(n, dtype=bool),
        reference_types=np.full(n, ""),
        families=np.full(n, "f"),
        indices=np.tile(np.arange(steps_per_task), num_tasks),
        num_out_of_reach=0,
    )
    of = {"cheap": columns("cheap", cheap, parsed), "strong": columns("strong", strong)}
    by = {
        ("classifier", "cheap"): judged("classifier", noisy(3.0)),
        ("strong_judge", "cheap"): judged("judge", noisy(2.0), shares_strong=True),
        ("proposer_logprob", "cheap"): judged("logp", noisy(1.0), size=0),
        ("linear", "cheap"): judged("linear", noisy(0.7), size=0),
    }
    sizes = {"cheap": ModelSize(num_params=3), "strong": ModelSize(num_params=10)}
    gates, runs = {}, {}
    for name in NAMES:
        system = SYSTEMS[name]
        own = by.get((system.verifier, system.proposer))
        if system.gated:
            scores = own.log_odds[:, 0]
            here = ~np.isnan(scores) & ~np.isnan(cheap[:, 0])
            calibrator = PlattCalibrator.fit(scores[here], cheap[here, 0] == 1.0)
            choice = choose_by_utility(
                calibrator.predict(scores[here]),
                cheap[here, 0] == 1.0,
                strong[here, 0] == 1.0,
                cost_weight=0.02,
                fallback_cost=1.0,
            )
            gates[name] = Gate.from_choice(
                calibrator,
                choice,
                verifier_id=own.verifier_id,
                proposer_id="cheap",
                calibration_hash="h",
                num_fit_rows=1,
                seed=0,
            )
        runs[name] = run_system(
            system,
            table,
            of["strong"],
            sizes["strong"],
            of["cheap"] if system.proposer else None,
            sizes["cheap"],
            own,
            gates.get(name),
        )
    return Parts(table=table, columns=of, judged=by, sizes=sizes, runs=runs, gates=gates)


def reports_of(parts, seed=0):
    """Both parts and the systems table, as results.json holds them."""
    rng = np.random.default_rng(seed)
    strong, tasks = parts.runs["A"], parts.table.task_ids
    costs = relative_costs(list(parts.runs.values()), strong, tasks, rng, 1_000)
    systems = [
        system_report(run, parts.table, strong, cost, rng, None, 1_000)
        for run, cost in zip(parts.runs.values(), costs, strict=True)
    ]
    found = {
        "systems": systems,
        "value": value_report(parts, FREE, np.random.default_rng(1)),
        "frontier": frontier_report(parts, systems, np.random.default_rng(1)),
    }
    return {"replay": json.loads(json.dumps(found, default=asdict, allow_nan=False))}


@pytest.fixture(scope="module")
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def results(parts):
    return reports_of(parts)


def named(rows, name):
    return next(row for row in rows if row["name"] == name)


def test_skill_and_accuracy_are_those_of_the_systems_table(results):
    for row in results["replay"]["value"]["systems"]:
        system = named(results["replay"]["systems"], row["name"])
        assert row["parts"]["skill"]["value"] == pytest.approx(system["skill"]["value"])
        assert row["envelope"]["accuracy"] == pytest.approx(system["acceptable"]["value"])
        for bound in ("random", "oracle", "worst"):
            assert row["envelope"][bound] == pytest.approx(system[f"{bound}_gate"])


def test_every_gated_system_has_a_row_and_no_other(results):
    names = [row["name"] for row in results["replay"]["value"]["systems"]]
    assert names == ["C", "D", "E", "D-logp"]
    assert [row["name"] for row in results["replay"]["frontier"]["gates"]] == names


def test_equal_rates_are_held_against_free_verifiers_of_the_same_proposals(parts, results):
    of_d = named(results["replay"]["value"]["systems"], "D")["at_equal_rate"]
    assert list(of_d) == list(FREE)
    # By hand: as many of the highest by confidence as D accepts; no ties, and enough of them.
    run = parts.runs["D"]
    scores = np.nan_to_num(parts.judged["proposer_logprob", "cheap"].log_odds[:, 0], nan=-np.inf)
    rival = np.isin(np.arange(scores.size), np.argsort(-scores)[: run.accepted.sum()])
    c, s = parts.columns["cheap"].acceptable[:, 0], parts.columns["strong"].acceptable[:, 0]
    expected = gated_accuracy(run.accepted, c, s) - gated_accuracy(rival, c, s)
    assert of_d["proposer_logprob"]["gain"]["value"] == pytest.approx(expected)
    # A verifier is not held against itself, nor one that chooses among several.
    assert (
        "proposer_logprob"
        not in named(results["replay"]["value"]["systems"], "D-logp")["at_equal_rate"]
    )
    assert named(results["replay"]["value"]["systems"], "E")["at_equal_rate"] == {}


def test_break_even_is_at_assumed_and_at_measured_costs(parts, results):
    assumed, measured = results["replay"]["value"]["break_even"]
    assert (assumed["proposal_cost"], assumed["verifier_cost"]) == (0.15, 0.1)
    # Steps of one rollout share a prompt of 40 tokens, which is read once; 10 are written a step.
    assert measured["proposal_cost"] == pytest.approx(3 / 10)
    assert measured["verifier_cost"] == pytest.approx(2 / 10, rel=0.06)  # 95 % parse
    joint = results["replay"]["value"]["joint"]
    assert sum(joint[key] for key in ("both", "only_cheap", "only_strong", "neither")) == (
        pytest.approx(1.0)
    )


def test_second_runs_stand_beside_the_oracle(parts, results):
    (row,) = results["replay"]["value"]["second_runs"]
    c, s = parts.columns["cheap"].acceptable, parts.columns["strong"].acceptable[:, 0]
    again = np.mean([np.maximum(c[:, 0], c[:, j]).mean() for j in (1, 2)])
    assert row["second_run"]["value"] == pytest.approx(again)
    assert row["oracle"]["value"] == pytest.approx(np.maximum(c[:, 0], s).mean())
    difference = np.maximum(c[:, 0], s).mean() - again
    assert row["oracle_over_second_run"]["value"] == pytest.approx(difference)


def test_curves_go_through_the_gate_and_end_at_the_two_models(parts, results):
    for row in results["replay"]["frontier"]["gates"]:
        first, last = row["curve"][0], row["curve"][-1]
        assert (first["accept_rate"], last["accept_rate"]) == (0.0, 1.0)
        strong = named(results["replay"]["systems"], "A")["acceptable"]["value"]
        assert first["acceptable"] == pytest.approx(strong)
        assert last["acceptable"] == pytest.approx(parts.runs[row["name"]].offered.mean())
        rates = [point["accept_rate"] for point in row["curve"]]
        assert rates == sorted(rates)


def test_costs_along_the_curve_are_those_of_systems_run_at_its_thresholds():
    parts = make_parts()
    found = reports_of(parts)["replay"]["frontier"]
    assert found["cost"] == "relative_flops"
    run, gate = parts.runs["D"], parts.gates["D"]
    inner = [point for point in named(found["gates"], "D")["curve"] if point["threshold"]]
    assert len({point["cost"] for point in inner}) > 10
    for point in inner:
        again = run_system(
            run.system,
            parts.table,
            parts.columns["strong"],
            parts.sizes["strong"],
            parts.columns["cheap"],
            parts.sizes["cheap"],
            parts.judged_of(run),
            replace(gate, threshold=point["threshold"]),
        )
        expected = again.flops.sum() / parts.strong.flops.sum()
        assert point["cost"] == pytest.approx(expected, rel=1e-9)


def test_thresholds_of_the_curve_do_not_depend_on_the_test_rows():
    thresholds = [
        [point["threshold"] for point in row["curve"]]
        for seed in (0, 5)
        for row in reports_of(make_parts(seed, 30))["replay"]["frontier"]["gates"]
    ]
    assert all(found == thresholds[0] for found in thresholds)


def test_judge_that_is_the_strong_model_saves_nothing_so_its_place_over_cost_is_undefined(results):
    share = named(results["replay"]["frontier"]["gates"], "C")["envelope_share"]
    assert share["value"] is None
    assert "a fallback costs nothing" in share["note"]
    assert named(results["replay"]["frontier"]["gates"], "D")["envelope_share"]["value"] > 0.2


def test_unlabelled_steps_take_no_part():
    found = reports_of(make_parts(unknown=range(0, 60)))["replay"]
    assert named(found["value"]["systems"], "D")["n"] == 340
    assert found["value"]["joint"]["n"] == 340
    nothing = reports_of(make_parts(num_tasks=40, unknown=range(150)))["replay"]
    assert named(nothing["value"]["systems"], "D")["n"] == 10


def test_system_without_a_label_has_no_row():
    parts = make_parts()
    run = parts.runs["D"]
    blank = columns("cheap", np.full((400, 3), NAN), parts.columns["cheap"].parsed)
    again = run_system(
        run.system,
        parts.table,
        parts.columns["strong"],
        parts.sizes["strong"],
        blank,
        parts.sizes["cheap"],
        parts.judged["classifier", "cheap"],
        parts.gates["D"],
    )
    bare = Parts(
        table=parts.table,
        columns={**parts.columns, "cheap": blank},
        judged=parts.judged,
        sizes=parts.sizes,
        runs={"A": parts.runs["A"], "D": again},
        gates=parts.gates,
    )
    found = reports_of(bare)["replay"]
    assert not any(found["value"].values())
    assert value_section({"replay": found}) is None


def test_difference_target_is_held_against_the_same_models_trained_on_being_right():
    parts = make_parts()
    # The gate on confidence in the place of D-diff: another threshold and another score.
    runs = {**parts.runs, "D-diff": parts.runs["D-logp"]}
    gates = {**parts.gates, "D-diff": parts.gates["D-logp"]}
    found = reports_of(replace(parts, runs=runs, gates=gates))
    (row,) = found["replay"]["value"]["difference_target"]
    a, b = parts.runs["D-logp"], parts.runs["D"]
    difference = (a.acceptable - b.acceptable).mean()
    assert row["difference"]["value"] == pytest.approx(difference)
    more_calls = b.accepted.mean() - a.accepted.mean()
    assert row["net_difference"]["value"] == pytest.approx(difference - 0.02 * more_calls)
    (finding,) = difference_target(found)
    assert finding.status in ("against", "open")
    beside_trees = replace(
        parts,
        runs={**runs, "D-trees": parts.runs["D"]},
        gates={**gates, "D-trees": parts.gates["D"]},
    )
    (row,) = reports_of(beside_trees)["replay"]["value"]["difference_target"]
    assert row["worse"] == "D-trees"


# The page -----------------------------------------------------------------------------------------


def text_of(section):
    return json.dumps(asdict(section), default=str, ensure_ascii=False)


def test_page_shows_sections_on_value_and_frontier(results):
    value, frontier = text_of(value_section(results)), text_of(frontier_section(results))
    for words in ("= by where the proposal is right", "measured FLOPs", "binormal scores need"):
        assert words in value
    assert "n = 400 steps of 100 tasks" in value
    assert "no mixture of two others beats" in frontier
    assert "AIQ" in frontier


def test_page_without_the_rows_has_no_sections():
    assert value_section({"replay": {"systems": []}}) is None
    assert frontier_section({}) is None


def test_verdict_says_what_each_verifier_adds(results):
    found = {f.claim: f for f in worth_of_verifiers(results)}
    (claim,) = [c for c in found if "(D)" in c]
    assert claim.startswith("The trained verifier (D) adds +")
    assert "over the proposer's own confidence" in claim
    assert found[claim].status == "shown"
    assert not [c for c in found if "(D-logp)" in c]  # it costs nothing


def gain_results(low, high, more_tasks, certificates=()):
    gain = {"value": (low + high) / 2, "low": low, "high": high, "n": 90, "num_clusters": 30}
    row = {
        "name": "D",
        "verifier": "classifier",
        "at_equal_rate": {"proposer_logprob": {"gain": gain, "more_tasks": more_tasks}},
    }
    return {"replay": {"value": {"systems": [row]}, "certificates": list(certificates)}}


@pytest.mark.parametrize(
    ("low", "high", "more_tasks", "status", "words"),
    [
        (0.01, 0.03, 0, "shown", "adds +2.0 points"),
        (-0.03, -0.01, 0, "against", "takes away"),
        (-0.01, 0.03, 123, "open", "about 123 more tasks would settle it"),
        (-0.01, 0.010001, 10**9, "open", "More than 1,000,000 further tasks"),
        (-0.01, 0.01, None, "open", "not shown that the trained verifier (D) adds anything"),
    ],
)
def test_verdict_of_each_kind(low, high, more_tasks, status, words):
    (finding,) = worth_of_verifiers(gain_results(low, high, more_tasks))
    assert finding.status == status
    assert words in finding.text
    assert ("more tasks" in finding.text) is (words.startswith("about"))


@pytest.mark.parametrize(
    ("threshold", "words"),
    [(None, "No threshold certifies 5 %"), (0.8, "A threshold certifies 5 %")],
)
def test_verdict_says_whether_a_threshold_certifies_5_percent(threshold, words):
    exact = {"method": "exact", "threshold": threshold, "accept_rate": {"value": 0.3, "n": 90}}
    target = {"target": 0.05, "certificates": [exact]}
    row = {"system": "D", "targets": [{"target": 0.1, "certificates": [exact]}, target]}
    (finding,) = worth_of_verifiers(gain_results(0.01, 0.03, 0, [row]))
    assert words in finding.evidence
    task = {"method": "task", "threshold": 0.9, "accept_rate": {"value": 0.2, "n": 90}}
    row["targets"][1] = {"target": 0.05, "certificates": [exact, task]}
    (finding,) = worth_of_verifiers(gain_results(0.01, 0.03, 0, [row]))
    assert "No threshold certifies" not in finding.evidence  # as one does of tasks
    (without,) = worth_of_verifiers(gain_results(0.01, 0.03, 0))
    assert "certifies" not in without.evidence


def test_gap_that_is_not_there_is_refused_in_words_on_the_page():
    parts = make_parts()
    weak = columns("strong", np.zeros((400, 1)))
    runs = {
        name: run_system(
            run.system,
            parts.table,
            weak,
            parts.sizes["strong"],
            parts.columns["cheap"] if run.system.proposer else None,
            parts.sizes["cheap"],
            parts.judged.get((run.system.verifier, "cheap")),
            parts.gates.get(name),
        )
        for name, run in parts.runs.items()
    }
    changed = Parts(
        table=parts.table,
        columns={**parts.columns, "strong": weak},
        judged=parts.judged,
        sizes=parts.sizes,
        runs=runs,
        gates=parts.gates,
    )
    found = reports_of(changed)
    row = named(found["replay"]["frontier"]["gates"], "D")
    assert row["recovered_gap"] is None
    assert row["average_recovered_gap"]["value"] is None
    assert "sign would turn" in text_of(frontier_section(found))
