"""Calibrate on one split, evaluate on another: gates, then every system, verifier and contrast.

Gates are fitted from the calibration outcomes alone and are frozen before the test outcomes are
looked at. Everything here is joins; no model runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specact_rl.actions.serialise import action_text
from specact_rl.errors import DegenerateResultError
from specact_rl.eval.baselines import markov_actions, matches, nearest_actions
from specact_rl.eval.columns import LEVELS, ProposalColumns, StepTable
from specact_rl.eval.replay import Judged, SystemRun, offered_proposals, run_system
from specact_rl.eval.system_report import NUM_RESAMPLES, gate_skill_interval, system_report
from specact_rl.eval.verifier_report import verifier_report
from specact_rl.metrics.paired import (
    cluster_bootstrap_mean,
    holm,
    paired_cluster_bootstrap,
    sign_flip_test,
)
from specact_rl.metrics.values import BoolArray
from specact_rl.policy.fitting import COST_WEIGHT, fit_gate
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import SYSTEMS, System
from specact_rl.types import Step

STRONG = "strong"
FREE_VERIFIERS = ("proposer_logprob", "sample_agreement", "linear", "linear_with_confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """All outcome tables of one split, joined to its steps."""

    table: StepTable
    columns: dict[str, ProposalColumns]
    """Free-text proposals by role: cheap, strong, cheap_dpo."""
    judged: dict[tuple[str, str], Judged]
    """By key of the verifier and role of the proposer."""
    num_params: dict[str, int]
    """By role."""

    def has(self, system: System) -> bool:
        """Whether all that a system needs was collected."""
        if system.proposer is None:
            return STRONG in self.columns
        if system.proposer not in self.columns:
            return False
        return system.verifier is None or (system.verifier, system.proposer) in self.judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """Ranked proposals, which stand apart from free text and may cover fewer steps."""

    table: StepTable
    columns: dict[str, ProposalColumns]
    """By role."""


def calibrate(outcomes: Outcomes, *, calibration_hash: str, seed: int) -> dict[str, Gate]:
    """A gate for every gated system whose outcomes are there, by the system's name.

    Raises:
        DegenerateResultError: A verifier says the same of every proposal.
    """
    gates = {}
    strong = outcomes.columns[STRONG]
    for system in SYSTEMS.values():
        if not system.gated or not outcomes.has(system):
            continue
        assert system.proposer is not None  # as it is gated
        assert system.verifier is not None
        proposer = outcomes.columns[system.proposer]
        judged = outcomes.judged[system.verifier, system.proposer]
        offer = offered_proposals(system, proposer, judged)
        _refuse_constant(system, offer.log_odds)
        rows = np.arange(offer.pick.size)
        gates[system.name] = fit_gate(
            offer.log_odds,
            proposer.acceptable[rows, offer.pick],
            strong.acceptable[:, 0],
            outcomes.table.task_ids,
            verifier_id=judged.verifier_id,
            proposer_id=proposer.model_id,
            calibration_hash=calibration_hash,
            seed=seed,
        )
    return gates


def _refuse_constant(system: System, log_odds: np.ndarray) -> None:
    known = log_odds[~np.isnan(log_odds)]
    if known.size and np.ptp(known) < 1e-9:
        raise DegenerateResultError(
            f"verifier {system.verifier!r} of system {system.name} must tell proposals apart, but "
            f"all {known.size} have log-odds {known[0]:.4g}. Check that its classification head "
            "was saved and that its prompt template is the one it was trained with"
        )


def evaluate(
    test: Outcomes,
    gates: Mapping[str, Gate],
    train_steps: Sequence[Step],
    *,
    ranked: Ranked | None = None,
    seed: int,
) -> dict[str, Any]:
    """The replay part of results.json.

    Args:
        test: Outcomes of the test split.
        gates: Frozen gates by system.
        train_steps: Steps with references that the proposers were trained on, for the baselines.
        ranked: For rows of their own; None leaves them out.
        seed: Of every interval.
    """
    rng = np.random.default_rng(seed)
    runs = run_all(test, gates)
    strong_only = runs["A"]
    reports = []
    for name, run in runs.items():
        proposed = None
        if run.system.proposer is not None:
            columns = test.columns[run.system.proposer]
            proposed = columns.acceptable[np.arange(run.pick.size), run.pick]
        row = system_report(run, test.table, strong_only, proposed, rng)
        if name in gates:
            row |= {"threshold": gates[name].threshold, "gate_id": gates[name].gate_id}
        reports.append(row)
    return {
        "proposers": [_proposer_rows(role, c, test, rng) for role, c in test.columns.items()],
        "ranking": _ranking(ranked, rng) if ranked else [],
        "baselines": _baselines(test, train_steps, rng),
        "verifiers": _verifiers(test, gates, rng),
        "systems": reports,
        "contrasts": _contrasts(test, runs, rng),
        "examples": _examples(runs.get("D"), test),
    }


def run_all(outcomes: Outcomes, gates: Mapping[str, Gate]) -> dict[str, SystemRun]:
    """Every system whose parts are there, by name."""
    runs = {}
    for system in SYSTEMS.values():
        if not outcomes.has(system) or (system.gated and system.name not in gates):
            continue
        role = system.proposer
        runs[system.name] = run_system(
            system,
            outcomes.table,
            outcomes.columns[STRONG],
            outcomes.num_params[STRONG],
            outcomes.columns[role] if role else None,
            outcomes.num_params[role] if role else 0,
            outcomes.judged[system.verifier, role] if system.verifier and role else None,
            gates.get(system.name),
        )
    return runs


def _groups(table: StepTable) -> dict[str, BoolArray]:
    groups = {"all": np.ones(len(table.steps), dtype=np.bool_)}
    if table.out_of_family.any():
        groups |= {"in_family": ~table.out_of_family, "out_of_family": table.out_of_family}
    return groups


def _proposer_rows(role: str, columns: ProposalColumns, test: Outcomes, rng: Any) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for group, here in _groups(test.table).items():
        tasks = test.table.task_ids[here]
        hits: dict[str, BoolArray] = {
            "parsed": columns.parsed,
            **{str(level): columns.levels[level] for level in LEVELS},
            "same_state": columns.same_state,
            "acceptable": columns.acceptable,
        }
        rows[group] = {
            name: cluster_bootstrap_mean(hit[here, 0], tasks, rng=rng, num_resamples=NUM_RESAMPLES)
            for name, hit in hits.items()
        }
    k = columns.acceptable.shape[1]
    coverage = [float(columns.acceptable[:, : j + 1].any(axis=1).mean()) for j in range(k)]
    return {
        "role": role,
        "model_id": columns.model_id,
        "num_params": test.num_params[role],
        "groups": rows,
        "num_samples": k,
        "num_distinct": float(columns.first_of_its_kind.sum(axis=1).mean()),
        "coverage": coverage,
        "effective_k": _effective_k(coverage),
    }


def _effective_k(coverage: Sequence[float]) -> float | None:
    """Independent draws that would cover as much: ln(1 - hit_k) / ln(1 - hit_1)."""
    if not 0.0 < coverage[0] < 1.0 or coverage[-1] >= 1.0:
        return None
    return float(np.log1p(-coverage[-1]) / np.log1p(-coverage[0]))


def _ranking(ranked: Ranked, rng: Any) -> list[dict[str, Any]]:
    tasks = ranked.table.task_ids
    return [_ranking_row(role, columns, tasks, rng) for role, columns in ranked.columns.items()]


def _ranking_row(
    role: str, columns: ProposalColumns, tasks: np.ndarray, rng: Any
) -> dict[str, Any]:
    sizes = np.array([row[0].num_candidates for row in columns.proposals], dtype=np.float64)
    return {
        "role": role,
        "num_candidates": float(sizes.mean()),
        "chance": float((1.0 / sizes).mean()),
        "arguments": cluster_bootstrap_mean(columns.levels["arguments"][:, 0], tasks, rng=rng),
        "acceptable": cluster_bootstrap_mean(columns.acceptable[:, 0], tasks, rng=rng),
    }


def _baselines(test: Outcomes, train_steps: Sequence[Step], rng: Any) -> list[dict[str, Any]]:
    if not train_steps or "cheap" not in test.columns:
        return []
    cheap = test.columns["cheap"].levels["arguments"][:, 0]
    rows = []
    for name, predict in (("markov", markov_actions), ("nearest_neighbour", nearest_actions)):
        hit = matches(test.table.steps, predict(train_steps, test.table.steps), "arguments")
        rows.append(
            {
                "name": name,
                "arguments": cluster_bootstrap_mean(hit, test.table.task_ids, rng=rng),
                "cheap_minus_baseline": paired_cluster_bootstrap(
                    cheap, hit, test.table.task_ids, rng=rng
                ),
            }
        )
    return rows


def _verifiers(test: Outcomes, gates: Mapping[str, Gate], rng: Any) -> list[dict[str, Any]]:
    free = {
        key: judged
        for (key, role), judged in test.judged.items()
        if role == "cheap" and key in FREE_VERIFIERS
    }
    rows = []
    for system in SYSTEMS.values():
        single = system.num_proposals == 1 and system.proposer is not None
        if not system.gated or not single or system.name not in gates or not test.has(system):
            continue
        assert system.proposer is not None  # as it is gated
        assert system.verifier is not None
        report = verifier_report(
            system.verifier,
            test.table,
            test.columns[system.proposer],
            test.judged[system.verifier, system.proposer],
            gates[system.name],
            free if system.proposer == "cheap" else {},
            rng,
        )
        rows.append({"system": system.name, "proposer": system.proposer, **report})
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A comparison declared before any result was seen."""

    name: str
    better: str
    worse: str
    """Systems by name; the hypothesis is that `better` is acceptable more often."""


CONTRASTS = (
    Contrast(name="strong beats cheap", better="A", worse="B"),
    Contrast(name="D beats cheap only", better="D", worse="B"),
    Contrast(name="E beats D", better="E", worse="D"),
    Contrast(name="D beats own confidence", better="D", worse="D-logp"),
    Contrast(name="D beats linear features", better="D", worse="D-lin"),
    Contrast(name="D beats strong judge", better="D", worse="C"),
    Contrast(name="DPO beats SFT", better="B-dpo", worse="B"),
)


def _contrasts(test: Outcomes, runs: Mapping[str, SystemRun], rng: Any) -> list[dict[str, Any]]:
    tasks = test.table.task_ids
    rows: list[dict[str, Any]] = []
    for contrast in CONTRASTS:
        if contrast.better not in runs or contrast.worse not in runs:
            continue
        a, b = runs[contrast.better].acceptable, runs[contrast.worse].acceptable
        rows.append(
            {
                "name": contrast.name,
                "better": contrast.better,
                "worse": contrast.worse,
                "difference": paired_cluster_bootstrap(a, b, tasks, rng=rng),
                "p_value": sign_flip_test(a, b, tasks, rng=rng).p_value,
            }
        )
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    if "D" in runs:
        proposed = test.columns["cheap"].acceptable[:, 0]
        skill = gate_skill_interval(runs["D"].accepted, proposed, runs["A"].acceptable, tasks, rng)
        rows.append(
            {
                "name": "D beats its random gate",
                "better": "D",
                "worse": "random",
                "difference": skill,
            }
        )
    return rows


def _examples(run: SystemRun | None, test: Outcomes, each: int = 3) -> list[dict[str, Any]]:
    """A few steps of each kind: accepted and right, accepted and wrong, rejected and so on."""
    if run is None:
        return []
    cheap, strong = test.columns["cheap"], test.columns[STRONG]
    examples = []
    for accepted in (True, False):
        for right in (True, False):
            kind = (run.accepted == accepted) & (cheap.acceptable[:, 0] == right)
            for i in np.flatnonzero(kind)[:: max(1, int(kind.sum()) // each)][:each]:
                step = test.table.steps[i]
                reference = step.reference
                examples.append(
                    {
                        "step_id": step.step_id,
                        "request": next(m["content"] for m in step.history if m["role"] == "user"),
                        "last": str(step.history[-1].get("content") or ""),
                        "proposal": cheap.proposals[i][0].text,
                        "accepted": accepted,
                        "acceptable": right,
                        "p_accept": None if np.isnan(run.p_accept[i]) else float(run.p_accept[i]),
                        "fallback": strong.proposals[i][0].text,
                        "fallback_acceptable": bool(strong.acceptable[i, 0]),
                        "reference": None if reference is None else action_text(reference),
                    }
                )
    return examples


def calibration_rule() -> str:
    """How thresholds are chosen, in words, for the report."""
    return (
        "half of the calibration tasks fit the calibrator (cross-validated choice), the other half "
        f"choose the threshold that maximises accuracy minus {COST_WEIGHT} per strong call"
    )
