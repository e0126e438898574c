"""Training rows as tokens, the losses on them, and the check of what a trainer made of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from specact_rl.errors import ConfigError, ModelError
from specact_rl.models.tiny import train_tokenizer
from specact_rl.models.training import (
    CutAfterStop,
    TokenRow,
    WeightedCrossEntropy,
    binary_labels,
    check_pad_token,
    check_pairs,
    check_trained_tokens,
    class_weights,
    fit_rows,
    sampled_rows,
    token_rows,
)
from specact_rl.rendering import Renderer
from specact_rl.store import read_training_rows, write_training_rows
from specact_rl.types import Action, ToolSpec
from tests import records

OPEN = Action(type="file_read", tool="open", arguments={"file": "f1", "deep": {"a": [1, None]}})
SEND = Action(type="tool_call", tool="send", arguments={"to": "Zoë"})
SAY = Action(type="final_answer", text="Done.")
TOOLS = [
    ToolSpec(name="open", parameters={"type": "object", "properties": {"file": {}, "deep": {}}}),
    ToolSpec(name="send", description="Send it."),
]


def make_step(text):
    return records.make_step(text, tools=TOOLS)


@pytest.fixture
def tokenizer():
    return train_tokenizer(['open {"file": "f1"}', "Done."], 320)


@pytest.fixture(params=["compact", "template"])
def renderer(request, tokenizer):
    return Renderer(tokenizer=tokenizer, catalogue=request.param)


def pair_row(renderer, step, chosen, rejected):
    return renderer.prompt_fields(step) | {
        name: renderer.training_row(step, action)["completion"]
        for name, action in (("chosen", chosen), ("rejected", rejected))
    }


def row_of(num_prompt, num_completion, where="a row"):
    completion = list(range(50, 50 + num_completion))
    return TokenRow(prompt=list(range(num_prompt)), completion=completion, where=where)


# Rows to tokens


def test_tokens_of_a_stored_row_are_those_of_inference(renderer, tmp_path):
    step = make_step("Open “f1”")
    rows = [pair_row(renderer, step, OPEN, SAY), pair_row(renderer, step, SEND, OPEN)]
    write_training_rows(tmp_path, {"train": rows}, "Pairs.")
    stored = read_training_rows(tmp_path, "train")
    pairs = token_rows(stored, renderer, ["chosen", "rejected"])
    assert [[side.completion for side in pair] for pair in pairs] == [
        [renderer.completion_ids(OPEN), renderer.completion_ids(SAY)],
        [renderer.completion_ids(SEND), renderer.completion_ids(OPEN)],
    ]
    assert all(side.prompt == renderer.prompt_ids(step) for pair in pairs for side in pair)


def test_rows_end_with_the_stop_token(renderer):
    rows = [renderer.training_row(make_step("Hello"), action) for action in (OPEN, SAY)]
    for [row] in token_rows(rows, renderer, ["completion"]):
        assert row.ids[-1] == renderer.tokenizer.eos_token_id


def test_changed_rows_are_refused(renderer):
    row = renderer.training_row(make_step("Hello"), SAY)
    row["prompt"] = [{"role": "user", "content": "Goodbye"}]
    with pytest.raises(ModelError, match=r"rows\.parquet: row 0 .*history_hash"):
        token_rows([row], renderer, ["completion"], "rows.parquet")


def test_rows_of_the_other_catalogue_mode_are_refused(tokenizer):
    compact, template = (
        Renderer(tokenizer=tokenizer, catalogue=mode) for mode in ("compact", "template")
    )
    row = template.training_row(make_step("Hello"), SAY)
    with pytest.raises(ConfigError, match=r"rows\.parquet: row 0: .* catalogue 'template'"):
        token_rows([row], compact, ["completion"], "rows.parquet")


def test_missing_column_is_named(renderer):
    rows = [renderer.training_row(make_step("Hello"), SAY)]
    with pytest.raises(
        ConfigError, match=r"rows\.parquet: row 0 must have a value in \['rejected'\]"
    ):
        token_rows(rows, renderer, ["completion", "rejected"], "rows.parquet")


def test_labels_are_the_turn_and_nothing_else():
    row = TokenRow(prompt=[1, 2], completion=[3, 4])
    assert row.ids == [1, 2, 3, 4]
    assert row.labels == [-100, -100, 3, 4]


def test_tokens_know_the_row_that_they_come_from(renderer):
    row = pair_row(renderer, make_step("Hello"), OPEN, SAY)
    rows = [row, row | {"step_id": "r/0"}]
    pairs = token_rows(rows, renderer, ["chosen", "rejected"], "rows.parquet")
    assert [[side.where for side in pair] for pair in pairs] == [
        ["rows.parquet: row 0"] * 2,
        ["rows.parquet: row 1 (step r/0)"] * 2,
    ]


def test_pairs_of_the_same_tokens_are_refused():
    one, other = row_of(2, 3, where="rows.parquet: row 1"), row_of(2, 4)
    check_pairs([[one, other]])
    with pytest.raises(ConfigError, match=r"rows\.parquet: row 1: chosen and rejected"):
        check_pairs([[one, other], [one, one]])


# Lengths


def test_rows_that_fit_stay_as_they_are():
    rows = [row_of(3, 2), row_of(1, 4)]
    assert fit_rows(rows, 5, allow_truncation=False) == rows
    assert fit_rows(rows, None, allow_truncation=False) == rows


def test_long_rows_are_counted_and_the_longest_is_named():
    rows = [row_of(3, 2), row_of(4, 2), row_of(1234, 6, where="rows.parquet: row 2 (step r/0)")]
    message = r"rows\.parquet: row 2 \(step r/0\) has 1,240 tokens, .* max_length 5, and 2 of 3 are"
    with pytest.raises(ConfigError, match=message):
        fit_rows(rows, 5, allow_truncation=False)


@given(st.integers(1, 30), st.integers(1, 10), st.integers(11, 50))
def test_truncation_takes_from_the_beginning_of_the_prompt(num_prompt, num_completion, limit):
    row = row_of(num_prompt, num_completion)
    [cut] = fit_rows([row], limit, allow_truncation=True)
    assert cut.completion == row.completion
    assert cut.ids == row.ids[-limit:]


def test_a_turn_is_never_cut():
    row = row_of(3, 5, where="rows.parquet: row 0")
    with pytest.raises(ConfigError, match=r"rows\.parquet: row 0 .* leaves no prompt"):
        fit_rows([row], 5, allow_truncation=True)


# What a trainer makes of its rows


@pytest.fixture
def train_on(plain_lm, tokenizer, tmp_path):
    """An SFT trainer over these rows."""
    model = plain_lm
    model.resize_token_embeddings(len(tokenizer))

    def build(rows, **options):
        arguments = SFTConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **options
        )
        dataset = Dataset.from_list(rows)
        return SFTTrainer(model, arguments, train_dataset=dataset, processing_class=tokenizer)

    return build


def tokenised(rows):
    return [{"input_ids": row.ids, "labels": row.labels} for row in rows]


@pytest.fixture
def examples(tokenizer):
    renderer = Renderer(tokenizer=tokenizer, catalogue="compact")
    rows = [renderer.training_row(make_step(f"Say {i}"), SAY) for i in range(3)]
    return rows, [row for [row] in token_rows(rows, renderer, ["completion"])]


def test_our_tokens_pass_the_trainer_unchanged(train_on, examples):
    check_trained_tokens(train_on(tokenised(examples[1])), examples[1], num_rows=3)


def test_left_alone_trl_also_trains_on_a_newline_after_the_stop_token(
    train_on, examples, tokenizer
):
    rows, expected = examples
    trainer = train_on([{name: row[name] for name in ("prompt", "completion")} for row in rows])
    with pytest.raises(ModelError, match="tokens of inference"):
        check_trained_tokens(trainer, expected, num_rows=3)
    labels = [label for label in trainer.train_dataset[0]["labels"] if label != -100]
    assert labels == expected[0].completion + tokenizer.encode("\n")


def test_padding_free_batches_are_found(train_on, examples):
    trainer = train_on(tokenised(examples[1]), padding_free=True, max_length=None)
    with pytest.raises(ModelError, match="tokens of inference"):
        check_trained_tokens(trainer, [examples[1][0]], num_rows=3)


@pytest.mark.parametrize("options", [{"packing": True}, {"max_length": 8}], ids=str)
def test_rows_that_were_packed_or_dropped_are_found(options, train_on, examples):
    trainer = train_on(tokenised(examples[1]), **options)
    with pytest.raises(ModelError, match="must train on 3 rows, but made"):
        check_trained_tokens(trainer, examples[1], num_rows=3)


def test_loss_on_the_prompt_is_found(train_on, examples):
    rows = [{"input_ids": row.ids, "labels": row.ids} for row in examples[1]]
    with pytest.raises(ModelError, match="has its loss on"):
        check_trained_tokens(train_on(rows), examples[1], num_rows=3)


def test_sequences_of_a_classifier_are_compared_as_a_whole(classifier_trainer, examples, tokenizer):
    rows = examples[1]
    ids = [row.ids for row in rows]
    check_trained_tokens(classifier_trainer(ids), rows, num_rows=3)
    with pytest.raises(ModelError, match="tokens of inference"):
        check_trained_tokens(classifier_trainer([each[:-1] for each in ids]), rows, num_rows=3)


@pytest.fixture
def classifier_trainer(plain_lm, tokenizer, tmp_path):
    def build(ids):
        return Trainer(
            plain_lm,
            TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"),
            train_dataset=Dataset.from_dict({"input_ids": ids, "labels": [0] * len(ids)}),
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )

    return build


def test_stop_token_ends_both_sides_of_a_pair():
    cut = CutAfterStop(collate=lambda rows: {"rows": rows}, stop_token_id=2)
    row = {"prompt_ids": [2, 9], "chosen_ids": [5, 2, 7], "rejected_ids": [2, 6, 2]}
    expected = {"prompt_ids": [2, 9], "chosen_ids": [5, 2], "rejected_ids": [2, 6, 2]}
    assert cut([row]) == {"rows": [expected]}


def test_pad_token_must_not_be_the_stop_token(tokenizer):
    check_pad_token(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(ModelError, match="must not be the stop token"):
        check_pad_token(tokenizer)


# Labels and balance


def test_labels_become_0_and_1():
    assert binary_labels([{"label": True}, {"label": False}]) == [1, 0]


@pytest.mark.parametrize("label", [None, 1, 0.0, "true"])
def test_labels_that_are_no_bools_are_refused(label):
    rows = [{"label": True}, {"label": label, "step_id": "r/0"}]
    message = r"rows\.parquet: row 1 \(step r/0\): label must be true or false"
    with pytest.raises(ConfigError, match=message):
        binary_labels(rows, "rows.parquet")


def test_one_label_alone_is_refused():
    with pytest.raises(ConfigError, match=r"rows\.parquet: .* both labels"):
        binary_labels([{"label": True}, {"label": True}], "rows.parquet")


LABELS = st.lists(st.integers(0, 1), min_size=2, max_size=40).filter(lambda y: len(set(y)) == 2)


def test_weights_of_one_acceptable_row_in_four():
    # 4 / (2 * 3) and 4 / (2 * 1)
    assert class_weights([0, 0, 1, 0], "loss") == pytest.approx([2 / 3, 2])
    assert class_weights([0, 0, 1, 0], "none") == [1, 1]
    assert class_weights([0, 0, 1, 0], "sampling") == [1, 1]


@given(LABELS)
def test_weighted_classes_are_equal_and_the_mean_weight_is_1(labels):
    weights = np.array(class_weights(labels, "loss"))[labels]
    assert weights.mean() == pytest.approx(1)
    assert weights[np.array(labels) == 1].sum() == pytest.approx(len(labels) / 2)


@given(LABELS)
def test_sampling_repeats_the_rarer_class_until_both_are_equal(labels):
    chosen = sampled_rows(labels, "sampling")
    assert set(chosen) == set(range(len(labels)))
    assert 2 * sum(labels[i] for i in chosen) == len(chosen)
    common = int(2 * sum(labels) >= len(labels))
    assert sum(labels[i] == common for i in chosen) == labels.count(common)


def test_without_sampling_every_row_comes_once():
    assert sampled_rows([1, 0, 0], "loss") == [0, 1, 2]
    assert sampled_rows([1, 0, 0], "none") == [0, 1, 2]


def test_loss_of_two_rows_by_hand():
    # log-odds 0 cost ln 2 whatever the label; weights 0.5 and 3: (0.5 ln 2 + 3 ln 2) / 2
    loss = WeightedCrossEntropy(weights=[0.5, 3.0])
    outputs = SimpleNamespace(logits=torch.zeros(2, 2))
    value = loss(outputs, torch.tensor([0, 1]))
    assert value.item() == pytest.approx(1.75 * np.log(2))


def test_loss_of_a_batch_is_the_sum_over_its_parts():
    loss = WeightedCrossEntropy(weights=[0.5, 3.0])
    logits, labels = (
        torch.randn(6, 2, generator=torch.Generator().manual_seed(0)),
        [0, 1, 0, 0, 1, 1],
    )
    whole = loss(SimpleNamespace(logits=logits), torch.tensor(labels))
    parts = [
        loss(SimpleNamespace(logits=logits[s]), torch.tensor(labels[s]), num_items_in_batch=6)
        for s in (slice(0, 2), slice(2, 6))
    ]
    assert whole.item() == pytest.approx(sum(parts).item())
