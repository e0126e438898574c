"""What a method's rows cost in FLOPs, and how many training steps a budget buys.

Counted by `models.work`: 2 for each weight and token forward, three times that with the backward
pass, attention, and the output embedding where it is read. Padding is not counted, as no method
has to have any. What a recipe computes without gradients beside each trained token:

- supervised recipes: nothing;
- DPO: the reference reads both sides, once;
- KTO: the reference reads each row and its mismatched copy, the policy that copy;
- GRPO: the policy writes each episode, every token once, its prefixes cached.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specact_rl.errors import ConfigError
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import FloatArray
from specact_rl.models.training import TokenRow
from specact_rl.models.work import Work
from specact_rl.types import Proposal

NUM_FORWARDS = {
    "sft_proposer": 0,
    "reward_weighted_sft": 0,
    "dpo_proposer": 1,
    "kto_proposer": 3,
    "grpo_proposer": 1,
}
"""Forward passes without gradients over each trained sequence, by recipe."""


def row_flops(work: Work, rows: Sequence[Sequence[TokenRow]], recipe: str) -> FloatArray:
    """FLOPs of one visit to each row, shape (num_rows,).

    Args:
        work: Of the model.
        rows: The sequences of each row: one, or both sides of a pair.
        recipe: Its name.
    """
    sequences = [sequence for row in rows for sequence in row]
    lengths = np.array([len(sequence.ids) for sequence in sequences], dtype=np.int64)
    predicted = np.array([len(sequence.trained) for sequence in sequences], dtype=np.int64)
    each = work.training(lengths, predicted)
    each = each + NUM_FORWARDS[recipe] * work.forward(0 * lengths, lengths, predicted)
    ends = np.cumsum([len(row) for row in rows])
    totals = np.concatenate([[0.0], np.cumsum(each)])[ends]
    return np.asarray(np.diff(totals, prepend=0.0), dtype=np.float64)


def proposal_flops(size: ModelSize, proposals: Sequence[Proposal]) -> int:
    """FLOPs of writing these proposals, what was cached not read again."""
    total = 0
    for p in proposals:
        assert p.num_prompt_tokens is not None  # a loaded model counts them
        assert p.num_completion_tokens is not None
        total += size.flops(p.num_cached_tokens, p.num_prompt_tokens)
        total += size.flops(p.num_prompt_tokens, p.num_prompt_tokens + p.num_completion_tokens)
    return total


def affordable_steps(budget: float, spent: float, step_flops: float) -> int:
    """Training steps that the budget buys after what was spent on sampling, to the nearest.

    Raises:
        ConfigError: Not even one.
    """
    steps = round((budget - spent) / step_flops)
    if steps < 1:
        raise ConfigError(
            f"a budget of {budget:.3g} FLOPs leaves {budget - spent:.3g} for training, but a step "
            f"takes {step_flops:.3g}; raise --budget"
        )
    return steps
