"""What results.json holds: every key with its unit and what null means.

`docs/results-schema.json` is made from these classes. Shares are in [0, 1]; a difference of shares
is, too, and not in points. Keys that are not here are kept by readers and named by
`undocumented_keys`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError

from specact_rl.errors import ConfigError
from specact_rl.eval.results_schema.calibration import Calibration
from specact_rl.eval.results_schema.certificates import CertificateRow
from specact_rl.eval.results_schema.cost import CostRow, Sensitivity
from specact_rl.eval.results_schema.latency import Latency
from specact_rl.eval.results_schema.models import Baseline, Proposer, Ranking, Verifier
from specact_rl.eval.results_schema.parts import Nothing, Part
from specact_rl.eval.results_schema.run import Meta, PairRow, Split, TrainingRow
from specact_rl.eval.results_schema.systems import (
    ContrastRow,
    Curve,
    ExampleRow,
    LiveRow,
    MistakeRow,
    SystemRow,
)
from specact_rl.eval.results_schema.value import Frontier, Value

RESULTS_SCHEMA_VERSION = 1
"""Goes up when a key changes its meaning or goes; new keys leave it as it is."""


class Replay(Part):
    """Single test steps with their logged histories."""

    num_steps: int
    """Test steps of families that were trained on."""
    num_out_of_reach: int | None = None
    """Test steps left out because nothing is known to be right there; null: not recorded."""
    proposers: list[Proposer]
    """Models by themselves, all test steps."""
    ranking: list[Ranking] = Field(default_factory=list)
    """Empty: not done."""
    baselines: list[Baseline] = Field(default_factory=list)
    """Empty: not done."""
    verifiers: list[Verifier] = Field(default_factory=list)
    """One for each gated system of one proposal."""
    systems: list[SystemRow] = Field(default_factory=list)
    """A first. Empty: a study of one model."""
    references: list[SystemRow] = Field(default_factory=list)
    """Executing all that parses, for each kind of proposals."""
    contrasts: list[ContrastRow] = Field(default_factory=list)
    """In their declared order."""
    examples: list[ExampleRow] = Field(default_factory=list)
    """A few of each kind."""
    curves: list[Curve] = Field(default_factory=list)
    """One for each gated system."""
    mistakes: list[MistakeRow] = Field(default_factory=list)
    """The surest first, by kind."""
    value: Value | None = None
    """What verification is worth; null: written before it was measured, as all below."""
    frontier: Frontier | None = None
    """Cost against accuracy."""
    costs: list[CostRow] = Field(default_factory=list)
    """One for each system whose costs have a price."""
    sensitivity: list[Sensitivity] = Field(default_factory=list)
    """One for each unit in which costs are known."""
    latency: Latency | Nothing | None = None
    """Schedules; an empty object: the strong model's seconds, or all others', are not known."""
    calibration: Calibration | Nothing | None = None
    """Trust in probabilities; an empty object: no gate has rows with score and label."""
    certificates: list[CertificateRow] = Field(default_factory=list)
    """One for each gated system with rows to go by. Empty: the calibration split was not given."""


class Results(Part):
    """All of results.json."""

    schema_version: int | None = None
    """Of this schema; null: written before it had one."""
    meta: Meta
    """What the run was."""
    splits: dict[str, Split]
    """By name."""
    replay: Replay
    """Single steps."""
    live: list[LiveRow] = Field(default_factory=list)
    """Whole episodes. Empty: not done."""
    pairs: list[PairRow] = Field(default_factory=list)
    """Empty: none mined."""
    training: list[TrainingRow] = Field(default_factory=list)
    """Empty: nothing trained."""
    unseen: list[dict[str, Any]] = Field(default_factory=list)
    """Of a study: verifiers on models whose family they never saw. Empty: not done."""


def check_version(results: Mapping[str, Any], where: str) -> None:
    """Refuse results of a schema that this code does not know.

    Args:
        results: What results.json holds; without a version they are older than the schema.
        where: Its path, for errors.

    Raises:
        ConfigError: The version is later than ours, or none.
    """
    version = results.get("schema_version")
    if version is not None and version not in range(1, RESULTS_SCHEMA_VERSION + 1):
        raise ConfigError(
            f"{where} has schema version {version!r}, this code reads up to "
            f"{RESULTS_SCHEMA_VERSION}; use the version of specact that wrote it"
        )


def check_results(results: Mapping[str, Any], where: str) -> Results:
    """The results, read and checked key by key; arguments as of `check_version`.

    Raises:
        ConfigError: A key is missing or has another type, or as `check_version`.
    """
    check_version(results, where)
    try:
        return Results.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{where} must be results of a run, but {place}: {first['msg']} "
            f"({error.error_count()} problems)"
        ) from error


def undocumented_keys(part: Any, path: str = "") -> Iterator[str]:
    """Paths of keys that no class above describes."""
    if isinstance(part, Part):
        yield from (f"{path}.{key}" for key in part.model_extra or {})
        for name in type(part).model_fields:
            yield from undocumented_keys(getattr(part, name), f"{path}.{name}")
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from undocumented_keys(value, f"{path}.{key}")
    elif isinstance(part, list):
        for value in part:
            yield from undocumented_keys(value, f"{path}[]")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of results.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"results.json, version {RESULTS_SCHEMA_VERSION}",
        **{k: v for k, v in Results.model_json_schema().items() if k != "title"},
    }
