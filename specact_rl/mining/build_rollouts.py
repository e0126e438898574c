"""Stages that write a rollouts folder: episodes or logs in, split and checked for leaks, once."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from specact_rl.envs.collect import EpisodePlan, RollOut, collect_episodes, scripted_rollouts
from specact_rl.envs.episodes import Progress
from specact_rl.errors import ConfigError
from specact_rl.logs.importers import find_importer
from specact_rl.logs.result import Flag, log_files
from specact_rl.mining.labels import count_labels
from specact_rl.mining.leaks import check_leaks
from specact_rl.mining.splits import DEFAULT_FRACTIONS, assign_splits
from specact_rl.store import (
    Manifest,
    Stage,
    content_hash,
    open_stage,
    read_manifest,
    read_table,
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
            stage.counts.update(result.counts())
            stage.dropped.update(result.dropped)
            _write_split(
                stage, result.rollouts, fractions, seed, held_out_families, flags=result.flags
            )
    return read_manifest(out_dir)


def _write_split(
    stage: Stage,
    rollouts: Sequence[Rollout],
    fractions: Mapping[SplitName, float],
    seed: int,
    held_out_families: Collection[str],
    flags: Sequence[Flag] = (),
) -> None:
    try:
        split = assign_splits(
            rollouts, fractions=fractions, seed=seed, held_out_families=held_out_families
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    leaks = check_leaks(split, seed=seed)
    write_table(stage.path / ROLLOUTS_FILE, split)
    labels = count_labels(record for rollout in split for record in rollout.steps)
    write_json(
        stage.path / REPORT_FILE,
        {
            "leaks": asdict(leaks),
            "labels": {source: asdict(counts) for source, counts in labels.items()},
            "flags": [asdict(flag) for flag in flags],
        },
    )
    stage.counts["rollouts"] = len(split)
    stage.counts["steps"] = sum(len(rollout.steps) for rollout in split)
    stage.counts["successes"] = sum(rollout.success is True for rollout in split)
    for name in SPLITS:
        stage.counts[f"{name}:tasks"] = leaks.num_tasks.get(name, 0)


def read_rollouts(folder: Path, splits: Collection[SplitName] = SPLITS) -> list[Rollout]:
    """The rollouts of some splits.

    Raises:
        ConfigError: Not a finished rollouts folder, or a rollout without a split.
    """
    read_manifest(folder)
    path = folder / ROLLOUTS_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} must be a rollouts folder, but has no {ROLLOUTS_FILE}")
    rollouts = read_table(path, Rollout)
    for rollout in rollouts:
        if rollout.split is None:
            raise ConfigError(
                f"{path}: rollout {rollout.rollout_id!r} must have a split; write the folder with "
                "import_rollouts or collect_rollouts, which fix it"
            )
    return [rollout for rollout in rollouts if rollout.split in splits]


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
