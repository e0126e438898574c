"""What results.json holds: replay and live rows, and with them the run, its data and training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from specact_rl.eval.evaluate import calibration_rule
from specact_rl.eval.results_schema import RESULTS_SCHEMA_VERSION
from specact_rl.pipeline.artifacts import Artifacts
from specact_rl.pipeline.provenance import plain_json, provenance
from specact_rl.store import content_hash, read_json, read_manifest
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
        live: What `live_rows` returned.
        stages: Name and seconds of each stage, and whether these are all that it took.
        command: What the user typed.
    """
    results = {
        "schema_version": RESULTS_SCHEMA_VERSION,
        "meta": _meta(artifacts, stages, command),
        "splits": split_rows(artifacts.rollouts(*SPLITS)),
        "replay": replay,
        "live": live,
        "pairs": _pair_rows(artifacts),
        "training": _training_rows(artifacts),
    }
    return cast(dict[str, Any], plain_json(results))


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
        "num_params": {
            role: size.num_params
            for role, size in (
                ("cheap", artifacts.model("cheap").size),
                ("strong", artifacts.model("strong").size),
                ("verifier", artifacts.verifier("classifier")[0].size),
            )
            if size is not None
        },
        **({"server_notes": artifacts.parts.notes} if artifacts.servers else {}),
    }


def split_rows(rollouts: Iterable[Rollout]) -> dict[str, Any]:
    """Sizes and task families by split, and a hash of which steps it has."""
    of_split: dict[str, list[Rollout]] = {split: [] for split in SPLITS}
    for rollout in rollouts:
        of_split[str(rollout.split)].append(rollout)
    rows: dict[str, Any] = {}
    for split, found in of_split.items():
        rows[split] = {
            "num_tasks": len({r.task_id for r in found}),
            "num_steps": sum(len(r.steps) for r in found),
            "families": sorted({r.family for r in found}),
            "steps_hash": content_hash(sorted((r.rollout_id, len(r.steps)) for r in found)),
        }
    return rows


def _pair_rows(artifacts: Artifacts) -> list[dict[str, Any]]:
    """Mined pairs by strategy, with the precision that the environment measured."""
    if artifacts.servers.cheap is not None:
        return []
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
        if role in artifacts.servers.roles or (role == "cheap_dpo" and artifacts.servers.cheap):
            continue
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
