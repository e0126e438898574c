"""Training rows: data set folders that `datasets.load_dataset` and TRL read as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specact_rl.errors import ConfigError
from specact_rl.store.cards import CARD, card_text, table
from specact_rl.store.files import atomic_write, file_hash

_ROWS_PER_GROUP = 256
_CHAT_COLUMNS = frozenset({"messages", "tools", "prompt", "completion", "chosen", "rejected"})
_SCALARS: dict[type, str] = {str: "string", bool: "bool", int: "int64", float: "float64"}
_STRING_OR_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?')


def write_training_rows(
    folder: Path,
    rows: Mapping[str, Iterable[Mapping[str, Any]]],
    description: str,
    *,
    title: str | None = None,
    tags: Sequence[str] = (),
) -> None:
    """Write a data set folder that `datasets.load_dataset(folder)` and TRL read as it is.

    One Parquet file per split and a card, README.md, whose `configs:` block names them (without it
    manifest.json would be taken for data), with the rows and SHA-256 of each. Chat columns become
    lists of `Json`, so that no tool call is padded with the arguments of another. Memory is bounded
    by one batch of rows.

    Args:
        folder: Made if it is not there.
        rows: By split name; iterated over twice, since the type of a column is known after its
            last row. All rows have the same keys, values are JSON.
        description: Text of the card, Markdown.
        title: Of the card; None for the folder's name.
        tags: By which the Hub finds it.

    Raises:
        ValueError: Rows with different keys, or a value that would not load back equal.
    """
    features = _features(row for split_rows in rows.values() for row in split_rows)
    schema = features.arrow_schema
    for split, split_rows in rows.items():
        with (
            atomic_write(folder / f"{split}.parquet") as temporary,
            pq.ParquetWriter(temporary, schema) as writer,
        ):
            for batch in _batches(split_rows):
                writer.write_table(_table(batch, features))
    paths = {split: folder / f"{split}.parquet" for split in rows}
    splits = table(
        ("split", "rows", "SHA-256"),
        [
            (split, f"{pq.read_metadata(path).num_rows:,}", f"`{file_hash(path)}`")
            for split, path in paths.items()
        ],
    )
    text = card_text(
        _card_data(paths, tags),
        title or folder.name,
        {"": description, "Splits": splits, "Columns": _columns(features)},
    )
    with atomic_write(folder / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _card_data(paths: Mapping[str, Path], tags: Sequence[str]) -> Any:
    from huggingface_hub import DatasetCardData  # for the reason given in _table

    files = [{"split": split, "path": path.name} for split, path in paths.items()]
    configs = [{"config_name": "default", "data_files": files}]
    return DatasetCardData(configs=configs, tags=list(tags) or None)


def _columns(features: Any) -> str:
    return ", ".join(f"`{name}`" for name in features) + "."


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, _ROWS_PER_GROUP)):
        yield batch


def _table(rows: Sequence[Mapping[str, Any]], features: Any) -> pa.Table:
    # Imported here: datasets takes seconds, and most users of this package never build a set.
    from datasets import Dataset

    columns = {
        name: [_encode(row[name], feature, name) for row in rows]
        for name, feature in features.items()
    }
    # Not Dataset.to_parquet, which draws a progress bar.
    table: pa.Table = Dataset.from_dict(columns, features=features).data.table
    return table.replace_schema_metadata(features.arrow_schema.metadata)


def read_training_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of one split as `load_dataset` gives them, without its copy in the user's cache.

    Raises:
        ConfigError: The folder has no such split.
    """
    # Imported here for the reason given in _table.
    from datasets import Dataset
    from datasets.table import InMemoryTable

    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise ConfigError(f"{folder} must have a split {split!r}, but there is no {path.name}")
    return [dict(row) for row in Dataset(InMemoryTable(pq.read_table(path)))]


@dataclass(slots=True)
class _Kinds:
    """Types of the values seen in a column, and in its lists; None is passed over."""

    values: set[type] = field(default_factory=set)
    items: _Kinds | None = None

    def add(self, value: Any) -> None:
        """Take one more value into account."""
        if value is None:
            return
        self.values.add(type(value))
        if type(value) is list:
            self.items = self.items or _Kinds()
            for item in value:
                self.items.add(item)


def _features(rows: Iterable[Mapping[str, Any]]) -> Any:
    from datasets import Features

    kinds: dict[str, _Kinds] = {}
    for i, row in enumerate(rows):
        if not kinds:
            kinds = {name: _Kinds() for name in row}
        if set(row) != set(kinds):
            raise ValueError(
                f"all rows must have the keys {sorted(kinds)!r}, row {i} has {sorted(row)!r}: "
                "missing keys would be padded with None"
            )
        for name, value in row.items():
            kinds[name].add(value)
    return Features({name: _feature(name, found) for name, found in kinds.items()})


def _feature(name: str, found: _Kinds) -> Any:
    """The narrowest datasets feature that holds all values unchanged."""
    from datasets import Json, List, Value

    if not found.values:
        return Value("null")
    if len(found.values) > 1:
        raise ValueError(
            f"column {name!r} must hold values of one type, "
            f"got {sorted(kind.__name__ for kind in found.values)!r}"
        )
    [kind] = found.values
    if kind in _SCALARS:
        return Value(_SCALARS[kind])
    if kind is list:
        items = found.items or _Kinds()
        if name in _CHAT_COLUMNS or dict in items.values:
            return List(Json())
        return List(_feature(f"{name}[]", items))
    if kind is dict:
        return Json()
    raise ValueError(f"column {name!r} must hold JSON values, got {kind.__name__}")


def _encode(value: Any, feature: Any, name: str) -> Any:
    """The value as its feature stores it: Json as text, all others unchanged."""
    from datasets import Json, List

    if value is None:
        return None
    if isinstance(feature, List) and isinstance(feature.feature, Json):
        return [_loadable_json(item, name) for item in value]
    return _loadable_json(value, name) if isinstance(feature, Json) else value


def _loadable_json(value: Any, name: str) -> str:
    """JSON text that datasets' reader decodes to exactly `value`.

    datasets 5.2 decodes Json with pandas' ujson, which is off by an ulp for many decimals (1.95
    reads as 1.9500000000000002); another spelling of the same number, 195e-2, reads exactly.
    """
    from datasets.utils.json import ujson_loads

    def reads_exactly(spelling: str, number: float) -> bool:
        loaded = ujson_loads(f"[{spelling}]")[0]
        return isinstance(loaded, float) and loaded == number == float(spelling)

    def respell(match: re.Match[str]) -> str:
        token = match[0]
        if token.startswith('"') or not set(token) & set(".eE"):
            return token
        number = float(token)
        spellings = (token, *_spellings(number))
        return next((s for s in spellings if reads_exactly(s, number)), token)

    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text = _STRING_OR_NUMBER.sub(respell, text)
        loaded = ujson_loads(text)
    except ValueError as error:
        raise ValueError(
            f"column {name!r}: datasets cannot load {text!r}: {error}. "
            "Integers beyond 64 bits must be strings."
        ) from error
    if loaded != value:
        raise ValueError(
            f"column {name!r}: datasets would load {text!r} as {loaded!r}. "
            "Rows hold JSON values only: lists (no tuples), dicts with string keys, and no floats "
            "below 1e-280."
        )
    return text


def _spellings(number: float) -> Iterator[str]:
    """Other decimal spellings of the same float: every place of the point, more zeros."""
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    for zeros in range(max(1, 19 - len(digits))):
        text = "".join(map(str, digits)) + "0" * zeros
        for point in range(len(text) + 1):
            fraction = f".{text[point:]}" if text[point:] else ""
            power = int(exponent) + len(text) - zeros - point
            yield f"{'-' if sign else ''}{text[:point] or '0'}{fraction}e{power}"
