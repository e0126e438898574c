"""Configurations of models of a few thousand weights."""

from transformers import Qwen3Config


def tiny_config(tokenizer, **options):
    """A Qwen3 for a tokenizer, and its initial weights are far from uniform, so that errors show.

    Args:
        tokenizer: Its size and special tokens are the model's.
        options: Of Qwen3Config, over those here.
    """
    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": options.get("hidden_size", 16) // 4,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "initializer_range": 0.5,
    }
    return Qwen3Config(**values | options)
