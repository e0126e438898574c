"""JSON values, hashes, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import specact_rl
from specact_rl.errors import ConfigError

# json.dumps would make an encoder for each value.
_CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
)


def canonical_json(value: object) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, no escaped unicode.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
        TypeError: Not a JSON value.
    """
    return _CANONICAL.encode(value)


def content_hash(value: object) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def source_hash() -> str:
    """Hash of the package's code: two versions of one number need not be one code."""
    root = Path(specact_rl.__file__).parent
    return content_hash(
        {path.relative_to(root).as_posix(): file_hash(path) for path in sorted(root.rglob("*.py"))}
    )


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, which `remove_temporaries` and the next stage know to delete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the body ends without error.

    Readers see the old file or the whole new one, never a part, also after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path, name: str = "*") -> None:
    """Delete what killed writes of files of this name left; nobody may be writing them now."""
    for leftover in folder.glob(f".{name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write one JSON value, indented, keys in their own order."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        ConfigError: No such file, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} must exist, but there is no such file") from error
    except ValueError as error:
        raise ConfigError(f"{path} must be one JSON value: {error}") from error
