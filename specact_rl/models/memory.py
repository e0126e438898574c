"""How much device memory a training, writing or scoring takes, by arithmetic on a config.

Counts what PyTorch's allocator hands out at the worst moment of a step
(`torch.cuda.max_memory_allocated`). Beside that a device holds the CUDA context (about half a GB)
and what the allocator keeps in reserve. Knows no device and loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedConfig

from specact_rl.errors import ModelError

Head = Literal["fused", "logits", "labels"]
"""How the loss reads the output embedding. fused: in tiles, as TRL's SFT and DPO trainers; logits:
all of it at once, as a plain transformers model with labels; labels: not at all, as a classifier,
whose own head is too small to count."""

# Tokens and vocabulary of TRL's tile (trl.kernels.chunked_logprob, trl.trainer.utils).
_TILE = (4_096, 32_768)

_BF16, _FP32 = 2, 4
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight: four bits, a byte for each 64 and, of these quantised again, four for each
256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Bytes at the worst moment of a training step, by what they are for."""

    weights: int
    """Of the frozen model."""
    adapters: int
    gradients: int
    """Of the adapters."""
    optimizer: int
    """AdamW's two moments."""
    activations: int
    """What all layers keep from the forward for the backward pass; with checkpointing, their
    inputs."""
    working: int
    """What the busiest stage, one layer or the loss, holds on top."""

    @property
    def total(self) -> int:
        """All of it."""
        kept = self.weights + self.adapters + self.gradients + self.optimizer
        return kept + self.activations + self.working


def training_memory(
    config: PreTrainedConfig,
    *,
    batch_size: int,
    length: int,
    lora_r: int | None,
    load_in_4bit: bool,
    activation_checkpointing: bool,
    head: Head = "fused",
) -> TrainingMemory:
    """Memory of training adapters on all linear layers but the output embedding, in bf16 autocast.

    Without adapters, of training all weights in float32, with no autocast.

    The frozen weights are bf16, or nf4 quantised twice with the embedding left in bf16. Adapters
    are what TRL makes of them: float32 over bf16 weights, bf16 over nf4. Attention is sdpa without
    a mask, which rows of one length have: padding adds a mask and, per layer, a copy of keys and
    values for each query head.

    Args:
        config: Of a Qwen3.
        batch_size: Rows of a forward pass (per_device_train_batch_size); accumulated batches come
            one after the other and add nothing.
        length: Tokens of a row, all of them under the loss.
        lora_r: Rank of the adapters; None trains all weights.
        load_in_4bit: nf4 instead of bf16.
        activation_checkpointing: Layers are computed again in the backward pass.
        head: How the loss is computed.

    Raises:
        ModelError: Another architecture than Qwen3.
    """
    shape = _Shape.of(config)
    tokens = batch_size * length
    if lora_r is None:
        return _full_training(config, tokens, activation_checkpointing, head)
    adapter_dtype = _BF16 if load_in_4bit else _FP32
    num_adapter = num_adapter_params(config, lora_r)
    layer = _layer_activations(shape, lora_r, load_in_4bit)
    cast_adapters = 0 if load_in_4bit else num_adapter * _BF16  # autocast's copies of float32
    in_layer = tokens * _layer_gradients(shape, load_in_4bit)
    if activation_checkpointing:
        kept = tokens * shape.layers * shape.hidden * _BF16
        in_layer += tokens * layer + cast_adapters // shape.layers
    else:
        kept = tokens * shape.layers * layer + cast_adapters
    if load_in_4bit:  # one weight at a time as bf16
        in_layer += max(rows * columns for rows, columns in shape.matrices) * _BF16
    return TrainingMemory(
        weights=weight_bytes(config, load_in_4bit=load_in_4bit),
        adapters=num_adapter * adapter_dtype,
        gradients=num_adapter * adapter_dtype,
        optimizer=num_adapter * 2 * adapter_dtype,
        activations=kept,
        working=max(in_layer, _loss_bytes(shape, tokens, head)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceMemory:
    """Bytes at the worst moment of writing or scoring, by what they are for."""

    weights: int
    kv_cache: int
    """Keys and values: of the rollouts that are read at a time, and of the rows that go on."""
    working: int
    """What the busiest stage, one layer or the output, holds on top."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.working


def inference_memory(
    config: PreTrainedConfig,
    *,
    value_bytes: int,
    num_prefix_tokens: int,
    num_rows: int,
    num_slots: int,
    num_new: int,
    num_logits: int,
    bytes_per_logit: int,
) -> InferenceMemory:
    """Memory of rows that go on after rollouts which were read once (`models.prefix`).

    Args:
        config: Of a Qwen3.
        value_bytes: Of a weight, key or activation: 2 in bf16, 4 in float32.
        num_prefix_tokens: Of the rollouts that are read at a time, padding included.
        num_rows: That go on together.
        num_slots: Tokens of a row's prefix.
        num_new: Tokens that a row has room for after it.
        num_logits: Numbers over the vocabulary that are held at a time.
        bytes_per_logit: What each takes with all that is made of it.

    Raises:
        ModelError: Another architecture than Qwen3.
    """
    shape = _Shape.of(config)
    row_tokens = num_rows * (num_slots + num_new)
    per_token = kv_cache_bytes(config, 1) // _BF16 * value_bytes
    of_rows = row_tokens * per_token
    # The rollouts are read before there are rows, in whose place the activations may stand.
    reading = num_prefix_tokens * (3 * shape.inner + 2 * shape.hidden) * value_bytes - of_rows
    # Under a mask, sdpa is given a copy of keys and values for each query head.
    going_on = row_tokens * 2 * shape.queries * value_bytes
    return InferenceMemory(
        weights=num_weights(config) * value_bytes,
        kv_cache=num_prefix_tokens * per_token + of_rows,
        working=max(reading, going_on, num_logits * bytes_per_logit),
    )


def weight_bytes(config: PreTrainedConfig, *, load_in_4bit: bool) -> int:
    """Bytes of a causal LM's weights in bf16, or with its layers' matrices in nf4.

    Raises:
        ModelError: Another architecture than Qwen3.
    """
    in_matrices = num_linear_params(config)
    others = num_weights(config) - in_matrices
    return round(in_matrices * (_NF4 if load_in_4bit else _BF16)) + others * _BF16


def num_weights(config: PreTrainedConfig) -> int:
    """Parameters of a causal LM; a tied embedding once.

    Raises:
        ModelError: Another architecture than Qwen3.
    """
    shape = _Shape.of(config)
    embeddings = shape.num_embeddings * shape.vocabulary * shape.hidden
    # Two norms and those of queries and keys in each layer, and the last one.
    norms = shape.layers * 2 * (shape.hidden + shape.head_dim) + shape.hidden
    return num_linear_params(config) + embeddings + norms


def num_linear_params(config: PreTrainedConfig) -> int:
    """Parameters of the linear layers but the output embedding: what is quantised and adapted.

    Raises:
        ModelError: Another architecture than Qwen3.
    """
    shape = _Shape.of(config)
    return shape.layers * sum(rows * columns for rows, columns in shape.matrices)


def num_adapter_params(config: PreTrainedConfig, lora_r: int) -> int:
    """Parameters of LoRA on all linear layers but the output embedding.

    Raises:
        ModelError: Another architecture than Qwen3.
    """
    shape = _Shape.of(config)
    return shape.layers * lora_r * sum(rows + columns for rows, columns in shape.matrices)


def kv_cache_bytes(config: PreTrainedConfig, num_tokens: int) -> int:
    """Keys and values of so many tokens in bf16, over all layers.

    Raises:
        ModelError: Another architecture than Qwen3.
    """
    shape = _Shape.of(config)
    return num_tokens * shape.layers * 2 * shape.keys * _BF16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What is needed of a config."""

    layers: int
    hidden: int
    inner: int
    """Width of the feed-forward part."""
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
    num_embeddings: int
    """1 where input and output share one."""

    @classmethod
    def of(cls, config: PreTrainedConfig) -> _Shape:
        """Read a Qwen3's config, refuse others."""
        if config.model_type != "qwen3":
            raise ModelError(
                "memory is estimated for the qwen3 architecture (dense), got a config of "
                f"{config.model_type!r}; measure torch.cuda.max_memory_allocated of a few steps "
                "instead"
            )
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            vocabulary=config.vocab_size,
            num_embeddings=1 if config.tie_word_embeddings else 2,
        )

    @property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys, and of all values."""
        return self.key_heads * self.head_dim

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of a layer's linear layers: q, k, v, o, gate, up, down."""
        hidden, inner = self.hidden, self.inner
        attention = [(self.queries, hidden), (self.keys, hidden), (self.keys, hidden)]
        feed_forward = [(inner, hidden), (inner, hidden), (hidden, inner)]
        return [*attention, (hidden, self.queries), *feed_forward]


def _full_training(
    config: PreTrainedConfig, tokens: int, activation_checkpointing: bool, head: Head
) -> TrainingMemory:
    """All weights trained in float32."""
    shape = _Shape.of(config)
    hidden, inner, queries, keys = shape.hidden, shape.inner, shape.queries, shape.keys
    # Norms keep their input, what it is after division, and their output where a matrix reads it.
    norms = 2 * 3 * hidden + 2 * (queries + keys)
    attention = 2 * queries + 2 * keys
    layer = (norms + attention + 4 * inner + 2 * shape.heads + shape.key_heads + 2) * _FP32
    # Gradients in the feed-forward part, and a matrix's new one beside what there was of it.
    in_layer = tokens * (inner + 3 * hidden) * _FP32
    in_layer += max(rows * columns for rows, columns in shape.matrices) * _FP32
    if activation_checkpointing:
        kept = tokens * shape.layers * hidden * _FP32
        in_layer += tokens * layer
    else:
        kept = tokens * shape.layers * layer
    weights = num_weights(config) * _FP32
    return TrainingMemory(
        weights=weights,
        adapters=0,
        gradients=weights,
        optimizer=2 * weights,
        activations=kept,
        working=max(in_layer, _loss_bytes(shape, tokens, head)),
    )


def _layer_activations(shape: _Shape, lora_r: int, load_in_4bit: bool) -> int:
    """Bytes per token that a layer keeps for its backward pass."""
    hidden, inner, queries, keys = shape.hidden, shape.inner, shape.queries, shape.keys
    # Each float32 adapter has a copy of its input, cast to float32 and back. In bf16 q, k and v
    # read one tensor, so do gate and up; o reads attention's output.
    copies = sum(columns for _, columns in shape.matrices)
    inputs = 2 * hidden + inner if load_in_4bit else copies
    norms = 2 * hidden + queries + keys
    attention = 2 * queries + 2 * keys  # queries, keys, values and the output
    feed_forward = 3 * inner  # gate, its activation, and up
    bf16 = inputs + attention + feed_forward + 7 * lora_r
    # Roots of the norms and the softmax's normalisers are one number a row or head.
    fp32 = norms + (2 + shape.heads + shape.key_heads) + shape.heads
    return bf16 * _BF16 + fp32 * _FP32


def _layer_gradients(shape: _Shape, load_in_4bit: bool) -> int:
    """Bytes per token of gradients that are alive where the feed-forward part is differentiated."""
    hidden, inner = shape.hidden, shape.inner
    if load_in_4bit:  # of gate and up, and what came into the layer
        return (2 * inner + hidden) * _BF16
    # Those of gate and up, and their product; of the hidden size, float32 from two adapters
    return (3 * inner + hidden) * _BF16 + 2 * hidden * _FP32


def _loss_bytes(shape: _Shape, tokens: int, head: Head) -> int:
    """Bytes behind the layers, up to the gradient that goes back into them."""
    hidden, vocabulary = shape.hidden, shape.vocabulary
    # Float32 in the last norm and the state that comes out of it.
    states = tokens * hidden * (_FP32 + _BF16)
    if head == "labels":
        return states + tokens * hidden * (3 * _FP32 + _BF16)
    if head == "logits":  # log-softmax, the gradient of it, and that of the logits, in float32
        return states + tokens * vocabulary * 3 * _FP32
    tile = min(tokens, _TILE[0]) * min(vocabulary, _TILE[1]) * _BF16
    # A copy of the states under the loss, and its gradient in float32, then bf16; once the tile is
    # gone, the norm's gradients in float32.
    in_tiles = tokens * hidden * (_BF16 + _FP32 + _BF16) + tile
    return states + max(in_tiles, tokens * hidden * (3 * _FP32 + _BF16))
