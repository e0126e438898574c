"""Stops a training whose loss is no number, and says which rows of the data set it was in.

Costs one look at each loss, which transformers takes as well (`logging_nan_inf_filter`, which then
puts an old loss in its place and goes on). Rows are looked up when it has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from specact_rl.errors import DegenerateResultError
from specact_rl.models.training import TokenRow, token_rows
from specact_rl.models.trajectories import trajectory_row
from specact_rl.rendering import Renderer

_TURNS = ("completion", "chosen", "rejected")
_MAX_NAMED = 64

NameRows = Callable[[Sequence[Any]], str]
"""Some of a trainer's batches to the rows they were made of, in words."""


def stop_at_bad_loss(trainer: Trainer, name_rows: NameRows) -> None:
    """Make the trainer raise at the first loss that is infinite or undefined.

    The last step has no loss after it: at the end of the training its weights are looked at.

    Raises (while training):
        DegenerateResultError: With the batch's rows or, where the weights are no numbers either,
            with those of the step that made them so.
    """
    step = trainer.training_step
    watch = _Watch(name_rows=name_rows)

    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        kept = _kept(inputs)  # the step may add to it
        loss = step(model, inputs, *args, **kwargs)
        if not bool(loss.isfinite().all()):
            watch.refuse(trainer, kept, loss)
        watch.keep(trainer.state.global_step, kept)
        return loss

    trainer.training_step = training_step  # type: ignore[method-assign]
    trainer.add_callback(_LookAtTheEnd(lambda: watch.refuse_broken(trainer)))


class _LookAtTheEnd(TrainerCallback):
    """Looks once more when the last step is done."""

    def __init__(self, look: Callable[[], None]) -> None:
        """With what looks."""
        self._look = look

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before anything is saved but checkpoints to go on from."""
        self._look()


@dataclass(slots=True)
class _Watch:
    """Knows the batches of this step and of the one before it."""

    name_rows: NameRows
    number: int = 0
    """Optimizer steps that were done before `batches`."""
    batches: list[Any] = field(default_factory=list)
    before: list[Any] = field(default_factory=list)
    """Those of the last optimizer step."""

    def keep(self, number: int, batch: Any) -> None:
        """Remember a batch that went well."""
        if number != self.number:
            self.number, self.before, self.batches = number, self.batches, []
        self.batches.append(batch)

    def refuse(self, trainer: Trainer, batch: Any, loss: Tensor) -> None:
        """Say in which rows it went wrong."""
        self.refuse_broken(trainer)
        number = trainer.state.global_step
        raise DegenerateResultError(
            f"training diverged: the loss of step {number + 1} is {float(loss.mean())} while all "
            f"weights are finite, in a batch with {self.name_rows([batch])}. Look at these; if "
            "they are right, train in bfloat16 or float32 instead of float16, or lower "
            "learning_rate"
        )

    def refuse_broken(self, trainer: Trainer) -> None:
        """See that all weights are numbers, else say which rows the last step had."""
        number = trainer.state.global_step
        broken = infinite_weights(trainer.model)
        if broken and number == 0:
            raise DegenerateResultError(
                f"the model to start from has {len(broken)} tensors with infinite or undefined "
                f"weights, the first is {broken[0]!r}; take another checkpoint"
            )
        if broken:
            last = self.batches if number != self.number else self.before
            raise DegenerateResultError(
                f"training diverged: after step {number} {len(broken)} tensors have infinite or "
                f"undefined weights, the first is {broken[0]!r}; its batch had "
                f"{self.name_rows(last)}. Look at these, or lower learning_rate or max_grad_norm"
            )


def infinite_weights(model: torch.nn.Module | None) -> list[str]:
    """Names of the tensors with infinite or undefined weights in this process's part of a model."""
    assert model is not None
    return [
        name
        for name, weight in model.named_parameters()
        # A shard by itself: asking for the whole would wait for the other processes.
        if not bool(getattr(weight, "to_local", lambda w=weight: w)().isfinite().all())
    ]


def _kept(inputs: Any) -> Any:
    """What rows are known by later: tokens and masks, or rows as they are."""
    if not isinstance(inputs, Mapping):
        return inputs
    return {
        key: value
        for key, value in inputs.items()
        if key.endswith(("input_ids", "attention_mask")) and isinstance(value, Tensor)
    }


def row_names(
    rows: Sequence[Mapping[str, Any]], renderer: Renderer, source: str | Path
) -> NameRows:
    """Names rows of a data set by number and step id.

    Args:
        rows: All rows of the file.
        renderer: That of the model that is trained.
        source: The file.
    """

    def name(batches: Sequence[Any]) -> str:
        found = sorted({i for batch in batches for i in _rows_of(batch, rows, renderer)})
        if not found:
            return f"rows that could not be found in {source}"
        named = [
            f"{i} (step {rows[i]['step_id']})" if rows[i].get("step_id") else str(i) for i in found
        ]
        more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
        return f"{source}: rows {', '.join(named[:_MAX_NAMED])}{more}"

    return name


def _rows_of(batch: Any, rows: Sequence[Mapping[str, Any]], renderer: Renderer) -> Iterator[int]:
    """Numbers of the rows that a batch was made of."""
    if not isinstance(batch, Mapping):  # GRPO's, before anything was written to the prompts
        prompts = [row.get("prompt") for row in batch]
        yield from (i for i, row in enumerate(rows) if row.get("prompt") in prompts)
        return
    turns = _sides(rows, renderer)
    sequences = list(_sequences(batch))
    exact = [i for i, sides in enumerate(turns) if any(_is_one_of(s, sequences) for s in sides)]
    # Several in a line, or one prompt with several turns.
    yield from exact or (i for i, sides in enumerate(turns) if _lie_in(sides, sequences))


def _sides(rows: Sequence[Mapping[str, Any]], renderer: Renderer) -> list[list[TokenRow]]:
    """Tokens of each row's turns, or of the episodes that they are."""
    columns = [name for name in _TURNS if rows[0].get(name) is not None]
    if all(len(row[name]) == 1 for row in rows for name in columns):
        return token_rows(rows, renderer, columns)
    return [
        [trajectory_row(row, row[name], renderer, f"row {i}, {name}") for name in columns]
        for i, row in enumerate(rows)
    ]


def _sequences(batch: Mapping[str, Tensor]) -> Iterator[list[int]]:
    """Each line of tokens in a batch, without its padding."""
    for key, ids in batch.items():
        if not key.endswith("input_ids"):
            continue
        mask = batch.get(key.removesuffix("input_ids") + "attention_mask")
        mask = torch.ones_like(ids) if mask is None or mask.shape != ids.shape else mask
        for line, kept in zip(ids, mask, strict=True):
            yield line[kept.bool()].tolist()


def _is_one_of(row: TokenRow, sequences: Iterable[list[int]]) -> bool:
    """Whole, or with the beginning of its prompt cut off."""
    ids = row.ids
    return any(
        len(row.completion) < len(line) <= len(ids) and ids[-len(line) :] == line
        for line in sequences
    )


def _lie_in(sides: Sequence[TokenRow], sequences: Iterable[list[int]]) -> bool:
    texts = [_text(line) for line in sequences]
    return any(
        all(_text(part) in text for part in [sides[0].ids, *(s.completion for s in sides)])
        for text in texts
    )


def _text(ids: Sequence[int]) -> str:
    return f" {' '.join(map(str, ids))} "
