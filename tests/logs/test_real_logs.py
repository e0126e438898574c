"""Public logs as they are published, where they lie beside the checkout or in SPECACT_REAL_LOGS.

The numbers were computed independently of this library.
"""

import json
import os
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from specact_rl.logs.facts import log_facts
from specact_rl.logs.groups import official_score
from specact_rl.logs.importers import read_log
from specact_rl.logs.tool_types import action_histogram
from specact_rl.metrics.value import self_oracle
from specact_rl.mining.pair_report import count_partings, distances_of
from specact_rl.mining.pairs import CONTRASTS, mine_pairs

ROOT = Path(os.environ.get("SPECACT_REAL_LOGS", Path(__file__).parents[3] / "shared" / "data"))


@cache
def _read(name):
    return read_log(ROOT / name)


def load(name):
    if not (ROOT / name).is_dir():
        pytest.skip(f"no {name} in {ROOT}: set SPECACT_REAL_LOGS to a folder of public logs")
    return _read(name)


def cells(rollouts, cheap, strong, keep=lambda rollout: True):
    """(accuracy, accuracy, (both, only cheap, only strong, neither)) by parts of model names."""
    by_model = {
        part: {r.task_id: official_score(r) for r in rollouts if part in r.policy and keep(r)}
        for part in (cheap, strong)
    }
    ours, theirs = by_model[cheap], by_model[strong]
    assert ours.keys() == theirs.keys()
    counts = Counter((ours[task], theirs[task]) for task in ours)
    both, a, b, neither = (
        counts[key] for key in ((True, True), (True, False), (False, True), (False, False))
    )
    n = counts.total()
    return n, round((both + a) / n, 3), round((both + b) / n, 3), (both, a, b, neither)


@pytest.mark.parametrize(
    ("cheap", "strong", "expected"),
    [
        ("Llama-3-8B-Instruct", "Llama-3-70B-Instruct", (0.589, 0.840, (761, 58, 407, 164))),
        ("xLAM-1b", "xLAM-7b", (0.777, 0.881, (1042, 38, 183, 127))),
        ("Llama-3-8B", "Llama-3-70B", (0.706, 0.737, (827, 155, 198, 210))),
        ("gpt-4o-mini", "gpt-4o-2024", (0.859, 0.263, (306, 888, 60, 136))),
    ],
    ids=["llama", "xlam", "hermes", "gpt-4o"],
)
def test_pairs_of_the_august_2024_leaderboard(cheap, strong, expected):
    rollouts = load("bfcl_2024_08").result.rollouts
    hermes = expected[0] == 0.706
    rollouts = [r for r in rollouts if r.policy.startswith("NousResearch") == hermes]
    assert cells(rollouts, cheap, strong) == (1390, *expected)


def test_the_inverted_pair_of_august_2024_is_flagged_with_its_cause():
    loaded = load("bfcl_2024_08")
    assert loaded.importer == "bfcl"
    assert loaded.result.dropped == {}
    flags = [f for f in loaded.result.flags if f.kind == "format_failures"]
    assert {f.group.split()[0] for f in flags} == {"gpt-4o-2024-08-06"}
    fenced = sum(int(f.detail.split("(")[1].split()[0]) for f in flags)
    assert fenced == 1004  # as the source of the log counts them


def test_gpt_oss_on_single_calls_with_parallel_categories_flagged():
    loaded = load("bfcl_v4_gpt_oss")
    main = [r for r in loaded.result.rollouts if r.info["run"] == "2025-11-12-main"]

    def single(rollout):
        return not rollout.family.startswith(("parallel", "multi_turn"))

    assert cells(main, "20b", "120b", single) == (750, 0.809, 0.8, (557, 50, 43, 100))
    flags = Counter(f.kind for f in loaded.result.flags)
    unknown = [f for f in loaded.result.flags if f.kind == "unknown_tools"]
    assert sum(int(f.detail.split()[0]) for f in unknown) == 16  # most are like "echo<|channel|>"
    flags.pop("unknown_tools")
    assert flags == {
        "harness_fault": 2,
        "lost_calls": 2,
        "degenerate_group": 2,
        "server_errors": 2,
    }


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        # calls in a refused format: 980 of gpt-4o, in fences, and 205 of other models
        ("bfcl_2024_08", {"format_error": 1185}),
        # answers of a server that drops all calls but the first
        ("bfcl_v4_gpt_oss", {"lost_call": 800, "server_error": 2}),
    ],
)
def test_failures_of_a_format_a_harness_or_a_server_are_no_negatives(name, faults):
    rollouts = load(name).result.rollouts
    faulty = {r.rollout_id: r for r in rollouts if r.info.get("fault")}
    assert Counter(r.info["fault"] for r in faulty.values()) == faults
    assert {official_score(r) for r in faulty.values()} == {False}
    assert {step.acceptable for r in faulty.values() for step in r.steps} == {None}
    for strategy in CONTRASTS:
        pairs = mine_pairs(rollouts, strategies=[strategy]).pairs
        assert not [pair for pair in pairs if pair.rejected.source_id in faulty]


def test_gpt_oss_multi_turn_successes_by_run():
    rollouts = load("bfcl_v4_gpt_oss").result.rollouts
    counts = Counter(
        (r.info["run"], r.policy)
        for r in rollouts
        if "multi_turn" in r.family and official_score(r)
    )
    assert counts == {
        ("2025-11-12-main", "openai_gpt-oss-20b"): 6,
        ("2025-11-12-main", "openai_gpt-oss-120b"): 6,
        ("2025-11-12-harmony-fixes", "openai_gpt-oss-20b"): 10,
        ("2025-11-12-harmony-fixes", "openai_gpt-oss-120b"): 13,
    }


def test_tau_bench_airline_of_gpt_4o():
    loaded = load("tau_bench")
    assert (loaded.importer, loaded.result.dropped, loaded.result.flags) == ("tau_bench", {}, [])
    facts = log_facts(loaded.result.rollouts)
    (agent,) = facts.agents
    assert (facts.num_rollouts, facts.num_tasks) == (200, 50)
    assert agent.pass_hat == pytest.approx({1: 0.420, 2: 0.273, 3: 0.220, 4: 0.200}, abs=5e-4)
    assert (facts.num_mixed_tasks, facts.num_outcome_pairs) == (26, 88)
    assert (facts.num_always_solved, facts.num_never_solved) == (10, 14)
    assert loaded.result.counts()["steps"] / 200 == pytest.approx(12.3, abs=0.05)


@pytest.mark.parametrize(
    ("name", "family", "places", "pairs"),
    [
        ("tau_bench", "airline", {"first_user_message": 86, "later_user_message": 2}, (2, 0, 60)),
        ("tau_bench_qwen3_4b", "airline", {"first_user_message": 6}, (0, 0, 5)),
        ("bfcl_v4_gpt_oss", "multi_turn_base", {"action": 27, "nowhere": 3}, (22, 16, 0)),
        ("bfcl_2024_08", "simple", {"action": 1183}, (294, 285, 0)),
    ],
)
def test_where_successes_and_failures_part_and_what_pairs_they_give(name, family, places, pairs):
    rollouts = [r for r in load(name).result.rollouts if r.family == family]
    assert count_partings(rollouts)[family] == places
    mined = [mine_pairs(rollouts, strategies=[strategy]).counts for strategy in CONTRASTS]
    assert tuple(count[s] for count, s in zip(mined, CONTRASTS, strict=True)) == pairs


def test_like_histories_of_tau_bench_are_a_quarter_apart():
    pairs = mine_pairs(load("tau_bench").result.rollouts, strategies=["approx_prefix"]).pairs
    found = distances_of([pair.distance for pair in pairs])
    assert (found.num_pairs, round(found.median, 2)) == (60, 0.28)


def test_tau_bench_of_qwen3_4b_without_the_simulators_thoughts():
    loaded = load("tau_bench_qwen3_4b")
    facts = log_facts(loaded.result.rollouts)
    assert (facts.num_rollouts, facts.num_tasks, facts.num_mixed_tasks) == (74, 50, 6)
    assert sum(r.success for r in loaded.result.rollouts) == 30
    assert facts.agents[0].accuracy == pytest.approx(0.340, abs=5e-4)
    flag = next(f for f in loaded.result.flags if f.kind == "answer_key_removed")
    assert flag.detail.startswith("285 user messages")
    users = [m for r in loaded.result.rollouts for m in r.messages if m["role"] == "user"]
    assert (len(users), sum("think>" in m["content"] for m in users)) == (285, 0)
    assert all(m["content"].strip() for m in users)


@pytest.mark.parametrize("name", ["tau_bench", "tau_bench_qwen3_4b"])
def test_no_gold_instruction_of_tau_bench_reaches_a_context(name):
    loaded = load(name)
    path = next((ROOT / name).rglob("*[0-9e].json"))
    records = json.loads(path.read_text())
    text = json.dumps([[r.messages, r.info] for r in loaded.result.rollouts])
    instructions = {record["info"]["task"]["instruction"] for record in records}
    assert len(instructions) > 40
    assert not [i for i in instructions if json.dumps(i)[1:-1] in text]


@pytest.mark.parametrize(
    ("cheap", "expected"),
    [
        ("GPT-5 mini", (0.598, 0.650, (271, 28, 54, 147))),
        ("GPT-5 nano", (0.348, 0.650, (162, 12, 163, 163))),
    ],
)
def test_swe_bench_verified(cheap, expected):
    rollouts = load("swe_bench_verified").result.rollouts
    assert cells(rollouts, cheap, "GPT-5 (") == (500, *expected)


def test_broken_flags_of_swe_bench_are_withheld():
    result = load("swe_bench_verified").result
    (flag,) = result.flags
    assert (flag.kind, flag.group.startswith("Claude 3.7")) == ("labels_withheld", True)
    assert {r.success for r in result.rollouts if r.policy == flag.group} == {None}


def test_swe_bench_cl_has_verdicts_of_two_runs_and_no_pairs():
    path = ROOT / "swe_bench_cl" / "eval_state.json"
    if not path.is_file():
        pytest.skip(f"no {path}: set SPECACT_REAL_LOGS to a folder of public logs")
    rollouts = read_log(path).result.rollouts
    verdicts = Counter((r.info["run"], r.success) for r in rollouts)
    assert verdicts == {
        ("memory_disabled", True): 3,
        ("memory_disabled", False): 56,
        ("memory_enabled", True): 5,
        ("memory_enabled", False): 149,
    }
    assert mine_pairs(rollouts, strategies=["outcome"]).pairs == []


def test_tinyagent_plans():
    result = load("tinyagent").result
    policies = Counter(r.policy for r in result.rollouts)
    assert (policies, result.dropped) == ({"reference_plan": 1123, "tinyagent": 65}, {})
    assert len(result.rollouts[0].tools) == 16


@pytest.mark.parametrize(
    ("name", "action_type", "share"),
    [
        # published shares of a taxonomy made independently; docs/data-formats.md has the rest
        ("tau_bench", "retrieval", 0.073),
        ("tau_bench", "file_read", 0.201),
        ("tau_bench", "file_write", 0.098),
        ("tau_bench", "BLOCKED", 0.069),
        ("tau_bench_qwen3_4b", "file_write", 0.126),
        ("tau_bench_qwen3_4b", "file_read", 0.300),
        ("tau_bench_qwen3_4b", "retrieval", 0.107),
    ],
)
def test_shares_of_action_types_agree_to_a_point(name, action_type, share):
    histogram = action_histogram(load(name).result.rollouts)
    assert histogram[action_type] / sum(histogram.values()) == pytest.approx(share, abs=0.01)


def test_gpt_4o_beside_itself_would_be_an_oracle_of_56_7_percent():
    runs = {}
    for rollout in load("tau_bench").result.rollouts:
        runs.setdefault(rollout.task_id, []).append(float(rollout.success))
    m = self_oracle(np.array(list(runs.values())), sorted(runs))
    assert np.mean(list(runs.values())) == pytest.approx(0.420)
    assert m.value == pytest.approx(0.567, abs=5e-4)
    assert m.n == 50
