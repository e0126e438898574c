"""Dataclass records as JSONL and as Parquet: what is written reads back equal or is refused."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from specact_rl.errors import RolloutFormatError
from specact_rl.store.files import atomic_write
from specact_rl.types import SCHEMA_VERSION

T = TypeVar("T")

_ROWS_PER_GROUP = 4096
_SHARD_NAME = re.compile(r"part-(\d{5,})\.parquet")


@cache
def _adapter(record_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(record_type)


def _as_dict(record: object) -> dict[str, Any]:
    if is_dataclass(record) and not isinstance(record, type):
        # Not dataclasses.asdict, which copies every value deeply and is several times slower.
        dumped: dict[str, Any] = _adapter(type(record)).dump_python(record)
        return dumped
    if isinstance(record, dict):
        return record
    raise ValueError(f"a record must be a dataclass or a dict, got {type(record).__name__}")


def parse_record(text: str | bytes, record_type: type[T], where: str) -> T:
    """One record from its JSON object; no coercion, no unknown or missing fields.

    Args:
        text: The JSON object.
        record_type: A dataclass, or dict.
        where: Path and line, for the error message.

    Raises:
        RolloutFormatError: The text is not exactly one `record_type`.
    """
    try:
        adapter = _adapter(cast(Hashable, record_type))
        record: T = adapter.validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'line'}: {e['msg']}"
            for e in error.errors(include_url=False, include_context=False)[:5]
        )
        raise RolloutFormatError(
            f"{where}: must be one {record_type.__name__} as JSON: {problems}"
        ) from error
    return record


def _to_json(value: object, where: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # a lone surrogate has no UTF-8
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: not a JSON value: {error}") from error
    return text


def _refuse_unless_equal(record: object, text: str, where: str) -> None:
    """Catch what JSON changes silently (a tuple, a key that is no string) before it is on disk."""
    if parse_record(text, type(record), where) != record:
        raise ValueError(
            f"{where}: would not read back equal. Fields hold JSON values only: lists (no tuples), "
            f"dicts with string keys, no NaN. Got {record!r}"
        )


def write_jsonl(path: Path, records: Iterable[object]) -> int:
    """Write dataclass records or dicts, one JSON object a line; returns how many.

    Raises:
        ValueError: A record that would not read back equal.
    """
    number = 0
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for number, record in enumerate(records, start=1):
            where = f"{path}:{number}"
            text = _to_json(_as_dict(record), where)
            _refuse_unless_equal(record, text, where)
            stream.write(text + "\n")
    return number


def append_jsonl(path: Path, record: object) -> None:
    """Add a record to a JSONL file that `recovered_jsonl` reads after the process was killed.

    Raises:
        ValueError: A record that would not read back equal.
    """
    text = _to_json(_as_dict(record), str(path))
    _refuse_unless_equal(record, text, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text + "\n")


def recovered_jsonl(path: Path, record_type: type[T]) -> list[T]:
    """The records that `append_jsonl` wrote; [] when there is no file.

    A last line that was cut off is removed from the file, so that it can be added to again.
    """
    if not path.exists():
        return []
    with path.open("rb+") as stream:
        stream.truncate(stream.read().rfind(b"\n") + 1)
    return read_jsonl(path, record_type)


def iter_jsonl(path: Path, record_type: type[T]) -> Iterator[tuple[int, T]]:
    """Yield (line number from 1, record) for each line that is not blank.

    Raises:
        RolloutFormatError: A line that is not exactly one `record_type`; names path and line.
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, parse_record(line, record_type, f"{path}:{number}")


def read_jsonl(path: Path, record_type: type[T]) -> list[T]:
    """All records of a JSONL file; see `iter_jsonl`."""
    return [record for _, record in iter_jsonl(path, record_type)]


_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
}


@cache
def _columns(record_type: Any) -> dict[str, pa.DataType | None]:
    """Arrow type by field name; None for a field that is stored as JSON text."""
    hints = get_type_hints(record_type)
    return {f.name: _arrow_type(hints[f.name]) for f in fields(record_type)}


def _arrow_type(hint: Any) -> pa.DataType | None:
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return _arrow_type(options[0]) if len(options) == 1 else None
    if get_origin(hint) is Literal:
        return pa.string() if all(isinstance(value, str) for value in get_args(hint)) else None
    return _ARROW_TYPES.get(hint)


def _table_schema(record_type: type | None) -> pa.Schema:
    """Columns of a record type; none for a table without records, whose type is not known."""
    columns = {} if record_type is None else _columns(record_type)
    return pa.schema(
        [(name, kind or pa.string()) for name, kind in columns.items()],
        metadata={"schema_version": str(SCHEMA_VERSION)},
    )


def _cells(record: object, where: str) -> dict[str, Any]:
    """One record as table cells: nested fields as JSON text, None as null."""
    columns = _columns(cast(Hashable, type(record)))
    cells = {
        name: value
        if columns[name] is not None or value is None
        else _to_json(value, f"{where}.{name}")
        for name, value in _as_dict(record).items()
    }
    _refuse_unless_equal(record, _row_json(cells, columns), where)
    return cells


def _row_json(cells: Mapping[str, Any], columns: Mapping[str, pa.DataType | None]) -> str:
    """The JSON object a row stands for; cells that hold JSON text go in as they are."""
    members = (
        f"{json.dumps(name)}:"
        # ASCII escapes here, so that a lone surrogate meets the validator and not the encoder.
        + (value if columns[name] is None and value is not None else json.dumps(value))
        for name, value in cells.items()
    )
    return "{" + ",".join(members) + "}"


def write_table(path: Path, records: Iterable[object]) -> int:
    """Write dataclass records of one type as Parquet; returns how many.

    Scalar fields become typed columns (None is null, infinities are kept), all others JSON text,
    so that nothing is padded or coerced. Memory is bounded by one row group.

    Raises:
        ValueError: Records of several types, or one that would not read back equal (a NaN, too).
    """
    rows = iter(records)
    batch = list(islice(rows, _ROWS_PER_GROUP))
    record_type = type(batch[0]) if batch else None
    if record_type is not None and not is_dataclass(record_type):
        raise ValueError(f"a table's records must be dataclasses, got {record_type.__name__}")
    schema = _table_schema(record_type)
    number = 0
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        while batch:
            cells = []
            for record in batch:
                where = f"{path}: records[{number}]"
                if type(record) is not record_type:
                    raise ValueError(
                        f"{where} must be of the type of those before it, got {record!r}"
                    )
                cells.append(_cells(record, where))
                number += 1
            writer.write_table(pa.Table.from_pylist(cells, schema=schema))
            batch = list(islice(rows, _ROWS_PER_GROUP))
    return number


def iter_table(path: Path, record_type: type[T]) -> Iterator[T]:
    """Yield the records of a Parquet table, holding one row group in memory.

    A field with a default need not have a column, as in a JSONL line.

    Raises:
        RolloutFormatError: Another schema version, other columns, or a row that does not validate.
    """
    columns = _columns(cast(Hashable, record_type))
    try:
        parquet = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise RolloutFormatError(f"{path}: must be a Parquet file: {error}") from error
    with parquet:
        _check_schema(path, parquet.schema_arrow, record_type)
        number = 0
        for batch in parquet.iter_batches(batch_size=_ROWS_PER_GROUP):
            for cells in batch.to_pylist():
                yield parse_record(_row_json(cells, columns), record_type, f"{path}: row {number}")
                number += 1


def _check_schema(path: Path, schema: pa.Schema, record_type: Any) -> None:
    version = (schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise RolloutFormatError(
            f"{path}: schema_version must be {SCHEMA_VERSION}, got {version!r}. "
            "Rebuild the folder with this version of specact_rl."
        )
    found = set(schema.names)
    needed = {
        f.name for f in fields(record_type) if f.default is MISSING and f.default_factory is MISSING
    }
    unknown = found - set(_columns(record_type))
    if found and (needed - found or unknown):  # a table of no records has no columns
        raise RolloutFormatError(
            f"{path}: columns must be the record's fields; "
            f"missing {sorted(needed - found)!r}, unknown {sorted(unknown)!r}"
        )


def read_table(path: Path, record_type: type[T]) -> list[T]:
    """All records of a Parquet table; see `iter_table`."""
    return list(iter_table(path, record_type))


def append_shard(folder: Path, index: int, records: Iterable[object]) -> Path:
    """Write shard number `index` of a table, whole or not at all; returns its path."""
    path = folder / f"part-{index:05d}.parquet"
    write_table(path, records)
    return path


def done_shards(folder: Path) -> list[int]:
    """Numbers of the shards that are there, ascending; [] when the folder is not."""
    if not folder.is_dir():
        return []
    return sorted(int(m[1]) for p in folder.iterdir() if (m := _SHARD_NAME.fullmatch(p.name)))


def iter_shards(folder: Path, record_type: type[T]) -> Iterator[T]:
    """Yield the records of all shards in the order of their numbers."""
    for index in done_shards(folder):
        yield from iter_table(folder / f"part-{index:05d}.parquet", record_type)


def read_shards(folder: Path, record_type: type[T]) -> list[T]:
    """The records of all shards in the order of their numbers."""
    return list(iter_shards(folder, record_type))
