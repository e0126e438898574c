"""Training rows → tokens: what a trainer is given, and the check that it trains on just that.

Prompts and turns come from the renderer that inference uses, stop token last. Knows nothing of
files or where a model is saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from trl.trainer.model_config import ModelConfig
from trl.trainer.utils import get_peft_config, get_quantization_config

from specact_rl.errors import ConfigError, ModelError
from specact_rl.rendering import Renderer, check_parity
from specact_rl.types import Step, ToolSpec

Balance = Literal["loss", "sampling", "none"]
"""loss: rows of a class weigh n / (2 n_class); sampling: the rarer class is repeated; none."""
BALANCES: tuple[Balance, ...] = get_args(Balance)

LABEL_NAMES = {0: "unacceptable", 1: "acceptable"}
"""Names of a verifier's two outputs; log-odds are output 1 minus output 0."""

IGNORED = -100
"""Label of a token that is not part of the loss."""

_MAX_CHECKED = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One prompt with what follows it, as tokens: a turn, or the rest of an episode."""

    prompt: list[int]
    """Ends with the generation prompt."""
    completion: list[int]
    """Ends with the stop token; a newline that a template writes after it is not there."""
    under_loss: tuple[bool, ...] | None = None
    """Per token of the completion, whether the loss is on it; None: on all, as in a single turn."""
    where: str = field(default="a row", compare=False)
    """File, number and step of the row it comes from, for error messages."""

    @property
    def ids(self) -> list[int]:
        """The whole sequence."""
        return self.prompt + self.completion

    @property
    def labels(self) -> list[int]:
        """The sequence with everything masked that the loss is not on."""
        mask = self.under_loss or (True,) * len(self.completion)
        turns = zip(self.completion, mask, strict=True)
        return [IGNORED] * len(self.prompt) + [i if own else IGNORED for i, own in turns]

    @property
    def trained(self) -> list[int]:
        """The tokens that the loss is on."""
        return [label for label in self.labels if label != IGNORED]


def token_rows(
    rows: Sequence[Mapping[str, Any]],
    renderer: Renderer,
    columns: Sequence[str],
    source: str | Path = "data set",
) -> list[list[TokenRow]]:
    """Tokens of each row's prompt with each of its turns, as inference has them.

    Args:
        rows: TRL rows as `Renderer.prompt_fields` builds them.
        renderer: That of the model to be trained.
        columns: Columns with one assistant message each, e.g. `chosen` and `rejected`.
        source: File of the rows, for error messages.

    Returns:
        Per row, one entry per column.

    Raises:
        ModelError: A row was rendered otherwise than `renderer` does.
        ConfigError: A column is missing, or rows bring tools beside a compact catalogue.
    """
    check_columns(rows, ["prompt", *columns], source)
    for i, row in enumerate(rows):
        if renderer.catalogue == "compact" and row.get("tools"):
            raise ConfigError(
                f"{row_place(source, i, row)}: rows with a `tools` column need catalogue "
                "'template', got 'compact' (there the tools are in the system message)"
            )
    try:
        check_parity(rows, renderer)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    return [
        [
            TokenRow(
                prompt=prompt,
                completion=renderer.message_completion_ids(row[name][0]),
                where=row_place(source, i, row),
            )
            for name in columns
        ]
        for i, row in enumerate(rows)
        for prompt in [renderer.prompt_ids(_step(row))]
    ]


def row_place(source: str | Path, number: int, row: Mapping[str, Any]) -> str:
    """Where a row is: its file, its number from 0 and, where it says so, its step."""
    step = f" (step {row['step_id']})" if row.get("step_id") else ""
    return f"{source}: row {number}{step}"


def check_columns(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], source: str | Path = "data set"
) -> None:
    """Check that all rows of `source` have a value in these columns.

    Raises:
        ConfigError: One has not; says which.
    """
    for i, row in enumerate(rows):
        missing = [name for name in columns if row.get(name) is None]
        if missing:
            raise ConfigError(
                f"{row_place(source, i, row)} must have a value in {missing!r}, got columns "
                f"{sorted(row)!r}; is this the data set of another recipe?"
            )


def fit_rows(
    rows: Sequence[TokenRow], max_length: int | None, *, allow_truncation: bool
) -> list[TokenRow]:
    """The rows, none longer than `max_length` tokens.

    Args:
        rows: What is to be trained on.
        max_length: None for no limit.
        allow_truncation: Cut the beginning of long prompts; turns are never cut.

    Raises:
        ConfigError: A row is too long and must not be cut, or its turn alone is too long; names
            the longest.
    """
    if max_length is None or not rows:
        return list(rows)
    num_long = sum(len(row.ids) > max_length for row in rows)
    if num_long and not allow_truncation:
        longest = max(rows, key=lambda row: len(row.ids))
        raise ConfigError(
            f"{longest.where} has {len(longest.ids):,} tokens, but no row may be longer than "
            f"max_length {max_length:,}, and {num_long:,} of {len(rows):,} are; raise max_length, "
            "or cut the beginning of prompts with allow_truncation: true"
        )
    longest = max(rows, key=lambda row: len(row.completion))
    if len(longest.completion) >= max_length:
        raise ConfigError(
            f"{longest.where} has a turn of {len(longest.completion):,} tokens, to which "
            f"max_length {max_length:,} leaves no prompt; raise max_length, turns are never cut"
        )
    return [replace(row, prompt=row.prompt[max(0, len(row.ids) - max_length) :]) for row in rows]


def check_pairs(pairs: Sequence[Sequence[TokenRow]]) -> None:
    """Check that the two sides of every pair differ.

    Raises:
        ConfigError: Two are the same tokens; says which.
    """
    for chosen, rejected in pairs:
        if chosen.completion == rejected.completion:
            raise ConfigError(
                f"{chosen.where}: chosen and rejected must differ, but are the same tokens; leave "
                "the pair out"
            )


def check_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a sequence classifier can tell the end of a row from padding.

    It is read at the last token that is not the pad token, which must be the stop token.

    Raises:
        ModelError: Both are the same, or there is no pad token.
    """
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise ModelError(
            f"the pad token must not be the stop token, got {tokenizer.pad_token!r} for both; set "
            "tokenizer.pad_token to a token that texts do not have, and save it with the model"
        )


def check_trained_tokens(trainer: Trainer, expected: Sequence[TokenRow], num_rows: int) -> None:
    """Check that a trainer's batches hold these sequences, with the loss on these turns.

    What a trainer does with its data set (templates, packing, filters) depends on some forty
    options; this looks at the result, in about 512 places of the data set.

    Args:
        trainer: With its data set as it will be trained on.
        expected: The sequences it may hold, each side of a pair by itself.
        num_rows: How many rows the data set must have.

    Raises:
        ModelError: They differ; shows the end of one that does.
    """
    data, collate = cast(Any, trainer.train_dataset), trainer.data_collator
    name = type(trainer).__name__
    if len(data) != num_rows:
        raise ModelError(f"{name} must train on {num_rows} rows, but made {len(data)} of them")
    places = range(0, len(data), max(1, len(data) // _MAX_CHECKED))
    columns = [c for c in data.column_names if not isinstance(data[0][c], str)]
    unseen = Counter((tuple(row.ids), tuple(row.trained)) for row in expected)
    turns = Counter(tuple(row.ids) for row in expected)
    for place in places:
        batch = collate([{c: data[place][c] for c in columns}])
        for ids, trained in _batch_rows(batch):
            known = turns[ids] if trained is None else unseen[(ids, trained)]
            if not known:
                raise ModelError(
                    "a trainer must train on the tokens of inference, but a batch of "
                    f"{name} ends with "
                    f"{trainer.processing_class.decode(list(ids[-20:]))!r} and has its loss on "  # type: ignore[union-attr]
                    f"{len(trained if trained is not None else ids)} tokens. Packing, padding-free "
                    "batches and options that change the template or the loss mask must be off"
                )


def _batch_rows(batch: Mapping[str, Tensor]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Per row of a batch: its tokens, and those under the loss (None if the loss is not on any)."""
    ids = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(ids)).bool()
    under_loss: Tensor | None = None
    if "completion_mask" in batch:
        under_loss = batch["completion_mask"].bool()
    elif "labels" in batch and batch["labels"].shape == ids.shape:
        under_loss = batch["labels"] != IGNORED
    for i in range(len(ids)):
        trained = None if under_loss is None else tuple(ids[i][under_loss[i]].tolist())
        yield tuple(ids[i][mask[i]].tolist()), trained


@dataclass(frozen=True, slots=True, kw_only=True)
class CutAfterStop:
    """A collator that drops what the template writes after the stop token.

    TRL's preference trainers tokenise by themselves. Qwen3's template ends a turn with a newline,
    which no model here is trained to write after its stop token: left in, its log-probability
    would be noise in every margin.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    """TRL's own collator."""
    stop_token_id: int
    columns: tuple[str, ...] = ("chosen_ids", "rejected_ids")
    """Of turns, where rows have them."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of the shortened rows."""
        return self.collate(
            [{**row} | {n: self._cut(row[n]) for n in self.columns if n in row} for row in rows]
        )

    def _cut(self, ids: list[int]) -> list[int]:
        return ids[: len(ids) - ids[::-1].index(self.stop_token_id)]


def new_classifier(
    path: str, pad_token_id: int, training: TrainingArguments, model: ModelConfig
) -> PreTrainedModel | PeftModel:
    """A checkpoint with a new head of two outputs, quantised and adapted as `model` says.

    Head and adapter are random and follow `training.seed`.
    """
    set_seed(training.seed)
    classifier = AutoModelForSequenceClassification.from_pretrained(
        path,
        id2label=LABEL_NAMES,
        label2id={name: label for label, name in LABEL_NAMES.items()},
        pad_token_id=pad_token_id,
        dtype=model.dtype,
        attn_implementation=model.attn_implementation,
        quantization_config=get_quantization_config(model),
        use_safetensors=True,
    )
    if not model.use_peft:
        return cast(PreTrainedModel, classifier)
    if model.load_in_4bit or model.load_in_8bit:
        classifier = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            classifier, use_gradient_checkpointing=training.activation_checkpointing
        )
    elif training.activation_checkpointing:
        classifier.enable_input_require_grads()
    # With another task type the head is trained, but not saved.
    config = get_peft_config(replace(model, lora_task_type="SEQ_CLS"))
    assert config is not None  # as use_peft is set
    return cast(PeftModel, get_peft_model(classifier, config))


def binary_labels(
    rows: Sequence[Mapping[str, Any]],
    source: str | Path = "data set",
    learner: str = "a verifier",
) -> list[int]:
    """The `label` column as 0 and 1; `source` (the file) and `learner` are for error messages.

    Raises:
        ConfigError: A label is unknown or not a bool, or all are the same.
    """
    labels = [row.get("label") for row in rows]
    for i, label in enumerate(labels):
        if not isinstance(label, bool):
            raise ConfigError(
                f"{row_place(source, i, rows[i])}: label must be true or false, got {label!r}; "
                "leave out rows whose label is not known"
            )
    if len(set(labels)) < 2:
        raise ConfigError(
            f"{source}: {learner} needs rows of both labels, got {len(labels)} of {labels[:1]!r}"
        )
    return [int(bool(label)) for label in labels]


def class_weights(labels: Sequence[int], balance: Balance) -> list[float]:
    """Weight in the loss of a row of each class, the mean over the rows being 1."""
    if balance != "loss":
        return [1.0, 1.0]
    return [len(labels) / (2 * labels.count(label)) for label in (0, 1)]


def sampled_rows(labels: Sequence[int], balance: Balance) -> list[int]:
    """Row numbers to train on: each once or, under "sampling", the rarer class over and over."""
    rows = list(range(len(labels)))
    if balance != "sampling":
        return rows
    rare = int(2 * sum(labels) < len(labels))
    members = [i for i in rows if labels[i] == rare]
    missing = len(labels) - 2 * len(members)
    return rows + [members[i % len(members)] for i in range(missing)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedCrossEntropy:
    """Loss of a two-label classifier for `Trainer(compute_loss_func=...)`."""

    weights: Sequence[float]
    """Weight of a row by its label."""

    def __call__(
        self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Weighted sum over the rows, divided by the rows of the whole (accumulated) batch.

        Not by the sum of their weights: a batch of one class would then weigh as if balanced.
        """
        logits = outputs.logits.float()
        weights = torch.tensor(self.weights, device=logits.device)[labels]
        losses = weights * cross_entropy(logits, labels, reduction="none")
        return losses.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def _step(row: Mapping[str, Any]) -> Step:
    """A row's prompt as the step it came from, as far as rendering looks at it."""
    tools = [ToolSpec(**tool["function"]) for tool in row.get("tools") or ()]
    return Step(
        step_id="",
        rollout_id="",
        task_id="",
        family="",
        split=None,
        index=0,
        history=list(row["prompt"]),
        tools=tools,
        executed=None,
        reference=None,
    )
