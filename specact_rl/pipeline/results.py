"""What results.json holds: replay and live rows, and with them the run, its data and training."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np

import specact_rl
from specact_rl import __version__
from specact_rl.eval.evaluate import calibration_rule
from specact_rl.metrics import METRICS_VERSION
from specact_rl.pipeline.artifacts import Artifacts
from specact_rl.store import content_hash, file_hash, read_json, read_manifest
from specact_rl.types import SPLITS, Rollout

TRAINED = ("cheap", "strong", "verifier", "reward_model", "cheap_dpo")
"""Roles of the models that recipes train, in the order of the table."""


def collect_results(
    artifacts: Artifacts,
    replay: dict[str, Any],
    live: list[dict[str, Any]],
    stages: list[dict[str, Any]],
    command: Sequence[str],
) -> dict[str, Any]:
    """All that results.json holds, as JSON values.

    Args:
        artifacts: Of a run that has finished.
        replay: What `evaluate` returned.
        live: What `run_live_systems` returned.
        stages: Name and seconds of each stage, and whether these are all that it took.
        command: What the user typed.
    """
    results = {
        "meta": _meta(artifacts, stages, command),
        "splits": split_rows(artifacts.rollouts(*SPLITS)),
        "replay": replay,
        "live": live,
        "pairs": _pair_rows(artifacts),
        "training": _training_rows(artifacts),
    }
    return cast(dict[str, Any], plain_json(results))


def plain_json(value: Any) -> Any:
    """Dataclasses and arrays as JSON values; NaN as None."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain_json(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain_json(value.tolist())
    if isinstance(value, np.generic):
        return plain_json(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _meta(
    artifacts: Artifacts, stages: list[dict[str, Any]], command: Sequence[str]
) -> dict[str, Any]:
    """What the run was."""
    preset = artifacts.preset
    return {
        "preset": preset.name,
        "bases": [preset.cheap_base, preset.strong_base, preset.verifier_base],
        **provenance(artifacts.seed, stages, command),
        "label": "acceptable: the action brings the expert's goal one step nearer",
        "calibration_rule": calibration_rule(),
        "num_params": {role: artifacts.model(role).size.num_params for role in ("cheap", "strong")}
        | {"verifier": artifacts.verifier("classifier")[0].size.num_params},
    }


def provenance(
    seed: int, stages: Sequence[Mapping[str, Any]], command: Sequence[str]
) -> dict[str, Any]:
    """What it takes to do the same again: command, seed, code, versions, machine, times."""
    return {
        "seed": seed,
        "command": " ".join(command),
        "code_version": __version__,
        "source_hash": _source_hash(),
        "metrics_version": METRICS_VERSION,
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(_memory_gb()),
            "python": platform.python_version(),
            "torch": version("torch"),
        },
        "wall_seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "stages": list(stages),
    }


def split_rows(rollouts: Iterable[Rollout]) -> dict[str, Any]:
    """Sizes and task families by split."""
    of_split: dict[str, list[Rollout]] = {split: [] for split in SPLITS}
    for rollout in rollouts:
        of_split[str(rollout.split)].append(rollout)
    rows: dict[str, Any] = {}
    for split, found in of_split.items():
        rows[split] = {
            "num_tasks": len({r.task_id for r in found}),
            "num_steps": sum(len(r.steps) for r in found),
            "families": sorted({r.family for r in found}),
        }
    return rows


def _pair_rows(artifacts: Artifacts) -> list[dict[str, Any]]:
    """Mined pairs by strategy, with the precision that the environment measured."""
    folder = artifacts.folders.data("preferences")
    manifest = read_manifest(folder)
    report = read_json(folder / "report.json")
    return [
        {
            "strategy": strategy,
            "count": manifest.counts.get(strategy, 0),
            "dropped": {reason: n for reason, n in manifest.dropped.items() if strategy in reason},
            "precision": report.get("precision", {}).get(strategy),
            "gaps": report.get("length_gaps", {}).get(strategy),
        }
        for strategy in artifacts.preset.pair_strategies
    ]


def _training_rows(artifacts: Artifacts) -> list[dict[str, Any]]:
    """What each recipe did, from its log."""
    rows = []
    for role in TRAINED:
        log = read_json(artifacts.folders.model(role) / "train_log.json")
        losses = [entry["loss"] for entry in log["log"] if "loss" in entry]
        rows.append(
            {
                "recipe": log["recipe"],
                "model": role,
                "rows": log["num_rows"],
                "rows_sha256": log["origin"]["rows_sha256"],
                "options_hash": content_hash(log["origin"]["options"]),
                "seconds": log["seconds"],
                "first_loss": losses[0] if losses else None,
                "last_loss": losses[-1] if losses else None,
            }
        )
    return rows


def _source_hash() -> str:
    """Hash of the package's code: two versions of one number need not be one code."""
    root = Path(specact_rl.__file__).parent
    return content_hash(
        {path.relative_to(root).as_posix(): file_hash(path) for path in sorted(root.rglob("*.py"))}
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return float("nan")
