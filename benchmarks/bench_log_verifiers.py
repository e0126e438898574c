"""How well verifiers on hand features judge models and questions that they have not seen.

    python benchmarks/bench_log_verifiers.py [--log FOLDER]

The log is the leaderboard of August 2024 with eight models in four families. Each response is
scored by a verifier that saw neither its family of models nor its question: four families times
five folds of questions. No category and no model name is a feature. Prints Markdown: AUROC with
95 % intervals over resampled questions. Without the log it says so and ends.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from specact_rl.logs.importers import read_log
from specact_rl.logs.responses import request_step, response_messages, response_proposal
from specact_rl.metrics.discrimination import auroc, auroc_interval, within_group_auroc
from specact_rl.metrics.resampling import resampled_sums
from specact_rl.metrics.values import BoolArray, FloatArray, MetricValue
from specact_rl.types import Rollout
from specact_rl.verifiers.base import Item
from specact_rl.verifiers.features import feature_matrix, feature_names
from specact_rl.verifiers.responses import Kind, ResponseModel

ROOT = Path(os.environ.get("SPECACT_REAL_LOGS", Path(__file__).parents[2] / "shared" / "data"))
FAMILIES = {
    "meta-llama": "Llama",
    "Salesforce_xLAM": "xLAM",
    "NousResearch_Hermes": "Hermes",
    "gpt-4o": "gpt-4o",
}
PAIRS = {
    "Llama-3 8B / 70B": ("Llama-3-8B-Instruct", "Llama-3-70B-Instruct"),
    "xLAM 1b / 7b": ("xLAM-1b", "xLAM-7b"),
    "Hermes-2-Pro 8B / 70B": ("Pro-Llama-3-8B", "Pro-Llama-3-70B"),
    "gpt-4o-mini / gpt-4o (inverted)": ("gpt-4o-mini", "gpt-4o-2024"),
}
"""Cheap and strong by parts of their names."""
CALIBRATION_FOLDS = 2
"""Folds of questions on which a threshold is chosen; the others test it."""
VERIFIERS: dict[str, tuple[Kind, ...]] = {"trees": ("trees", "linear"), "linear": ("linear",)}
NUM_FOLDS = 5


def main() -> None:
    """Read, score what was left out, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--log", type=Path, default=ROOT / "bfcl_2024_08", help="folder of the log")
    parser.add_argument("--tasks", type=int, help="only so many questions (default: all)")
    parser.add_argument("--resamples", type=int, default=1000, help="draws of an interval")
    args = parser.parse_args()
    if not args.log.is_dir():
        print(f"no log in {args.log}: give --log, or set SPECACT_REAL_LOGS to the folder above it")
        return
    rollouts = [r for r in read_log(args.log).result.rollouts if r.success is not None]
    kept = sorted({r.task_id for r in rollouts}, key=_digest)[: args.tasks]
    rollouts = [r for r in rollouts if r.task_id in set(kept)]
    table = Table(rollouts, args.resamples)
    print(f"{len(rollouts)} responses to {len(kept)} questions, {len(feature_names())} features.\n")
    scores = {}
    for name, kinds in VERIFIERS.items():
        start = time.perf_counter()
        scores[name] = table.left_out(kinds)
        print(f"{name}: {time.perf_counter() - start:.0f} s for all fits and scores.")
    table.print_pooled(scores)
    table.print_families(scores)
    table.print_categories(scores["trees"])
    table.print_gates(scores)


class Table:
    """Features and labels of all responses, and how they are divided."""

    def __init__(self, rollouts: Sequence[Rollout], num_resamples: int) -> None:
        """Compute the features."""
        items = [item_of(rollout) for rollout in rollouts]
        self.features = feature_matrix(items)
        self.parsed = np.array([item.proposal.parsed for item in items])
        self.labels = np.array([bool(r.success) for r in rollouts])
        self.tasks = np.array([r.task_id for r in rollouts])
        self.models = np.array([r.policy for r in rollouts])
        self.categories = np.array([r.family for r in rollouts])
        self.families = np.array([family(r.policy) for r in rollouts])
        self.folds = np.array([_digest(r.task_id) % NUM_FOLDS for r in rollouts])
        errors = [str(r.info.get("error_type")) for r in rollouts]
        relevance = self.categories == "relevance"
        read = np.array([not error.startswith("ast_decoder") for error in errors])
        self.subsets = {
            "all": np.ones(len(rollouts), dtype=bool),
            "without relevance": ~relevance,
            "decodable": read & ~relevance,
        }
        self.num_resamples = num_resamples

    def left_out(self, kinds: Sequence[Kind]) -> FloatArray:
        """Log-odds of each response by a model that saw neither its family nor its question."""
        scores = np.full(self.labels.size, np.nan)
        for name in np.unique(self.families):
            for fold in range(NUM_FOLDS):
                test = (self.families == name) & (self.folds == fold)
                train = (self.families != name) & (self.folds != fold)
                if test.any():
                    model = ResponseModel.fit(
                        self.features[train], self.labels[train], kinds=kinds, seed=0
                    )
                    scores[test] = model.log_odds(self.features[test])
        return scores

    def print_pooled(self, scores: dict[str, FloatArray]) -> None:
        """All families together; then pairs within a model, and within a question."""
        columns = [*self.subsets, "decodable, within a model", "within a question"]
        print(f"\n| verifier | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
        for name, s in scores.items():
            cells = [self._auroc(s, rows) for rows in self.subsets.values()]
            decodable = self.subsets["decodable"]
            cells.append(self._within(s, decodable, self.models))
            cells.append(self._within(s, self.subsets["all"], self.tasks))
            print(f"| {name} | {' | '.join(map(shown, cells))} |")

    def print_families(self, scores: dict[str, FloatArray]) -> None:
        """Each family by the verifiers that did not see it."""
        print("\n| left out | verifier | right, % | all | without relevance | decodable |")
        print("|---|---|---|---|---|---|")
        for left_out in np.unique(self.families):
            of_family = self.families == left_out
            rate = 100 * self.labels[of_family].mean()
            for name, s in scores.items():
                cells = [self._auroc(s, rows & of_family) for rows in self.subsets.values()]
                print(f"| {left_out} | {name} | {rate:.1f} | {' | '.join(map(shown, cells))} |")

    def print_categories(self, scores: FloatArray) -> None:
        """Each category, by trees."""
        print("\n| category (trees) | right, % | all | decodable: right, % | decodable |")
        print("|---|---|---|---|---|")
        for category in np.unique(self.categories):
            rows = self.categories == category
            read = rows & self.subsets["decodable"]
            cells = [f"{100 * self.labels[rows].mean():.1f}", point(scores, self.labels, rows)]
            cells += (
                ["–", "–"]
                if not read.any()
                else [
                    f"{100 * self.labels[read].mean():.1f}",
                    point(scores, self.labels, read),
                ]
            )
            print(f"| {category} | {' | '.join(cells)} |")

    def print_gates(self, scores: dict[str, FloatArray]) -> None:
        """A gate for each pair, its threshold chosen on questions that do not test it."""
        print(
            "\n| pair | verifier | cheap, % | strong, % | accepted, % | gate, % "
            "| minus random gate, points |\n|---|---|---|---|---|---|---|"
        )
        for pair, parts in PAIRS.items():
            rows = [{task: i for i, task in self._rows_of(part)} for part in parts]
            shared = sorted(rows[0].keys() & rows[1].keys())
            if not shared:
                continue
            cheap, strong = ([of[task] for task in shared] for of in rows)
            first = self.folds[cheap] < CALIBRATION_FOLDS
            right = self.labels[cheap], self.labels[strong]
            for name, s in scores.items():
                odds = np.where(self.parsed[cheap], s[cheap], -np.inf)
                accept = odds >= best_threshold(odds[first], right[0][first], right[1][first])
                sums = np.stack([np.where(accept, *right), accept, *right], axis=1)[~first]
                shares = sums.mean(axis=0)
                draws = skill(
                    resampled_sums(
                        sums.astype(np.float64), self.num_resamples, np.random.default_rng(0)
                    )
                    / len(sums)
                )
                gain = 100 * bootstrap_points(skill(shares), draws)
                cells = [f"{100 * share:.1f}" for share in shares[[2, 3, 1, 0]]]
                interval = f"{gain[0]:+.1f} [{gain[1]:+.1f}, {gain[2]:+.1f}]"
                print(f"| {pair} | {name} | {' | '.join(cells)} | {interval} |")

    def _rows_of(self, part: str) -> list[tuple[int, str]]:
        """Place and question of each response of a model."""
        return [(i, self.tasks[i]) for i, name in enumerate(self.models) if part in name]

    def _auroc(self, scores: FloatArray, rows: BoolArray) -> MetricValue:
        return auroc_interval(
            scores[rows],
            self.labels[rows],
            self.tasks[rows],
        )

    def _within(self, scores: FloatArray, rows: BoolArray, groups: np.ndarray) -> MetricValue:
        return within_group_auroc(
            scores[rows],
            self.labels[rows],
            groups[rows],
            self.tasks[rows],
        )


def best_threshold(odds: FloatArray, cheap: BoolArray, strong: BoolArray) -> float:
    """The score from which on accepting has the highest skill; inf to accept nothing.

    Not the most right answers: beside a much better strong model that is to accept nothing.
    """
    candidates = np.append(np.unique(odds[np.isfinite(odds)]), np.inf)
    accept = odds >= candidates[:, None]
    right = np.where(accept, cheap, strong).mean(axis=1)
    rates = [np.full(len(candidates), side.mean()) for side in (cheap, strong)]
    gains = skill(np.stack([right, accept.mean(axis=1), *rates], axis=1))
    return float(candidates[int(gains.argmax())])


def skill(shares: FloatArray) -> FloatArray:
    """Right answers of a gate minus those of a random gate that accepts as often.

    Args:
        shares: Last axis: right by the gate, accepted, right by the cheap, right by the strong.
    """
    gate, accepted, cheap, strong = np.moveaxis(shares, -1, 0)
    return np.asarray(gate - accepted * cheap - (1 - accepted) * strong)


def bootstrap_points(value: FloatArray, draws: FloatArray) -> FloatArray:
    """Value and percentile interval of 95 %."""
    return np.array([float(value), *np.quantile(draws, [0.025, 0.975])])


def item_of(rollout: Rollout) -> Item:
    """A logged response as a verifier gets it."""
    proposal = response_proposal(rollout, 0)
    return Item(
        step=request_step(rollout),
        proposal=proposal,
        response=response_messages(rollout),
        siblings=(proposal,),
    )


def family(policy: str) -> str:
    """The family of a model, by the start of its name; the name itself where none is known."""
    return next((name for start, name in FAMILIES.items() if policy.startswith(start)), policy)


def shown(metric: MetricValue) -> str:
    """Value and interval."""
    if metric.value is None:
        return "–"
    interval = "" if metric.low is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
    return f"{metric.value:.3f}{interval}"


def point(scores: FloatArray, labels: BoolArray, rows: BoolArray) -> str:
    """AUROC without an interval."""
    return shown(auroc(scores[rows], labels[rows]))


def _digest(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


if __name__ == "__main__":
    main()
