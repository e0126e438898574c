"""Two models, or two trials of one, that a log has on the same tasks: no model runs.

A task is a step: at its request stand both models' whole answers, and a gate between them is a
join.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.log_outcomes import (
    AGREEMENT,
    LogAnswers,
    as_panel,
    family_of,
    outcomes_from_logs,
)
from specact_rl.eval.replay import Judged
from specact_rl.eval.unseen import (
    Labelled,
    UnseenModels,
    families,
    fit_without_each,
    labelled_by_agent,
    together,
    unseen_report,
)
from specact_rl.metrics.cost import NO_MODEL
from specact_rl.metrics.values import BoolArray
from specact_rl.mining.chunks import PROPOSALS_FILE
from specact_rl.pipeline.study.base import EVALUATED, LOG_VERDICT, PURPOSES, Study
from specact_rl.policy.systems import PANEL, PEERS, System, log_systems
from specact_rl.store import content_hash, read_manifest, read_table
from specact_rl.types import Proposal, SplitName
from specact_rl.verifiers import DifferenceVerifier, SampleAgreement, Verifier
from specact_rl.verifiers.base import Item

MIN_PANEL = 3
"""Fewer models than this have no majority."""


class PairStudy(Study):
    """A cheap and a strong model of the log."""

    label = LOG_VERDICT
    keys = ("trained", "trained_unseen", "trees", "linear", "sample_agreement", "difference")

    @cached_property
    def names(self) -> tuple[str, str]:
        """As the user wrote them."""
        if self.plan.cheap is None or self.plan.strong is None:
            raise ValueError("a pair must have both names")
        return self.plan.cheap, self.plan.strong

    @cached_property
    def everything(self) -> LogAnswers:
        """All answers of the log."""
        return LogAnswers.of(self.rollouts, self.names)

    @cached_property
    def answers(self) -> dict[str, LogAnswers]:
        """By what the tasks are for: train, calibration, test."""
        return {name: self.everything.of_splits(splits) for name, splits in PURPOSES.items()}

    @cached_property
    def cheap(self) -> str:
        """Full name of the cheap model."""
        return self.everything.find(self.names[0])

    @cached_property
    def strong(self) -> str:
        """Full name of the strong model."""
        return self.everything.find(self.names[1])

    def tasks(self, split: SplitName) -> list[str]:
        """Tasks that both models have answered.

        Raises:
            ConfigError: There is none.
        """
        answers = self.answers[split]
        pair = (self.cheap, self.strong)
        known = all(agent in answers.by_agent for agent in pair)
        tasks = answers.common_tasks(pair) if known else []
        if not tasks:
            raise ConfigError(
                f"the {split} tasks must have some that {self.cheap!r} and {self.strong!r} have "
                "both answered, got none; give the split a larger share with --fractions, or "
                "name models that did the same tasks"
            )
        return tasks

    @cached_property
    def labelled(self) -> dict[str, dict[str, Labelled]]:
        """All labelled answers of all models, by agent, for train and test tasks."""
        found = {}
        for name in ("train", "test"):
            of_agents = self.answers[name].by_agent.values()
            tasks = sorted({task for answered in of_agents for task in answered})
            found[name] = labelled_by_agent(self.answers[name], tasks)
        return found

    @cached_property
    def num_trials(self) -> int:
        """Answers of the cheap model to every task that is calibrated or tested on."""
        return min(self.answers[s].num_trials(self.cheap, self.tasks(s)) for s in EVALUATED)

    @cached_property
    def panel(self) -> list[str]:
        """Models that have answered all of these tasks, the most accurate on training tasks first.

        Ties of a vote go to the earlier one.
        """
        found = [agent for agent in self.everything.by_agent if self._answers_all(agent)]
        accuracy = {agent: self._train_accuracy(agent) for agent in found}
        return sorted(found, key=lambda agent: (-accuracy[agent], agent))

    def _answers_all(self, agent: str) -> bool:
        return all(
            set(self.tasks(split)) <= set(self.answers[split].by_agent.get(agent, ()))
            for split in EVALUATED
        )

    def _train_accuracy(self, agent: str) -> float:
        answered = self.answers["train"].by_agent.get(agent, {}).values()
        verdicts = [r.success for rollouts in answered for r in rollouts if r.success is not None]
        return sum(verdicts) / len(verdicts) if verdicts else 0.0

    @cached_property
    def peers(self) -> list[str]:
        """The panel without the two models."""
        return [agent for agent in self.panel if agent not in (self.cheap, self.strong)]

    @cached_property
    def systems(self) -> Mapping[str, System]:
        """What can be joined."""
        return log_systems(self.num_trials, len(self.peers), len(self.panel))

    def write_outcomes(self) -> None:
        """The proposals table of all models on the tasks of the pair."""
        cheap, strong = self.names
        outcomes_from_logs(
            self.rollouts_dir,
            self.folders.proposals("log"),
            cheap=cheap,
            strong=strong,
            all_models=True,
            overwrite=True,
        )

    def outcome_folders(self) -> dict[str, Path]:
        """The one table."""
        return {"outcomes": self.folders.proposals("log")}

    def facts(self) -> dict[str, Any]:
        """The two models, and on how many tasks who of them is right."""
        manifest = read_manifest(self.folders.proposals("log"))
        agreement = {key: manifest.counts[key] for key in AGREEMENT}
        return {
            "cheap": self.cheap,
            "strong": self.strong,
            "agreement": agreement,
            "answered_by_one": manifest.dropped.get("answered_by_one", 0),
            "fitted_elsewhere": self.choice.fitted is not None,
        }

    def train_items(self) -> tuple[list[Item], BoolArray]:
        """What all models of the log answered to the training tasks."""
        return together(self.labelled["train"].values())

    def cheap_items(self, split: SplitName) -> list[Item]:
        """The cheap model's trials at the requests."""
        return self.answers[split].items(
            self.cheap, self.tasks(split), at=self.strong, num_samples=self.num_trials
        )

    @cached_property
    def without_family(self) -> UnseenModels:
        """Verifiers that have not seen a family, for each.

        One that was fitted elsewhere has seen no model of this log, as far as its user knows.
        """
        if self.choice.fitted is not None:
            given = {"trained": self.choice.fitted}
            return UnseenModels(verifiers=dict.fromkeys(families(self.labelled["test"]), given))
        return fit_without_each(self.labelled["train"], self.fits)

    def verifier(self, key: str) -> Verifier | None:
        """A verifier by its key; None where it cannot be had."""
        if key == "sample_agreement":
            return SampleAgreement()
        if key == "difference":
            return self._difference
        if key == "trained_unseen":
            if self.choice.fitted is not None:
                return None  # it would be D's
            return self.without_family.verifiers.get(family_of(self.cheap), {}).get("trained")
        return super().verifier(key)

    @cached_property
    def _difference(self) -> DifferenceVerifier | None:
        """Of what an answer of any model gains over the strong one's; None without both kinds.

        The training tasks' answers that D's verifier learns from, where the strong model's first
        answer has a label too.
        """
        strong = self.answers["train"].by_agent.get(self.strong, {})
        verdicts = {task: rollouts[0].success for task, rollouts in strong.items()}
        items, right = together(
            labelled for agent, labelled in self.labelled["train"].items() if agent != self.strong
        )
        against = [verdicts.get(item.step.task_id) for item in items]
        kept = [i for i, verdict in enumerate(against) if verdict is not None]
        beside = np.array([bool(against[i]) for i in kept], dtype=np.bool_)
        if not (right[kept] != beside).any():
            return None
        return DifferenceVerifier.fit(
            [items[i] for i in kept], right[kept], beside, seed=self.plan.seed
        )

    def not_judged(self) -> dict[str, str]:
        """D-new needs another family to learn from."""
        if self.choice.fitted is not None or self.verifier("trained_unseen") is not None:
            return {}
        family = family_of(self.cheap)
        reason = (
            f"without the models whose names begin with {family!r}, the log has no right and wrong "
            "answers to training tasks to learn from"
        )
        return {n: reason for n, s in self.systems.items() if s.verifier == "trained_unseen"}

    @cached_property
    def proposals(self) -> list[Proposal]:
        """The proposals table."""
        return read_table(self.folders.proposals("log") / PROPOSALS_FILE, Proposal)

    def columns(self, split: SplitName) -> tuple[StepTable, dict[str, ProposalColumns]]:
        """The requests of a split and everyone's answers there, by role."""
        table = self.answers[split].step_table(self.strong, self.tasks(split))
        at = {step.step_id for step in table.steps}
        by_agent: dict[str, list[Proposal]] = {}
        for proposal in self.proposals:
            if proposal.step_id in at:
                by_agent.setdefault(proposal.model_id, []).append(proposal)
        first = {a: [p for p in found if p.sample == 0] for a, found in by_agent.items()}
        trials = [p for p in by_agent[self.cheap] if p.sample < self.num_trials]
        roles = {"cheap": trials, "strong": first[self.strong]}
        if self.peers:
            beside = [first[agent] for agent in (self.cheap, *self.peers)]
            roles[PEERS] = as_panel(_panel_id(self.cheap, *self.peers), beside)
        if len(self.panel) >= MIN_PANEL:
            everyone = [first[agent] for agent in self.panel]
            roles[PANEL] = as_panel(_panel_id(*self.panel), everyone)
        return table, {role: ProposalColumns.of(table, found) for role, found in roles.items()}

    def joined(self, table: StepTable, columns: ProposalColumns, role: str) -> dict[str, Judged]:
        """Agreement of models, where a log has their answers, and the bound that knows labels."""
        found: dict[str, Judged] = {}
        if role in (PEERS, PANEL) and columns.parsed.any():
            found["model_agreement"] = _agreement(table, columns)
        if role == PANEL:
            found["label"] = _labels(columns)
        return found

    def unseen_rows(self) -> list[dict[str, Any]]:
        """What verifiers say of models that they have not seen."""
        return unseen_report(self.labelled["test"], self.without_family)


def _panel_id(*agents: str) -> str:
    """What a gate on a panel is bound to: who is in it, and in which order."""
    return f"{len(agents)}-models-{content_hash(list(agents))}"


def _agreement(table: StepTable, columns: ProposalColumns) -> Judged:
    """The log-odds of the share of the models that give the same answer."""
    items = [
        Item(step=step, proposal=proposal, siblings=tuple(row))
        for step, row in zip(table.steps, columns.proposals, strict=True)
        for proposal in row
    ]
    log_odds = SampleAgreement().judge(items).log_odds.reshape(columns.parsed.shape)
    return Judged(
        verifier_id="model_agreement",
        size=NO_MODEL,
        shares_strong=False,
        log_odds=log_odds,
        seconds=np.zeros_like(log_odds),
    )


def _labels(columns: ProposalColumns) -> Judged:
    """A verifier that knows the labels: the bound that no choice among the models passes.

    An unknown label stands between right and wrong, so that it is unknown whether any is right
    where none is known to be.
    """
    return Judged(
        verifier_id="label",
        size=NO_MODEL,
        shares_strong=False,
        log_odds=np.nan_to_num(2.0 * columns.acceptable - 1.0, nan=0.0),
        seconds=np.zeros_like(columns.acceptable),
        knows_labels=True,
    )
