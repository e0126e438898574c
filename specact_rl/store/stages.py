"""Stages: folders with a manifest, made whole or not at all, skipped or resumed on a re-run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from specact_rl import __version__
from specact_rl.errors import ConfigError, RolloutFormatError
from specact_rl.store.files import canonical_json, file_hash, read_json, sync, write_json
from specact_rl.store.tables import parse_record
from specact_rl.types import SCHEMA_VERSION

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_HEADER = ".stage.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a finished folder was made from and holds; `manifest.json`."""

    schema_version: int
    stage: str
    code_version: str
    inputs: dict[str, str]
    """Hash of each input file or folder, by its name in the stage."""
    arguments: dict[str, Any]
    seed: int | None
    """None for stages without chance."""
    counts: dict[str, int]
    dropped: dict[str, int]
    """Rows left out, by reason."""
    files: dict[str, str]
    """SHA-256 by path within the folder, `/` between the parts; manifest.json is not among them."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """An open stage: where to write, and what to count."""

    path: Path
    """Folder to write to while open; the finished folder when `done`."""
    done: bool
    """True: a folder made from the same things is there already, skip the work."""
    counts: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished folder.

    Raises:
        ConfigError: There is none, or it does not fit.
    """
    path = folder / _MANIFEST
    if not path.is_file():
        raise ConfigError(
            f"{folder} must be a finished stage folder, but has no {_MANIFEST}. "
            "Run the stage that writes it."
        )
    try:
        return parse_record(path.read_bytes(), Manifest, str(path))
    except RolloutFormatError as error:
        raise ConfigError(f"{error}. Rebuild the folder.") from error


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and hashes of a finished folder's files, as its manifest has them.

    Raises:
        ConfigError: The folder has no manifest.
    """
    return hashlib.sha256(canonical_json(read_manifest(folder).files).encode()).hexdigest()


def input_hash(path: Path) -> str:
    """Hash of an input: `file_hash` of a file, `folder_hash` of a folder.

    Raises:
        ConfigError: Neither, or a folder without a manifest.
    """
    if path.is_dir():
        return folder_hash(path)
    if not path.is_file():
        raise ConfigError(f"input {path} must exist, but there is no such file or folder")
    return file_hash(path)


@contextmanager
def open_stage(
    folder: Path,
    name: str,
    *,
    inputs: Mapping[str, Path],
    arguments: Mapping[str, Any],
    seed: int | None = None,
    overwrite: bool = False,
) -> Iterator[Stage]:
    """Make `folder` whole or not at all: work in `folder.partial`, renamed when the body ends well.

    A finished folder made from the same things gives `done`; an unfinished one of the same
    things is taken up again with the files it has, so that shards are not computed twice, and
    one of other things is deleted. One process at a time may open a folder.

    Args:
        folder: Where the result will be.
        name: Name of the stage in the manifest.
        inputs: Files, or finished folders, by name.
        arguments: JSON values that the result depends on.
        seed: None for stages without chance.
        overwrite: Replace a finished folder that was made from other things.

    Raises:
        ConfigError: `folder` holds something else and must not be replaced, or an input is missing.
    """
    header = {
        "schema_version": SCHEMA_VERSION,
        "stage": name,
        "code_version": __version__,
        "inputs": {key: input_hash(path) for key, path in inputs.items()},
        "arguments": json.loads(canonical_json(dict(arguments))),
        "seed": seed,
    }
    partial = folder.with_name(folder.name + ".partial")
    if _is_finished(partial, header):  # killed between the manifest and the rename
        _publish(partial, folder, overwrite=overwrite)
    if _is_finished(folder, header):
        manifest = read_manifest(folder)
        logger.info("%s: %s is up to date", name, folder)
        yield Stage(path=folder, done=True, counts=manifest.counts, dropped=manifest.dropped)
        return
    _check_replaceable(folder, overwrite=overwrite)
    _prepare_partial(partial, header)
    stage = Stage(path=partial, done=False)
    yield stage
    manifest = Manifest(
        **header, counts=stage.counts, dropped=stage.dropped, files=_hash_files(partial)
    )
    write_json(partial / _MANIFEST, asdict(manifest))
    _publish(partial, folder, overwrite=overwrite)
    logger.info("%s: wrote %s; counts %r, dropped %r", name, folder, stage.counts, stage.dropped)


def _hash_files(folder: Path) -> dict[str, str]:
    """Flush all files of a folder and hash them, the stage's own two left out."""
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path not in (folder / _HEADER, folder / _MANIFEST):
            sync(path)
            hashes[path.relative_to(folder).as_posix()] = file_hash(path)
    return hashes


def _is_finished(folder: Path, header: Mapping[str, Any]) -> bool:
    if not (folder / _MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    return all(getattr(manifest, key) == value for key, value in header.items()) and all(
        (folder / name).is_file() for name in manifest.files
    )


def _check_replaceable(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / _MANIFEST).is_file():
        raise ConfigError(
            f"{folder} must be new, empty or a stage folder, but holds files and no {_MANIFEST}. "
            "Choose another folder; nothing was deleted."
        )
    if not overwrite:
        raise ConfigError(
            f"{folder} was made by stage {read_manifest(folder).stage!r} from other inputs, "
            "arguments, seed or code. Choose another folder, or overwrite it."
        )


def _prepare_partial(partial: Path, header: Mapping[str, Any]) -> None:
    recorded = partial / _HEADER
    if partial.exists() and not (recorded.is_file() and read_json(recorded) == header):
        shutil.rmtree(partial)
    for leftover in partial.rglob(".*.tmp"):  # of writes that were killed
        leftover.unlink()
    write_json(recorded, header)


def _publish(partial: Path, folder: Path, *, overwrite: bool) -> None:
    """Rename the finished partial folder to its place; its header goes first."""
    _check_replaceable(folder, overwrite=overwrite)
    (partial / _HEADER).unlink(missing_ok=True)
    replaced = folder.with_name(folder.name + ".replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        os.rename(folder, replaced)
    os.rename(partial, folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)
