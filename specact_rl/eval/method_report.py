"""What methods of teaching a proposer came to: paired with their start, and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.eval.live import LiveEpisode
from specact_rl.eval.repeats import mean_over_runs
from specact_rl.eval.report.blocks import Block, Cell, Code, Paragraph, Section, table, words
from specact_rl.eval.report.markdown import page_markdown
from specact_rl.eval.report.numbers import JSON, cell, direction, metric, percent, points
from specact_rl.eval.report.page import Page
from specact_rl.metrics.paired import cluster_bootstrap_mean, paired_cluster_bootstrap
from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.values import BoolArray, IntArray, MetricValue

LEVELS = ("type", "tool", "arguments", "acceptable", "parsed")
"""At which a proposal at a logged step is right."""
SHOWN = {
    "type": "type",
    "tool": "tool",
    "arguments": "arguments",
    "acceptable": "acceptable",
    "success": "success live",
}
COUNTED = ("arguments", "acceptable")
"""Levels at which seeds are counted."""
NUM_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a method took."""

    num_rows: int
    """Rows of its data set."""
    num_steps: int
    rows_seen: int
    """Rows that were trained on, repeats included."""
    sampling_flops: float
    """Of what the start wrote for its rows before training."""
    training_flops: float
    """Of all passes of the training."""
    flops_per_counted_token: float
    """Of training, by the tokens that train_log.json counts."""
    seconds: float | None = None
    """Of the training, on whatever else ran beside it; None before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRun:
    """One method on one seed; n steps."""

    name: str
    title: str
    spent: Spent | None
    """None for the start."""
    task_ids: IntArray
    """Of each step, shape (n,)."""
    correct: Mapping[str, BoolArray]
    """By level, whether the greedy proposal reaches it, each of shape (n,)."""
    episodes: Sequence[LiveEpisode]
    """In the order of their tasks."""
    pairs: dict[str, Any] | None
    """What is known of the pairs learnt from; None where there are none."""


def seed_results(seed: int, runs: Sequence[MethodRun], budget: float) -> dict[str, Any]:
    """All methods of one seed as JSON, each paired with the first, the start.

    Raises:
        ConfigError: The methods were not measured on the same steps and tasks.
    """
    start = runs[0]
    for run in runs:
        tasks = [episode.task_id for episode in run.episodes]
        if tasks != [e.task_id for e in start.episodes] or not np.array_equal(
            run.task_ids, start.task_ids
        ):
            raise ConfigError(
                f"seed {seed}: {run.name} must be measured on the steps and tasks of {start.name}; "
                "evaluate both with the same numbers of tasks"
            )
    return {
        "seed": seed,
        "num_steps": int(start.task_ids.size),
        "num_tasks": len(set(start.task_ids.tolist())),
        "num_live_tasks": len(start.episodes),
        "methods": [_method(run, start, budget, seed) for run in runs],
    }


def _method(run: MethodRun, start: MethodRun, budget: float, seed: int) -> dict[str, Any]:
    # One stream a method and number, whatever other methods there are.
    def rng(name: str) -> np.random.Generator:
        return np.random.default_rng([seed, *name.encode()])

    ours, theirs = _live(run), _live(start)
    live_tasks = np.arange(len(run.episodes))
    found: dict[str, Any] = {
        "name": run.name,
        "title": run.title,
        "spent": None,
        "pairs": run.pairs,
        "accuracy": {
            level: asdict(cluster_rate(run.correct[level], run.task_ids)) for level in LEVELS
        },
        "success": asdict(cluster_rate(ours["success"] > 0, live_tasks)),
        "num_steps": asdict(
            cluster_bootstrap_mean(
                ours["steps"], live_tasks, rng=rng("steps"), num_resamples=NUM_RESAMPLES
            )
        ),
        "minus_start": None,
    }
    if run.spent is not None:
        total = run.spent.sampling_flops + run.spent.training_flops
        found["spent"] = {**asdict(run.spent), "share_of_budget": total / budget}
    if run is not start:
        differences = {
            level: paired_cluster_bootstrap(
                run.correct[level],
                start.correct[level],
                run.task_ids,
                rng=rng(level),
                num_resamples=NUM_RESAMPLES,
            )
            for level in LEVELS
        }
        for name in ("success", "steps"):
            differences[name] = paired_cluster_bootstrap(
                ours[name],
                theirs[name],
                live_tasks,
                rng=rng(f"live {name}"),
                num_resamples=NUM_RESAMPLES,
            )
        changed = run.correct["acceptable"] != start.correct["acceptable"]
        better = run.correct["acceptable"] & changed
        found["minus_start"] = {name: asdict(value) for name, value in differences.items()}
        found["num_better"] = int(better.sum())
        found["num_worse"] = int((changed & ~better).sum())
    return found


def _live(run: MethodRun) -> dict[str, np.ndarray]:
    return {
        "success": np.array([episode.success for episode in run.episodes], dtype=np.float64),
        "steps": np.array([episode.num_steps for episode in run.episodes], dtype=np.float64),
    }


def over_seeds(seeds: Sequence[JSON]) -> list[dict[str, Any]]:
    """Mean differences from the start over the seeds that have a method.

    Of `COUNTED` levels also how many seeds are above the start, and how many show it, or the
    opposite, by themselves.
    """
    names = list(dict.fromkeys(m["name"] for seed in seeds for m in seed["methods"]))
    found = []
    for name in names:
        rows = [m for seed in seeds for m in seed["methods"] if m["name"] == name]
        if rows[0]["minus_start"] is None:
            continue
        found.append(
            {
                "name": name,
                "title": rows[0]["title"],
                "num_seeds": len(rows),
                "counts": {level: _counts(rows, level) for level in COUNTED},
                "minus_start": {
                    level: asdict(mean_over_runs(_differences(rows, level)))
                    for level in rows[0]["minus_start"]
                },
            }
        )
    return found


def against(seeds: Sequence[JSON], reference: str) -> list[dict[str, Any]]:
    """Mean differences of methods from one of them, over the seeds that have both.

    Within a seed both were measured on the same steps, so that the seed's steps cancel out; the
    intervals are over seeds alone.
    """
    pairs: dict[str, list[tuple[JSON, JSON]]] = {}
    for seed in seeds:
        by_name = {m["name"]: m for m in seed["methods"] if m["minus_start"] is not None}
        if reference in by_name:
            for name, row in by_name.items():
                if name != reference:
                    pairs.setdefault(name, []).append((row, by_name[reference]))
    return [
        {
            "name": name,
            "reference": reference,
            "num_seeds": len(rows),
            "difference": {
                level: asdict(mean_over_runs([_difference(*both, level) for both in rows]))
                for level in COUNTED
            },
        }
        for name, rows in pairs.items()
    ]


def _difference(row: JSON, other: JSON, level: str) -> MetricValue:
    ours, theirs = row["minus_start"][level], other["minus_start"][level]
    return MetricValue(value=ours["value"] - theirs["value"], n=ours["n"])


def _counts(rows: Sequence[JSON], level: str) -> dict[str, int]:
    values = _differences(rows, level)
    sides = [direction(value) for value in values]
    return {
        "above": sum(value.value is not None and value.value > 0 for value in values),
        "shown_above": sides.count("above"),
        "shown_below": sides.count("below"),
    }


def _differences(rows: Sequence[JSON], level: str) -> list[MetricValue]:
    return [MetricValue(**row["minus_start"][level]) for row in rows]


def comparison_page(results: JSON) -> str:
    """The comparison as a Markdown page."""
    seeds, meta = results["seeds"], results["meta"]
    sizes = "; ".join(
        f"seed {s['seed']}: {s['num_steps']} steps of {s['num_tasks']} tasks, "
        f"{s['num_live_tasks']} live tasks"
        for s in seeds
    )
    summary: list[Block] = [
        Paragraph(
            text=(
                "Each method goes on from the same SFT proposer of a run of preset "
                f"{meta['preset']}, for {meta['budget_tflop']:g} TFLOP, and is measured on the "
                f"same held-out tasks ({meta['split']}): greedy free text at logged steps, and "
                "whole episodes alone. "
                f"{sizes}."
            )
        ),
        Paragraph(
            text=(
                "FLOPs are a formula over the tokens of the rows: forward, backward, the "
                "reference's reading, and what the start wrote for the rows (or, in GRPO, writes "
                "during training); padding is left out. Only the learning rates of SFT and of DPO "
                "were tried out, on the calibration split of seed 0; the other methods have those "
                "of their configs, so that the methods are not equally tuned."
            )
        ),
        Code(text=meta["command"]),
    ]
    sections = [
        Section(title="Over seeds", blocks=[_means_table(results), *_against_table(results)]),
        *(
            Section(title=f"Seed {seed['seed']}", blocks=[_seed_table(seed), *_pairs_table(seed)])
            for seed in seeds
        ),
    ]
    return page_markdown(
        Page(title="What teaches a proposer most", summary=summary, sections=sections)
    )


def _means_table(results: JSON) -> Block:
    rows = []
    for row in results["means"]:
        difference = row["minus_start"]
        rows.append(
            (
                words(row["name"]),
                words(row["title"]),
                words(row["num_seeds"]),
                *(points(metric(difference, level)) for level in SHOWN),
                _steps(metric(difference, "steps")),
                *(
                    words(f"{counts['above']} / {counts['shown_above']} / {counts['shown_below']}")
                    for counts in row["counts"].values()
                ),
            )
        )
    return table(
        (
            "method",
            "what it is",
            "seeds",
            *SHOWN.values(),
            "steps live",
            *(f"seeds by {SHOWN[level]} above / shown above / shown below" for level in COUNTED),
        ),
        rows,
        num_words=2,
        caption=(
            "Method minus start, in percentage points (steps: per episode), mean over seeds; in "
            "brackets Student's t over seeds, 95 %, which takes them as independent draws of about "
            "normal values, from the same bases and settings, or what the seeds' own intervals "
            "give the mean, where that is wider. Type, tool, arguments: match with the expert's "
            "action; acceptable: brings the goal nearer. Last columns: seeds above the start, and "
            "those whose own interval over tasks is above or below it. Nothing is corrected for "
            "the number of methods."
        ),
    )


def _against_table(results: JSON) -> list[Block]:
    rows = results["against"]
    if not rows:
        return []
    return [
        table(
            ("method", "seeds", *(SHOWN[level] for level in COUNTED)),
            [
                (
                    words(row["name"]),
                    words(row["num_seeds"]),
                    *(points(metric(row["difference"], level)) for level in COUNTED),
                )
                for row in rows
            ],
            caption=(
                f"Method minus {rows[0]['reference']}, the same steps in each seed, in percentage "
                "points; Student's t over seeds alone. Not corrected for the number of methods."
            ),
        )
    ]


def _steps(m: Any) -> Cell:
    return cell(m, most=2, signed=True)


def _seed_table(seed: JSON) -> Block:
    rows = []
    for row in seed["methods"]:
        spent, difference = row["spent"], row["minus_start"]
        total = None if spent is None else spent["sampling_flops"] + spent["training_flops"]
        if difference is None:
            accuracy = [
                percent(metric(row["accuracy"], level)) for level in SHOWN if level != "success"
            ]
            live = [percent(metric(row, "success")), cell(metric(row, "num_steps"), most=1)]
        else:
            accuracy = [points(metric(difference, level)) for level in SHOWN if level != "success"]
            live = [points(metric(difference, "success")), _steps(metric(difference, "steps"))]
        rows.append(
            (
                words(row["name"]),
                words("" if spent is None else f"{spent['num_rows']}"),
                words("" if spent is None else f"{spent['rows_seen']}"),
                words("" if total is None else f"{total / 1e12:.2f}"),
                words("" if not total else f"{100 * spent['sampling_flops'] / total:.0f}"),
                *accuracy,
                words("" if difference is None else f"{row['num_better']} / {row['num_worse']}"),
                *live,
            )
        )
    return table(
        (
            "method",
            "rows",
            "rows seen",
            "TFLOP",
            "of it sampling, %",
            *(shown for level, shown in SHOWN.items() if level != "success"),
            "better / worse",
            "success live",
            "steps live",
        ),
        rows,
        caption=(
            "The start in percent, the methods as differences from it in percentage points, both "
            "with 95 % intervals over tasks, paired by step and task. Better / worse: steps whose "
            "action has become acceptable, or is no longer."
        ),
    )


def _pairs_table(seed: JSON) -> list[Block]:
    known = [row for row in seed["methods"] if row["pairs"] is not None]
    if not known:
        return []
    return [
        table(
            ("method", "pairs", "chosen is the expert's", "rejected unparsable", "precision, %"),
            [
                (
                    words(row["name"]),
                    words(row["pairs"]["num_pairs"]),
                    words(row["pairs"]["chosen_is_the_experts"]),
                    words(row["pairs"]["rejected_unparsable"]),
                    percent(metric(row["pairs"], "precision")),
                )
                for row in known
            ],
            caption=(
                "Precision: share of pairs whose chosen side brings the goal nearer than the "
                "rejected one, by cost-to-go; empty for whole episodes, where the task's checker "
                "has spoken."
            ),
        )
    ]
