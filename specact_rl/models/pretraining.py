"""Pretraining of tiny bases: corpus as token rows, the optimizer that suits it, what is left."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainingArguments

from specact_rl.envs.corpus import corpus_rollouts
from specact_rl.errors import ModelError
from specact_rl.models.cards import base_card, changed_settings
from specact_rl.models.loading import save_checkpoint_info
from specact_rl.models.recipe_runs import library_versions, training_settings
from specact_rl.rendering import Renderer, compact_catalogue
from specact_rl.store import file_hash, write_json
from specact_rl.store.cards import CARD
from specact_rl.types import Rollout

IGNORED = -100
"""Label of a token without loss."""


def corpus_texts(rollout: Rollout) -> Iterator[str]:
    """What a tokenizer has to know of an episode: catalogue, contents and calls as rendered."""
    yield compact_catalogue(rollout.tools)
    for message in rollout.messages:
        yield message["role"]
        yield message.get("content") or ""
        for call in message.get("tool_calls") or ():
            yield json.dumps(call["function"], ensure_ascii=False)


def corpus_row(renderer: Renderer, rollout: Rollout) -> dict[str, list[int]]:
    """One episode as {"input_ids", "labels"}: loss on requests, results and good turns.

    A turn that did not bring its goal nearer is to be read and recovered from, not imitated; which
    tools a task has (the first turn) cannot be foretold, and is four tenths of the tokens.
    """
    ids = renderer.conversation_ids(rollout)
    stop = renderer.tokenizer.eos_token_id
    ends = [i + 1 for i, token in enumerate(ids) if token == stop]
    if len(ends) != len(rollout.messages):
        raise ModelError(
            f"{rollout.rollout_id}: each of {len(rollout.messages)} messages must be rendered as "
            f"one turn, found {len(ends)} turns"
        )
    labels = list(ids)
    clumsy = [r.message_index for r in rollout.steps if r.acceptable is False]
    for turn in (0, *clumsy):
        start = ends[turn - 1] if turn else 0
        labels[start : ends[turn]] = [IGNORED] * (ends[turn] - start)
    return {"input_ids": ids, "labels": labels}


class CorpusDataset(Dataset[dict[str, list[int]]]):
    """Tokenised episodes of the pretraining corpus, held in memory."""

    def __init__(self, renderer: Renderer, num_episodes: int) -> None:
        """Roll out and tokenise `num_episodes` episodes."""
        self._pad = renderer.tokenizer.pad_token_id
        self._rows: list[dict[str, list[int]]] = []
        self._task_ids: list[str] = []
        for rollout in corpus_rollouts(num_episodes):
            self._rows.append(corpus_row(renderer, rollout))
            self._task_ids.append(rollout.task_id)
        self.num_tokens = sum(len(row["input_ids"]) for row in self._rows)

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens and labels."""
        digest = hashlib.sha256()
        for row in self._rows:
            digest.update(json.dumps([row["input_ids"], row["labels"]]).encode())
        return digest.hexdigest()

    def names(self, batches: Sequence[Any]) -> str:
        """Episodes that some of `PadCollator`'s batches were made of, by number and task."""
        lines = [line for batch in batches for line in batch["input_ids"].tolist()]
        found = [
            f"{i} (task {task_id})"
            for i, (row, task_id) in enumerate(zip(self._rows, self._task_ids, strict=True))
            if any(self._is_line(row["input_ids"], line) for line in lines)
        ]
        return f"episodes {', '.join(found)} of the corpus"

    def _is_line(self, ids: list[int], line: list[int]) -> bool:
        return line[: len(ids)] == ids and set(line[len(ids) :]) <= {self._pad}

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """One episode; see `corpus_row`."""
        return self._rows[index]


class PadCollator:
    """Right-pads token rows and masks padding out of the loss.

    Without an attention mask: a causal model never looks right, and is faster without one.
    """

    def __init__(self, pad_token_id: int) -> None:
        """Pad with this token."""
        self._pad = pad_token_id

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Tensors of shape (batch, longest row): input_ids and labels."""
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), self._pad)
        labels = torch.full((len(rows), longest), IGNORED)
        for i, row in enumerate(rows):
            ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            labels[i, : len(row["labels"])] = torch.tensor(row["labels"])
        return {"input_ids": ids, "labels": labels}


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` for the matrices of the layers, AdamW for all else, as one optimizer.

    Muon takes matrices only, and `Trainer` one optimizer only.
    """

    def __init__(self, model: nn.Module, *, muon_lr: float, lr: float) -> None:
        """Both rates are peaks, which the trainer's schedule scales alike."""
        embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding)
                      for p in m.parameters()}  # fmt: skip
        weights = list(model.parameters())  # tied ones once
        matrices = [p for p in weights if p.ndim == 2 and id(p) not in embeddings]
        others = [p for p in weights if p.ndim != 2 or id(p) in embeddings]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.01),
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both; without closures, which the base class allows for."""
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure")
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Have the parts work on this optimizer's groups and state, which are what is saved."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups = [group]
            part.state = self.state


def save_base(
    trainer: Trainer,
    renderer: Renderer,
    dataset: CorpusDataset,
    changed: Mapping[str, Any],
    *,
    recipe: str,
    name: str,
    started: float,
) -> None:
    """Leave weights in bfloat16, tokenizer, log and card in the trainer's `output_dir`.

    Args:
        trainer: Has been trained.
        renderer: Of the corpus.
        dataset: The corpus.
        changed: The recipe's own settings that are not the defaults.
        recipe: Its name.
        name: Of the base, for its card: the folder may have another name until all is done.
        started: When, in seconds since the epoch.
    """
    folder = Path(str(trainer.args.output_dir))
    model = cast(PreTrainedModel, trainer.model)
    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
    renderer.tokenizer.save_pretrained(folder)
    save_checkpoint_info(folder, renderer)
    log = {
        "recipe": recipe,
        "num_episodes": len(dataset),
        "corpus_tokens": dataset.num_tokens,
        "corpus_sha256": dataset.digest,
        "num_steps": trainer.state.global_step,
        "num_epochs": trainer.state.epoch,
        "seed": trainer.args.seed,
        "weights_sha256": file_hash(folder / "model.safetensors"),
        "seconds": round(time.time() - started),
        "versions": library_versions(),
        "log": trainer.state.log_history,
    }
    write_json(folder / "pretraining.json", log)
    own = changed_settings(training_settings(trainer.args), TrainingArguments)
    # The card alone, where folders go by their last part: a base may be shipped.
    log = log | {"command": sys.argv}
    card = base_card(log, name, {"arguments": changed, "training": own})
    (folder / CARD).write_text(card, encoding="utf-8")
