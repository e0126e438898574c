"""Cells of a sweep over LoRA's scale: which there are, and the training of one.

A cell is one training with its own scale, rank, learning rate, weights and seed, or the same with
one mundane fault put in on purpose, to see what that does. Knows nothing of what is measured.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from trl.trainer.model_config import ModelConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import get_peft_config, get_quantization_config

from specact_rl.errors import ConfigError, DegenerateResultError
from specact_rl.models.end_tokens import EndCheck, check_ends
from specact_rl.models.recipe_runs import last_checkpoint
from specact_rl.models.training import IGNORED, TokenRow, check_trained_tokens

Weights = Literal["float", "nf4"]
"""What the adapter is trained over: the weights as they are loaded, or quantised to 4 bits."""

Fault = Literal["none", "end_masked", "end_missing", "stop_unknown"]
"""end_masked: the stop token has no loss, which is what a collator that masks padding by its id
makes of rows where pad = stop. end_missing: it is not there, and rows are packed one after the
other, so that in its place the beginning of the next row is learnt. stop_unknown: trained as it
should be, decoded without knowing the stop token."""

END_FAULTS: tuple[Fault, ...] = ("end_masked", "end_missing")
"""Those of the training rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training of the sweep."""

    ratio: float
    """alpha / r."""
    r: int
    learning_rate: float
    weights: Weights = "float"
    rslora: bool = False
    fault: Fault = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that no training can have."""
        for name in ("ratio", "learning_rate"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a number above 0, got {value!r}{_yaml(value)}")
        for name, least in (("r", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{name} must be a whole number from {least}, got {value!r}")
        if not isinstance(self.rslora, bool):
            raise ConfigError(f"rslora must be true or false, got {self.rslora!r}")
        for name, kind in (("weights", Weights), ("fault", Fault)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"{name} must be one of {known}; got {getattr(self, name)!r}")

    @property
    def alpha(self) -> float:
        """LoRA's alpha."""
        return self.ratio * self.r

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied with: alpha/r, or alpha/sqrt(r)."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    @property
    def setting(self) -> Cell:
        """The cell without its seed: cells of one setting are repeats."""
        return replace(self, seed=0)

    @property
    def name(self) -> str:
        """Its file name, readable, without ending."""
        kind = "rslora" if self.rslora else "lora"
        parts = [self.weights, f"{kind}{self.r}", f"ratio{self.ratio:g}"]
        parts += [f"lr{self.learning_rate:g}", *([] if self.fault == "none" else [self.fault])]
        return "-".join([*parts, f"seed{self.seed}"])


_AXES = {f.name for f in fields(Cell)}


def planned_cells(lines: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The cells of all lines, each once, in order.

    Args:
        lines: Each has a list of values per axis of `Cell`, and its cells are all combinations.
            `product` in place of `learning_rate` gives (alpha / r) * learning rate: at each ratio
            the learning rate is what that leaves.

    Raises:
        ConfigError: An unknown axis, something that is no list, a value that does not fit; says
            in which line.
    """
    if not lines:
        raise ConfigError("lines must have at least one line of cells")
    cells: dict[Cell, None] = {}
    for number, line in enumerate(lines, start=1):
        try:
            cells |= dict.fromkeys(_line_cells(line))
        except ConfigError as error:
            raise ConfigError(f"lines, entry {number}: {error}") from error
    return list(cells)


def _line_cells(line: Mapping[str, Any]) -> list[Cell]:
    if not isinstance(line, Mapping):
        raise ConfigError(f"must be axes with lists of values, got {line!r}")
    unknown = sorted(set(line) - _AXES - {"product"})
    if unknown:
        raise ConfigError(f"no such axis: {unknown!r}; there are {sorted(_AXES)!r} and 'product'")
    for axis, values in line.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{axis} must be a list of values, got {values!r}")
    if ("product" in line) == ("learning_rate" in line):
        raise ConfigError("must have either learning_rate or product, (alpha / r) * learning rate")
    if not {"ratio", "r"} <= set(line):
        raise ConfigError("must have ratio (alpha / r) and r")
    cells = []
    for values in itertools.product(*line.values()):
        chosen = dict(zip(line, values, strict=True))
        product = chosen.pop("product", None)
        if product is not None:
            if not all(_is_number(v) and v > 0 for v in (product, chosen["ratio"])):
                raise ConfigError(
                    f"product must be a number above 0, got {product!r}{_yaml(product)}"
                )
            # Twelve digits: 0.002 / 0.1 and 0.02 are one learning rate.
            chosen["learning_rate"] = float(f"{product / chosen['ratio']:.12g}")
        cells.append(Cell(**chosen))
    return cells


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _yaml(value: object) -> str:
    return " (YAML reads 1e-3 as text; write 1.0e-3)" if isinstance(value, str) else ""


def faulty_row(row: TokenRow, other: TokenRow, fault: Fault) -> tuple[list[int], list[int]]:
    """Tokens and labels of a row with the fault put in; `other` is the row packed behind it."""
    if fault == "end_masked":
        return row.ids, [*row.labels[:-1], IGNORED]
    if fault == "end_missing":
        begins = other.ids[0]
        return [*row.ids[:-1], begins], [*row.labels[:-1], begins]
    return row.ids, row.labels


def train_cell(
    cell: Cell,
    *,
    rows: Sequence[TokenRow],
    training: SFTConfig,
    model: ModelConfig,
    model_path: str,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> tuple[SFTTrainer, EndCheck]:
    """Train a cell's adapter; the ends of its rows are looked at first.

    Args:
        cell: What to train.
        rows: Training rows; not cut.
        training: All else of the trainer; its learning rate and seed are the cell's.
        model: All else of the model; adapter and quantisation are the cell's.
        model_path: Folder of the base.
        tokenizer: Of the base.
        folder: Where the trainer may keep checkpoints, from which a killed cell goes on.

    Returns:
        The trainer, its model trained and in evaluation mode, and what was found of the ends.

    Raises:
        DegenerateResultError: Ends are not trained, or generation does not stop at them, although
            the cell is to have no fault.
    """
    training = copy.copy(training)  # `replace` would resolve devices and defaults anew
    training.learning_rate, training.seed = cell.learning_rate, cell.seed
    training.output_dir = str(folder)
    training.max_length = None  # nothing is left for the trainer to cut or drop
    model = replace(
        model,
        use_peft=True,
        lora_r=cell.r,
        # Whole in trl's annotation; peft takes any number.
        lora_alpha=cast(int, cell.alpha),
        use_rslora=cell.rslora,
        load_in_4bit=cell.weights == "nf4",
        bnb_4bit_quant_type="nf4",
    )
    set_seed(cell.seed)  # the adapter is drawn before the trainer sets it
    given = [faulty_row(row, rows[i - 1], cell.fault) for i, row in enumerate(rows)]
    trainer = SFTTrainer(
        model=model_path,
        args=training,
        train_dataset=Dataset.from_dict(
            {"input_ids": [ids for ids, _ in given], "labels": [labels for _, labels in given]}
        ),
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )
    ends = check_ends(trainer, tokenizer)
    if cell.fault not in END_FAULTS:
        check_trained_tokens(trainer, rows, num_rows=len(rows))
        if not ends.sound:
            raise DegenerateResultError(
                f"{ends.in_words} A sweep of scales over such a training measures that fault; "
                "mend it first"
            )
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    assert trainer.model is not None
    trainer.model.eval()
    return trainer, ends
