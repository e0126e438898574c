"""A study of logs: from what models answered to a report on gates between two of them.

No model runs. Import, split, verifier, calibration, gate and evaluation are the stages of any run;
what differs is that outcomes are joins over the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.eval.collect import SCORES_FILE
from specact_rl.eval.columns import ProposalColumns, StepTable, score_matrix, score_seconds
from specact_rl.eval.evaluate import Outcomes, calibrate, calibration_rule, evaluate
from specact_rl.eval.log_check import read_flags
from specact_rl.eval.log_outcomes import (
    AGREEMENT,
    LogAnswers,
    as_panel,
    family_of,
    outcomes_from_logs,
)
from specact_rl.eval.replay import Judged
from specact_rl.eval.report import write_report
from specact_rl.eval.unseen import (
    Fit,
    UnseenModels,
    fit_without_each,
    labelled_items,
    unseen_report,
)
from specact_rl.logs.sniff import sniff
from specact_rl.metrics.cost import NO_MODEL, ModelSize
from specact_rl.mining.build_rollouts import ROLLOUTS_FILE, import_rollouts, read_rollouts
from specact_rl.mining.data_sets import PROPOSALS_FILE
from specact_rl.pipeline.folders import RESULTS_FILE, Folders
from specact_rl.pipeline.results import plain_json, provenance, split_rows
from specact_rl.policy.calibrators import CALIBRATORS
from specact_rl.policy.fitting import COST_WEIGHT, NUM_FOLDS
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import System, log_systems
from specact_rl.progress import ProgressBar
from specact_rl.store import (
    content_hash,
    folder_hash,
    open_stage,
    read_json,
    read_manifest,
    read_table,
    remove_temporaries,
    write_json,
    write_table,
)
from specact_rl.types import Proposal, Score, SplitName
from specact_rl.verifiers import LinearVerifier, SampleAgreement, TreesVerifier, Verifier
from specact_rl.verifiers.base import Item, scores_of

logger = logging.getLogger(__name__)

FRACTIONS: dict[SplitName, float] = {"train_verifier": 0.4, "calibration": 0.2, "test": 0.4}
"""No proposer is trained on a log, so no task is kept for that."""
TRAIN: tuple[SplitName, ...] = ("train_proposer", "train_verifier")
EVALUATED: tuple[SplitName, ...] = ("calibration", "test")
LABEL = "acceptable: the log's verdict on the whole answer to the task"
_SCORED = ("trees", "trees_unseen", "linear", "sample_agreement")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """What a study is of."""

    log: Path
    """A log of any known format, or a rollouts folder."""
    cheap: str
    """Name of the cheap model in the log, or a part of it that no other model has."""
    strong: str
    importer: str | None = None
    """As `specact import` takes it; None looks at the log."""
    sizes: Mapping[str, float] = field(default_factory=dict)
    """Parameters by role, where the user gives them; FLOPs are counted only then."""
    verifier: Path | None = None
    """Folder of a verifier that another study has fitted; None fits one on this log."""
    fractions: Mapping[SplitName, float] = field(default_factory=lambda: FRACTIONS)
    seed: int = 0


def run_study(
    plan: StudyPlan, out: Path, *, progress: ProgressBar, command: Sequence[str]
) -> dict[str, Any]:
    """Study a log into a folder; finished stages are skipped on a second run.

    Args:
        plan: What to study.
        out: Folder, made when it is not there.
        progress: Of the stages.
        command: What the user typed, for the report.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: No such log or model, a split that is too small, or a folder that holds
            something else.
        RolloutFormatError: The log is not of its format.
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_temporaries(out)
    return _Study(plan, Folders(root=out), progress, command).execute()


class _Study:
    """One study under way; what several stages need is read once."""

    def __init__(
        self, plan: StudyPlan, folders: Folders, progress: ProgressBar, command: Sequence[str]
    ) -> None:
        self.plan, self.folders, self.progress, self.command = plan, folders, progress, command
        self.stages: list[dict[str, Any]] = []

    def execute(self) -> dict[str, Any]:
        """All stages."""
        with self.stage("import"):
            source = self.import_log()
        with self.stage("outcomes from the log"):
            self.write_outcomes()
        with self.stage("verifiers learn and judge"):
            self.judge()
        with self.stage("calibrate"):
            self.calibrate()
        with self.stage("evaluate"):
            replay = evaluate(
                self.outcomes("test"), self.gates(), [], systems=self.systems, seed=self.plan.seed
            )
            unseen = self.unseen_rows()
        results = cast(
            dict[str, Any],
            plain_json(
                {
                    "meta": {
                        "study": {**source, **self.pair()},
                        "label": LABEL,
                        "calibration_rule": calibration_rule(),
                        "num_params": dict(self.plan.sizes),
                        **provenance(self.plan.seed, self.stages, self.command),
                    },
                    "splits": split_rows(self.rollouts),
                    "replay": replay,
                    "unseen": unseen,
                }
            ),
        )
        write_json(self.folders.evaluation / RESULTS_FILE, results)
        write_report(results, self.folders.report)
        return results

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log a stage and its seconds."""
        logger.info("%s", name)
        started = time.perf_counter()
        with self.progress(name, None):
            yield
        seconds = round(time.perf_counter() - started, 1)
        self.stages.append({"name": name, "seconds": seconds, "complete": True})

    # What the stages share.

    @cached_property
    def rollouts_dir(self) -> Path:
        """The imported log; a rollouts folder is taken as it is."""
        log = self.plan.log
        return log if (log / ROLLOUTS_FILE).is_file() else self.folders.rollouts

    @cached_property
    def rollouts(self) -> list[Any]:
        """All rollouts, with their splits."""
        return read_rollouts(self.rollouts_dir)

    @cached_property
    def answers(self) -> dict[str, LogAnswers]:
        """By what the tasks are for: train, calibration, test."""
        of_split = {
            name: [r for r in self.rollouts if r.split in splits]
            for name, splits in (("train", TRAIN), *((s, (s,)) for s in EVALUATED))
        }
        return {name: LogAnswers.of(found) for name, found in of_split.items()}

    @cached_property
    def agents(self) -> list[str]:
        """All models of the log."""
        return sorted(LogAnswers.of(self.rollouts).by_agent)

    @cached_property
    def cheap(self) -> str:
        """Full name of the cheap model."""
        return LogAnswers.of(self.rollouts).find(self.plan.cheap)

    @cached_property
    def strong(self) -> str:
        """Full name of the strong model."""
        return LogAnswers.of(self.rollouts).find(self.plan.strong)

    def tasks(self, split: str) -> list[str]:
        """Tasks that both models have answered.

        Raises:
            ConfigError: There is none.
        """
        answers = self.answers[split]
        missing = [agent for agent in (self.cheap, self.strong) if agent not in answers.by_agent]
        tasks = [] if missing else answers.common_tasks((self.cheap, self.strong))
        if not tasks:
            raise ConfigError(
                f"the {split} tasks must have some that {self.cheap!r} and {self.strong!r} have "
                "both answered, got none; give the split another share with --fractions, or "
                "import logs in which both models do the same tasks"
            )
        return tasks

    @cached_property
    def num_trials(self) -> int:
        """Answers of the cheap model to every task that is calibrated or tested on."""
        return min(self.answers[s].num_trials(self.cheap, self.tasks(s)) for s in EVALUATED)

    @cached_property
    def panel(self) -> list[str]:
        """Models that have answered all of these tasks, the most accurate on training tasks first.

        Ties of a vote go to the earlier one.
        """
        found = [
            agent
            for agent in self.agents
            if all(
                agent in self.answers[s].by_agent
                and set(self.tasks(s)) <= set(self.answers[s].by_agent[agent])
                for s in EVALUATED
            )
        ]
        accuracy = {agent: self.train_accuracy(agent) for agent in found}
        return sorted(found, key=lambda agent: (-accuracy[agent], agent))

    def train_accuracy(self, agent: str) -> float:
        """Share of its labelled answers to training tasks that are right; 0 without any."""
        tasks = list(self.answers["train"].by_agent.get(agent, {}))
        if not tasks:
            return 0.0
        _, labels = labelled_items(self.answers["train"], [agent], tasks)
        return float(labels.mean()) if labels.size else 0.0

    @cached_property
    def peers(self) -> list[str]:
        """The panel without the two models."""
        return [agent for agent in self.panel if agent not in (self.cheap, self.strong)]

    @cached_property
    def systems(self) -> Mapping[str, System]:
        """What can be joined."""
        return log_systems(self.num_trials, len(self.peers), len(self.panel))

    # The stages.

    def import_log(self) -> dict[str, Any]:
        """Write the rollouts folder, and say what the log is."""
        log, importer, reason = self.plan.log, self.plan.importer, "as asked for"
        if self.rollouts_dir == log:
            importer, reason = "rollouts folder", f"it has a {ROLLOUTS_FILE}, which an import wrote"
        else:
            if importer is None:
                found = sniff(log)
                importer, reason = found.importer, found.reason
            import_rollouts(
                log,
                self.folders.rollouts,
                importer=importer,
                fractions=self.plan.fractions,
                seed=self.plan.seed,
            )
        manifest = read_manifest(self.rollouts_dir)
        return {
            "log": str(log),
            "importer": importer,
            "reason": reason,
            "counts": manifest.counts,
            "dropped": manifest.dropped,
            "flags": [asdict(flag) for flag in read_flags(self.rollouts_dir)],
        }

    def write_outcomes(self) -> None:
        """The proposals table of all models on the tasks of the pair."""
        outcomes_from_logs(
            self.rollouts_dir,
            self.folders.proposals("log"),
            cheap=self.cheap,
            strong=self.strong,
            all_models=True,
            overwrite=True,
        )

    def pair(self) -> dict[str, Any]:
        """The two models, and on how many tasks who of them is right."""
        counts = read_manifest(self.folders.proposals("log")).counts
        agreement = {key: counts[key] for key in AGREEMENT}
        return {"cheap": self.cheap, "strong": self.strong, "agreement": agreement}

    @cached_property
    def fits(self) -> dict[str, Fit]:
        """How verifiers are fitted, by kind; the first is the one that D uses."""
        seed = self.plan.seed
        return {
            "trees": partial(TreesVerifier.fit, seed=seed),
            "linear": partial(LinearVerifier.fit, with_confidence=False, seed=seed),
        }

    @cached_property
    def fitted(self) -> dict[str, Verifier]:
        """Verifiers fitted on what all models of the log answered to the training tasks.

        Raises:
            ConfigError: There is nothing to learn from.
        """
        train = self.answers["train"]
        tasks = sorted({task for of_agent in train.by_agent.values() for task in of_agent})
        items, labels = labelled_items(train, list(train.by_agent), tasks)
        if not labels.any() or labels.all():
            raise ConfigError(
                f"a verifier must see right and wrong answers, got {int(labels.sum())} right of "
                f"{labels.size} labelled ones on {len(tasks)} training tasks"
            )
        return {kind: fit(items, labels) for kind, fit in self.fits.items()}

    @cached_property
    def without_family(self) -> UnseenModels:
        """Verifiers that have not seen a family, for each."""
        train = self.answers["train"]
        tasks = sorted({task for of_agent in train.by_agent.values() for task in of_agent})
        return fit_without_each(train, tasks, self.fits)

    def judge(self) -> None:
        """One scores table for each verifier of the cheap model's answers."""
        for key in _SCORED:
            if not any(system.verifier == key for system in self.systems.values()):
                continue
            with open_stage(
                self.folders.scores(key, "cheap"),
                "study_scores",
                inputs={"outcomes": self.folders.proposals("log")},
                arguments={"verifier": key, "cheap": self.cheap, "splits": list(EVALUATED)},
                seed=self.plan.seed,
                overwrite=True,
            ) as stage:
                if stage.done:
                    continue
                verifier = self.verifier(key)
                if verifier is None:
                    continue
                items = [
                    item
                    for split in EVALUATED
                    for item in self.answers[split].items(
                        self.cheap, self.tasks(split), at=self.strong, num_samples=self.num_trials
                    )
                ]
                started = time.perf_counter()
                judgements = verifier.judge(items)
                seconds = time.perf_counter() - started
                write_table(
                    stage.path / SCORES_FILE, scores_of(verifier, items, judgements, seconds)
                )
                stage.counts["scores"] = len(items)

    def verifier(self, key: str) -> Verifier | None:
        """A verifier by its key; None where it cannot be had."""
        if key == "sample_agreement":
            return SampleAgreement()
        if key == "trees_unseen":
            return self.without_family.verifiers.get(family_of(self.cheap), {}).get("trees")
        return self.fitted[key]

    def columns(self, split: str) -> tuple[StepTable, dict[str, ProposalColumns]]:
        """The steps of a split and everyone's answers there, by role."""
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
            roles["peers"] = as_panel(f"{self.cheap} and {len(self.peers)} others", beside)
        if len(self.panel) > 2:
            everyone = [first[agent] for agent in self.panel]
            roles["panel"] = as_panel(f"{len(self.panel)} models", everyone)
        return table, {role: ProposalColumns.of(table, found) for role, found in roles.items()}

    @cached_property
    def proposals(self) -> list[Proposal]:
        """The proposals table."""
        return read_table(self.folders.proposals("log") / PROPOSALS_FILE, Proposal)

    def outcomes(self, split: str) -> Outcomes:
        """All tables of one split, joined."""
        table, columns = self.columns(split)
        judged: dict[tuple[str, str], Judged] = {}
        for key in _SCORED:
            path = self.folders.scores(key, "cheap") / SCORES_FILE
            if path.is_file():
                scores = read_table(path, Score)
                judged[key, "cheap"] = Judged(
                    verifier_id=scores[0].verifier_id,
                    size=NO_MODEL,
                    shares_strong=False,
                    log_odds=score_matrix(columns["cheap"], scores),
                    seconds=score_seconds(columns["cheap"], scores),
                )
        for role in ("peers", "panel"):
            if role in columns:
                judged["model_agreement", role] = _agreement(table, columns[role])
        if "panel" in columns:
            judged["label", "panel"] = _labels(columns["panel"])
        sizes = {
            role: ModelSize(num_params=round(self.plan.sizes[role]))
            if role in self.plan.sizes
            else None
            for role in columns
        }
        return Outcomes(table=table, columns=columns, judged=judged, sizes=sizes)

    def calibrate(self) -> None:
        """gate.json of every gated system, from the calibration tasks alone."""
        keys = [key for key in _SCORED if (self.folders.scores(key, "cheap")).is_dir()]
        with open_stage(
            self.folders.gates,
            "study_calibrate",
            inputs={key: self.folders.scores(key, "cheap") for key in keys},
            arguments={
                "systems": [asdict(system) for system in self.systems.values() if system.gated],
                "calibrators": list(CALIBRATORS),
                "num_folds": NUM_FOLDS,
                "cost_weight": COST_WEIGHT,
            },
            seed=self.plan.seed,
            overwrite=True,
        ) as stage:
            if not stage.done:
                gates = calibrate(
                    self.outcomes("calibration"),
                    calibration_hash=self.calibration_hash(),
                    seed=self.plan.seed,
                    systems=self.systems,
                )
                for name, gate in gates.items():
                    write_json(stage.path / f"{name}.json", gate.to_json())
                stage.counts["gates"] = len(gates)

    def calibration_hash(self) -> str:
        """Hash of everything gates are fitted on."""
        return content_hash(
            {
                "split": self.tasks("calibration"),
                "rollouts": folder_hash(self.rollouts_dir),
                "seed": self.plan.seed,
            }
        )

    def gates(self) -> dict[str, Gate]:
        """The frozen gates, checked against what they claim to come from."""
        found = {}
        for name, system in self.systems.items():
            path = self.folders.gates / f"{name}.json"
            if system.gated and path.is_file():
                gate = Gate.from_json(read_json(path))
                gate.check_matches(calibration_hash=self.calibration_hash())
                found[name] = gate
        return found

    def unseen_rows(self) -> list[dict[str, Any]]:
        """What verifiers say of models that they have not seen."""
        test = self.answers["test"]
        tasks = sorted({task for of_agent in test.by_agent.values() for task in of_agent})
        rng = np.random.default_rng(self.plan.seed)
        return unseen_report(test, tasks, self.without_family, rng)


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
    """A verifier that knows the labels: the bound that no choice among the models passes."""
    return Judged(
        verifier_id="label",
        size=NO_MODEL,
        shares_strong=False,
        log_odds=np.where(columns.parsed, 2.0 * columns.acceptable - 1.0, np.nan),
        seconds=np.zeros_like(columns.acceptable),
    )
