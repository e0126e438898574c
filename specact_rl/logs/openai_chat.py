"""Chat logs in the OpenAI form: one conversation a line, arguments as JSON strings or objects."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from specact_rl.errors import RolloutFormatError
from specact_rl.logs.chat import chat_rollout
from specact_rl.logs.groups import finished
from specact_rl.logs.reading import json_rows
from specact_rl.logs.result import ImportResult, jsonl_files


def import_openai_chat(path: Path) -> ImportResult:
    """One rollout a line, as `chat_rollout` reads it.

    Raises:
        RolloutFormatError: A line of another form, or a repeated id; names path and line.
    """
    dropped: Counter[str] = Counter()
    trials: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    rollouts = []
    for file in jsonl_files(path):
        for where, row in json_rows(file):
            rollout = chat_rollout(row, where, trials, dropped)
            if rollout.rollout_id in seen:
                raise RolloutFormatError(
                    f"{where}: id must be unique, {rollout.rollout_id!r} was there before"
                )
            seen.add(rollout.rollout_id)
            rollouts.append(rollout)
    return finished(rollouts, dropped)
