"""Functions and classes of the user's own files, named as FILE.py:NAME."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from specact_rl.errors import ConfigError


def named_in_file(name: str, what: str) -> tuple[Any, Path] | None:
    """What FILE.py:NAME names, and the file; None where the name is not of that form.

    Args:
        name: As the user typed it.
        what: It is to be, in words, for errors.

    Raises:
        ConfigError: The file does not define it.
    """
    file, colon, wanted = name.rpartition(":")
    path = Path(file)
    if not colon or not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} must be a Python file, to hold {what}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, wanted, None)
    if found is None:
        raise ConfigError(f"{path} must define {wanted!r}, {what} that was asked for")
    return found, path
