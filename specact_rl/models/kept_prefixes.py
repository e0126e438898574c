"""Keys and values of conversations that go on, held from one call of a model to the next.

Live episodes ask a model about the same conversation, a little longer each time; a model that has
proposed at a step is asked to judge there. Nothing here knows of transformers: rows of tokens and
the tensors that belong to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

KEPT_BYTES = 1_000_000_000
"""Of all that models keep at a time, on a CPU."""
KEPT_SHARE = 16
"""On a GPU one part in so many of its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPrefix:
    """What a model has made of a conversation's first tokens."""

    ids: list[int]
    keys: list[Tensor]
    """One per layer, shape (num_kv_heads, num_tokens, head_dim)."""
    values: list[Tensor]
    states: Tensor
    """Last layer's, shape (num_tokens, hidden_size)."""

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    def first(self, count: int) -> KeptPrefix:
        """That of the first so many tokens; the tensors are views."""
        return KeptPrefix(
            ids=self.ids[:count],
            keys=[keys[:, :count] for keys in self.keys],
            values=[values[:, :count] for values in self.values],
            states=self.states[:count],
        )

    def copied(self) -> KeptPrefix:
        """The same in memory of its own, so that it keeps no batch alive."""
        return KeptPrefix(
            ids=self.ids,
            keys=[keys.clone() for keys in self.keys],
            values=[values.clone() for values in self.values],
            states=self.states.clone(),
        )


class KeptPrefixes:
    """One prefix for each conversation of one model, within so many tokens.

    A conversation's name says where to look, never what is there: what is found is the longest
    beginning that has the very tokens that are asked for. Weights must stay as they are.
    """

    def __init__(self, model: object, max_tokens: int) -> None:
        """Keep nothing yet.

        Args:
            model: Whose; no other may use them.
            max_tokens: What is beyond is not kept, and computed anew.
        """
        self._model = model
        self.max_tokens = max_tokens
        self._kept: dict[str, KeptPrefix] = {}  # the one that was used last comes last
        self._used_in: dict[str, int] = {}
        self._call = 0

    def begin_call(self, model: object) -> None:
        """A call of the model begins.

        Raises:
            ValueError: It is another model.
        """
        if model is not self._model:
            raise ValueError("prefixes were kept of another model; each model has its own")
        self._call += 1

    def find(self, name: str, ids: Sequence[int]) -> KeptPrefix | None:
        """The longest beginning of `ids` that is kept of a conversation.

        None where it is less than half of them: to read on takes a mask of the new tokens by all.
        """
        kept = self._kept.get(name)
        if kept is None:
            return None
        pairs = enumerate(zip(kept.ids, ids, strict=False))
        count = next((i for i, (a, b) in pairs if a != b), min(len(kept), len(ids)))
        if 2 * count < len(ids):
            return None
        self._touch(name, kept)
        return kept.first(count)

    def keep(self, name: str, prefix: KeptPrefix) -> None:
        """Keep a copy, in place of what was kept of the conversation; if there is room.

        Room is made of what neither this call nor the one before has used, the oldest first: where
        more conversations go on than fit, those that do stay.
        """
        old = self._kept.get(name)
        if old is not None and old.ids[: len(prefix)] == prefix.ids:
            self._touch(name, old)
            return
        self._kept.pop(name, None)
        total = len(prefix) + sum(map(len, self._kept.values()))
        for other in list(self._kept):
            if total > self.max_tokens and self._used_in[other] < self._call - 1:
                total -= len(self._kept.pop(other))
        if total <= self.max_tokens:
            self._touch(name, prefix.copied())

    def clear(self) -> None:
        """Keep nothing any more."""
        self._kept.clear()

    def _touch(self, name: str, kept: KeptPrefix) -> None:
        self._kept.pop(name, None)
        self._kept[name] = kept
        self._used_in[name] = self._call
