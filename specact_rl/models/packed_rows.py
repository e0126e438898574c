"""A batch of token rows without padding, what rows begin with alike once: layout and attention.

Rows are laid out one after another in a single sequence. A row that begins as an earlier one does
(two sides of a pair, steps of one rollout, one system message) leaves that beginning out; its
remaining tokens, a *run*, attend to the earlier row's keys and to themselves. Attention is computed
run by run, so that no run can see another one that it does not continue, and no mask is as large
as the batch. Knows nothing of trainers or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "specact_runs"
"""Name under which transformers finds `attend_to_runs`."""

MIN_SHARED = 16
"""Tokens that rows must begin with alike for one to leave them out. A run that continues another
row needs a mask, and each is a call of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive tokens of the packed sequence that belong to one row."""

    offset: int
    """Place of its first token in the packed sequence."""
    length: int
    context: list[tuple[int, int]]
    """What it continues: numbers of earlier runs and how many of their first tokens, in order of
    position. Empty for a run that begins its row."""

    @property
    def position(self) -> int:
        """Position of its first token in its row."""
        return sum(length for _, length in self.context)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """Rows as runs of one sequence."""

    runs: list[Run]
    tokens: np.ndarray
    """Shape (number of tokens,)."""
    positions: np.ndarray
    """Position of each token in its row, same shape."""
    places: list[np.ndarray]
    """Per row, where each of its tokens is in the packed sequence."""

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], min_shared: int = MIN_SHARED) -> PackedRows:
        """Pack the rows, empty ones included.

        Args:
            rows: Token ids.
            min_shared: Fewer common tokens are not shared.
        """
        # Backwards, so that a row that is the beginning of another one comes after it and adds no
        # token. In order the neighbour is the one with the longest common beginning.
        order = sorted(range(len(rows)), key=lambda row: list(rows[row]), reverse=True)
        places: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(rows)
        runs: list[Run] = []
        pieces: list[Sequence[int]] = []
        path: list[tuple[int, int]] = []
        total = 0
        for before, row in pairwise([-1, *order]):
            tokens = rows[row]
            shared = _common(rows[before], tokens) if before >= 0 else 0
            if shared < min(min_shared, len(tokens)):
                shared = 0
            path = _cut(path, shared)
            kept = places[before][:shared] if before >= 0 else places[row]
            length = len(tokens) - shared
            if length:
                runs.append(Run(offset=total, length=length, context=list(path)))
                path.append((len(runs) - 1, length))
                pieces.append(tokens[shared:])
            places[row] = np.concatenate([kept, np.arange(total, total + length)])
            total += length
        return cls(
            runs=runs,
            tokens=np.array([token for piece in pieces for token in piece], dtype=np.int64),
            positions=np.concatenate(
                [np.zeros(0, dtype=np.int64)]
                + [np.arange(run.position, run.position + run.length) for run in runs]
            ),
            places=places,
        )


@dataclass(slots=True, kw_only=True)
class RunAttention:
    """What `attend_to_runs` is given of a packed sequence, on the model's device."""

    lengths: list[int]
    contexts: list[list[tuple[int, int]]]
    masks: list[Tensor | None]
    """Per run: None for causal, else True where its tokens see its context and themselves."""
    num_calls: int = 0
    """How often attention was computed by runs; 0 after a forward says that a model does not hand
    this to its layers."""

    @classmethod
    def of(cls, packed: PackedRows, device: torch.device) -> RunAttention:
        """The runs and masks of packed rows."""
        return cls(
            lengths=[run.length for run in packed.runs],
            contexts=[run.context for run in packed.runs],
            masks=[
                torch.ones(
                    (1, 1, run.length, run.position + run.length), dtype=torch.bool, device=device
                ).tril_(run.position)
                if run.context
                else None
                for run in packed.runs
            ],
        )


def attend_to_runs(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_runs: RunAttention | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' `sdpa`; by runs where a packed sequence comes with its runs.

    Args:
        module: The attention layer.
        query: Shape (1, heads, tokens, size).
        key: Shape (1, key heads, tokens, size).
        value: As `key`.
        attention_mask: Looked at only without runs.
        row_runs: None for an ordinary batch.
        **kwargs: Handed on.
    """
    if row_runs is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    row_runs.num_calls += 1
    # The backward of split is one concatenation; that of a slice is as large as all of the batch.
    queries, keys, values = (torch.split(t, row_runs.lengths, dim=2) for t in (query, key, value))
    states = [
        sdpa_attention_forward(
            module,
            queries[run],
            _with_context(keys, run, context),
            _with_context(values, run, context),
            mask,
            **kwargs,
        )[0]
        for run, (context, mask) in enumerate(zip(row_runs.contexts, row_runs.masks, strict=True))
    ]
    return torch.cat(states, dim=1), None


def run_packed(model: PreTrainedModel, packed: PackedRows) -> Tensor:
    """Hidden states of packed rows, shape (1, number of tokens, hidden size).

    Args:
        model: Causal LM or its transformer, whose attention is `ATTENTION`.
        packed: At least one token.
    """
    device = cast(torch.device, model.get_input_embeddings().weight.device)
    runs = RunAttention.of(packed, device)
    states: Tensor = model.base_model(
        input_ids=torch.from_numpy(packed.tokens)[None].to(device),
        position_ids=torch.from_numpy(packed.positions)[None].to(device),
        # A mask of four dimensions is taken as it is; this one is looked at by nobody.
        attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device),
        use_cache=False,
        row_runs=runs,
    ).last_hidden_state
    if runs.num_calls < model.config.get_text_config().num_hidden_layers:
        raise NotImplementedError(f"{type(model).__name__} does not attend by runs")
    return states


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of tokens that both begin with."""
    size = min(len(left), len(right))
    differ = np.flatnonzero(np.asarray(left[:size]) != np.asarray(right[:size]))
    return int(differ[0]) if len(differ) else size


def _cut(path: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """The first `length` tokens of a path of runs."""
    kept = []
    for run, size in path:
        if length <= 0:
            break
        kept.append((run, min(size, length)))
        length -= size
    return kept


def _with_context(states: Sequence[Tensor], run: int, context: Sequence[tuple[int, int]]) -> Tensor:
    if not context:
        return states[run]
    return torch.cat([*(states[i][:, :, :size] for i, size in context), states[run]], dim=2)


AttentionInterface.register(ATTENTION, attend_to_runs)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
