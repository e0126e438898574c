"""`specact evaluate`: from a table of proposals, labels and scores to gates, results, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from specact_rl.errors import ConfigError, DegenerateResultError
from specact_rl.eval.evaluate import (
    calibrate,
    calibration_rule,
    default_resamples,
    evaluate,
    run_all,
)
from specact_rl.eval.evaluation_table import EvaluationTable, read_evaluation_table
from specact_rl.eval.joined import Outcomes
from specact_rl.eval.report import write_report
from specact_rl.eval.results_schema import RESULTS_SCHEMA_VERSION
from specact_rl.eval.step_outcomes import STEPS_FILE, write_step_outcomes
from specact_rl.eval.table_outcomes import TableOutcomes, TablePlan
from specact_rl.metrics.cost import ModelSize
from specact_rl.pipeline.folders import RESULTS_FILE, Folders
from specact_rl.pipeline.provenance import plain_json, provenance
from specact_rl.policy.fitting import COST_WEIGHT
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import System
from specact_rl.store import content_hash, file_hash, open_stage, read_json, source_hash, write_json

logger = logging.getLogger(__name__)

EVALUATION = Path("evaluation") / RESULTS_FILE
"""Where the results lie, as in the folder of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEvaluation:
    """What is evaluated, and how."""

    table: Path
    plan: TablePlan
    given_as: str | None = None
    """What the user named, for the report; None: the table."""
    systems: Sequence[str] = ()
    """By name, A always among them; none: all that the table can be joined to."""
    cost_weight: float = COST_WEIGHT
    """Accuracy that one strong call is worth when thresholds are chosen."""
    num_resamples: int | None = None
    """Draws of each interval; None: `default_resamples` of the test steps."""
    label: str = "acceptable: as the table says"
    """What counts as right, in words."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            ConfigError: Naming the number.
        """
        if not 0 <= self.plan.seed < 2**32:
            raise ConfigError(f"a seed must be from 0 to 2**32 - 1, got {self.plan.seed}")
        if not 0.0 <= self.cost_weight < float("inf"):
            raise ConfigError(f"a strong call must be worth at least 0, got {self.cost_weight}")
        if self.num_resamples is not None and self.num_resamples < 1:
            raise ConfigError(f"resamples must be at least 1, got {self.num_resamples}")
        if not 0.0 < self.plan.calibration_share < 1.0:
            raise ConfigError(
                f"the calibration share must be in (0, 1), got {self.plan.calibration_share}"
            )


@dataclass(slots=True)
class Times:
    """Seconds of each part so far."""

    stages: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a part."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.stages.append({"name": name, "seconds": round(seconds, 2), "complete": True})
        logger.info("%s: %.1f s", name, seconds)


def evaluate_table(
    asked: TableEvaluation,
    out: Path,
    *,
    command: Sequence[str],
    overwrite: bool = False,
    report: bool = True,
) -> dict[str, Any]:
    """Write gates, results and report into a folder, and return what results.json holds.

    A folder that was made from the same table with the same arguments and code is read back.

    Args:
        asked: What is evaluated.
        out: New, empty, or of an earlier evaluation.
        command: What the user typed.
        overwrite: Replace an evaluation of something else.
        report: Whether to write the report.

    Raises:
        ConfigError: The table does not fit, or `out` holds something else.
        RolloutFormatError: A value of the table does not fit.
        DegenerateResultError: The main verifier says the same of every proposal.
    """
    # Numbers of another version of the code are not to be taken for this one's.
    arguments = plain_json(
        {**asdict(asked), "table": None, "report": report, "source": source_hash()}
    )
    with open_stage(
        out,
        "evaluate_table",
        inputs={"table": asked.table},
        arguments=arguments,
        seed=asked.plan.seed,
        overwrite=overwrite,
    ) as stage:
        if stage.done:
            return cast(dict[str, Any], read_json(out / EVALUATION))
        times = Times()
        with times("read"):
            table = read_evaluation_table(asked.table)
        folders = Folders(root=stage.path)
        results, gates = _evaluate(asked, table, times, folders)
        for name, gate in gates.items():
            write_json(folders.gates / f"{name}.json", gate.to_json())
        if report:
            with times("report"):
                write_report(_finished(results, times, asked, command), folders.report)
        results = _finished(results, times, asked, command)
        write_json(stage.path / EVALUATION, results)
        stage.counts |= {"rows": table.num_rows, "gates": len(gates)}
    return results


def _finished(
    results: dict[str, Any], times: Times, asked: TableEvaluation, command: Sequence[str]
) -> dict[str, Any]:
    meta = {**results["meta"], **provenance(asked.plan.seed, times.stages, command)}
    return cast(dict[str, Any], plain_json({**results, "meta": meta}))


def _evaluate(
    asked: TableEvaluation, table: EvaluationTable, times: Times, folders: Folders
) -> tuple[dict[str, Any], dict[str, Gate]]:
    """Results without provenance, and the gates; what systems did at each step goes to a file."""
    if table.ignored:
        logger.warning("%s: columns that mean nothing here: %s", table.path, table.ignored)
    table_hash = file_hash(asked.table)
    found = TableOutcomes(table, asked.plan, table_hash)
    systems = _chosen(found, asked.systems)
    with times("join"):
        calibration, test = found.outcomes("calibration"), found.outcomes("test")
    with times("calibrate"):
        gates, missing = _fit_gates(asked, calibration, systems, table_hash)
    num_resamples = asked.num_resamples or default_resamples(len(test.table.steps))
    parts: dict[str, float] = {}
    with times("evaluate"):
        replay = evaluate(
            test,
            gates,
            [],
            calibration=calibration,
            systems=systems,
            rivals=found.rivals,
            seed=asked.plan.seed,
            num_resamples=num_resamples,
            seconds=parts,
        )
    for name in gates:
        if not test.has(systems[name]):
            missing[name] = (
                f"{systems[name].verifier} has no score on the test tasks, so that its gate, which "
                "the calibration tasks gave, cannot be measured"
            )
    with times("steps"):
        write_step_outcomes(
            folders.evaluation / STEPS_FILE,
            found.names(test.table),
            run_all(test, gates, systems),
        )
    results = {
        "schema_version": RESULTS_SCHEMA_VERSION,
        "meta": {
            "table": {
                "path": asked.given_as or str(asked.table),
                "num_rows": table.num_rows,
                "models": dict(asked.plan.models),
                "verifier": found.verifier,
                "verifiers": list(found.all_verifiers),
                "num_resamples": num_resamples,
                "no_gate": missing,
                "ignored_columns": list(table.ignored),
                "seconds_of_evaluate": parts,
            },
            "label": asked.label,
            "calibration_rule": calibration_rule(asked.cost_weight),
            "num_params": {
                name: size.num_params
                for name, size in (
                    *((role, test.sizes[role]) for role in ("cheap", "strong")),
                    ("verifier", found.size(found.verifier)),
                )
                if size is not None
            },
        },
        "splits": {"calibration": _split_row(calibration), "test": _split_row(test)},
        "replay": replay,
    }
    return results, gates


def _chosen(found: TableOutcomes, names: Sequence[str]) -> dict[str, System]:
    unknown = sorted(set(names) - set(found.systems))
    if unknown:
        raise ConfigError(
            f"systems must be among {', '.join(found.systems)}, got {', '.join(unknown)}"
        )
    return {
        name: system
        for name, system in found.systems.items()
        if name == "A" or not names or name in names
    }


def _fit_gates(
    asked: TableEvaluation, calibration: Outcomes, systems: dict[str, System], table_hash: str
) -> tuple[dict[str, Gate], dict[str, str]]:
    """Gates by system, and why a system has none."""
    tasks = np.unique(calibration.table.task_ids)
    hashed = content_hash(
        {
            "table": table_hash,
            "seed": asked.plan.seed,
            "share": asked.plan.calibration_share,
            "num_tasks": tasks.size,
        }
    )
    gates: dict[str, Gate] = {}
    missing: dict[str, str] = {}
    for name, system in systems.items():
        try:
            gates |= calibrate(
                calibration,
                calibration_hash=hashed,
                seed=asked.plan.seed,
                systems={name: system},
                cost_weight=asked.cost_weight,
            )
        except (ConfigError, DegenerateResultError, ValueError) as error:
            logger.warning("there is no gate for %s: %s", name, error)
            missing[name] = str(error)
    return gates, missing


def _split_row(outcomes: Outcomes) -> dict[str, Any]:
    table = outcomes.table
    return {
        "num_tasks": int(np.unique(table.task_ids).size),
        "num_steps": len(table.steps),
        "families": [str(name) for name in np.unique(table.families) if name],
    }


def parse_table_sizes(text: str) -> dict[str, ModelSize]:
    """Parameters by role or verifier from "cheap=1.7,strong=8,NAME=4", which is in billions.

    Raises:
        ConfigError: Another form, or a number that is not above 0.
    """
    sizes = {}
    for part in text.split(","):
        name, _, billions = part.strip().partition("=")
        try:
            number = float(billions) * 1e9
        except ValueError:
            number = float("nan")
        if not name or not 0.0 < number < float("inf"):
            raise ConfigError(
                f"parameters must be NAME=BILLIONS,... with numbers above 0, got {text!r}"
            )
        sizes[name] = ModelSize(num_params=round(number))
    return sizes
