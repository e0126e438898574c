"""Processes that share the work of a stage, as torchrun and accelerate start them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch

_PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest one; a launcher ends all of them where one fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Which of how many processes this one is."""

    rank: int = 0
    """The first one, 0, opens and closes what all of them fill."""
    size: int = 1

    @classmethod
    def of_environment(cls) -> Team:
        """As the launcher says; one process alone where there is none.

        Each process gets a GPU of its own where there are GPUs, so ask before a model is loaded.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return ALONE
        from accelerate import PartialState  # takes a second

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
        return cls(rank=state.process_index, size=state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this is the first of them."""
        return self.rank == 0

    def takes(self, index: int) -> bool:
        """Whether a piece of work, by its number, is this process's."""
        return index % self.size == self.rank

    def told_by_first(self, text: str | None) -> str | None:
        """What the first one says, when all of them have come here."""
        if self.size == 1:
            return text
        from accelerate.utils import broadcast_object_list

        told: str | None = broadcast_object_list([text])[0]
        return told

    def wait(self) -> None:
        """Until all of them have come here."""
        self.told_by_first(None)


ALONE = Team()
