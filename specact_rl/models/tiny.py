"""Models small enough to train on a CPU: a byte-level tokenizer and a Qwen3 of 1M or 4M weights.

Knows the Qwen3 special tokens and chat template; nothing of where the texts come from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from specact_rl.models.chat_templates import QWEN3_TRAINING, chat_template

TinySize = Literal["1m", "4m"]

PAD_TOKEN = "<|endoftext|>"
TURN_START_TOKEN = "<|im_start|>"
STOP_TOKEN = "<|im_end|>"
SPECIAL_TOKENS = (PAD_TOKEN, TURN_START_TOKEN, STOP_TOKEN)
"""In the order of their ids, which start at 0."""
MARK_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""One token each, but kept when special tokens are skipped in decoding."""

MAX_POSITIONS = 4096

_NUM_BYTES = 256

# First match wins. Scaffolds that every tool call repeats are one piece. A handle such as t7 is a
# letter and a digit: to copy it, a small model has to learn to copy nine digits, not a handle of
# every service, and a digit is the same token in a listing and in a JSON string.
_PIECES = (
    r'\{"name": "',
    r'", "arguments": \{',
    r" ?[\p{L}_]+",
    r"\n",
    r"\d",
    r"[^\s\p{L}\d_]+ ?(?:[^\s\p{L}\d_]+)?",
    r"[^\S\n]",
)

# hidden size, intermediate size, layers, query heads (key/value heads are half of them)
_SHAPES: dict[TinySize, tuple[int, int, int, int]] = {
    "1m": (128, 384, 4, 4),
    "4m": (256, 576, 6, 8),
}


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen3's special tokens and non-thinking chat template.

    Any text comes back from its tokens exactly.

    Args:
        texts: What merges are learned from.
        vocab_size: Upper bound of the vocabulary, special tokens and 256 bytes included.
    """
    fixed = [*SPECIAL_TOKENS, *MARK_TOKENS]
    if vocab_size < len(fixed) + _NUM_BYTES:
        raise ValueError(f"vocab_size must be >= {len(fixed) + _NUM_BYTES}, got {vocab_size!r}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(_PIECES)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=fixed,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The trainer does not know special tokens in the texts: cut there, or it learns their letters.
    marks = re.compile("|".join(map(re.escape, fixed)))
    pieces = (piece for text in texts for piece in marks.split(text) if piece)
    tokenizer.train_from_iterator(pieces, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_with_plain_marks(tokenizer),
        pad_token=PAD_TOKEN,
        eos_token=STOP_TOKEN,
        chat_template=chat_template(QWEN3_TRAINING),
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def qwen3_config(vocab_size: int, size: TinySize) -> Qwen3Config:
    """A Qwen3 of about 1M or 4M weights (at a vocabulary of about 1,000), embeddings tied."""
    if size not in _SHAPES:
        raise ValueError(f"size must be one of {', '.join(_SHAPES)}, got {size!r}")
    hidden_size, intermediate_size, num_layers, num_heads = _SHAPES[size]
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads // 2,
        head_dim=hidden_size // num_heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL_TOKENS.index(PAD_TOKEN),
        eos_token_id=SPECIAL_TOKENS.index(STOP_TOKEN),
        bos_token_id=None,
    )


def new_model(config: Qwen3Config, seed: int) -> Qwen3ForCausalLM:
    """A model with random weights; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def _with_plain_marks(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with MARK_TOKENS kept in decoding, which the trainer makes special."""
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] in SPECIAL_TOKENS
    return Tokenizer.from_str(json.dumps(state))
