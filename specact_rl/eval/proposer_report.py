"""What each proposer is worth by itself: free text, several samples, ranking, and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specact_rl.eval.baselines import markov_actions, matches, nearest_actions
from specact_rl.eval.columns import LEVELS, ProposalColumns, StepTable
from specact_rl.eval.labelled import Labels, known, paired_difference, rate
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import BoolArray
from specact_rl.types import Step

BASELINES = (("markov", markov_actions), ("nearest_neighbour", nearest_actions))


def proposer_row(
    role: str, columns: ProposalColumns, table: StepTable, size: ModelSize | None
) -> dict[str, Any]:
    """A model's free-text proposals as JSON, over all steps and by kind of task family.

    What several samples are worth is measured where the systems are: on the families that were
    trained on.
    """
    greedy: dict[str, Labels] = {"parsed": columns.parsed[:, 0]}
    if (table.reference_types != "").any():
        greedy |= {str(level): columns.levels[level][:, 0] for level in LEVELS}
    if known(columns.same_state[:, 0]).any():
        greedy["same_state"] = columns.same_state[:, 0]
    greedy["acceptable"] = columns.acceptable[:, 0]
    groups = _groups(table)
    sampled = columns.take(groups.get("in_family", groups["all"]))
    coverage = _coverage(sampled)
    return {
        "role": role,
        "model_id": columns.model_id,
        "num_params": None if size is None else size.num_params,
        "num_unlabelled": int((~known(columns.acceptable[:, 0])).sum()),
        "groups": {
            group: {
                name: rate(labels[here], table.task_ids[here]) for name, labels in greedy.items()
            }
            for group, here in groups.items()
        },
        "num_samples": columns.acceptable.shape[1],
        "num_distinct": float(sampled.num_distinct.mean()),
        "coverage": coverage,
        "effective_k": _effective_k(coverage),
    }


def _groups(table: StepTable) -> dict[str, BoolArray]:
    groups = {"all": np.ones(len(table.steps), dtype=np.bool_)}
    if table.out_of_family.any():
        groups["out_of_family"] = table.out_of_family
        if not table.out_of_family.all():
            groups["in_family"] = ~table.out_of_family
    return groups


def _coverage(columns: ProposalColumns) -> list[float]:
    """Share of steps with an acceptable one among the first 1, 2, ... samples.

    Over steps whose samples all have a label: a step with an unknown one would count only where
    another is acceptable. Empty when there is no such step.
    """
    labels = columns.acceptable[known(*columns.acceptable.T)]
    if not labels.size:
        return []
    return [float(labels[:, : j + 1].max(axis=1).mean()) for j in range(labels.shape[1])]


def _effective_k(coverage: Sequence[float]) -> float | None:
    """Independent draws that would cover as much: ln(1 - hit_k) / ln(1 - hit_1)."""
    if not coverage or not 0.0 < coverage[0] < 1.0 or coverage[-1] >= 1.0:
        return None
    return float(np.log1p(-coverage[-1]) / np.log1p(-coverage[0]))


def ranking_row(role: str, columns: ProposalColumns, table: StepTable) -> dict[str, Any]:
    """A model's top-ranked candidates as JSON; never comparable with free text."""
    sizes = np.array([row[0].num_candidates for row in columns.proposals], dtype=np.float64)
    return {
        "role": role,
        "num_candidates": float(sizes.mean()),
        "chance": float((1.0 / sizes).mean()),
        "arguments": rate(columns.levels["arguments"][:, 0], table.task_ids),
        "acceptable": rate(columns.acceptable[:, 0], table.task_ids),
    }


def baseline_rows(
    cheap: ProposalColumns,
    table: StepTable,
    train_steps: Sequence[Step],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The cheap proposer beside predictors that copy training steps, at the arguments level."""
    if not train_steps:
        return []
    ours, tasks = cheap.levels["arguments"][:, 0], table.task_ids
    rows = []
    for name, predict in BASELINES:
        theirs = matches(table.steps, predict(train_steps, table.steps), "arguments")
        rows.append(
            {
                "name": name,
                "arguments": rate(theirs, tasks),
                "cheap_minus_baseline": paired_difference(ours, theirs, tasks, rng),
            }
        )
    return rows
