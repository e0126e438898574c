"""JSON files to rows; what is no JSON, or no value that a table can hold, is refused by place."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specact_rl.errors import RolloutFormatError
from specact_rl.store.tables import parse_record

_SUSPECT = re.compile(rb"NaN|Infinity|\\u[dD]|[eE]\+?\d{3}")
"""In JSON that may hold what JSON cannot: NaN, half a surrogate pair, a number beyond float64."""


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("path:line", object) of a JSON Lines file; blank lines are passed over.

    Raises:
        RolloutFormatError: A line that is no JSON object in UTF-8, or no line at all.
    """
    empty = True
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            row = parse_record(line.removeprefix(BOM_UTF8), dict, where)
            _refuse_no_json(row, line, where)
            empty = False
            yield where, row
    if empty:
        raise no_rows(path)


def json_value(path: Path) -> Any:
    """The one JSON value of a file.

    Raises:
        RolloutFormatError: Not JSON in UTF-8: cut off, NaN, half a surrogate pair, too deep; or an
            empty list.
    """
    value = parse_json(path.read_bytes(), str(path))
    if value == []:
        raise no_rows(path)
    return value


def no_rows(path: Path) -> RolloutFormatError:
    """The error of a file without records: counted as none, a lost file would go unseen."""
    return RolloutFormatError(
        f"{path}: must hold at least one record, but is empty. Where nothing is missing, remove it."
    )


def parse_json(data: bytes, where: str) -> Any:
    """The JSON value of some bytes; a byte order mark is passed over.

    Raises:
        RolloutFormatError: Not JSON in UTF-8.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise RolloutFormatError(
            f"{where}: must be one JSON value in UTF-8: {error}. A file that a stopped run left "
            "cut off has to be repaired or removed."
        ) from error
    _refuse_no_json(value, data, where)
    return value


def _refuse_no_json(value: object, data: bytes, where: str) -> None:
    """Catch what parsers let through and no table can hold; looks only where it may be."""
    if _SUSPECT.search(data) is None:
        return
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise RolloutFormatError(f"{where}: must be JSON: {error}") from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
