"""What every importer returns, and the files it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from specact_rl.errors import ConfigError
from specact_rl.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """Rollouts of one log, and what was left out."""

    rollouts: list[Rollout]
    dropped: dict[str, int]
    """Rows or messages that became no rollout or no step, by reason; {} when all did."""

    def counts(self) -> dict[str, int]:
        """Numbers for a manifest: rollouts, tasks, messages, steps, and steps without an action."""
        steps = [step for rollout in self.rollouts for step in rollout.steps]
        return {
            "rollouts": len(self.rollouts),
            "tasks": len({rollout.task_id for rollout in self.rollouts}),
            "messages": sum(len(rollout.messages) for rollout in self.rollouts),
            "steps": len(steps),
            "unparsable_steps": sum(step.executed is None for step in steps),
        }


Importer = Callable[[Path], ImportResult]
"""Reads one file, or all `*.jsonl` of a folder in the order of their names."""


def log_files(path: Path) -> list[Path]:
    """The file itself, or the folder's `*.jsonl` sorted by name.

    Raises:
        ConfigError: There is nothing to read.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ConfigError(f"{path} must be a .jsonl file or a folder that holds some")
    return files
