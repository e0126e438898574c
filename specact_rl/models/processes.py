"""Recipes as child processes: they do not outlive their parent, and tell it how far they are."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from specact_rl.errors import ConfigError
from specact_rl.store import read_json, write_json

TIED_TO_PARENT = "SPECACT_TIED_TO_PARENT"
"""Environment variable: a recipe that finds it ends with the process that launched it."""
_PR_SET_PDEATHSIG = 1
_PROGRESS_FILE = ".progress.json"


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone; Linux only, elsewhere nothing.

    Without it a recipe would train on, and write to the folder that the next run works in, after
    the run that started it was killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_parent_if_tied() -> None:
    """`die_with_parent` where the launcher asked for it."""
    if os.environ.get(TIED_TO_PARENT):
        die_with_parent()


class ProgressFile(TrainerCallback):
    """Writes down how far a training is, for the process that launched it."""

    def __init__(self, folder: Path) -> None:
        """Write into this folder; `training_progress` reads it there."""
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
            self._path.unlink(missing_ok=True)


def training_percents(folder: Path) -> int:
    """How much of a training that goes on is done; 0 while nothing is known, 99 at most."""
    try:
        return min(99, int(read_json(folder / _PROGRESS_FILE)["percents"]))
    except ConfigError:  # not begun, or ended a moment ago
        return 0
