"""Weights of completions from rewards, and the SFT loss with a weight per completion.

Knows TRL's SFT trainer; not where rewards come from.

The loss of a batch is the sum of w · (−log p(completion | prompt)) over its rows, divided by its
completion tokens, as in SFT. A weight is of a completion: all of its tokens have it, and long
completions are not divided by their length, so that what is maximised is Σ w · log p(completion),
the regression of reward-weighted regression. Weights have mean 1 over the training rows and are
never normalised within a batch: there a bad action among worse ones would weigh as much as a good
one among better ones.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from trl.trainer.sft_config import SFTConfig

from specact_rl.errors import ConfigError
from specact_rl.models.fast_training import PackedSFTTrainer
from specact_rl.models.training import row_place

logger = logging.getLogger(__name__)

WeightMode = Literal["rwr", "rwr_step", "raft"]
"""rwr: exp(reward / temperature), normalised over all rows. rwr_step: the same, normalised over the
rows of each prompt, so that every prompt has the weight of its samples. raft: the best row of each
prompt, weight 1, the others none."""
WEIGHT_MODES: tuple[WeightMode, ...] = get_args(WeightMode)

WEIGHT_COLUMN = "weight"

SMALL_SHARE, TINY_SHARE = 0.1, 0.01
"""An effective sample size below the first share of the rows is warned of, below the second (or
below two rows) refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowWeights:
    """What rows weigh in the loss."""

    mode: WeightMode
    weights: NDArray[np.float64]
    """``(n,)``; 0 or 1 for "raft", else of mean 1."""
    num_prompts: int
    num_prompts_used: int
    """Prompts with a row that weighs anything."""

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows that weigh anything."""
        return [int(i) for i in np.flatnonzero(self.weights)]

    @property
    def effective_rows(self) -> float:
        """Effective sample size (Kish): (Σ w)² / Σ w², between 1 and the number of rows."""
        total = float(self.weights.sum())
        return total * total / float(np.square(self.weights).sum())

    def to_json(self) -> dict[str, Any]:
        """For the training's log."""
        num = len(self.weights)
        return {
            "mode": self.mode,
            "num_rows": num,
            "num_rows_used": len(self.rows),
            "num_prompts": self.num_prompts,
            "num_prompts_used": self.num_prompts_used,
            "effective_sample_size": self.effective_rows,
            "effective_share": self.effective_rows / num,
            "max_weight": float(self.weights.max()),
        }


def rewards_of(
    rows: Sequence[Mapping[str, Any]], source: str | Path = "data set"
) -> NDArray[np.float64]:
    """The `reward` column; `source` is the file of the rows, for error messages.

    Raises:
        ConfigError: A reward is unknown, not a number or not finite.
    """
    for i, row in enumerate(rows):
        reward = row.get("reward")
        is_number = isinstance(reward, int | float) and not isinstance(reward, bool)
        if not is_number or not math.isfinite(reward or 0.0):
            raise ConfigError(
                f"{row_place(source, i, row)}: reward must be a finite number, got {reward!r}; "
                "leave out rows whose reward is not known (build_weighted.py does)"
            )
    return np.array([row["reward"] for row in rows], dtype=np.float64)


def row_weights(
    rows: Sequence[Mapping[str, Any]],
    rewards: NDArray[np.float64],
    mode: WeightMode,
    *,
    temperature: float = 1.0,
    min_reward: float | None = None,
) -> RowWeights:
    """What each row weighs.

    Args:
        rows: Of `history_hash` (equal for equal prompts) and, where they have it, `num_samples`,
            how many equal samples a row stands for; 1 where they have not.
        rewards: ``(n,)``, higher is better.
        mode: How rewards become weights.
        temperature: Of "rwr" and "rwr_step", in units of the reward; lower is greedier.
        min_reward: Of "raft": a prompt whose best row has less gives none; None: each gives one.

    Raises:
        ConfigError: No row of "raft" has enough reward.
    """
    numbers = np.array([row.get("num_samples") or 1 for row in rows], dtype=np.float64)
    prompts: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        prompts[row["history_hash"]].append(i)
    if mode == "raft":
        weights = np.zeros(len(rows))
        best = (_best(members, rewards, numbers) for members in prompts.values())
        kept = [i for i in best if min_reward is None or rewards[i] >= min_reward]
        if not kept:
            raise ConfigError(
                f"raft keeps the best row of a prompt if its reward is at least min_reward "
                f"{min_reward!r}, but the highest of {len(rows):,} rows is {rewards.max():.4g}; "
                "lower min_reward"
            )
        weights[kept] = 1.0
    else:
        # Without the highest reward, exp would overflow; it cancels in the normalisation.
        weights = np.empty(len(rows))
        groups = prompts.values() if mode == "rwr_step" else [list(range(len(rows)))]
        for members in groups:
            raised = np.exp((rewards[members] - rewards[members].max()) / temperature)
            raised *= numbers[members]
            weights[members] = raised * numbers[members].sum() / raised.sum()
        weights *= len(rows) / weights.sum()
    return RowWeights(
        mode=mode,
        weights=weights,
        num_prompts=len(prompts),
        num_prompts_used=sum(bool(weights[members].any()) for members in prompts.values()),
    )


def _best(
    members: Sequence[int], rewards: NDArray[np.float64], numbers: NDArray[np.float64]
) -> int:
    """The row of highest reward; of equal ones what was sampled most, then the first."""
    return max(members, key=lambda i: (rewards[i], numbers[i], -i))


def check_effective_rows(weights: RowWeights, rewards: NDArray[np.float64]) -> None:
    """Say how many rows the weights leave.

    Args:
        weights: Of all rows.
        rewards: Their rewards.

    Raises:
        ConfigError: They leave next to nothing; see `TINY_SHARE`.
    """
    num, effective = len(weights.weights), weights.effective_rows
    logger.info(
        "%s: %d of %d rows, of %d of %d prompts, are used; effective sample size %.1f",
        *(weights.mode, len(weights.rows), num, weights.num_prompts_used, weights.num_prompts),
        effective,
    )
    advice = "lower min_reward" if weights.mode == "raft" else "raise temperature"
    least = max(2.0, TINY_SHARE * num)
    if effective < least:
        raise ConfigError(
            f"the effective sample size of the weights must be at least {least:.1f} of {num:,} "
            f"rows, got {effective:.1f}: so few would be learnt by heart; {advice}, or take more "
            "rows"
        )
    if effective < SMALL_SHARE * num:
        logger.warning(
            "effective sample size is %.1f of %d rows: a few rows decide; %s",
            *(effective, num, advice),
        )
    if rewards.min() == rewards.max():
        logger.warning("all rewards are %.4g, so this is fine-tuning on all of them", rewards[0])


def check_weighted_loss(training: SFTConfig) -> None:
    """Check that the loss is one that weights are applied to.

    Raises:
        ConfigError: It is another function of the log-probabilities, or not one of them.
    """
    if training.loss_type != "nll":
        raise ConfigError(f"loss_type must be 'nll' to be weighted, got {training.loss_type!r}")
    if training.label_smoothing_factor:
        raise ConfigError(
            "label_smoothing_factor must be 0 for a weighted loss, got "
            f"{training.label_smoothing_factor!r}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateWeights:
    """A collator that takes the rows' weights along."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    """TRL's own collator, which makes a batch of the other columns."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch with `WEIGHT_COLUMN`, ``(b,)``."""
        weights = torch.tensor([row[WEIGHT_COLUMN] for row in rows], dtype=torch.float32)
        return {**self.collate([dict(row) for row in rows]), WEIGHT_COLUMN: weights}


class WeightedSFTTrainer(PackedSFTTrainer):
    """SFT's trainer, with each row's log-probability multiplied by its weight.

    Nothing else differs: token counts, accumulation over batches and processes, and metrics (which
    are not weighted) are TRL's. With weights of 1 its loss is SFT's.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """SFT's loss of a model whose log-probabilities are weighted."""
        weights = inputs.pop(WEIGHT_COLUMN)

        def weighted(**arguments: Any) -> Any:
            outputs = model(**arguments)
            outputs.log_probs = outputs.log_probs * weights[:, None]
            return outputs

        return super().compute_loss(  # type: ignore[no-untyped-call]
            weighted, inputs, return_outputs, num_items_in_batch
        )
