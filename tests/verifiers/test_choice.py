"""Which verifier is meant, and what its results depend on."""

import pytest

from specact_rl.errors import ConfigError
from specact_rl.verifiers.choice import choose_verifier


def test_another_encoder_in_the_same_folder_is_another_choice(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    one = choose_verifier(f"encoder:{tmp_path}", seed=0)
    assert choose_verifier(f"encoder:{tmp_path}", seed=0).identity == one.identity
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert choose_verifier(f"encoder:{tmp_path}", seed=0).identity != one.identity


def test_a_name_of_nothing_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="encoder:FOLDER_OR_HUB_ID"):
        choose_verifier("oracle", seed=0)
