"""Dataclass records as JSONL and as Parquet: what is written reads back equal or is refused."""

from __future__ import annotations

import json
import os
import re
import types
from array import array
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, reduce
from itertools import accumulate, chain
from math import isnan
from pathlib import Path
from typing import (
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from specact_rl.errors import RolloutFormatError
from specact_rl.store.files import atomic_write
from specact_rl.types import SCHEMA_VERSION

T = TypeVar("T")

_ROWS_PER_GROUP = 4096
_ROWS_AT_ONCE = 64
_CHARACTERS_PER_GROUP = 16 * 2**20
"""Readers hold a row group, which of long conversations is much more than its rows let guess."""
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
        raise RolloutFormatError(
            f"{where}: must be one {record_type.__name__} as JSON: {_problems(error)}"
        ) from error
    return record


def _problems(error: ValidationError, *within: str) -> str:
    """The first five problems, each with its place."""
    return "; ".join(
        f"{'.'.join(map(str, (*within, *e['loc']))) or 'line'}: {e['msg']}"
        for e in error.errors(include_url=False, include_context=False)[:5]
    )


def _to_json(value: object, where: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # a lone surrogate has no UTF-8
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: not a JSON value: {error}") from error
    return text


def _refuse_unless_equal(record: object, read_back: object, where: str) -> None:
    """Catch what JSON changes silently (a tuple, a key that is no string) before it is on disk."""
    if read_back != record:
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
            _refuse_unless_equal(record, parse_record(text, type(record), where), where)
            stream.write(text + "\n")
    return number


def append_jsonl(path: Path, record: object) -> None:
    """Add a record to a JSONL file that `recovered_jsonl` reads after the process was killed.

    Raises:
        ValueError: A record that would not read back equal.
        OSError: It cannot be written, say because the disk is full; the file is as it was.
    """
    text = _to_json(_as_dict(record), str(path))
    _refuse_unless_equal(record, parse_record(text, type(record), str(path)), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise


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


class JsonlRecords(Sequence[T]):
    """The records of JSONL files, parsed whenever they are asked for.

    Memory holds the places of the lines only, so that a log may be larger than it.
    """

    def __init__(self, record_type: type[T]) -> None:
        """No file yet; `add` takes them."""
        self._type = record_type
        self._files: list[Path] = []
        self._file = array("I")
        self._line = array("Q")
        self._offset = array("Q")
        self.change: Callable[[T], T] = lambda record: record
        """Applied to each record that is asked for later, as what is known after the last one."""

    def add(self, path: Path) -> Iterator[tuple[int, T]]:
        """Yield (line number, record) of one more file as `iter_jsonl` does; exhaust it.

        Raises:
            RolloutFormatError: A line that is not exactly one record; names path and line.
        """
        self._files.append(path)
        offset = 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, parse_record(line, self._type, f"{path}:{number}")
                    self._file.append(len(self._files) - 1)
                    self._line.append(number)
                    self._offset.append(offset)
                offset += len(line)

    def __len__(self) -> int:
        """Number of records."""
        return len(self._offset)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """The record at a place, or those of a slice."""
        if isinstance(index, slice):
            return list(self.at(range(len(self))[index]))
        return next(self.at([range(len(self))[index]]))

    def __iter__(self) -> Iterator[T]:
        """All records in order."""
        return self.at(range(len(self)))

    def at(self, positions: Iterable[int]) -> Iterator[T]:
        """The records at some places, in the order of these.

        Raises:
            RolloutFormatError: A line that has been changed since and no longer is a record.
        """
        with ExitStack() as stack:
            streams = [stack.enter_context(path.open("rb")) for path in self._files]
            for position in positions:
                file = self._file[position]
                streams[file].seek(self._offset[position])
                record = parse_record(streams[file].readline(), self._type, self.where(position))
                yield self.change(record)

    def where(self, position: int) -> str:
        """Path and line of a record."""
        return f"{self._files[self._file[position]]}:{self._line[position]}"


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
    cells: dict[str, Any] = {}
    for name, kind in _columns(cast(Hashable, type(record))).items():
        value = getattr(record, name)
        if kind is None and value is not None:
            # Several times as fast as json. What it writes though JSON has no such thing (a set as
            # a list, infinity as a string) does not read back equal, and is refused for that.
            try:
                value = to_json(value, inf_nan_mode="strings").decode()
            except ValueError as error:  # a lone surrogate has no UTF-8
                raise ValueError(f"{where}.{name}: not a JSON value: {error}") from error
        cells[name] = value
    return cells


class _RowParser:
    """Rows of a table to records, field by field, with the checks of `parse_record`.

    Fields that many rows have in common, as a catalogue of tools, are most of some tables: text
    that equals that of the row before is not parsed again, and its value is shared.
    """

    def __init__(self, record_type: type) -> None:
        self._type: Any = record_type
        hints = get_type_hints(record_type)
        self._fields = {
            name: (kind is None, _plain_types(hints[name]), _field_adapter(record_type, name))
            for name, kind in _columns(record_type).items()
        }
        self._last: dict[str, tuple[str, Any]] = {}

    def record(self, cells: Mapping[str, Any], where: str) -> Any:
        values: dict[str, Any] = {}
        for name, cell in cells.items():
            is_json, plain_types, adapter = self._fields[name]
            if type(cell) in plain_types:  # nothing to check that the column's type does not say
                values[name] = cell
                continue
            last = self._last.get(name)
            if is_json and last is not None and last[0] == cell:
                values[name] = last[1]
                continue
            try:
                if is_json and cell is not None:
                    values[name] = adapter.validate_json(cell, strict=True, extra="forbid")
                    self._last[name] = (cell, values[name])
                else:
                    values[name] = adapter.validate_python(cell, strict=True)
            except ValidationError as error:
                raise RolloutFormatError(
                    f"{where}: must be one {self._type.__name__}: {_problems(error, name)}"
                ) from error
        try:
            return self._type(**values)
        except ValueError as error:
            raise RolloutFormatError(
                f"{where}: must be one {self._type.__name__}: {error}"
            ) from error


def _plain_types(hint: Any) -> frozenset[type]:
    """The scalar types that a hint consists of; empty where a value has to be looked at."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return frozenset(options) if set(options) <= {*_ARROW_TYPES, type(None)} else frozenset()


@cache
def _field_adapter(record_type: Any, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(record_type)[name])


def write_table(
    path: Path, records: Iterable[T], *, together: Callable[[T], Hashable] | None = None
) -> int:
    """Write dataclass records of one type as Parquet; returns how many.

    Scalar fields become typed columns (None is null, infinities are kept), all others JSON text,
    so that nothing is padded or coerced. Memory is bounded by one row group.

    Args:
        path: File to write.
        records: All of one type.
        together: Neighbours for which it returns equal keys are not parted by the end of a row
            group, so that a reader of one group has all of them; None: they may be.

    Raises:
        ValueError: Records of several types, or one that would not read back equal (a NaN, too).
    """
    rows = iter(records)
    first = next(rows, None)
    record_type = None if first is None else type(first)
    if record_type is not None and not is_dataclass(record_type):
        raise ValueError(f"a table's records must be dataclasses, got {record_type.__name__}")
    schema = _table_schema(record_type)
    number = 0
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        if first is None or record_type is None:
            return 0
        parser = _RowParser(record_type)
        group: list[dict[str, Any]] = []
        size = 0
        key: Hashable = None
        for record in chain([first], rows):
            where = f"{path}: records[{number}]"
            if type(record) is not record_type:
                raise ValueError(f"{where} must be of the type of those before it, got {record!r}")
            last_key, key = key, together(record) if together else None
            is_full = len(group) >= _ROWS_PER_GROUP or size >= _CHARACTERS_PER_GROUP
            if is_full and (together is None or key != last_key):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group, size = [], 0
            cells = _cells(record, where)
            # A NaN equals nothing, but would pass here: the cell is the same object.
            is_nan = any(isinstance(cell, float) and isnan(cell) for cell in cells.values())
            _refuse_unless_equal(record, None if is_nan else parser.record(cells, where), where)
            group.append(cells)
            size += sum(len(cell) for cell in cells.values() if isinstance(cell, str))
            number += 1
        writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return number


def iter_table(
    path: Path,
    record_type: type[T],
    *,
    row_groups: Sequence[int] | None = None,
    where: Mapping[str, Collection[str]] | None = None,
) -> Iterator[T]:
    """Yield the records of a Parquet table, holding one row group in memory.

    A field with a default need not have a column, as in a JSONL line.

    Args:
        path: The table.
        record_type: What its rows are.
        row_groups: Numbers of the groups to read; None reads all.
        where: Allowed values by the name of a text field; other rows are passed over unparsed.

    Raises:
        RolloutFormatError: Another schema version, other columns, or a row that does not validate.
    """
    parser = _RowParser(record_type)
    with _open_table(path, record_type) as parquet:
        starts = _group_starts(parquet)
        for group in range(parquet.num_row_groups) if row_groups is None else row_groups:
            table = parquet.read_row_group(group, use_threads=False)
            positions: Iterable[int] = range(table.num_rows)
            if where:
                masks = [pc.is_in(table[n], pa.array(sorted(v))) for n, v in where.items()]
                mask = reduce(pc.and_, masks)
                if not pc.all(mask).as_py():  # a copy
                    positions = pc.indices_nonzero(mask).to_pylist()
                    table = table.filter(mask)
            for position, cells in zip(positions, _rows(table), strict=True):
                yield parser.record(cells, f"{path}: row {starts[group] + position}")


def iter_columns(
    path: Path,
    record_type: type[Any],
    names: Sequence[str],
    row_groups: Sequence[int] | None = None,
) -> Iterator[dict[str, list[Any]]]:
    """Yield the values of some scalar fields, one row group at a time; nothing else is read.

    A field with a default need not have a column.

    Args:
        path: The table.
        record_type: What its rows are.
        names: Of the fields.
        row_groups: Numbers of the groups to read; None reads all.

    Raises:
        RolloutFormatError: Another schema version, or other columns than the record's.
    """
    with _open_table(path, record_type) as parquet:
        there = set(parquet.schema_arrow.names)
        absent = {f.name: f.default for f in fields(record_type) if f.name not in there}
        for group in range(parquet.num_row_groups) if row_groups is None else row_groups:
            rows = parquet.read_row_group(group, columns=[n for n in names if n in there])
            cells = rows.to_pydict()
            yield {n: cells[n] if n in there else [absent[n]] * rows.num_rows for n in names}


def _open_table(path: Path, record_type: Any) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise RolloutFormatError(f"{path}: must be a Parquet file: {error}") from error
    _check_schema(path, parquet.schema_arrow, record_type)
    return parquet


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        yield from table.slice(start, _ROWS_AT_ONCE).to_pylist()


def _group_starts(parquet: pq.ParquetFile) -> list[int]:
    """Number of the first row of each group."""
    metadata = parquet.metadata
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return list(accumulate(sizes, initial=0))


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
