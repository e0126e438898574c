"""The same batch, however it is cut up: over gradient accumulation and over processes.

A step of 8 rows should be the same step as 8 times 1 row, or 4 rows in each of 2 processes. Losses
that transformers normalises by `num_items_in_batch` (SFT, the verifier) are; this is what the
others lack, and what sampling by length lacks where processes are several. Nothing changes where
all parts of a batch are of one size, with one exception: DPO's `sft` term.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

logger = logging.getLogger(__name__)

# Whose loss is a mean over the rows of what one process sees at once. KTO's is not: it has the
# batch's mean divergence in it, which is another one for other rows.
_ROW_MEANS = frozenset({"DPOTrainer", "RewardTrainer"})


def keep_batches_whole(trainer: Trainer) -> None:
    """Make steps independent of how their rows are cut up, as far as the loss allows it.

    - Means over rows (DPO, reward model): the parts of a batch weigh as many rows as they have.
      Matters for the last batch of an epoch, where one part may be shorter.
    - DPO's `sft` term, a mean over tokens: parts weigh as many tokens as they have. Always matters.
    - Sampling by length: rows are grouped for the batch of all processes, and in all of them alike.

    Warns where the last batch of an epoch is filled up with rows of its beginning, which
    accelerate does so that all processes have equally many.
    """
    if trainer.args.world_size > 1:
        _warn_of_filled_batches(trainer)
        if trainer.args.train_sampling_strategy == "group_by_length":
            _group_for_all_processes(trainer)
    if {kind.__name__ for kind in type(trainer).__mro__} & _ROW_MEANS:
        _WeighParts(trainer).install()


@dataclass(slots=True)
class _WeighParts:
    """Weighs the loss of each part of a batch by its share of the rows, and of the tokens."""

    trainer: Any
    rows: float = 0.0
    """Of the whole batch, in all processes."""
    tokens: float = 0.0
    """Under the `sft` term, likewise."""
    parts: int = 1
    loss_weights: list[float] = field(default_factory=list)
    """As configured."""

    def install(self) -> None:
        """Put itself around the trainer's batches and its loss."""
        get_batches, compute = self.trainer.get_batch_samples, self.trainer.compute_loss
        self.loss_weights = list(getattr(self.trainer, "loss_weights", None) or [])

        def get_batch_samples(*args: Any, **kwargs: Any) -> Any:
            batches, num_items = get_batches(*args, **kwargs)
            self._count(batches)
            return batches, num_items

        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not model.training:
                return compute(model, inputs, *args, **kwargs)
            share = self._share(_num_rows(inputs), self.rows)
            if self.loss_weights:
                of_tokens = self._share(_num_chosen_tokens(inputs), self.tokens) / share
                self.trainer.loss_weights = [
                    weight * (of_tokens if kind == "sft" else 1.0)
                    for kind, weight in zip(self.trainer.loss_types, self.loss_weights, strict=True)
                ]
            try:
                loss = compute(model, inputs, *args, **kwargs)
            finally:
                if self.loss_weights:
                    self.trainer.loss_weights = self.loss_weights
            return loss if share == 1.0 else loss * share

        self.trainer.get_batch_samples, self.trainer.compute_loss = get_batch_samples, compute_loss

    def _count(self, batches: list[Mapping[str, Tensor]]) -> None:
        if not batches:  # the data set is at its end
            return
        counts = torch.tensor(
            [[sum(map(_num_rows, batches)), sum(map(_num_chosen_tokens, batches)), len(batches)]],
            dtype=torch.float64,
            device=batches[0]["input_ids"].device,
        )
        if self.trainer.args.world_size > 1:
            counts = self.trainer.accelerator.gather(counts)
        self.rows, self.tokens, self.parts = counts.sum(0).tolist()

    def _share(self, number: int, total: float) -> float:
        """Share of a part in the whole, 1 for the mean part; 1 where nothing is counted."""
        return number * self.parts / total if number and total else 1.0


def _num_rows(batch: Mapping[str, Tensor]) -> int:
    return len(batch["input_ids"])


def _num_chosen_tokens(batch: Mapping[str, Tensor]) -> int:
    """Tokens of the chosen turns, the first half of TRL's batches of pairs; 0 for other batches."""
    mask = batch.get("completion_mask")
    return 0 if mask is None else int(mask[: len(mask) // 2].sum())


class _SharedLengthSampler(LengthGroupedSampler):
    """Draws in the main process, for all.

    Each would draw with its own generator, of which dropout on a CPU takes as many numbers as its
    rows are long: after an epoch some rows would be seen twice, and others not at all.
    """

    def __iter__(self) -> Iterator[int]:
        indices = [list(super().__iter__())]  # type: ignore[no-untyped-call]
        broadcast_object_list(indices)
        return iter(indices[0])


def _group_for_all_processes(trainer: Any) -> None:
    make = trainer._get_train_sampler
    size = trainer.args.world_size

    def get_train_sampler(*args: Any, **kwargs: Any) -> Any:
        alone = make(*args, **kwargs)
        return _SharedLengthSampler(alone.batch_size * size, lengths=alone.lengths)

    trainer._get_train_sampler = get_train_sampler


def _warn_of_filled_batches(trainer: Trainer) -> None:
    num_rows = len(trainer.train_dataset)  # type: ignore[arg-type]
    at_once = trainer.args.per_device_train_batch_size * trainer.args.world_size
    missing = -num_rows % at_once
    if missing and not trainer.args.dataloader_drop_last:
        logger.warning(
            "%d rows are no multiple of the %d that %d processes take at once: accelerate fills "
            "the end of each epoch up with %d rows of its beginning",
            num_rows,
            at_once,
            trainer.args.world_size,
            missing,
        )
