"""How a verifier does on models that it has not seen, and on questions that it has not seen.

Each family of models is left out once: a verifier is fitted on what the others answered to the
training tasks, and judges what the family answered to the test tasks. Neither the name of a model
nor that of a category is a feature, so this is what a user of a new model can expect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from specact_rl.verifiers.choice import Fit
from specact_rl.verifiers.features import has_response


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenModels:
    """One verifier for each family of models, fitted without it."""

    verifiers: Mapping[str, Mapping[str, Verifier]]
    """By family left out, then by kind of verifier."""


def families(agents: Iterable[str]) -> dict[str, list[str]]:
    """The agents of a log by family, as their names tell."""
    found: dict[str, list[str]] = {}
    for agent in agents:
        found.setdefault(family_of(agent), []).append(agent)
    return found


Labelled = tuple[list[Item], BoolArray]
"""Answers that have a label, and the labels."""


def labelled_by_agent(answers: LogAnswers, tasks: Sequence[str]) -> dict[str, Labelled]:
    """Every agent's answers to these tasks, all trials, that have a label and say anything."""
    found: dict[str, Labelled] = {}
    for agent, answered in answers.by_agent.items():
        mine = [task for task in tasks if task in answered]
        items = [
            item
            for item in answers.items(agent, mine)
            if item.proposal.acceptable is not None and has_response(item)
        ]
        labels = np.array([bool(i.proposal.acceptable) for i in items], dtype=np.bool_)
        found[agent] = (items, labels)
    return found


def together(parts: Iterable[Labelled]) -> Labelled:
    """Several agents' in one list."""
    items: list[Item] = []
    labels: list[BoolArray] = [np.zeros(0, dtype=np.bool_)]
    for more, their in parts:
        items += more
        labels.append(their)
    return items, np.concatenate(labels)


def fit_without_each(train: Mapping[str, Labelled], fits: Mapping[str, Fit]) -> UnseenModels:
    """Leave out each family that can be left out: both labels must be left.

    Args:
        train: Answers to training tasks by agent.
        fits: By kind of verifier.
    """
    groups = families(train)
    found: dict[str, dict[str, Verifier]] = {}
    for family, members in groups.items():
        items, labels = together(train[agent] for agent in train if agent not in members)
        if labels.any() and not labels.all():
            found[family] = {kind: fit(items, labels) for kind, fit in fits.items()}
    return UnseenModels(verifiers=found)


def unseen_report(test: Mapping[str, Labelled], unseen: UnseenModels) -> list[dict[str, Any]]:
    """One row for each kind of verifier, as JSON; pooled over the families left out.

    The first kind is held against the others by the difference in AUROC.

    Args:
        test: Answers to test tasks by agent.
        unseen: Fitted on other tasks.
    """
    groups = families(test)
    rows: dict[str, list[FloatArray]] = {}
    labels, agents, names = [], [], []
    parsed: list[bool] = []
    of_tasks: list[str] = []
    for family, verifiers in unseen.verifiers.items():
        items, acceptable = together(test[agent] for agent in groups.get(family, ()))
        if not items:
            continue
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
        _row(kind, scores, y, task_ids, np.array(agents), np.array(names), np.array(parsed))
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
                "auroc": auroc_interval(z[here], y[here], tasks[here]),
            }
    row: dict[str, Any] = {
        "name": kind,
        "n": int(judged.sum()),
        "num_tasks": int(np.unique(tasks[judged]).size),
        "base_rate": cluster_rate(y[judged], tasks[judged]),
        "auroc": auroc_interval(z[judged], y[judged], tasks[judged]),
        "num_readable": int(readable.sum()),
        "auroc_readable": auroc_interval(z[readable], y[readable], tasks[readable]),
        "auroc_within_model": within_group_auroc(
            z[judged], y[judged], agents[judged], tasks[judged]
        ),
        "auroc_within_task": within_group_auroc(z[judged], y[judged], tasks[judged], tasks[judged]),
        "families": by_family,
        "gain_over": {},
    }
    if kind == next(iter(scores)):
        for other, w in scores.items():
            both = judged & ~np.isnan(w)
            if other != kind and both.any():
                row["gain_over"][other] = auroc_difference(z[both], w[both], y[both], tasks[both])
    return row
