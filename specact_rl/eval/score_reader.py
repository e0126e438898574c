"""Reading scores and labels from a CSV or Parquet file, with the place of whatever is wrong."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from specact_rl.errors import ConfigError, RolloutFormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """One verifier's scores with their labels, as read."""

    scores: list[float | None]
    """None where the table has no score."""
    labels: list[bool | None]
    """True: acceptable; None: unknown."""
    clusters: list[str] | None
    """Task id per row; None when the table was read without one."""


def read_score_table(
    path: str | Path, score: str, label: str, cluster: str | None = None
) -> ScoreTable:
    """The three columns of a CSV or Parquet file.

    A label is 0/1, true/false (any case), or empty/null for unknown. A score is a finite number,
    or empty/null.

    Args:
        path: File ending in .csv or .parquet; a CSV has a header line and is UTF-8.
        score: Column with the scores.
        label: Column with the labels.
        cluster: Column with the task ids; None reads none.

    Raises:
        ConfigError: No such file or column, or another kind of file.
        RolloutFormatError: A row that cannot be read, with its line (CSV) or row number (Parquet).
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"score table {path} does not exist or is not a file")
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"score table must end in .csv or .parquet, got {str(path)!r}")
    columns = [score, label] + ([] if cluster is None else [cluster])
    scores: list[float | None] = []
    labels: list[bool | None] = []
    ids: list[str] = []
    for place, values in readers[path.suffix.lower()](path, columns):
        scores.append(_parse_score(values[0], f"{place}: column {score!r}"))
        labels.append(_parse_label(values[1], f"{place}: column {label!r}"))
        if cluster is not None:
            if values[2] is None or values[2] == "":
                raise RolloutFormatError(
                    f"{place}: column {cluster!r} must name the row's task, got {values[2]!r}"
                )
            ids.append(str(values[2]))
    if not scores:
        raise RolloutFormatError(f"{path}: no rows below the header")
    return ScoreTable(scores=scores, labels=labels, clusters=None if cluster is None else ids)


def _csv_rows(path: Path, columns: list[str]) -> Iterator[tuple[str, list[Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            indices = [_column(path, header, name) for name in columns]
            for row in reader:
                place = f"{path}:{reader.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    raise RolloutFormatError(
                        f"{place}: the header has {len(header)} columns, this row {len(row)}"
                    )
                yield place, [row[i] for i in indices]
        except (UnicodeDecodeError, csv.Error) as error:
            raise RolloutFormatError(
                f"{path}:{reader.line_num + 1}: not a UTF-8 CSV file: {error}"
            ) from error


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[tuple[str, list[Any]]]:
    try:
        names = list(pq.read_schema(path).names)
        for name in columns:
            _column(path, names, name)
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise RolloutFormatError(f"{path}: not a Parquet file: {error}") from error
    values = [table.column(name).to_pylist() for name in columns]
    for row in range(table.num_rows):
        yield f"{path}: row {row}", [column[row] for column in values]


def _column(path: Path, names: Sequence[str], wanted: str) -> int:
    if names.count(wanted) != 1:
        found = "more than one" if wanted in names else "none"
        raise ConfigError(
            f"{path} must have one column {wanted!r}, got {found}; its columns: {list(names)!r}"
        )
    return names.index(wanted)


def _parse_score(value: Any, place: str) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "null")):
        return None
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise RolloutFormatError(
            f"{place} must be a finite number, or empty where there is no score, got {value!r}"
        )
    return score


_LABELS: dict[str, bool | None] = {
    "true": True,
    "1": True,
    "1.0": True,
    "false": False,
    "0": False,
    "0.0": False,
    "": None,
    "null": None,
    "none": None,
}


def _parse_label(value: Any, place: str) -> bool | None:
    word = str(value).strip().lower()
    if word not in _LABELS:
        raise RolloutFormatError(
            f"{place} must be 0/1, true/false, or empty where the label is unknown, got {value!r}"
        )
    return _LABELS[word]
