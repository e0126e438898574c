from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen3ForSequenceClassification

from specact_rl.models.loading import save_checkpoint_info
from specact_rl.rendering import Renderer
from tests.tiny_models import tiny_config

BASE = Path(__file__).resolve().parents[2] / "specact_rl" / "models" / "bases" / "1m"


@pytest.fixture(scope="session")
def save_verifier():
    """`save_verifier(folder, num_labels)`: a small checkpoint with random weights."""

    def save(folder, num_labels):
        tokenizer = AutoTokenizer.from_pretrained(BASE)
        torch.manual_seed(0)
        config = tiny_config(tokenizer, num_hidden_layers=1, num_labels=num_labels)
        Qwen3ForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_checkpoint_info(folder, Renderer(tokenizer=tokenizer, catalogue="compact"))
        return folder

    return save
