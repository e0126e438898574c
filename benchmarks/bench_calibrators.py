"""Among which calibrators should a gate choose? Log loss on new rows, by rows to fit and truth.

    python benchmarks/bench_calibrators.py [--rows 80 200 500 1500] [--repeats 40]

Made-up scores in tasks of five rows; the truth is a probability of the score. For each set of
calibrators the one with the lowest cross-validated log loss is fitted on all rows, and its log loss
on 50,000 new rows, less that of the truth, is averaged over the repeats: thousandths of a nat.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from specact_rl.policy.calibrators import CALIBRATORS
from specact_rl.policy.fitting import cross_validated_log_loss

Floats = NDArray[np.float64]
SETS = {
    "parametric": ("temperature", "platt"),
    "+ isotonic": ("temperature", "platt", "isotonic"),
    "+ beta": ("temperature", "platt", "beta"),
    "+ both": ("temperature", "platt", "isotonic", "beta"),
    "+ histogram": ("temperature", "platt", "isotonic", "beta", "histogram"),
}
TRUTHS: dict[str, Callable[[Floats], Floats]] = {
    "temperature": lambda z: special.expit(0.5 * z),
    "platt": lambda z: special.expit(0.5 * z - 1.0),
    "bent": lambda z: special.expit(
        -1.2 * np.logaddexp(0.0, -z) + 0.25 * np.logaddexp(0.0, z) + 0.8
    ),
    "plateau": lambda z: 0.15 + 0.7 * special.expit(2.0 * z),
    "steps": lambda z: np.where(z < -1.0, 0.1, np.where(z < 1.5, 0.45, 0.85)),
}


def rows(
    truth: Callable[[Floats], Floats], n: int, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """Scores, labels and tasks."""
    tasks = np.arange(n) // 5
    z = rng.normal(0.0, 1.6, tasks[-1] + 1)[tasks] + rng.normal(0.0, 1.6, n)
    return z, rng.random(n) < truth(z), tasks


def regrets(name: str, n: int, repeats: int) -> list[float]:
    """Of each set of calibrators, in thousandths of a nat."""
    truth, rng = TRUTHS[name], np.random.default_rng(n)
    new, _, _ = rows(truth, 50_000, rng)
    q = truth(new)
    found = []
    for _ in range(repeats):
        z, y, tasks = rows(truth, n, rng)
        losses = cross_validated_log_loss(z, y, tasks, rng, SETS["+ histogram"])
        regret = {}
        for kind in losses:
            p = np.clip(CALIBRATORS[kind].fit(z, y).predict(new), 1e-15, 1.0 - 1e-15)
            regret[kind] = float(np.mean(special.rel_entr(q, p) + special.rel_entr(1 - q, 1 - p)))
        found.append([regret[min(kinds, key=losses.__getitem__)] for kinds in SETS.values()])
    return [1000.0 * float(value) for value in np.mean(found, axis=0)]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[80, 200, 500, 1500])
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    print(f"| rows | truth | {' | '.join(SETS)} |")
    print(f"|--:|---|{'--:|' * len(SETS)}")
    for n in arguments.rows:
        for name in TRUTHS:
            values = regrets(name, n, arguments.repeats)
            print(f"| {n} | {name} | {' | '.join(f'{v:.1f}' for v in values)} |", flush=True)


if __name__ == "__main__":
    main()
