from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

from specact_rl.models.loading import save_checkpoint_info
from specact_rl.rendering import Renderer

BASE = Path(__file__).resolve().parents[2] / "specact_rl" / "models" / "bases" / "1m"


@pytest.fixture(scope="session")
def save_verifier():
    """`save_verifier(folder, num_labels)`: a small checkpoint with random weights."""

    def save(folder, num_labels):
        tokenizer = AutoTokenizer.from_pretrained(BASE)
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=4,
            num_labels=num_labels,
            pad_token_id=tokenizer.pad_token_id,
        )
        Qwen3ForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_checkpoint_info(folder, Renderer(tokenizer=tokenizer, catalogue="compact"))
        return folder

    return save
