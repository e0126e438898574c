"""A data set folder as a stage: tables of one split in, train and eval rows and a manifest out.

Train rows come from one split of the tasks, and eval rows, where wanted, from a share of that
split's tasks, so that calibration and test stay unread.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specact_rl.errors import ConfigError
from specact_rl.mining.balance import TRAIN_SPLITS
from specact_rl.mining.build_rollouts import REPORT_FILE, read_rollouts
from specact_rl.mining.rows import Rows, longest_row
from specact_rl.rendering import Renderer, check_parity
from specact_rl.store import (
    Manifest,
    Stage,
    open_stage,
    read_manifest,
    read_table,
    write_json,
    write_training_rows,
)
from specact_rl.types import Proposal, Rollout, SplitName

PROPOSALS_FILE = "proposals.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where the rows of a data set come from, and where they go."""

    rollouts_dir: Path
    proposals_dirs: Sequence[Path] = ()
    """Folders with a proposals table, made at steps of these rollouts."""
    out_dir: Path
    renderer: Renderer
    """That of the model to be trained."""
    split: SplitName
    """Of the tasks; a training split."""
    eval_fraction: float = 0.0
    """Share of the split's tasks whose rows become `eval`; 0: there is no such split."""
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what does not depend on files."""
        if self.split not in TRAIN_SPLITS:
            raise ConfigError(
                f"rows to train on must come from one of {TRAIN_SPLITS!r}, got {self.split!r}"
            )
        if not 0.0 <= self.eval_fraction < 1.0:
            raise ConfigError(f"eval_fraction must be in [0, 1), got {self.eval_fraction!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Rows of the source's split."""

    rollouts: list[Rollout]
    proposals: list[Proposal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a stage is about to write."""

    rows: Rows
    counts: dict[str, int] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    words: Sequence[str] = ()
    """Paragraphs for the README."""


def write_data_set(
    name: str,
    source: DataSource,
    arguments: Mapping[str, Any],
    make: Callable[[Tables], Built],
    *,
    thin: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None = None,
    one_action: bool = True,
) -> Manifest:
    """Run one stage.

    Args:
        name: Of the stage.
        source: Where from and where to.
        arguments: What the rows depend on besides the source.
        make: Tables to rows.
        thin: Applied to train rows only.
        one_action: Whether completions are one message each, so that parity can be checked.
    """
    inputs = {"rollouts": source.rollouts_dir}
    inputs |= {f"proposals{i}": folder for i, folder in enumerate(source.proposals_dirs)}
    recorded = {
        **arguments,
        "split": source.split,
        "eval_fraction": source.eval_fraction,
        "template_hash": source.renderer.template_hash,
    }
    with open_stage(
        source.out_dir,
        name,
        inputs=inputs,
        arguments=recorded,
        seed=source.seed,
        overwrite=source.overwrite,
    ) as stage:
        if not stage.done:
            tables = _read_tables(source, stage)
            try:
                built = make(tables)
                splits = _partition(built.rows.rows, source)
                if thin is not None:
                    num_before = len(splits["train"])
                    splits["train"] = thin(splits["train"])
                    stage.dropped["balanced_away"] = num_before - len(splits["train"])
            except ValueError as error:  # tables that do not fit each other or the arguments
                raise ConfigError(f"{name}: {error}") from error
            _finish(stage, name, source, tables, built, splits, one_action=one_action)
    return read_manifest(source.out_dir)


def _read_tables(source: DataSource, stage: Stage) -> Tables:
    everything = read_rollouts(source.rollouts_dir)
    split_of = {r.task_id: r.split for r in everything}
    proposals = read_proposals(source.proposals_dirs)
    for proposal in proposals:
        if proposal.task_id not in split_of:
            raise ConfigError(
                f"proposal {proposal.proposal_id!r} must be made on a task of "
                f"{source.rollouts_dir}, task {proposal.task_id!r} is not in it"
            )
    wanted = [p for p in proposals if split_of[p.task_id] == source.split]
    if len(wanted) < len(proposals):
        stage.dropped["proposal_of_other_split"] = len(proposals) - len(wanted)
    return Tables(rollouts=[r for r in everything if r.split == source.split], proposals=wanted)


def _partition(
    rows: Sequence[dict[str, Any]], source: DataSource
) -> dict[str, list[dict[str, Any]]]:
    """Rows by data set split: whole tasks, drawn by seed and task id alone."""
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
    for row in rows:
        position = random.Random(f"{source.seed}/eval/{row['task_id']}").random()
        splits["eval" if position < source.eval_fraction else "train"].append(row)
    return splits


def _finish(
    stage: Stage,
    name: str,
    source: DataSource,
    tables: Tables,
    built: Built,
    splits: dict[str, list[dict[str, Any]]],
    *,
    one_action: bool,
) -> None:
    stage.dropped |= built.rows.dropped
    if not splits["train"]:
        raise ConfigError(
            f"{name}: {source.rollouts_dir} gives no row to train on in split {source.split!r} "
            f"({len(tables.rollouts)} rollouts, {len(tables.proposals)} proposals); dropped "
            f"{stage.dropped!r}"
        )
    if one_action:
        for rows in splits.values():
            check_parity(rows, source.renderer)
    written = {split: rows for split, rows in splits.items() if rows}
    paragraphs = [
        f"Written by {name} from the {source.split} tasks of a rollouts folder.",
        f"The longest row has {longest_row(written):,} tokens. TRL cuts or leaves out what is "
        "longer than its --max_length: give it that many at least.",
        *built.words,
    ]
    write_training_rows(stage.path, written, "\n\n".join(paragraphs))
    report = {"model_ids": sorted({p.model_id for p in tables.proposals}), **built.report}
    write_json(stage.path / REPORT_FILE, report)
    stage.counts |= built.counts
    stage.counts |= {split: len(rows) for split, rows in splits.items()}
    labels = [row["label"] for row in splits["train"] if "label" in row]
    if labels:
        stage.counts["train:acceptable"] = sum(labels)


def read_proposals(folders: Sequence[Path]) -> list[Proposal]:
    """The proposals of several folders.

    Raises:
        ConfigError: A folder that is not finished or has no proposals, or an id in two of them.
    """
    proposals: dict[str, Proposal] = {}
    for folder in folders:
        read_manifest(folder)
        path = folder / PROPOSALS_FILE
        if not path.is_file():
            raise ConfigError(f"{folder} must be a proposals folder, but has no {PROPOSALS_FILE}")
        for proposal in read_table(path, Proposal):
            if proposals.setdefault(proposal.proposal_id, proposal) is not proposal:
                raise ConfigError(
                    f"{path}: proposal_id {proposal.proposal_id!r} must be unique, but was there "
                    "before; name each folder once"
                )
    return list(proposals.values())
