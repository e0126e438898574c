"""How far the probabilities of the gates can be trusted: rows `replay.calibration` of the results.

Every number is on greedy proposals that have a score and a label, with the calibrator that the gate
was frozen with. What is compared on the calibration split never looks at the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.eval.joined import STRONG, Outcomes
from specact_rl.eval.labelled import known
from specact_rl.metrics.calibration import brier_decomposition, log_loss
from specact_rl.metrics.discrimination import auprc_interval
from specact_rl.metrics.drift import (
    CalibrationLine,
    LabelledRows,
    calibration_lines,
    line_difference,
)
from specact_rl.metrics.null_bands import (
    all_null_bands,
    calibration_null_band,
    clustered_calibration_test,
    spiegelhalter_test,
)
from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.strata import MIN_ROWS, Partition, clustered_mean, strata
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray, MetricValue
from specact_rl.policy.comparison import ChooseThreshold, HeldOut, nested_comparison
from specact_rl.policy.fitting import COST_WEIGHT, TARGET_RISK, selecting
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import System
from specact_rl.policy.thresholds import (
    choose_by_accept_rate,
    choose_by_target_risk,
    choose_by_utility,
)

if TYPE_CHECKING:  # torch takes seconds to import, and only the annotation needs it
    from specact_rl.eval.live import LiveEpisode

MAIN = "D"
"""System whose verifier is looked at part by part; the first one if it is not there."""
OTHER_POLICY = "cheap_dpo"
"""Role whose proposals MAIN's gate, fitted on the cheap model's, is tried on."""
NUM_RESAMPLES = 1000
NUM_BAND_DRAWS = 500
"""Of the null bands, and intervals, in tables of many."""
MAX_PARTS = 20
"""Parts of one partition that are shown; the largest, and of more only those with numbers."""
MAX_COMPARED = 10_000
"""Rows on which calibrators are compared; of more, whole tasks are drawn."""
NOT_KEPT = (
    "these episodes ran before their steps were kept; without the run's folder live they run anew"
)
STEPS = ("0", "1", "2", "3", "4+")
"""Parts by the step's index; the last is that index and all beyond."""


def calibration_rows(
    test: Outcomes,
    gates: Mapping[str, Gate],
    systems: Mapping[str, System],
    rng: np.random.Generator,
    *,
    calibration: Outcomes | None = None,
    everything: Outcomes | None = None,
    live: Mapping[str, Sequence[LiveEpisode]] | None = None,
) -> dict[str, Any]:
    """Metrics, parts, drift and calibrators, as JSON.

    Args:
        test: Outcomes of the test split, on families that were trained on.
        gates: By system.
        systems: By name.
        rng: Of every interval.
        calibration: Outcomes of the split that the gates are from; None leaves out the drift from
            it and the comparison of calibrators.
        everything: The test split with the families held out; None where there are none.
        live: Episodes of test tasks by system; None where nothing ran live.
    """
    on_test = _Split(outcomes=test)
    judged = {
        name: system
        for name, system in systems.items()
        if system.gated
        and system.num_proposals == 1
        and name in gates
        and test.has(system)
        # Others' scores are no probabilities of being right, and have no calibration to look at.
        and system.target == "acceptable"
    }
    found = {name: on_test.rows(system, gates[name]) for name, system in judged.items()}
    found = {name: rows for name, rows in found.items() if rows.y.size}
    if not found:
        return {}
    main = MAIN if MAIN in found else next(iter(found))
    places = dict(found)
    other = _other_policy(on_test, gates[main], judged[main])
    if other is not None:
        places["policies"] = other
    lines = _lines(places, rng)
    drift = []
    if calibration is not None:
        on_calibration = _Split(outcomes=calibration)
        selects = {
            name: on_calibration.selecting(judged[name], gates[name])
            for name in found
            if calibration.has(judged[name])
        }
        then = _lines({name: rows for name, rows in selects.items() if rows.y.size}, rng)
        drift += [
            _drift_row(name, "splits", "select", "test", then[name], lines[name]) for name in then
        ]
    if other is not None:
        to = f"proposals of {OTHER_POLICY}"
        of = f"proposals of {judged[main].proposer}"
        drift.append(_drift_row(main, "policies", of, to, lines[main], lines["policies"]))
    held_out = _families_held_out(everything, gates[main], judged[main])
    if held_out is not None:
        of, to = "families trained on", "families held out"
        there = _lines({main: held_out}, rng)[main]
        drift.append(_drift_row(main, "families", of, to, lines[main], there))
    if live is not None:
        drift += _live_drift(found, test, live, rng.spawn(1)[0])
    verifiers = [
        {"system": name, "name": str(judged[name].verifier), **_metrics(rows, lines[name], rng)}
        for name, rows in found.items()
    ]
    return {
        "verifiers": verifiers,
        "parts": _parts(main, judged[main], found[main], test, rng),
        "drift": drift,
        "recalibration": (
            []
            if calibration is None
            else [
                {"system": name, **_recalibration(on_calibration, judged[name], gates[name], rng)}
                for name in found
                if calibration.has(judged[name])
            ]
        ),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Proposals that a gate has a probability for and whose label is known."""

    steps: IntArray
    """Number of each row's step in the table."""
    z: FloatArray
    p: FloatArray
    y: BoolArray
    tasks: IntArray
    """Number of each row's task, the same for all rows of a split."""

    @property
    def num_tasks(self) -> int:
        return int(np.count_nonzero(np.bincount(self.tasks)))

    def take(self, here: BoolArray) -> _Rows:
        return _Rows(
            steps=self.steps[here],
            z=self.z[here],
            p=self.p[here],
            y=self.y[here],
            tasks=self.tasks[here],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """The outcomes of one split, from which rows are taken."""

    outcomes: Outcomes

    def rows(
        self,
        system: System,
        gate: Gate,
        *,
        proposer: str | None = None,
        keep: BoolArray | None = None,
    ) -> _Rows:
        """Of a system's gate, on another model's proposals if one is named, at the steps kept."""
        role = proposer or str(system.proposer)
        z = self.outcomes.judged[str(system.verifier), role].log_odds[:, 0]
        labels = self.outcomes.columns[role].acceptable[:, 0]
        usable = ~np.isnan(z) & known(labels)
        steps = np.flatnonzero(usable if keep is None else usable & keep)
        return _Rows(
            steps=steps,
            z=z[steps],
            p=gate.p_accept(z[steps]),
            y=labels[steps] == 1.0,
            tasks=self.outcomes.table.task_ids[steps],
        )

    def selecting(self, system: System, gate: Gate) -> _Rows:
        """The rows of the calibration split that the gate's calibrator was not fitted on."""
        return self.rows(system, gate, keep=selecting(gate, self.outcomes.table.task_ids))


def _other_policy(test: _Split, gate: Gate, system: System) -> _Rows | None:
    """The gate on proposals of a model that it was not fitted for; None where there are none."""
    key = str(system.verifier), OTHER_POLICY
    here = OTHER_POLICY in test.outcomes.columns and key in test.outcomes.judged
    if system.proposer == OTHER_POLICY or not here:
        return None
    rows = test.rows(system, gate, proposer=OTHER_POLICY)
    return rows if rows.y.size else None


def _families_held_out(everything: Outcomes | None, gate: Gate, system: System) -> _Rows | None:
    """The gate on tasks of families that no model was trained on; None where there are none."""
    if everything is None or not everything.table.out_of_family.any():
        return None
    outside = everything.take(everything.table.out_of_family)
    rows = _Split(outcomes=outside).rows(system, gate)
    return rows if rows.y.size else None


def _live_drift(
    found: Mapping[str, _Rows],
    test: Outcomes,
    live: Mapping[str, Sequence[LiveEpisode]],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Each gate at the replayed steps of the tasks that it acted on, and at its own steps there.

    An episode's steps depend on what was accepted before, a logged rollout's do not.
    """
    task_of = np.array([step.task_id for step in test.table.steps])
    drift = []
    for name in (name for name in found if name in live):
        episodes = live[name]
        replayed = task_of[found[name].steps]
        here = np.isin(replayed, [episode.task_id for episode in episodes])
        rows = found[name].take(here)
        if not rows.y.size:
            continue
        places = {
            "replay": LabelledRows(p_accept=rows.p, acceptable=rows.y, clusters=replayed[here])
        }
        acted = [
            (step.p_accept, step.acceptable, episode.task_id)
            for episode in episodes
            for step in episode.steps or ()
            if step.p_accept is not None and step.acceptable is not None
        ]
        kept = all(episode.steps is not None for episode in episodes)
        if kept and acted:
            p, y, tasks = zip(*acted, strict=True)
            places["live"] = LabelledRows(p_accept=p, acceptable=y, clusters=np.array(tasks))
        lines = calibration_lines(places, rng=rng, num_resamples=NUM_RESAMPLES)
        there = lines.get("live") or CalibrationLine.unknown(
            "no proposal has a score and a label" if kept else NOT_KEPT, NUM_RESAMPLES
        )
        of, to = "replayed steps of the live tasks", "live episodes"
        drift.append(_drift_row(name, "live", of, to, lines["replay"], there))
    return drift


def _lines(found: Mapping[str, _Rows], rng: np.random.Generator) -> dict[str, CalibrationLine]:
    places = {
        name: LabelledRows(p_accept=rows.p, acceptable=rows.y, clusters=rows.tasks)
        for name, rows in found.items()
    }
    return calibration_lines(places, rng=rng, num_resamples=NUM_RESAMPLES)


def _line(line: CalibrationLine) -> dict[str, MetricValue]:
    return {"gap": line.gap, "slope": line.slope, "intercept": line.intercept}


def _metrics(rows: _Rows, line: CalibrationLine, rng: np.random.Generator) -> dict[str, Any]:
    """All that a verifier's probabilities are measured by."""
    return {
        "n": rows.y.size,
        "num_tasks": rows.num_tasks,
        "base_rate": float(rows.y.mean()),
        "mean_p_accept": float(rows.p.mean()),
        "bands": all_null_bands(rows.p, rows.y, rng=rng, num_draws=NUM_RESAMPLES),
        "brier": brier_decomposition(rows.p, rows.y, binning="equal_mass"),
        "log_loss": log_loss(rows.p, rows.y),
        "auprc": auprc_interval(rows.z, rows.y, rows.tasks, rng=rng, num_resamples=NUM_RESAMPLES),
        **_line(line),
        "spiegelhalter": spiegelhalter_test(rows.p, rows.y, rows.tasks),
        "clustered_test": clustered_calibration_test(rows.p, rows.y, rows.tasks, rng=rng),
    }


def _drift_row(
    system: str, kind: str, of: str, to: str, first: CalibrationLine, second: CalibrationLine
) -> dict[str, Any]:
    difference = line_difference(first, second)
    return {
        "system": system,
        "kind": kind,
        "from": of,
        "to": to,
        "first": _line(first),
        "second": _line(second),
        "difference": {
            "gap": difference.gap,
            "slope": difference.slope,
            "intercept": difference.intercept,
        },
    }


def _parts(
    main: str, system: System, rows: _Rows, test: Outcomes, rng: np.random.Generator
) -> dict[str, Any]:
    """The main verifier per action type, tool, step and family."""
    offered, steps = test.columns[str(system.proposer)], rows.steps
    types = offered.action_types[steps, 0]
    several = (types == "") & offered.parsed[steps, 0]
    partitions, left_out = {}, {}
    for name, keys in (
        ("action type", np.where(several, "several actions", types)),
        ("tool", offered.tools[steps, 0]),
        ("step", np.array(STEPS)[np.minimum(test.table.indices[steps], len(STEPS) - 1)]),
        ("family", test.table.families[steps]),
    ):
        partition, rest = _partition(keys)
        if len(partition.names) > 1:  # one part of everything says nothing new
            partitions[name], left_out[name] = partition, rest
    return {
        "system": main,
        "min_rows": MIN_ROWS,
        "rows": strata(
            rows.z, rows.p, rows.y, partitions, rows.tasks, rng=rng, num_resamples=NUM_BAND_DRAWS
        ),
        "left_out": {name: rest for name, rest in left_out.items() if rest["parts"]},
    }


def _partition(keys: np.ndarray) -> tuple[Partition, dict[str, int]]:
    """Parts by key, "" in none, and how many parts and rows beyond the largest are left out."""
    codes, names = _numbered(keys)
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    largest = np.argsort(-sizes, kind="stable")[:MAX_PARTS]
    if len(names) > MAX_PARTS:  # of hundreds of tools the small ones are not even named
        largest = largest[sizes[largest] >= MIN_ROWS]
    renumbered = np.full(len(names) + 1, -1)  # the last entry is where -1 looks
    renumbered[largest] = np.arange(largest.size)
    rest = {
        "parts": len(names) - largest.size,
        "rows": int(sizes.sum() - sizes[largest].sum()),
    }
    return Partition(names=[names[k] for k in largest], codes=renumbered[codes]), rest


class _Numbers(dict[str, int]):
    """Gives each new key the next number."""

    def __missing__(self, key: str) -> int:
        self[key] = number = len(self) - 1
        return number


def _numbered(keys: np.ndarray) -> tuple[IntArray, list[str]]:
    """Numbers of the keys in order of appearance, -1 for "", and what the numbers stand for.

    A dictionary numbers a million strings much faster than sorting them does.
    """
    numbers = _Numbers({"": -1})
    codes = np.fromiter(map(numbers.__getitem__, keys.tolist()), np.int64, keys.size)
    return codes, [key for key in numbers if key]


def _recalibration(
    calibration: _Split, system: System, gate: Gate, rng: np.random.Generator
) -> dict[str, Any]:
    """Every calibrator on the calibration split, on tasks that it did not see."""
    rows = _sample(calibration.rows(system, gate), rng)
    if not rows.y.size:
        return {"n": 0, "rows": [], "note": "no row has a score and a label"}
    fallback = None
    if STRONG in calibration.outcomes.columns:
        labels = calibration.outcomes.columns[STRONG].acceptable[rows.steps, 0]
        fallback = labels == 1.0 if known(labels).all() else None
    try:
        found = nested_comparison(
            rows.z, rows.y, rows.tasks, _rule(rows, fallback, system, gate), rng=rng
        )
    except ConfigError as error:  # a small log: say so, go on
        return {"n": rows.y.size, "rows": [], "note": str(error)}
    own = gate.calibrator.kind
    reference = _losses(rows.y, found[own].p_accept)
    return {
        "n": rows.y.size,
        "chosen_for_gate": own,
        "rows": [
            {
                "name": name,
                **_held_out(rows, held_out, None if name == own else reference, rng),
            }
            for name, held_out in found.items()
        ],
        "note": None,
    }


def _rule(rows: _Rows, fallback: BoolArray | None, system: System, gate: Gate) -> ChooseThreshold:
    """The rule by which the gate's own threshold is chosen."""

    def choose(p: FloatArray, here: IntArray) -> float | None:
        y = rows.y[here]
        if system.accept_rate is not None:
            return choose_by_accept_rate(p, y, accept_rate=system.accept_rate).threshold
        if fallback is None:
            return choose_by_target_risk(p, y, target_risk=TARGET_RISK).threshold
        return choose_by_utility(
            p,
            y,
            fallback[here],
            cost_weight=gate.rule_arguments.get("cost_weight", COST_WEIGHT),
            fallback_cost=1.0,
        ).threshold

    return choose


def _held_out(
    rows: _Rows, held_out: HeldOut, reference: FloatArray | None, rng: np.random.Generator
) -> dict[str, Any]:
    """One calibrator's line of the table; `reference` are the losses that it is held against."""
    here = np.flatnonzero(~np.isnan(held_out.p_accept))
    p, y, tasks = held_out.p_accept[here], rows.y[here], rows.tasks[here]
    losses, accepted = _losses(y, p), held_out.accepted[here]
    band = calibration_null_band(
        p, y, rng=rng, statistic="debiased_ece", binning="equal_mass", num_draws=NUM_BAND_DRAWS
    )
    return {
        "n": here.size,
        "log_loss": clustered_mean(losses, tasks),
        "minus_own": (
            None if reference is None else clustered_mean(losses - reference[here], tasks)
        ),
        "brier": clustered_mean((p - y) ** 2, tasks),
        "band": band,
        "p_value": clustered_calibration_test(
            p, y, tasks, rng=rng, num_draws=NUM_BAND_DRAWS
        ).p_value,
        "accept_rate": cluster_rate(accepted, tasks),
        "selective_risk": (
            cluster_rate(~y[accepted], tasks[accepted])
            if accepted.any()
            else MetricValue(value=None, n=0, note="nothing is accepted")
        ),
    }


def _losses(y: BoolArray, p: FloatArray, clip: float = 1e-15) -> FloatArray:
    """Log loss of each row in nats; NaN where there is no probability."""
    sure = np.clip(p, clip, 1.0 - clip)
    return -np.where(y, np.log(sure), np.log1p(-sure))


def _sample(rows: _Rows, rng: np.random.Generator) -> _Rows:
    """All rows, or of very many those of tasks drawn by lot."""
    if rows.y.size <= MAX_COMPARED:
        return rows
    sizes = np.bincount(rows.tasks)
    order = rng.permutation(sizes.size)
    kept = order[np.cumsum(sizes[order]) <= MAX_COMPARED]
    here = np.isin(rows.tasks, kept)
    return rows.take(here)
