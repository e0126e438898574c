"""Corpus episodes as token rows for `transformers.Trainer`, loss on every token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from specact_rl.envs.corpus import corpus_rollouts
from specact_rl.rendering import Renderer


class CorpusDataset(Dataset[dict[str, list[int]]]):
    """Tokenised episodes of the pretraining corpus, held in memory."""

    def __init__(self, renderer: Renderer, num_episodes: int) -> None:
        """Roll out and tokenise `num_episodes` episodes."""
        self._rows = [
            renderer.conversation_ids(rollout) for rollout in corpus_rollouts(num_episodes)
        ]
        self.num_tokens = sum(len(row) for row in self._rows)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """One episode as {"input_ids": tokens}."""
        return {"input_ids": self._rows[index]}


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
        labels = torch.full((len(rows), longest), -100)
        for i, row in enumerate(rows):
            tokens = torch.tensor(row["input_ids"])
            ids[i, : len(tokens)] = labels[i, : len(tokens)] = tokens
        return {"input_ids": ids, "labels": labels}
