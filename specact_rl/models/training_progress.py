"""How far a training in another process is: what it writes down, and what is read from that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from specact_rl.errors import ConfigError
from specact_rl.store import read_json, write_json

_PROGRESS_FILE = ".progress.json"


class ProgressFile(TrainerCallback):
    """Writes down how far a training is, for the process that launched it."""

    def __init__(self, folder: Path) -> None:
        """Write into this folder; `training_percents` reads it there."""
        self._path = folder / _PROGRESS_FILE
        self._percents = -1

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After each optimizer step."""
        percents = 100 * state.global_step // max(1, state.max_steps)
        if state.is_world_process_zero and percents != self._percents:
            self._percents = percents
            write_json(self._path, {"percents": percents})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What is finished needs no progress."""
        if state.is_world_process_zero:
            forget_progress(self._path.parent)


def training_percents(folder: Path) -> int:
    """How much of a training that goes on is done; 0 while nothing is known, 99 at most."""
    try:
        return min(99, int(read_json(folder / _PROGRESS_FILE)["percents"]))
    except ConfigError:  # not begun, or ended a moment ago
        return 0


def forget_progress(folder: Path) -> None:
    """Delete what a training wrote down; one that was killed is taken up again further back."""
    (folder / _PROGRESS_FILE).unlink(missing_ok=True)
