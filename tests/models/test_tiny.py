"""The tiny tokenizer and models: exact round trips, stable pieces, the sizes they claim."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from specact_rl.models.loading import num_params
from specact_rl.models.tiny import (
    _PIECES,
    MARK_TOKENS,
    SPECIAL_TOKENS,
    new_model,
    qwen3_config,
    train_tokenizer,
)

CALL = '<tool_call>\n{"name": "read_file", "arguments": {"file": "f12"}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer():
    texts = [f"<|im_start|>user\nopen f12 and t7<|im_end|>\n{CALL}"] * 20
    return train_tokenizer(texts, 420)


def pieces(text):
    splitter = pre_tokenizers.Split(Regex("|".join(_PIECES)), behavior="isolated")
    return [piece for piece, _ in splitter.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"name": "read_file", "arguments": {"file": "t12", "n": 30}}',
            ['{"name": "', "read_file", '", "arguments": {', '"', "file", '": "', "t", "1", "2"]
            + ['", "', "n", '": ', "3", "0", "}}"],
        ),
        ('{"name": "ping", "arguments": {}}', ['{"name": "', "ping", '", "arguments": {', "}}"]),
        ("red t7; old t9", ["red", " t", "7", "; ", "old", " t", "9"]),
        ("room12, v2_x", ["room", "1", "2", ", ", "v", "2", "_x"]),
        ("a\n\n  b", ["a", "\n", "\n", " ", " b"]),
        ("naïve 日本", ["naïve", " 日本"]),
    ],
)
def test_text_is_cut_into_pieces(text, expected):
    assert pieces(text) == expected


@given(st.text())
@settings(deadline=None)
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", [CALL, " <|im_start|> x <|im_end|>\n", "é <tool_call>  日本 ,. !"])
def test_marks_and_spaces_come_back_as_they_were(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_special_tokens_have_the_ids_of_the_config(tokenizer):
    config = qwen3_config(len(tokenizer), "1m")
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2]
    assert (config.pad_token_id, config.eos_token_id) == (0, 2)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)


def test_marks_are_single_tokens_that_survive_skipping_special_ones(tokenizer):
    ids = tokenizer("".join(MARK_TOKENS) + "<|im_end|>", add_special_tokens=False)["input_ids"]
    assert len(ids) == len(MARK_TOKENS) + 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "".join(MARK_TOKENS)


def test_scaffolds_seen_in_training_are_single_tokens(tokenizer):
    for text in ('{"name": "', '", "arguments": {'):
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1


def test_digit_of_a_handle_is_the_same_token_in_a_listing_and_in_a_call(tokenizer):
    listing, call = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("red lamp t7", '"t7"')
    )
    assert listing[-1] == call[-2]


def test_special_tokens_in_texts_are_not_learned_as_letters(tokenizer):
    assert not [token for token in tokenizer.get_vocab() if "im_st" in token and "|" not in token]


def test_saved_tokenizer_gives_the_same_tokens_and_prompts(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "open f12  é"}]
    ids = [
        each.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        for each in (tokenizer, loaded)
    ]
    assert ids[0] == ids[1]
    assert (
        loaded.decode(ids[1]) == "<|im_start|>user\nopen f12  é<|im_end|>\n<|im_start|>assistant\n"
    )


def test_vocabulary_has_the_size_asked_for_at_most(tokenizer):
    assert len(tokenizer) <= 420
    with pytest.raises(ValueError, match="vocab_size must be >= 263"):
        train_tokenizer([], 262)


@pytest.mark.parametrize(("size", "least", "most"), [("1m", 0.8e6, 1.1e6), ("4m", 3.7e6, 4.3e6)])
def test_models_have_about_the_weights_of_their_name(size, least, most):
    model = new_model(qwen3_config(1000, size), seed=0)
    assert least < num_params(model) < most
    heads = model.config.num_attention_heads
    assert (model.config.head_dim, heads // model.config.num_key_value_heads) == (32, 2)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    config = qwen3_config(300, "1m")
    torch.manual_seed(5)
    models = [new_model(config, seed) for seed in (1, 1, 2)]
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn == torch.rand(1)
    weights = [model.model.layers[0].mlp.up_proj.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
