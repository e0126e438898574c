"""A sweep over LoRA's scale: each cell is trained, then measured on the held-out rows.

A cell is a file that appears whole; a killed sweep goes on with the one it was at. Which cells a
sweep has may grow: finished ones are kept as long as base, rows and trainer are the same.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl.trainer.sft_config import SFTConfig

from specact_rl.actions.parsing import parse_action
from specact_rl.envs.labels import labeller_of
from specact_rl.errors import ConfigError
from specact_rl.metrics.degeneration import (
    distinct_ngram_share,
    repeated_ngram_share,
)
from specact_rl.mining.build_rollouts import read_rollouts
from specact_rl.models.end_tokens import EndCheck
from specact_rl.models.generation import Generation, generate
from specact_rl.models.lora_cells import Cell, Weights, train_cell
from specact_rl.models.recipe_runs import RecipeRun
from specact_rl.models.training import TokenRow, token_rows
from specact_rl.models.turn_likelihoods import TurnLikelihood, turn_likelihoods, turn_states
from specact_rl.rendering import Renderer, StepPrompt
from specact_rl.store import (
    atomic_write,
    canonical_json,
    content_hash,
    folder_hash,
    read_json,
    read_manifest,
    read_training_rows,
    remove_temporaries,
)
from specact_rl.store.tables import parse_record
from specact_rl.types import MatchLevel, Rollout, Step

logger = logging.getLogger(__name__)

CELLS = "cells"
"""Folder of the finished cells within a sweep's."""

SPLIT = "eval"
"""Of the data set: the tasks whose rows are measured on."""

_CHECKPOINTS = "checkpoints"

DISTINCT_N = 2
REPEATED_N = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One held-out row under one model; generated greedily."""

    step_id: str
    task_id: str
    num_tokens: int
    """Of the reference turn, stop token included; the next three are about its tokens, in nats."""
    nll: float
    stop_nll: float
    kl: float
    """Sum over the turn's places of KL(model || base)."""
    finished: bool
    """False where no stop token came within the limit."""
    num_leaked: int
    """Special tokens inside the generated turn."""
    repeated: float
    """Share of its 4-grams that stood in it before."""
    num_generated: int
    """Tokens of the generated turn."""
    parsed: bool
    match_level: MatchLevel
    acceptable: bool | None
    """None where nothing can tell."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One model on all held-out rows."""

    rows: list[MeasuredRow]
    """Empty when the training diverged: weights that are not finite say nothing."""
    distinct: float | None
    """Distinct 2-grams over 2-grams of all generated turns."""

    @property
    def diverged(self) -> bool:
        """Whether there is nothing to measure."""
        return not self.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The rows that no cell trains on, and what tells how right an action is there."""

    prompts: list[StepPrompt]
    turns: list[list[int]]
    """Tokens of the reference turns, stop token included."""
    steps: list[Step]
    rollouts: list[Rollout]
    """One per row: where its step is."""

    @classmethod
    def read(cls, dataset_dir: Path, rollouts_dir: Path, renderer: Renderer) -> HeldOut:
        """The eval split of a data set, each row found at its step of the rollouts.

        Args:
            dataset_dir: Folder that build_sft.py wrote.
            rollouts_dir: The rollouts it was built from.
            renderer: Of the model.

        Raises:
            ConfigError: There is no eval split, or the rollouts are others.
            ModelError: Rows were rendered otherwise than `renderer` does.
        """
        _check_same_rollouts(dataset_dir, rollouts_dir)
        path = dataset_dir / f"{SPLIT}.parquet"
        columns = read_training_rows(dataset_dir, SPLIT) if path.is_file() else []
        if not columns:
            raise ConfigError(
                f"{dataset_dir} must have held-out rows to measure on, but its split {SPLIT!r} is "
                "missing or empty; build it with build_sft.py --eval-fraction 0.4"
            )
        rows = [row for [row] in token_rows(columns, renderer, ["completion"], path)]
        splits = {row["split"] for row in columns}
        found = {r.rollout_id: r for r in read_rollouts(rollouts_dir, splits)}
        tokens = {name: renderer.rollout_ids(found[name]) for name in _ids(columns)}
        places = [
            (row["rollout_id"], tokens[row["rollout_id"]].step_ids.index(row["step_id"]))
            for row in columns
        ]
        return cls(
            # Places in whole rollouts, so that what their steps have in common is read once.
            prompts=[tokens[name].prompts()[index] for name, index in places],
            turns=[row.completion for row in rows],
            steps=[found[name].step(index) for name, index in places],
            rollouts=[found[name] for name, _ in places],
        )


def _ids(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["rollout_id"] for row in columns))


def _check_same_rollouts(dataset_dir: Path, rollouts_dir: Path) -> None:
    """Check by hash that a data set was built from these rollouts.

    Raises:
        ConfigError: It was not, or one of them is no finished folder.
    """
    expected = read_manifest(dataset_dir).inputs.get("rollouts")
    if expected != folder_hash(rollouts_dir):
        raise ConfigError(
            f"--rollouts_dir must be the folder that {dataset_dir} was built from, got "
            f"{rollouts_dir}, whose content is another"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The model before training, over one kind of weights."""

    measured: Measured
    states: Tensor
    """`turn_states` of the held-out rows."""


class Measuring:
    """Measures models on the held-out rows, the base of each kind of weights once."""

    def __init__(
        self, held_out: HeldOut, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int
    ) -> None:
        """Take what is measured on.

        Raises:
            ConfigError: A turn as long as the longest reference could not end.
        """
        longest = max(len(turn) for turn in held_out.turns)
        if max_new_tokens < longest:
            raise ConfigError(
                f"max_new_tokens must be at least {longest}, the longest held-out turn, got "
                f"{max_new_tokens!r}: turns would have no end that could have one"
            )
        self._held_out = held_out
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._special = special_ids(tokenizer)
        self._references: dict[Weights, Reference] = {}
        rollouts = {r.rollout_id: r for r in held_out.rollouts}
        self._labellers = {name: labeller_of(rollout) for name, rollout in rollouts.items()}

    def reference(self, model: PeftModel, weights: Weights) -> Reference:
        """The model with its adapter off, measured when it is first asked for."""
        if weights not in self._references:
            with model.disable_adapter():
                states = self._states(model)
                measured = self._measured(model, states, None, self._tokenizer)
            self._references[weights] = Reference(measured=measured, states=states)
        return self._references[weights]

    def measure(self, model: PeftModel, cell: Cell) -> Measured:
        """A cell's trained model; nothing when its weights are not finite."""
        if not all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad):
            return Measured(rows=[], distinct=None)
        tokenizer = self._tokenizer
        if cell.fault == "stop_unknown":
            tokenizer = unaware_of_stop(tokenizer)
        base = self.reference(model, cell.weights)
        return self._measured(model, self._states(model), base.states, tokenizer)

    def _states(self, model: PeftModel) -> Tensor:
        return turn_states(model, self._held_out.prompts, self._held_out.turns)

    def _measured(
        self,
        model: PeftModel,
        states: Tensor,
        base_states: Tensor | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> Measured:
        likelihoods = turn_likelihoods(model, self._held_out.turns, states, base_states)
        turns = [
            turn
            for [turn] in generate(
                model,
                tokenizer,
                self._held_out.prompts,
                num_samples=1,
                temperature=1.0,  # of no effect: a first sample is greedy
                max_new_tokens=self._max_new_tokens,
                seed=0,
            )
        ]
        return Measured(
            rows=[
                self._row(place, likelihood, turn)
                for place, (likelihood, turn) in enumerate(zip(likelihoods, turns, strict=True))
            ],
            distinct=distinct_ngram_share([turn.token_ids for turn in turns], DISTINCT_N),
        )

    def _row(self, place: int, likelihood: TurnLikelihood, turn: Generation) -> MeasuredRow:
        rollout, step = self._held_out.rollouts[place], self._held_out.steps[place]
        parsed = parse_action(turn.text, step.tools, step.history)
        # Text that was cut off is no action.
        action = parsed.action if turn.finished else None
        label = self._labellers[rollout.rollout_id].label(step.index, action)
        body = turn.token_ids[:-1] if turn.finished else turn.token_ids
        return MeasuredRow(
            step_id=step.step_id,
            task_id=rollout.task_id,
            num_tokens=likelihood.num_tokens,
            nll=likelihood.nll,
            stop_nll=likelihood.stop_nll,
            kl=likelihood.kl,
            finished=turn.finished,
            num_leaked=sum(token in self._special for token in body),
            repeated=repeated_ngram_share(turn.token_ids, REPEATED_N),
            num_generated=turn.num_completion_tokens,
            parsed=action is not None,
            match_level=label.match_level,
            acceptable=label.acceptable,
            text=turn.text,
        )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that no turn may show: those that mark turns, stop, pad and the like.

    `all_special_ids` has only those with a role of their own (stop, pad), not what begins a turn.
    """
    added = tokenizer.added_tokens_decoder
    return set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def unaware_of_stop(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer as a decoder has it that takes the pad token for the end of a turn.

    Raises:
        ConfigError: Both are one token, so that there is nothing to take for it.
    """
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise ConfigError(
            "fault stop_unknown needs a pad token other than the stop token, got "
            f"{tokenizer.pad_token!r} for both; leave the fault out"
        )
    other = copy.deepcopy(tokenizer)
    other.eos_token = tokenizer.pad_token
    return other


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """A finished cell, as its file has it."""

    cell: Cell | None
    """None for the model before training."""
    weights: Weights
    ends: EndCheck | None
    loss: float | None
    """Mean training loss; None for the base, or where it was not finite."""
    num_steps: int
    seconds: float
    """Training and measuring, wall time."""
    measured: Measured


def run_cells(
    run: RecipeRun,
    cells: Sequence[Cell],
    *,
    rows: Sequence[TokenRow],
    measuring: Measuring,
    measured_on: Mapping[str, Any],
) -> list[CellRecord]:
    """Train and measure the cells that have no file yet.

    Args:
        run: Of the recipe; its `output_dir` gets the cells' files.
        cells: What to train.
        rows: Training rows.
        measuring: Measures on the held-out rows.
        measured_on: What of the measurement decides its result, as JSON values.

    Returns:
        The bases, then the cells in order.

    Raises:
        ConfigError: A finished cell was measured in another way.
    """
    folder = run.output_dir / CELLS
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    asked = content_hash({"origin": run.origin, "measured_on": dict(measured_on)})
    bases: dict[Weights, CellRecord] = {}
    records = []
    for number, cell in enumerate(cells, start=1):
        path, base = folder / f"{cell.name}.json", folder / f"base-{cell.weights}.json"
        if not (path.is_file() and base.is_file()):
            logger.info("cell %d of %d: %s", number, len(cells), cell.name)
            _run_cell(run, cell, rows=rows, measuring=measuring, path=path, base=base, asked=asked)
        bases.setdefault(cell.weights, _read_record(base, asked))
        records.append(_read_record(path, asked))
    shutil.rmtree(run.output_dir / _CHECKPOINTS, ignore_errors=True)
    return [*bases.values(), *records]


def _run_cell(
    run: RecipeRun,
    cell: Cell,
    *,
    rows: Sequence[TokenRow],
    measuring: Measuring,
    path: Path,
    base: Path,
    asked: str,
) -> None:
    started = time.perf_counter()
    checkpoints = run.output_dir / _CHECKPOINTS / cell.name
    trainer, ends = train_cell(
        cell,
        rows=rows,
        training=cast(SFTConfig, run.training),
        model=run.model,
        model_path=run.model_path,
        tokenizer=run.tokenizer,
        folder=checkpoints,
    )
    model = cast(PeftModel, trainer.model)
    reference = measuring.reference(model, cell.weights)
    record = CellRecord(
        cell=None,
        weights=cell.weights,
        ends=None,
        loss=None,
        num_steps=0,
        seconds=0.0,
        measured=reference.measured,
    )
    if not base.is_file():
        _write_record(base, record, asked)
    loss = next((e["train_loss"] for e in trainer.state.log_history if "train_loss" in e), None)
    measured = measuring.measure(model, cell)
    record = replace(
        record,
        cell=cell,
        ends=ends,
        loss=None if loss is None or not math.isfinite(loss) else round(loss, 6),
        num_steps=trainer.state.global_step,
        measured=measured,
        seconds=round(time.perf_counter() - started, 1),
    )
    _write_record(path, record, asked)
    shutil.rmtree(checkpoints, ignore_errors=True)


def _write_record(path: Path, record: CellRecord, asked: str) -> None:
    with atomic_write(path) as temporary:
        text = canonical_json({"asked": asked, "record": asdict(record)})
        temporary.write_text(text + "\n", encoding="utf-8")


def _read_record(path: Path, asked: str) -> CellRecord:
    found = read_json(path)
    if not isinstance(found, dict) or found.get("asked") != asked:
        raise ConfigError(
            f"{path} was trained or measured in another way, and is not overwritten; choose "
            "another output_dir, or delete it"
        )
    return parse_record(json.dumps(found["record"]), CellRecord, str(path))
