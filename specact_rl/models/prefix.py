"""Keys and values of rollouts, computed once and shared by all steps, samples and candidates.

A rollout's conversation goes through the transformer once; each of its steps then attends to the
first `prompt length` slots of it. Nothing here knows of actions, candidates or sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from specact_rl.errors import ModelError
from specact_rl.models.kept_prefixes import KEPT_BYTES, KEPT_SHARE, KeptPrefix, KeptPrefixes
from specact_rl.rendering import StepPrompt

MAX_PREFIX_TOKENS = 8_192
"""Tokens, padding included, whose keys and values are held at a time."""

CACHE_BYTES = 2_000_000_000
"""Copies of keys and values that may be held at a time on a CPU; on a GPU a quarter of it."""

# Scaling of the logits outside the output embedding, which this package applies by itself.
_LOGIT_SCALERS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixBatch:
    """Keys, values and last hidden states of the prompts of a few rollouts."""

    positions: list[int]
    """Place of each prompt in the caller's sequence."""
    rows: list[int]
    """Row of `keys` and `values` that each prompt is a prefix of."""
    lengths: list[int]
    """Tokens of each prompt."""
    keys: list[Tensor]
    """One per layer, shape (num_rows, num_kv_heads, longest prompt, head_dim)."""
    values: list[Tensor]
    hidden: Tensor
    """Last layer's state at each prompt's last token, shape (num_prompts, hidden_size)."""

    def cache(self, prompts: Sequence[int], num_new: int) -> tuple[SlotCache, Tensor]:
        """A cache whose row i is the prefix of prompt `prompts[i]`, with room for new tokens.

        Args:
            prompts: Indices into this batch's prompts; repeats allowed.
            num_new: Tokens that may be appended to each row, after slot `num_slots`.

        Returns:
            The cache, and which of its slots are valid, bool of shape (len(prompts), num_slots),
            num_slots being the longest of the prompts.
        """
        lengths = torch.tensor([self.lengths[p] for p in prompts], device=self.hidden.device)
        rows = torch.tensor([self.rows[p] for p in prompts], device=self.hidden.device)
        slots = max(self.lengths[p] for p in prompts)
        layers = [
            SlotLayer(keys[rows, :, :slots], values[rows, :, :slots], num_new)
            for keys, values in zip(self.keys, self.values, strict=True)
        ]
        valid = torch.arange(slots, device=lengths.device)[None, :] < lengths[:, None]
        return SlotCache(layers), valid


class SlotLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer in a buffer allocated once, so that appending copies the new tokens alone."""

    def __init__(self, keys: Tensor, values: Tensor, num_new: int) -> None:
        """Fill the first slots with `keys` and `values`, and leave room for `num_new`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self._key_buffer, self._value_buffer = (
            _with_room(keys, num_new),
            _with_room(values, num_new),
        )
        self._num_slots = keys.shape[-2]
        self.show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values so far."""
        start, self._num_slots = self._num_slots, self._num_slots + key_states.shape[-2]
        self._key_buffer[:, :, start : self._num_slots] = key_states
        self._value_buffer[:, :, start : self._num_slots] = value_states
        return self.show()

    def select(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self._key_buffer, self._value_buffer = self._key_buffer[rows], self._value_buffer[rows]
        self.show()

    def show(self) -> tuple[Tensor, Tensor]:
        """All keys and values so far."""
        keys = self._key_buffer[:, :, : self._num_slots]
        values = self._value_buffer[:, :, : self._num_slots]
        self.keys, self.values = keys, values
        return keys, values


class SlotCache(Cache):
    """A cache of `SlotLayer`s."""

    def __init__(self, layers: list[SlotLayer]) -> None:
        """Take the layers as they are."""
        super().__init__(layers=[*layers])
        self._slot_layers = layers

    def select(self, rows: Tensor) -> None:
        """Keep these rows only."""
        for layer in self._slot_layers:
            layer.select(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """A model taken apart into transformer and head, adapters left in place."""

    transformer: PreTrainedModel
    """Token ids to hidden states."""
    head: nn.Module
    """Hidden states to logits over the vocabulary, or over the labels of a classifier."""

    @classmethod
    def of(cls, model: nn.Module) -> ModelParts:
        """Take a causal LM or a sequence classifier, with or without LoRA, apart.

        Raises:
            ValueError: The model is in training mode, where dropout would change the results.
            ModelError: Its attention or its logits need more than a prefix and a head.
        """
        if model.training:
            raise ValueError("the model must be in evaluation mode: call model.eval() first")
        inner = unwrap(model)
        _refuse_unsupported(inner)
        head = getattr(inner, "score", None) or inner.get_output_embeddings()  # type: ignore[no-untyped-call]
        transformer = inner.base_model
        assert isinstance(transformer, PreTrainedModel)
        return cls(transformer=transformer, head=head)


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU, in use or not; None for a CPU."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def max_cache_slots(parts: ModelParts) -> int:
    """Slots, rows x (prompt and new tokens), whose keys and values may be copied at a time."""
    config, dtype = parts.transformer.config, parts.transformer.dtype
    return cache_slots_in(device_memory(parts.transformer.device), config, dtype.itemsize)


def cache_slots_in(memory: int | None, config: PreTrainedConfig, value_bytes: int) -> int:
    """The same of a model by its config and the bytes of a key, on a GPU of so many bytes.

    Args:
        memory: Bytes of the GPU, in use or not; None for a CPU.
        config: Of the model.
        value_bytes: Of a number among keys and values.
    """
    of_slot = _slot_bytes(config, value_bytes)
    return max(1, (CACHE_BYTES if memory is None else memory // 4) // of_slot)


def kept_prefixes(model: nn.Module, num_models: int = 1) -> KeptPrefixes:
    """Room for what a model has read, to be handed to each call that may read on from it.

    Args:
        model: Whose.
        num_models: That keep something at a time, and share the room evenly.
    """
    parts = ModelParts.of(model)
    memory = device_memory(parts.transformer.device)
    config, dtype = parts.transformer.config, parts.transformer.dtype
    of_token = _slot_bytes(config, dtype.itemsize)
    of_token += config.get_text_config().hidden_size * dtype.itemsize
    num_bytes = KEPT_BYTES if memory is None else memory // KEPT_SHARE
    return KeptPrefixes(parts.transformer, num_bytes // num_models // of_token)


def _slot_bytes(config: PreTrainedConfig, value_bytes: int) -> int:
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * value_bytes)


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside, the layers of an adapter left in place.

    Raises:
        ValueError: There is none.
    """
    inner: object = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if not isinstance(inner, PreTrainedModel):
        raise ValueError(f"expected a transformers model, got {type(inner).__name__}")
    return inner


def prefix_batches(
    parts: ModelParts, prompts: Sequence[StepPrompt], kept: KeptPrefixes | None = None
) -> Iterator[PrefixBatch]:
    """Run each rollout's conversation through the transformer once, a few rollouts at a time.

    Prompts of the same `RolloutTokens` object share a row; nothing after the last of them is
    computed. Rows are sorted by length, and a batch has at most MAX_PREFIX_TOKENS (or one row).

    Args:
        parts: Of the model.
        prompts: Of at least one token each.
        kept: Of earlier calls of this model: a row is read from where its tokens part with what is
            kept of the rollout, and kept itself. None keeps nothing.
    """
    if kept is not None:
        kept.begin_call(parts.transformer)
    rows = _rows(prompts, kept)
    # Those that are read from the start need no mask.
    for together in ([r for r in rows if r.kept is None], [r for r in rows if r.kept is not None]):
        for batch in _batches(together):
            yield _prefix_batch(parts, batch, kept)  # in no variable while the next one is read


def num_cached_tokens(prompts: Sequence[StepPrompt], kept: KeptPrefixes | None = None) -> list[int]:
    """Per prompt, how many of its tokens an earlier prompt of the same rollout has paid for.

    A rollout is paid for in order of length: the shortest of its prompts pays all that was not
    kept, each later one what lies beyond the one before. The unpaid rest sums to the tokens
    computed by the next `prefix_batches` of the same prompts.
    """
    cached = [0] * len(prompts)
    for row in _rows(prompts, kept):
        paid = len(row.kept) if row.kept else 0
        for position in sorted(row.lengths, key=row.lengths.__getitem__):
            length = row.lengths[position]
            cached[position] = min(paid, length)
            paid = max(paid, length)
    return cached


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Zero where attention is allowed, the lowest number of `dtype` elsewhere.

    Additive since eager attention adds the mask and sdpa takes it as it is.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A conversation to be read, up to its longest prompt."""

    name: str
    ids: list[int]
    lengths: dict[int, int]
    """Tokens of each of its prompts, by the prompt's place in the caller's sequence."""
    kept: KeptPrefix | None
    """What need not be read; None where that is nothing."""


def _rows(prompts: Sequence[StepPrompt], kept: KeptPrefixes | None) -> list[_Row]:
    lengths = [len(prompt.ids) for prompt in prompts]
    if 0 in lengths:
        raise ValueError(f"a prompt must have a token, prompt {lengths.index(0)} has none")
    grouped: dict[tuple[int, int], list[int]] = {}
    for position, prompt in enumerate(prompts):
        shared = prompt.tokens.prompt_lengths[prompt.index] is not None
        key = (id(prompt.tokens), -1 if shared else position)
        grouped.setdefault(key, []).append(position)
    rows = []
    for (_, own), positions in grouped.items():
        longest = prompts[max(positions, key=lengths.__getitem__)]
        name, ids = longest.tokens.rollout_id if own < 0 else longest.step_id, longest.ids
        rows.append(
            _Row(
                name=name,
                ids=ids,
                lengths={position: lengths[position] for position in positions},
                kept=None if kept is None else kept.find(name, ids),
            )
        )
    return rows


def _batches(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
        if batch and (len(batch) + 1) * len(batch[0].ids) > MAX_PREFIX_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _prefix_batch(
    parts: ModelParts, batch: Sequence[_Row], kept: KeptPrefixes | None
) -> PrefixBatch:
    read = _read_on(parts, batch) if batch[0].kept else _read(parts, batch)
    if kept is not None:
        for i, row in enumerate(batch):
            kept.keep(row.name, read.prefix(i, row.ids))
    return read.batch_of(batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What a batch of conversations was made into, each from slot 0 on, padding behind it."""

    keys: list[Tensor]
    """One per layer, shape (num_rows, num_kv_heads, longest row, head_dim)."""
    values: list[Tensor]
    states: Tensor
    """Last layer's, shape (num_rows, longest row, hidden_size)."""

    def prefix(self, row: int, ids: list[int]) -> KeptPrefix:
        """That of one row, as views."""
        return KeptPrefix(
            ids=ids,
            keys=[keys[row, :, : len(ids)] for keys in self.keys],
            values=[values[row, :, : len(ids)] for values in self.values],
            states=self.states[row, : len(ids)],
        )

    def batch_of(self, batch: Sequence[_Row]) -> PrefixBatch:
        """All prompts of the rows."""
        rows = [i for i, row in enumerate(batch) for _ in row.lengths]
        lengths = [length for row in batch for length in row.lengths.values()]
        return PrefixBatch(
            positions=[position for row in batch for position in row.lengths],
            rows=rows,
            lengths=lengths,
            keys=self.keys,
            values=self.values,
            hidden=self.states[rows, [length - 1 for length in lengths]],
        )


@torch.inference_mode()
def _read(parts: ModelParts, batch: Sequence[_Row]) -> _Reading:
    """Read conversations from the start."""
    input_ids = _padded([row.ids for row in batch], parts.transformer.device)
    cache = DynamicCache()
    # Padding is on the right, so that causal attention hides it without a mask.
    states = parts.transformer(
        input_ids=input_ids, past_key_values=cache, use_cache=True
    ).last_hidden_state
    layers = [(keys, values) for keys, values, _ in cache]
    return _Reading(
        keys=[keys for keys, _ in layers], values=[values for _, values in layers], states=states
    )


@torch.inference_mode()
def _read_on(parts: ModelParts, batch: Sequence[_Row]) -> _Reading:
    """Read conversations from where what is kept of them ends."""
    device = parts.transformer.device
    kept = [row.kept for row in batch if row.kept is not None]
    starts = torch.tensor([len(each) for each in kept], device=device)[:, None]
    ends = torch.tensor([len(row.ids) for row in batch], device=device)[:, None]
    num_kept, num_new = int(starts.max()), int((ends - starts).max())
    layers = [
        (
            _side_by_side([each.keys[layer] for each in kept]),
            _side_by_side([each.values[layer] for each in kept]),
        )
        for layer in range(len(kept[0].keys))
    ]
    states = pad_sequence([each.states for each in kept], batch_first=True)
    if num_new > 0:
        slots = [SlotLayer(keys, values, num_new) for keys, values in layers]
        new = torch.arange(num_new, device=device)
        known = (torch.arange(num_kept, device=device) < starts)[:, None].expand(-1, num_new, -1)
        causal = (new <= new[:, None]).expand(len(batch), -1, -1)
        tails = [row.ids[len(each) :] for row, each in zip(batch, kept, strict=True)]
        new_states = parts.transformer(
            input_ids=_padded(tails, device),
            attention_mask=additive_mask(torch.cat([known, causal], dim=-1), states.dtype)[:, None],
            position_ids=(starts + new).minimum(ends - 1),  # padding stays within the positions
            past_key_values=SlotCache(slots),
            use_cache=True,
        ).last_hidden_state
        # New tokens stand behind the longest of what is kept: close the gaps.
        wanted = torch.arange(int(ends.max()), device=device).expand(len(batch), -1)
        places = torch.where(wanted < starts, wanted, wanted - starts + num_kept)
        places = places.clamp(max=num_kept + num_new - 1)
        shown = [layer.show() for layer in slots]
        layers = [(_taken(keys, places, 2), _taken(values, places, 2)) for keys, values in shown]
        states = _taken(torch.cat([states, new_states], dim=1), places, 1)
    return _Reading(
        keys=[keys for keys, _ in layers], values=[values for _, values in layers], states=states
    )


def _side_by_side(rows: Sequence[Tensor]) -> Tensor:
    """Rows of shape (heads, tokens, size) as one of (rows, heads, longest, size)."""
    return pad_sequence([row.transpose(0, 1) for row in rows], batch_first=True).transpose(1, 2)


def _taken(states: Tensor, places: Tensor, dim: int) -> Tensor:
    """For each row the places, shape (rows, count), along a dimension."""
    shape = [len(states), *[1] * (states.ndim - 1)]
    shape[dim] = -1
    index = places.view(shape)
    return states.gather(dim, index.expand(*states.shape[:dim], -1, *states.shape[dim + 1 :]))


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Ids of shape (rows, longest), filled up on the right."""
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids.to(device)


def _with_room(states: Tensor, num_new: int) -> Tensor:
    rows, heads, slots, size = states.shape
    buffer = states.new_empty((rows, heads, slots + num_new, size))
    buffer[:, :, :slots] = states
    return buffer


def other_attention(config: PreTrainedConfig) -> str | None:
    """What layers have that is not full attention; None if all have that."""
    other = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if other:
        return str(sorted(other))
    # Configs that predate layer_types say it by a window alone.
    if not hasattr(config, "layer_types") and getattr(config, "sliding_window", None):
        return f"sliding_window={config.sliding_window!r}"
    return None


def _refuse_unsupported(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    found = other_attention(config)
    if found:
        raise ModelError(
            f"{model.name_or_path!r}: every layer must have full attention to share prefixes, got "
            f"{found}; use a model without sliding or linear attention"
        )
    scalers = [name for name in _LOGIT_SCALERS if getattr(config, name, None) not in (None, 1.0)]
    if scalers:
        raise ModelError(
            f"{model.name_or_path!r}: logits must be the output embedding of the last state, but "
            f"the config has {', '.join(scalers)}; use a model without"
        )
