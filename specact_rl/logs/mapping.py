"""Logs that are nearly in a known format: a `mapping.yaml` says where each thing is.

For example:

    format: openai_chat            # or anthropic: what the messages are like
    rows: data.episodes            # where a JSON file has its list of rows; not for JSON Lines
    fields:                        # ours: theirs, a path with dots
      messages: conversation.turns
      task_id: case.name
      model: agent
      success: {path: score, at_least: 0.5}
    message: {role: from, content: value}
    roles: {human: user, gpt: assistant}
    tools: tools.json              # beside the mapping, for rows that have none
    tool_types: my_tools.toml      # a tool table, or the name of a built-in one
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from specact_rl.actions.taxonomy import builtin_table, builtin_tables, read_tool_table
from specact_rl.errors import ConfigError, RolloutFormatError
from specact_rl.logs.anthropic import chat_row
from specact_rl.logs.chat import add_chat_rollouts
from specact_rl.logs.groups import finished
from specact_rl.logs.reading import json_rows, json_value
from specact_rl.logs.result import Importer, ImportResult, files_with
from specact_rl.logs.tool_types import retyped
from specact_rl.types import Rollout

FORMATS = ("openai_chat", "anthropic")
FIELDS = tuple("messages tools system id task_id family model trial success reward".split())
_KEYS = ("format", "rows", "fields", "message", "roles", "tools", "tool_types")
_TEXT_FIELDS = ("id", "task_id", "family", "model")


def read_mapping(path: Path) -> Importer:
    """The importer that a mapping file describes.

    Raises:
        ConfigError: No such file, no YAML, or a key or field that is not known.
    """
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} must be a YAML file: {error}") from error
    if not isinstance(mapping, dict) or not isinstance(mapping.get("fields"), dict):
        raise ConfigError(f"{path} must have fields, a table from {FIELDS!r} to paths in a row")
    _only(mapping, _KEYS, path)
    _only(mapping["fields"], FIELDS, path)
    for key in ("message", "roles"):
        if not isinstance(mapping.get(key, {}), dict):
            raise ConfigError(f"{path}: {key} must be a table of names, got {mapping[key]!r}")
    if "tools" in mapping and not (path.parent / str(mapping["tools"])).is_file():
        raise ConfigError(f"{path}: tools must be a file beside it, got {mapping['tools']!r}")
    if "messages" not in mapping["fields"]:
        raise ConfigError(f"{path}: fields must say where the messages are")
    if mapping.get("format", FORMATS[0]) not in FORMATS:
        raise ConfigError(f"{path}: format must be one of {FORMATS!r}, got {mapping['format']!r}")
    return partial(_import_mapped, mapping=mapping, base=path.parent)


def _only(table: Mapping[str, Any], known: tuple[str, ...], path: Path) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ConfigError(f"{path}: unknown {unknown!r}; known are {list(known)!r}")


def _import_mapped(path: Path, *, mapping: Mapping[str, Any], base: Path) -> ImportResult:
    """One rollout a row; a row that does not fit is dropped and counted ("malformed_row").

    Raises:
        ConfigError: There is no `.jsonl` or `.json` file.
        RolloutFormatError: No row fits; names the first.
    """
    tools = json_value(base / str(mapping["tools"])) if "tools" in mapping else None
    dropped: Counter[str] = Counter()
    trials: Counter[tuple[str, str]] = Counter()
    rollouts: dict[str, Rollout] = {}

    def row_of(raw: dict[str, Any], where: str) -> dict[str, Any]:
        row = _mapped(raw, mapping, where)
        row["tools"] = row.get("tools") or tools or []
        return chat_row(row, where, dropped) if mapping.get("format") == "anthropic" else row

    rows = _rows(path, mapping)
    flags = add_chat_rollouts(rollouts, rows, row_of, trials, dropped, str(path))
    return finished(_typed(list(rollouts.values()), mapping, base), dropped, flags)


def _typed(rollouts: list[Rollout], mapping: Mapping[str, Any], base: Path) -> list[Rollout]:
    if "tool_types" not in mapping:
        return rollouts
    name = mapping["tool_types"]
    table = builtin_table(name) if name in builtin_tables() else read_tool_table(base / name)
    return [retyped(rollout, table) for rollout in rollouts]


def _rows(path: Path, mapping: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in files_with(path, "*.jsonl", "*.json"):
        if file.suffix == ".jsonl" and "rows" not in mapping:
            yield from json_rows(file)
            continue
        value = json_value(file)
        rows = _at(value, mapping["rows"]) if "rows" in mapping else value
        if not isinstance(rows, list):
            raise RolloutFormatError(
                f"{file}: rows must be a list at {mapping.get('rows', 'the top')!r}, got "
                f"{type(rows).__name__}"
            )
        for i, row in enumerate(rows):
            yield f"{file}: row {i}", row


def _mapped(raw: Any, mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row with our names; what is not mapped is left out, since it may hold the answer."""
    if not isinstance(raw, dict):
        raise RolloutFormatError(f"{where}: a row must be an object, got {raw!r}")
    row = {target: _field(raw, source) for target, source in mapping["fields"].items()}
    for name in _TEXT_FIELDS:
        if isinstance(row.get(name), int):
            row[name] = str(row[name])
    names, roles = mapping.get("message") or {}, mapping.get("roles") or {}
    if (names or roles) and isinstance(row["messages"], list):
        row["messages"] = [_message(message, names, roles) for message in row["messages"]]
    return row


def _field(raw: Mapping[str, Any], source: Any) -> Any:
    """The value at a path, or what `{path, at_least}`, `{path, equals}` or `{value}` says."""
    if not isinstance(source, dict):
        return _at(raw, source)
    if "value" in source:
        return source["value"]
    value = _at(raw, source.get("path"))
    if value is None:
        return None
    if "at_least" in source:
        return isinstance(value, int | float) and value >= source["at_least"]
    return value == source["equals"] if "equals" in source else value


def _at(value: Any, path: Any) -> Any:
    """What is at a path with dots; None when nothing is."""
    for part in str(path).split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            return None
    return value


def _message(message: Any, names: Mapping[str, str], roles: Mapping[str, str]) -> Any:
    if not isinstance(message, dict):
        return message
    taken = set(names.values())
    plain = {key: value for key, value in message.items() if key not in taken}
    plain |= {ours: message[theirs] for ours, theirs in names.items() if theirs in message}
    role = plain.get("role")
    return {**plain, "role": roles.get(role, role)} if isinstance(role, str) else plain
