"""A model proposes at the steps of a log, and the logged policy stands in for the strong model.

What counts as right is what the logged policy did in an episode that succeeded, which is stricter
than it need be: another action may be as good. So this studies agreement with the log, step by
step, and the logged policy agrees with itself by definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from specact_rl.actions.serialise import shown_text
from specact_rl.envs.labels import MATCH_SOURCE
from specact_rl.errors import ConfigError
from specact_rl.eval.collect import collect_proposals
from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.log_outcomes import LogAnswers
from specact_rl.eval.outcomes import num_steps
from specact_rl.logs.facts import agent_name
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import BoolArray
from specact_rl.mining.build_rollouts import ROLLOUTS_FILE, read_rollouts
from specact_rl.mining.chunks import PROPOSALS_FILE
from specact_rl.models.language_model import LanguageModel, Proposer, Sampling
from specact_rl.pipeline.results import split_rows
from specact_rl.pipeline.study.base import EVALUATED, TRAIN, Study
from specact_rl.policy.systems import System, proposer_systems
from specact_rl.store import open_stage, read_manifest, read_table, write_table
from specact_rl.types import Proposal, Rollout, SplitName, proposal_id
from specact_rl.verifiers import ProposerConfidence, SampleAgreement, Verifier
from specact_rl.verifiers.base import Item, items_of

REFERENCES = "references"
"""Folder of the successful episodes, beside the imported log."""


class ProposerStudy(Study):
    """A model of the user's beside a logged policy."""

    label = (
        "acceptable: the same action, arguments included, as the logged policy took in an episode "
        "that succeeded"
    )
    keys = ("trained", "trees", "linear", "proposer_logprob", "sample_agreement")

    @cached_property
    def strong(self) -> str:
        """The logged policy that is the reference.

        Raises:
            ConfigError: The log has several, and none is named.
        """
        answers = LogAnswers.of(self.rollouts)
        if self.plan.strong is not None:
            return answers.find(self.plan.strong)
        if len(answers.by_agent) > 1:
            raise ConfigError(
                f"{self.plan.log} has {len(answers.by_agent)} models: name the one whose actions "
                f"are the references with --strong. They are {list(answers.by_agent)!r}"
            )
        return next(iter(answers.by_agent))

    @property
    def proposer(self) -> Proposer:
        """The user's model."""
        assert self.plan.proposer is not None  # that is what makes it this study
        return self.plan.proposer

    @cached_property
    def references(self) -> list[Rollout]:
        """The successful episodes, what was done in them as references."""
        return read_rollouts(self.folders.root / REFERENCES)

    def of_split(self, split: SplitName) -> list[Rollout]:
        """Those of a split."""
        return [rollout for rollout in self.references if rollout.split == split]

    @cached_property
    def systems(self) -> Mapping[str, System]:
        """What can be joined."""
        return proposer_systems(self.plan.num_samples)

    def split_rows(self) -> dict[str, Any]:
        """Sizes of the splits, of the episodes that are references."""
        return split_rows(self.references)

    def write_outcomes(self) -> None:
        """The references, and the model's proposals at each of their steps."""
        with open_stage(
            self.folders.root / REFERENCES,
            "references_from_log",
            inputs={"rollouts": self.rollouts_dir},
            arguments={"policy": self.strong},
            overwrite=True,
        ) as stage:
            if not stage.done:
                own = [r for r in self.rollouts if agent_name(r) == self.strong]
                found = [_with_references(r) for r in own if r.success is True and r.steps]
                if not found:
                    raise ConfigError(
                        f"{self.strong!r} must have episodes that succeeded, whose actions are the "
                        f"references; of its {len(own)} rollouts none has"
                    )
                write_table(stage.path / ROLLOUTS_FILE, found)
                stage.counts["rollouts"] = len(found)
                stage.dropped["no_success_or_no_step"] = len(own) - len(found)
        total = num_steps(self.references)
        with self.progress("the model proposes", total, "steps") as advance:
            collect_proposals(
                self.folders.root / REFERENCES,
                self.folders.proposals("cheap"),
                self.proposer,
                (*TRAIN, *EVALUATED),
                sampling=Sampling(
                    num_samples=self.plan.num_samples,
                    max_new_tokens=self.plan.max_new_tokens,
                    seed=self.plan.seed,
                ),
                progress=advance,
            )

    def outcome_folders(self) -> dict[str, Path]:
        """References and proposals."""
        return {
            "references": self.folders.root / REFERENCES,
            "cheap": self.folders.proposals("cheap"),
        }

    def facts(self) -> dict[str, Any]:
        """Who proposes, and whose actions are the references."""
        manifest = read_manifest(self.folders.root / REFERENCES)
        return {
            "cheap": self.proposer.model_id,
            "strong": self.strong,
            "references": {**manifest.counts, **manifest.dropped},
        }

    @cached_property
    def proposals(self) -> list[Proposal]:
        """The model's."""
        return read_table(self.folders.proposals("cheap") / PROPOSALS_FILE, Proposal)

    def items(self, *splits: SplitName) -> list[Item]:
        """The model's proposals at the steps of some splits, in order of step and sample."""
        rollouts = [rollout for split in splits for rollout in self.of_split(split)]
        at = {step.step_id for rollout in rollouts for step in rollout.each_step()}
        return items_of(rollouts, [p for p in self.proposals if p.step_id in at], None)

    def train_items(self) -> tuple[list[Item], BoolArray]:
        """Those at training tasks."""
        items = [i for i in self.items(*TRAIN) if i.proposal.acceptable is not None]
        return items, np.array([bool(i.proposal.acceptable) for i in items], dtype=np.bool_)

    def cheap_items(self, split: SplitName) -> list[Item]:
        """Those at the tasks of a split."""
        return self.items(split)

    def verifier(self, key: str) -> Verifier | None:
        """A verifier by its key."""
        if key == "sample_agreement":
            return SampleAgreement()
        if key == "proposer_logprob":
            known = all(p.logprob is not None for p in self.proposals if p.parsed)
            return ProposerConfidence() if known else None
        return super().verifier(key)

    def size(self, role: str) -> ModelSize | None:
        """The user's model's own where it can be seen; else what the user gives."""
        if role == "cheap" and isinstance(self.proposer, LanguageModel):
            return self.proposer.size
        return super().size(role)

    def columns(self, split: SplitName) -> tuple[StepTable, dict[str, ProposalColumns]]:
        """The steps with references, the model's proposals and the logged actions there."""
        rollouts = self.of_split(split)
        table = StepTable.of_references(rollouts)
        at = {step.step_id for step in table.steps}
        logged = [
            _logged(step.step_id, rollout, i)
            for rollout in rollouts
            for i, step in enumerate(rollout.each_step())
            if step.step_id in at
        ]
        return table, {
            "cheap": ProposalColumns.of(table, [p for p in self.proposals if p.step_id in at]),
            "strong": ProposalColumns.of(table, logged),
        }


def _with_references(rollout: Rollout) -> Rollout:
    steps = [replace(step, reference=step.executed) for step in rollout.steps]
    return replace(rollout, steps=steps)


def _logged(step: str, rollout: Rollout, index: int) -> Proposal:
    """What the log did as a proposal, right by definition."""
    action = rollout.steps[index].executed
    assert action is not None  # a step without one has no reference
    policy = agent_name(rollout)
    return Proposal(
        proposal_id=proposal_id(step, policy, "generate", 0),
        step_id=step,
        task_id=rollout.task_id,
        model_id=policy,
        sample=0,
        mode="generate",
        text=shown_text(action),
        action=action,
        parse_error=None,
        match_level="arguments",
        same_state=None,
        acceptable=True,
        label_source=MATCH_SOURCE,
        logprob=None,
        num_candidates=None,
        num_prompt_tokens=None,
        num_cached_tokens=0,
        num_completion_tokens=None,
        seconds=None,
    )
