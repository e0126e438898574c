"""How a verifier does on models that it has not seen, and on questions that it has not seen.

Each family of models is left out once: a verifier is fitted on what the others answered to the
training tasks, and judges what the family answered to the test tasks. Neither the name of a model
nor that of a category is a feature, so this is what a user of a new model can expect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specact_rl.eval.log_outcomes import LogAnswers, family_of
from specact_rl.metrics.discrimination import (
    auroc_difference,
    auroc_interval,
    within_group_auroc,
)
from specact_rl.metrics.rates import cluster_rate
from specact_rl.metrics.values import BoolArray, FloatArray
from specact_rl.verifiers.base import Item, Verifier

Fit = Callable[[Sequence[Item], BoolArray], Verifier]
"""(items, acceptable of shape (n,)) -> a verifier fitted on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenModels:
    """One verifier for each family of models, fitted without it."""

    verifiers: Mapping[str, Mapping[str, Verifier]]
    """By family left out, then by kind of verifier."""


def families(answers: LogAnswers) -> dict[str, list[str]]:
    """The agents of a log by family, as their names tell."""
    found: dict[str, list[str]] = {}
    for agent in answers.by_agent:
        found.setdefault(family_of(agent), []).append(agent)
    return found


def labelled_items(
    answers: LogAnswers, agents: Sequence[str], tasks: Sequence[str]
) -> tuple[list[Item], BoolArray]:
    """All answers of these agents to these tasks that have a label, and the labels."""
    items: list[Item] = []
    for agent in agents:
        answered = [task for task in tasks if task in answers.by_agent[agent]]
        items += [i for i in answers.items(agent, answered) if i.proposal.acceptable is not None]
    return items, np.array([bool(i.proposal.acceptable) for i in items], dtype=np.bool_)


def fit_without_each(
    answers: LogAnswers, tasks: Sequence[str], fits: Mapping[str, Fit]
) -> UnseenModels:
    """Leave out each family that can be left out: both labels must be left.

    Args:
        answers: Of the log.
        tasks: Training tasks.
        fits: By kind of verifier.
    """
    groups = families(answers)
    found: dict[str, dict[str, Verifier]] = {}
    for family in groups:
        others = [agent for name, agents in groups.items() if name != family for agent in agents]
        items, labels = labelled_items(answers, others, tasks)
        if labels.any() and not labels.all():
            found[family] = {kind: fit(items, labels) for kind, fit in fits.items()}
    return UnseenModels(verifiers=found)


def unseen_report(
    answers: LogAnswers, tasks: Sequence[str], unseen: UnseenModels, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """One row for each kind of verifier, as JSON; pooled over the families left out.

    The first kind is held against the others by the difference in AUROC.

    Args:
        answers: Of the log.
        tasks: Test tasks.
        unseen: Fitted on other tasks.
        rng: Of the intervals.
    """
    groups = families(answers)
    rows: dict[str, list[FloatArray]] = {}
    labels, agents, names = [], [], []
    parsed: list[bool] = []
    of_tasks: list[str] = []
    for family, verifiers in unseen.verifiers.items():
        items, acceptable = labelled_items(answers, groups[family], tasks)
        for kind, verifier in verifiers.items():
            rows.setdefault(kind, []).append(verifier.judge(items).log_odds)
        labels.append(acceptable)
        agents += [item.proposal.model_id for item in items]
        names += [family] * len(items)
        parsed += [item.proposal.parsed for item in items]
        of_tasks += [item.step.task_id for item in items]
    if not rows:
        return []
    y, task_ids = np.concatenate(labels), np.array(of_tasks)
    scores = {kind: np.concatenate(parts) for kind, parts in rows.items()}
    return [
        _row(kind, scores, y, task_ids, np.array(agents), np.array(names), np.array(parsed), rng)
        for kind in scores
    ]


def _row(
    kind: str,
    scores: Mapping[str, FloatArray],
    y: BoolArray,
    tasks: np.ndarray,
    agents: np.ndarray,
    names: np.ndarray,
    parsed: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    z = scores[kind]
    judged = ~np.isnan(z)
    readable = judged & parsed
    by_family = {}
    for name in dict.fromkeys(names.tolist()):
        here = judged & (names == name)
        if here.any():
            by_family[name] = {
                "models": sorted(set(agents[here].tolist())),
                "n": int(here.sum()),
                "base_rate": cluster_rate(y[here], tasks[here]),
                "auroc": auroc_interval(z[here], y[here], tasks[here], rng=rng),
            }
    row: dict[str, Any] = {
        "name": kind,
        "n": int(judged.sum()),
        "num_tasks": int(np.unique(tasks[judged]).size),
        "base_rate": cluster_rate(y[judged], tasks[judged]),
        "auroc": auroc_interval(z[judged], y[judged], tasks[judged], rng=rng),
        "num_readable": int(readable.sum()),
        "auroc_readable": auroc_interval(z[readable], y[readable], tasks[readable], rng=rng),
        "auroc_within_model": within_group_auroc(
            z[judged], y[judged], agents[judged], tasks[judged], rng=rng
        ),
        "auroc_within_task": within_group_auroc(
            z[judged], y[judged], tasks[judged], tasks[judged], rng=rng
        ),
        "families": by_family,
        "gain_over": {},
    }
    if kind == next(iter(scores)):
        for other, w in scores.items():
            both = judged & ~np.isnan(w)
            if other != kind and both.any():
                row["gain_over"][other] = auroc_difference(
                    z[both], w[both], y[both], tasks[both], rng=rng
                )
    return row
