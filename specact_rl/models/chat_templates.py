"""Chat templates by name, for tokenizers whose own does not do.

The hub's Qwen3 template begins a turn with an empty thought and shows it without one from the
next prompt on, so that what a model wrote is not what it reads: whole episodes cannot be trained
on (GRPO, pairs of episodes). Prompts are the same as those of the template without thoughts. A
model that is first trained here may take another template, which is saved with it; every later
stage reads it from there.
"""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

from specact_rl.errors import ModelError

OWN = "own"
"""In the place of a name: the template that the tokenizer has."""

QWEN3_TRAINING = "qwen3_instruct_2507_training"
"""TRL's name of Qwen3's template without thoughts, which keeps earlier turns as they were."""


def chat_template(name: str) -> str:
    """Text of a template.

    Args:
        name: That of a file of TRL's `chat_templates`, without its ending, or a `.jinja` file.

    Raises:
        ModelError: There is no such template.
    """
    if name.endswith(".jinja"):
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"chat template {name} must be a text file: {error}") from error
    # Read as files: the module of TRL that holds some as constants takes seconds to import.
    folder = importlib.resources.files("trl").joinpath("chat_templates")
    file = folder.joinpath(f"{name}.jinja")
    if not re.fullmatch(r"\w+", name) or not file.is_file():
        raise ModelError(
            f"chat_template must be {OWN!r}, a .jinja file, or one that the installed TRL ships "
            f"(such as {QWEN3_TRAINING!r}, since 1.16), got {name!r}"
        )
    return file.read_text(encoding="utf-8")
