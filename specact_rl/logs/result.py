"""What every importer returns, and the files it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from specact_rl.errors import ConfigError
from specact_rl.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """Something about a log that a reader must know before trusting its labels."""

    kind: str
    """Machine-readable, e.g. "degenerate_group", "server_errors", "harness_fault"."""
    group: str
    """Which rows: a model, a category, a file."""
    detail: str
    """In words, with the counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """Rollouts of one log, what was left out, and what to beware of."""

    rollouts: Sequence[Rollout]
    """A list, or records that are parsed whenever they are asked for, in a log beyond memory."""
    dropped: dict[str, int]
    """Rows or messages that became no rollout or no step, by reason; {} when all did."""
    flags: list[Flag] = field(default_factory=list)
    """Doubts about the labels; [] when there are none."""

    def counts(self) -> dict[str, int]:
        """Numbers for a manifest: rollouts, tasks, messages, steps, and steps without an action."""
        counts = RolloutCounts()
        for rollout in self.rollouts:
            counts.add(rollout)
        return counts.numbers()


class RolloutCounts:
    """`ImportResult.counts` over one rollout at a time."""

    def __init__(self) -> None:
        """None yet."""
        self._tasks: set[str] = set()
        self._numbers = {"rollouts": 0, "messages": 0, "steps": 0, "unparsable_steps": 0}

    def add(self, rollout: Rollout) -> None:
        """Count one more."""
        self._tasks.add(rollout.task_id)
        self._numbers["rollouts"] += 1
        self._numbers["messages"] += len(rollout.messages)
        self._numbers["steps"] += len(rollout.steps)
        self._numbers["unparsable_steps"] += sum(step.executed is None for step in rollout.steps)

    def numbers(self) -> dict[str, int]:
        """By name."""
        return {**self._numbers, "tasks": len(self._tasks)}


Importer = Callable[[Path], ImportResult]
"""Reads one file, or the files of its format in a folder in the order of their names."""

_SKIPPED_FOLDERS = ("__pycache__", ".git")
_LOG_SUFFIXES = (".jsonl", ".json", ".parquet", ".eval")


def log_files(path: Path) -> list[Path]:
    """The file itself, or all files of a folder that a log can be made of, sorted by path.

    Raises:
        ConfigError: There is nothing to read.
    """
    if path.is_dir():
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix in _LOG_SUFFIXES
            and file.is_file()
            and not set(file.relative_to(path).parts) & set(_SKIPPED_FOLDERS)
        ]
    else:
        files = [path]
    return _existing(files, path, "file or a folder that holds some")


def jsonl_files(path: Path) -> list[Path]:
    """The file itself, or the folder's `*.jsonl` sorted by name.

    Raises:
        ConfigError: There is nothing to read.
    """
    return files_with(path, "*.jsonl")


def files_with(path: Path, *patterns: str) -> list[Path]:
    """The file itself, or the folder's files of some patterns ("*.json", "**/*.eval"), sorted.

    Raises:
        ConfigError: There is nothing to read.
    """
    if not path.is_dir():
        return _existing([path], path, f"{_words(patterns)} file or a folder that holds some")
    files = sorted({file for pattern in patterns for file in path.glob(pattern)})
    return _existing(files, path, f"{_words(patterns)} file or a folder that holds some")


def _words(patterns: tuple[str, ...]) -> str:
    suffixes = dict.fromkeys(pattern[pattern.rindex(".") :] for pattern in patterns)
    return " or ".join(suffixes)


def _existing(files: list[Path], path: Path, what: str) -> list[Path]:
    if not files or not all(file.is_file() for file in files):
        raise ConfigError(f"{path} must be a {what}")
    return files
