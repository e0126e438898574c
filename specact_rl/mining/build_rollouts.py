"""Stages that write a rollouts folder: episodes or logs in, split and checked for leaks, once."""

from __future__ import annotations

import logging
import shutil
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from specact_rl.envs.collect import EpisodePlan, RollOut, collect_episodes, scripted_rollouts
from specact_rl.envs.episodes import Progress
from specact_rl.errors import ConfigError
from specact_rl.logs.importers import find_importer
from specact_rl.logs.result import Flag, RolloutCounts, log_files
from specact_rl.mining.labels import LabelTally
from specact_rl.mining.leaks import LeakCheck
from specact_rl.mining.splits import DEFAULT_FRACTIONS, draw_splits, with_split
from specact_rl.store import (
    Manifest,
    Stage,
    content_hash,
    iter_columns,
    iter_table,
    open_stage,
    read_manifest,
    write_json,
    write_table,
)
from specact_rl.types import SPLITS, Rollout, SplitName

logger = logging.getLogger(__name__)

ROLLOUTS_FILE = "rollouts.parquet"
REPORT_FILE = "report.json"

_SHARDS = "shards"


def collect_rollouts(
    out_dir: Path,
    plans: Sequence[EpisodePlan],
    *,
    roll_out: RollOut = scripted_rollouts,
    acting: Mapping[str, Any] | None = None,
    fractions: Mapping[SplitName, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Roll policies out and write their rollouts; families held out go to test.

    A killed run goes on where it was.

    Args:
        out_dir: Where the rollouts go.
        plans: Which episodes.
        roll_out: Acts in them.
        acting: JSON values that the episodes depend on beside their plans, such as the ids of
            models; they become arguments in the manifest. None where the plans say all.
        fractions: Share of the tasks by split.
        seed: Of the split.
        overwrite: Replace a folder made from other things.
        progress: Called with the number of episodes just finished.

    Raises:
        ConfigError: The folder holds something else, or the fractions are no distribution.
    """
    arguments = {
        "fractions": dict(fractions),
        "plans": content_hash([asdict(plan) for plan in plans]),
        "policies": sorted({plan.policy for plan in plans}),
        **(acting or {}),
    }
    with open_stage(
        out_dir,
        "collect_rollouts",
        inputs={},
        arguments=arguments,
        seed=seed,
        overwrite=overwrite,
    ) as stage:
        if not stage.done:
            rollouts = collect_episodes(stage.path / _SHARDS, plans, roll_out, progress)
            held_out = {
                rollout.family
                for rollout, plan in zip(rollouts, plans, strict=True)
                if plan.held_out
            }
            _write_split(stage, rollouts, fractions, seed, held_out)
            shutil.rmtree(stage.path / _SHARDS)
    return read_manifest(out_dir)


def import_rollouts(
    log: Path,
    out_dir: Path,
    *,
    importer: str,
    fractions: Mapping[SplitName, float] = DEFAULT_FRACTIONS,
    held_out_families: Collection[str] = (),
    seed: int = 0,
    overwrite: bool = False,
) -> Manifest:
    """Write the rollouts of a foreign log.

    Args:
        log: A file or folder of the importer's format.
        out_dir: Where the rollouts go.
        importer: As `logs.importers.find_importer` takes it.
        fractions: Share of the tasks by split.
        held_out_families: Families that go to test whole.
        seed: Of the split.
        overwrite: Replace a folder made from other things.

    Raises:
        ConfigError: No such importer or log, or arguments that do not fit.
        RolloutFormatError: The log is not of the importer's format.
    """
    read, importer_file = find_importer(importer)
    root = log if log.is_dir() else log.parent
    inputs = {file.relative_to(root).as_posix(): file for file in log_files(log)}
    if importer_file is not None:
        inputs[f"importer:{importer_file.name}"] = importer_file
    with open_stage(
        out_dir,
        "import_rollouts",
        inputs=inputs,
        arguments={
            "importer": importer,
            "fractions": dict(fractions),
            "held_out_families": sorted(held_out_families),
        },
        seed=seed,
        overwrite=overwrite,
    ) as stage:
        if not stage.done:
            result = read(log)
            if not result.rollouts:
                raise ConfigError(f"{log} holds no rollout; dropped {result.dropped!r}")
            stage.dropped.update(result.dropped)
            counts = RolloutCounts()
            _write_split(
                stage,
                result.rollouts,
                fractions,
                seed,
                held_out_families,
                flags=result.flags,
                watch=counts.add,
            )
            stage.counts |= counts.numbers()
    return read_manifest(out_dir)


def _write_split(
    stage: Stage,
    rollouts: Sequence[Rollout],
    fractions: Mapping[SplitName, float],
    seed: int,
    held_out_families: Collection[str],
    flags: Sequence[Flag] = (),
    watch: Callable[[Rollout], None] = lambda rollout: None,
) -> None:
    """Write the rollouts grouped by task, tasks and their rollouts in the order of the log.

    The rollouts are read twice, once for the splits and once to be written, and never held.
    Grouped, since whoever mines them goes task by task: a row group of the table holds whole
    tasks, so that a reader needs one group at a time, and several readers need not share any.
    """
    task_numbers: dict[str, int] = {}
    number_of = array("Q")

    def numbered() -> Iterator[Rollout]:
        for rollout in rollouts:
            number_of.append(task_numbers.setdefault(rollout.task_id, len(task_numbers)))
            yield rollout

    try:
        splits = draw_splits(
            numbered(), fractions=fractions, seed=seed, held_out_families=held_out_families
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    order = sorted(range(len(number_of)), key=number_of.__getitem__)
    leaks = LeakCheck()
    labels = LabelTally()
    counts = dict.fromkeys(("rollouts", "steps", "successes"), 0)

    def checked() -> Iterator[Rollout]:
        for position in order:
            rollout = with_split(rollouts[position], splits, held_out_families)
            leaks.add(rollout)
            labels.add(rollout.steps)
            watch(rollout)
            counts["rollouts"] += 1
            counts["steps"] += len(rollout.steps)
            counts["successes"] += rollout.success is True
            yield rollout

    write_table(stage.path / ROLLOUTS_FILE, checked(), together=lambda rollout: rollout.task_id)
    report = leaks.report(seed)
    write_json(
        stage.path / REPORT_FILE,
        {
            "leaks": asdict(report),
            "labels": {source: asdict(found) for source, found in labels.counts().items()},
            "flags": [asdict(flag) for flag in flags],
        },
    )
    stage.counts |= counts
    for name in SPLITS:
        stage.counts[f"{name}:tasks"] = report.num_tasks.get(name, 0)


def read_rollouts(folder: Path, splits: Collection[SplitName] = SPLITS) -> list[Rollout]:
    """The rollouts of some splits.

    Raises:
        ConfigError: Not a finished rollouts folder, or a rollout without a split.
    """
    return list(iter_rollouts(folder, splits))


def iter_rollouts(folder: Path, splits: Collection[SplitName] = SPLITS) -> Iterator[Rollout]:
    """The rollouts of some splits, one row group in memory.

    Raises:
        ConfigError: Not a finished rollouts folder, or a rollout without a split.
    """
    path = rollouts_file(folder)
    for _ in task_splits(path):
        pass
    return iter_table(path, Rollout, where={"split": splits})


def rollouts_file(folder: Path) -> Path:
    """The rollouts table of a finished folder.

    Raises:
        ConfigError: The folder is not finished, or has none.
    """
    read_manifest(folder)
    path = folder / ROLLOUTS_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} must be a rollouts folder, but has no {ROLLOUTS_FILE}")
    return path


def task_splits(path: Path) -> Iterator[list[tuple[str, SplitName]]]:
    """Task id and split of the rollouts of a table, by row group.

    Raises:
        ConfigError: A rollout without a split.
    """
    names = ["rollout_id", "task_id", "split"]
    for columns in iter_columns(path, Rollout, names):
        if None in columns["split"]:
            rollout_id = columns["rollout_id"][columns["split"].index(None)]
            raise ConfigError(
                f"{path}: rollout {rollout_id!r} must have a split; write the folder with "
                "`specact import` or collect_rollouts.py, which fix it"
            )
        yield list(zip(columns["task_id"], columns["split"], strict=True))


def parse_fractions(text: str) -> dict[SplitName, float]:
    """Shares from "train_proposer=0.5,test=0.5".

    Raises:
        ConfigError: Another form, or an unknown split.
    """
    fractions: dict[SplitName, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        known = next((split for split in SPLITS if split == name), None)
        try:
            if known is None:
                raise ValueError(f"{name!r} is no split")
            fractions[known] = float(share)
            if not 0.0 <= fractions[known] <= 1.0:
                raise ValueError(f"{share!r} is no share")
        except ValueError as error:
            raise ConfigError(
                f"fractions must be SPLIT=SHARE,... with splits {SPLITS!r}, got {text!r}: {error}"
            ) from error
    return fractions
