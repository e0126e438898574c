"""Arguments of recipes: a YAML file, the command line over it, and errors in one line.

Knows TRL's argument parser; nothing of models or training.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import yaml
from trl.scripts.utils import TrlParser

from specact_rl.errors import ConfigError, SpecActError
from specact_rl.models.chat_templates import OWN
from specact_rl.rendering import CatalogueMode

# TRL turns these on, which small CPU runs want off; a config turns them on again.
_DEFAULTS = {"bf16": False, "dataloader_pin_memory": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeArguments:
    """What every recipe adds to its trainer's arguments and ModelConfig."""

    dataset_dir: Path = field(metadata={"help": "Folder that a data builder wrote."})
    split: str = field(default="train", metadata={"help": "Split of the folder to train on."})
    catalogue: CatalogueMode = field(
        default="compact",
        metadata={"help": "Where prompts list their tools: compact (system message) or template."},
    )
    chat_template: str = field(
        default=OWN,
        metadata={
            "help": "Template that the model is trained with and keeps: own (its tokenizer's), a "
            "name of TRL's, or a .jinja file. One that was trained here keeps the one it has."
        },
    )
    num_processes: int = field(
        default=1, metadata={"help": "Processes the launcher was told to start; fewer is an error."}
    )
    allow_truncation: bool = field(
        default=False, metadata={"help": "Cut the beginning of prompts beyond max_length."}
    )

    def __post_init__(self) -> None:
        """Check what YAML values are not checked for."""
        if self.catalogue not in ("compact", "template"):
            raise ConfigError(f"catalogue must be 'compact' or 'template', got {self.catalogue!r}")
        if not isinstance(self.num_processes, int) or self.num_processes < 1:
            raise ConfigError(f"num_processes must be at least 1, got {self.num_processes!r}")


@contextmanager
def recipe_errors(recipe: str) -> Iterator[None]:
    """Log to stderr, and turn errors that a user can act on into one line and exit code 2."""
    package = logging.getLogger("specact_rl")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{recipe}: %(message)s"))
    before = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO if os.environ.get("LOCAL_RANK", "0") == "0" else logging.ERROR)
    try:
        yield
    except SpecActError as error:
        sys.stderr.write(f"{recipe}: error: {error}\n")
        raise SystemExit(2) from error
    finally:
        package.removeHandler(handler)
        package.setLevel(before)


def parse_arguments(
    types: Sequence[Any],
    default_config: Path,
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
) -> tuple[Any, ...]:
    """A recipe's arguments: the values of a YAML file, overridden by the command line.

    Args:
        types: Dataclasses whose fields are the keys.
        default_config: Read when the command line has no `--config`.
        argv: None for the arguments of this process.
        prog: The recipe's name; None where `default_config` is named after it.

    Raises:
        ConfigError: An unknown key, one that is given twice, or a value that does not fit.
    """
    prog = prog or default_config.stem
    first = argparse.ArgumentParser(prog, add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path, default=default_config)
    found, rest = first.parse_known_args(argv)
    _check_keys(found.config, types)
    # A shortened key would be taken for the option it begins.
    parser = TrlParser(
        types,
        prog=prog,
        allow_abbrev=False,
        usage="%(prog)s [--config FILE.yaml] [--key value ...]",
    )
    parser.set_defaults_with_config(**_DEFAULTS)
    if parser.get_default("gradient_checkpointing"):
        parser.set_defaults_with_config(gradient_checkpointing=False)
    try:
        return cast(
            tuple[Any, ...],
            parser.parse_args_and_config(["--config", str(found.config), *rest]),
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{found.config} and command line: {error}") from error


def _check_keys(config: Path, types: Sequence[Any]) -> None:
    try:
        text = config.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)  # the values know no lines
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {config} must be a YAML file: {error}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{config} must hold `key: value` lines, got {type(values).__name__}")
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        earlier = lines.setdefault(key, line)
        if earlier != line:
            raise ConfigError(
                f"{config}:{line}: a key must be given once, {key!r} is also at "
                f"{config}:{earlier}; delete one of the two"
            )
    known = {f.name for kind in types for f in fields(kind) if f.init}
    unknown = [
        f"{config}:{line}: no such key: {key!r}"
        + "".join(f" (near {near!r})" for near in difflib.get_close_matches(key, known, 1))
        for key, line in lines.items()
        if key not in known
    ]
    if unknown:
        raise ConfigError("; ".join([*unknown, "--help lists them"]))
