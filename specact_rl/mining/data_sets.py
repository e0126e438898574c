"""A data set folder as a stage: tables of one split in, train and eval rows and a manifest out.

Train rows come from one split of the tasks, and eval rows, where wanted, from a share of that
split's tasks, so that calibration and test stay unread.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from specact_rl import __version__
from specact_rl.errors import ConfigError
from specact_rl.mining.balance import TRAIN_SPLITS
from specact_rl.mining.build_rollouts import REPORT_FILE
from specact_rl.mining.chunks import Tables, open_tables
from specact_rl.mining.precision import Verdicts
from specact_rl.mining.rows import longest_row
from specact_rl.rendering import Renderer
from specact_rl.store import (
    Manifest,
    RowSpool,
    Stage,
    input_hash,
    open_stage,
    read_manifest,
    write_json,
    write_training_rows,
)
from specact_rl.store.cards import table, yaml_block
from specact_rl.types import SplitName

THIN_COLUMNS = ("label", "split", "proposal_id")
"""What is known of a row when it is decided whether to leave it out."""


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
class Part:
    """What some tables give to a data set: the tables of one task, or some of its rows."""

    key: str
    """Rows are written in the order of the keys."""
    task_id: str
    rows: list[dict[str, Any]]
    dropped: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    model_ids: frozenset[str] = frozenset()
    """Whose proposals were looked at."""
    verdicts: Mapping[str, Verdicts] = field(default_factory=dict)
    """On the pairs of each strategy, where an environment was asked."""
    partings: Mapping[str, int] = field(default_factory=dict)
    """Contrasts by the place where they part."""


Report = Callable[[Iterable[dict[str, Any]]], tuple[dict[str, Any], Sequence[str]]]
"""All rows of a data set, iterated over once, to what report.json says of them, and paragraphs for
the README."""


def write_data_set(
    name: str,
    source: DataSource,
    arguments: Mapping[str, Any],
    make: Callable[[Tables], Iterable[Part]],
    *,
    report: Report = lambda rows: ({}, ()),
    thin: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None = None,
) -> Manifest:
    """Run one stage; rows go to the disk as they are made, so that none are held.

    Args:
        name: Of the stage.
        source: Where from and where to.
        arguments: What the rows depend on besides the source.
        make: Tables to rows, a part at a time.
        report: What report.json says besides the models, and the README besides its start.
        thin: Given `THIN_COLUMNS` of all train rows, returns those to keep.
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
            tables = open_tables(source.rollouts_dir, source.proposals_dirs, source.split)
            if tables.num_other_proposals:
                stage.dropped["proposal_of_other_split"] = tables.num_other_proposals
            with RowSpool(stage.path, "train") as train, RowSpool(stage.path, "eval") as evals:
                try:
                    model_ids = _spool(make(tables), source, stage, train, evals)
                    reported, words = report(chain(train, evals))
                    if thin is not None:
                        _thin(train, thin, stage)
                except ValueError as error:  # tables that do not fit each other or the arguments
                    raise ConfigError(f"{name}: {error}") from error
                splits = {"train": train, "eval": evals}
                _finish(stage, name, source, tables, splits, words, inputs, recorded)
            write_json(stage.path / REPORT_FILE, {"model_ids": model_ids, **reported})
    return read_manifest(source.out_dir)


def _spool(
    parts: Iterable[Part], source: DataSource, stage: Stage, train: RowSpool, evals: RowSpool
) -> list[str]:
    """Sort rows into the data set's splits and add up what is counted; returns the model ids."""
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    model_ids: set[str] = set()
    for part in parts:
        # Whole tasks, drawn by seed and task id alone.
        position = random.Random(f"{source.seed}/eval/{part.task_id}").random()
        (evals if position < source.eval_fraction else train).add(part.key, part.rows)
        counts.update(part.counts)
        dropped.update(part.dropped)
        model_ids |= part.model_ids
    stage.counts |= counts
    stage.dropped |= {reason: count for reason, count in dropped.items() if count}
    return sorted(model_ids)


def _thin(
    train: RowSpool,
    thin: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    stage: Stage,
) -> None:
    num_before = len(train)
    kept = thin([{column: row[column] for column in THIN_COLUMNS} for row in train])
    kept_ids = {row["proposal_id"] for row in kept}
    train.retain(lambda row: row["proposal_id"] in kept_ids)
    stage.dropped["balanced_away"] = num_before - len(train)


def _finish(
    stage: Stage,
    name: str,
    source: DataSource,
    tables: Tables,
    splits: Mapping[str, RowSpool],
    words: Sequence[str],
    inputs: Mapping[str, Path],
    arguments: Mapping[str, Any],
) -> None:
    if not len(splits["train"]):
        raise ConfigError(
            f"{name}: {source.rollouts_dir} gives no row to train on in split {source.split!r} "
            f"({tables.num_rollouts} rollouts, {tables.num_proposals} proposals); dropped "
            f"{stage.dropped!r}"
        )
    written = {split: rows for split, rows in splits.items() if len(rows)}
    paragraphs = [
        f"Written by {name} from the {source.split} tasks of a rollouts folder.",
        f"The longest row has {longest_row(written):,} tokens. TRL cuts or leaves out what is "
        "longer than its --max_length: give it that many at least.",
        *words,
    ]
    stage.counts |= {split: len(rows) for split, rows in splits.items()}
    labels = [row["label"] for row in splits["train"] if "label" in row]
    if labels:
        stage.counts["train:acceptable"] = sum(labels)
    paragraphs += [
        f"## {heading}\n\n{text}"
        for heading, text in _sections(name, source, stage, inputs, arguments).items()
    ]
    write_training_rows(
        stage.path,
        written,
        "\n\n".join(paragraphs),
        title=f"Rows of {name}",  # not the folder's name, of which its hash would then depend
        tags=("specact_rl", "speculative-actions", "tool-use", "trl", name),
    )


def _sections(
    name: str,
    source: DataSource,
    stage: Stage,
    inputs: Mapping[str, Path],
    arguments: Mapping[str, Any],
) -> dict[str, str]:
    """What the card says of every data set."""
    made_from = [(path, f"`{input_hash(folder)}`") for path, folder in inputs.items()]
    counts = [*stage.counts.items(), *((f"left out: {k}", n) for k, n in stage.dropped.items())]
    settings = {"stage": name, "seed": source.seed, **arguments, "specact_rl": __version__}
    return {
        "Made from": table(("input", "SHA-256 over its files"), made_from),
        "Settings": yaml_block(settings),
        "Counts": table(("", "number"), [(each, f"{number:,}") for each, number in counts]),
        "Intended use": "To train with the recipe of its kind, on a model whose chat template and "
        "tool catalogue have the template hash above; each row has the hash of the prompt that it "
        "was built with, and recipes compare. "
        f"Rows are from {source.split} tasks only: evaluate on others.",
        "Limits": "Rows of one task are not independent. What is right in them is so by the "
        "source that the rollouts name (expert, checker, score file), and as good as that. No "
        "metric is known of this folder, so there is no interval. No license is stated: that of "
        "the rollouts holds.",
    }
