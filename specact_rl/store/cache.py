"""Rows by the hash of all that they were made from, shared by runs and processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic_core import to_json

from specact_rl.errors import ConfigError
from specact_rl.store.tables import parse_record

T = TypeVar("T")

CACHE_FILE = "rows.sqlite"
_SECONDS = 600.0
"""How long one process waits for another's write."""


class RowCache:
    """Lists of records by key, in one SQLite file of a folder.

    What is put is there for good or not at all, whenever a process is killed. The key has to say
    all that the records depend on; a key is never written over. Nothing is held in memory between
    calls but 2 MB of the file's pages.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder's cache, or begin one.

        Raises:
            ConfigError: The file is there and is no cache, or it cannot be written.
        """
        self.path = folder / CACHE_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Each statement is a transaction, committed when it returns.
            self._connection = sqlite3.connect(self.path, timeout=_SECONDS, isolation_level=None)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, records BLOB NOT NULL)"
            )
            self._connection.execute("SELECT key, records FROM rows LIMIT 1")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"{self.path} must be a cache that can be written to, but is not ({error}); name "
                "another folder, or delete the file"
            ) from error

    def get(self, key: str, record_type: type[T]) -> list[T] | None:
        """The records of a key; None where it has none.

        Raises:
            RolloutFormatError: They are not of that type.
        """
        found = self._connection.execute(
            "SELECT records FROM rows WHERE key = ?", (key,)
        ).fetchone()
        return None if found is None else self._parsed(found[0], record_type, key)

    def put(self, records_by_key: Mapping[str, Sequence[object]]) -> None:
        """Keep the records of some keys, all of them or none.

        Raises:
            ValueError: A record that would not read back equal.
        """
        rows: list[tuple[str, bytes]] = []
        for key, records in records_by_key.items():
            text = to_json(list(records))
            if records and self._parsed(text, type(records[0]), key) != list(records):
                raise ValueError(f"{self.path}: {key}: the records would not read back equal")
            rows.append((key, text))
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?)", rows)

    def _parsed(self, text: bytes, record_type: type[T], key: str) -> list[T]:
        of_records: Any = list[record_type]  # type: ignore[valid-type]
        return cast(list[T], parse_record(text, of_records, f"{self.path}: {key}"))
