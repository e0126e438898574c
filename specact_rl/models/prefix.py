"""Keys and values of rollouts, computed once and shared by all steps, samples and candidates.

A rollout's conversation goes through the transformer once; each of its steps then attends to the
first `prompt length` slots of it. Nothing here knows of actions, candidates or sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from specact_rl.errors import ModelError
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
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values so far."""
        start, self._num_slots = self._num_slots, self._num_slots + key_states.shape[-2]
        self._key_buffer[:, :, start : self._num_slots] = key_states
        self._value_buffer[:, :, start : self._num_slots] = value_states
        return self._show()

    def select(self, rows: Tensor) -> None:
        """Keep these rows only."""
        self._key_buffer, self._value_buffer = self._key_buffer[rows], self._value_buffer[rows]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
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
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    of_slot = 2 * config.num_hidden_layers * heads * size * value_bytes
    return max(1, (CACHE_BYTES if memory is None else memory // 4) // int(of_slot))


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside, the layers of an adapter left in place.

    Raises:
        ValueError: There is none.
    """
    inner: object = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if not isinstance(inner, PreTrainedModel):
        raise ValueError(f"expected a transformers model, got {type(inner).__name__}")
    return inner


def prefix_batches(parts: ModelParts, prompts: Sequence[StepPrompt]) -> Iterator[PrefixBatch]:
    """Run each rollout's conversation through the transformer once, a few rollouts at a time.

    Prompts of the same `RolloutTokens` object share a row; nothing after the last of them is
    computed. Rows are sorted by length, and a batch has at most MAX_PREFIX_TOKENS (or one row).
    """
    rows: dict[tuple[int, int], list[int]] = {}
    for position, prompt in enumerate(prompts):
        shared = prompt.tokens.prompt_lengths[prompt.index] is not None
        rows.setdefault((id(prompt.tokens), -1 if shared else position), []).append(position)
    lengths = [len(prompt.ids) for prompt in prompts]
    if 0 in lengths:
        raise ValueError(f"a prompt must have a token, prompt {lengths.index(0)} has none")
    ordered = sorted(rows.values(), key=lambda row: max(lengths[p] for p in row), reverse=True)
    batch: list[list[int]] = []
    for row in ordered:
        longest = max(lengths[p] for p in (batch[0] if batch else row))
        if batch and (len(batch) + 1) * longest > MAX_PREFIX_TOKENS:
            yield _prefix_batch(parts, prompts, lengths, batch)
            batch = []
        batch.append(row)
    if batch:
        yield _prefix_batch(parts, prompts, lengths, batch)


def num_cached_tokens(prompts: Sequence[StepPrompt]) -> list[int]:
    """Per prompt, how many of its tokens an earlier prompt of the same rollout has paid for.

    A rollout is paid for in order of length: the shortest of its prompts pays all, each later one
    what lies beyond the one before. The unpaid rest sums to the tokens computed.
    """
    lengths = [len(prompt.ids) for prompt in prompts]
    paid: dict[int, int] = {}
    cached = [0] * len(prompts)
    for position in sorted(range(len(prompts)), key=lengths.__getitem__):
        prompt = prompts[position]
        if prompt.tokens.prompt_lengths[prompt.index] is not None:
            cached[position] = paid.get(id(prompt.tokens), 0)
            paid[id(prompt.tokens)] = lengths[position]
    return cached


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Zero where attention is allowed, the lowest number of `dtype` elsewhere.

    Additive since eager attention adds the mask and sdpa takes it as it is.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


@torch.inference_mode()
def _prefix_batch(
    parts: ModelParts,
    prompts: Sequence[StepPrompt],
    lengths: Sequence[int],
    batch: Sequence[Sequence[int]],
) -> PrefixBatch:
    longest = [max(row, key=lengths.__getitem__) for row in batch]
    device = parts.transformer.device
    input_ids = torch.zeros((len(batch), max(lengths[p] for p in longest)), dtype=torch.long)
    for i, position in enumerate(longest):
        input_ids[i, : lengths[position]] = torch.tensor(prompts[position].ids)
    cache = DynamicCache()
    # Padding is on the right, so that causal attention hides it without a mask.
    states = parts.transformer(
        input_ids=input_ids.to(device), past_key_values=cache, use_cache=True
    ).last_hidden_state
    positions = [position for row in batch for position in row]
    rows = [i for i, row in enumerate(batch) for _ in row]
    ends = [lengths[position] - 1 for position in positions]
    layers = [(keys, values) for keys, values, _ in cache]
    return PrefixBatch(
        positions=positions,
        rows=rows,
        lengths=[end + 1 for end in ends],
        keys=[keys for keys, _ in layers],
        values=[values for _, values in layers],
        hidden=states[rows, ends],
    )


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
