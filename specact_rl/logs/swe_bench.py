"""SWE-bench results per instance to rollouts: outcomes without conversations.

Four forms: the leaderboard's `leaderboards.json` (`per_instance_details`), the harness's run
report (`resolved_ids`, `unresolved_ids`, …), its `report.json` of each instance, and
`eval_state.json` of SWE-Bench-CL. None holds what the model saw, so that a rollout has no step; its
request is the name of the instance, which stands for the issue's text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from specact_rl.errors import RolloutFormatError
from specact_rl.logs.groups import finished
from specact_rl.logs.reading import json_value
from specact_rl.logs.result import Flag, ImportResult, files_with
from specact_rl.types import Rollout

MAX_HEADLINE_GAP = 1.0
"""Points between a model's headline rate and the mean of its instances that are rounding."""
_REPORT_KEYS = {
    "resolved_ids": (True, None),
    "unresolved_ids": (False, None),
    "empty_patch_ids": (False, None),
    "error_ids": (False, "harness_error"),
}
"""Verdict and fault by the key of a run report."""


def import_swe_bench(path: Path) -> ImportResult:
    """A rollout for each model and instance, with cost and number of calls where the log has them.

    Where a model's instances do not add up to its headline rate, its labels are withheld and
    flagged. An instance whose evaluation broke down is no failure of the model: so is its label.

    Dropped, by reason: "no_per_instance" (models with a headline only), "duplicate_id",
    "malformed_instance".

    Raises:
        ConfigError: There is no `.json` file.
        RolloutFormatError: A file that is no JSON, or of none of the four forms.
    """
    dropped: Counter[str] = Counter()
    flags: list[Flag] = []
    rollouts: dict[str, Rollout] = {}
    for file in files_with(path, "**/*.json"):
        value = json_value(file)
        for rollout in _rollouts(value, file, dropped, flags):
            if rollout.rollout_id in rollouts:
                dropped["duplicate_id"] += 1
            else:
                rollouts[rollout.rollout_id] = rollout
    return finished(list(rollouts.values()), +dropped, flags)


def _rollouts(
    value: Any, file: Path, dropped: Counter[str], flags: list[Flag]
) -> Iterator[Rollout]:
    if isinstance(value, dict) and isinstance(value.get("leaderboards"), list):
        for board in _objects(value["leaderboards"]):
            for entry in _objects(board.get("results")):
                yield from _leaderboard_entry(entry, dropped, flags)
    elif isinstance(value, dict) and isinstance(value.get("resolved_ids"), list):
        model = file.name.split(".")[0]
        for key, (resolved, fault) in _REPORT_KEYS.items():
            listed = value.get(key)
            for instance in listed if isinstance(listed, list) else ():
                if isinstance(instance, str):
                    yield _rollout(model, instance, resolved, {}, fault)
                else:
                    dropped["malformed_instance"] += 1
    elif isinstance(value, dict) and isinstance(value.get("task_eval_progress"), dict):
        yield from _eval_state(value["task_eval_progress"], dropped, flags)
    elif isinstance(value, dict) and value and all(map(_is_report, value.values())):
        model = file.parent.parent.name or file.stem
        for instance, report in value.items():
            yield _rollout(model, instance, report["resolved"], {})
    else:
        raise RolloutFormatError(
            f"{file}: must be leaderboards.json, a run report with resolved_ids, a report.json "
            "of instances with resolved, or an eval_state.json of SWE-Bench-CL"
        )


def _eval_state(
    progress: Mapping[str, Any], dropped: Counter[str], flags: list[Flag]
) -> Iterator[Rollout]:
    """Models by their runs, one with and one without the memory of earlier tasks."""
    for model, runs in progress.items():
        for trial, (run, instances) in enumerate(sorted(_object(runs).items())):
            for instance, entry in _object(instances).items():
                resolved = _object(entry).get("harness_result")
                if not isinstance(resolved, bool):
                    dropped["malformed_instance"] += 1
                    continue
                rollout = _rollout(model, instance, resolved, {"run": run})
                yield replace(rollout, rollout_id=f"{run}/{rollout.rollout_id}", trial=trial)
        flags.append(
            Flag(
                kind="unknown_faults",
                group=model,
                detail="a patch that could not be applied and one that failed its tests are both "
                "written as false: failures of the format are among these and cannot be told",
            )
        )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _leaderboard_entry(
    entry: Mapping[str, Any], dropped: Counter[str], flags: list[Flag]
) -> Iterator[Rollout]:
    name = str(entry.get("name"))
    details = entry.get("per_instance_details")
    if not isinstance(details, dict) or not details:
        dropped["no_per_instance"] += 1
        return
    known = {i: d for i, d in details.items() if _is_report(d)}
    dropped["malformed_instance"] += len(details) - len(known)
    rate = 100 * sum(d["resolved"] for d in known.values()) / max(1, len(known))
    headline = entry.get("resolved")
    believed = not isinstance(headline, int | float) or abs(rate - headline) <= MAX_HEADLINE_GAP
    if not believed:
        flags.append(
            Flag(
                kind="labels_withheld",
                group=name,
                detail=f"its instances are resolved in {rate:.1f} %, its headline says "
                f"{headline:.1f} %: the flags per instance are broken, all its labels are unknown",
            )
        )
    for instance, detail in known.items():
        usage = {"cost_usd": detail.get("cost"), "model_calls": detail.get("api_calls")}
        yield _rollout(name, instance, detail["resolved"], usage, believed=believed)


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _is_report(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("resolved"), bool)


def _rollout(
    model: str,
    instance: str,
    resolved: bool,
    usage: Mapping[str, Any],
    fault: str | None = None,
    *,
    believed: bool = True,
) -> Rollout:
    info: dict[str, Any] = {**usage, "scored": resolved if believed else None}
    if fault is not None:
        info["fault"] = fault
    return Rollout(
        rollout_id=f"{model}/{instance}",
        task_id=instance,
        family=instance.rpartition("-")[0] or instance,
        policy=model,
        trial=0,
        messages=[{"role": "user", "content": instance}],
        tools=[],
        steps=[],
        success=resolved if believed and fault is None else None,
        info=info,
    )
