"""One row of the systems table: accuracy, acceptance, cost, and how it stands beside A."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specact_rl.eval.columns import LEVELS, StepTable
from specact_rl.eval.labelled import known, mean_of_known, paired_difference, rate
from specact_rl.eval.replay import SystemRun
from specact_rl.metrics.cost import AssumedCosts, gated_cost
from specact_rl.metrics.frontier import (
    agreement_rates,
    gate_skill_interval,
    oracle_gate,
    random_gate,
    worst_gate,
)
from specact_rl.metrics.paired import tost_equivalence
from specact_rl.metrics.resampling import cluster_bootstrap
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray, MetricValue
from specact_rl.policy.systems import PANEL, PEERS
from specact_rl.types import ACTION_TYPES

MARGIN = 0.02
"""Accuracy within which a system counts as no worse than the strong model alone."""
ALPHA = 0.05
"""Level of the test that it is no worse."""
NUM_RESAMPLES = 10_000
COSTS = ("flops", "seconds", "price")
"""Measured costs of a `SystemRun`."""


def system_report(
    run: SystemRun,
    table: StepTable,
    strong_only: SystemRun,
    costs: Mapping[str, MetricValue | None],
    rng: np.random.Generator,
    reference: SystemRun | None,
    num_resamples: int,
) -> dict[str, Any]:
    """A system's row as JSON.

    Args:
        run: What the system did.
        table: The test steps.
        strong_only: System A on the same steps.
        costs: Its part of `relative_costs`.
        rng: Of the other intervals.
        reference: What accepting everything that parses did, with the same proposals; None for a
            system without a gate.
        num_resamples: Draws of each.
    """
    tasks = table.task_ids
    row: dict[str, Any] = {
        "name": run.system.name,
        "title": run.system.title,
        "proposer": run.system.proposer,
        "num_proposals": run.system.num_proposals,
        "fallback": run.system.fallback,
        "n": len(table.steps),
        "num_unlabelled": int((~known(run.acceptable)).sum()),
        "acceptable": rate(run.acceptable, tasks),
        "same_state": rate(run.same_state, tasks),
        **_levels(run, table),
        "strong_calls": _strong_calls(run),
        "mflops_per_step": _mean(run.flops / 1e6),
        "relative_flops": costs["flops"],
        "ms_per_step": _mean(run.seconds * 1e3),
        "relative_seconds": costs["seconds"],
        "price_per_step": _mean(run.price),
        "relative_price": costs["price"],
        "assumed_cost": assumed_cost(run, run.accept_rate),
        "num_distinct": float(run.num_distinct.mean()),
        "difference_from_a": _from_a(run, strong_only, tasks, rng, num_resamples),
        "by_type": _by_type(run, table, strong_only),
    }
    if run is not strong_only:
        row |= _equivalence(run, strong_only, tasks)
    if run.system.proposer is not None:
        row["accept_rate"] = _accept_rate(run, run.accepted, tasks)
        row["selective_risk"] = _selective_risk(run, tasks)
        if run.system.fallback:
            row |= _against_reference_gates(run, strong_only, tasks, rng, num_resamples)
    if reference is not None:
        row["over_accept_what_parses"] = paired_difference(
            run.acceptable, reference.acceptable, tasks, rng, num_resamples
        )
    return row


def _levels(run: SystemRun, table: StepTable) -> dict[str, MetricValue | None]:
    """Agreement with the reference actions by level; None where the steps have none."""
    if not (table.reference_types != "").any():
        return dict.fromkeys(map(str, LEVELS))
    return {level: rate(run.levels[level], table.task_ids) for level in LEVELS}


def _strong_calls(run: SystemRun) -> float | None:
    """Share of the steps that call the strong model; None where it is one of a panel."""
    return None if run.system.proposer == PANEL else float(run.called.mean())


def _mean(values: FloatArray) -> float | None:
    """None where a value is not known."""
    mean = float(values.mean())
    return None if np.isnan(mean) else mean


def _from_a(
    run: SystemRun,
    strong_only: SystemRun,
    tasks: IntArray,
    rng: np.random.Generator,
    num_resamples: int,
) -> MetricValue:
    if run is strong_only:  # exactly, whatever the rows
        return MetricValue(value=0.0, low=0.0, high=0.0, n=tasks.size)
    return paired_difference(run.acceptable, strong_only.acceptable, tasks, rng, num_resamples)


def _equivalence(run: SystemRun, strong_only: SystemRun, tasks: IntArray) -> dict[str, Any]:
    """TOST against A, and the one of its two tests that asks for no more than "not worse"."""
    here = known(run.acceptable, strong_only.acceptable)
    if np.unique(tasks[here]).size < 2:
        return {"equivalence": None, "not_worse_than_a": None}
    test = tost_equivalence(
        run.acceptable[here], strong_only.acceptable[here], tasks[here], margin=MARGIN
    )
    return {"equivalence": test, "not_worse_than_a": test.p_not_worse <= ALPHA}


def _against_reference_gates(
    run: SystemRun,
    strong_only: SystemRun,
    tasks: IntArray,
    rng: np.random.Generator,
    num_resamples: int,
) -> dict[str, Any]:
    """Skill over random gates of the same accept rate, and what any gate of that rate could reach.

    Both kinds of random gate: among all proposals, and among those that parse. The second leaves
    out of the skill what the parser alone is worth.
    """
    here = known(run.offered, strong_only.acceptable)
    if not here.any():
        return {}
    accepted, parsed = run.accepted[here], run.parsed[here]
    cheap, strong = (
        labels[here].astype(np.bool_) for labels in (run.offered, strong_only.acceptable)
    )
    rates, a = agreement_rates(cheap, strong), float(accepted.mean())
    skill, among_parsed = (
        gate_skill_interval(
            accepted,
            cheap,
            strong,
            tasks[here],
            rng=rng,
            eligible=eligible,
            num_resamples=num_resamples,
        )
        for eligible in (None, parsed)
    )
    assert among_parsed.value is not None
    accuracy = float(np.where(accepted, cheap, strong).mean())
    return {
        "skill": skill,
        "skill_among_parsed": among_parsed,
        "parse_rate": float(parsed.mean()),
        "random_gate": random_gate(rates, a),
        "random_gate_among_parsed": accuracy - among_parsed.value,
        "oracle_gate": oracle_gate(rates, a),
        "worst_gate": worst_gate(rates, a),
        "peak_oracle": rates.peak_oracle,
    }


def ratio_of_totals(
    a: FloatArray, b: FloatArray, tasks: np.ndarray, rng: np.random.Generator
) -> MetricValue:
    """Total of a over total of b, clusters resampled; None where either is not known."""
    if not (np.isfinite(a).all() and np.isfinite(b).all() and b.sum() > 0.0):
        return MetricValue(value=None, n=0, note="not known for every step")
    drawn = cluster_bootstrap({"a": a, "b": b}, tasks, rng=rng, num_resamples=NUM_RESAMPLES)
    return drawn.value(lambda totals: totals["a"] / totals["b"], n=a.size)


def relative_costs(
    runs: Sequence[SystemRun],
    strong_only: SystemRun,
    tasks: IntArray,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> list[dict[str, MetricValue | None]]:
    """FLOPs, seconds and price of each run in units of the strong model alone.

    Totals over totals; all from one set of resampled tasks, as costs differ from task to task and
    each set is dear. None where a total is not known.
    """
    columns = {
        f"{kind} {number}": values
        for number, run in enumerate((strong_only, *runs))
        for kind in COSTS
        if np.isfinite(values := getattr(run, kind)).all()
    }
    if not columns:
        return [dict.fromkeys(COSTS) for _ in runs]
    drawn = cluster_bootstrap(columns, tasks, rng=rng, num_resamples=num_resamples)

    def ratio(number: int, kind: str) -> MetricValue | None:
        own, whole = f"{kind} {number}", f"{kind} 0"
        if own not in columns or whole not in columns or columns[whole].sum() <= 0.0:
            return None
        return drawn.value(lambda totals: totals[own] / totals[whole], n=tasks.size)

    return [{kind: ratio(number + 1, kind) for kind in COSTS} for number in range(len(runs))]


def nothing_rejected(n: int) -> MetricValue:
    """Accept rate over n steps of a system without a fallback, which is no measurement."""
    return MetricValue(value=1.0, n=n, note="by definition: nothing is rejected")


def _accept_rate(run: SystemRun, accepted: BoolArray, tasks: IntArray) -> MetricValue:
    if not run.system.fallback:
        return nothing_rejected(tasks.size)
    return rate(accepted, tasks)


def _selective_risk(run: SystemRun, tasks: IntArray) -> MetricValue:
    if not run.accepted.any():
        return MetricValue(value=None, n=0, note="nothing is accepted")
    return rate(1.0 - run.offered[run.accepted], tasks[run.accepted])


def assumed_cost(run: SystemRun, accept_rate: float) -> float | None:
    """With the source report's constants (cheap 0.15, verifier 0.10, strong 1), fallback paid.

    None where other models propose.
    """
    if run.system.proposer in (PEERS, PANEL):
        return None
    costs = AssumedCosts()
    if run.system.proposer is None:
        return costs.strong
    scored = float(run.num_distinct.mean()) if run.system.verifier is not None else 0.0
    return gated_cost(
        costs,
        accept_rate,
        num_proposals=max(run.system.num_proposals, run.system.num_compared),
        num_scored=scored,
        fallback=run.system.fallback,
    )


def _by_type(run: SystemRun, table: StepTable, strong_only: SystemRun) -> dict[str, Any]:
    """Per action type of the expert's action: steps, accept rate and accuracies."""
    rows: dict[str, Any] = {}
    for action_type in ACTION_TYPES:
        here = table.reference_types == action_type
        if here.any():
            rows[action_type] = {
                "n": int(here.sum()),
                "accept_rate": float(run.accepted[here].mean()),
                "acceptable": mean_of_known(run.acceptable[here]),
                "strong_acceptable": mean_of_known(strong_only.acceptable[here]),
            }
    return rows


def family_rows(
    run: SystemRun,
    strong_only: SystemRun,
    table: StepTable,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """The steps of task families that were trained on, and of those that were held out.

    Empty where no family was held out.
    """
    if not table.out_of_family.any():
        return {}

    def row(here: BoolArray) -> dict[str, Any]:
        tasks = table.task_ids[here]
        mine, strong = (run.acceptable[here], strong_only.acceptable[here])
        found: dict[str, Any] = {"n": int(here.sum()), "acceptable": rate(mine, tasks)}
        if run is not strong_only:
            found["accept_rate"] = _accept_rate(run, run.accepted[here], tasks)
            found["difference_from_a"] = paired_difference(mine, strong, tasks, rng, num_resamples)
        return found

    groups = {"in_family": ~table.out_of_family, "out_of_family": table.out_of_family}
    return {name: row(here) for name, here in groups.items() if here.any()}
