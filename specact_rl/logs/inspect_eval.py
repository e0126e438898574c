"""Logs of inspect_ai (`.eval`) to rollouts: a zip with a header and one JSON file a sample.

Read with the standard library, so that inspect_ai need not be there; its newer logs are packed with
Zstandard, which pyarrow unpacks. `target` and the sample's `metadata` may hold the answer: neither
is kept.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from specact_rl.actions.taxonomy import ToolTable
from specact_rl.errors import RolloutFormatError
from specact_rl.logs.chat import chat_rollout
from specact_rl.logs.groups import finished
from specact_rl.logs.reading import parse_json
from specact_rl.logs.result import Flag, ImportResult, files_with
from specact_rl.logs.tool_types import retyped
from specact_rl.types import Message, Rollout

_ZSTANDARD = 93
_LOCAL_HEADER = struct.Struct("<26xHH")
_ATTACHMENT = "attachment://"
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    pa.ArrowException,
)
_VERDICTS = {"C": True, "I": False}
"""Correct and incorrect, as inspect_ai's scorers write them; "P" (partly) is no verdict."""


def import_inspect(path: Path) -> ImportResult:
    """A rollout for each sample and epoch; the verdict is that of the first scorer.

    A sample that ended in an error is no failure of the model: its success is withheld. Dropped,
    by reason: "duplicate_id", "malformed_sample", and the messages that `chat_rollout` counts.

    Raises:
        ConfigError: There is no `.eval` file.
        RolloutFormatError: A file that is no such log, or is damaged; names path and member.
    """
    dropped: Counter[str] = Counter()
    trials: Counter[tuple[str, str]] = Counter()
    flags: list[Flag] = []
    rollouts: dict[str, Rollout] = {}
    for file in files_with(path, "**/*.eval"):
        scorers: set[str] = set()
        for where, header, sample in _samples(file):
            scorers.update(_object(sample.get("scores")))
            try:
                rollout = chat_rollout(_row(header, sample, where), where, trials, dropped)
            except RolloutFormatError as error:
                dropped["malformed_sample"] += 1
                flags.append(Flag(kind="malformed_rows", group=str(file), detail=str(error)))
                continue
            if rollout.rollout_id in rollouts:
                dropped["duplicate_id"] += 1
            else:
                rollouts[rollout.rollout_id] = retyped(rollout, ToolTable())
        if len(scorers) > 1:
            flags.append(
                Flag(
                    kind="several_scorers",
                    group=str(file),
                    detail=f"scorers {sorted(scorers)!r}: success is the first one's of each "
                    "sample; all are in info.scores",
                )
            )
    return finished(list(rollouts.values()), dropped, flags)


def _samples(file: Path) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield (place, evaluation, sample) for each sample of a log."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            start = next((n for n in ("header.json", "_journal/start.json") if n in names), None)
            if start is None:
                raise RolloutFormatError(f"{file}: must hold header.json, got {names[:5]!r}")
            header = _object(_member(archive, file, start))
            for name in names:
                if name.startswith("samples/") and name.endswith(".json"):
                    sample = _member(archive, file, name)
                    yield f"{file}:{name}", _object(header.get("eval")), _object(sample)
    except _DAMAGES as error:
        raise RolloutFormatError(
            f"{file}: must be a whole .eval log (a zip file): {error}. A log of a run that was "
            "killed can be repaired with `inspect log recover`."
        ) from error


def _member(archive: zipfile.ZipFile, file: Path, name: str) -> Any:
    info = archive.getinfo(name)
    where = f"{file}:{name}"
    if info.compress_type != _ZSTANDARD:
        return parse_json(archive.read(name), where)
    with file.open("rb") as stream:
        stream.seek(info.header_offset)
        header = stream.read(_LOCAL_HEADER.size)
        stream.seek(sum(_LOCAL_HEADER.unpack(header)), 1)
        packed = stream.read(info.compress_size)
    data = pa.Codec("zstd").decompress(packed, decompressed_size=info.file_size)
    return parse_json(data.to_pybytes(), where)


def _row(header: Mapping[str, Any], sample: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The sample in the form of `chat_rollout`."""
    attachments = _object(sample.get("attachments"))
    entries = sample.get("messages")
    if not isinstance(entries, list):
        raise RolloutFormatError(f"{where}: messages must be a list, got {entries!r}")
    task, model = str(header.get("task")), str(header.get("model"))
    epoch = sample.get("epoch")
    trial = epoch - 1 if isinstance(epoch, int) else None
    scores = {
        name: _object(score).get("value") for name, score in _object(sample.get("scores")).items()
    }
    scored = next((verdict(value) for value in scores.values()), None)
    failed = bool(sample.get("error"))
    task_id = f"{task}/{sample.get('id')}"
    usage = [_object(u) for u in _object(sample.get("model_usage")).values()]
    return {
        "messages": [_message(_resolved(m, attachments), where) for m in entries],
        "tools": _tools(sample, attachments),
        "id": f"{model}/{task_id}/{trial}",
        "task_id": task_id,
        "family": task,
        "model": model,
        "trial": trial,
        "success": None if failed else scored,
        "scored": scored,
        "scores": scores,
        "input_tokens": _total(usage, "input_tokens"),
        "output_tokens": _total(usage, "output_tokens"),
        "seconds": sample.get("total_time"),
        **({"fault": "sample_error"} if failed else {}),
    }


def verdict(value: object) -> bool | None:
    """A score as right or wrong: "C" and "I", booleans, 1 and 0; None for all else."""
    if isinstance(value, str):
        return _VERDICTS.get(value)
    if isinstance(value, bool):
        return value
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _total(usage: Sequence[Mapping[str, Any]], key: str) -> int | None:
    counts = [count for entry in usage if isinstance(count := entry.get(key), int)]
    return sum(counts) if counts else None


def _message(message: Any, where: str) -> Message:
    """The message in the OpenAI form; what the model thought is left out."""
    if not isinstance(message, dict):
        raise RolloutFormatError(f"{where}: a message must be an object, got {message!r}")
    plain: Message = {"role": message.get("role"), "content": _text(message.get("content"))}
    if plain["role"] == "tool":
        error = _object(message.get("error"))
        if error:
            plain = {**plain, "content": plain["content"] or error.get("message"), "is_error": True}
        return {**plain, "tool_call_id": message.get("tool_call_id")}
    calls = [
        {
            "id": call.get("id"),
            "type": "function",
            "function": {"name": call.get("function"), "arguments": call.get("arguments")},
        }
        for call in message.get("tool_calls") or ()
        if isinstance(call, dict)
    ]
    return {**plain, "tool_calls": calls} if calls else plain


def _text(content: Any) -> str:
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    return "".join(
        part.get("text") or "" if part.get("type") == "text" else f"[{part.get('type')}]"
        for part in content
        if isinstance(part, dict) and part.get("type") != "reasoning"
    )


def _tools(sample: Mapping[str, Any], attachments: Mapping[str, Any]) -> list[Any]:
    """The tools that the model was offered, over all its calls."""
    tools: dict[str, Any] = {}
    for event in sample.get("events") or ():
        if isinstance(event, dict) and event.get("event") == "model":
            for tool in event.get("tools") or ():
                if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                    tools.setdefault(tool["name"], _resolved(tool, attachments))
    return list(tools.values())


def _resolved(value: Any, attachments: Mapping[str, Any]) -> Any:
    """The value with long texts put back in their places."""
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        return attachments.get(value.removeprefix(_ATTACHMENT), value)
    if isinstance(value, dict):
        return {key: _resolved(item, attachments) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_resolved(item, attachments) for item in value]
    return value


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
