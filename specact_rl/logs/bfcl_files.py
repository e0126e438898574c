"""Where a leaderboard folder keeps its results, scores and questions, in its two layouts.

`result/<model>/gorilla_openfunctions_v1_test_<category>_result.json` (August 2024) and
`result/<model>/<group>/BFCL_v4_<category>_result.json` (v4); scores in `score/`, questions in
`question/` or `data/` beside them or above. A folder may hold several runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specact_rl.errors import ConfigError, RolloutFormatError
from specact_rl.logs.bfcl_calls import leaderboard_tool
from specact_rl.logs.reading import json_rows
from specact_rl.types import Message, ToolSpec

_PREFIX = r"(?:BFCL_v\d+_|gorilla_openfunctions_v1_test_)"
_RESULT = re.compile(rf"{_PREFIX}(?P<category>.+)_result\.json")
_SCORE = re.compile(rf"(?:{_PREFIX})?(?P<category>.+)_score\.json")
_QUESTION = re.compile(rf"{_PREFIX}(?P<category>.+)\.json")
_QUESTION_FOLDERS = ("question", "data", "bfcl_eval/data")

_DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MemoryAPI_kv": "memory_kv",
    "MemoryAPI_rec_sum": "memory_rec_sum",
    "MemoryAPI_vector": "memory_vector",
    "MessageAPI": "message_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "TwitterAPI": "posting_api",
    "VehicleControlAPI": "vehicle_control",
    "WebSearchAPI": "web_search",
}
"""File of `multi_turn_func_doc` by the class name that a multi-turn question gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """The results of one model on one category in one run."""

    run: str
    """Name of the run's folder; "" where the log has one run only."""
    trial: int
    """Number of the run in the order of their names."""
    model: str
    category: str
    path: Path | None
    """None where there is a score file alone."""
    score: Path | None
    """None where there is a result file alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model was asked. The right answer is in another file, which is never opened."""

    turns: list[list[Message]]
    tools: list[ToolSpec]
    initial_state: Any
    """Where the simulated services start; None for single-turn questions."""


def is_leaderboard(path: Path) -> bool:
    """True for a folder with `result/<model>/…_result.json`, at most one folder further down."""
    return path.is_dir() and bool(_run_folders(path))


def result_files(path: Path) -> list[ResultFile]:
    """All result and score files of a folder, matched; sorted by run, model, category.

    Raises:
        ConfigError: There is no run in it.
    """
    folders = _run_folders(path)
    if not folders:
        raise ConfigError(
            f"{path} must be a folder with result/<model>/…_result.json, or a folder of such"
        )
    found = []
    for trial, folder in enumerate(folders):
        run = "" if len(folders) == 1 else folder.name
        results = _by_key(folder / "result", _RESULT)
        scores = _by_key(folder / "score", _SCORE)
        found += [
            ResultFile(
                run=run,
                trial=trial,
                model=model,
                category=category,
                path=results.get((model, category)),
                score=scores.get((model, category)),
            )
            for model, category in sorted(results.keys() | scores.keys())
        ]
    return found


def read_questions(path: Path, categories: set[str]) -> dict[str, Question]:
    """The questions of some categories by id.

    Raises:
        ConfigError: There is no folder of questions.
        RolloutFormatError: A line of another form.
    """
    folder = _question_folder(path)
    documents: dict[str, list[ToolSpec]] = {}
    questions = {}
    for file in sorted(folder.glob("*.json")):
        match = _QUESTION.fullmatch(file.name)
        if match is None or match["category"] not in categories:
            continue
        for where, row in json_rows(file):
            try:
                questions[row["id"]] = _question(row, folder, documents)
            except (KeyError, TypeError, AttributeError, FileNotFoundError) as error:
                raise RolloutFormatError(
                    f"{where}: must be a question with id, question and function (or "
                    f"involved_classes): {error!r}"
                ) from error
    return questions


def _question(
    row: Mapping[str, Any], folder: Path, documents: dict[str, list[ToolSpec]]
) -> Question:
    raw = row["question"]
    if isinstance(raw, str):
        turns: list[list[Message]] = [[{"role": "user", "content": raw}]]
    else:
        turns = [
            [{"role": m["role"], "content": m["content"]} for m in turn]
            for turn in (raw if raw and isinstance(raw[0], list) else [raw])
        ]
    if "involved_classes" in row:
        tools = _class_tools(row, folder, documents)
    else:
        entries = row["function"]
        tools = [leaderboard_tool(e) for e in (entries if isinstance(entries, list) else [entries])]
    return Question(turns=turns, tools=tools, initial_state=row.get("initial_config"))


def _class_tools(
    row: Mapping[str, Any], folder: Path, documents: dict[str, list[ToolSpec]]
) -> list[ToolSpec]:
    """The tools of a multi-turn question; those that come later are not in its catalogue."""
    later = {name for names in (row.get("missed_function") or {}).values() for name in names}
    left_out = {*(row.get("excluded_function") or ()), *later}
    tools = []
    for name in row["involved_classes"]:
        if name not in documents:
            file = folder / "multi_turn_func_doc" / f"{_DOCUMENTS[name]}.json"
            documents[name] = [leaderboard_tool(entry) for _, entry in json_rows(file)]
        tools += [tool for tool in documents[name] if tool.name not in left_out]
    return tools


def _run_folders(path: Path) -> list[Path]:
    candidates = [path, *sorted(p for p in path.iterdir() if p.is_dir())] if path.is_dir() else []
    return [
        folder
        for folder in candidates
        if any(_RESULT.fullmatch(file.name) for file in (folder / "result").rglob("*.json"))
    ]


def _by_key(folder: Path, pattern: re.Pattern[str]) -> dict[tuple[str, str], Path]:
    found = {}
    for file in sorted(folder.rglob("*.json")):
        match = pattern.fullmatch(file.name)
        parts = file.relative_to(folder).parts
        if match is not None and len(parts) > 1:
            found[parts[0], match["category"]] = file
    return found


def _question_folder(path: Path) -> Path:
    for base in (path, path.parent):
        for name in _QUESTION_FOLDERS:
            if any(_QUESTION.fullmatch(file.name) for file in (base / name).glob("*.json")):
                return base / name
    raise ConfigError(
        f"{path} must have the questions in question/ or data/ (BFCL_v4_<category>.json), in it or "
        "beside it. Score files hold the prompts of failures only, so that a log made from them "
        "would have no success; copy bfcl_eval/data there."
    )
