"""A renderer with a byte-level tokenizer."""

import pytest

from specact_rl.models.tiny import train_tokenizer
from specact_rl.rendering import Renderer


@pytest.fixture(scope="session")
def renderer():
    tokenizer = train_tokenizer(["read_file f1 f2 delete_file Tidy up"], 400)
    return Renderer(tokenizer=tokenizer, catalogue="compact")
