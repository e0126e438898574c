"""Which format a log is in, and how one can tell: by its names and its first row, nothing more."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specact_rl.errors import ConfigError
from specact_rl.logs.bfcl_files import is_leaderboard
from specact_rl.logs.result import log_files

_HEAD = 1 << 20
"""Bytes read of a file before the whole of it is; a first row is rarely longer."""
_LARGEST = 1 << 29
"""Bytes of the largest file that is read whole to see its first row."""
_NOT_LOGS = ("tools_", "manifest.json", "dataset_info.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sniffed:
    """The format of a log."""

    importer: str
    """Name in `IMPORTERS`."""
    reason: str
    """What gave it away, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What is looked at."""

    path: Path
    file: Path
    """The first file that may be a log."""
    first: Any
    """Its first row (of a list or of lines), or its one value; None when it is not JSON."""
    is_list: bool
    """The file is one JSON list."""


def sniff(path: Path) -> Sniffed:
    """The format of a file or folder.

    Raises:
        ConfigError: There is nothing to read, or it is in no known format; says what was seen.
    """
    if is_leaderboard(path):
        return Sniffed(importer="bfcl", reason=f"{path} has result/<model>/…_result.json")
    files = [file for file in log_files(path) if not file.name.startswith(_NOT_LOGS)]
    if not files:
        raise ConfigError(f"{path} must be a log file or a folder that holds some")
    head = _head(path, files[0])
    for importer, recognise in _RECOGNISERS.items():
        reason = recognise(head)
        if reason is not None:
            return Sniffed(importer=importer, reason=f"{head.file}: {reason}")
    raise ConfigError(
        f"{head.file} must be in a known format ({', '.join(['bfcl', *_RECOGNISERS])}), but its "
        f"first row has {_described(head.first)}. Describe it in a mapping.yaml, or write a "
        "function: --importer FILE.py:FUNCTION"
    )


def _head(path: Path, file: Path) -> _Head:
    if file.suffix in (".eval", ".parquet"):
        return _Head(path=path, file=file, first=None, is_list=False)
    with file.open("rb") as stream:
        text = stream.read(_HEAD)
    stripped = text.lstrip(b"\xef\xbb\xbf \t\r\n")
    is_list = stripped.startswith(b"[")
    return _Head(path=path, file=file, first=_first(stripped, file, is_list), is_list=is_list)


def _first(head: bytes, file: Path, is_list: bool) -> Any:
    """The first row; of a value that does not end within the head, the whole file is read."""
    for data in (head, None):
        if data is None:
            if file.stat().st_size > _LARGEST:
                return None
            data = file.read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n")
        text = data.decode("utf-8", errors="ignore")
        start = len(text) - len(text[1:].lstrip()) if is_list else 0
        try:
            return json.JSONDecoder().raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            continue
    return None


def _keys(head: _Head, *names: str) -> bool:
    return isinstance(head.first, Mapping) and all(name in head.first for name in names)


def _native(head: _Head) -> str | None:
    if _keys(head, "rollout_id", "task_id", "steps", "messages"):
        return "rows have rollout_id, steps and messages: the toolkit's own format"
    return None


def _tau_bench(head: _Head) -> str | None:
    if head.is_list and _keys(head, "task_id", "reward", "traj"):
        return "a list of records with task_id, reward and traj: a tau-bench result file"
    if _keys(head, "simulations") and isinstance(head.first["simulations"], list):
        return "an object with simulations: a tau2-bench result file"
    return None


def _swe_bench(head: _Head) -> str | None:
    if _keys(head, "leaderboards"):
        return "an object with leaderboards: SWE-bench's leaderboards.json"
    if _keys(head, "resolved_ids"):
        return "an object with resolved_ids: a run report of SWE-bench's harness"
    if _keys(head, "task_eval_progress"):
        return "an object with task_eval_progress: eval_state.json of SWE-Bench-CL"
    if head.file.name == "report.json" and isinstance(head.first, Mapping):
        reports = list(head.first.values())
        if reports and all(isinstance(r, Mapping) and "resolved" in r for r in reports):
            return "instances with resolved: report.json of SWE-bench's harness"
    return None


def _tinyagent(head: _Head) -> str | None:
    if _keys(head, "question", "full_example"):
        return "rows have question and full_example: TinyAgent's plans"
    if _keys(head, "query", "raw_output"):
        return "rows have query and raw_output: runs of TinyAgent's planner"
    return None


def _inspect(head: _Head) -> str | None:
    return "an .eval file: a log of inspect_ai" if head.file.suffix == ".eval" else None


def _anthropic(head: _Head) -> str | None:
    if head.is_list or not _keys(head, "messages"):
        return None
    kinds = {
        block.get("type")
        for message in _messages(head)
        if isinstance(message.get("content"), list)
        for block in message["content"]
        if isinstance(block, Mapping)
    }
    if kinds & {"tool_use", "tool_result", "thinking"}:
        return f"messages have blocks of type {sorted(map(str, kinds))!r}: Anthropic's form"
    tools = head.first.get("tools")
    if isinstance(tools, list) and any(
        isinstance(t, Mapping) and "input_schema" in t for t in tools
    ):
        return "tools have an input_schema: Anthropic's form"
    return None


def _openai_chat(head: _Head) -> str | None:
    if head.is_list or not _keys(head, "messages", "tools"):
        return None
    if head.file.suffix != ".jsonl" or not isinstance(head.first["tools"], list):
        return None
    return "lines have messages (role, content, tool_calls) and tools: OpenAI's form"


def _hf_chat(head: _Head) -> str | None:
    if head.file.suffix == ".parquet":
        try:
            columns = set(pq.read_schema(head.file).names)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{head.file} must be a whole Parquet file: {error}") from error
        if "messages" in columns or {"prompt", "completion"} <= columns:
            return f"Parquet with columns {sorted(columns)!r}: a conversational data set"
        return None
    if _keys(head, "messages") and _messages(head) and "role" in _messages(head)[0]:
        return "rows have messages with a role: a conversational data set"
    if _keys(head, "prompt", "completion") and isinstance(head.first["prompt"], list):
        return "rows have prompt and completion as messages: a conversational data set"
    return None


def _messages(head: _Head) -> list[Mapping[str, Any]]:
    messages = head.first.get("messages") if isinstance(head.first, Mapping) else None
    return [m for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []


def _described(first: Any) -> str:
    if isinstance(first, Mapping):
        return f"the keys {list(first)[:12]!r}"
    return "no JSON" if first is None else f"a {type(first).__name__}"


_RECOGNISERS: dict[str, Callable[[_Head], str | None]] = {
    "native": _native,
    "tau_bench": _tau_bench,
    "swe_bench": _swe_bench,
    "tinyagent": _tinyagent,
    "inspect": _inspect,
    "anthropic": _anthropic,
    "openai_chat": _openai_chat,
    "hf_chat": _hf_chat,
}
"""By importer, the surest first; each says why, or None."""
