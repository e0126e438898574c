"""Do the intervals cover, do the tests keep their level, and what do they cost?

    python benchmarks/bench_statistics.py
    python benchmarks/bench_statistics.py --only speed
    python benchmarks/bench_statistics.py --once cluster_bootstrap

Coverage and size: simulated tables with a known truth, each procedure on independent rows and on
the dependent steps of tasks, 2,000 tables a row (`--runs`). Speed: against the plain way to write
it and against SciPy or scikit-learn, in alternating runs on the same rows; processor seconds, so
that other work counts less. `--once` does one of the timed things once, for a timer of whole
processes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats
from sklearn.metrics import roc_auc_score

from specact_rl.metrics.discrimination import (
    auroc_difference,
    auroc_interval,
    weighted_auroc,
    within_group_auroc,
)
from specact_rl.metrics.paired import (
    cluster_bootstrap_mean,
    detectable_difference,
    holm,
    mcnemar_exact,
    minimum_detectable_difference,
    paired_cluster_bootstrap,
    sign_flip_test,
    tango_interval,
    tost_equivalence,
    wilson_interval,
)
from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.resampling import cluster_bootstrap
from specact_rl.metrics.values import MetricValue

TASKS, STEPS = 80, 8
DRAWS = 1000
Rng = np.random.Generator
Happened = dict[str, bool]
"""By name: did the interval cover, or did the test reject?"""


def covers(found: MetricValue, truth: float) -> bool:
    """An interval that is not there does not cover."""
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def pairs(rng: Rng, difference: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Verdicts of two systems on the steps of tasks that lean to one of them, and the tasks."""
    tasks = np.repeat(np.arange(TASKS), STEPS)
    lean = rng.choice([-0.4, 0.4], size=TASKS)[tasks]
    a, b = (rng.random(tasks.size) < 0.5 + sign * (lean + difference) / 2.0 for sign in (1.0, -1.0))
    return a, b, tasks


def single_pairs(rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As many independent rows, one to a task."""
    a, b = rng.random((2, TASKS * STEPS)) < 0.5
    return a, b, np.arange(TASKS * STEPS)


def differences(rng: Rng) -> Happened:
    """Intervals of a difference of 0."""
    a, b, tasks = pairs(rng)
    rows, single = np.arange(a.size), single_pairs(rng)
    how = {"rng": rng, "num_resamples": DRAWS}
    return {
        "difference, tasks resampled | dependent | .95": covers(
            paired_cluster_bootstrap(a, b, tasks, **how), 0.0
        ),
        "difference, tasks resampled, BCa | dependent | .95": covers(
            paired_cluster_bootstrap(a, b, tasks, method="bca", **how), 0.0
        ),
        "difference, rows resampled | dependent | .95": covers(
            paired_cluster_bootstrap(a, b, rows, **how), 0.0
        ),
        "difference, rows resampled | independent | .95": covers(
            paired_cluster_bootstrap(*single, **how), 0.0
        ),
    }


def skewed_means(rng: Rng) -> Happened:
    """Mean cost of 40 tasks, lognormal, rows of a task alike."""
    tasks = np.repeat(np.arange(40), 5)
    cost = np.exp(rng.normal(size=40)[tasks])
    how = {"rng": rng, "num_resamples": DRAWS}
    return {
        f"mean of a skewed cost, 40 tasks, {method} | dependent | .95": covers(
            cluster_bootstrap_mean(cost, tasks, method=method, **how), float(np.exp(0.5))
        )
        for method in ("percentile", "bca")
    }


def few_items(rng: Rng) -> Happened:
    """30 independent items, of which few differ: true shares .10 and .05."""
    only_a, only_b, _ = rng.multinomial(30, [0.10, 0.05, 0.85])
    found = tango_interval(int(only_a), int(only_b), 30)
    difference = (only_a - only_b) / 30
    error = np.sqrt(only_a + only_b - (only_a - only_b) ** 2 / 30) / 30
    return {
        "difference, 30 items, Tango | independent | .95": found.low <= 0.05 <= found.high,
        "difference, 30 items, Wald | independent | .95": abs(difference - 0.05) <= 1.96 * error,
    }


def rates(rng: Rng) -> Happened:
    """Shares of .3 and .02 where tasks differ (intra-task correlation 1/2)."""
    tasks = np.repeat(np.arange(TASKS), STEPS)
    found = {}
    for share in (0.3, 0.02):
        hits = rng.random(tasks.size) < rng.beta(share, 1.0 - share, size=TASKS)[tasks]
        title = f"share of {share}".replace("0.", ".")
        found |= {
            f"{title}, cluster_rate | dependent | .95": covers(cluster_rate(hits, tasks), share),
            f"{title}, Wilson on rows | dependent | .95": covers(
                wilson_interval(int(hits.sum()), hits.size), share
            ),
            f"{title}, tasks resampled | dependent | .95": covers(
                cluster_bootstrap_mean(hits, tasks, rng=rng, num_resamples=DRAWS), share
            ),
        }
    return found


def tests_of_nothing(rng: Rng) -> Happened:
    """Tests of a difference that is 0, and of equivalence where it is the margin."""
    a, b, tasks = pairs(rng)
    rows, single = np.arange(a.size), single_pairs(rng)
    exact, exact_single = mcnemar_exact(a, b, rows), mcnemar_exact(*single)
    flips = {"rng": rng, "num_flips": DRAWS}
    at_margin = pairs(rng, 0.1)
    return {
        "McNemar, exact, steps as items | dependent | .05": exact.p_value <= 0.05,
        "McNemar, exact | independent | .05": exact_single.p_value <= 0.05,
        "McNemar, mid-p | independent | .05": exact_single.mid_p_value <= 0.05,
        "sign flips of tasks | dependent | .05": sign_flip_test(a, b, tasks, **flips).p_value
        <= 0.05,
        "sign flips | independent | .05": sign_flip_test(*single, **flips).p_value <= 0.05,
        "TOST at its margin, tasks | dependent | .05": tost_equivalence(
            *at_margin, margin=0.1
        ).p_value
        <= 0.05,
        "TOST at its margin, steps as tasks | dependent | .05": tost_equivalence(
            *at_margin[:2], rows, margin=0.1
        ).p_value
        <= 0.05,
    }


def several_tests(rng: Rng) -> Happened:
    """Four nulls that share their data, and a difference that is there."""
    x = rng.normal(size=(TASKS, 5)) + 0.5 * rng.normal(size=(TASKS, 1))
    x[:, 0] += 1.0
    p = [
        sign_flip_test(column, np.zeros(TASKS), np.arange(TASKS), rng=rng, num_flips=DRAWS).p_value
        for column in x.T
    ]
    return {
        "a false one among four nulls, no correction | – | .05": min(p[1:]) <= 0.05,
        "a false one among four nulls, Holm | – | .05": min(holm(p)[1:]) <= 0.05,
    }


def power(rng: Rng) -> Happened:
    """Sign flips of tasks at the difference that the error of other rows calls detectable."""
    a, b, tasks = pairs(rng)
    clustered = detectable_difference(a, b, tasks).difference
    independent = minimum_detectable_difference(a.size, float((a != b).mean()))
    return {
        f"power at the detectable difference, {name} | dependent | .80": sign_flip_test(
            *pairs(rng, size), rng=rng, num_flips=DRAWS
        ).p_value
        <= 0.05
        for name, size in (
            ("clustered error", clustered),
            ("as if rows were independent", independent),
        )
    }


def scored(
    rng: Rng, num_tasks: int, separation: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Scores and labels that lean with their task, the tasks, and the true AUROC."""
    tasks = np.repeat(np.arange(num_tasks), 5)
    label_lean, score_lean = rng.normal(size=(2, num_tasks))[:, tasks]
    y = np.sqrt(0.3) * label_lean + np.sqrt(0.7) * rng.normal(size=tasks.size) > 0.5
    s = separation * y + np.sqrt(0.5) * (score_lean + rng.normal(size=tasks.size))
    return s, y, tasks, float(stats.norm.cdf(separation / np.sqrt(2.0)))


def ranking(rng: Rng) -> Happened:
    """AUROC and its differences, at a middling and a high value, of few and of more tasks."""
    found = {}
    for num_tasks in (20, 80, 300):
        for separation in (0.5, 2.5):
            s, y, tasks, truth = scored(rng, num_tasks, separation)
            if not 1 < y.sum() < y.size - 1:
                continue
            title = f"AUROC of {truth:.2f}, {num_tasks} tasks".replace("0.", ".")
            weights = rng.multinomial(num_tasks, np.full(num_tasks, 1 / num_tasks), size=200)
            drawn = weighted_auroc(s, y, weights[:, tasks])
            low, high = np.nanquantile(drawn, [0.025, 0.975])
            other = s + rng.normal(size=s.size)
            truth_of_other = float(stats.norm.cdf(separation / 2.0))
            found |= {
                f"{title} | dependent | .95": covers(auroc_interval(s, y, tasks), truth),
                f"{title}, tasks resampled | dependent | .95": bool(low <= truth <= high),
                f"{title}, steps as tasks | dependent | .95": covers(
                    auroc_interval(s, y, np.arange(s.size)), truth
                ),
                f"{title}, less that of a noisier score | dependent | .95": covers(
                    auroc_difference(s, other, y, tasks), truth - truth_of_other
                ),
            }
            if separation < 1.0:  # above, a ranking within few tasks is often perfect
                within = float(stats.norm.cdf(separation))  # the task's lean is no noise there
                title += f", within a task {within:.2f}".replace("0.", ".")
                found[f"{title} | dependent | .95"] = covers(
                    within_group_auroc(s, y, tasks, tasks), within
                )
    return found


SIMULATIONS: tuple[Callable[[Rng], Happened], ...] = (
    differences,
    skewed_means,
    few_items,
    rates,
    tests_of_nothing,
    several_tests,
    power,
    ranking,
)


def simulate(runs: int) -> Iterator[str]:
    """The table of shares, in Markdown."""
    yield "| what | rows | nominal | found | Monte Carlo error |"
    yield "|---|---|---|---|---|"
    for simulation in SIMULATIONS:
        rng = np.random.default_rng(0)
        outcomes: dict[str, list[bool]] = {}
        for _ in range(runs):
            for name, happened in simulation(rng).items():
                outcomes.setdefault(name, []).append(bool(happened))
        for name, each in outcomes.items():
            share = float(np.mean(each))
            error = np.sqrt(share * (1 - share) / len(each))
            yield f"| {name} | {share:.3f} | {error:.3f} |"


# ---------------------------------------------------------------- speed


class Timed:
    """Things to time, each as we do it and as its peers do, on the same rows."""

    def __init__(self, size: int) -> None:
        """Make up rows; `size` tasks."""
        rng = np.random.default_rng(0)
        self.rng, self.size = rng, size
        self.draws = 500 if size > 1000 else 20
        self.costs = rng.lognormal(20.0, 2.0, size=(size, 2))
        self.right = rng.random((2, size)) < 0.6
        self.tasks = np.repeat(np.arange(size), 10)
        lean = rng.normal(size=size)[self.tasks]
        self.scores = lean + rng.normal(size=self.tasks.size)
        self.labels = rng.random(self.tasks.size) < 1.0 / (1.0 + np.exp(-self.scores))

    def cluster_bootstrap(self) -> tuple[float, float]:
        """A ratio of costs, continuous."""
        a, b = self.costs.T
        shared = cluster_bootstrap(
            {"a": a, "b": b}, np.arange(self.size), rng=self.rng, num_resamples=self.draws
        )
        found = shared.value(lambda t: t["a"] / t["b"], n=self.size)
        assert found.low is not None
        assert found.high is not None
        return found.low, found.high

    def cluster_bootstrap_naive(self) -> tuple[float, float]:
        """The plain loop."""
        drawn = []
        for _ in range(self.draws):
            a, b = self.costs[self.rng.integers(self.size, size=self.size)].sum(axis=0)
            drawn.append(a / b)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)

    def cluster_bootstrap_scipy(self) -> tuple[float, float]:
        """`scipy.stats.bootstrap`, vectorised, in batches that fit in memory."""
        found = stats.bootstrap(
            tuple(self.costs.T),
            lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
            paired=True,
            vectorized=True,
            batch=20,
            n_resamples=self.draws,
            method="percentile",
            rng=self.rng,
        ).confidence_interval
        return float(found.low), float(found.high)

    def paired_bootstrap(self) -> tuple[float, float]:
        """A difference of verdicts, one step to a task."""
        found = paired_cluster_bootstrap(
            *self.right, np.arange(self.size), rng=self.rng, num_resamples=self.draws
        )
        assert found.low is not None
        assert found.high is not None
        return found.low, found.high

    def paired_bootstrap_scipy(self) -> tuple[float, float]:
        """The mean of the differences."""
        found = stats.bootstrap(
            (self.right[0].astype(float) - self.right[1],),
            np.mean,
            batch=20,
            n_resamples=self.draws,
            method="percentile",
            rng=self.rng,
        ).confidence_interval
        return float(found.low), float(found.high)

    def sign_flips(self) -> tuple[float]:
        """Of costs that all differ."""
        found = sign_flip_test(
            *self.costs.T, np.arange(self.size), rng=self.rng, num_flips=self.draws
        )
        return (found.p_value,)

    def sign_flips_scipy(self) -> tuple[float]:
        """`scipy.stats.permutation_test` of paired samples."""
        found = stats.permutation_test(
            (self.costs[:, 0] - self.costs[:, 1], np.zeros(self.size)),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            batch=20,
            n_resamples=self.draws,
            rng=self.rng,
        )
        return (float(found.pvalue),)

    def auroc(self) -> tuple[float, float]:
        """With its interval; ten rows to a task."""
        found = auroc_interval(self.scores, self.labels, self.tasks)
        assert found.low is not None
        assert found.high is not None
        return found.low, found.high

    def auroc_sklearn(self) -> tuple[float, float]:
        """20 resamples of tasks (an interval takes 1,000 or more), `roc_auc_score` of each."""
        drawn = []
        for _ in range(20):
            picks = self.rng.integers(self.size, size=self.size)
            weights = np.bincount(picks, minlength=self.size)[self.tasks]
            drawn.append(roc_auc_score(self.labels, self.scores, sample_weight=weights))
        return float(min(drawn)), float(max(drawn))


COMPARED = (
    ("cluster_bootstrap", "cluster_bootstrap_naive"),
    ("cluster_bootstrap", "cluster_bootstrap_scipy"),
    ("paired_bootstrap", "paired_bootstrap_scipy"),
    ("sign_flips", "sign_flips_scipy"),
    ("auroc", "auroc_sklearn"),
)


def compare(size: int, rounds: int) -> Iterator[str]:
    """Processor seconds of both in turns, and the ratio of each pair."""
    timed = Timed(size)
    yield f"{size:,} tasks, {timed.draws} draws; processor seconds, median of {rounds}"
    yield ""
    yield "| ours | peer | ours, s | peer, s | peer / ours: median, least, most |"
    yield "|---|---|---|---|---|"
    for ours, peer in COMPARED:
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds + 1):
            for name, into in zip((ours, peer), seconds, strict=True):
                started = time.process_time()
                getattr(timed, name)()
                into.append(time.process_time() - started)
        mine, others = (each[1:] for each in seconds)  # the first pair warms up
        ratios = [b / a for a, b in zip(mine, others, strict=True)]
        yield (
            f"| {ours} | {peer} | {statistics.median(mine):.3f} | {statistics.median(others):.3f} "
            f"| {statistics.median(ratios):.1f}, {min(ratios):.1f}, {max(ratios):.1f} |"
        )


def main() -> None:
    """Simulate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["coverage", "speed"])
    parser.add_argument("--runs", type=int, default=2000, help="simulated tables")
    parser.add_argument("--size", type=int, default=100_000, help="tasks of the timed tables")
    parser.add_argument("--rounds", type=int, default=5, help="timed pairs of runs")
    parser.add_argument("--draws", type=int, help="of --once")
    parser.add_argument("--once", choices=sorted({name for pair in COMPARED for name in pair}))
    args = parser.parse_args()
    if args.once:
        timed = Timed(args.size)
        timed.draws = args.draws or timed.draws
        print(args.once, *getattr(timed, args.once)())
        return
    if args.only != "speed":
        print(*simulate(args.runs), sep="\n")
    if args.only != "coverage":
        print(*compare(args.size, args.rounds), sep="\n")


if __name__ == "__main__":
    main()
