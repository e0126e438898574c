"""What a base is, without its weights and without the hub: its config, its tokenizer if at hand.

A table of our own has the numbers of the bases that presets name; a folder and a model in the cache
say theirs themselves. Nothing is downloaded.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from specact_rl.errors import ConfigError
from specact_rl.models.chat_templates import OWN, chat_template
from specact_rl.models.names import ModelName

# hidden size, intermediate size, layers, query heads, whether input and output share an embedding
_SHAPES = {
    "Qwen/Qwen3-1.7B": (2_048, 6_144, 28, 16, True),
    "Qwen/Qwen3-4B": (2_560, 9_728, 36, 32, True),
    "Qwen/Qwen3-4B-Instruct-2507": (2_560, 9_728, 36, 32, True),
    "Qwen/Qwen3-8B": (4_096, 12_288, 36, 32, False),
}
KNOWN_BASES = tuple(_SHAPES)
"""Hub ids in the table."""


def config_of(base: str) -> tuple[PreTrainedConfig, str]:
    """The config of a base, and where it comes from in words.

    Args:
        base: A folder, a hub id, or `id@revision`.

    Raises:
        ConfigError: Neither a folder with a config, nor in the table, nor in the cache.
    """
    name = ModelName.parse(base)
    if not name.is_folder and name.place in _SHAPES:
        return _table_config(name.place), "table"
    try:
        found = AutoConfig.from_pretrained(
            name.place, trust_remote_code=False, local_files_only=True, **name.options
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the shape of base {base!r} is not known without a download: it must be a checkpoint "
            f"folder, in the hub's cache, or one of {', '.join(KNOWN_BASES)}; fetch its "
            "config.json into a folder and give that"
        ) from error
    return found, "folder" if name.is_folder else "cache"


def tokenizer_at_hand(base: str, template: str = OWN) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder or of a model in the cache; None where it would be a download.

    `template` names the chat template that it gets, as in `load_tokenizer`.
    """
    name = ModelName.parse(base)
    try:
        found = AutoTokenizer.from_pretrained(
            name.place, trust_remote_code=False, local_files_only=True, **name.options
        )
    except (OSError, ValueError):
        return None
    if not isinstance(found, PreTrainedTokenizerBase):
        return None
    if template != OWN:
        found.chat_template = chat_template(template)
    return found


def _table_config(hub_id: str) -> Qwen3Config:
    hidden, inner, layers, heads, tied = _SHAPES[hub_id]
    return Qwen3Config(
        vocab_size=151_936,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=tied,
    )
