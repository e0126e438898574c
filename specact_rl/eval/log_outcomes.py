"""Outcome tables from logs alone: what each policy answered to each task, and how it was judged.

The unit is a task. At its request stand the answers of all policies, each a response or a whole
episode with the log's verdict; a gate between two of them is then a join, and no model runs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.eval.columns import StepTable, numbered
from specact_rl.logs.facts import agent_name
from specact_rl.logs.responses import request_step, response_messages, response_proposal
from specact_rl.mining.build_rollouts import read_rollouts
from specact_rl.mining.chunks import PROPOSALS_FILE
from specact_rl.store import open_stage, read_manifest, write_table
from specact_rl.types import SPLITS, Proposal, Rollout, SplitName, proposal_id
from specact_rl.verifiers.base import Item

AGREEMENT = ("both", "only_cheap", "only_strong", "neither", "unlabelled")
"""Who of two models is right on a task; the last where a verdict of the two is withheld."""
_TRIAL = re.compile(r"(?P<model>.+)#(?P<trial>[1-9]\d*)")
_LETTERS = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAnswers:
    """All answers of a log, by policy and task; trials in order."""

    by_agent: Mapping[str, Mapping[str, Sequence[Rollout]]]

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], names: Collection[str] = ()) -> LogAnswers:
        """Group rollouts; an agent is a policy, with its run where a log has several.

        Args:
            rollouts: Of any number of policies.
            names: What a user calls models by. "M#2" is the second trial of M: the trials of M
                become agents of their own then, "M#1" and so on.

        Raises:
            ConfigError: A name with a trial is that of no model, or of several.
        """
        found: dict[str, dict[str, list[Rollout]]] = defaultdict(lambda: defaultdict(list))
        for rollout in sorted(rollouts, key=lambda r: (r.trial, r.rollout_id)):
            found[agent_name(rollout)][rollout.task_id].append(rollout)
        answers = cls(by_agent={agent: dict(found[agent]) for agent in sorted(found)})
        for base in {match["model"] for name in names if (match := _TRIAL.fullmatch(name))}:
            answers = answers._with_trials_apart(answers.find(base))
        return answers

    def _with_trials_apart(self, agent: str) -> LogAnswers:
        apart: dict[str, dict[str, Sequence[Rollout]]] = defaultdict(dict)
        for task, rollouts in self.by_agent[agent].items():
            for i, rollout in enumerate(rollouts):
                apart[f"{agent}#{i + 1}"][task] = [rollout]
        others = {a: tasks for a, tasks in self.by_agent.items() if a != agent}
        both = {**others, **apart}
        return LogAnswers(by_agent={a: both[a] for a in sorted(both)})

    def of_splits(self, splits: Collection[SplitName]) -> LogAnswers:
        """Those to the tasks of some splits, by agents that have any."""
        found = {
            agent: {task: r for task, r in tasks.items() if r[0].split in splits}
            for agent, tasks in self.by_agent.items()
        }
        return LogAnswers(by_agent={agent: tasks for agent, tasks in found.items() if tasks})

    def find(self, name: str) -> str:
        """The agent of this name: the whole name, or a part that only one has.

        Raises:
            ConfigError: None has it, or several.
        """
        if name in self.by_agent:
            return name
        trial = _TRIAL.fullmatch(name)
        part, end = (trial["model"], f"#{trial['trial']}") if trial else (name, "")
        matching = [
            agent
            for agent in self.by_agent
            if part.casefold() in agent.casefold() and agent.endswith(end)
        ]
        # "20b" means gpt-oss-20b and not gpt-oss-120b.
        at_start = re.compile(rf"(?<![0-9a-z]){re.escape(part.casefold())}")
        if len(matching) > 1:
            matching = [a for a in matching if at_start.search(a.casefold())] or matching
        if len(matching) == 1:
            return matching[0]
        among = matching or list(self.by_agent)
        raise ConfigError(
            f"a model must be named so that one of the log's has the name, got {name!r}, which "
            f"{len(matching) or 'none'} of them has; the log's models: {among!r}"
        )

    def common_tasks(self, agents: Collection[str]) -> list[str]:
        """Tasks that all of these have answered, sorted."""
        return sorted(set.intersection(*(set(self.by_agent[agent]) for agent in agents)))

    def num_trials(self, agent: str, tasks: Sequence[str]) -> int:
        """Answers that an agent has at each of the tasks, at least."""
        return min((len(self.by_agent[agent][task]) for task in tasks), default=0)

    def items(
        self,
        agent: str,
        tasks: Sequence[str],
        *,
        at: str | None = None,
        num_samples: int | None = None,
    ) -> list[Item]:
        """What an agent answered to the tasks, in order of task and trial.

        Each item shows its own rollout's request, which a simulated user may word differently.

        Args:
            agent: Whose answers.
            tasks: All answered by it, and by `at`.
            at: Agent at whose steps the proposals are put; None: at the agent's own.
            num_samples: Trials of each task, the first ones; None takes all.
        """
        found = []
        for task in tasks:
            step = None if at is None else request_step(self.by_agent[at][task][0])
            rollouts = self.by_agent[agent][task][:num_samples]
            proposals = tuple(
                _named(response_proposal(r, i, step), agent) for i, r in enumerate(rollouts)
            )
            found += [
                Item(
                    step=request_step(rollout),
                    proposal=proposal,
                    siblings=proposals,
                    response=response_messages(rollout),
                )
                for rollout, proposal in zip(rollouts, proposals, strict=True)
            ]
        return found

    def step_table(self, agent: str, tasks: Sequence[str]) -> StepTable:
        """The requests of the tasks as an agent saw them first; a task is a row."""
        rollouts = [self.by_agent[agent][task][0] for task in tasks]
        if not rollouts:
            raise ConfigError("a split must have tasks that both models have answered, got none")
        steps = [request_step(rollout) for rollout in rollouts]
        return StepTable(
            steps=steps,
            task_ids=numbered(tasks),
            rollouts=np.arange(len(tasks)),
            out_of_family=np.array([bool(r.info.get("out_of_family")) for r in rollouts]),
            reference_types=np.full(len(tasks), ""),
            families=np.array([step.family for step in steps]),
            indices=np.array([step.index for step in steps], dtype=np.int64),
            num_out_of_reach=0,
        )


def family_of(agent: str) -> str:
    """The letters that a model's name begins with: "xlam" of "xLAM-7b-fc-r". A guess."""
    match = _LETTERS.match(agent)
    return match[0].casefold() if match else agent


def as_panel(name: str, columns: Sequence[Sequence[Proposal]]) -> list[Proposal]:
    """The first answers of several models at the same steps as samples of one proposer.

    Args:
        name: Of the panel, as a model id.
        columns: By model in the panel's order; by step, the same for all.
    """
    return [
        _as_sample(proposal, name, sample)
        for sample, proposals in enumerate(columns)
        for proposal in proposals
    ]


def _as_sample(proposal: Proposal, name: str, sample: int) -> Proposal:
    return replace(
        proposal,
        proposal_id=proposal_id(proposal.step_id, name, proposal.mode, sample),
        model_id=name,
        sample=sample,
        num_distinct=None,  # which was among the samples of one model
    )


def _named(proposal: Proposal, agent: str) -> Proposal:
    return proposal if proposal.model_id == agent else _as_sample(proposal, agent, proposal.sample)


def outcomes_from_logs(
    rollouts_dir: Path,
    out_dir: Path,
    *,
    cheap: str,
    strong: str,
    splits: Collection[SplitName] = SPLITS,
    all_models: bool = False,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write the proposals table of a pair of models, from a rollouts folder of their logs.

    The steps are those of the strong model's first trials, so that builders find them in the
    folder. Tasks that one of the two has not answered are dropped and counted.

    Args:
        rollouts_dir: Written by an import.
        out_dir: Where the table goes.
        cheap: Name of a model in the logs, or a part of it that no other has; with #2 behind it
            its second trials alone.
        strong: Likewise.
        splits: Whose tasks.
        all_models: Rows of every model in the logs, not only of the two.
        overwrite: Replace a folder made from other things.

    Returns:
        The manifest's counts: proposals, tasks, and of the tasks on which both are judged "both",
        "only_cheap", "only_strong" and "neither" right.

    Raises:
        ConfigError: No such model, the same model twice, or no task in common.
    """
    answers = LogAnswers.of(read_rollouts(rollouts_dir, splits), (cheap, strong))
    pair = (answers.find(cheap), answers.find(strong))
    if pair[0] == pair[1]:
        raise ConfigError(f"cheap and strong must be two models, got {pair[0]!r} for both")
    with open_stage(
        out_dir,
        "outcomes_from_logs",
        inputs={"rollouts": rollouts_dir},
        arguments={
            "cheap": pair[0],
            "strong": pair[1],
            "splits": sorted(splits),
            "all_models": all_models,
        },
        overwrite=overwrite,
    ) as stage:
        if not stage.done:
            tasks = answers.common_tasks(pair)
            if not tasks:
                raise ConfigError(f"{pair[0]!r} and {pair[1]!r} have no task in common")
            agents = list(answers.by_agent) if all_models else list(pair)
            proposals = []
            for agent in agents:
                answered = [task for task in tasks if task in answers.by_agent[agent]]
                proposals += [i.proposal for i in answers.items(agent, answered, at=pair[1])]
            write_table(stage.path / PROPOSALS_FILE, proposals)
            stage.counts |= {"proposals": len(proposals), "tasks": len(tasks)}
            stage.counts |= agreement_counts(answers, pair, tasks)
            either = set(answers.by_agent[pair[0]]) | set(answers.by_agent[pair[1]])
            if len(either) > len(tasks):
                stage.dropped["answered_by_one"] = len(either) - len(tasks)
    return read_manifest(out_dir).counts


def agreement_counts(
    answers: LogAnswers, pair: tuple[str, str], tasks: Sequence[str]
) -> dict[str, int]:
    """Tasks by who of (cheap, strong) is right in its first trial; unlabelled ones apart."""
    counts = dict.fromkeys(AGREEMENT, 0)
    names = {
        (True, True): "both",
        (True, False): "only_cheap",
        (False, True): "only_strong",
        (False, False): "neither",
    }
    for task in tasks:
        verdicts = tuple(answers.by_agent[agent][task][0].success for agent in pair)
        if None in verdicts:
            counts["unlabelled"] += 1
        else:
            counts[names[bool(verdicts[0]), bool(verdicts[1])]] += 1
    return counts
