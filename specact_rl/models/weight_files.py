"""Whether the files of a checkpoint are whole, seen from their headers; no weight is read.

A copy that was cut short, or a shard that is not there, would otherwise be found by whatever
library comes first, under a name of its own, or after minutes of loading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specact_rl.errors import ModelError

_INDEX = "model.safetensors.index.json"
_DESCRIPTIONS = ("config.json", "tokenizer.json", "tokenizer_config.json", _INDEX)
_LENGTH_BYTES = 8


def check_whole(folder: Path) -> None:
    """Check that every file of a checkpoint, or of an adapter, has what it says it has.

    A folder without safetensors passes: who loads it says what is wanted.

    Raises:
        ModelError: A file is cut short or no safetensors file, or a shard is not there; says which.
    """
    for name in _DESCRIPTIONS:
        if (folder / name).is_file():
            _json(folder / name)
    headers = {path.name: _header(path) for path in sorted(folder.glob("*.safetensors"))}
    index = folder / _INDEX
    if not index.is_file():
        return
    shards: dict[str, str] = _json(index).get("weight_map", {})
    missing = sorted(set(shards.values()) - set(headers))
    if missing:
        raise ModelError(
            f"{folder} must hold the {len(set(shards.values()))} shards that {index.name} names, "
            f"but {len(missing)} are not there: {', '.join(missing)}; copy or download them again"
        )
    for tensor, shard in shards.items():
        if tensor not in headers[shard]:
            raise ModelError(
                f"{folder / shard} must have the tensor {tensor!r}, as {index.name} says, but has "
                "not; the two are of different checkpoints, so copy the folder again"
            )


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor in the safetensors files of a folder, by its name.

    Raises:
        ModelError: A file is cut short.
    """
    return {
        name: tuple(entry["shape"])
        for path in sorted(folder.glob("*.safetensors"))
        for name, entry in _header(path).items()
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{path} must be one JSON value, but is cut short or damaged ({error}); copy or "
            "download it again"
        ) from error


def _header(path: Path) -> Mapping[str, Any]:
    """Place and shape of each tensor, once the file is as long as they say."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES + length:  # also the text that Git LFS leaves for a file
            raise ModelError(
                f"{path} must be a whole safetensors file, but its {size:,} bytes end before its "
                "header does; copy or download it again (git lfs pull, if it is from a repository)"
            )
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelError(
                f"{path} must be a safetensors file, but has no header that can be read: {error}"
            ) from error
    header.pop("__metadata__", None)
    expected = (
        _LENGTH_BYTES + length + max((t["data_offsets"][1] for t in header.values()), default=0)
    )
    if size != expected:
        raise ModelError(
            f"{path} must have {expected:,} bytes, as its header says, but has {size:,}: it was "
            "cut short, or something was written behind it; copy or download it again"
        )
    return header
