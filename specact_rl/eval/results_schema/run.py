"""What a run was and took: machine, stages, splits, pairs, trainings."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from specact_rl.eval.results_schema.parts import Part


class Machine(Part):
    """Where it ran."""

    processor: str
    """Name of the processor."""
    cores: int | None
    """Logical cores; null: not known."""
    memory_gb: float | None
    """Memory in GiB; null: not known."""
    python: str
    """Version."""
    torch: str
    """Version and build."""


class StageTime(Part):
    """One stage of the run."""

    name: str
    """Of the stage."""
    seconds: float
    """Wall time of all attempts together."""
    complete: bool | None = None
    """false: an attempt was killed, whose seconds are lost; null: not recorded."""
    skipped: bool | None = None
    """true: it was finished before and not done again; null: not recorded."""


class EvaluatedTable(Part):
    """The table that `specact evaluate` read, and what it made of it."""

    path: str
    """As it was given; or the folder of the run that the table was made from."""
    num_rows: int
    """Rows of all splits."""
    models: dict[str, str]
    """Name in the table by role."""
    verifier: str
    """Of D and E."""
    verifiers: list[str]
    """All whose scores were read."""
    num_resamples: int
    """Draws of each bootstrap interval."""
    no_gate: dict[str, str]
    """By system: why it has no gate and is left out."""
    ignored_columns: list[str]
    """That mean nothing here."""
    seconds_of_evaluate: dict[str, float]
    """By part of the evaluation."""


class Meta(Part):
    """What the run was, and what it takes to do it again."""

    preset: str | None = None
    """Name of the preset; null: a study or a table."""
    bases: list[str] | None = None
    """Models that training started from: cheap, strong, verifier; null as `preset`."""
    study: dict[str, Any] | None = None
    """The log, its models and doubts about its labels; null: not a study."""
    table: EvaluatedTable | None = None
    """null: not an evaluation of a table."""
    seed: int
    """Of tasks, training, sampling and intervals."""
    command: str
    """As it was typed."""
    code_version: str
    """Of the package."""
    source_hash: str | None = None
    """Of the package's code; null: not recorded."""
    metrics_version: int
    """Numbers of different versions are not comparable."""
    machine: Machine
    """Where it ran."""
    wall_seconds: float
    """Of all stages."""
    stages: list[StageTime] = Field(default_factory=list)
    """In order."""
    label: str
    """What counts as acceptable, in words."""
    calibration_rule: str
    """How thresholds were chosen, in words."""
    num_params: dict[str, float] = Field(default_factory=dict)
    """Parameters by role; of a server's model they are not known, and not here."""
    server_notes: list[str] = Field(default_factory=list)
    """What is otherwise, or left out, since models were behind servers, a line each."""


class Split(Part):
    """Size of one split of the tasks."""

    num_tasks: int
    """Tasks; no task is in two splits."""
    num_steps: int | None
    """Logged steps; null: a task is one step here."""
    families: list[str]
    """Task families, in alphabetical order."""
    steps_hash: str | None = None
    """Of the split's rollouts and how long each is; null: not recorded."""


class PairRow(Part):
    """Preference pairs of one mining strategy."""

    strategy: str
    """Its name."""
    count: int
    """Pairs."""
    dropped: dict[str, int]
    """Candidates that gave no pair, by reason."""
    precision: dict[str, Any] | None
    """`better` (share whose chosen side is better, branched in the environment) and counts of
    num_ties, num_worse, num_unmeasured; null: not measured."""
    gaps: dict[str, float | None] | None = None
    """Chosen less rejected: num_pairs, mean_tokens, median_tokens, mean_turns, and the share with
    a longer chosen side; null: no pairs."""


class TrainingRow(Part):
    """One recipe."""

    recipe: str
    """Its name."""
    model: str
    """Role of what it trained."""
    rows: int
    """Training rows."""
    seconds: float
    """Wall time."""
    first_loss: float | None
    """null: none was logged."""
    last_loss: float | None
    """null: none was logged."""
    rows_sha256: str | None = None
    """Of the file of training rows; null: not recorded."""
    options_hash: str | None = None
    """Of the recipe's settings; null: not recorded."""
