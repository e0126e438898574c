"""What each calibrator would do: fitted, thresholded and tested on tasks that share no row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from specact_rl.errors import ConfigError
from specact_rl.metrics.resampling import Clusters, cluster_codes
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray
from specact_rl.policy.calibrators import CALIBRATORS
from specact_rl.policy.fitting import NUM_FOLDS, cluster_folds, fit_calibrator, fitting_half
from specact_rl.policy.gates import decide

RAW = "none"
"""The raw score taken as log-odds."""
CHOSEN = "chosen"
"""Whatever `fit_calibrator` chooses, which is what a gate gets."""

ChooseThreshold = Callable[[FloatArray, IntArray], float | None]
"""Of the probabilities of some rows and their numbers; None accepts nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What one calibrator says of rows that it was not fitted on, and a gate with it."""

    p_accept: FloatArray
    """NaN in folds that could not be tested, shape (n,)."""
    accepted: BoolArray
    """By a threshold that was chosen on a third set of rows, shape (n,)."""


def nested_comparison(
    log_odds: FloatArray,
    labels: BoolArray,
    tasks: Clusters,
    choose: ChooseThreshold,
    *,
    rng: np.random.Generator,
) -> dict[str, HeldOut]:
    """Each fold of tasks is tested with calibrators and thresholds from two halves of the others.

    Args:
        log_odds: Scored rows, shape (n,).
        labels: Shape (n,).
        tasks: Task id per row.
        choose: The rule of the threshold.
        rng: Of folds and halves.

    Returns:
        By key of CALIBRATORS, and RAW and CHOSEN.

    Raises:
        ConfigError: In no fold do the rows to fit have both labels.
    """
    codes, _ = cluster_codes(tasks, log_odds.size)
    fold = cluster_folds(codes, NUM_FOLDS, rng)
    names = [RAW, CHOSEN, *CALIBRATORS]
    p = {name: np.full(log_odds.size, np.nan) for name in names}
    accepted = {name: np.zeros(log_odds.size, dtype=np.bool_) for name in names}
    for k in range(NUM_FOLDS):
        test, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        if not test.size or not rest.size:
            continue
        half = fitting_half(codes[rest], rng)
        fits, selects = rest[half], rest[~half]
        found = _fitted(log_odds[fits], labels[fits], codes[fits], rng)
        for name, predict in found.items():
            p[name][test] = predict(log_odds[test])
            if selects.size:
                threshold = choose(predict(log_odds[selects]), selects)
                accepted[name][test] = decide(p[name][test], threshold)
    if np.isnan(p[CHOSEN]).all():
        raise ConfigError(
            f"{log_odds.size} rows, {int(labels.sum())} acceptable, of {np.unique(codes).size} "
            "tasks are too few to compare calibrators: a third of them must have both labels"
        )
    return {name: HeldOut(p_accept=p[name], accepted=accepted[name]) for name in names}


def _fitted(
    log_odds: FloatArray, labels: BoolArray, codes: IntArray, rng: np.random.Generator
) -> Mapping[str, Callable[[FloatArray], FloatArray]]:
    """Maps to probabilities by name; none where these rows cannot be fitted."""
    if not labels.any() or labels.all():
        return {}
    try:
        chosen = fit_calibrator(log_odds, labels, codes, rng)
    except ConfigError:  # too few to choose, as a gate would find
        return {}
    fitted = {name: kind.fit(log_odds, labels).predict for name, kind in CALIBRATORS.items()}
    return {RAW: special.expit, CHOSEN: chosen.predict, **fitted}
