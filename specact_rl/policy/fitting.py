"""From calibration rows to a gate: one half of the tasks fits, the other chooses the threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.metrics.calibration import log_loss
from specact_rl.metrics.resampling import Clusters, cluster_codes
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray
from specact_rl.policy.calibrators import CALIBRATORS, Calibrator
from specact_rl.policy.gates import Gate
from specact_rl.policy.thresholds import (
    choose_by_accept_rate,
    choose_by_target_risk,
    choose_by_utility,
)

NUM_FOLDS = 5
COST_WEIGHT = 0.02
"""Accuracy that one strong call is worth when a threshold is chosen by utility: 2 points, the
margin within which a gated system is called no worse than the strong model alone."""

TARGET_RISK = 0.1
"""Share of wrong answers among the accepted that a gate without a fallback may have."""


AUTOMATIC = {"temperature": 0, "platt": 0, "isotonic": 500}
"""Calibrators among which the choice is made, and the fewest rows from which each takes part.

On 80 and 200 made-up rows the choice without isotonic lost less on new rows in 10 of 10 cases; from
500 rows on isotonic gains where the truth has steps and costs next to nothing where it has none
(benchmarks/bench_calibrators.py). The others are for the user to choose: beta gains much where the
two ends of a score are bent and costs a little elsewhere; histogram binning makes the proposals of
a bin alike, which a gate cannot use; the prior shift assumes how a verifier was trained."""


def automatic_choice(num_rows: int) -> list[str]:
    """Calibrators among which so many rows to fit can choose."""
    return [name for name, fewest in AUTOMATIC.items() if num_rows >= fewest]


def fitting_half(tasks: Clusters, rng: np.random.Generator) -> BoolArray:
    """Rows of the tasks that a calibrator is fitted on, shape (n,); the others choose a threshold.

    With the generator of `np.random.default_rng(gate.seed)` and all tasks of the calibration split
    these are the rows that `fit_gate` fitted the gate on.
    """
    codes, _ = cluster_codes(tasks, len(tasks))
    half: BoolArray = cluster_folds(codes, 2, rng) == 0
    return half


def selecting(gate: Gate, tasks: Clusters) -> BoolArray:
    """Calibration rows of the half of the tasks that chose the gate's threshold, shape (n,).

    Args:
        gate: Which names the seed of its halves.
        tasks: Of every calibration row, unlabelled ones too.
    """
    return ~fitting_half(tasks, np.random.default_rng(gate.seed))


def cluster_folds(codes: IntArray, num_folds: int, rng: np.random.Generator) -> IntArray:
    """Fold number per row; whole clusters, as many in each fold as can be."""
    unique, position = np.unique(codes, return_inverse=True)
    folds: IntArray = rng.permutation(unique.size)[position] % num_folds
    return folds


def cross_validated_log_loss(
    log_odds: FloatArray,
    labels: BoolArray,
    codes: IntArray,
    rng: np.random.Generator,
    calibrators: Iterable[str] | None = None,
) -> dict[str, float]:
    """Held-out log loss in nats of each calibrator, clusters kept whole.

    Args:
        log_odds: Shape (n,).
        labels: Shape (n,).
        codes: Cluster of each row, shape (n,).
        rng: Of the folds.
        calibrators: Keys of CALIBRATORS; None takes those of `automatic_choice`.

    Raises:
        ConfigError: No fold can be held out with both labels left.
    """
    fold = cluster_folds(codes, NUM_FOLDS, rng)
    usable = [k for k in range(NUM_FOLDS) if _can_leave_out(labels, fold == k)]
    if not usable:
        raise ConfigError(
            f"the fit part ({labels.size} rows, {int(labels.sum())} acceptable) is too "
            "small to compare calibrators: both labels must be left when a fifth is held out"
        )
    held_out = np.isin(fold, usable)
    losses = {}
    for name in automatic_choice(labels.size) if calibrators is None else calibrators:
        p = np.zeros(labels.size)
        for k in usable:
            rest = fold != k
            p[~rest] = CALIBRATORS[name].fit(log_odds[rest], labels[rest]).predict(log_odds[~rest])
        losses[name] = log_loss(p[held_out], labels[held_out])
    return losses


def fit_calibrator(
    log_odds: FloatArray, labels: BoolArray, codes: IntArray, rng: np.random.Generator
) -> Calibrator:
    """The calibrator with the lowest cross-validated log loss, fitted on all rows."""
    losses = cross_validated_log_loss(log_odds, labels, codes, rng)
    return fit_lowest(losses, log_odds, labels)


def fit_lowest(losses: Mapping[str, float], log_odds: FloatArray, labels: BoolArray) -> Calibrator:
    """The calibrator of the lowest of these losses, fitted on all rows; the first among equals."""
    return CALIBRATORS[min(losses, key=lambda name: losses[name])].fit(log_odds, labels)


def fit_gate(
    log_odds: FloatArray,
    acceptable: BoolArray,
    fallback_acceptable: BoolArray | None,
    tasks: Clusters,
    *,
    verifier_id: str,
    proposer_id: str,
    calibration_hash: str,
    seed: int,
    cost_weight: float = COST_WEIGHT,
    accept_rate: float | None = None,
    of_difference: bool = False,
) -> Gate:
    """Fit a calibrator on half of the tasks and choose the threshold on the other half.

    Args:
        log_odds: Raw scores at natural prevalence, shape (n,); NaN rows (unparsable) take no part,
            since no gate accepts them.
        acceptable: Labels of the proposals, shape (n,).
        fallback_acceptable: Labels of the fallback's actions on the same steps, shape (n,). None
            where there is no fallback: the threshold is then that of `TARGET_RISK`.
        tasks: Task id per row.
        verifier_id: Bound into the gate.
        proposer_id: Bound into the gate.
        calibration_hash: Bound into the gate.
        seed: Of the halves and the folds.
        cost_weight: Accuracy that one fallback call is worth.
        accept_rate: Share to accept; None chooses by utility.
        of_difference: The scores tell what a proposal gains over the fallback, and are calibrated
            to (1 + E[C - S]) / 2: each row counts once with C and once with 1 - S for its label.
    """
    rng = np.random.default_rng(seed)
    scored = ~np.isnan(log_odds)
    codes, _ = cluster_codes(tasks, log_odds.size)
    fits = scored & fitting_half(codes, rng)
    selects = scored & ~fits
    z, labels, groups = log_odds[fits], acceptable[fits], codes[fits]
    if of_difference:
        if fallback_acceptable is None:
            raise ValueError("a difference from the fallback needs a fallback")
        z, groups = np.tile(z, 2), np.tile(groups, 2)
        labels = np.concatenate([labels, ~fallback_acceptable[fits]])
    calibrator = fit_calibrator(z, labels, groups, rng)
    p_accept = calibrator.predict(log_odds[selects])
    if accept_rate is not None:
        choice = choose_by_accept_rate(p_accept, acceptable[selects], accept_rate=accept_rate)
    elif fallback_acceptable is None:
        choice = choose_by_target_risk(
            p_accept,
            acceptable[selects],
            target_risk=TARGET_RISK,
            clusters=codes[selects],
            rng=rng,
        )
    else:
        choice = choose_by_utility(
            p_accept,
            acceptable[selects],
            fallback_acceptable[selects],
            cost_weight=cost_weight,
            fallback_cost=1.0,
        )
    return Gate.from_choice(
        calibrator,
        choice,
        verifier_id=verifier_id,
        proposer_id=proposer_id,
        calibration_hash=calibration_hash,
        num_fit_rows=int(fits.sum()),
        seed=seed,
    )


def _can_leave_out(labels: BoolArray, held_out: BoolArray) -> bool:
    rest = labels[~held_out]
    return bool(held_out.any() and rest.any() and not rest.all())
