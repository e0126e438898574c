"""Any Hugging Face encoder as a verifier: reads request, tools and response as a pair of texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from specact_rl.errors import ConfigError, ModelError
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import BoolArray
from specact_rl.models.loading import (
    load_classifier,
    load_judge,
    load_tokenizer,
    model_size,
    tensors_digest,
)
from specact_rl.rendering import compact_catalogue
from specact_rl.store import content_hash, read_json, write_json
from specact_rl.verifiers.base import Item, Judgements, spread
from specact_rl.verifiers.features import has_response

logger = logging.getLogger(__name__)

_CONFIG = "verifier.json"
_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderVerifier:
    """An encoder with two labels over (request and tools, response).

    Of a text that is too long the catalogue is cut first, from its end; tools that the response
    calls stand first in it. The response stays whole unless it alone is too long.
    """

    verifier_id: str
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    max_length: int
    """Tokens of a pair, special ones included."""
    num_cut: int | None = None
    """Training rows that were cut; None after loading."""

    @classmethod
    def fit(
        cls,
        items: Sequence[Item],
        acceptable: BoolArray,
        *,
        encoder: str | Path,
        seed: int,
        epochs: float = 3.0,
        batch_size: int = 16,
        learning_rate: float = 5e-5,
        max_length: int = 512,
    ) -> EncoderVerifier:
        """Train on labelled items with a loss that gives both labels equal weight.

        The log-odds are therefore those at a base rate of one half: calibrate them. Items without
        any response are left out.

        Args:
            items: What to learn from.
            acceptable: Shape (items,).
            encoder: A local folder, or a hub id: then its files are fetched, safetensors only and
                without any code of theirs.
            seed: Of the new head and the order of the rows.
            epochs: Passes over the items.
            batch_size: Rows of a step.
            learning_rate: At its highest; falls to 0.
            max_length: Longest pair in tokens; an encoder that reads less sets its own limit.

        Raises:
            ModelError: Nothing can be loaded, or there is no pad token.
            ValueError: Only one class among the labels.
        """
        # Seconds of import that judging need not wait for.
        from transformers import Trainer, TrainingArguments, set_seed

        from specact_rl.models.training import WeightedCrossEntropy, class_weights

        known = [i for i, item in enumerate(items) if has_response(item)]
        labels = np.asarray(acceptable, dtype=bool)[known]
        if labels.all() or not labels.any():
            raise ValueError(f"both labels are needed, got {labels.size} rows of one")
        set_seed(seed)
        tokenizer, model = load_tokenizer(encoder), load_classifier(encoder)
        if tokenizer.pad_token_id is None:
            raise ModelError(f"the tokenizer of {encoder} must have a pad token to batch rows")
        model.config.pad_token_id = tokenizer.pad_token_id
        max_length = _limit(max_length, tokenizer, model)
        encoded, num_cut = _encode([items[i] for i in known], tokenizer, max_length)
        if num_cut:
            logger.warning("%d of %d rows were cut to %d tokens", num_cut, len(encoded), max_length)
        rows = [{**ids, "labels": int(label)} for ids, label in zip(encoded, labels, strict=True)]
        with TemporaryDirectory() as scratch:
            trainer = Trainer(
                model=model,
                args=TrainingArguments(
                    output_dir=scratch,
                    num_train_epochs=epochs,
                    per_device_train_batch_size=batch_size,
                    learning_rate=learning_rate,
                    seed=seed,
                    save_strategy="no",
                    report_to=[],
                    disable_tqdm=True,
                    remove_unused_columns=False,
                    logging_strategy="no",
                ),
                train_dataset=rows,
                data_collator=DataCollatorWithPadding(tokenizer),
                compute_loss_func=WeightedCrossEntropy(
                    weights=class_weights(labels.tolist(), "loss")
                ),
            )
            trainer.train()
        model.eval()  # type: ignore[no-untyped-call]
        return cls(
            verifier_id=_verifier_id(model, max_length),
            model=model,
            tokenizer=tokenizer,
            max_length=max_length,
            num_cut=num_cut,
        )

    @property
    def size(self) -> ModelSize:
        """What a forward pass costs."""
        return model_size(self.model)

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of each item, NaN without any response; equal texts are computed once."""
        known = [i for i, item in enumerate(items) if has_response(item)]
        encoded, _ = _encode([items[i] for i in known], self.tokenizer, self.max_length)
        places: list[int | None] = [None] * len(items)
        found: dict[tuple[int, ...], int] = {}
        distinct: list[dict[str, list[int]]] = []
        for i, row in zip(known, encoded, strict=True):
            place = found.setdefault(tuple(row["input_ids"]), len(distinct))
            if place == len(distinct):
                distinct.append(row)
            places[i] = place
        lengths = [len(row["input_ids"]) for row in distinct]
        log_odds = np.full(len(distinct), np.nan)
        by_length = np.argsort(lengths, kind="stable")
        collate = DataCollatorWithPadding(self.tokenizer)
        for at in range(0, len(distinct), _BATCH):
            rows = by_length[at : at + _BATCH]
            batch = collate([distinct[i] for i in rows])
            batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
            with torch.inference_mode():
                logits = self.model(**batch).logits.float().cpu().numpy()
            log_odds[rows] = logits[:, 1] - logits[:, 0]
        return spread(places, list(log_odds), {i: (n, 0) for i, n in enumerate(lengths)})

    def save(self, folder: Path) -> None:
        """Write model (safetensors), tokenizer, and how long its texts may be."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_json(
            folder / _CONFIG,
            {
                "kind": "encoder",
                "verifier_id": self.verifier_id,
                "max_length": self.max_length,
            },
        )

    @classmethod
    def load(cls, folder: Path) -> EncoderVerifier:
        """Back from `save`; scores as it did.

        Raises:
            ConfigError: Not such a folder, or changed since.
            ModelError: Its model or tokenizer cannot be loaded.
        """
        config = read_json(folder / _CONFIG)
        if not isinstance(config, dict) or config.get("kind") != "encoder":
            raise ConfigError(f"{folder / _CONFIG} must say kind 'encoder': not a saved verifier")
        model, max_length = load_judge(folder), config.get("max_length")
        if not isinstance(max_length, int) or _verifier_id(model, max_length) != config.get(
            "verifier_id"
        ):
            raise ConfigError(
                f"{folder} does not hold {config.get('verifier_id')}, which its {_CONFIG} names: "
                "the folder was changed after it was saved"
            )
        return cls(
            verifier_id=config["verifier_id"],
            model=model,
            tokenizer=load_tokenizer(folder),
            max_length=max_length,
        )


def _encode(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[dict[str, list[int]]], int]:
    """Tokens of each pair, and how many pairs had to be cut."""
    rows, num_cut = [], 0
    reserved = tokenizer.num_special_tokens_to_add(pair=True)
    for item in items:
        context, response = _texts(item)
        length = len(tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"])
        whole = len(tokenizer(context, response, verbose=False)["input_ids"])
        num_cut += whole > max_length
        # The library refuses to cut the first text to nothing.
        first_only = length + reserved < max_length
        row = tokenizer(
            context,
            response,
            truncation="only_first" if first_only else "longest_first",
            max_length=max_length,
        )
        rows.append({name: list(ids) for name, ids in row.items()})
    return rows, num_cut


def _texts(item: Item) -> tuple[str, str]:
    """Request with tools, those that were called first; and the response as it was written."""
    proposal = item.proposal
    actions = [proposal.action] if proposal.action is not None else proposal.actions
    called = {action.tool for action in actions}
    tools = sorted(item.step.tools, key=lambda tool: tool.name not in called)
    told = (f"{m['role']}: {m.get('content') or ''}" for m in item.step.history)
    return "\n".join([*told, compact_catalogue(tools)]), proposal.text


def _limit(max_length: int, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    positions = getattr(model.config, "max_position_embeddings", None) or max_length
    return min(max_length, tokenizer.model_max_length, positions)


def _verifier_id(model: PreTrainedModel, max_length: int) -> str:
    return f"encoder-{content_hash([tensors_digest(model), max_length])}"
