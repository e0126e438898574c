"""What every system did at every test step, kept beside results.json for paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from specact_rl.errors import ConfigError
from specact_rl.eval.columns import StepTable
from specact_rl.eval.replay import SystemRun
from specact_rl.metrics.values import BoolArray, FloatArray
from specact_rl.store import atomic_write, content_hash

STEPS_FILE = "steps.parquet"
FORMAT = b"1"
_FORMAT_KEY = b"specact_steps_format"
_FIELDS = ("acceptable", "accepted", "p_accept", "flops")
_STEP_COLUMNS = {"step_id", "task_id", "out_of_family"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemOutcomes:
    """One system at n steps; all arrays of shape (n,)."""

    acceptable: FloatArray
    """Whether what was executed is acceptable, 1 or 0; NaN where the label is unknown."""
    accepted: BoolArray
    """The proposal was executed. All False for a system without a proposer."""
    p_accept: FloatArray
    """NaN where there is no gate or nothing to judge; rounded to 32 bits."""
    flops: FloatArray
    """NaN where not known; rounded to 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcomes:
    """All systems at the n test steps of one run."""

    step_ids: np.ndarray
    """Strings, shape (n,)."""
    task_ids: np.ndarray
    out_of_family: BoolArray
    systems: dict[str, SystemOutcomes]

    @property
    def test_hash(self) -> str:
        """Of the ids of the test steps, in whatever order."""
        return content_hash(sorted(self.step_ids.tolist()))

    def take(self, rows: np.ndarray) -> StepOutcomes:
        """The chosen steps, by a mask or by places in their new order."""
        return StepOutcomes(
            step_ids=self.step_ids[rows],
            task_ids=self.task_ids[rows],
            out_of_family=self.out_of_family[rows],
            systems={
                name: SystemOutcomes(**{field: getattr(found, field)[rows] for field in _FIELDS})
                for name, found in self.systems.items()
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNames:
    """Which steps rows are of; n of them."""

    step_ids: Sequence[str] | np.ndarray
    task_ids: Sequence[str] | np.ndarray
    out_of_family: BoolArray

    @classmethod
    def of(cls, table: StepTable) -> StepNames:
        """Of steps that are there as objects; a table of them made on demand makes each."""
        return cls(
            step_ids=[step.step_id for step in table.steps],
            task_ids=[step.task_id for step in table.steps],
            out_of_family=table.out_of_family,
        )


def write_step_outcomes(path: Path, steps: StepNames, runs: Mapping[str, SystemRun]) -> None:
    """Write one row per test step, with four columns per system.

    Args:
        path: Usually `evaluation/steps.parquet` of a run.
        steps: All test steps, those of families held out among them.
        runs: What the systems did at these steps, by name.
    """
    columns: dict[str, pa.Array] = {
        "step_id": pa.array(steps.step_ids, pa.string()),
        "task_id": pa.array(steps.task_ids, pa.string()),
        "out_of_family": pa.array(steps.out_of_family),
    }
    for name, run in runs.items():
        unknown = np.isnan(run.acceptable)
        columns |= {
            f"{name}/acceptable": pa.array(run.acceptable == 1.0, mask=unknown),
            f"{name}/accepted": pa.array(run.accepted),
            f"{name}/p_accept": _float32(run.p_accept),
            f"{name}/flops": _float32(run.flops),
        }
    written = pa.table(columns).replace_schema_metadata({_FORMAT_KEY: FORMAT})
    with atomic_write(path) as temporary:
        pq.write_table(written, temporary, compression="zstd")


def _float32(values: FloatArray) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=np.isnan(values))


def read_step_outcomes(run: Path) -> StepOutcomes:
    """The step outcomes of a finished run, study or evaluation of a table.

    Raises:
        ConfigError: There are none, or in another format.
    """
    path = run / "evaluation" / STEPS_FILE
    if not path.is_file():
        raise ConfigError(
            f"{run} must be a finished run, a study of two models or an evaluation of a table, "
            f"but has no {path}; one of an older version writes it when its command is given again"
        )
    try:
        table = pq.read_table(path, use_threads=False)
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{path} must be a Parquet file: {error}") from error
    found = (table.schema.metadata or {}).get(_FORMAT_KEY)
    if found != FORMAT or not set(table.column_names) >= _STEP_COLUMNS:
        raise ConfigError(
            f"{path} must have step outcomes of format {FORMAT.decode()}, got "
            f"{found.decode() if found else 'another table'}; write it with this version"
        )
    names = [name.removesuffix("/accepted") for name in table.column_names if "/accepted" in name]

    def numbers(column: str) -> FloatArray:
        values: FloatArray = (
            table[column].cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
        )
        return values

    return StepOutcomes(
        step_ids=np.array(table["step_id"].to_pylist(), dtype=str),
        task_ids=np.array(table["task_id"].to_pylist(), dtype=str),
        out_of_family=numbers("out_of_family") == 1.0,
        systems={
            name: SystemOutcomes(
                acceptable=numbers(f"{name}/acceptable"),
                accepted=numbers(f"{name}/accepted") == 1.0,
                p_accept=numbers(f"{name}/p_accept"),
                flops=numbers(f"{name}/flops"),
            )
            for name in names
        },
    )
