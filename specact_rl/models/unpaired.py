"""What KTO needs besides its trainer: how both classes weigh, in which order rows go, what is cut.

Knows TRL's KTO collator; not how rows are made.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from trl.trainer.kto_config import KTOConfig

from specact_rl.errors import ConfigError

logger = logging.getLogger(__name__)

KtoBalance = Literal["loss", "none"]
"""loss: the rarer class weighs so much more that both have the same total; none: as given."""
KTO_BALANCES: tuple[KtoBalance, ...] = get_args(KtoBalance)

RATIO_RANGE = (1.0, 4 / 3)
"""What weight times number of the desirable rows should be to that of the undesirable ones (KTO
paper, arXiv:2402.01306, equation 8)."""

_NO_KL = ("apo_zero_unpaired",)
"""Losses without the estimate of a KL term."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KtoWeights:
    """How many rows of each class there are, and what one of them weighs in the loss."""

    num_desirable: int
    num_undesirable: int
    desirable_weight: float
    undesirable_weight: float

    @property
    def ratio(self) -> float:
        """Weight times number of the desirable rows to that of the undesirable ones."""
        return (self.desirable_weight * self.num_desirable) / (
            self.undesirable_weight * self.num_undesirable
        )

    @property
    def desirable_range(self) -> tuple[float, float]:
        """The desirable weights that would bring the ratio into `RATIO_RANGE`."""
        low, high = (self.desirable_weight * bound / self.ratio for bound in RATIO_RANGE)
        return low, high

    def to_json(self) -> dict[str, Any]:
        """For the training's log."""
        return {
            **asdict(self),
            "ratio": self.ratio,
            "ratio_range": list(RATIO_RANGE),
            "desirable_weight_range": list(self.desirable_range),
        }


def kto_weights(labels: Sequence[int], training: KTOConfig, balance: KtoBalance) -> KtoWeights:
    """The weights of both classes; says so where those that were given are out of range.

    Args:
        labels: 1 desirable, 0 undesirable; both are there.
        training: Its weights are taken under "none", and must be as they were under "loss".
        balance: Who chooses.

    Raises:
        ConfigError: Weights are given and are to be chosen, or one is not above 0.
    """
    num = sum(labels), len(labels) - sum(labels)
    given = training.desirable_weight, training.undesirable_weight
    if min(given) <= 0:
        raise ConfigError(f"desirable_weight and undesirable_weight must be above 0, got {given!r}")
    if balance == "loss":
        if given != (1.0, 1.0):
            raise ConfigError(
                "balance: loss chooses desirable_weight and undesirable_weight itself, got "
                f"{given!r}; leave them out, or set balance: none"
            )
        given = max(1.0, num[1] / num[0]), max(1.0, num[0] / num[1])
    weights = KtoWeights(
        num_desirable=num[0],
        num_undesirable=num[1],
        desirable_weight=given[0],
        undesirable_weight=given[1],
    )
    low, high = RATIO_RANGE
    logger.info(
        "%d desirable rows of weight %.3g, %d undesirable ones of weight %.3g: ratio %.3g",
        *(num[0], given[0], num[1], given[1], weights.ratio),
    )
    if not low - 1e-9 <= weights.ratio <= high + 1e-9:
        logger.warning(
            "the ratio of both sides, weight times number, should lie between %.3g and %.3g, got "
            "%.3g; set desirable_weight between %.3g and %.3g, or balance: loss",
            *(low, high, weights.ratio, *weights.desirable_range),
        )
    return weights


def check_kl_estimate(training: KTOConfig) -> None:
    """Check that the KL term can be estimated: from other rows' completions in the same batch.

    Raises:
        ConfigError: A batch has one row, whose own completion would be compared with itself, or
            rows are not put together in the order in which they are drawn.
    """
    if training.loss_type in _NO_KL:
        return
    if training.per_device_train_batch_size < 2:
        raise ConfigError(
            "per_device_train_batch_size must be at least 2 (gradient accumulation does not help): "
            f"loss_type {training.loss_type!r} estimates its KL term from the other rows of a "
            f"batch, got {training.per_device_train_batch_size}; or take loss_type: {_NO_KL[0]}"
        )
    if training.train_sampling_strategy != "sequential":
        raise ConfigError(
            f"train_sampling_strategy must be 'sequential' for loss_type {training.loss_type!r}, "
            f"got {training.train_sampling_strategy!r}; rows are shuffled by the seed before"
        )
    if (training.dataset_num_proc or 1) > 1:
        raise ConfigError(
            f"dataset_num_proc must be 1 for loss_type {training.loss_type!r}, got "
            f"{training.dataset_num_proc}: each process pairs rows in batches of its own, which "
            "are not those of training"
        )


def kto_order(num_rows: int, training: KTOConfig) -> list[int]:
    """Row numbers in a seeded order, in which neighbours have different prompts as a rule.

    The trainer draws rows one after another and pairs each prompt with its neighbour's completion
    for the KL term. In the order of a data set that would mostly be another one for the same step.
    One row is left out where it would be alone in the last batch, and that is logged.
    """
    order = list(range(num_rows))
    random.Random(training.seed).shuffle(order)
    alone = num_rows % training.per_device_train_batch_size == 1
    if training.loss_type in _NO_KL or not alone:
        return order
    logger.info("row %d is left out: it would be alone in the last batch", order[-1])
    return order[:-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPrompts:
    """A collator of unpaired rows that cuts the beginning of long prompts; TRL's cuts the action.

    A row has at most `max_length` tokens then. Its prompt with another row's completion, of which
    the KL term is estimated, may be longer by the difference of the two completions.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    """TRL's own collator, which is to cut nothing."""
    max_length: int | None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of the shortened rows."""
        return self.collate([{**row, "prompt_ids": self._cut(row)} for row in rows])

    def _cut(self, row: Mapping[str, Any]) -> list[int]:
        prompt: list[int] = row["prompt_ids"]
        if self.max_length is None:
            return prompt
        return prompt[max(0, len(prompt) + len(row["completion_ids"]) - self.max_length) :]
