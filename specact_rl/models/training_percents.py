"""The file that says how far a training is; read without what trainings import (seconds of it)."""

from __future__ import annotations

from pathlib import Path

from specact_rl.errors import ConfigError
from specact_rl.store import read_json, write_json

_PROGRESS_FILE = ".progress.json"


def write_percents(folder: Path, percents: int) -> None:
    """Write down how much of a training is done, beside what it leaves."""
    write_json(folder / _PROGRESS_FILE, {"percents": percents})


def training_percents(folder: Path) -> int:
    """How much of a training that goes on is done; 0 while nothing is known, 99 at most."""
    try:
        return min(99, int(read_json(folder / _PROGRESS_FILE)["percents"]))
    except ConfigError:  # not begun, or ended a moment ago
        return 0


def forget_progress(folder: Path) -> None:
    """Delete what a training wrote down; one that was killed is taken up again further back."""
    (folder / _PROGRESS_FILE).unlink(missing_ok=True)
