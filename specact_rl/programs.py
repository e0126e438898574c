"""Where recipes, data builders and evaluate modules are: the checkout, else the wheel's copy.

Knows files only; it neither imports nor runs a program.
"""

from __future__ import annotations

import ast
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from specact_rl.errors import ConfigError

ProgramKind = Literal["recipes", "data_builders", "evaluate_modules"]
"""Name of the folder a program lies in. Those of `evaluate_modules` are not run but loaded by path,
`evaluate.load(PATH)`, and each lies in a folder of its own name, as that library wants it."""
PROGRAM_KINDS: tuple[ProgramKind, ...] = get_args(ProgramKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One script that a user can run, copy and change."""

    kind: ProgramKind
    name: str
    """File name without `.py`."""
    path: Path
    summary: str
    """First line of the script's docstring; empty where it has none."""


def programs_root() -> Path:
    """The folder that holds `recipes/` and `data_builders/`."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    # In site-packages a neighbour called "recipes" belongs to somebody else.
    if (checkout / "pyproject.toml").is_file() and (checkout / "recipes").is_dir():
        return checkout
    return package / "_programs"


def list_programs() -> list[Program]:
    """All programs, recipes first, each kind by name."""
    root = programs_root()
    return [
        Program(kind=kind, name=path.stem, path=path, summary=_summary(path))
        for kind in PROGRAM_KINDS
        for path in _scripts(root / kind)
    ]


def find_program(kind: ProgramKind, name: str) -> Path:
    """Path of a program's script.

    Args:
        kind: Folder of the program.
        name: File name without `.py`.

    Raises:
        ConfigError: There is no such program; the message lists those there are.
    """
    folder = programs_root() / kind
    known = {path.stem: path for path in _scripts(folder)}
    if name not in known:
        raise ConfigError(f"{folder} has no program {name!r}; it has {sorted(known)!r}")
    return known[name]


def default_config(recipe: str) -> Path:
    """The config a recipe uses when it gets none: that of the tiny preset.

    Raises:
        ConfigError: The recipe has no tiny config.
    """
    path = programs_root() / "recipes" / "configs" / "tiny" / f"{recipe}.yaml"
    if not path.is_file():
        raise ConfigError(f"recipe {recipe!r} has no bundled config {path}; pass --config FILE")
    return path


def copy_programs(dest: Path) -> list[Path]:
    """Copy every program with its configs into `dest`, and return the folders written.

    Raises:
        ConfigError: One of the folders is there already; nothing has been written then.
    """
    root = programs_root()
    targets = {root / kind: dest / kind for kind in PROGRAM_KINDS}
    for target in targets.values():
        if target.exists():
            raise ConfigError(f"{target} exists and is not overwritten; choose another folder")
    for source, target in targets.items():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return list(targets.values())


def _scripts(folder: Path) -> list[Path]:
    """Programs of one kind by name: files, and files in a folder of their own name."""
    nested = [path for path in folder.glob("*/*.py") if path.stem == path.parent.name]
    return sorted([*folder.glob("*.py"), *nested])


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.splitlines()[0] if docstring else ""
