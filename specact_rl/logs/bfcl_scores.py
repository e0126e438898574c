"""Score files of a leaderboard: which tests failed, and whether that can be believed.

A score file lists failures only: a test is right when its id is absent. So a cut-off file, or an
id that maps to nothing, would turn failures into successes; the labels of such a file are
withheld. Answers that a score file quotes are never kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specact_rl.logs.reading import json_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The verdicts of one score file."""

    errors: dict[str, str] = field(default_factory=dict)
    """Kind of error by the id of the failed test."""
    doubt: str | None = None
    """Why the labels cannot be used, in words; None when they can."""


def read_scores(path: Path, category: str, ids: Collection[str]) -> Scores:
    """The failures of a score file, checked against the tests that have a result.

    Raises:
        RolloutFormatError: A line that is no JSON object.
    """
    summary: dict[str, Any] = {}
    errors: dict[str, str] = {}
    unmapped = 0
    for number, (_, row) in enumerate(json_rows(path)):
        if number == 0 and "accuracy" in row:
            summary = row
            continue
        test = _test_id(row, category)
        if test is None or test not in ids:
            unmapped += 1
        else:
            errors[test] = _error_type(row)
    return Scores(errors=errors, doubt=_doubt(summary, errors, unmapped, len(ids)))


def _test_id(row: dict[str, Any], category: str) -> str | None:
    """Id of the test in the result file; an integer counts the lines of the test file from 1."""
    prompt = row.get("prompt")
    if isinstance(prompt, dict) and isinstance(prompt.get("id"), str):
        return str(prompt["id"])
    given = row.get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        return f"{category}_{given - 1}"
    return given if isinstance(given, str) else None


def _error_type(row: dict[str, Any]) -> str:
    kind = row.get("error_type")
    error = row.get("error")
    if kind is None and isinstance(error, dict):
        kind = error.get("error_type")
    return kind if isinstance(kind, str) else "unknown"


def _doubt(
    summary: dict[str, Any], errors: dict[str, str], unmapped: int, num_results: int
) -> str | None:
    if unmapped:
        return f"{unmapped} failures have an id without a result"
    total, correct = summary.get("total_count"), summary.get("correct_count")
    if not isinstance(total, int) or not isinstance(correct, int):
        return "there is no summary line with total_count and correct_count"
    if total - correct != len(errors):
        return f"the summary says {total - correct} failures, the file lists {len(errors)}"
    if total < num_results:
        return f"{num_results} results, but only {total} were scored"
    return None
