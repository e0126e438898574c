"""The mundane cause of endless turns, looked for first: an end that is not trained, or not known.

A model garbles what comes after a turn when its stop token was missing from the rows, or masked
out of the loss (a collator that masks padding by token id does that where pad = stop), or when
whoever decodes does not stop at it. None of these is a matter of learning rates or scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase, Trainer

from specact_rl.models.training import IGNORED

_BATCH = 8
"""Rows collated together, so that there is padding to confuse with a stop token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndCheck:
    """What a trainer's own batches say about the ends of its rows."""

    num_rows: int
    num_ending: int
    """Rows whose last token is the stop token."""
    num_trained: int
    """Rows whose last token is the stop token and under the loss."""
    pad_is_stop: bool
    """Not wrong by itself; a collator that masks padding by its id would mask every end."""
    stops_generation: bool
    """Whether the model's own generation config stops at the stop token, as other programs that
    load the checkpoint do."""

    @property
    def sound(self) -> bool:
        """Whether the mundane cause is excluded."""
        return self.num_trained == self.num_rows and self.stops_generation

    @property
    def in_words(self) -> str:
        """One or two sentences."""
        if self.num_trained == self.num_rows:
            found = f"The stop token is the last token under the loss in all {self.num_rows:,} rows"
        elif self.num_ending < self.num_rows:
            missing = self.num_rows - self.num_ending
            found = f"The stop token is MISSING at the end of {missing:,} of {self.num_rows:,} rows"
        else:
            masked = self.num_rows - self.num_trained
            found = (
                f"The stop token is MASKED out of the loss in {masked:,} of {self.num_rows:,} rows"
            )
        pad = (
            "pad and stop token are the same, so that a collator that masks padding by its id "
            "would mask every end"
            if self.pad_is_stop
            else "pad and stop token differ"
        )
        decoder = "" if self.stops_generation else "; the generation config does NOT stop at it"
        return f"{found}; {pad}{decoder}."


def check_ends(trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> EndCheck:
    """Look at the end of every row in the batches that the trainer would be given.

    Not at its data set: what masks an end is most often the collator.
    """
    data, collate = cast(Any, trainer.train_dataset), trainer.data_collator
    columns = [c for c in data.column_names if not isinstance(data[0][c], str)]
    stop = tokenizer.eos_token_id
    rows = ending = trained = 0
    for start in range(0, len(data), _BATCH):
        places = range(start, min(start + _BATCH, len(data)))
        batch = collate([{c: data[i][c] for c in columns} for i in places])
        lengths = [len(data[i]["input_ids"]) for i in places]
        for row, length in enumerate(lengths):  # padding is on the right
            end = length - 1
            is_stop = int(batch["input_ids"][row, end]) == stop
            rows += 1
            ending += is_stop
            trained += is_stop and int(batch["labels"][row, end]) != IGNORED
    config = getattr(trainer.model, "generation_config", None)
    stops = getattr(config, "eos_token_id", None)
    return EndCheck(
        num_rows=rows,
        num_ending=ending,
        num_trained=trained,
        pad_is_stop=tokenizer.pad_token_id == stop,
        stops_generation=stop in (stops if isinstance(stops, list) else [stops]),
    )
