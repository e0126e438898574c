"""Conversational data sets in Hugging Face's form: `messages` and `tools`, in Parquet or JSON.

Rows may hold `prompt` and `completion` (lists of messages) in place of `messages`. Nested columns
of Parquet are padded with nulls, which are taken out again; a column may also hold JSON text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specact_rl.errors import RolloutFormatError
from specact_rl.logs.chat import add_chat_rollouts
from specact_rl.logs.groups import finished
from specact_rl.logs.reading import json_rows, json_value, no_rows
from specact_rl.logs.result import Flag, ImportResult, files_with
from specact_rl.types import Rollout

_BATCH = 256
_NESTED = ("messages", "tools", "prompt", "completion", "chat_template_kwargs")


def import_hf_chat(path: Path) -> ImportResult:
    """One rollout a row, as `chat_rollout` reads it; a row without `tools` has none.

    Dropped, by reason: "malformed_row", "duplicate_id", and the messages that `chat_rollout`
    counts.

    Raises:
        ConfigError: There is no `.parquet`, `.jsonl` or `.json` file.
        RolloutFormatError: A file that is neither, or no row of which is a conversation.
    """
    dropped: Counter[str] = Counter()
    trials: Counter[tuple[str, str]] = Counter()
    rollouts: dict[str, Rollout] = {}
    flags: list[Flag] = []
    for file in files_with(path, "**/*.parquet", "**/*.jsonl", "**/*.json"):
        if file.name in ("dataset_info.json", "state.json", "dataset_dict.json", "manifest.json"):
            continue
        flags += add_chat_rollouts(rollouts, _rows(file), _chat_row, trials, dropped, str(file))
    return finished(list(rollouts.values()), dropped, flags)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if file.suffix == ".parquet":
        yield from _parquet_rows(file)
    elif file.suffix == ".jsonl" or _is_lines(file):
        yield from json_rows(file)
    else:
        value = json_value(file)
        rows = value if isinstance(value, list) else [value]
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                raise RolloutFormatError(f"{file}: row {i} must be an object, got {row!r}")
            yield f"{file}: row {i}", row


def _is_lines(file: Path) -> bool:
    """True for JSON Lines in a file that is called .json, as load_dataset allows."""
    with file.open("rb") as stream:
        first = stream.readline().strip()
        if not first.startswith(b"{") or not stream.readline().strip():
            return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _parquet_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with pq.ParquetFile(file) as parquet:
            number = 0
            for batch in parquet.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    yield f"{file}: row {number}", _unpadded_row(row)
                    number += 1
            if not number:
                raise no_rows(file)
    except (pa.ArrowException, OSError) as error:  # OSError: pages that do not unpack
        raise RolloutFormatError(f"{file}: must be a whole Parquet file: {error}") from error


def _unpadded_row(row: dict[str, Any]) -> dict[str, Any]:
    """JSON values only, and no nulls within messages and tools: Arrow's padding looks the same."""
    plain = json.loads(json.dumps(row, default=str))
    return {key: _unpadded(value) if key in _NESTED else value for key, value in plain.items()}


def _unpadded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unpadded(item) for key, item in value.items() if item is not None}
    return [_unpadded(item) for item in value] if isinstance(value, list) else value


def _chat_row(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The row in the form of `chat_rollout`."""
    row = {key: _from_text(value) if key in _NESTED else value for key, value in row.items()}
    if "messages" not in row and isinstance(row.get("prompt"), list):
        completion = row.pop("completion", None)
        row["messages"] = row.pop("prompt") + (completion if isinstance(completion, list) else [])
    if "messages" not in row:
        raise RolloutFormatError(
            f"{where}: must have messages, or prompt and completion, as lists of messages; got "
            f"columns {sorted(row)!r}"
        )
    identity = {"id": row["id"]} if isinstance(row.get("id"), str) else {"id": None}
    return {**row, **identity, "tools": row.get("tools") or []}


def _from_text(value: Any) -> Any:
    """The value of JSON text; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
