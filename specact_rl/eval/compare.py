"""Two runs held against each other, system by system, on the same test steps where they have them.

Difference is always the second run less the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from specact_rl.errors import ConfigError
from specact_rl.eval.labelled import known, paired_difference, rate
from specact_rl.eval.report.numbers import independent_difference
from specact_rl.eval.step_outcomes import StepOutcomes, SystemOutcomes
from specact_rl.eval.system_report import ratio_of_totals
from specact_rl.metrics.paired import clustered_standard_error, holm, sign_flip_test
from specact_rl.metrics.values import MetricValue

NOT_PAIRED = "mean over other steps than in the other run: no interval"


def compare_runs(
    first: StepOutcomes,
    second: StepOutcomes,
    *,
    names: tuple[str, str],
    unpaired: bool = False,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Every system that both runs have, with tests under Holm's correction over the systems.

    On the families that models were trained on, as the report's tables are. Paired by step where
    both runs have the same test steps: tasks resampled, signs of whole tasks flipped. Unpaired
    otherwise, and only if asked for: intervals and tests of two independent samples of tasks.

    Args:
        first: Of one run.
        second: Of the other; its numbers less the first's are the differences.
        names: Of the runs, for errors.
        unpaired: Whether other test steps are compared at all, rather than refused.
        rng: Of intervals and sign flips.

    Returns:
        `paired`, `n` (steps of each run), `num_common_tasks`, `rows` (one per common system) and
        `only_first`, `only_second` (names of the other systems).

    Raises:
        ConfigError: Other test steps without `unpaired`, or no system in common.
    """
    paired = first.test_hash == second.test_hash
    if not paired and not unpaired:
        raise ConfigError(_other_steps(first, second, names))
    common = [name for name in first.systems if name in second.systems]
    if not common:
        raise ConfigError(
            f"{names[0]} and {names[1]} must have a system in common, got "
            f"{sorted(first.systems)} and {sorted(second.systems)}"
        )
    num_common_tasks = np.intersect1d(first.task_ids, second.task_ids).size
    if paired:
        second = second.take(_places(second.step_ids, first.step_ids))
        if (first.task_ids != second.task_ids).any():
            raise ConfigError(
                f"{names[0]} and {names[1]} have the same step ids for steps of other tasks: they "
                "come from other data"
            )
    first, second = _inside(first), _inside(second)
    rows = [
        {
            "system": name,
            **(_paired if paired else _unpaired)(
                first.systems[name], second.systems[name], first, second, rng
            ),
        }
        for name in common
    ]
    tested = [row for row in rows if row["p_value"] is not None]
    for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    return {
        "paired": paired,
        "n": [first.step_ids.size, second.step_ids.size],
        "num_common_tasks": int(num_common_tasks),
        "rows": rows,
        "only_first": [name for name in first.systems if name not in second.systems],
        "only_second": [name for name in second.systems if name not in first.systems],
    }


def _other_steps(first: StepOutcomes, second: StepOutcomes, names: tuple[str, str]) -> str:
    num_common = np.intersect1d(first.step_ids, second.step_ids).size
    return (
        "runs are compared step by step, so that both must have the same test steps, but "
        f"{names[0]} has {first.step_ids.size} with hash {first.test_hash} and {names[1]} has "
        f"{second.step_ids.size} with hash {second.test_hash}, {num_common} of them in both. Give "
        "both runs the same seed, tasks and split, or add --unpaired to take them as samples of "
        "different tasks"
    )


def _places(of: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted id stands in the other array, which has the same ids."""
    order = np.argsort(of, kind="stable")
    return np.asarray(order[np.searchsorted(of[order], wanted)])


def _inside(outcomes: StepOutcomes) -> StepOutcomes:
    inside = ~outcomes.out_of_family
    return outcomes.take(inside) if inside.any() else outcomes


def _paired(
    a: SystemOutcomes,
    b: SystemOutcomes,
    first: StepOutcomes,
    _second: StepOutcomes,
    rng: np.random.Generator,
) -> dict[str, Any]:
    tasks = first.task_ids
    here = known(a.acceptable, b.acceptable)
    return {
        **_rates(a, b, first, first),
        "difference": paired_difference(b.acceptable, a.acceptable, tasks, rng),
        "accept_difference": paired_difference(b.accepted, a.accepted, tasks, rng),
        "flops_ratio": ratio_of_totals(b.flops, a.flops, tasks, rng),
        "num_disagree": (
            int((a.acceptable[here] != b.acceptable[here]).sum()) if here.any() else None
        ),
        "p_value": (
            sign_flip_test(b.acceptable[here], a.acceptable[here], tasks[here], rng=rng).p_value
            if here.any()
            else None
        ),
        "p_holm": None,
    }


def _unpaired(
    a: SystemOutcomes,
    b: SystemOutcomes,
    first: StepOutcomes,
    second: StepOutcomes,
    _rng: np.random.Generator,
) -> dict[str, Any]:
    rates = _rates(a, b, first, second)
    means = [float(np.mean(x.flops)) for x in (a, b)]
    ratio = means[1] / means[0] if np.isfinite(means).all() and means[0] > 0.0 else None
    return {
        **rates,
        "difference": independent_difference(rates["second"], rates["first"]),
        "accept_difference": independent_difference(rates["accept_second"], rates["accept_first"]),
        "flops_ratio": MetricValue(
            value=ratio, n=first.step_ids.size, note="other steps: no interval"
        ),
        "num_disagree": None,
        "p_value": _p_of_samples(a, b, first, second),
        "p_holm": None,
    }


def _rates(
    a: SystemOutcomes, b: SystemOutcomes, first: StepOutcomes, second: StepOutcomes
) -> dict[str, MetricValue]:
    return {
        "first": rate(a.acceptable, first.task_ids),
        "second": rate(b.acceptable, second.task_ids),
        "accept_first": rate(a.accepted, first.task_ids),
        "accept_second": rate(b.accepted, second.task_ids),
    }


def _p_of_samples(
    a: SystemOutcomes, b: SystemOutcomes, first: StepOutcomes, second: StepOutcomes
) -> float | None:
    """Two-sided, of Welch's test with clustered errors; None where one cannot be had.

    Degrees of freedom are Satterthwaite's from each run's number of tasks less one.
    """
    means, squares, freedom = [], [], []
    for found, steps in ((a, first), (b, second)):
        here = known(found.acceptable)
        error = (
            clustered_standard_error(found.acceptable[here], steps.task_ids[here])
            if here.any()
            else None
        )
        if error is None:
            return None
        means.append(float(found.acceptable[here].mean()))
        squares.append(error**2)
        freedom.append(np.unique(steps.task_ids[here]).size - 1)
    if sum(squares) == 0.0:
        return None
    degrees = sum(squares) ** 2 / sum(s**2 / f for s, f in zip(squares, freedom, strict=True))
    return float(2.0 * stats.t.sf(abs(means[1] - means[0]) / np.sqrt(sum(squares)), degrees))
