"""Calibrate on one split, evaluate on another: gates, then every system, verifier and contrast.

Gates are fitted from the calibration outcomes alone and are frozen before the test outcomes are
looked at. Everything here is joins; no model runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from specact_rl.actions.serialise import shown_text
from specact_rl.errors import DegenerateResultError
from specact_rl.eval.calibration_report import calibration_rows
from specact_rl.eval.certificates import certificate_rows
from specact_rl.eval.columns import StepTable
from specact_rl.eval.contrasts import contrast_rows
from specact_rl.eval.joined import STRONG, Outcomes, Ranked
from specact_rl.eval.labelled import known
from specact_rl.eval.latency_report import cost_and_latency_rows
from specact_rl.eval.mistakes import mistake_rows
from specact_rl.eval.proposer_report import baseline_rows, proposer_row, ranking_row
from specact_rl.eval.replay import (
    SystemRun,
    accept_what_parses,
    offered_proposals,
    run_system,
)
from specact_rl.eval.system_report import (
    NUM_RESAMPLES,
    family_rows,
    relative_costs,
    system_report,
)
from specact_rl.eval.threshold_curves import curve_rows
from specact_rl.eval.value_report import Parts, frontier_report, value_report
from specact_rl.eval.verifier_report import verifier_report
from specact_rl.policy.fitting import COST_WEIGHT, fit_gate
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import SYSTEMS, System
from specact_rl.types import Step

if TYPE_CHECKING:  # torch takes seconds to import, and only the annotation needs it
    from specact_rl.eval.live import LiveEpisode

logger = logging.getLogger(__name__)

MANY_STEPS = 20_000
FREE_VERIFIERS = (
    "proposer_logprob",
    "sample_agreement",
    "trees",
    "linear",
    "linear_with_confidence",
)


def calibrate(
    outcomes: Outcomes,
    *,
    calibration_hash: str,
    seed: int,
    systems: Mapping[str, System] = SYSTEMS,
    cost_weight: float = COST_WEIGHT,
) -> dict[str, Gate]:
    """A gate for every gated system whose outcomes are there, by the system's name.

    Steps at which the proposal's or the fallback's label is unknown take no part. `cost_weight` is
    the accuracy that one strong call is worth.

    Raises:
        DegenerateResultError: A verifier says the same of every proposal.
    """
    gates = {}
    strong = outcomes.columns[STRONG]
    for system in systems.values():
        if not system.gated or not outcomes.has(system):
            continue
        assert system.proposer is not None  # as it is gated
        assert system.verifier is not None
        proposer = outcomes.columns[system.proposer]
        judged = outcomes.judged[system.verifier, system.proposer]
        offer = offered_proposals(system, proposer, judged)
        _refuse_constant(system, offer.log_odds)
        offered = proposer.acceptable[np.arange(offer.pick.size), offer.pick]
        labelled = known(offered, strong.acceptable[:, 0])
        if not labelled.all():
            logger.warning(
                "gate of %s: %d of %d steps left out, their labels are unknown",
                system.name,
                int((~labelled).sum()),
                labelled.size,
            )
        gates[system.name] = fit_gate(
            np.where(labelled, offer.log_odds, np.nan),  # rows without a score take no part
            labelled & (offered == 1.0),
            labelled & (strong.acceptable[:, 0] == 1.0),
            outcomes.table.task_ids,
            verifier_id=judged.verifier_id,
            proposer_id=proposer.model_id,
            calibration_hash=calibration_hash,
            seed=seed,
            cost_weight=cost_weight,
            accept_rate=system.accept_rate,
            of_difference=system.target == "difference",
        )
    return gates


def _refuse_constant(system: System, log_odds: np.ndarray) -> None:
    known = log_odds[~np.isnan(log_odds)]
    if system.verifier == "strong_judge" and not known.any():
        return  # each proposal is the strong model's own action: two models that are one say so
    if known.size and np.ptp(known) < 1e-9:
        raise DegenerateResultError(
            f"verifier {system.verifier!r} of system {system.name} must tell proposals apart, but "
            f"all {known.size} have log-odds {known[0]:.4g}. A trained model says so if its "
            "classification head was not saved, or its prompt template is another one than in "
            "training; a model on features, if nothing it sees differs"
        )


def evaluate(
    test: Outcomes,
    gates: Mapping[str, Gate],
    train_steps: Sequence[Step],
    *,
    ranked: Ranked | None = None,
    calibration: Outcomes | None = None,
    live: Mapping[str, Sequence[LiveEpisode]] | None = None,
    systems: Mapping[str, System] = SYSTEMS,
    rivals: Sequence[str] = FREE_VERIFIERS,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    seconds: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The replay part of results.json.

    Systems and verifiers are measured on the families that models were trained on. What becomes of
    them on families held out stands in rows of its own: it is another question, and a mean over
    both answers neither.

    Args:
        test: Outcomes of the test split.
        gates: Frozen gates by system.
        train_steps: Steps with references that the proposers were trained on, for the baselines;
            none, where there are none.
        ranked: For rows of their own; None leaves them out.
        calibration: What the gates were fitted on, for certificates and for what is compared
            without looking at the test split; None leaves these out.
        live: Episodes of some of the systems, for the drift of their gates from replay; None where
            nothing ran live.
        systems: By name; those whose parts are missing are left out. A is needed.
        rivals: Verifiers of the cheap model's proposals that the others are held against.
        seed: Of every interval.
        num_resamples: Draws of each bootstrap interval of systems, verifiers and contrasts. The
            sections on costs, calibration, value and frontier draw as often as their modules say.
        seconds: Takes the seconds of each part, by its name; None: nobody wants to know.

    Raises:
        ConfigError: A gate was fitted for another verifier or proposer.
    """
    rng = np.random.default_rng(seed)
    timed = partial(_timed, {} if seconds is None else seconds)
    everything = test
    inside = ~test.table.out_of_family
    if inside.any() and not inside.all():
        test = test.take(inside)
    table = test.table
    with timed("replay"):
        runs = run_all(test, gates, systems)
        references = reference_runs(test, runs)
        on_all = runs if test is everything else run_all(everything, gates, systems)
    results: dict[str, Any] = {
        "num_steps": len(table.steps),
        "num_out_of_reach": table.num_out_of_reach,
    }
    with timed("systems"):
        reports, of_references = _systems(
            runs, references, on_all, test, everything, gates, rng, num_resamples
        )
    with timed("proposers"):
        results["proposers"] = [
            proposer_row(role, columns, everything.table, everything.sizes[role])
            for role, columns in everything.columns.items()
        ]
        results["ranking"] = (
            [ranking_row(role, c, ranked.table) for role, c in ranked.columns.items()]
            if ranked
            else []
        )
    with timed("baselines"):
        results["baselines"] = (
            baseline_rows(test.columns["cheap"], table, train_steps, rng)
            if "cheap" in test.columns and train_steps
            else []
        )
    with timed("verifiers"):
        results["verifiers"] = _verifiers(test, gates, systems, rivals, rng, num_resamples)
    results["systems"] = reports
    results["references"] = of_references
    with timed("contrasts"):
        results["contrasts"] = contrast_rows(runs, reports, table.task_ids, rng, num_resamples)
    with timed("examples"):
        results["examples"] = _examples(runs.get("D"), test)
    parts = Parts(
        table=table,
        columns=test.columns,
        judged=test.judged,
        sizes=test.sizes,
        runs=runs,
        gates=gates,
    )
    of_value = rng.spawn(1)[0]
    with timed("value"):
        results["value"] = value_report(parts, rivals, of_value)
    with timed("frontier"):
        results["frontier"] = frontier_report(parts, reports, of_value)
    with timed("costs and latency"):
        results |= cost_and_latency_rows(runs, test, rng.spawn(1)[0])
    with timed("calibration"):
        results["calibration"] = calibration_rows(
            test,
            gates,
            systems,
            rng.spawn(1)[0],
            calibration=calibration,
            everything=everything,
            live=live,
        )
    with timed("curves"):
        results["curves"] = curve_rows(
            runs, gates, test.judged, table.rollouts, test.columns[STRONG], test.sizes[STRONG]
        )
    with timed("mistakes"):
        results["mistakes"] = mistake_rows(runs, table, test.columns)
    with timed("certificates"):
        results["certificates"] = (
            _certificates(calibration, runs, table, gates, systems, rng) if calibration else []
        )
    return results


def _certificates(
    calibration: Outcomes,
    runs: Mapping[str, SystemRun],
    table: StepTable,
    gates: Mapping[str, Gate],
    systems: Mapping[str, System],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    needed = {name: system for name, system in systems.items() if system.gated or name == "A"}
    on_calibration = run_all(calibration, gates, needed)
    return certificate_rows(on_calibration, calibration.table, runs, table, gates, rng)


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - started, 3)
    logger.debug("%s: %.1f s", part, seconds[part])


def _systems(
    runs: Mapping[str, SystemRun],
    references: Mapping[tuple[str | None, int], SystemRun],
    on_all: Mapping[str, SystemRun],
    test: Outcomes,
    everything: Outcomes,
    gates: Mapping[str, Gate],
    rng: np.random.Generator,
    num_resamples: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the systems, and of what accepts all that parses."""
    strong_only = runs["A"]
    every_run = [*runs.values(), *references.values()]
    of_costs = rng.spawn(1)[0]  # which costs are known changes no other interval
    costs = relative_costs(every_run, strong_only, test.table.task_ids, of_costs, num_resamples)
    reports = []
    for (name, run), cost in zip(runs.items(), costs, strict=False):
        # Systems with another target came later, and move no other interval.
        own = rng if run.system.target == "acceptable" else rng.spawn(1)[0]
        row = system_report(
            run,
            test.table,
            strong_only,
            cost,
            own,
            references[reference_key(run.system)] if run.system.gated else None,
            num_resamples,
        )
        row["families"] = family_rows(
            on_all[name], on_all["A"], everything.table, own, num_resamples
        )
        if name in gates:
            row |= {"threshold": gates[name].threshold, "gate_id": gates[name].gate_id}
        reports.append(row)
    of_references = [
        system_report(run, test.table, strong_only, cost, rng, None, num_resamples)
        for run, cost in zip(references.values(), costs[len(runs) :], strict=True)
    ]
    return reports, of_references


def run_all(
    outcomes: Outcomes, gates: Mapping[str, Gate], systems: Mapping[str, System] = SYSTEMS
) -> dict[str, SystemRun]:
    """Every system whose parts are there, by name."""
    return {
        system.name: _run(system, outcomes, gates.get(system.name))
        for system in systems.values()
        if outcomes.has(system) and (not system.gated or system.name in gates)
    }


def reference_runs(
    outcomes: Outcomes, runs: Mapping[str, SystemRun]
) -> dict[tuple[str | None, int], SystemRun]:
    """What accepting everything that parses does, once for all gates of the same proposals."""
    gated = {reference_key(run.system): run.system for run in runs.values() if run.system.gated}
    return {key: _run(accept_what_parses(system), outcomes, None) for key, system in gated.items()}


def reference_key(system: System) -> tuple[str | None, int]:
    """Which proposals a system puts before its gate."""
    return system.proposer, system.num_proposals


def _run(system: System, outcomes: Outcomes, gate: Gate | None) -> SystemRun:
    role = system.proposer
    judged = outcomes.judged[system.verifier, role] if system.verifier and role else None
    if gate is not None and judged is not None and role is not None:
        gate.check_matches(
            verifier_id=judged.verifier_id, proposer_id=outcomes.columns[role].model_id
        )
    return run_system(
        system,
        outcomes.table,
        outcomes.columns[STRONG],
        outcomes.sizes[STRONG],
        outcomes.columns[role] if role else None,
        outcomes.sizes[role] if role else None,
        judged,
        gate,
    )


def _verifiers(
    test: Outcomes,
    gates: Mapping[str, Gate],
    systems: Mapping[str, System],
    rivals: Sequence[str],
    rng: np.random.Generator,
    num_resamples: int,
) -> list[dict[str, Any]]:
    free = {key: test.judged[key, "cheap"] for key in rivals if (key, "cheap") in test.judged}
    rows = []
    for system in systems.values():
        single = system.num_proposals == 1 and system.proposer is not None
        if not system.gated or not single or system.name not in gates or not test.has(system):
            continue
        if system.target != "acceptable":
            continue  # its scores are no probabilities of being right
        assert system.proposer is not None  # as it is gated
        assert system.verifier is not None
        columns, judged = (
            test.columns[system.proposer],
            test.judged[system.verifier, system.proposer],
        )
        if not (known(columns.acceptable[:, 0]) & ~np.isnan(judged.log_odds[:, 0])).any():
            continue  # nothing that it scored has a label
        report = verifier_report(
            system.verifier,
            test.table,
            columns,
            judged,
            gates[system.name],
            free if system.proposer == "cheap" else {},
            rng,
            num_resamples,
        )
        rows.append({"system": system.name, "proposer": system.proposer, **report})
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
                        "fallback_acceptable": (
                            None
                            if np.isnan(strong.acceptable[i, 0])
                            else bool(strong.acceptable[i, 0])
                        ),
                        "reference": None if reference is None else shown_text(reference),
                    }
                )
    return examples


def default_resamples(num_steps: int) -> int:
    """Draws where nobody says how many.

    10,000, and 1,000 from 20,000 steps on: an interval's ends are then off by 1 or 2 % of its
    width, and with that many steps the width is small.
    """
    return NUM_RESAMPLES if num_steps < MANY_STEPS else 1_000


def calibration_rule(cost_weight: float = COST_WEIGHT) -> str:
    """How thresholds are chosen, in words, for the report."""
    return (
        "half of the calibration tasks fit the calibrator (cross-validated choice), the other half "
        f"choose the threshold that maximises accuracy minus {cost_weight} per strong call"
    )
