"""How far a training is, written down for the process that launched it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from specact_rl.models.training_percents import forget_progress, write_percents


class ProgressFile(TrainerCallback):
    """Writes down how far a training is, for the process that launched it."""

    def __init__(self, folder: Path) -> None:
        """Write into this folder; `training_percents` reads it there."""
        self._folder = folder
        self._percents = -1

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After each optimizer step."""
        percents = 100 * state.global_step // max(1, state.max_steps)
        if state.is_world_process_zero and percents != self._percents:
            self._percents = percents
            write_percents(self._folder, percents)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What is finished needs no progress."""
        if state.is_world_process_zero:
            forget_progress(self._folder)
