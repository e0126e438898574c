"""Ends that are masked, missing or unknown are found in what a trainer would be given."""

from types import SimpleNamespace

import pytest
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as SFTCollator

from specact_rl.models.end_tokens import check_ends
from specact_rl.models.lora_cells import faulty_row
from specact_rl.models.tiny import train_tokenizer
from specact_rl.models.training import TokenRow


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Open f1 please. Done."], 300)


def make_rows(tokenizer):
    """Each of another length, so that a batch is padded."""
    turn = tokenizer("Done", add_special_tokens=False)["input_ids"]
    return [
        TokenRow(prompt=turn * (i + 1), completion=[*turn, tokenizer.eos_token_id])
        for i in range(10)
    ]


def make_trainer(tokenizer, collate, fault="none", stops=None, labels=True):
    rows = make_rows(tokenizer)
    given = [faulty_row(row, rows[i - 1], fault) for i, row in enumerate(rows)]
    columns = {"input_ids": [ids for ids, _ in given]}
    if labels:
        columns["labels"] = [each for _, each in given]
    config = SimpleNamespace(eos_token_id=tokenizer.eos_token_id if stops is None else stops)
    return SimpleNamespace(
        train_dataset=Dataset.from_dict(columns),
        data_collator=collate,
        model=SimpleNamespace(generation_config=config),
    )


def found(tokenizer, **how):
    collate = SFTCollator(pad_token_id=tokenizer.pad_token_id)
    return check_ends(make_trainer(tokenizer, collate, **how), tokenizer)


def test_rows_whose_ends_are_trained_are_sound(tokenizer):
    ends = found(tokenizer)
    assert ends.sound
    assert (ends.num_rows, ends.num_ending, ends.num_trained) == (10, 10, 10)
    assert ends.in_words == (
        "The stop token is the last token under the loss in all 10 rows; pad and stop token differ."
    )


def test_masked_ends_are_found(tokenizer):
    ends = found(tokenizer, fault="end_masked")
    assert not ends.sound
    assert (ends.num_ending, ends.num_trained) == (10, 0)
    assert ends.in_words.startswith("The stop token is MASKED out of the loss in 10 of 10 rows")


def test_missing_ends_are_found(tokenizer):
    ends = found(tokenizer, fault="end_missing")
    assert not ends.sound
    assert (ends.num_ending, ends.num_trained) == (0, 0)
    assert ends.in_words.startswith("The stop token is MISSING at the end of 10 of 10 rows")


def test_a_collator_that_masks_padding_by_its_id_masks_ends_only_where_pad_is_stop(tokenizer):
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    assert check_ends(make_trainer(tokenizer, collate, labels=False), tokenizer).sound
    pad = tokenizer.pad_token
    try:
        tokenizer.pad_token = tokenizer.eos_token
        ends = check_ends(make_trainer(tokenizer, collate, labels=False), tokenizer)
        # the same with TRL's collator, which masks by position: sound, but said
        kind = found(tokenizer)
    finally:
        tokenizer.pad_token = pad
    assert (ends.num_ending, ends.num_trained, ends.pad_is_stop) == (10, 0, True)
    assert not ends.sound
    assert "would mask every end" in ends.in_words
    assert kind.sound
    assert kind.pad_is_stop


def test_a_generation_config_that_does_not_stop_there_is_found(tokenizer):
    assert found(tokenizer, stops=[tokenizer.pad_token_id, tokenizer.eos_token_id]).sound
    ends = found(tokenizer, stops=tokenizer.pad_token_id)
    assert ends.num_trained == ends.num_rows
    assert not ends.sound
    assert "does NOT stop" in ends.in_words
