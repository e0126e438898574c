"""What all studies of logs share: import, verifiers, gates, evaluation and report, as stages."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from specact_rl.errors import ConfigError, DegenerateResultError
from specact_rl.eval.columns import (
    ProposalColumns,
    StepTable,
    score_matrix,
    score_price,
    score_seconds,
)
from specact_rl.eval.evaluate import calibrate, calibration_rule, evaluate, run_all
from specact_rl.eval.joined import Outcomes
from specact_rl.eval.log_check import read_flags
from specact_rl.eval.replay import Judged
from specact_rl.eval.report import write_report
from specact_rl.eval.results_schema import RESULTS_SCHEMA_VERSION
from specact_rl.eval.step_outcomes import STEPS_FILE, StepNames, write_step_outcomes
from specact_rl.logs.sniff import sniff
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import BoolArray
from specact_rl.mining.build_rollouts import (
    REPORT_FILE,
    ROLLOUTS_FILE,
    import_rollouts,
    read_rollouts,
)
from specact_rl.mining.chunks import SCORES_FILE
from specact_rl.models.language_model import Proposer
from specact_rl.pipeline.folders import RESULTS_FILE, Folders
from specact_rl.pipeline.provenance import plain_json, provenance
from specact_rl.pipeline.results import split_rows
from specact_rl.policy.fitting import AUTOMATIC, COST_WEIGHT, NUM_FOLDS
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import System
from specact_rl.progress import ProgressBar
from specact_rl.store import (
    content_hash,
    folder_hash,
    open_stage,
    read_json,
    read_manifest,
    read_table,
    write_json,
    write_table,
)
from specact_rl.types import Rollout, Score, SplitName
from specact_rl.verifiers import Verifier
from specact_rl.verifiers.base import Item, scores_of
from specact_rl.verifiers.choice import Fit, VerifierChoice, choose_verifier
from specact_rl.verifiers.server_judge import ServerJudge, keeping_answers

logger = logging.getLogger(__name__)

FRACTIONS: dict[SplitName, float] = {"train_verifier": 0.35, "calibration": 0.3, "test": 0.35}
"""No proposer is trained on a log, so no task is kept for that; one half of the calibration tasks
fits a curve and the other chooses a threshold, which takes some hundred tasks."""
TRAIN: tuple[SplitName, ...] = ("train_proposer", "train_verifier")
EVALUATED: tuple[SplitName, ...] = ("calibration", "test")
PURPOSES: dict[str, tuple[SplitName, ...]] = {
    "train": TRAIN,
    "calibration": ("calibration",),
    "test": ("test",),
}
"""Splits by what a study does with their tasks."""

LOG_VERDICT = "acceptable: the log's verdict on the whole answer to the task"
"""What counts as right where a task is a step."""
VERIFIER_FOLDER = "verifier"
"""Where a fitted verifier lies, beside its scores."""
SIZE_FILE = "size.json"
"""What a forward pass of the verifier costs, beside its scores."""
NO_GATE_FILE = "no_gate.json"
"""Why a system has no gate, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """What a study is of."""

    log: Path
    """A log of any known format, or a rollouts folder."""
    cheap: str | None = None
    """Name of the cheap model in the log, or a part of it that no other model has; "M#2" is the
    second trial of M. None where the log has one model, or a `proposer` is given."""
    strong: str | None = None
    """Likewise; beside a `proposer`, the model whose actions are the references."""
    proposer: Proposer | None = None
    """A model that proposes at the logged steps; None studies what the log has."""
    importer: str | None = None
    """As `specact import` takes it; None looks at the log."""
    sizes: Mapping[str, float] = field(default_factory=dict)
    """Parameters by role, where the user gives them; FLOPs are counted only then."""
    verifier: str | ServerJudge = "trees"
    """The trained verifier, that of D, as `verifiers.choice.choose_verifier` takes it."""
    fractions: Mapping[SplitName, float] = field(default_factory=lambda: FRACTIONS)
    cost_weight: float = COST_WEIGHT
    """Accuracy that one strong call is worth when thresholds are chosen."""
    num_samples: int = 3
    """Proposals of the `proposer` at each step."""
    max_new_tokens: int = 48
    """Longest of its proposals."""
    seed: int = 0
    overwrite: bool = False
    """Replace a study of another log, split or seed in the folder."""

    def __post_init__(self) -> None:
        """Refuse numbers that no study can use.

        Raises:
            ConfigError: Naming the number.
        """
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"a seed must be from 0 to 2**32 - 1, got {self.seed}")
        if not 0.0 <= self.cost_weight < float("inf"):
            raise ConfigError(
                f"what a strong call is worth must be a share of at least 0, got {self.cost_weight}"
            )


def parse_sizes(text: str) -> dict[str, float]:
    """Parameters by role from "cheap=8,strong=70", which is in billions.

    Raises:
        ConfigError: Another form, another role, or a number that is not above 0.
    """
    sizes: dict[str, float] = {}
    for part in text.split(","):
        role, _, billions = part.strip().partition("=")
        try:
            if role not in ("cheap", "strong"):
                raise ValueError(f"{role!r} is no role")
            sizes[role] = float(billions) * 1e9
            if not 0.0 < sizes[role] < float("inf"):
                raise ValueError(f"{billions!r} is not above 0")
        except ValueError as error:
            raise ConfigError(
                f"parameters must be ROLE=BILLIONS,... with roles cheap and strong, got {text!r}: "
                f"{error}"
            ) from error
    return sizes


class Study(ABC):
    """One study under way; what several stages need is read once."""

    label: str
    """What counts as right, in words."""
    keys: Sequence[str] = ()
    """Verifiers of the cheap model's proposals that its systems may use."""

    def __init__(
        self, plan: StudyPlan, folders: Folders, progress: ProgressBar, command: Sequence[str]
    ) -> None:
        """Take note; nothing is read yet."""
        self.plan, self.folders, self.progress, self.command = plan, folders, progress, command
        self.stages: list[dict[str, Any]] = []

    def execute(self) -> dict[str, Any]:
        """All stages; returns what results.json holds."""
        source = self.imported
        with self.stage("outcomes"):
            self.write_outcomes()
        with self.stage("verifiers learn and judge"):
            self.judge()
        with self.stage("calibrate"):
            self.calibrate()
        with self.stage("evaluate"):
            replay = self.evaluate()
            unseen = self.unseen_rows()
        results = cast(
            dict[str, Any],
            plain_json(
                {
                    "schema_version": RESULTS_SCHEMA_VERSION,
                    "meta": {
                        "study": {
                            **source,
                            **self.facts(),
                            "trained": self.choice.name,
                            "no_verifier": self.no_verifier,
                            "no_gate": read_json(self.folders.gates / NO_GATE_FILE),
                        },
                        "label": self.label,
                        "calibration_rule": calibration_rule(self.plan.cost_weight),
                        "num_params": dict(self.plan.sizes),
                        **provenance(self.plan.seed, self.stages, self.command),
                    },
                    "splits": self.split_rows(),
                    "replay": replay,
                    "unseen": unseen,
                }
            ),
        )
        write_json(self.folders.evaluation / RESULTS_FILE, results)
        write_report(results, self.folders.report)
        return results

    # What the kinds of study differ in.

    @property
    @abstractmethod
    def systems(self) -> Mapping[str, System]:
        """What can be joined, by name."""

    @abstractmethod
    def write_outcomes(self) -> None:
        """The proposals tables."""

    @abstractmethod
    def train_items(self) -> tuple[list[Item], BoolArray]:
        """What verifiers are fitted on: labelled proposals, and their labels."""

    @abstractmethod
    def cheap_items(self, split: SplitName) -> list[Item]:
        """The cheap model's proposals at the steps of a split, in the order of its columns."""

    @abstractmethod
    def columns(self, split: SplitName) -> tuple[StepTable, dict[str, ProposalColumns]]:
        """The steps of a split and all proposals there, by role."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the study's part of the results says beside where the log came from."""

    def joined(self, table: StepTable, columns: ProposalColumns, role: str) -> dict[str, Judged]:
        """Verifiers of other roles that follow from the columns alone, by key."""
        del table, columns, role
        return {}

    def split_rows(self) -> dict[str, Any]:
        """Sizes of the splits; where a task is a step, tasks say it all."""
        return {name: {**row, "num_steps": None} for name, row in split_rows(self.rollouts).items()}

    def unseen_rows(self) -> list[dict[str, Any]]:
        """Verifiers on models that they have not seen; [] where there are none."""
        return []

    # What they share.

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log a stage and its seconds."""
        logger.info("%s", name)
        started = time.perf_counter()
        with self.progress(name, None):
            yield
        seconds = round(time.perf_counter() - started, 1)
        self.stages.append({"name": name, "seconds": seconds, "complete": True})

    @cached_property
    def rollouts_dir(self) -> Path:
        """The imported log; a rollouts folder is taken as it is."""
        log = self.plan.log
        return log if (log / ROLLOUTS_FILE).is_file() else self.folders.rollouts

    @cached_property
    def rollouts(self) -> list[Rollout]:
        """All rollouts, with their splits."""
        return read_rollouts(self.rollouts_dir)

    @cached_property
    def imported(self) -> dict[str, Any]:
        """What the log is; its rollouts folder is written when this is first asked for."""
        with self.stage("import"):
            return self._import_log()

    def goes_on(self, begun: Study) -> Self:
        """This study, which takes the import of another one of the same log for its own."""
        self.imported, self.rollouts, self.stages = begun.imported, begun.rollouts, begun.stages
        return self

    def _import_log(self) -> dict[str, Any]:
        """Write the rollouts folder, and say what the log is."""
        log, importer, reason = self.plan.log, self.plan.importer, "as asked for"
        if self.rollouts_dir == log:
            if importer is not None or self.plan.fractions is not FRACTIONS:
                raise ConfigError(
                    f"{log} was imported and split before: an importer or fractions change nothing "
                    "there. Leave them out, or study the log that it was made from"
                )
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
                overwrite=self.plan.overwrite,
            )
        manifest = read_manifest(self.rollouts_dir)
        return {
            "log": str(log),
            "importer": importer,
            "reason": reason,
            "counts": manifest.counts,
            "dropped": manifest.dropped,
            "near_duplicate_rate": read_json(self.rollouts_dir / REPORT_FILE)["leaks"][
                "near_duplicate_rate"
            ],
            "flags": [asdict(flag) for flag in read_flags(self.rollouts_dir)],
        }

    @cached_property
    def choice(self) -> VerifierChoice:
        """The trained verifier that the user asked for."""
        return choose_verifier(self.plan.verifier, seed=self.plan.seed)

    @cached_property
    def fits(self) -> dict[str, Fit]:
        """How verifiers are fitted, by key; the trained one first."""
        found: dict[str, Fit] = {}
        if self.choice.fit is not None:
            found["trained"] = self.choice.fit
        for kind in ("trees", "linear"):
            fit = choose_verifier(kind, seed=self.plan.seed).fit
            if kind != self.plan.verifier and fit is not None:
                found[kind] = fit
        return found

    @cached_property
    def no_verifier(self) -> str | None:
        """Why there is none; None where one can be fitted, or is given."""
        if self.choice.fitted is not None:
            return None
        return self._nothing_to_learn

    @cached_property
    def _nothing_to_learn(self) -> str | None:
        _, labels = self.train_items()
        if labels.any() and not labels.all():
            return None
        return (
            "a verifier must learn from right and wrong answers whose text is in the log, but of "
            f"{labels.size} such answers to training tasks {int(labels.sum())} are right"
        )

    @cached_property
    def fitted(self) -> dict[str, Verifier]:
        """Verifiers by key, fitted on the training tasks or read.

        Without those that would have to be fitted where there is nothing to learn from.
        """
        found: dict[str, Verifier] = {}
        if self._nothing_to_learn is None:
            items, labels = self.train_items()
            found = {key: fit(items, labels) for key, fit in self.fits.items()}
        if self.choice.fitted is not None:
            found["trained"] = self.choice.fitted
        return found

    def verifier(self, key: str) -> Verifier | None:
        """A verifier by its key; None where it cannot be had."""
        return self.fitted.get(key)

    def judge(self) -> None:
        """One scores table for each verifier of the cheap model's proposals."""
        for key in self.used_keys:
            self._judge(key)

    @cached_property
    def used_keys(self) -> list[str]:
        """Those of `keys` that a system has; a folder may hold scores of others from before."""
        used = {system.verifier for system in self.systems.values()}
        return [key for key in self.keys if key in used]

    @cached_property
    def models(self) -> dict[str, Any]:
        """Who is cheap and who is strong, which the proposals table of a whole log does not say."""
        facts = self.facts()
        return {role: facts[role] for role in ("cheap", "strong")}

    def _judge(self, key: str) -> None:
        folder = self.folders.scores(key, "cheap")
        answers = folder.with_name(f"{folder.name}.answers.jsonl")
        with open_stage(
            folder,
            "study_scores",
            inputs={"rollouts": self.rollouts_dir, **self.outcome_folders()},
            arguments={"verifier": key, "trained": self.choice.identity, **self.models},
            seed=self.plan.seed,
            overwrite=True,
        ) as stage:
            verifier = None if stage.done else self.verifier(key)
            if verifier is None:
                return
            items = self.judged_items
            verifier = keeping_answers(verifier, answers)
            started = time.perf_counter()
            judgements = verifier.judge(items)
            seconds = time.perf_counter() - started
            write_table(stage.path / SCORES_FILE, scores_of(verifier, items, judgements, seconds))
            size = verifier.size
            write_json(stage.path / SIZE_FILE, None if size is None else asdict(size))
            stage.counts["scores"] = len(items)
            save = getattr(verifier, "save", None)
            if save is not None:
                save(stage.path / VERIFIER_FOLDER)
        answers.unlink(missing_ok=True)

    @cached_property
    def judged_items(self) -> list[Item]:
        """The cheap model's proposals that verifiers are asked about."""
        return [item for split in EVALUATED for item in self.cheap_items(split)]

    @abstractmethod
    def outcome_folders(self) -> dict[str, Path]:
        """Folders of proposals that everything after them depends on."""

    def outcomes(self, split: SplitName) -> Outcomes:
        """All tables of one split, joined."""
        table, columns = self.columns(split)
        judged: dict[tuple[str, str], Judged] = {}
        for key in self.used_keys:
            folder = self.folders.scores(key, "cheap")
            path = folder / SCORES_FILE
            if path.is_file() and (scores := read_table(path, Score)):
                size = read_json(folder / SIZE_FILE)
                judged[key, "cheap"] = Judged(
                    verifier_id=scores[0].verifier_id,
                    size=None if size is None else ModelSize(**size),
                    shares_strong=False,
                    # What cannot be read is scored too, and no gate may accept it.
                    log_odds=np.where(
                        columns["cheap"].parsed, score_matrix(columns["cheap"], scores), np.nan
                    ),
                    seconds=score_seconds(columns["cheap"], scores),
                    # Of a server, which has no size, a price is due.
                    price=score_price(columns["cheap"], scores) if size is None else None,
                )
        for role, found in columns.items():
            judged |= {(key, role): j for key, j in self.joined(table, found, role).items()}
        return Outcomes(
            table=table,
            columns=columns,
            judged=judged,
            sizes={role: self.size(role) for role in columns},
        )

    def size(self, role: str) -> ModelSize | None:
        """Of a model by role; None where nobody says."""
        given = self.plan.sizes.get(role)
        return None if given is None else ModelSize(num_params=round(given))

    def calibrate(self) -> None:
        """gate.json of every gated system, from the calibration tasks alone."""
        keys = [key for key in self.used_keys if self.folders.scores(key, "cheap").is_dir()]
        with open_stage(
            self.folders.gates,
            "study_calibrate",
            inputs={
                "rollouts": self.rollouts_dir,
                **self.outcome_folders(),
                **{key: self.folders.scores(key, "cheap") for key in keys},
            },
            arguments={
                **self.models,
                "systems": [asdict(system) for system in self.systems.values() if system.gated],
                "calibrators": AUTOMATIC,
                "num_folds": NUM_FOLDS,
                "cost_weight": self.plan.cost_weight,
            },
            seed=self.plan.seed,
            overwrite=True,
        ) as stage:
            if not stage.done:
                gates, missing = self.fit_gates()
                missing |= self.not_judged()
                for name, gate in gates.items():
                    write_json(stage.path / f"{name}.json", gate.to_json())
                write_json(stage.path / NO_GATE_FILE, missing)
                stage.counts["gates"] = len(gates)

    def not_judged(self) -> dict[str, str]:
        """Why systems whose verifier could not be had have no gate, by name."""
        return {}

    def fit_gates(self) -> tuple[dict[str, Gate], dict[str, str]]:
        """Gates by system, and why a system has none."""
        outcomes, hashed = self.outcomes("calibration"), self.calibration_hash()
        gates: dict[str, Gate] = {}
        missing: dict[str, str] = {}
        for name, system in self.systems.items():
            try:
                gates |= calibrate(
                    outcomes,
                    calibration_hash=hashed,
                    seed=self.plan.seed,
                    systems={name: system},
                    cost_weight=self.plan.cost_weight,
                )
            except (ConfigError, DegenerateResultError) as error:  # a small log: say so, go on
                missing[name] = str(error)
        return gates, missing

    def calibration_hash(self) -> str:
        """Hash of everything gates are fitted on."""
        tasks = sorted({r.task_id for r in self.rollouts if r.split == "calibration"})
        return content_hash(
            {"split": tasks, "rollouts": folder_hash(self.rollouts_dir), "seed": self.plan.seed}
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

    def evaluate(self) -> dict[str, Any]:
        """The replay part of the results, on the test tasks; their steps go to a table."""
        test, gates = self.outcomes("test"), self.gates()
        write_step_outcomes(
            self.folders.evaluation / STEPS_FILE,
            StepNames.of(test.table),
            run_all(test, gates, self.systems),
        )
        return evaluate(
            test,
            gates,
            [],
            calibration=self.outcomes("calibration"),
            systems=self.systems,
            seed=self.plan.seed,
        )
