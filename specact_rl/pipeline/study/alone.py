"""One model with one trial of each task: whether a verifier can tell its right answers apart.

There is nothing to fall back on, so that no system can be compared; a gate here answers or
abstains.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.eval.calibration_report import calibration_rows
from specact_rl.eval.certificates import Judgements, certificate_row
from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.joined import Outcomes
from specact_rl.eval.labelled import known
from specact_rl.eval.log_outcomes import LogAnswers
from specact_rl.eval.proposer_report import proposer_row
from specact_rl.eval.unseen import labelled_by_agent, together
from specact_rl.eval.verifier_report import verifier_report
from specact_rl.metrics.values import BoolArray
from specact_rl.mining.chunks import PROPOSALS_FILE
from specact_rl.pipeline.study.base import LOG_VERDICT, PURPOSES, Study
from specact_rl.policy.fitting import fit_gate
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import SYSTEMS, System
from specact_rl.store import open_stage, read_table, write_table
from specact_rl.types import Proposal, SplitName
from specact_rl.verifiers.base import Item


class AloneStudy(Study):
    """The only model of a log."""

    label = LOG_VERDICT
    keys = ("trained", "trees", "linear")

    @cached_property
    def answers(self) -> dict[str, LogAnswers]:
        """By what the tasks are for: train, calibration, test."""
        everything = LogAnswers.of(self.rollouts)
        return {name: everything.of_splits(splits) for name, splits in PURPOSES.items()}

    @cached_property
    def agent(self) -> str:
        """Its name."""
        if self.plan.cheap is None:
            raise ValueError("a study of one model must know which")
        return LogAnswers.of(self.rollouts).find(self.plan.cheap)

    def tasks(self, split: str) -> list[str]:
        """Tasks that it has answered.

        Raises:
            ConfigError: There is none.
        """
        tasks = sorted(self.answers[split].by_agent.get(self.agent, ()))
        if not tasks:
            raise ConfigError(
                f"{self.agent!r} must have answered {split} tasks, got none; give the split a "
                "larger share with --fractions"
            )
        return tasks

    @cached_property
    def systems(self) -> Mapping[str, System]:
        """A gate on its answers; with nothing behind it."""
        d = SYSTEMS["D"]
        return {
            "D": System(name="D", title=d.title, proposer="cheap", verifier="trained"),
            "D-lin": SYSTEMS["D-lin"],
        }

    def write_outcomes(self) -> None:
        """Its proposals table."""
        with open_stage(
            self.folders.proposals("log"),
            "outcomes_from_log",
            inputs={"rollouts": self.rollouts_dir},
            arguments={"model": self.agent},
            overwrite=True,
        ) as stage:
            if not stage.done:
                items = [
                    item
                    for answers in self.answers.values()
                    if self.agent in answers.by_agent
                    for item in answers.items(
                        self.agent, sorted(answers.by_agent[self.agent]), num_samples=1
                    )
                ]
                write_table(stage.path / PROPOSALS_FILE, [item.proposal for item in items])
                stage.counts["proposals"] = len(items)

    def outcome_folders(self) -> dict[str, Path]:
        """The one table."""
        return {"outcomes": self.folders.proposals("log")}

    def facts(self) -> dict[str, Any]:
        """The one model."""
        return {"cheap": self.agent, "strong": None}

    def train_items(self) -> tuple[list[Item], BoolArray]:
        """Its answers to the training tasks, all trials."""
        tasks = sorted(self.answers["train"].by_agent.get(self.agent, ()))
        found = labelled_by_agent(self.answers["train"], tasks)
        return together(part for agent, part in found.items() if agent == self.agent)

    def cheap_items(self, split: SplitName) -> list[Item]:
        """Its first answers."""
        return self.answers[split].items(self.agent, self.tasks(split), num_samples=1)

    def columns(self, split: SplitName) -> tuple[StepTable, dict[str, ProposalColumns]]:
        """The requests of a split and its first answers there."""
        table = self.answers[split].step_table(self.agent, self.tasks(split))
        at = {step.step_id for step in table.steps}
        proposals = read_table(self.folders.proposals("log") / PROPOSALS_FILE, Proposal)
        return table, {
            "cheap": ProposalColumns.of(table, [p for p in proposals if p.step_id in at])
        }

    def fit_gates(self) -> tuple[dict[str, Gate], dict[str, str]]:
        """Gates for a target risk, and why there is none."""
        outcomes = self.outcomes("calibration")
        labels = outcomes.columns["cheap"].acceptable[:, 0]
        gates: dict[str, Gate] = {}
        missing: dict[str, str] = {}
        for name, system in self.systems.items():
            judged = outcomes.judged.get((str(system.verifier), "cheap"))
            if judged is None:  # nothing to learn from, which the report says once
                continue
            try:
                gates[name] = fit_gate(
                    np.where(known(labels), judged.log_odds[:, 0], np.nan),
                    labels == 1.0,
                    None,
                    outcomes.table.task_ids,
                    verifier_id=judged.verifier_id,
                    proposer_id=outcomes.columns["cheap"].model_id,
                    calibration_hash=self.calibration_hash(),
                    seed=self.plan.seed,
                )
            except ConfigError as error:
                missing[name] = str(error)
        return gates, missing

    def certificates(
        self, gates: Mapping[str, Gate], test: Outcomes, rng: np.random.Generator
    ) -> list[dict[str, Any]]:
        """What each verifier could promise of the model's own answers."""
        calibration, own = self.outcomes("calibration"), rng.spawn(1)[0]
        rows = []
        for name, gate in gates.items():
            system = self.systems[name]
            then = Judgements.of_scores(gate, calibration, str(system.verifier), selects=True)
            now = Judgements.of_scores(gate, test, str(system.verifier))
            row = certificate_row(system, gate, then, now, own)
            rows += [row] if row is not None else []
        return rows

    def evaluate(self) -> dict[str, Any]:
        """The model and the verifiers; no system."""
        test, gates = self.outcomes("test"), self.gates()
        rng = np.random.default_rng(self.plan.seed)
        free = {key: j for (key, _), j in test.judged.items() if key != "trained"}
        return {
            "num_steps": len(test.table.steps),
            "proposers": [
                proposer_row("cheap", test.columns["cheap"], test.table, self.size("cheap"))
            ],
            "verifiers": [
                {
                    "system": name,
                    "proposer": "cheap",
                    **verifier_report(
                        str(system.verifier),
                        test.table,
                        test.columns["cheap"],
                        test.judged[str(system.verifier), "cheap"],
                        gates[name],
                        free,
                        rng,
                    ),
                }
                for name, system in self.systems.items()
                if name in gates
            ],
            "calibration": calibration_rows(
                test,
                gates,
                self.systems,
                rng.spawn(1)[0],
                calibration=self.outcomes("calibration"),
            ),
            "certificates": self.certificates(gates, test, rng),
        }
