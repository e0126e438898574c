"""Cards: the README.md of a model or data set, as the Hugging Face Hub reads it.

Knows the form, not what a model or data set is. Folders of this machine are not its reader's: a
card names them by their last part, and their content by hash.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:  # a fifth of a second, which only who writes a card need wait for
    from huggingface_hub import CardData

CARD = "README.md"
"""Name of a card's file."""


def card_text(data: CardData, title: str, sections: Mapping[str, str]) -> str:
    """A whole card: front matter, title, and the sections that have a text."""
    parts = [f"---\n{data.to_yaml()}\n---", f"# {title}"]
    for heading, text in sections.items():
        if text:
            parts.append(f"## {heading}\n\n{text}" if heading else text)
    return "\n\n".join(parts) + "\n"


def yaml_block(values: Mapping[str, Any]) -> str:
    """Values as a block of YAML, paths by their last part."""
    shown = {key: shown_value(value) for key, value in values.items()}
    return f"```yaml\n{yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)}```"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, or nothing where there are no rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def shown_value(value: Any) -> Any:
    """The value, with each path in it by its last part."""
    if isinstance(value, Mapping):
        return {str(key): shown_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [shown_value(each) for each in value]
    if isinstance(value, Path):
        return value.name
    return shown_argument(value) if isinstance(value, str) else value


def shown_argument(text: str) -> str:
    """A word of a command line; a path of this machine by its last part, a hub id as it is."""
    option, equals, value = text.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={shown_argument(value)}"
    path = Path(text)
    is_path = path.is_absolute() or (len(path.parts) > 1 and path.exists()) or ".." in path.parts
    return path.name if is_path else text


def shown_command(program: str, arguments: Sequence[str]) -> str:
    """A block with a command line, no path of this machine in it."""
    words = [program, *map(shown_argument, arguments)]
    return f"```bash\n{shlex.join(words)}\n```"
