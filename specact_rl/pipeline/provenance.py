"""What it takes to compute results again, and results as JSON. Imports no model library."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from specact_rl import __version__
from specact_rl.metrics import METRICS_VERSION
from specact_rl.store import source_hash


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


def provenance(
    seed: int, stages: Sequence[Mapping[str, Any]], command: Sequence[str]
) -> dict[str, Any]:
    """What it takes to do the same again: command, seed, code, versions, machine, times."""
    return {
        "seed": seed,
        "command": " ".join(command),
        "code_version": __version__,
        "source_hash": source_hash(),
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
