"""Rows that wait on the disk until all of them are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json  # three times as fast as json

from specact_rl.store.files import temporary_name


class RowSpool(Iterable[dict[str, Any]]):
    """Rows added in any order and read, any number of times, in the order of their keys.

    Memory holds the keys and one row. What a data set's columns hold, and the order of its rows,
    is known when all of them are; they are made one task after another, and together they may be
    larger than memory.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """An empty spool in a hidden file of a folder; leaving the spool's context removes it."""
        self._path = temporary_name(folder / name)
        self._stream = self._path.open("w+b")
        self._end = 0
        self._places: list[tuple[str, int, int]] = []
        """Key of each batch of rows, where its first one begins, and how many they are."""
        self._num_rows = 0
        self._left_out: set[int] = set()

    def __len__(self) -> int:
        """Number of rows."""
        return self._num_rows - len(self._left_out)

    def add(self, key: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows whose place is decided by `key`; those of equal keys stay in this order."""
        lines = [to_json(row) for row in rows]
        if lines:
            self._places.append((key, self._end, len(lines)))
            self._end += self._stream.write(b"".join(line + b"\n" for line in lines))
            self._num_rows += len(lines)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All rows in the order of their keys."""
        return (row for number, row in self._numbered() if number not in self._left_out)

    def retain(self, is_kept: Callable[[Mapping[str, Any]], bool]) -> None:
        """Leave out the rows that are not kept."""
        self._left_out |= {number for number, row in self._numbered() if not is_kept(row)}

    def _numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        self._stream.flush()
        number = 0
        with self._path.open("rb") as stream:
            for _, start, count in sorted(self._places):
                stream.seek(start)
                for _ in range(count):
                    yield number, from_json(stream.readline())
                    number += 1

    def __enter__(self) -> RowSpool:
        """The spool itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Remove the file."""
        self._stream.close()
        self._path.unlink(missing_ok=True)
